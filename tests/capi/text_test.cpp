// Texts through the C interface: the same as the C++ library gives, and what is refused.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/model/text_encoder.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

bool says(const bitmill_error& error, const std::string& part) {
    return std::string(error.message).find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("text: tokens with offsets, of a text and of a pair") {
    host h;
    const auto expected = bitmill::tokenizer::open(h.encoder).value().encode("abc", "hello a").value();
    const std::size_t count = expected.ids.size();
    bitmill_tokenizer* tokenizer = nullptr;
    REQUIRE(bitmill_tokenizer_open(h.encoder.c_str(), &tokenizer, &h.error) == BITMILL_OK);
    const char* const pair[] = {"abc", "hello a, and more", "no third"};
    const std::uint64_t bytes[] = {3, 7, 2};  // no NUL behind
    h.texts.data = pair;
    h.texts.bytes = bytes;
    h.texts.count = 2;
    std::vector<std::int32_t> ids(count), types(count);
    std::vector<std::uint32_t> begins(count), ends(count);
    std::vector<std::uint8_t> special(count);
    bitmill_token_sequence counted = BITMILL_TOKEN_SEQUENCE_INIT;
    REQUIRE(bitmill_tokenizer_encode(tokenizer, &h.texts, nullptr, &counted, &h.error) == BITMILL_OK);
    CHECK(counted.count == count);
    bitmill_token_sequence all = BITMILL_TOKEN_SEQUENCE_INIT;
    all.capacity = count;
    all.ids = ids.data();
    all.types = types.data();
    all.begins = begins.data();
    all.ends = ends.data();
    all.special_tokens = special.data();
    REQUIRE(bitmill_tokenizer_encode(tokenizer, &h.texts, nullptr, &all, &h.error) == BITMILL_OK);
    CHECK(ids == expected.ids);
    CHECK(types == expected.types);
    CHECK(special == expected.special_tokens);
    for (std::size_t i = 0; i < count; ++i)
        CHECK(expected.offsets[i] == bitmill::token_span{begins[i], ends[i]});

    all.capacity = count - 1;
    ids.assign(count, 77);
    CHECK(bitmill_tokenizer_encode(tokenizer, &h.texts, nullptr, &all, &h.error) == BITMILL_INVALID_ARGUMENT);
    CHECK(all.count == count);
    CHECK(ids == std::vector<std::int32_t>(count, 77));
    h.texts.count = 3;
    CHECK(bitmill_tokenizer_encode(tokenizer, &h.texts, nullptr, &all, &h.error) == BITMILL_INVALID_ARGUMENT);
    CHECK(all.count == 0);
    h.texts.count = 2;

    h.tokenize_options.max_length = 5;
    CHECK(bitmill_tokenizer_encode(tokenizer, &h.texts, &h.tokenize_options, &all, nullptr) == BITMILL_OK);
    CHECK(all.count == 5);
    h.tokenize_options.no_truncation = 1;
    h.tokenize_options.no_special_tokens = 1;
    CHECK(bitmill_tokenizer_encode(tokenizer, &h.texts, &h.tokenize_options, &all, nullptr) == BITMILL_OK);
    CHECK(all.count == count - 3);
    bitmill_tokenizer_destroy(tokenizer);
    bitmill_tokenizer_destroy(nullptr);
}

TEST_CASE("text: the same floats as the C++ library, with its prompts and its order") {
    host h;
    put_file(h.encoder + "/config_sentence_transformers.json", R"({"prompts": {"query": "ab "}})");
    bitmill_text_encoder* const before = h.text_encoder;
    REQUIRE(bitmill_text_encoder_open(h.encoder.c_str(), nullptr, &h.text_encoder, nullptr) == BITMILL_OK);
    bitmill_text_encoder_destroy(before);
    const auto model = bitmill::text_encoder::open(h.encoder).value();
    const std::vector<std::string_view> words(h.words.begin(), h.words.end());
    std::vector<float> expected(words.size() * encoder_hidden);
    std::uint64_t told = 0;
    h.hooks.progress_context = &told;
    h.hooks.progress = [](void* context, std::uint64_t done, std::uint64_t total) -> std::int32_t {
        *static_cast<std::uint64_t*>(context) = done;
        return done > total;
    };
    for (const char* name : {"", "query"}) {
        h.text_options.prompt_name = name;
        REQUIRE(h.embed_texts() == BITMILL_OK);
        model.embed(words, expected, {.prompt_name = name}).value();
        CHECK(h.results == expected);
    }
    CHECK(told == words.size());
    h.text_options.prompt = "ab ";
    h.text_options.prompt_name = nullptr;
    REQUIRE(h.embed_texts() == BITMILL_OK);
    CHECK(h.results == expected);
    h.text_options.prompt = nullptr;

    expected.resize(words.size() * encoder_labels);
    REQUIRE(h.classify() == BITMILL_OK);
    model.classify(words, expected).value();
    CHECK(h.results == expected);
    REQUIRE(h.pair_logits() == BITMILL_OK);
    model.pair_logits(words, words, expected).value();
    CHECK(h.results == expected);

    const auto ranked = bitmill::text_encoder::open(h.reranker).value().rerank("abc", words).value();
    REQUIRE(h.rerank() == BITMILL_OK);
    for (std::size_t i = 0; i < ranked.size(); ++i) {
        CHECK(h.order[i] == ranked[i].index);
        CHECK(h.results[i] == ranked[i].score);
    }
    CHECK(bitmill_text_encoder_rerank(h.text_encoder, "abc", &h.texts, nullptr, h.order.data(), nullptr,
                                      h.order.size(), &h.error) == BITMILL_UNSUPPORTED);

    std::vector<char> json(4096);
    REQUIRE(bitmill_text_encoder_json(h.text_encoder, json.data(), json.size(), nullptr, nullptr) ==
            BITMILL_OK);
    CHECK(model.facts().json() == json.data());
    REQUIRE(bitmill_model_get_facts(bitmill_text_encoder_model(h.text_encoder), &h.facts, nullptr) ==
            BITMILL_OK);
    CHECK(h.facts.embedding_size == encoder_hidden);
}

TEST_CASE("text: NULL, a dst of another size, a prompt that is not there, cancelling") {
    host h;
    const auto refused = [&](bitmill_status status, const char* words) {
        CHECK(status == BITMILL_INVALID_ARGUMENT);
        CHECK_MESSAGE(says(h.error, words), h.error.message);
    };
    bitmill_error* const e = &h.error;
    float room[3 * encoder_hidden];
    const std::uint64_t count = std::size(room);
    bitmill_tokenizer* tokenizer = nullptr;
    refused(bitmill_tokenizer_open(nullptr, &tokenizer, e), "path is NULL");
    refused(bitmill_tokenizer_open(h.encoder.c_str(), nullptr, e), "tokenizer is NULL");
    refused(bitmill_tokenizer_encode(nullptr, &h.one_text, nullptr, &h.sequence, e), "tokenizer is NULL");
    refused(bitmill_text_encoder_open(h.encoder.c_str(), nullptr, nullptr, e), "encoder is NULL");
    refused(bitmill_text_encoder_embed(nullptr, &h.texts, nullptr, room, count, e), "encoder is NULL");
    refused(bitmill_text_encoder_embed(h.text_encoder, nullptr, nullptr, room, count, e),
            "bitmill_texts is NULL");
    refused(bitmill_text_encoder_embed(h.text_encoder, &h.texts, nullptr, nullptr, count, e), "dst is NULL");
    refused(bitmill_text_encoder_embed(h.text_encoder, &h.texts, nullptr, room, count - 1, e), "room for");
    refused(bitmill_text_encoder_rerank(h.text_reranker, nullptr, &h.texts, nullptr, h.order.data(), nullptr,
                                        3, e),
            "query is NULL");
    refused(bitmill_text_encoder_rerank(h.text_reranker, "a", &h.texts, nullptr, nullptr, nullptr, 3, e),
            "order is NULL");
    std::uint64_t order[4];
    refused(bitmill_text_encoder_rerank(h.text_reranker, "a", &h.texts, nullptr, order, nullptr, 4, e),
            "room for 4");
    refused(bitmill_text_encoder_json(nullptr, nullptr, 0, nullptr, e), "encoder is NULL");
    CHECK(bitmill_text_encoder_model(nullptr) == nullptr);
    CHECK(bitmill_text_encoder_tokenizer(nullptr) == nullptr);
    bitmill_text_encoder_destroy(nullptr);

    h.text_options.prompt_name = "none";
    refused(h.embed_texts(), "no prompt 'none'");
    h.text_options.prompt_name = nullptr;
    h.text_options.prompt_name = "query";
    h.text_options.prompt = "a";
    refused(h.embed_texts(), "both set");
    h.text_options.prompt = h.text_options.prompt_name = nullptr;
    h.texts.count = ~std::uint64_t{0};
    refused(h.embed_texts(), "cannot have");
    h.texts.count = h.words.size();
    CHECK(bitmill_text_encoder_classify(h.text_encoder, &h.texts, nullptr, room, 3, e) ==
          BITMILL_INVALID_ARGUMENT);
    h.words[1] = nullptr;
    refused(h.embed_texts(), "holds a NULL");
    std::uint64_t sizes[] = {3, 0, 2};
    h.texts.bytes = sizes;
    CHECK(h.embed_texts() == BITMILL_OK);  // no bytes need no text
    sizes[1] = 1;
    refused(h.embed_texts(), "holds a NULL");
    h.words[1] = "p";
    h.texts.data = nullptr;
    refused(h.embed_texts(), "texts.data is NULL");
    h.texts.data = h.words.data();
    h.hooks.progress = [](void*, std::uint64_t, std::uint64_t) -> std::int32_t { return 1; };
    CHECK(h.embed_texts() == BITMILL_CANCELLED);

    h.encoder = h.milled;  // no model that runs
    CHECK(h.open_text() == BITMILL_BAD_INPUT);
}
