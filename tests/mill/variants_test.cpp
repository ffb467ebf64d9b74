// One repository: both variants, the record of the model, and what is left where it was cut off.
#include <bitmill/mill/variants.hpp>

#include <filesystem>
#include <map>
#include <regex>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/manifest.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::quantize_both;

namespace {

struct model_folder {
    temp_folder temp;
    std::string path = temp / "model";

    model_folder() { put_model(path, bert_tensors()); }
    [[nodiscard]] nlohmann::json metadata() const {
        return nlohmann::json::parse(get_file(path + "/metadata.json"));
    }
};

std::string scheme_in(const std::string& folder) {
    const auto report = bitmill::inspect(folder).value();
    for (const auto& one : report.tensors)
        if (one.name.find("query.weight") != std::string::npos) return bitmill::stored_as(one);
    return {};
}

}  // namespace

TEST_CASE("variants: both lie beside the model, each complete, and the model is what it was") {
    const model_folder m;
    const auto before = read_folder(m.path);
    const auto report = quantize_both(m.path, "", {});
    REQUIRE(report);
    CHECK(report->output == m.path);
    auto after = read_folder(m.path);
    for (const auto& [name, bytes] : before) CHECK(after.at(name) == bytes);
    for (const std::string level : {"int8", "int4"}) {
        CAPTURE(level);
        const std::string folder = m.path + "/" + level;
        CHECK(entries_of(folder) == std::vector<std::string>{"config.json", "manifest.json",
                                                             "model.safetensors", "tokenizer.json"});
        CHECK(bitmill::verify(m.path, folder));
        CHECK(scheme_in(folder).substr(0, 4) == level);
    }
    CHECK(scheme_in(m.path + "/int8") == "int8 per_channel");
}

TEST_CASE("variants: metadata.json says what the registry of a service reads") {
    const model_folder m;
    REQUIRE(quantize_both(m.path, "", {}));
    const auto record = m.metadata();
    CHECK(record.size() == 7);
    CHECK(record.at("model_name") == "model");
    CHECK(record.at("model_type") == "bert");
    CHECK(record.at("is_quantized") == true);
    CHECK(record.at("source") == "HuggingFace (downloaded)");
    CHECK(record.at("dimensions").is_null());
    std::smatch parts;
    const auto created = record.at("created_at").get<std::string>();
    REQUIRE(std::regex_match(created, parts,
                             std::regex(R"((\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.\d{6}\+00:00)")));
    CHECK(record.at("version") == "hf_" + parts.str(1) + parts.str(2) + parts.str(3) + "_" + parts.str(4) +
                                      parts.str(5) + parts.str(6));
}

TEST_CASE("variants: the dimensions have many names") {
    for (const auto& [config, expected] : std::map<std::string, nlohmann::json>{
             {R"({"hidden_size": 768})", 768},
             {R"({"model_type": "distilbert", "dim": 32, "hidden_dim": 64})", 32},
             {R"({"text_config": {"d_model": 512}})", 512},
             {R"({"hidden_size": "768", "n_embd": 16})", 16},
             {R"({"hidden_size": -1})", nullptr},
             {R"({"text_config": 5})", nullptr}}) {
        CAPTURE(config);
        const temp_folder temp;
        put_model(temp / "m", bert_tensors(), config);
        REQUIRE(quantize_both(temp / "m", temp / "out", {}));
        const auto record = nlohmann::json::parse(get_file(temp / "out/metadata.json"));
        CHECK(record.at("dimensions") == expected);
    }
}

TEST_CASE("variants: a second call mills what is missing, and nothing else") {
    const model_folder m;
    REQUIRE(quantize_both(m.path, "", {}));
    const auto first = m.metadata();
    auto report = quantize_both(m.path, "", {});
    REQUIRE(report);
    for (const auto& one : report->variants) CHECK(one.already_milled);
    CHECK(m.metadata() == first);
    std::filesystem::remove_all(m.path + "/int4");
    report = quantize_both(m.path, "", {});
    REQUIRE(report);
    CHECK(report->variants[0].already_milled);
    CHECK_FALSE(report->variants[1].already_milled);
    CHECK(m.metadata() != first);
    std::filesystem::remove(m.path + "/metadata.json");
    REQUIRE(quantize_both(m.path, "", {}));
    CHECK(m.metadata().at("is_quantized") == true);
}

