// Encoders that are opened from folders and run: against doubles, against themselves, and what they refuse to run.
#include <bitmill/model/encoder_model.hpp>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory_resource>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/mill/mill.hpp>

#include <encoder_models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::encoder_model;
using bitmill::error_code;

namespace {

const std::vector<std::vector<std::int32_t>> some_sentences{
    {5, 9, 31, 2}, {7}, {1, 1, 59, 58, 57, 3, 3, 12, 20, 33, 4, 8, 15, 16, 23, 42}, {0, 59}};

encoder_model open(const std::string& path, const bitmill::model_options& options = {}) {
    return encoder_model::open(path, options).value();
}

reals expect(const reference_encoder& truth, const std::vector<std::vector<std::int32_t>>& all) {
    reals out;
    for (const auto& one : all) {
        const reals x = truth.hidden(one);
        out.insert(out.end(), x.begin(), x.end());
    }
    return out;
}

}  // namespace

TEST_CASE("the families compute what their formulas say, with any prefix and the old names of norms") {
    // SHARE(1e-5)
    for (const std::string family : {"bert", "roberta", "xlm-roberta", "distilbert"})
        for (const std::string prefix : {"", "own", "model."})
            for (const bool old : {false, true}) {
                CAPTURE(family);
                CAPTURE(prefix);
                encoder_shape shape = shape_of(family);
                shape.prefix = prefix != "own" ? prefix : family == "xlm-roberta" ? "roberta." : family + ".";
                shape.old_norms = old;
                const temp_folder temp(memory_parent());
                put_encoder(temp / "m", shape);
                const auto model = open(temp / "m");
                const reference_encoder truth(shape, read_tensors(temp / "m"));
                CHECK(difference(hidden_of(model, sentences(some_sentences)), expect(truth, some_sentences)) <
                      1e-5);
                CHECK(model.facts().model_type == family);
                CHECK(model.facts().effective == "original");
                CHECK(model.facts().max_tokens == (shape.from_pad() ? 38u : 40u));
                CHECK(model.facts().weight_bytes > 0);
                CHECK(model.facts().warnings.empty());
            }
}

TEST_CASE("token types, of 16 bits and of 64 as well") {
    for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::f64}) {
        CAPTURE(bitmill::facts(type).name);
        encoder_shape shape;
        shape.type = type;
        const temp_folder temp(memory_parent());
        put_encoder(temp / "m", shape);
        const auto model = open(temp / "m");
        const std::vector<std::int32_t> ids{4, 8, 15, 16, 23}, types{0, 0, 1, 1, 1};
        const std::vector<std::uint32_t> lengths{5};
        std::vector<float> out(5 * shape.hidden);
        model.hidden({ids, types, lengths}, out).value();
        CHECK(difference(out, reference_encoder(shape, read_tensors(temp / "m")).hidden(ids, types)) < 1e-5);
        CHECK(model.facts().warnings.empty() == (type != dtype::f64));
    }
}

TEST_CASE("heads: the classes of a sequence, a single one as of a reranker") {
    for (const std::string family : {"bert", "roberta", "xlm-roberta", "distilbert"})
        for (const std::size_t labels : {1u, 5u}) {
            CAPTURE(family);
            encoder_shape shape = shape_of(family);
            shape.prefix = family == "xlm-roberta" ? "roberta." : family + ".";
            shape.labels = labels;
            const temp_folder temp(memory_parent());
            put_encoder(temp / "m", shape);
            const auto model = open(temp / "m");
            CHECK(model.facts().labels == labels);
            const reference_encoder truth(shape, read_tensors(temp / "m"));
            reals expected;
            for (const auto& one : some_sentences)
                for (const double x : truth.logits(one)) expected.push_back(x);
            CHECK(difference(logits_of(model, sentences(some_sentences)), expected) < 1e-5);
        }
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    std::vector<float> out(1);
    const auto none = open(temp / "m").logits(sentences({std::vector<std::int32_t>{1}}).batch(), out);
    REQUIRE_FALSE(none);
    CHECK(none.error().code == error_code::unsupported);
}

