// Models that share memory, through C: memory and time are the test's, and what the C++ library gives is the truth.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/mill/mill.hpp>
#include <bitmill/model/model_loader.hpp>
#include <bitmill/model/policy.hpp>
#include <bitmill/model/system_memory.hpp>
#include <bitmill/model/text_encoder.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

// A machine whose memory and clock the test sets, and a model with the levels fp16 (a cast), int8 and int4.
struct machine_host : host {
    static constexpr std::uint64_t total = std::uint64_t{16} << 30;
    double used = 0.1;
    std::int64_t ms = 3'600'000;
    bitmill_status answer = BITMILL_OK;
    bool more_than_all = false;
    int reads = 0, looks = 0;
    std::atomic<long> bytes{0};
    std::vector<std::string> infos, warnings;
    bitmill_manager* own = nullptr;

    machine_host() {
        bitmill::mill_options options;
        options.to = bitmill::scheme_type::int8;
        options.format = bitmill::format::bitmill;
        (void)bitmill::quantize(encoder, encoder + "/int8", options).value();
        hooks.memory_context = hooks.log_context = manager_options.machine_context = this;
        hooks.allocate = [](void* context, std::size_t count, std::size_t) -> void* {
            static_cast<machine_host*>(context)->bytes += static_cast<long>(count);
            return std::malloc(count);
        };
        hooks.deallocate = [](void* context, void* block, std::size_t count, std::size_t) {
            static_cast<machine_host*>(context)->bytes -= static_cast<long>(count);
            std::free(block);
        };
        hooks.log = [](void* context, bitmill_log_level level, const char* line) {
            auto& self = *static_cast<machine_host*>(context);
            (level == BITMILL_LOG_WARNING ? self.warnings : self.infos).emplace_back(line);
        };
        manager_options.read_memory = [](void* context, bitmill_system_memory* now) -> bitmill_status {
            auto& self = *static_cast<machine_host*>(context);
            ++self.reads;
            CHECK(now->struct_size == sizeof *now);
            now->total_bytes = total;
            now->available_bytes =
                self.more_than_all ? total + 1
                                   : static_cast<std::uint64_t>(static_cast<double>(total) * (1 - self.used));
            now->process_bytes = 12345;
            std::memset(now->limit, 'g', sizeof now->limit);  // without an end
            return self.answer;
        };
        manager_options.clock_ms = [](void* context) -> std::int64_t {
            ++static_cast<machine_host*>(context)->looks;
            return static_cast<machine_host*>(context)->ms;
        };
        manager_options.memory_interval_ms = -1;
        manager_options.working_bytes = 1;
        model_options.threads = 1;
        REQUIRE(bitmill_manager_create(&manager_options, &own, &error) == BITMILL_OK);
        REQUIRE(bitmill_manager_add_model(own, "one", encoder.c_str(), nullptr, &error) == BITMILL_OK);
    }
    ~machine_host() {
        bitmill_manager_destroy(own);
        CHECK(bytes == 0);
    }
    machine_host(const machine_host&) = delete;
    machine_host& operator=(const machine_host&) = delete;

