// Models that run: what is refused, what is told, and that C gives what the C++ library gives.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/model/encoder_model.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

bool says(const bitmill_error& error, const std::string& part) {
    return std::string(error.message).find(part) != std::string::npos;
}

// Memory that counts, and threads that run the last task first.
struct lender {
    std::mutex mutex;
    std::size_t pieces = 0, bytes = 0, peak = 0;
    bool aligned = true;
    std::atomic<unsigned> calls = 0, tasks = 0;

    static void* lend(void* context, std::size_t bytes, std::size_t alignment) {
        auto& self = *static_cast<lender*>(context);
        const std::scoped_lock lock(self.mutex);
        self.aligned = self.aligned && alignment <= 16;
        ++self.pieces;
        self.bytes += bytes;
        self.peak = std::max(self.peak, self.bytes);
        // Aligned to what was asked for and to no more.
        char* block = static_cast<char*>(std::malloc(bytes + 16));
        return block == nullptr ? nullptr : block + (alignment == 16 ? 16 : alignment);
    }
    static void take_back(void* context, void* lent, std::size_t bytes, std::size_t alignment) {
        auto& self = *static_cast<lender*>(context);
        const std::scoped_lock lock(self.mutex);
        --self.pieces;
        self.bytes -= bytes;
        std::free(static_cast<char*>(lent) - (alignment == 16 ? 16 : alignment));
    }
    static void parallel_for(void* context, std::size_t count, void (*task)(void*, std::size_t),
                             void* task_context) {
        auto& self = *static_cast<lender*>(context);
        ++self.calls;
        std::atomic<std::size_t> next = 0;
        const auto work = [&] {
            for (std::size_t i = next++; i < count; i = next++) {
                task(task_context, count - 1 - i);
                ++self.tasks;
            }
        };
        const std::jthread second(work), third(work);
        work();
    }
};

}  // namespace

TEST_CASE("models that run: on the host's memory and threads, with the same floats") {
    host h;
    REQUIRE(h.hidden() == BITMILL_OK);
    const auto expected = h.results;
    lender lent;
    bitmill_model* own = h.running;
    {
        bitmill_hooks hooks = BITMILL_HOOKS_INIT;
        hooks.memory_context = hooks.parallel_context = &lent;
        hooks.allocate = lender::lend;
        hooks.deallocate = lender::take_back;
        hooks.parallel_for = lender::parallel_for;
        h.model_options.hooks = &hooks;
        REQUIRE(bitmill_model_open(h.encoder.c_str(), &h.model_options, &h.running, &h.error) == BITMILL_OK);
        h.model_options.hooks = &h.hooks;
        std::memset(static_cast<void*>(&hooks), 0x55, sizeof hooks);  // the model has its own copy
    }
    constexpr std::size_t weights =
        encoder_layers * 4 * (4 * encoder_hidden * encoder_hidden + 2 * encoder_hidden * encoder_inner);
    CHECK(lent.bytes >= weights);
    const auto calls = lent.calls.load();
    REQUIRE(h.hidden() == BITMILL_OK);
    CHECK(h.results == expected);
    CHECK(lent.calls > calls);
    CHECK(lent.tasks > 0);
    CHECK(lent.aligned);
    bitmill_model_destroy(h.running);
    h.running = own;
    CHECK(lent.pieces == 0);
    CHECK(lent.bytes == 0);
}

TEST_CASE("models that run: the facts are the model's, in the struct and as JSON") {
    host h;
    REQUIRE(h.get_facts() == BITMILL_OK);
    CHECK(h.facts.struct_size == sizeof h.facts);
    CHECK(h.facts.embedding_size == encoder_hidden);
    CHECK(h.facts.hidden_size == encoder_hidden);
    CHECK(h.facts.labels == encoder_labels);
    CHECK(h.facts.layers == encoder_layers);
    CHECK(h.facts.heads == encoder_heads);
    CHECK(h.facts.vocabulary == encoder_vocabulary);
    CHECK(h.facts.token_types == encoder_types);
    CHECK(h.facts.max_tokens == encoder_tokens);
    CHECK(h.facts.file_bytes > 0);
    CHECK(h.facts.weight_bytes > 0);
    CHECK(h.facts.dynamic_int8 + h.facts.normalize == 0);
    CHECK(std::string(h.facts.model_type) == "bert");
    CHECK(std::string(h.facts.effective) == "original");
    CHECK(std::string(h.facts.pooling) == "mean");
    std::size_t bytes = 0;
    REQUIRE(bitmill_model_json(h.running, nullptr, 0, &bytes, nullptr) == BITMILL_OK);
    std::string text(bytes, 'x');
    CHECK(bitmill_model_json(h.running, text.data(), bytes - 1, nullptr, &h.error) ==
          BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "needed are " + std::to_string(bytes)));
    REQUIRE(bitmill_model_json(h.running, text.data(), bytes, nullptr, nullptr) == BITMILL_OK);
    text.pop_back();
    const auto json = nlohmann::json::parse(text);
    CHECK(json.at("path") == h.encoder);
    CHECK(json.at("layers") == encoder_layers);
    CHECK(json.at("warnings").is_array());
}