TEST_CASE("variants: what is refused leaves no trace, what was cancelled leaves whole variants only") {
    const model_folder m;
    const auto before = read_folder(m.path);
    bitmill::mill_options options;
    options.levels = {bitmill::scheme_type::int4};
    CHECK(quantize_both(m.path, "", options).error().code == error_code::invalid_argument);
    options.levels.clear();
    options.double_quant = true;
    CHECK(quantize_both(m.path, m.temp / "new", options).error().code == error_code::invalid_argument);
    options.double_quant = false;
    CHECK(quantize_both(m.temp / "none", m.temp / "new", options).error().code == error_code::io);
    CHECK(entries_of(m.temp.path()) == std::vector<std::string>{"model"});
    unsigned steps = 0;
    unsigned last = 0;
    options.on_progress = [&](const bitmill::progress&) { return ++steps < last; };
    for (last = 1; last < 100; last += 3) {
        steps = 0;
        const auto done = quantize_both(m.path, m.temp / "new", options);
        if (done) break;
        CHECK(done.error().code == error_code::cancelled);
        if (!std::filesystem::exists(m.temp / "new")) continue;
        CHECK(entries_of(m.temp / "new") == std::vector<std::string>{"int8"});
        CHECK(bitmill::validate(m.temp / "new/int8"));
    }
    CHECK(last > 1);
    CHECK(entries_of(m.temp / "new") == std::vector<std::string>{"int4", "int8", "metadata.json"});
    CHECK(read_folder(m.path) == before);
}

TEST_CASE("variants: a plan alone writes nothing") {
    const model_folder m;
    bitmill::mill_options options;
    options.dry_run = true;
    const auto before = read_folder(m.path);
    const auto report = quantize_both(m.path, "", options);
    REQUIRE(report);
    REQUIRE(report->variants.size() == 2);
    CHECK(report->variants[0].bytes > report->variants[1].bytes);
    CHECK(read_folder(m.path) == before);
}

TEST_CASE("variants: a folder within the model is none of the model's files afterwards") {
    const model_folder m;
    REQUIRE(quantize_both(m.path, m.path + "/small", {}));
    const auto again = quantize_both(m.path, m.path + "/small", {});
    REQUIRE_MESSAGE(again, again.error().text());
    for (const auto& one : again->variants) CHECK(one.already_milled);
    CHECK(bitmill::verify(m.path, m.path + "/small/int8"));
}

TEST_CASE("variants: what is not bitmill's stays, and is found before anything is milled") {
    const model_folder m;
    const auto refused = [&](const char* name) {
        const auto before = read_folder(m.path);
        const auto done = quantize_both(m.path, "", {});
        REQUIRE(!done);
        CHECK(done.error().code == error_code::invalid_argument);
        CHECK(done.error().file.find(name) != std::string::npos);
        CHECK(read_folder(m.path) == before);
        CHECK_FALSE(std::filesystem::exists(m.path + "/int8/manifest.json"));
    };
    for (const char* content :
         {"{\"mine\": 1}", "[1]", "no JSON", "{\"version\": \"1.0\", \"is_quantized\": true}"}) {
        put_file(m.path + "/metadata.json", content);
        refused("metadata.json");
    }
    bitmill::mill_options force;
    force.force = true;
    REQUIRE(quantize_both(m.path, "", force));
    CHECK(m.metadata().contains("created_at"));
    std::filesystem::remove_all(m.path + "/int8");
    std::filesystem::remove_all(m.path + "/int4");
    put_file(m.path + "/int4/notes.txt", "mine");
    refused("int4");
    const auto lone = quantize_both(m.path + "/model.safetensors", m.temp / "lone", {});
    CHECK(lone);
    std::filesystem::remove(m.path + "/config.json");
    CHECK(quantize_both(m.path + "/model.safetensors", "", {}).error().code == error_code::invalid_argument);
}
