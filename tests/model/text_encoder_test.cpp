// Text to vectors, scores and classes: against the tokenizer and the encoder by themselves; tests/parity/test_text.py
// compares with sentence-transformers.
#include <bitmill/model/text_encoder.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include <encoder_models.hpp>
#include <io_files.hpp>
#include <letter_tokenizer.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::text_encoder;
using texts = std::vector<std::string_view>;

namespace {

struct folder {
    temp_folder place{memory_parent()};
    std::string path = place / "m";

    explicit folder(const encoder_shape& shape = {}) {
        put_encoder(path, shape);
        put("tokenizer.json", letter_tokenizer());
    }
    void put(const std::string& name, const std::string& text) const { put_file(path + "/" + name, text); }
    [[nodiscard]] text_encoder open() const { return text_encoder::open(path).value(); }
    [[nodiscard]] bitmill::error refused() const {
        const auto opened = text_encoder::open(path);
        REQUIRE_FALSE(opened);
        return opened.error();
    }
};

std::vector<float> embed(const text_encoder& model, const texts& all,
                         const bitmill::text_options& options = {}) {
    std::vector<float> out(all.size() * model.model().facts().embedding_size);
    model.embed(all, out, options).value();
    return out;
}

}  // namespace

TEST_CASE("a text is its tokens") {
    // EXACT
    const folder at;
    const auto model = at.open();
    const texts all{"abc", "", "z a", "hello world"};
    std::vector<std::int32_t> ids;
    std::vector<std::uint32_t> lengths;
    for (const auto text : all) {
        const auto tokens = model.tokenizer().encode(text).value();
        ids.insert(ids.end(), tokens.ids.begin(), tokens.ids.end());
        lengths.push_back(static_cast<std::uint32_t>(tokens.ids.size()));
    }
    CHECK(lengths == std::vector<std::uint32_t>{5, 2, 4, 12});
    std::vector<float> expected(all.size() * 48);
    model.model().embed({ids, {}, lengths}, expected).value();
    CHECK(embed(model, all) == expected);
    CHECK(embed(model, {}).empty());
    for (std::size_t i = 0; i < all.size(); ++i)
        CHECK(embed(model, {all[i]}) ==
              std::vector<float>(expected.begin() + static_cast<std::ptrdiff_t>(i * 48),
                                 expected.begin() + static_cast<std::ptrdiff_t>(i * 48 + 48)));
}

TEST_CASE("more texts than run at once, with progress; cancelled") {
    const folder at;
    const auto model = at.open();
    const std::string text(30, 'q');
    const texts all(900, text);
    std::size_t last = 0, calls = 0;
    bitmill::text_options options;
    options.on_progress = [&](std::size_t done, std::size_t total) {
        CHECK(done > last);
        CHECK(total == 900);
        last = done;
        return ++calls < 100;
    };
    const auto many = embed(model, all, options);
    CHECK(last == 900);
    CHECK(calls > 1);
    const auto one = embed(model, {text});
    for (std::size_t i = 0; i < all.size(); ++i)
        REQUIRE(std::equal(one.begin(), one.end(), many.begin() + static_cast<std::ptrdiff_t>(i * 48)));
    options.on_progress = [](std::size_t, std::size_t) { return false; };
    std::vector<float> room(many.size());
    CHECK(model.embed(all, room, options).error().code == error_code::cancelled);
}

TEST_CASE("lengths: the model's, the tokenizer's, sentence-transformers', the caller's") {
    const folder at;
    CHECK(at.open().facts().max_length == 40);
    at.put("tokenizer_config.json", R"({"model_max_length": 20})");
    CHECK(at.open().facts().max_length == 20);
    at.put("sentence_bert_config.json", R"({"max_seq_length": 30, "do_lower_case": false})");
    CHECK(at.open().facts().max_length == 30);
    at.put("sentence_bert_config.json", R"({"max_seq_length": null})");
    CHECK(at.open().facts().max_length == 20);
    at.put("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
    const auto model = at.open();
    CHECK(model.facts().max_length == 40);
    const std::string text(99, 'b'), eight(8, 'b');
    CHECK(embed(model, {text}) == embed(model, {std::string_view(text).substr(0, 38)}));
    CHECK(embed(model, {text}, {.max_length = 10}) == embed(model, {eight}));
    std::vector<float> room(48);
    const texts one{text};
    CHECK(model.embed(one, room, {.max_length = 1}).error().code == error_code::invalid_argument);
    CHECK(model.embed(one, room, {.max_length = 41}).error().code == error_code::invalid_argument);
    // The folder's length is a default; the model runs more.
    at.put("sentence_bert_config.json", R"({"max_seq_length": 12})");
    CHECK(embed(at.open(), {text}) == embed(model, {text}, {.max_length = 12}));
    CHECK(embed(at.open(), {text}, {.max_length = 40}) == embed(model, {text}));
    for (const char* bad :
         {R"({"max_seq_length": "12"})", R"({"max_seq_length": 0})", R"({"max_seq_length": -3})",
          R"({"max_seq_length": 3.7})", R"({"do_lower_case": "yes"})"}) {
        at.put("sentence_bert_config.json", bad);
        CHECK(at.refused().code == error_code::bad_input);
    }
    for (const char* key : {"tokenizer_args", "processor_kwargs", "config_kwargs", "processing_kwargs"}) {
        at.put("sentence_bert_config.json", std::string("{\"") + key + R"(": {"model_max_length": 6}})");
        CHECK(at.refused().code == error_code::unsupported);
        CHECK(at.refused().message.find(key) != std::string::npos);
        at.put("sentence_bert_config.json", std::string("{\"") + key + R"(": {}})");
        CHECK(embed(at.open(), {text}) == embed(model, {text}));
    }
    at.put("tokenizer_config.json", R"({"truncation_side": "left"})");
    CHECK(at.refused().code == error_code::unsupported);
}

