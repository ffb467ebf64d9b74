// A model that changes its level while it serves: what it gives is, bit for bit, what the level gives by itself.
#include <bitmill/model/model_loader.hpp>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <level_models.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::model_loader;
using bitmill::text_encoder;

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
    CHECK(records[2].weight_bytes == records[5].weight_bytes);  // int4 both times
    CHECK(loader.json().find("\"effective\": \"int8\"") != std::string::npos);
}

TEST_CASE("the planes of a variant are levels of the model, unless they have folders of their own") {
    // EXACT
    const planes at_hand;
    const std::string& path = at_hand.original;
    std::filesystem::rename(at_hand.path, path + "/int8");
    auto loader = model_loader::open(path).value();
    CHECK(loader.levels() == std::vector<std::string>{"original", "fp16", "int8", "int4"});
    for (const char* level : {"int8", "int4"}) {
        CAPTURE(level);
        const auto record = loader.use_level(level).value();
        CHECK(record.decision == bitmill::level_decision{level, level, ""});
        CHECK(record.planes == (level == std::string_view("int4")));
        CHECK(vectors_of(loader) == alone(path + "/int8", level));
    }
    (void)bitmill::quantize(path, path + "/int4", as(scheme_type::int4)).value();
    auto other = model_loader::open(path, at("int4")).value();
    CHECK(vectors_of(other) == alone(path + "/int4", "int4"));
    CHECK(vectors_of(other) != vectors_of(loader));
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
    CHECK(record.canary_against == "canary.json");
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

TEST_CASE("what a canary is compared with") {
    const family at_hand;
    auto options = at("int8");
    options.canary = {"abc", "the quick brown fox"};
    auto loader = model_loader::open(at_hand.path, options).value();
    CHECK(loader.switches().back().canary_against == "original");
    // An original that cannot be opened says nothing; nothing else is stored in its name.
    std::filesystem::resize_file(at_hand.path + "/model.safetensors", 1000);
    auto later = model_loader::open(at_hand.path, options).value();
    CHECK(later.use_level("int4").value().canary_against == "int8");
    CHECK(later.store_canary("int4", options.canary).error().code == error_code::bad_input);
    CHECK_FALSE(std::filesystem::exists(at_hand.in("int4") + "/canary.json"));
    const planes native;
    auto alone_there = model_loader::open(native.path).value();
    CHECK(alone_there.store_canary("int4", options.canary).error().code == error_code::invalid_argument);
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

TEST_CASE("every level has a space of its own, whichever way it is come to") {
    const family at_hand;
    auto loader = model_loader::open(at_hand.path).value();
    std::vector<std::string> ids;
    for (const char* level : {"original", "fp16", "int8", "int4"}) {
        CHECK(loader.use_level(level).value().decision.effective == level);
        const auto id = loader.current()->space_id().value();
        CHECK(id.size() == 64);
        CHECK(id == text_encoder::open(at_hand.path, at(level).model).value().space_id().value());
        CHECK(std::find(ids.begin(), ids.end(), id) == ids.end());
        ids.push_back(id);
    }
    bitmill::model_options dynamic = at("int8").model;
    dynamic.activation = bitmill::activation::dynamic_int8;
    CHECK(text_encoder::open(at_hand.path, dynamic).value().space_id().value() != ids[2]);

    const planes other;
    auto low = model_loader::open(other.path, at("int4")).value();
    const auto of_low = low.current()->space_id().value();
    CHECK(low.use_level("int8").value().planes);
    CHECK(low.current()->space_id().value() ==
          model_loader::open(other.path, at("int8")).value().current()->space_id().value());
    CHECK(low.use_level("int4").value().planes);
    CHECK(low.current()->space_id().value() == of_low);
    // What texts become belongs to it, and so does every weight.
    put_file(other.path + "/sentence_bert_config.json", R"({"max_seq_length": 7})");
    CHECK(text_encoder::open(other.path).value().space_id().value() !=
          text_encoder::open(other.original).value().space_id().value());
    CHECK(model_loader::open(other.path, at("int4")).value().current()->space_id().value() != of_low);
    std::filesystem::remove(other.path + "/sentence_bert_config.json");
    const std::string weights = other.original + "/model.safetensors";
    const auto before = text_encoder::open(other.original).value().space_id().value();
    change(weights, [](std::string& bytes) { bytes.back() = static_cast<char>(bytes.back() ^ 1); });
    CHECK(text_encoder::open(other.original).value().space_id().value() != before);
}