TEST_CASE("pooling as sentence-transformers' modules say it") {
    const encoder_shape shape;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    const reference_encoder truth(shape, read_tensors(temp / "m"));
    const auto pooled = [&](const std::string& mode, bool normalize) {
        reals out;
        for (const auto& one : some_sentences) {
            const reals x = truth.hidden(one);
            reals v(shape.hidden, mode == "max" ? -1e9 : 0.0);
            const std::size_t last = one.size() - 1;
            for (std::size_t t = 0; t < one.size(); ++t)
                for (std::size_t i = 0; i < shape.hidden; ++i) {
                    const double here = x[t * shape.hidden + i];
                    if (mode == "mean") v[i] += here / static_cast<double>(one.size());
                    if (mode == "max") v[i] = std::max(v[i], here);
                    if ((mode == "cls" && t == 0) || (mode == "last" && t == last)) v[i] = here;
                }
            double norm = 0;
            for (const double c : v) norm += c * c;
            for (double& c : v) c /= normalize ? std::sqrt(norm) : 1;
            out.insert(out.end(), v.begin(), v.end());
        }
        return out;
    };
    const auto modules = [&](const std::string& list) {
        put_file(temp / "m/modules.json", "[" + list + "]");
    };
    const std::string transformer =
        R"({"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"})";
    const std::string pool = R"(, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})";
    const std::string unit = R"(, {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})";
    CHECK(difference(embed_of(open(temp / "m"), sentences(some_sentences)), pooled("mean", false)) < 1e-5);

    const struct {
        const char* config;
        const char* mode;
    } table[] = {
        {R"({"word_embedding_dimension": 48, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true})",
         "mean"},
        {R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false})", "cls"},
        {R"({"pooling_mode_max_tokens": true})", "max"},
        {R"({"pooling_mode_lasttoken": true, "include_prompt": true})", "last"},
        {R"({"embedding_dimension": 48, "pooling_mode": "mean"})", "mean"},
        {R"({"pooling_mode": "lasttoken"})", "last"},
        {R"({"pooling_mode": ["cls"]})", "cls"},
    };
    for (const auto& [config, mode] : table)
        for (const bool normalize : {false, true}) {
            CAPTURE(config);
            modules(transformer + pool + (normalize ? unit : ""));
            put_file(temp / "m/1_Pooling/config.json", config);
            const auto model = open(temp / "m");
            CHECK(std::string(bitmill::to_text(model.facts().pooling)) == mode);
            CHECK(model.facts().normalize == normalize);
            CHECK(difference(embed_of(model, sentences(some_sentences)), pooled(mode, normalize)) < 1e-5);
        }

    // What embed() cannot do, hidden() still can.
    const auto refused = [&](const std::string& word) {
        const auto model = open(temp / "m");
        std::vector<float> out(48);
        const auto done = model.embed(sentences({std::vector<std::int32_t>{3}}).batch(), out);
        REQUIRE_FALSE(done);
        CHECK(done.error().code == error_code::unsupported);
        CHECK_MESSAGE(done.error().text().find(word) != std::string::npos, done.error().text());
        CHECK(model.hidden(sentences({std::vector<std::int32_t>{3}}).batch(), out));
    };
    put_file(temp / "m/1_Pooling/config.json",
             R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true})");
    refused("cls_token, mean_tokens");
    put_file(temp / "m/1_Pooling/config.json", R"({"pooling_mode": "weightedmean"})");
    refused("weightedmean");
    modules(transformer + pool + R"(, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})");
    refused("Dense");
    put_file(temp / "m/1_Pooling/config.json", R"({"word_embedding_dimension": 47, "pooling_mode": "cls"})");
    CHECK(encoder_model::open(temp / "m").error().code == error_code::bad_input);
    std::filesystem::remove(temp / "m/1_Pooling/config.json");
    CHECK(encoder_model::open(temp / "m").error().code == error_code::bad_input);
}

TEST_CASE("bits do not depend on threads, batch, order or instruction set") {
    encoder_shape shape;
    shape.hidden = 128;
    shape.heads = 4;
    shape.inner = 256;
    shape.labels = 3;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    (void)bitmill::quantize(temp / "m", temp / "m8", bitmill::mill_options{}).value();
    auto reversed = some_sentences;
    std::reverse(reversed.begin(), reversed.end());
    const std::string before = bitmill::isa();
    for (const auto* folder : {"m", "m8"})
        for (const auto activation : {bitmill::activation::floating, bitmill::activation::dynamic_int8}) {
            CAPTURE(folder);
            bitmill::model_options options;
            options.activation = activation;
            options.threads = 1;
            const auto truth = open(temp / folder, options);
            const auto vectors = embed_of(truth, sentences(some_sentences));
            const auto classes = logits_of(truth, sentences(some_sentences));
            for (const unsigned threads : {2u, 3u, 7u}) {
                options.threads = threads;
                CHECK(embed_of(open(temp / folder, options), sentences(some_sentences)) == vectors);
            }
            std::vector<float> backwards = embed_of(truth, sentences(reversed));
            for (std::size_t i = 0; i < some_sentences.size(); ++i) {
                const auto* one = vectors.data() + i * shape.hidden;
                CHECK(std::equal(one, one + shape.hidden,
                                 backwards.data() + (some_sentences.size() - 1 - i) * shape.hidden));
                const auto alone = embed_of(truth, sentences({some_sentences[i]}));
                CHECK(std::equal(one, one + shape.hidden, alone.data()));
                const auto logits = logits_of(truth, sentences({some_sentences[i]}));
                CHECK(std::equal(logits.begin(), logits.end(), classes.data() + i * shape.labels));
            }
            for (const auto& name : bitmill::isa_available()) {
                CAPTURE(name);
                bitmill::set_isa(name).value();
                CHECK(embed_of(open(temp / folder, options), sentences(some_sentences)) == vectors);
                CHECK(embed_of(truth, sentences(some_sentences)) == vectors);
            }
            bitmill::set_isa(before).value();
        }
}

