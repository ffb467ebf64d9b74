// A model that changes its level while it serves: what it gives is, bit for bit, what the level gives by itself.
#include <bitmill/model/model_loader.hpp>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory_resource>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/mill.hpp>

#include <encoder_models.hpp>
#include <io_files.hpp>
#include <letter_tokenizer.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::loader_options;
using bitmill::model_loader;
using bitmill::scheme_type;
using bitmill::text_encoder;
using texts = std::vector<std::string_view>;

namespace {

const texts some_texts{"the quick brown fox", "jumps", "over a lazy dog"};

encoder_shape small_shape() {
    encoder_shape shape;
    shape.hidden = 128;
    shape.heads = 4;
    shape.inner = 256;
    return shape;
}

bitmill::mill_options as(scheme_type to, bitmill::format format = bitmill::format::automatic) {
    bitmill::mill_options out;
    out.to = to;
    out.format = format;
    return out;
}

// An original with int8/ and int4/ beside it.
struct family {
    temp_folder place{memory_parent()};
    std::string path = place / "m";

    explicit family(const encoder_shape& shape = small_shape()) {
        put_encoder(path, shape);
        put_file(path + "/tokenizer.json", letter_tokenizer());
        mill(scheme_type::int8, "int8");
        mill(scheme_type::int4, "int4");
    }
    void mill(scheme_type to, const std::string& name) const {
        (void)bitmill::quantize(path, path + "/" + name, as(to)).value();
    }
    [[nodiscard]] std::string in(const std::string& level) const { return path + "/" + level; }
};

struct planes {
    temp_folder place{memory_parent()};
    std::string original = place / "original", path = place / "p";

    planes() {
        put_encoder(original, small_shape());
        put_file(original + "/tokenizer.json", letter_tokenizer());
        (void)bitmill::quantize(original, path, as(scheme_type::int8, bitmill::format::bitmill)).value();
    }
};

template <class Model>
std::vector<float> vectors_of(Model& model, std::size_t size = 128) {
    std::vector<float> out(some_texts.size() * size);
    model.embed(some_texts, out).value();
    return out;
}

std::vector<float> alone(const std::string& path, const std::string& level) {
    bitmill::model_options options;
    options.level = level;
    auto model = text_encoder::open(path, options).value();
    return vectors_of(model);
}

loader_options at(const std::string& level) {
    loader_options out;
    out.model.level = level;
    return out;
}

struct lines {
    std::vector<std::string> warnings, infos;
    void listen(loader_options& options) {
        options.on_log = [this](bitmill::log_level level, const std::string& line) {
            (level == bitmill::log_level::warning ? warnings : infos).push_back(line);
        };
    }
};

// The bytes of a file, changed.
void change(const std::string& path, const std::function<void(std::string&)>& edit) {
    std::string bytes = get_file(path);
    edit(bytes);
    std::filesystem::remove(path);
    put_file(path, bytes);
}

// Host memory that can be told to refuse, or to take its time, once.
class moody_memory : public std::pmr::memory_resource {
public:
    std::atomic<bool> refuses{false};
    std::atomic<int> sleeps_ms{0};

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (refuses.exchange(false)) throw std::bad_alloc();
        if (const int ms = sleeps_ms.exchange(0)) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
        std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
};

// Weights that load and give infinity: every scale of one layer is the largest float.
void make_nan(const std::string& folder) {
    change(folder + "/model.safetensors", [](std::string& bytes) {
        std::uint64_t header = 0;
        std::memcpy(&header, bytes.data(), 8);
        const std::string name = "encoder.layer.1.output.dense.weight_scale";
        const std::size_t entry = bytes.find(name);
        REQUIRE(entry < header);
        const std::size_t list = bytes.find("\"data_offsets\":[", entry) + 16;
        const std::size_t begin = std::stoul(bytes.substr(list)),
                          end = std::stoul(bytes.substr(bytes.find(',', list) + 1));
        const float most = std::numeric_limits<float>::max();
        for (std::size_t i = begin; i < end; i += 4) std::memcpy(&bytes[8 + header + i], &most, 4);
    });
}

}  // namespace

