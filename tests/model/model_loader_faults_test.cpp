// Levels that cannot be had, or give no numbers: what serves instead, what is told, when they are tried again.
#include <bitmill/model/model_loader.hpp>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <level_models.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::model_loader;

namespace {

using change_text = std::function<void(std::string&)>;

struct injected_fault {
    std::string name;
    std::string reason;
    std::function<void(const family&)> inject;
    std::function<void(loader_options&)> prepare = [](loader_options&) {};
};

std::vector<injected_fault> faults_with(moody_memory& memory) {
    const auto in_weights = [](const change_text& edit) {
        return [edit](const family& f) { change(f.in("int8") + "/model.safetensors", edit); };
    };
    const auto in_config = [](const std::string& what, const std::string& with) {
        return [=](const family& f) {
            change(f.in("int8") + "/config.json",
                   [&](std::string& text) { text.replace(text.find(what), what.size(), with); });
        };
    };
    const auto remove = [](const std::string& name) {
        return [name](const family& f) { std::filesystem::remove_all(f.in("int8") + name); };
    };
    // Sound files of weights that belong to no model.
    const auto mill_nonsense = [](const family& f) {
        auto tensors = tensors_of(small_shape());
        for (auto& one : tensors)
            if (one.name.find("dense.weight") != std::string::npos)
                for (std::size_t i = 0; i < one.bytes.size(); i += 4) {
                    const float value = static_cast<float>(static_cast<int>(i * 7919 % 97) - 48) / 200;
                    std::memcpy(one.bytes.data() + i, &value, 4);
                }
        put_model(f.place / "other", tensors, config_of(small_shape()));
        std::filesystem::remove_all(f.in("int8"));
        (void)bitmill::quantize(f.place / "other", f.in("int8"), as(scheme_type::int8)).value();
        put_file(f.in("int8") + "/tokenizer.json", letter_tokenizer());
    };
    return {
        {"missing folder", "int8", remove("")},
        {"missing weights", "int8", remove("/model.safetensors")},
        {"truncated weights", "model.safetensors", in_weights([](auto& b) { b.resize(b.size() - 100); })},
        {"empty weights", "model.safetensors", in_weights([](auto& b) { b.clear(); })},
        {"a header that is no JSON", "model.safetensors", in_weights([](auto& b) { b[8] = '!'; })},
        {"a config that is no JSON", "config.json", in_config("{", "{{")},
        {"hash mismatch", "its hash is not the manifest's",
         in_weights([](auto& b) { b.back() = static_cast<char>(b.back() ^ 1); }),
         [](loader_options& options) { options.check_hashes = true; }},
        {"unsupported scheme", "of-tomorrow", in_config("compressed-tensors", "of-tomorrow")},
        {"another architecture", "gpt2", in_config("\"bert\"", "\"gpt2\"")},
        {"out of memory", "out of memory", [&](const family&) { memory.refuses = true; },
         [&](loader_options& options) { options.model.memory = &memory; }},
        {"canary failed", "the canary: cosine", mill_nonsense,
         [](loader_options& options) { options.canary = {"canary", "the quick brown fox", "zebra"}; }},
        {"a canary that cannot be read", "canary.json",
         [](const family& f) { put_file(f.in("int8") + "/canary.json", "{\"texts\": 3}"); }},
        {"timeout", "timeout", [&](const family&) { memory.sleeps_ms = 400; },
         [&](loader_options& options) {
             options.model.memory = &memory;
             options.switch_timeout = std::chrono::milliseconds(300);
         }},
        {"NaN output", "NaN or infinity", [](const family& f) { make_nan(f.in("int8")); }},
    };
}

}  // namespace

TEST_CASE("faults of the quantized side: the original serves, and one line says why") {
    // EXACT
    moody_memory memory;
    const auto table = faults_with(memory);
    REQUIRE(table.size() >= 12);
    const auto expected = alone(family().path, "original");
    for (const auto& fault : table)
        for (const bool at_once : {true, false}) {
            CAPTURE(fault.name);
            CAPTURE(at_once);
            const family at_hand;
            auto options = at(at_once ? "int8" : "original");
            options.retry_after = std::chrono::milliseconds(0);
            fault.prepare(options);
            lines said;
            said.listen(options);
            if (at_once) fault.inject(at_hand);
            auto loader = model_loader::open(at_hand.path, options).value();
            if (!at_once) {
                fault.inject(at_hand);
                CHECK(loader.use_level("int8"));
            }
            for (int i = 0; i < 3; ++i) CHECK(vectors_of(loader) == expected);
            const auto decision = loader.decision();
            CHECK(decision.requested == "int8");
            CHECK(decision.effective == "original");
            CAPTURE(decision.reason);
            CHECK(decision.reason.find(fault.reason) != std::string::npos);
            REQUIRE(said.warnings.size() == 1);
            CHECK(said.warnings[0].find("level int8 does not serve, original does: ") == 0);
            CHECK(said.warnings[0].find(fault.reason) != std::string::npos);
        }
}

