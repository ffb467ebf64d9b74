// A folder of models by bit depth: what is found, what each gives, and that one that fails stops no other.
#include <bitmill/mill/model_quantizer.hpp>

#include <filesystem>
#include <map>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/manifest.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::model_quantizer;

namespace {

struct models_folder {
    temp_folder temp;
    std::string path = temp / "models";

    models_folder() {
        put_model(path + "/intent", bert_tensors());
        put_sharded_model(path + "/sentiment", bert_tensors());
        std::filesystem::create_directories(path + "/loose");
        std::filesystem::rename(path + "/intent/model.safetensors", path + "/email.safetensors");
        std::filesystem::copy(path + "/email.safetensors", path + "/intent/model.safetensors");
        put_file(path + "/broken/model.safetensors", "no header");
        put_file(path + "/notes.txt", "not a model");
        put_file(path + "/.hidden/model.safetensors", "x");
        put_file(path + "/loose/readme.md", "no weights");
    }
};

}  // namespace

TEST_CASE("model_quantizer: every model of a folder, and the broken one named") {
    const models_folder m;
    const auto quantizer = model_quantizer::create().value();
    const auto report = quantizer.batch_quantize_models(m.path, m.temp / "out");
    REQUIRE_MESSAGE(report, report.error().text());
    REQUIRE(report->models.size() == 4);
    const std::vector<std::string> names{"broken", "email", "intent", "sentiment"};
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(report->models[i].name == names[i]);
    CHECK(report->failed() == 1);
    CHECK(report->models[0].failure.code == error_code::bad_input);
    CHECK(report->models[0].file_size_reduction_percent() == 0);
    std::uint64_t before = 0, after = 0;
    for (std::size_t i = 1; i < names.size(); ++i) {
        const auto& row = report->models[i];
        REQUIRE(row.report);
        before += row.report->source_bytes;
        after += row.report->bytes;
        CHECK(row.file_size_reduction_percent() ==
              doctest::Approx(100.0 - 100.0 * static_cast<double>(row.report->bytes) /
                                          static_cast<double>(row.report->source_bytes)));
        CHECK(row.file_size_reduction_percent() > 20);
        CHECK(bitmill::validate(m.temp / ("out/" + names[i])));
    }
    CHECK(report->source_bytes() == before);
    CHECK(report->bytes() == after);
    const auto json = nlohmann::json::parse(report->json());
    CHECK(json.at("summary").at("overall_size_reduction_percent").get<double>() ==
          doctest::Approx(report->overall_size_reduction_percent()));
    CHECK(json.at("models").at("broken").at("error").get<std::string>().find("broken/model.safetensors") !=
          std::string::npos);
    CHECK(entries_of(m.temp / "out") == std::vector<std::string>{"email", "intent", "sentiment"});
}

TEST_CASE("model_quantizer: bit depths, the default folders, and only the models that were named") {
    const models_folder m;
    for (const auto& [depth, stored] :
         std::map<int, std::string>{{8, "int8 per_tensor"}, {16, "F16"}, {32, "F32"}}) {
        const auto quantizer = model_quantizer::create(depth, 0.0f).value();
        const auto report = quantizer.batch_quantize_models(m.path, {}, {"intent", "intent"});
        REQUIRE_MESSAGE(report, report.error().text());
        REQUIRE(report->models.size() == 1);
        const auto inspected = bitmill::inspect(m.path + "/quantized/intent").value();
        for (const auto& one : inspected.tensors)
            if (one.name.find("query.weight") != std::string::npos) CHECK(bitmill::stored_as(one) == stored);
        std::filesystem::remove_all(m.path + "/quantized");
    }
    const auto quantizer = model_quantizer::create().value();
    REQUIRE(quantizer.quantize_model_file(m.path + "/email.safetensors"));
    REQUIRE(quantizer.quantize_model_file(m.path + "/intent/"));
    CHECK(entries_of(m.path + "/quantized") == std::vector<std::string>{"email", "intent"});
    // What was written is no model of the next batch, and is not milled twice.
    const auto again = quantizer.batch_quantize_models(m.path);
    REQUIRE(again);
    CHECK(again->models.size() == 4);
    for (const auto& one : again->models)
        if (one.name == "intent") CHECK(one.report->already_milled);
}