TEST_CASE("every level through the loader is the level by itself") {
    // EXACT
    const family at_hand;
    auto loader = model_loader::open(at_hand.path).value();
    CHECK(loader.levels() == std::vector<std::string>{"original", "fp16", "int8", "int4"});
    CHECK(loader.decision() == bitmill::level_decision{"original", "original", ""});
    for (const char* level : {"int8", "int4", "fp16", "original", "int4", "int8"}) {
        CAPTURE(level);
        CHECK(loader.use_level(level).value().decision == bitmill::level_decision{level, level, ""});
        CHECK(vectors_of(loader) == alone(at_hand.path, level));
        CHECK(loader.current()->model().facts().effective == level);
    }
    const auto records = loader.switches();
    REQUIRE(records.size() == 7);
    CHECK(records[2].from == "int8");
    CHECK(records[2].decision.effective == "int4");
    CHECK(records[2].number == 3);
    CHECK_FALSE(records[2].planes);
    CHECK(records[2].weight_bytes == 0 + loader.switches()[5].weight_bytes);
    CHECK(loader.json().find("\"effective\": \"int8\"") != std::string::npos);
}

TEST_CASE("use_quantized_model, and the sizes") {
    const family at_hand;
    auto loader = model_loader::open(at_hand.path).value();
    CHECK(loader.use_quantized_model(true).value().decision.effective == "int8");
    CHECK(loader.use_quantized_model(false).value().decision.effective == "original");
    const auto size = loader.get_model_size_info().value();
    CHECK(size.original_bytes == std::filesystem::file_size(at_hand.path + "/model.safetensors"));
    CHECK(size.quantized_bytes == std::filesystem::file_size(at_hand.in("int8") + "/model.safetensors"));
    CHECK(size.size_reduction_percent ==
          doctest::Approx(100 - 100.0 * static_cast<double>(size.quantized_bytes) /
                                    static_cast<double>(size.original_bytes)));
    // Absent: 0, and the original serves with a reason.
    std::filesystem::remove_all(at_hand.in("int8"));
    std::filesystem::remove_all(at_hand.in("int4"));
    auto bare = model_loader::open(at_hand.path).value();
    CHECK(bare.get_model_size_info().value().quantized_bytes == 0);
    CHECK(bare.get_model_size_info().value().size_reduction_percent == 0);
    CHECK(bare.use_quantized_model(true).value().decision ==
          bitmill::level_decision{"int8", "original", "int8 is not there"});
}

TEST_CASE("planes: a switch shares the base, there and back the same bits") {
    // EXACT
    const planes at_hand;
    auto loader = model_loader::open(at_hand.path).value();
    CHECK(loader.decision().effective == "int8");
    const auto high = alone(at_hand.path, "int8"), low = alone(at_hand.path, "int4");
    CHECK(high != low);
    CHECK(vectors_of(loader) == high);
    const auto before = loader.current()->model().facts();
    for (int i = 0; i < 3; ++i) {
        CHECK(loader.use_level("int4").value().decision.effective == "int4");
        CHECK(vectors_of(loader) == low);
        CHECK(loader.current()->model().facts().weight_bytes < before.weight_bytes);
        CHECK(loader.current()->model().facts().file_bytes < before.file_bytes);
        CHECK(loader.use_level("int8").value().decision.effective == "int8");
        CHECK(vectors_of(loader) == high);
        CHECK(loader.current()->model().facts().weight_bytes == before.weight_bytes);
        CHECK(loader.current()->model().facts().file_bytes == before.file_bytes);
    }
    const auto records = loader.switches();
    for (std::size_t i = 1; i < records.size(); ++i) CHECK(records[i].planes);
    // From a model that was opened at int4, too, whose layers never had two planes.
    auto from_low = model_loader::open(at_hand.path, at("int4")).value();
    CHECK(vectors_of(from_low) == low);
    CHECK(from_low.use_level("int8").value().decision.effective == "int8");
    CHECK(from_low.switches().back().planes);
    CHECK(vectors_of(from_low) == high);
    CHECK(from_low.use_level("original").value().decision ==
          bitmill::level_decision{"original", "int8", "original is not there"});
}

