// The loader through C: what it gives is what the C++ loader gives.
#include <atomic>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/mill/mill.hpp>
#include <bitmill/model/text_encoder.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

struct quantized_host : host {
    quantized_host() {
        bitmill::mill_options options;
        options.to = bitmill::scheme_type::int8;
        (void)bitmill::quantize(encoder, encoder + "/int8", options).value();
        bitmill_model_loader_destroy(loader);
        REQUIRE(bitmill_model_loader_open(encoder.c_str(), nullptr, &loader, &error) == BITMILL_OK);
    }
};

std::vector<float> alone(const host& h, const std::string& folder) {
    const auto model = bitmill::text_encoder::open(folder).value();
    const std::vector<std::string_view> texts(h.words.begin(), h.words.end());
    std::vector<float> out(texts.size() * encoder_hidden);
    model.embed(texts, out).value();
    return out;
}

}  // namespace

TEST_CASE("loader: levels, records, sizes") {
    quantized_host h;
    CHECK(h.loader_embed() == BITMILL_OK);
    CHECK(h.results == alone(h, h.encoder));
    bitmill_switch_record record = BITMILL_SWITCH_RECORD_INIT;
    REQUIRE(bitmill_model_loader_use_quantized_model(h.loader, 1, &record, &h.error) == BITMILL_OK);
    CHECK(std::string(record.from) == "original");
    CHECK(std::string(record.requested) == "int8");
    CHECK(std::string(record.effective) == "int8");
    CHECK(std::string(record.reason).empty());
    CHECK(record.number == 2);
    CHECK(record.fault == 0);
    CHECK(record.load_ms > 0);
    CHECK(h.loader_embed() == BITMILL_OK);
    CHECK(h.results == alone(h, h.encoder + "/int8"));
    CHECK(h.loader_facts() == BITMILL_OK);
    CHECK(std::string(h.facts.effective) == "int8");
    CHECK(record.weight_bytes == h.facts.weight_bytes);
    CHECK(h.size_info() == BITMILL_OK);
    CHECK(h.size.original_bytes == std::filesystem::file_size(h.encoder + "/model.safetensors"));
    CHECK(h.size.quantized_bytes == h.facts.file_bytes);
    CHECK(h.size.size_reduction_percent > 0);
    REQUIRE(bitmill_model_loader_use_level(h.loader, "int2", &record, &h.error) == BITMILL_OK);
    CHECK(std::string(record.effective) == "int8");
    CHECK(std::string(record.reason) == "int2 is not there");
    bitmill_switch_record last = BITMILL_SWITCH_RECORD_INIT;
    REQUIRE(bitmill_model_loader_get_last_switch(h.loader, &last, &h.error) == BITMILL_OK);
    CHECK(std::memcmp(&last, &record, sizeof last) == 0);
    std::size_t bytes = 0;
    REQUIRE(bitmill_model_loader_json(h.loader, nullptr, 0, &bytes, &h.error) == BITMILL_OK);
    std::string json(bytes, 'x');
    REQUIRE(bitmill_model_loader_json(h.loader, json.data(), bytes, nullptr, &h.error) == BITMILL_OK);
    json.pop_back();
    CHECK(nlohmann::json::parse(json)["switches"].size() == 3);
}

