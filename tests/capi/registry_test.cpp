// The registry through C: what it does and says is what the C++ registry does and says.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/model/registry.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

// The models roberta-base, which its type leads to, and tiny.
struct registry_host : host {
    std::vector<std::string> warnings;
    std::int64_t us = 1709618828009010;  // 2024-03-05 06:07:08.009010 UTC
    std::atomic<long> bytes{0};
    bitmill_registry* own = nullptr;

    registry_host() {
        put_encoder(models + "/roberta-base");
        hooks.memory_context = hooks.log_context = registry_options.clock_context = this;
        hooks.allocate = [](void* context, std::size_t count, std::size_t) -> void* {
            static_cast<registry_host*>(context)->bytes += static_cast<long>(count);
            return std::malloc(count);
        };
        hooks.deallocate = [](void* context, void* block, std::size_t count, std::size_t) {
            static_cast<registry_host*>(context)->bytes -= static_cast<long>(count);
            std::free(block);
        };
        hooks.log = [](void* context, bitmill_log_level level, const char* line) {
            if (level == BITMILL_LOG_WARNING)
                static_cast<registry_host*>(context)->warnings.emplace_back(line);
        };
        registry_options.unix_us = [](void* context) -> std::int64_t {
            return static_cast<registry_host*>(context)->us;
        };
        quantize_options.threads = 1;
        REQUIRE(bitmill_registry_open(models.c_str(), &registry_options, &own, &error) == BITMILL_OK);
    }
    ~registry_host() {
        bitmill_registry_destroy(own);
        CHECK(bytes == 0);
    }
    registry_host(const registry_host&) = delete;
    registry_host& operator=(const registry_host&) = delete;

    void refused(bitmill_status status, const std::string& part,
                 bitmill_status code = BITMILL_INVALID_ARGUMENT) {
        CHECK(status == code);
        CAPTURE(error.message);
        CHECK(std::string(error.message).find(part) != std::string::npos);
    }
    bitmill_status quantize(const char* name, const bitmill_mill_options* options = nullptr) {
        return bitmill_registry_quantize(own, name, options, &outcome, nullptr, &error);
    }
};

// tell(dst, dst_bytes, needed_bytes) -> status
template <class Tell>
std::string account_of(const Tell& tell) {
    std::size_t needed = 0;
    REQUIRE(tell(nullptr, 0, &needed) == BITMILL_OK);
    std::string text(needed, '#');
    CHECK(tell(text.data(), needed - 1, nullptr) == BITMILL_INVALID_ARGUMENT);
    REQUIRE(tell(text.data(), needed, nullptr) == BITMILL_OK);
    CHECK(text.back() == '\0');
    text.pop_back();
    return text;
}

std::string found_in(bitmill_registry* registry, const char* name) {
    return account_of([&](char* dst, std::size_t bytes, std::size_t* needed) {
        return bitmill_registry_find_json(registry, name, dst, bytes, needed, nullptr);
    });
}

std::string listed_in(bitmill_registry* registry) {
    return account_of([&](char* dst, std::size_t bytes, std::size_t* needed) {
        return bitmill_registry_list_json(registry, dst, bytes, needed, nullptr);
    });
}

std::string active_in(const bitmill_registry* registry) {
    return account_of([&](char* dst, std::size_t bytes, std::size_t* needed) {
        return bitmill_registry_active_json(registry, dst, bytes, needed, nullptr);
    });
}

}  // namespace

TEST_CASE("registry in C: models, types and their records are the C++ registry's") {
    // EXACT
    registry_host h;
    const auto made = nlohmann::json::parse(found_in(h.own, "roberta"));
    CHECK(made.at("model_name") == "roberta-base");
    CHECK(made.at("version") == "hf_20240305_060708");  // the host's clock
    CHECK(made.at("created_at") == "2024-03-05T06:07:08.009010+00:00");
    auto truth = bitmill::model_registry::open(h.models).value();
    CHECK(found_in(h.own, "roberta-base") == truth.find("roberta-base").value().json());
    CHECK(listed_in(h.own) == truth.list().value().json());
    CHECK(nlohmann::json::parse(listed_in(h.own)).at("models").size() == 2);
    CHECK(account_of([&](char* dst, std::size_t bytes, std::size_t* needed) {
              return bitmill_registry_path(h.own, "roberta", dst, bytes, needed, nullptr);
          }) == truth.path_of("roberta").value());

    REQUIRE(bitmill_registry_register_model(h.own, "small", "tiny", &h.error) == BITMILL_OK);
    CHECK(nlohmann::json::parse(found_in(h.own, "small")).at("model_name") == "tiny");
    CHECK(active_in(h.own) == truth.active().json());
    for (const char* level : {"int4", static_cast<const char*>(nullptr)}) {
        REQUIRE(bitmill_registry_set_active(h.own, "roberta", 1, level, &h.error) == BITMILL_OK);
        truth.set_active("roberta", true, level == nullptr ? "" : level).value();
        CHECK(active_in(h.own) == truth.active().json());
        CHECK(nlohmann::json::parse(active_in(h.own)).size() == 1);
    }
    REQUIRE(bitmill_registry_set_active(h.own, "roberta", 0, nullptr, &h.error) == BITMILL_OK);
    CHECK(nlohmann::json::parse(active_in(h.own)).empty());
    CHECK(h.warnings.empty());
}