    [[nodiscard]] bitmill_managed_model* load(const bitmill_load_request* asked = nullptr) {
        bitmill_managed_model* model = nullptr;
        const auto status = bitmill_manager_load_model(own, "one", asked, &model, &error);
        CAPTURE(error.message);
        REQUIRE(status == BITMILL_OK);
        return model;
    }
    std::vector<float> vectors_of(bitmill_managed_model* model) {
        std::vector<float> got(words.size() * encoder_hidden);
        REQUIRE(bitmill_model_loader_embed(bitmill_managed_model_loader(model), &texts, nullptr, got.data(),
                                           got.size(), &error) == BITMILL_OK);
        return got;
    }
    // What the level gives by itself.
    [[nodiscard]] std::vector<float> truth_of(const std::string& level) const {
        bitmill::model_options options;
        options.level = level;
        const std::string place = level.starts_with("int") ? encoder + "/int8" : encoder;
        const auto model = bitmill::text_encoder::open(place, options).value();
        const std::vector<std::string_view> views(words.begin(), words.end());
        std::vector<float> got(views.size() * encoder_hidden);
        model.embed(views, got).value();
        return got;
    }
    // The level that a request finds; its vectors are those of the level.
    std::string served(const bitmill_load_request* asked = nullptr) {
        bitmill_managed_model* model = load(asked);
        bitmill_policy_decision why = BITMILL_POLICY_DECISION_INIT;
        REQUIRE(bitmill_managed_model_get_decision(model, &why, &error) == BITMILL_OK);
        CHECK(vectors_of(model) == truth_of(why.level));
        CHECK(why.used <= 1);
        CHECK(std::string(why.explanation).find("memory in use") != std::string::npos);
        bitmill_managed_model_destroy(model);
        return why.level;
    }
    bitmill_managed_status about(const char* name = "one") {
        bitmill_managed_status got = BITMILL_MANAGED_STATUS_INIT;
        REQUIRE(bitmill_manager_get_model(own, name, &got, &error) == BITMILL_OK);
        return got;
    }
    bitmill_manager_status all() {
        bitmill_manager_status got = BITMILL_MANAGER_STATUS_INIT;
        REQUIRE(bitmill_manager_get_status(own, &got, &error) == BITMILL_OK);
        return got;
    }
    void refused(bitmill_status status, const std::string& part,
                 bitmill_status code = BITMILL_INVALID_ARGUMENT) {
        CHECK(status == code);
        CAPTURE(error.message);
        CHECK(std::string(error.message).find(part) != std::string::npos);
    }
};

// tell(dst, dst_bytes, needed_bytes) -> status
template <class Tell>
nlohmann::json told_json(const Tell& tell) {
    std::size_t needed = 0;
    REQUIRE(tell(nullptr, 0, &needed) == BITMILL_OK);
    std::string text(needed, '#');
    CHECK(tell(text.data(), needed - 1, nullptr) == BITMILL_INVALID_ARGUMENT);
    REQUIRE(tell(text.data(), needed, nullptr) == BITMILL_OK);
    CHECK(text.back() == '\0');
    text.pop_back();
    return nlohmann::json::parse(text);
}
template <class Handle>
nlohmann::json told_of(const Handle* handle, bitmill_status (*tell)(const Handle*, char*, std::size_t,
                                                                    std::size_t*, bitmill_error*)) {
    return told_json([&](char* dst, std::size_t bytes, std::size_t* needed) {
        return tell(handle, dst, bytes, needed, nullptr);
    });
}

}  // namespace

TEST_CASE("manager in C: memory walks a model down at once and up again after a while") {
    // EXACT
    machine_host h;
    CHECK(h.served() == "fp16");
    const auto at = [&](double used) {
        h.used = used;
        return h.served();
    };
    CHECK(at(0.5) == "int8");
    CHECK(at(0.7) == "int4");
    CHECK(at(0.1) == "int4");  // it has served for no time
    h.ms += 31'000;
    CHECK(at(0.37) == "int8");  // fp16 only where it stays right with a little more
    h.ms += 31'000;
    CHECK(at(0.3) == "fp16");
    CHECK(h.reads > 5);
    CHECK(h.looks > 5);
    CHECK(h.infos.size() == 5);
    CHECK(h.warnings.empty());

    const auto json = told_of(h.own, bitmill_manager_status_json);
    std::vector<std::string> walk;
    for (const auto& one : json.at("switches")) walk.push_back(one.at("to"));
    CHECK(walk == std::vector<std::string>{"fp16", "int8", "int4", "int8", "fp16"});
    const bitmill_manager_status status = h.all();
    CHECK(status.total_bytes == machine_host::total);
    CHECK(status.process_bytes == 12345);
    CHECK(status.models == 1);
    CHECK(status.loaded == 1);
    CHECK(status.active_requests == 0);
    CHECK(json.at("recommended_level") == status.recommended_level);
    CHECK(json.at("recommended_reason") == status.recommended_reason);
    CHECK(json.at("memory").at("limit") == std::string(sizeof h.memory.limit, 'g'));
    const bitmill_managed_status one = h.about();
    CHECK(one.bytes == status.current_bytes);
    CHECK(one.loaded == 1);
    CHECK(one.in_use == 0);
    CHECK(json.at("models").at(0).at("access_count") == one.access_count);
    CHECK(json.at("models").at(0).at("level") == one.level);
    const auto memory = told_of(h.own, bitmill_manager_memory_json);
    CHECK(memory.at("total_gb") == 16);
    CHECK(memory.at("percent_used") == doctest::Approx(30).epsilon(0.001));
    const auto cache = told_of(h.own, bitmill_manager_cache_json);
    CHECK(cache.at("models_cached") == 1);
    CHECK(cache.at("evictions") == status.evictions);
    CHECK(cache.at("max_size_mb") == 8000);
}