TEST_CASE("models that run: the same floats as the C++ library, from many threads") {
    host h;
    const auto model = bitmill::encoder_model::open(h.encoder).value();
    const bitmill::token_batch batch{h.ids, {}, h.lengths};
    const auto check = [&](call through, bitmill::result<void> (bitmill::encoder_model::*run)(
                                             const bitmill::token_batch&, std::span<float>) const) {
        REQUIRE((h.*through)() == BITMILL_OK);
        std::vector<float> expected(h.results.size());
        (model.*run)(batch, expected).value();
        CHECK(h.results == expected);
    };
    check(&host::embed, &bitmill::encoder_model::embed);
    check(&host::hidden, &bitmill::encoder_model::hidden);
    check(&host::logits, &bitmill::encoder_model::logits);
    const auto expected = h.results;
    std::vector<std::vector<float>> each(4, std::vector<float>(expected.size()));
    {
        std::vector<std::jthread> threads;
        for (auto& one : each)
            threads.emplace_back([&] {
                for (unsigned i = 0; i < 20; ++i)
                    (void)bitmill_model_logits(h.running, &h.tokens, one.data(), one.size(), nullptr);
            });
    }
    for (const auto& one : each) CHECK(one == expected);
}

TEST_CASE("models that run: types count, and are 0 where they are NULL") {
    host h;
    REQUIRE(h.embed() == BITMILL_OK);
    const auto without = h.results;
    std::vector<std::int32_t> types(h.ids.size(), 0);
    h.tokens.types = types.data();
    REQUIRE(h.embed() == BITMILL_OK);
    CHECK(h.results == without);
    types.assign(types.size(), 1);
    REQUIRE(h.embed() == BITMILL_OK);
    CHECK(h.results != without);
}

TEST_CASE("models that run: a batch that does not fit together is refused") {
    host h;
    const auto refused = [&](const char* what) {
        CAPTURE(what);
        CHECK(h.embed() == BITMILL_INVALID_ARGUMENT);
        CHECK(h.hidden() == BITMILL_INVALID_ARGUMENT);
        CHECK(h.logits() == BITMILL_INVALID_ARGUMENT);
        CHECK(h.error.message[0] != 0);
    };
    const auto tokens = h.tokens;
    h.tokens.ids = nullptr;
    refused("ids is NULL");
    h.tokens = tokens;
    h.tokens.lengths = nullptr;
    refused("lengths is NULL");
    h.tokens = tokens;
    h.tokens.ids_count = 5;
    refused("fewer ids than the lengths say");
    h.tokens = tokens;
    h.tokens.lengths_count = 2;
    refused("fewer lengths than the ids need");
    h.tokens = tokens;
    for (const std::int32_t id : {-1, static_cast<std::int32_t>(encoder_vocabulary), INT32_MAX, INT32_MIN}) {
        std::swap(h.ids[3], const_cast<std::int32_t&>(id));
        refused("an id");
        std::swap(h.ids[3], const_cast<std::int32_t&>(id));
    }
    std::vector<std::int32_t> types(h.ids.size(), 0);
    h.tokens.types = types.data();
    types[5] = encoder_types;
    refused("a type");
    h.tokens = tokens;
    h.lengths = {2, 0, 4};
    h.tokens.lengths = h.lengths.data();
    refused("an empty sequence");
    for (const auto& wrong :
         {std::vector<std::uint32_t>{UINT32_MAX, UINT32_MAX, 8}, {encoder_tokens + 1, 1, 1}}) {
        h.lengths = wrong;
        h.tokens.lengths = h.lengths.data();
        refused("lengths that are not the ids'");
    }
    h.ids.assign(encoder_tokens + 3, 1);
    h.tokens.ids = h.ids.data();
    h.tokens.ids_count = h.ids.size();
    refused("a sequence that is too long");
}