TEST_CASE("prompts: given, by name, the file's default") {
    const folder at;
    at.put("config_sentence_transformers.json",
           R"({"prompts": {"query": "q ", "none": null}, "default_prompt_name": null})");
    const auto model = at.open();
    const auto plain = embed(model, {"abc"}), asked = embed(model, {"q abc"});
    CHECK(plain != asked);
    CHECK(embed(model, {"abc"}, {.prompt = "q "}) == asked);
    CHECK(embed(model, {"abc"}, {.prompt_name = "query"}) == asked);
    CHECK(embed(model, {"abc"}, {.prompt_name = "none"}) == plain);
    std::vector<float> room(48);
    const texts one{"abc"};
    const auto unknown = model.embed(one, room, {.prompt_name = "title"});
    CHECK(unknown.error().code == error_code::invalid_argument);
    CHECK(unknown.error().message.find("it has none, query") != std::string::npos);
    at.put("config_sentence_transformers.json",
           R"({"prompts": {"query": "q "}, "default_prompt_name": "query"})");
    CHECK(embed(at.open(), {"abc"}) == asked);
    CHECK(embed(at.open(), {"abc"}, {.prompt = ""}) == plain);
    at.put("config_sentence_transformers.json", R"({"prompts": {}, "default_prompt_name": "query"})");
    CHECK(at.refused().code == error_code::bad_input);
    at.put("config_sentence_transformers.json", R"({"prompts": {"query": 5}})");
    CHECK(at.refused().code == error_code::bad_input);
    at.put("config_sentence_transformers.json", R"({"prompts": 5})");
    CHECK(at.refused().code == error_code::bad_input);
    at.put("config_sentence_transformers.json", R"({"truncate_dim": 16})");
    CHECK(at.refused().code == error_code::unsupported);
    at.put("config_sentence_transformers.json", R"({"prompts": {}, "truncate_dim": null})");
    for (const char* name : {"query", "document"})
        CHECK(embed(at.open(), {"abc"}, {.prompt_name = name}) == plain);
}

TEST_CASE("token types are left out where the tokenizer's config leaves them out") {
    encoder_shape shape;
    shape.labels = 1;
    const folder at(shape);
    const texts first{"ab"}, second{"cd e"};
    const auto logit = [&] {
        float out = 0;
        at.open().pair_logits(first, second, std::span(&out, 1)).value();
        return out;
    };
    const float with = logit();
    at.put("tokenizer_config.json",
           R"({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})");
    CHECK(logit() == with);
    at.put("tokenizer_config.json", R"({"model_input_names": ["input_ids", "attention_mask"]})");
    CHECK(logit() != with);
    const auto model = at.open();
    const auto tokens = model.tokenizer().encode(first[0], second[0]).value();
    const std::vector<std::uint32_t> length{static_cast<std::uint32_t>(tokens.ids.size())};
    float expected = 0;
    model.model().logits({tokens.ids, {}, length}, std::span(&expected, 1)).value();
    CHECK(logit() == expected);
}

TEST_CASE("a tokenizer of the folder above is a variant's only") {
    const folder at;
    for (const char* name : {"/int8", "/other"}) {
        put_encoder(at.path + name, {});
        std::filesystem::remove(at.path + name + "/tokenizer.json");
    }
    (void)text_encoder::open(at.path + "/int8").value();
    (void)text_encoder::open(at.path + "/int8/").value();
    CHECK(text_encoder::open(at.path + "/other").error().code == error_code::bad_input);
}