TEST_CASE("registry in C: what is quantized, once, and what is said of it") {
    registry_host h;
    bitmill_report* report = nullptr;
    REQUIRE(bitmill_registry_quantize(h.own, "roberta", nullptr, &h.outcome, &report, &h.error) ==
            BITMILL_OK);
    CHECK(std::string(h.outcome.message) == "Successfully quantized roberta-base model");
    CHECK(std::string(h.outcome.model_name) == "roberta-base");
    CHECK(std::string(h.outcome.level) == "int8");
    CHECK(std::string(h.outcome.job_id).size() == 16);
    CHECK(h.outcome.did_work == 1);
    CHECK(h.outcome.is_quantized == 1);
    CHECK(h.outcome.already_quantized == 0);
    const std::string id = h.outcome.job_id;
    std::size_t needed = 0;
    REQUIRE(bitmill_report_json(report, nullptr, 0, &needed, nullptr) == BITMILL_OK);
    std::string text(needed, '#');
    REQUIRE(bitmill_report_json(report, text.data(), needed, nullptr, nullptr) == BITMILL_OK);
    bitmill_report_destroy(report);
    text.pop_back();
    const auto json = nlohmann::json::parse(text);
    CHECK(json.at("message") == "Successfully quantized roberta-base model");
    CHECK(json.at("quantization").at("job_id") == id);
    CHECK(json.at("quantization").at("format") == "bitmill");
    CHECK(json.at("quantization").at("bytes").get<std::uint64_t>() > 0);
    CHECK(std::filesystem::exists(h.models + "/roberta-base/int8/manifest.json"));

    REQUIRE(h.quantize("roberta-base") == BITMILL_OK);
    CHECK(std::string(h.outcome.message) == "Model roberta-base is already quantized");
    CHECK(h.outcome.already_quantized == 1);
    CHECK(h.outcome.did_work == 0);
    CHECK(h.outcome.job_id == id);
    CHECK(nlohmann::json::parse(found_in(h.own, "roberta")).at("levels") ==
          nlohmann::json{"original", "int8", "int4"});
    // Another request for the same level replaces what it finds; outcome and report may be NULL.
    h.quantize_options.to = "int8";
    REQUIRE(bitmill_registry_quantize(h.own, "roberta", &h.quantize_options, nullptr, nullptr, &h.error) ==
            BITMILL_OK);
    CHECK(nlohmann::json::parse(found_in(h.own, "roberta")).at("levels") ==
          nlohmann::json{"original", "int8"});
}