TEST_CASE("loader: faults, the host's log and memory, a canary") {
    quantized_host h;
    struct counts {
        std::atomic<long> bytes{0};
        std::vector<std::string> warnings;
    } seen;
    h.hooks.memory_context = h.hooks.log_context = &seen;
    h.hooks.allocate = [](void* context, std::size_t bytes, std::size_t) -> void* {
        static_cast<counts*>(context)->bytes += static_cast<long>(bytes);
        return std::malloc(bytes);
    };
    h.hooks.deallocate = [](void* context, void* memory, std::size_t bytes, std::size_t) {
        static_cast<counts*>(context)->bytes -= static_cast<long>(bytes);
        std::free(memory);
    };
    h.hooks.log = [](void* context, bitmill_log_level level, const char* line) {
        if (level == BITMILL_LOG_WARNING) static_cast<counts*>(context)->warnings.emplace_back(line);
    };
    bitmill_model_loader* loader = nullptr;
    REQUIRE(bitmill_model_loader_open(h.encoder.c_str(), &h.loader_options, &loader, &h.error) == BITMILL_OK);
    const long held = seen.bytes;
    CHECK(held > 0);
    REQUIRE(bitmill_model_loader_store_canary(loader, "int8", &h.texts, &h.error) == BITMILL_OK);
    bitmill_switch_record record = BITMILL_SWITCH_RECORD_INIT;
    REQUIRE(bitmill_model_loader_use_level(loader, "int8", &record, &h.error) == BITMILL_OK);
    CHECK(record.has_canary == 1);
    CHECK(record.canary_cosine > 0.9);
    CHECK(seen.bytes < held);
    REQUIRE(bitmill_model_loader_use_level(loader, "original", nullptr, &h.error) == BITMILL_OK);
    CHECK(seen.warnings.empty());
    std::filesystem::resize_file(h.encoder + "/int8/model.safetensors", 100);
    REQUIRE(bitmill_model_loader_use_level(loader, "int8", &record, &h.error) == BITMILL_OK);
    CHECK(std::string(record.effective) == "original");
    CHECK(record.fault == 1);
    CHECK(std::string(record.reason).find("model.safetensors") != std::string::npos);
    REQUIRE(seen.warnings.size() == 1);
    bitmill_model_loader_destroy(loader);
    CHECK(seen.bytes == 0);
    h.loader_options.no_fallback = 1;
    h.model_options.level = "int8";
    CHECK(h.open_loader() == BITMILL_BAD_INPUT);
    h.loader_options.no_fallback = 0;
    CHECK(h.open_loader() == BITMILL_OK);
}

TEST_CASE("loader: what is wrong is refused") {
    host h;
    bitmill_error* e = &h.error;
    const auto refused = [&](bitmill_status status, const char* part) {
        CHECK(status == BITMILL_INVALID_ARGUMENT);
        CAPTURE(h.error.message);
        CHECK(std::string(h.error.message).find(part) != std::string::npos);
    };
    bitmill_model_loader_destroy(h.loader);  // opening begins with NULL
    refused(bitmill_model_loader_open(nullptr, nullptr, &h.loader, e), "path is NULL");
    CHECK(h.loader == nullptr);
    refused(bitmill_model_loader_open("x", nullptr, nullptr, e), "loader is NULL");
    refused(bitmill_model_loader_use_level(nullptr, "int8", nullptr, e), "loader is NULL");
    refused(bitmill_model_loader_json(nullptr, nullptr, 0, nullptr, e), "loader is NULL");
    REQUIRE(bitmill_model_loader_open(h.encoder.c_str(), nullptr, &h.loader, e) == BITMILL_OK);
    refused(bitmill_model_loader_use_level(h.loader, nullptr, nullptr, e), "level is NULL");
    refused(bitmill_model_loader_use_level(h.loader, "int7", nullptr, e), "no level 'int7'");
    refused(bitmill_model_loader_get_last_switch(h.loader, nullptr, e), "NULL");
    refused(bitmill_model_loader_get_size_info(h.loader, nullptr, e), "NULL");
    refused(bitmill_model_loader_store_canary(h.loader, "int8", &h.texts, e), "no folder for a canary");
    refused(bitmill_model_loader_rerank(h.loader, nullptr, &h.texts, nullptr, nullptr, nullptr, 0, e),
            "query is NULL");
    h.loader_options.canary_count = 1;
    refused(h.open_loader(), "canary is NULL");
    h.loader_options.canary_count = 0;
    h.loader_options.retry_after_ms = INT64_MAX;
    refused(h.open_loader(), "2^40");
    h.loader_options.retry_after_ms = -1;
    CHECK(h.open_loader() == BITMILL_OK);
    const char* unknown = "int7";
    h.loader_options.capability = &unknown;
    h.loader_options.capability_count = 1;
    refused(h.open_loader(), "no level 'int7'");
    bitmill_model_loader_destroy(nullptr);
}