TEST_CASE("models that run: no sequence is a batch, too") {
    host h;
    h.ids.clear();
    h.lengths.clear();
    h.tokens = BITMILL_TOKENS_INIT;
    CHECK(h.embed() == BITMILL_OK);
    CHECK(bitmill_model_embed(h.running, &h.tokens, nullptr, 0, nullptr) == BITMILL_OK);
}

TEST_CASE("models that run: NULL, and a dst of another size") {
    host h;
    bitmill_error* e = &h.error;
    float room[8 * encoder_hidden];
    CHECK(bitmill_model_embed(nullptr, &h.tokens, room, 3 * encoder_hidden, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "model is NULL"));
    CHECK(bitmill_model_embed(h.running, nullptr, room, 3 * encoder_hidden, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_model_embed(h.running, &h.tokens, nullptr, 3 * encoder_hidden, e) ==
          BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "dst is NULL"));
    for (const std::size_t count : {std::size_t{0}, 3 * encoder_hidden - 1, 3 * encoder_hidden + 1}) {
        CHECK(bitmill_model_embed(h.running, &h.tokens, room, count, e) == BITMILL_INVALID_ARGUMENT);
        CHECK(bitmill_model_logits(h.running, &h.tokens, room, count, e) == BITMILL_INVALID_ARGUMENT);
    }
    bitmill_model* model = h.running;
    CHECK(bitmill_model_open(nullptr, nullptr, &model, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(model == nullptr);
    CHECK(bitmill_model_open(h.encoder.c_str(), nullptr, nullptr, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_model_get_facts(nullptr, &h.facts, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(bitmill_model_get_facts(h.running, nullptr, e) == BITMILL_INVALID_ARGUMENT);
    std::size_t needed = 7;
    CHECK(bitmill_model_json(nullptr, nullptr, 0, &needed, e) == BITMILL_INVALID_ARGUMENT);
    CHECK(needed == 0);
    CHECK(bitmill_model_observe(nullptr, nullptr, nullptr, e) == BITMILL_INVALID_ARGUMENT);
    bitmill_model_destroy(nullptr);
}

TEST_CASE("models that run: what cannot be opened is said") {
    host h;
    h.model_options.level = "int3";
    CHECK(h.open() == BITMILL_INVALID_ARGUMENT);
    CHECK(says(h.error, "int3"));
    h.model_options.level = nullptr;
    h.model_options.activation = "int8";
    CHECK(h.open() == BITMILL_INVALID_ARGUMENT);
    h.model_options.activation = nullptr;
    h.encoder = h.folder / "nowhere";
    CHECK(h.open() == BITMILL_IO);
    CHECK(says(h.error, "nowhere"));
    h.encoder = h.source;  // two matrices and no encoder
    CHECK(h.open() == BITMILL_BAD_INPUT);
}

TEST_CASE("models that run: the observer sees every layer's input") {
    host h;
    struct seen {
        std::vector<std::string> layers;
        bool sound = true;
    } all;
    const auto observer = [](void* context, const char* layer, const float* x, std::uint64_t rows,
                             std::uint64_t cols) {
        auto& into = *static_cast<seen*>(context);
        into.layers.emplace_back(layer);
        for (std::uint64_t i = 0; i < rows * cols; ++i) into.sound = into.sound && std::isfinite(x[i]);
        into.sound = into.sound && cols > 0 && rows > 0;
    };
    REQUIRE(h.embed() == BITMILL_OK);
    const auto expected = h.results;
    REQUIRE(bitmill_model_observe(h.running, observer, &all, nullptr) == BITMILL_OK);
    REQUIRE(h.embed() == BITMILL_OK);
    CHECK(h.results == expected);
    CHECK(all.sound);
    for (std::size_t i = 0; i < encoder_layers; ++i)
        for (const char* part : {"attention.self.query", "attention.self.key", "attention.self.value",
                                 "attention.output.dense", "intermediate.dense", "output.dense"}) {
            const std::string name = "bert.encoder.layer." + std::to_string(i) + "." + part;
            CAPTURE(name);
            CHECK(std::count(all.layers.begin(), all.layers.end(), name) == 1);
        }
    const auto count = all.layers.size();
    REQUIRE(bitmill_model_observe(h.running, nullptr, nullptr, nullptr) == BITMILL_OK);
    REQUIRE(h.embed() == BITMILL_OK);
    CHECK(all.layers.size() == count);
}