TEST_CASE("planes: a folder that was written to is opened anew, one without the residual stays at int4") {
    const planes at_hand;
    auto loader = model_loader::open(at_hand.path, at("int4")).value();
    const auto low = vectors_of(loader);
    const std::string residual = at_hand.path + "/model.int8.safetensors";
    std::filesystem::rename(residual, residual + ".away");
    const auto kept = loader.use_level("int8").value().decision;
    CHECK(kept.effective == "int4");
    CHECK(kept.reason.find("residual plane") != std::string::npos);
    CHECK(vectors_of(loader) == low);
    std::filesystem::rename(residual + ".away", residual);
    change(at_hand.path + "/model.safetensors", [](std::string&) {});
    CHECK(loader.current()->at_level("int8").error().code == error_code::bad_input);
    CHECK(loader.use_level("int8").value().decision.effective == "int8");
    CHECK_FALSE(loader.switches().back().planes);
    CHECK(vectors_of(loader) == alone(at_hand.path, "int8"));
}

TEST_CASE("planes: their hashes are checked, where that is wanted") {
    const planes at_hand;
    auto options = at("int4");
    options.check_hashes = true;
    auto loader = model_loader::open(at_hand.path, options).value();
    CHECK(loader.use_level("int8").value().decision.effective == "int8");
    CHECK(loader.use_level("int4").value().decision.effective == "int4");
    change(at_hand.path + "/model.int8.safetensors",
           [](std::string& bytes) { bytes.back() = static_cast<char>(bytes.back() ^ 1); });
    const auto kept = loader.use_level("int8").value().decision;
    CHECK(kept.effective == "int4");
    CHECK(kept.reason.find("its hash is not the manifest's") != std::string::npos);
}

TEST_CASE("levels of other folders: given, quantized/ beside the model") {
    temp_folder place(memory_parent());
    const std::string path = place / "m";
    put_encoder(path, small_shape());
    put_file(path + "/tokenizer.json", letter_tokenizer());
    (void)bitmill::quantize(path, place / "elsewhere", as(scheme_type::int4)).value();
    std::filesystem::create_directory(place / "quantized");
    (void)bitmill::quantize(path, place / "quantized/m", as(scheme_type::int8)).value();
    auto options = at("int4");
    options.quantized = place / "elsewhere";
    auto loader = model_loader::open(path, options).value();
    CHECK(loader.levels() == std::vector<std::string>{"original", "fp16", "int8", "int4"});
    CHECK(loader.decision().effective == "int4");
    CHECK(vectors_of(loader) == alone(place / "elsewhere", ""));
    CHECK(loader.use_quantized_model(true).value().decision.effective == "int8");
    CHECK(vectors_of(loader) == alone(place / "quantized/m", ""));
}

TEST_CASE("what cannot be is an error, and changes nothing") {
    const family at_hand;
    CHECK(model_loader::open(at_hand.path, at("int7")).error().code == error_code::invalid_argument);
    CHECK(model_loader::open(at_hand.place / "nothing").error().code == error_code::io);
    CHECK(model_loader::open(at_hand.place.path()).error().code == error_code::bad_input);
    auto options = at("int8");
    options.allow_fallback = false;
    auto loader = model_loader::open(at_hand.path, options).value();
    CHECK(loader.use_level("int7").error().code == error_code::invalid_argument);
    CHECK(loader.use_level("int2").error().code == error_code::invalid_argument);
    CHECK(loader.decision().effective == "int8");
    change(at_hand.in("int4") + "/config.json", [](std::string& text) { text = "{"; });
    const auto broken = loader.use_level("int4");
    CHECK(broken.error().code == error_code::bad_input);
    CHECK(broken.error().file.find("int4") != std::string::npos);
    CHECK(loader.decision() == bitmill::level_decision{"int8", "int8", ""});
    auto nonsense = at("int8");
    nonsense.canary_cosine = std::numeric_limits<double>::quiet_NaN();
    CHECK(model_loader::open(at_hand.path, nonsense).error().code == error_code::invalid_argument);
    // The caller's own mistakes are no fault of the level.
    std::vector<float> room(1);
    CHECK(loader.embed(some_texts, room).error().code == error_code::invalid_argument);
    CHECK(loader.decision().effective == "int8");
    options.capability = {"original", "int4"};
    CHECK(model_loader::open(at_hand.path, options).error().code == error_code::unsupported);
    options.allow_fallback = true;
    CHECK(model_loader::open(at_hand.path, options).value().decision() ==
          bitmill::level_decision{"int8", "original", "int8 may not be run here"});
}

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