TEST_CASE("manager in C: force, floor, priority, load and thresholds") {
    machine_host h;
    bitmill_load_request asked = BITMILL_LOAD_REQUEST_INIT;
    h.used = 0.5;
    asked.priority = "quality";
    CHECK(h.served(&asked) == "fp16");
    asked.priority = "speed";
    CHECK(h.served(&asked) == "int4");
    asked.priority = nullptr;
    asked.min_quantization = "int8";
    CHECK(h.served(&asked) == "int8");
    asked.min_quantization = nullptr;
    asked.force_quantization = "int2";
    bitmill_managed_model* none = h.managed;  // a failure has something to clear
    h.refused(bitmill_manager_load_model(h.own, "one", &asked, &none, &h.error), "int2", BITMILL_UNSUPPORTED);
    CHECK(none == nullptr);
    asked.force_quantization = nullptr;
    asked.priority = "best";
    h.refused(bitmill_manager_load_model(h.own, "one", &asked, &none, &h.error), "best");
    asked.priority = nullptr;
    // Seven are at work, as the host says or as the manager counts.
    asked.has_active_requests = 1;
    asked.active_requests = 7;
    CHECK(h.served(&asked) == "int4");
    h.used = 0.1;
    h.ms += 60'000;
    asked.active_requests = 1;
    CHECK(h.served(&asked) == "fp16");
    std::vector<bitmill_managed_model*> at_work;
    for (int i = 0; i < 7; ++i) at_work.push_back(h.load());
    CHECK(h.all().active_requests == 7);
    CHECK(std::string(h.about().level) == "int4");
    CHECK(h.about().in_use == 1);
    for (auto* one : at_work) bitmill_managed_model_destroy(one);
    CHECK(h.all().active_requests == 0);

    h.ms += 60'000;
    bitmill_policy_thresholds limits = BITMILL_POLICY_THRESHOLDS_INIT;
    limits.comfortable = 0.05;
    REQUIRE(bitmill_manager_set_thresholds(h.own, &limits, &h.error) == BITMILL_OK);
    CHECK(told_of(h.own, bitmill_manager_status_json).at("thresholds").at("comfortable") == 0.05);
    CHECK(h.served() == "int8");
    limits.comfortable = 0.9;
    h.refused(bitmill_manager_set_thresholds(h.own, &limits, &h.error), "rise");
    CHECK(told_of(h.own, bitmill_manager_status_json).at("thresholds").at("comfortable") == 0.05);
    REQUIRE(bitmill_manager_set_thresholds(h.own, nullptr, &h.error) == BITMILL_OK);
    CHECK(told_of(h.own, bitmill_manager_status_json).at("thresholds").at("comfortable") == 0.4);
}