TEST_CASE("a table of embeddings that is not loaded: its rows are read where they lie") {
    encoder_shape shape;
    shape.vocabulary = 70000;
    shape.hidden = 16;
    shape.heads = 2;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    const auto model = open(temp / "m");
    CHECK(model.facts().weight_bytes < 1u << 20);
    const std::vector<std::vector<std::int32_t>> all{{69999, 0, 35000}, {12345}};
    const reference_encoder truth(shape, read_tensors(temp / "m"));
    CHECK(difference(hidden_of(model, sentences(all)), expect(truth, all)) < 1e-5);
    // A file that became shorter is an error of the call, not a crash.
    std::filesystem::resize_file(temp / "m/model.safetensors", 1u << 20);
    std::vector<float> out(16);
    const auto done = model.hidden(sentences({std::vector<std::int32_t>{69999}}).batch(), out);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == error_code::bad_input);
    CHECK(done.error().tensor == "embeddings.word_embeddings.weight");
}

TEST_CASE("a model in shards") {
    const encoder_shape shape;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    put_sharded_model(temp / "s", tensors_of(shape));
    put_file(temp / "s/config.json", config_of(shape));
    const auto model = open(temp / "s");
    CHECK(hidden_of(model, sentences(some_sentences)) ==
          hidden_of(open(temp / "m"), sentences(some_sentences)));
    CHECK(model.facts().file_bytes ==
          std::filesystem::file_size(temp / "s/model-00001-of-00002.safetensors") +
              std::filesystem::file_size(temp / "s/model-00002-of-00002.safetensors"));
}

TEST_CASE("a batch that does not fit together is refused") {
    const encoder_shape shape;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    const auto model = open(temp / "m");
    using ids = std::vector<std::int32_t>;
    using lengths = std::vector<std::uint32_t>;
    const struct {
        const char* what;
        ids tokens;
        ids types;
        lengths parts;
        std::size_t room;
        const char* word;
    } table[] = {
        {"an empty sequence", {1, 2}, {}, {2, 0}, 96, "sequence 1 is empty"},
        {"lengths that are too long", {1, 2}, {}, {3}, 96, "add up to 3"},
        {"lengths that are too short", {1, 2}, {}, {1}, 96, "add up to 1"},
        {"a long sequence", ids(41, 1), {}, {41}, 41 * 48, "up to 40"},
        {"an id too large", {1, 60}, {}, {2}, 96, "id 60 at token 1"},
        {"an id below 0", {-1}, {}, {1}, 48, "id -1 at token 0"},
        {"a type too large", {1, 2}, {0, 2}, {2}, 96, "token type 2 at token 1"},
        {"too few types", {1, 2}, {0}, {2}, 96, "1 token types for 2 ids"},
        {"too little room", {1, 2}, {}, {2}, 95, "room for 95"},
    };
    for (const auto& [what, tokens, types, parts, room, word] : table) {
        CAPTURE(what);
        std::vector<float> out(room);
        const auto done = model.hidden({tokens, types, parts}, out);
        REQUIRE_FALSE(done);
        CHECK(done.error().code == error_code::invalid_argument);
        CHECK_MESSAGE(done.error().text().find(word) != std::string::npos, done.error().text());
    }
    CHECK(model.hidden({}, {}));
    CHECK(model.embed({}, {}));
}

TEST_CASE("an observer of a model sees its layers until it goes") {
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape_of("distilbert"));
    auto model = open(temp / "m");
    std::vector<std::string> seen;
    model.observe([&](std::string_view layer, const float*, std::size_t rows, std::size_t) {
        CHECK(rows == 23);
        seen.emplace_back(layer);
    });
    const auto watched = embed_of(model, sentences(some_sentences));
    CHECK(seen.size() == 12);
    for (const auto& one : seen) {
        CAPTURE(one);
        CHECK(read_tensors(temp / "m").contains(one + ".weight"));
    }
    CHECK(seen.back() == "transformer.layer.1.ffn.lin2");
    model.observe({});
    CHECK(embed_of(model, sentences(some_sentences)) == watched);
    CHECK(seen.size() == 12);
}