TEST_CASE("documents by falling score, equal ones in their order") {
    // SHARE(1e-6): of the sigmoid
    encoder_shape shape;
    shape.labels = 1;
    const folder at(shape);
    const auto model = at.open();
    const texts documents{"abc", "zzz", "abc", "", "mno pq"};
    const auto ranked = model.rerank("what", documents).value();
    REQUIRE(ranked.size() == documents.size());
    const texts queries(documents.size(), "what");
    std::vector<float> logits(documents.size()), classes(documents.size());
    model.pair_logits(queries, documents, logits).value();
    model.classify(queries, documents, classes).value();
    for (const auto& one : ranked) CHECK(classes[one.index] == one.score);
    std::size_t first_of_two = 9;
    for (std::size_t i = 0; i < ranked.size(); ++i) {
        CHECK(ranked[i].logit == logits[ranked[i].index]);
        CHECK(std::fabs(ranked[i].score - 1 / (1 + std::exp(-double{ranked[i].logit}))) < 1e-6);
        if (i != 0) CHECK(ranked[i - 1].logit >= ranked[i].logit);
        if (documents[ranked[i].index] == "abc")
            first_of_two = std::min(first_of_two, ranked[i].index == 0 ? i : 99);
    }
    CHECK(ranked[first_of_two + 1].index == 2);
    CHECK(model.rerank("what", {}).value().empty());
    CHECK(folder().open().rerank("what", documents).error().code == error_code::unsupported);
    // The second text has token type 1.
    const auto pair = model.tokenizer().encode("a", "b").value();
    CHECK(pair.types == std::vector<std::int32_t>{0, 0, 0, 1, 1});
}

TEST_CASE("classes: shares of one, or each by itself") {
    // SHARE(1e-6)
    encoder_shape shape;
    shape.labels = 3;
    const folder at(shape);
    const texts all{"abc", "xyz xyz"};
    const auto model = at.open();
    CHECK(model.facts().labels == std::vector<std::string>{"LABEL_0", "LABEL_1", "LABEL_2"});
    std::vector<float> logits(6), shares(6);
    for (std::size_t i = 0; i < 2; ++i) {
        const auto tokens = model.tokenizer().encode(all[i]).value();
        const std::vector<std::uint32_t> length{static_cast<std::uint32_t>(tokens.ids.size())};
        model.model().logits({tokens.ids, {}, length}, std::span(logits).subspan(3 * i, 3)).value();
    }
    model.classify(all, shares).value();
    for (std::size_t i = 0; i < 6; ++i) {
        double sum = 0;
        for (std::size_t k = 0; k < 3; ++k) sum += std::exp(double{logits[i / 3 * 3 + k]});
        CHECK(std::fabs(shares[i] - std::exp(double{logits[i]}) / sum) < 1e-6);
    }
    const std::string config = config_of(shape);
    at.put("config.json",
           config.substr(0, config.size() - 1) + R"(, "problem_type": "multi_label_classification"})");
    at.open().classify(all, shares).value();
    for (std::size_t i = 0; i < 6; ++i)
        CHECK(std::fabs(shares[i] - 1 / (1 + std::exp(-double{logits[i]}))) < 1e-6);
    at.put("config.json", config.substr(0, config.size() - 1) + R"(, "problem_type": "regression"})");
    CHECK(at.open().classify(all, shares).error().code == error_code::unsupported);
    std::vector<float> none;
    CHECK(folder().open().classify(all, none).error().code == error_code::unsupported);
}

TEST_CASE("what does not belong together is refused") {
    encoder_shape small;
    small.vocabulary = 55;  // the tokenizer's last id is 55
    const auto what = folder(small).refused();
    CHECK(what.code == error_code::bad_input);
    CHECK(what.message.find("ids up to 55, the model has 55") != std::string::npos);
    const folder at;
    at.put("sentence_bert_config.json", R"({"max_seq_length": 30, "do_lower_case": true})");
    CHECK(at.refused().code == error_code::unsupported);
    at.put("sentence_bert_config.json", "[]");
    CHECK(at.refused().code == error_code::bad_input);
    std::filesystem::remove(at.path + "/sentence_bert_config.json");
    const auto model = at.open();
    std::vector<float> room(47);
    const texts one{"abc"};
    CHECK(model.embed(one, room).error().code == error_code::invalid_argument);
    std::filesystem::remove(at.path + "/tokenizer.json");
    CHECK(at.refused().message.find("has no tokenizer.json") != std::string::npos);
}

TEST_CASE("a tokenizer is shared where its file has the same bytes") {
    const folder at, other;
    const auto first = at.open();
    CHECK(&text_encoder::open(other.path, {}, first).value().tokenizer() == &first.tokenizer());
    other.put("tokenizer.json", letter_tokenizer(20));
    const auto second = text_encoder::open(other.path, {}, first).value();
    CHECK(&second.tokenizer() != &first.tokenizer());
    CHECK(second.tokenizer().encode("z").value().ids != first.tokenizer().encode("z").value().ids);
}