TEST_CASE("a canary that lies with the variant") {
    const family at_hand;
    auto loader = model_loader::open(at_hand.path).value();
    const std::vector<std::string> canaries{"abc", "the quick brown fox"};
    loader.store_canary("int8", canaries).value();
    CHECK(loader.store_canary("original", canaries).error().code == error_code::invalid_argument);
    CHECK(loader.store_canary("int2", canaries).error().code == error_code::invalid_argument);
    CHECK(loader.store_canary("int8", {}).error().code == error_code::invalid_argument);
    const std::vector<std::string> too_many(2000, "abc");
    CHECK(loader.store_canary("int8", too_many).error().code == error_code::invalid_argument);
    CHECK(loader.use_level("int8").value().decision.effective == "int8");
    const auto record = loader.switches().back();
    REQUIRE(record.canary_cosine);
    CHECK(*record.canary_cosine > 0.99);
    CHECK(*record.canary_cosine < 1);
    // Its outputs stand for the original, which need not be opened.
    change(at_hand.in("int8") + "/canary.json", [](std::string& text) {
        const std::size_t begin = text.find("\"cosine\":") + 9;
        text.replace(begin, text.find(',', begin) - begin, "0.9999999");
    });
    CHECK(loader.use_level("original").value().decision.effective == "original");
    const auto refused = loader.use_level("int8").value().decision;
    CHECK(refused.effective == "original");
    CHECK(refused.reason.find("cosine 0.99") != std::string::npos);
    CHECK(loader.switches().back().fault);
    // A failed switch leaves what serves.
    CHECK(loader.use_level("int4").value().decision.effective == "int4");
    CHECK(loader.use_level("int8").value().decision.effective == "int4");
}

TEST_CASE("rerank and classify through the loader") {
    // EXACT
    encoder_shape shape = small_shape();
    shape.labels = 1;
    const family at_hand(shape);
    auto loader = model_loader::open(at_hand.path, at("int8")).value();
    const auto own = text_encoder::open(at_hand.in("int8")).value();
    const auto mine = loader.rerank("query", some_texts).value(),
               theirs = own.rerank("query", some_texts).value();
    REQUIRE(mine.size() == theirs.size());
    for (std::size_t i = 0; i < mine.size(); ++i) {
        CHECK(mine[i].index == theirs[i].index);
        CHECK(mine[i].logit == theirs[i].logit);
    }
    std::vector<float> a(some_texts.size()), b(a.size());
    loader.classify(some_texts, a).value();
    own.classify(some_texts, b).value();
    CHECK(a == b);
    make_nan(at_hand.in("int4"));
    CHECK(loader.use_level("int4").value().decision.effective == "int4");
    CHECK(loader.rerank("query", some_texts).value()[0].logit ==
          text_encoder::open(at_hand.path).value().rerank("query", some_texts).value()[0].logit);
    CHECK(loader.decision().effective == "original");
}

TEST_CASE("many threads run while another switches: each result is one level's, whole") {
    // EXACT
    const planes native;
    const family variants;
    struct row {
        const std::string& path;
        std::vector<const char*> levels;
    };
    const row table[] = {{native.path, {"int4", "int8"}}, {variants.path, {"int8", "int4", "original"}}};
    for (const auto& one : table) {
        std::vector<std::vector<float>> truths;
        for (const char* level : one.levels) truths.push_back(alone(one.path, level));
        auto options = at(one.levels[0]);
        options.model.threads = 2;
        auto loader = model_loader::open(one.path, options).value();
        std::atomic<bool> stop{false};
        std::atomic<std::size_t> runs{0}, mixed{0}, failed{0};
        std::vector<std::thread> users;
        for (int i = 0; i < 8; ++i)
            users.emplace_back([&] {
                std::vector<float> got(some_texts.size() * 128);
                while (!stop) {
                    if (!loader.embed(some_texts, got)) ++failed;
                    if (std::find(truths.begin(), truths.end(), got) == truths.end()) ++mixed;
                    ++runs;
                }
            });
        std::size_t refused = 0;
        for (std::size_t i = 1; i <= 60 || runs < 60; ++i) {
            const auto served = loader.use_level(one.levels[i % one.levels.size()]);
            refused += !served || !served->decision.reason.empty() ? 1u : 0u;
        }
        stop = true;
        for (auto& user : users) user.join();
        CHECK(failed == 0);
        CHECK(mixed == 0);
        CHECK(refused == 0);
        CHECK(loader.switches().size() <= 256);
    }
}