TEST_CASE("manager in C: the cache, pins, and models by name") {
    machine_host h;
    REQUIRE(bitmill_manager_warm_model(h.own, "one", nullptr, &h.error) == BITMILL_OK);
    CHECK(h.about().loaded == 1);
    CHECK(h.about().access_count > 0);
    REQUIRE(bitmill_manager_clear_cache(h.own, &h.error) == BITMILL_OK);
    CHECK(h.about().loaded == 0);
    CHECK(h.all().current_bytes == 0);
    REQUIRE(bitmill_manager_pin_model(h.own, "one", 1, &h.error) == BITMILL_OK);
    REQUIRE(bitmill_manager_warm_model(h.own, "one", nullptr, &h.error) == BITMILL_OK);
    REQUIRE(bitmill_manager_clear_cache(h.own, &h.error) == BITMILL_OK);
    CHECK(h.about().loaded == 1);
    CHECK(h.about().pinned == 1);
    REQUIRE(bitmill_manager_pin_model(h.own, "one", 0, &h.error) == BITMILL_OK);
    CHECK(h.about().pinned == 0);
    CHECK(h.all().evictions == 0);
    REQUIRE(bitmill_manager_set_max_cache_bytes(h.own, 1000, &h.error) == BITMILL_OK);
    CHECK(h.about().loaded == 0);
    CHECK(h.all().evictions == 1);
    CHECK(h.all().max_cache_bytes == 1000);
    REQUIRE(bitmill_manager_set_max_cache_bytes(h.own, 1'000'000'000, &h.error) == BITMILL_OK);

    h.refused(bitmill_manager_add_model(h.own, "one", h.encoder.c_str(), nullptr, &h.error), "one");
    h.managed_options.pinned = 1;
    REQUIRE(bitmill_manager_add_model(h.own, "two", h.encoder.c_str(), &h.managed_options, &h.error) ==
            BITMILL_OK);
    CHECK(h.about("two").pinned == 1);
    CHECK(h.all().models == 2);
    CHECK(h.all().loaded == 0);
    REQUIRE(bitmill_manager_refresh_model(h.own, "two", &h.error) == BITMILL_OK);
    REQUIRE(bitmill_manager_remove_model(h.own, "two", &h.error) == BITMILL_OK);
    h.refused(bitmill_manager_remove_model(h.own, "two", &h.error), "no model 'two'");
    h.refused(bitmill_manager_pin_model(h.own, "two", 1, &h.error), "no model 'two'");
    h.refused(bitmill_manager_refresh_model(h.own, "two", &h.error), "no model 'two'");
    h.refused(bitmill_manager_warm_model(h.own, "two", nullptr, &h.error), "no model 'two'");
    h.refused(bitmill_manager_get_model(h.own, "two", &h.of_managed, &h.error), "no model 'two'");
    h.managed_options.has_max_drift = 1;
    h.refused(bitmill_manager_add_model(h.own, "two", h.encoder.c_str(), &h.managed_options, &h.error),
              "max_drift");
    const char* const drift[] = {"abc", "hello"};
    h.managed_options.drift_texts = drift;
    h.managed_options.drift_texts_count = 2;
    CHECK(bitmill_manager_add_model(h.own, "two", h.encoder.c_str(), &h.managed_options, &h.error) ==
          BITMILL_OK);
    h.refused(bitmill_manager_add_model(h.own, "three", h.models.c_str(), nullptr, &h.error),
              "holds no model", BITMILL_BAD_INPUT);
}

TEST_CASE("manager in C: a level's vectors have a space, whoever tells it") {
    machine_host h;
    h.used = 0.5;
    bitmill_managed_model* model = h.load();
    const bitmill_managed_status status = h.about();
    CHECK(std::string(status.level) == "int8");
    bitmill_text_encoder* by_itself = nullptr;
    h.model_options.level = "int8";
    REQUIRE(bitmill_text_encoder_open((h.encoder + "/int8").c_str(), &h.model_options, &by_itself,
                                      &h.error) == BITMILL_OK);
    std::string ids[2];
    for (auto& id : ids) id.assign(65, '#');
    std::size_t needed = 0;
    REQUIRE(bitmill_text_encoder_space_id(by_itself, ids[0].data(), 65, &needed, &h.error) == BITMILL_OK);
    CHECK(needed == 65);
    REQUIRE(bitmill_model_loader_space_id(bitmill_managed_model_loader(model), ids[1].data(), 65, nullptr,
                                          &h.error) == BITMILL_OK);
    CHECK(ids[0] == ids[1]);
    CHECK(std::string(status.space_id) == ids[0].c_str());
    h.refused(bitmill_text_encoder_space_id(by_itself, ids[0].data(), 64, nullptr, &h.error), "65");
    h.refused(bitmill_text_encoder_space_id(nullptr, nullptr, 0, nullptr, &h.error), "encoder is NULL");
    h.refused(bitmill_model_loader_space_id(nullptr, nullptr, 0, nullptr, &h.error), "loader is NULL");
    // The host's own encoder is the original: another space.
    REQUIRE(bitmill_text_encoder_space_id(h.text_encoder, ids[0].data(), 65, nullptr, &h.error) ==
            BITMILL_OK);
    CHECK(ids[0] != ids[1]);
    bitmill_text_encoder_destroy(by_itself);
    bitmill_managed_model_destroy(model);
}

TEST_CASE("manager in C: what was handed out may outlive it, with all that the host lends") {
    machine_host h;
    bitmill_managed_model* model = h.load();
    const auto truth = h.vectors_of(model);
    CHECK(h.bytes > 0);
    bitmill_manager_destroy(h.own);
    h.own = nullptr;
    CHECK(h.bytes > 0);
    CHECK(h.vectors_of(model) == truth);
    bitmill_managed_model_destroy(model);
    CHECK(h.bytes == 0);
}

TEST_CASE("manager in C: a host that cannot tell its memory") {
    machine_host h;
    bitmill_managed_model* none = nullptr;
    h.answer = BITMILL_CANCELLED;
    h.refused(bitmill_manager_load_model(h.own, "one", nullptr, &none, &h.error), "read_memory returned 6",
              BITMILL_CANCELLED);
    for (const bitmill_status wrong : {-1, 99, INT32_MIN, INT32_MAX, static_cast<int>(BITMILL_INTERNAL)}) {
        h.answer = wrong;
        h.refused(bitmill_manager_load_model(h.own, "one", nullptr, &none, &h.error),
                  "read_memory returned " + std::to_string(wrong), BITMILL_IO);
    }
    h.answer = BITMILL_OK;
    h.more_than_all = true;
    h.refused(bitmill_manager_get_status(h.own, &h.of_manager, &h.error), "are available", BITMILL_BAD_INPUT);
    h.more_than_all = false;
    h.used = 1;
    h.refused(bitmill_manager_load_model(h.own, "one", nullptr, &none, &h.error), "free memory",
              BITMILL_OUT_OF_MEMORY);
    CHECK(none == nullptr);
}

TEST_CASE("manager in C: a clock with strange numbers") {
    machine_host h;
    for (const std::int64_t time : {INT64_MIN, std::int64_t{-1}, std::int64_t{0}, INT64_MAX}) {
        h.ms = time;
        CHECK(h.served() == "fp16");
    }
}

TEST_CASE("manager in C: what a model would get") {
    machine_host h;
    h.used = 0.5;
    bitmill_level_estimate estimate = BITMILL_LEVEL_ESTIMATE_INIT;
    REQUIRE(bitmill_manager_calculate(h.own, 1e8, nullptr, &estimate, &h.error) == BITMILL_OK);
    CHECK(std::string(estimate.level) == "int8");
    CHECK(estimate.parameters == 1e8);
    CHECK(estimate.bits_per_weight == 8);
    CHECK(estimate.bytes == 100'000'000);
    CHECK(estimate.projected > 0.5);
    const auto json = told_json([&](char* dst, std::size_t bytes, std::size_t* needed) {
        return bitmill_manager_calculate_json(h.own, 1e8, nullptr, dst, bytes, needed, nullptr);
    });
    CHECK(json.at("level") == estimate.level);
    CHECK(json.at("rule") == estimate.rule);
    CHECK(json.at("explanation") == estimate.explanation);
    h.refused(bitmill_manager_calculate(h.own, -1, nullptr, &estimate, &h.error), "parameters");
    CHECK(estimate.bytes == 0);
    h.refused(bitmill_manager_calculate(h.own, 1e15, nullptr, &estimate, &h.error), "left",
              BITMILL_OUT_OF_MEMORY);
}

TEST_CASE("manager in C: what is wrong is refused") {
    machine_host h;
    bitmill_error* const e = &h.error;
    h.refused(bitmill_manager_create(nullptr, nullptr, e), "manager is NULL");
    bitmill_manager* made = h.own;
    h.manager_options.memory_interval_ms = INT64_MAX;
    h.refused(bitmill_manager_create(&h.manager_options, &made, e), "memory_interval_ms may be 2^40");
    CHECK(made == nullptr);
    h.manager_options.memory_interval_ms = 0;
    h.thresholds.dwell_ms = INT64_MAX;
    h.refused(h.create_manager(), "dwell_ms may be 2^40");
    h.thresholds.dwell_ms = -1;
    CHECK(h.create_manager() == BITMILL_OK);
    h.thresholds.hysteresis = -1;
    CHECK(h.create_manager() == BITMILL_OK);
    h.thresholds.high_load_level = "int7";
    h.refused(h.create_manager(), "int7");
    h.thresholds.high_load_level = "int2";
    CHECK(h.create_manager() == BITMILL_OK);
    const char* unknown = "int7";
    h.manager_options.capability = &unknown;
    h.manager_options.capability_count = 1;
    h.refused(h.create_manager(), "int7");
    unknown = nullptr;
    h.refused(h.create_manager(), "capability holds a NULL");
    h.manager_options.capability = nullptr;
    h.refused(h.create_manager(), "capability is NULL");
    h.refused(bitmill_manager_add_model(nullptr, "a", "b", nullptr, e), "manager is NULL");
    h.refused(bitmill_manager_add_model(h.own, nullptr, "b", nullptr, e), "name is NULL");
    h.refused(bitmill_manager_add_model(h.own, "a", nullptr, nullptr, e), "path is NULL");
    h.refused(bitmill_manager_load_model(h.own, "one", nullptr, nullptr, e), "model is NULL");
    h.refused(bitmill_manager_get_status(nullptr, &h.of_manager, e), "manager is NULL");
    h.refused(bitmill_manager_get_status(h.own, nullptr, e), "bitmill_manager_status is NULL");
    h.refused(bitmill_manager_status_json(nullptr, nullptr, 0, nullptr, e), "manager is NULL");
    h.refused(bitmill_manager_clear_cache(nullptr, e), "manager is NULL");
    h.refused(bitmill_managed_model_get_decision(nullptr, &h.decision, e), "model is NULL");
    CHECK(bitmill_managed_model_loader(nullptr) == nullptr);
    bitmill_managed_model_destroy(nullptr);
    bitmill_manager_destroy(nullptr);
}

TEST_CASE("policy in C: it decides what the C++ library decides") {
    // EXACT
    const char* const names[] = {"fp16", "int8", "int4"};
    const std::uint64_t peaks[] = {20, 10, 6};
    for (const std::uint64_t other : {10u, 45u, 65u, 80u, 90u, 95u})
        for (const unsigned requests : {0u, 3u, 7u, 12u})
            for (const char* priority : {"quality", "balanced", "speed"}) {
                bitmill_policy_input c = BITMILL_POLICY_INPUT_INIT;
                c.total_bytes = 100;
                c.other_bytes = other;
                c.active_requests = requests;
                c.priority = priority;
                c.levels = names;
                c.peak_bytes = peaks;
                c.levels_count = 3;
                c.current = "int4";
                c.since_switch_ms = UINT64_MAX;
                bitmill::policy_input input;
                input.total_bytes = 100;
                input.other_bytes = other;
                input.active_requests = requests;
                input.priority = bitmill::task_priority_from_text(priority).value();
                input.sizes = {{"fp16", 20}, {"int8", 10}, {"int4", 6}};
                input.current = "int4";
                input.since_switch = std::chrono::hours(1);
                const auto truth = bitmill::choose_level(input);
                bitmill_policy_decision decision = BITMILL_POLICY_DECISION_INIT;
                bitmill_error error = BITMILL_ERROR_INIT;
                const auto status = bitmill_choose_level(&c, nullptr, &decision, &error);
                REQUIRE((status == BITMILL_OK) == static_cast<bool>(truth));
                if (!truth) {
                    CHECK(status == BITMILL_OUT_OF_MEMORY);
                    continue;
                }
                CHECK(truth->level == decision.level);
                CHECK(truth->rule == decision.rule);
                CHECK(truth->explanation == decision.explanation);
                CHECK(truth->used == decision.used);
                CHECK(truth->projected == decision.projected);
            }
}

TEST_CASE("policy in C: names, numbers and NULLs that are wrong") {
    machine_host h;
    h.policy_input.force = "int7";
    h.refused(h.choose_level(), "int7");
    h.policy_input.force = nullptr;
    h.policy_input.priority = "hurry";
    h.refused(h.choose_level(), "hurry");
    h.policy_input.priority = nullptr;
    const char* level = "int8";
    h.policy_input.levels = &level;
    h.policy_input.levels_count = 1;
    h.refused(h.choose_level(), "peak_bytes is NULL");
    const std::uint64_t peak = 101;
    h.policy_input.peak_bytes = &peak;
    h.decision.projected = 7;
    h.refused(h.choose_level(), "101", BITMILL_OUT_OF_MEMORY);
    CHECK(h.decision.projected == 0);
    h.policy_input.levels = nullptr;
    h.refused(h.choose_level(), "levels is NULL");
    h.policy_input.levels_count = 0;
    h.thresholds.load_low = 6;
    h.refused(h.choose_level(), "load must rise");
    h.thresholds.load_low = 0;
    CHECK(h.choose_level() == BITMILL_OK);
    h.policy_input_at = nullptr;
    h.refused(h.choose_level(), "bitmill_policy_input is NULL");
    h.memory_at = nullptr;
    h.refused(h.system_memory(), "bitmill_system_memory is NULL");
}

TEST_CASE("levels and memory in C: those that the C++ library finds") {
    machine_host h;
    const auto truth = bitmill::find_levels(h.encoder).value();
    bitmill_found_levels* levels = nullptr;
    REQUIRE(bitmill_find_levels(h.encoder.c_str(), nullptr, &levels, &h.error) == BITMILL_OK);
    REQUIRE(bitmill_found_levels_count(levels) == truth.size());
    CHECK(truth.size() == 4);
    bitmill_found_level one = BITMILL_FOUND_LEVEL_INIT;
    for (std::size_t i = 0; i < truth.size(); ++i) {
        REQUIRE(bitmill_found_levels_get(levels, i, &one, &h.error) == BITMILL_OK);
        CHECK(truth[i].level == one.level);
        CHECK(truth[i].path == one.path);
        CHECK(truth[i].cast == (one.cast == 1));
        CHECK(truth[i].file_bytes == one.file_bytes);
        CHECK(truth[i].fault == one.fault);
    }
    h.refused(bitmill_found_levels_get(levels, truth.size(), &one, &h.error), "no level 4, of 4");
    CHECK(one.level == nullptr);
    h.refused(bitmill_found_levels_get(levels, UINT64_MAX, &one, &h.error), "no level");
    h.refused(bitmill_found_levels_get(nullptr, 0, &one, &h.error), "levels is NULL");
    bitmill_found_levels_destroy(levels);
    h.refused(bitmill_find_levels(nullptr, nullptr, &levels, &h.error), "path is NULL");
    CHECK(levels == nullptr);
    h.refused(bitmill_find_levels("x", nullptr, nullptr, &h.error), "levels is NULL");
    CHECK(bitmill_find_levels(h.models.c_str(), nullptr, &levels, &h.error) == BITMILL_BAD_INPUT);
    CHECK(bitmill_found_levels_count(nullptr) == 0);
    bitmill_found_levels_destroy(nullptr);

    CHECK(h.system_memory() == BITMILL_OK);
    const auto memory = bitmill::read_system_memory().value();
    CHECK(h.memory.total_bytes == memory.total_bytes);
    CHECK(h.memory.limit == memory.limit);
    CHECK(h.memory.available_bytes <= h.memory.total_bytes);
    CHECK(h.memory.process_bytes > 0);
}