TEST_CASE("registry in C: a job is seen while it runs, and can be cancelled") {
    registry_host h;
    struct watcher {
        bitmill_registry* registry = nullptr;
        bitmill_quantize_job job = BITMILL_QUANTIZE_JOB_INIT;
        int seen = 0;
        std::int32_t stops = 0;
    } watch;
    watch.registry = h.own;
    h.hooks.progress_context = &watch;
    h.hooks.progress = [](void* context, std::uint64_t, std::uint64_t) -> std::int32_t {
        auto& self = *static_cast<watcher*>(context);
        bitmill_quantize_job job = BITMILL_QUANTIZE_JOB_INIT;
        CHECK(bitmill_registry_get_job(self.registry, 1, &job, nullptr) == BITMILL_INVALID_ARGUMENT);
        if (bitmill_registry_get_job(self.registry, 0, &job, nullptr) == BITMILL_OK) {
            ++self.seen;
            self.job = job;
        }
        return self.stops;
    };
    watch.stops = 1;
    h.outcome.did_work = 7;
    CHECK(h.quantize("tiny", &h.quantize_options) == BITMILL_CANCELLED);
    CHECK(h.outcome.did_work == 0);
    CHECK_FALSE(std::filesystem::exists(h.models + "/tiny/int8"));
    watch.stops = 0;
    CHECK(h.quantize("tiny", &h.quantize_options) == BITMILL_OK);
    CHECK(watch.seen > 0);
    CHECK(std::string(watch.job.id) == h.outcome.job_id);
    CHECK(std::string(watch.job.level) == "int8");
    CHECK(std::string(watch.job.model_name) == "tiny");
    CHECK(watch.job.done_bytes <= watch.job.total_bytes);
    h.refused(bitmill_registry_get_job(h.own, 0, &watch.job, &h.error), "no job 0, of 0");
    CHECK(watch.job.total_bytes == 0);
    h.refused(bitmill_registry_get_job(h.own, UINT64_MAX, &watch.job, &h.error), "no job");
    h.refused(bitmill_registry_get_job(h.own, 0, nullptr, &h.error), "bitmill_quantize_job is NULL");
}

TEST_CASE("registry in C: strange clocks") {
    registry_host h;
    for (const auto& [us, version] : {std::pair{INT64_MIN, "hf_19700101_000000"}, {INT64_MAX, "hf_2255"}}) {
        h.us = us;
        std::filesystem::remove(h.models + "/tiny/metadata.json");
        const std::string made = nlohmann::json::parse(found_in(h.own, "tiny")).at("version");
        CHECK(made.starts_with(version));
    }
}

TEST_CASE("registry in C: what is wrong is refused") {
    registry_host h;
    bitmill_error* const e = &h.error;
    bitmill_registry* made = h.own;
    h.refused(bitmill_registry_open(nullptr, nullptr, &made, e), "root is NULL");
    CHECK(made == nullptr);
    h.refused(bitmill_registry_open(h.models.c_str(), nullptr, nullptr, e), "registry is NULL");
    CHECK(bitmill_registry_open((h.models + "/none").c_str(), nullptr, &made, e) == BITMILL_IO);
    h.refused(bitmill_registry_register_model(h.own, nullptr, "tiny", e), "type is NULL");
    h.refused(bitmill_registry_register_model(h.own, "small", nullptr, e), "model_name is NULL");
    h.refused(bitmill_registry_register_model(nullptr, "small", "tiny", e), "registry is NULL");
    CHECK(bitmill_registry_register_model(h.own, "a/b", "tiny", e) == BITMILL_INVALID_ARGUMENT);
    std::size_t needed = 7;
    h.refused(bitmill_registry_path(h.own, "none", nullptr, 0, &needed, e), "none");
    CHECK(needed == 0);
    h.refused(bitmill_registry_path(h.own, nullptr, nullptr, 0, &needed, e), "type_or_name is NULL");
    h.refused(bitmill_registry_find_json(h.own, "../models/tiny", nullptr, 0, nullptr, e), "tiny");
    h.refused(bitmill_registry_list_json(nullptr, nullptr, 0, nullptr, e), "registry is NULL");
    h.refused(bitmill_registry_active_json(nullptr, nullptr, 0, nullptr, e), "registry is NULL");
    h.refused(bitmill_registry_set_active(h.own, "none", 1, nullptr, e), "no type 'none'");
    h.refused(bitmill_registry_set_active(h.own, "roberta", 1, "int7", e), "int7");
    h.refused(bitmill_registry_set_active(h.own, nullptr, 1, nullptr, e), "type is NULL");
    bitmill_report* report = h.report;
    h.refused(bitmill_registry_quantize(h.own, "none", nullptr, &h.outcome, &report, e),
              "Model none not found or not supported for quantization");
    CHECK(report == nullptr);
    h.refused(h.quantize(nullptr), "type_or_name is NULL");
    h.quantize_options.to = "both";
    h.refused(h.quantize("tiny", &h.quantize_options), "both");
    h.quantize_options.to = nullptr;
    h.refused(h.quantize("tiny", &h.quantize_options), "bitmill_mill_options.to is NULL");
    h.quantize_options.to = "int8";
    h.quantize_options.dry_run = 1;
    h.refused(h.quantize("tiny", &h.quantize_options), "Error during quantization: ");
    h.quantize_options.dry_run = 0;
    CHECK(h.quantize("tiny", &h.quantize_options) == BITMILL_OK);
    bitmill_registry_destroy(nullptr);
}