TEST_CASE("files that shrink under a level that serves") {
    // EXACT. A table of embeddings above 4 MiB is read row by row, as it is needed.
    encoder_shape shape = small_shape();
    shape.vocabulary = 9000;
    const family at_hand(shape);
    auto loader = model_loader::open(at_hand.path, at("int8")).value();
    const auto expected = alone(at_hand.path, "original");
    CHECK(vectors_of(loader) == alone(at_hand.path, "int8"));
    std::filesystem::resize_file(at_hand.in("int8") + "/model.safetensors", 4096);
    CHECK(vectors_of(loader) == expected);
    CHECK(loader.decision().effective == "original");
    CHECK(loader.decision().reason.find("int8/model.safetensors") != std::string::npos);
    // Where nothing else is there the error comes through.
    auto options = at("int4");
    options.allow_fallback = false;
    auto strict = model_loader::open(at_hand.path, options).value();
    std::filesystem::resize_file(at_hand.in("int4") + "/model.safetensors", 4096);
    std::vector<float> room(some_texts.size() * 128);
    CHECK(strict.embed(some_texts, room).error().code == error_code::bad_input);
}

TEST_CASE("a level that failed is tried again, and serves when it is mended") {
    const family at_hand;
    const std::string weights = at_hand.in("int8") + "/model.safetensors";
    std::filesystem::rename(weights, weights + ".away");
    auto options = at("int8");
    options.retry_after = std::chrono::milliseconds(20);
    auto loader = model_loader::open(at_hand.path, options).value();
    const auto original = alone(at_hand.path, "original");
    CHECK(vectors_of(loader) == original);
    std::filesystem::rename(weights + ".away", weights);
    const auto quantized = alone(at_hand.path, "int8");
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (loader.decision().effective != "int8" && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        const auto got = vectors_of(loader);
        CHECK((got == original || got == quantized));
    }
    CHECK(loader.decision() == bitmill::level_decision{"int8", "int8", ""});
    CHECK(vectors_of(loader) == quantized);
    // Asked for, at once.
    std::filesystem::rename(weights, weights + ".away");
    auto patient = options;
    patient.retry_after = std::chrono::milliseconds(0);
    auto asked = model_loader::open(at_hand.path, patient).value();
    CHECK(asked.decision().effective == "original");
    std::filesystem::rename(weights + ".away", weights);
    CHECK(vectors_of(asked) == original);
    CHECK(asked.use_level("int8").value().decision.effective == "int8");
}

TEST_CASE("a level that loads and gives NaN is tried later and later") {
    const family at_hand;
    make_nan(at_hand.in("int8"));
    auto options = at("int8");
    options.retry_after = std::chrono::milliseconds(20);
    lines said;
    said.listen(options);
    auto loader = model_loader::open(at_hand.path, options).value();
    const auto expected = alone(at_hand.path, "original");
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
    // A few calls on the slowest machine, too.
    for (int i = 0; i < 3 || std::chrono::steady_clock::now() < end; ++i)
        CHECK(vectors_of(loader) == expected);
    // 20, 40, 80 ... 1280 ms: seven times at most, and the first.
    CHECK(said.warnings.size() >= 2);
    CHECK(said.warnings.size() <= 8);
}

TEST_CASE("nothing to fall back on: the error comes through, and is told once") {
    temp_folder place(memory_parent());
    {
        const family made;
        make_nan(made.in("int8"));
        std::filesystem::copy(made.in("int8"), place / "only", std::filesystem::copy_options::recursive);
    }
    loader_options options;
    lines said;
    said.listen(options);
    auto loader = model_loader::open(place / "only", options).value();
    std::vector<float> room(some_texts.size() * 128);
    for (int i = 0; i < 5; ++i) CHECK(loader.embed(some_texts, room).error().code == error_code::bad_input);
    CHECK(said.warnings.size() == 1);
    REQUIRE(loader.switches().size() == 2);
    CHECK(loader.switches().back().decision.effective == "int8");
    CHECK(loader.decision().effective == "int8");
}

TEST_CASE("a variant of another model is not taken") {
    // EXACT
    const family at_hand;
    encoder_shape other = small_shape();
    other.hidden = 64;
    put_encoder(at_hand.place / "other", other);
    put_file(at_hand.place / "other/tokenizer.json", letter_tokenizer());
    std::filesystem::remove_all(at_hand.in("int8"));
    (void)bitmill::quantize(at_hand.place / "other", at_hand.in("int8"), as(scheme_type::int8)).value();
    auto loader = model_loader::open(at_hand.path).value();
    const auto kept = loader.use_level("int8").value();
    CHECK(kept.decision.effective == "original");
    CHECK(kept.fault);
    CHECK(kept.decision.reason.find("vectors of 64") != std::string::npos);
    CHECK(vectors_of(loader) == alone(at_hand.path, "original"));
}

TEST_CASE("a host whose log throws") {
    const family at_hand;
    make_nan(at_hand.in("int8"));
    auto options = at("int8");
    options.on_log = [](bitmill::log_level, const std::string&) { throw std::bad_alloc(); };
    auto loader = model_loader::open(at_hand.path, options).value();
    CHECK(vectors_of(loader) == alone(at_hand.path, "original"));
    CHECK(loader.decision().effective == "original");
}