TEST_CASE("an observer sees the head's layers, under their names in the file") {
    for (const std::string family : {"bert", "roberta", "distilbert"}) {
        CAPTURE(family);
        encoder_shape shape = shape_of(family);
        shape.prefix = family + ".";
        shape.labels = 3;
        const temp_folder temp(memory_parent());
        put_encoder(temp / "m", shape);
        auto model = open(temp / "m");
        std::vector<std::string> seen;
        std::vector<float> before_last;
        model.observe([&](std::string_view layer, const float* x, std::size_t rows, std::size_t cols) {
            seen.emplace_back(layer);
            CHECK(cols == (seen.size() % 6 == 0 && seen.size() <= 12 ? shape.inner : shape.hidden));
            if (seen.size() == 14) before_last.assign(x, x + rows * cols);
        });
        (void)logits_of(model, sentences(some_sentences));
        REQUIRE(seen.size() == 14);
        const auto tensors = read_tensors(temp / "m");
        for (const auto& one : seen) {
            CAPTURE(one);
            CHECK(tensors.contains(one + ".weight"));
        }
        CHECK(seen[12] == encoder_writer::head_dense(shape));
        CHECK(seen[13] == encoder_writer::head_out(shape));
        CHECK(before_last.size() == some_sentences.size() * shape.hidden);
    }
}

TEST_CASE("a pad id that no position is counted from may be -1 or null") {
    for (const std::string family : {"bert", "distilbert", "roberta", "xlm-roberta"})
        for (const std::string value : {"-1", "null"}) {
            CAPTURE(family);
            CAPTURE(value);
            const encoder_shape shape = shape_of(family);
            const temp_folder temp(memory_parent());
            put_encoder(temp / "m", shape);
            const auto truth = hidden_of(open(temp / "m"), sentences(some_sentences));
            std::string config = config_of(shape);
            const std::string from = "\"pad_token_id\": " + std::to_string(shape.pad);
            config.replace(config.find(from), from.size(), "\"pad_token_id\": " + value);
            put_file(temp / "m/config.json", config);
            const auto opened = encoder_model::open(temp / "m");
            REQUIRE(static_cast<bool>(opened) != shape.from_pad());
            if (opened) CHECK(hidden_of(*opened, sentences(some_sentences)) == truth);
            if (opened) continue;
            CHECK(opened.error().code == error_code::bad_input);
            CHECK(opened.error().message.find("pad_token_id") == 0);
        }
}

TEST_CASE("a model says how many threads run it") {
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    bitmill::model_options options;
    options.threads = 3;
    CHECK(open(temp / "m", options).facts().threads == 3);
    CHECK(open(temp / "m", options).facts().json().find("\"threads\": 3") != std::string::npos);
}

TEST_CASE("one model runs for several threads at once") {
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    bitmill::model_options options;
    options.threads = 2;
    const auto model = open(temp / "m", options);
    const auto truth = embed_of(model, sentences(some_sentences));
    std::vector<std::vector<float>> got(4);
    {
        std::vector<std::jthread> callers;
        for (auto& mine : got)
            callers.emplace_back([&] {
                for (int i = 0; i < 5; ++i) mine = embed_of(model, sentences(some_sentences));
            });
    }
    for (const auto& mine : got) CHECK(mine == truth);
}

TEST_CASE("threads of the host run the model, and memory of the host that ends is an error") {
    class limited final : public std::pmr::memory_resource {
    public:
        std::atomic<std::int64_t> left{std::int64_t{1} << 40};

    private:
        void* do_allocate(std::size_t bytes, std::size_t alignment) override {
            if ((left -= static_cast<std::int64_t>(bytes)) < 0) throw std::bad_alloc();
            return std::pmr::new_delete_resource()->allocate(bytes, alignment);
        }
        void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override {
            std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
        }
        bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
    };
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    limited memory;
    bitmill::model_options options;
    options.memory = &memory;
    std::atomic<std::size_t> tasks{0};
    options.run = [&](std::size_t count, const bitmill::task_fn& task) {
        tasks += count;
        bitmill::run_parallel(3, count, task);
    };
    const auto model = open(temp / "m", options);
    CHECK(memory.left < (std::int64_t{1} << 40) - 48 * 48 * 16);
    CHECK(embed_of(model, sentences(some_sentences)) ==
          embed_of(open(temp / "m"), sentences(some_sentences)));
    CHECK(tasks > 20);
    memory.left = 2000;
    std::vector<float> out(48);
    const auto done = model.embed(sentences({std::vector<std::int32_t>{1, 2, 3}}).batch(), out);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == error_code::out_of_memory);
    memory.left = std::int64_t{1} << 40;
    CHECK(model.embed(sentences({std::vector<std::int32_t>{1, 2, 3}}).batch(), out));
}