TEST_CASE("model_quantizer: weights below the threshold become 0, biases, norms and all else stay") {
    const models_folder m;
    const auto quantizer = model_quantizer::create(32, 0.01f).value();
    REQUIRE(quantizer.quantize_model_file(m.path + "/email.safetensors", m.temp / "pruned"));
    const auto before = read_tensors(m.path + "/intent");
    const auto after = read_tensors(m.temp / "pruned");
    std::size_t zeroed = 0;
    for (const auto& [name, tensor] : before) {
        if (tensor.type != bitmill::dtype::f32) continue;
        for (std::size_t at = 0; at < tensor.bytes.size(); at += 4) {
            float was, is;
            std::memcpy(&was, tensor.bytes.data() + at, 4);
            std::memcpy(&is, after.at(name).bytes.data() + at, 4);
            const bool small = tensor.shape.size() >= 2 && std::abs(was) < 0.01f;
            if (is != (small ? 0.0f : was)) FAIL(name << " at " << at);
            zeroed += small && was != 0 ? 1u : 0u;
        }
    }
    CHECK(zeroed > 0);
}

TEST_CASE("model_quantizer: any other options for every model") {
    const models_folder m;
    bitmill::mill_options options;
    options.to = bitmill::scheme_type::f32;
    options.target_sparsity = 0.5;
    const auto report =
        model_quantizer(options).batch_quantize_models(m.path, m.temp / "out", {"email"}).value();
    REQUIRE(report.models[0].report);
    for (const auto& row : report.models[0].report->tensors)
        if (row.measured) CHECK(row.error.zeros_after() == (row.elements + 1) / 2);
    options.prune_relative = 0.5;
    const auto refused = model_quantizer(options).batch_quantize_models(m.path, m.temp / "out", {"intent"});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == error_code::invalid_argument);
}

TEST_CASE("model_quantizer: models that differ in their endings alone take their whole names") {
    const models_folder m;
    std::filesystem::copy(m.path + "/email.safetensors", m.path + "/email.bin");
    // Sorted otherwise with their endings than without.
    std::filesystem::create_directories(m.path + "/email-2");
    std::filesystem::copy(m.path + "/email.safetensors", m.path + "/email-2/model.safetensors");
    const auto quantizer = model_quantizer::create().value();
    const auto report = quantizer.batch_quantize_models(m.path, m.temp / "out");
    REQUIRE_MESSAGE(report, report.error().text());
    std::map<std::string, bool> done;
    for (const auto& row : report->models) done[row.name] = row.report.has_value();
    CHECK(done.at("email-2"));
    CHECK(done.at("email.safetensors"));
    CHECK_FALSE(done.at("email.bin"));  // which is none
    CHECK(std::filesystem::exists(m.temp / "out/email.safetensors/model.safetensors"));
    const auto one = quantizer.batch_quantize_models(m.path, m.temp / "one", {"email.safetensors"});
    REQUIRE_MESSAGE(one, one.error().text());
    CHECK(one->models.size() == 1);
}

TEST_CASE("model_quantizer: what cannot be begun is an error, and cancelling ends the batch") {
    const models_folder m;
    CHECK(model_quantizer::create(12).error().code == error_code::invalid_argument);
    const auto quantizer = model_quantizer::create().value();
    const auto code = [&](const std::string& folder, const std::vector<std::string>& names) {
        return quantizer.batch_quantize_models(folder, m.temp / "out", names).error().code;
    };
    CHECK(code(m.temp / "none", {}) == error_code::io);
    CHECK(code(m.path + "/loose", {}) == error_code::invalid_argument);
    CHECK(code(m.path, {"spam"}) == error_code::invalid_argument);
    CHECK(quantizer.batch_quantize_models(m.path, m.path).error().code == error_code::invalid_argument);
    CHECK_FALSE(std::filesystem::exists(m.temp / "out"));
    bitmill::work_options work;
    work.on_progress = [](const bitmill::progress&) { return false; };
    const auto cancelled = quantizer.batch_quantize_models(m.path, m.temp / "out", {}, work);
    CHECK(cancelled.error().code == error_code::cancelled);
    CHECK(entries_of(m.temp / "out").empty());
}
