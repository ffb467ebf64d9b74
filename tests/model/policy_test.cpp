// The level that a model should have: the table row by row, and what holds of every decision on a grid.
#include <bitmill/model/policy.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using bitmill::choose_level;
using bitmill::error_code;
using bitmill::policy_input;
using bitmill::policy_thresholds;
using bitmill::task_priority;

namespace {

constexpr std::uint64_t total = 100000;
constexpr std::array<const char*, 4> order{"fp16", "int8", "int4", "int2"};

std::size_t rank_of(const std::string& level) {
    return static_cast<std::size_t>(std::find(order.begin(), order.end(), level) - order.begin());
}

policy_input at(std::uint64_t other, unsigned requests, task_priority priority = task_priority::balanced) {
    policy_input in;
    in.total_bytes = total;
    in.other_bytes = other;
    in.active_requests = requests;
    in.priority = priority;
    return in;
}

// A model of 7 billion weights in 64 GB: the peaks are 16, 9, 5 and 3 GB.
policy_input sized(std::uint64_t other, unsigned requests, task_priority priority = task_priority::balanced) {
    policy_input in = at(other, requests, priority);
    in.sizes = {{"fp16", 25000}, {"int8", 14063}, {"int4", 7813}, {"int2", 4688}};
    return in;
}

std::string level_of(const policy_input& in, const policy_thresholds& limits = {}) {
    return choose_level(in, limits).value().level;
}

}  // namespace

TEST_CASE("policy: the table, its edges and its reasons") {
    struct row {
        std::uint64_t used;  // of 100000
        unsigned requests;
        const char* level;
        const char* reason;
    };
    const row table[] = {
        {0, 0, "fp16", "best quality"},   {39999, 1, "fp16", "best quality"}, {39999, 2, "int8", "balanced"},
        {0, 5, "int8", "balanced"},       {0, 6, "int4", "efficient"},        {0, 9, "int4", "efficient"},
        {0, 10, "int4", "efficient"},     {0, 1000, "int4", "efficient"},     {40000, 0, "int8", "balanced"},
        {59999, 1, "int8", "balanced"},   {40000, 2, "int4", "efficient"},    {59999, 5, "int4", "efficient"},
        {59999, 10, "int4", "efficient"}, {60000, 0, "int4", "required"},     {74999, 50, "int4", "required"},
        {75000, 0, "int4", "critical"},   {84999, 9, "int4", "critical"},     {84999, 10, "int2", "critical"},
        {85000, 0, "int2", "emergency"},  {100000, 99, "int2", "emergency"},
    };
    for (const auto& one : table) {
        CAPTURE(one.used);
        CAPTURE(one.requests);
        const auto got = choose_level(at(one.used, one.requests)).value();
        CHECK(got.level == one.level);
        CHECK(got.rule == one.reason);
        CHECK(got.projected == doctest::Approx(static_cast<double>(one.used) / total));
    }
    CHECK(std::string(bitmill::table_level(std::numeric_limits<double>::quiet_NaN(), 0).level) == "int2");
    policy_thresholds limits;
    limits.high_load_level = "int2";
    CHECK(level_of(at(0, 9), limits) == "int4");
    CHECK(level_of(at(0, 10), limits) == "int2");
    CHECK(level_of(at(70000, 10), limits) == "int2");
    limits.comfortable = 0.1;
    CHECK(level_of(at(10000, 0), limits) == "int8");
}

TEST_CASE("policy: priority moves one level, and quality never gives int2") {
    const struct {
        std::uint64_t used;
        unsigned requests;
        const char *quality, *balanced, *speed;
    } table[] = {{0, 0, "fp16", "fp16", "int8"},     {0, 3, "fp16", "int8", "int4"},
                 {0, 12, "int8", "int4", "int2"},    {50000, 0, "fp16", "int8", "int4"},
                 {70000, 0, "int8", "int4", "int2"}, {80000, 10, "int4", "int2", "int2"},
                 {90000, 10, "int4", "int2", "int2"}};
    for (const auto& one : table) {
        CHECK(level_of(at(one.used, one.requests, task_priority::quality)) == one.quality);
        CHECK(level_of(at(one.used, one.requests)) == one.balanced);
        CHECK(level_of(at(one.used, one.requests, task_priority::speed)) == one.speed);
    }
    CHECK(choose_level(at(0, 3, task_priority::speed)).value().rule == "priority");
}

TEST_CASE("policy: what is judged is the memory behind the switch") {
    // Others take 20 %: fp16 would make it 45 %, of which int8 is right, and makes 34 %.
    const auto got = choose_level(sized(20000, 0)).value();
    CHECK(got.level == "int8");
    CHECK(got.used == doctest::Approx(0.2));
    CHECK(got.projected == doctest::Approx(0.34063));
    CHECK(level_of(sized(14999, 0)) == "fp16");
    CHECK(level_of(sized(15000, 0)) == "int8");
    // It asks for nothing else once it is loaded.
    auto loaded = sized(20000, 0);
    for (const char* current : order) {
        loaded.current = current;
        loaded.since_switch = std::chrono::hours(1);
        const auto next = level_of(loaded);
        loaded.current = next;
        CHECK(level_of(loaded) == next);
    }
}

TEST_CASE("policy: force, floor, fit, capability") {
    auto in = sized(80000, 0);
    CHECK(level_of(in) == "int2");
    in.floor = "int8";
    CHECK(level_of(in) == "int8");
    CHECK(choose_level(in).value().rule == "floor");
    in.floor = "fp16";
    const auto tight = choose_level(in);
    CHECK(tight.error().code == error_code::out_of_memory);
    CHECK(tight.error().message.find("fp16") != std::string::npos);
    CHECK(tight.error().message.find("20000 left") != std::string::npos);
    in.force = "int4";  // above the floor's word
    CHECK(level_of(in) == "int4");
    CHECK(choose_level(in).value().rule == "force");
    in.force = "fp16";
    CHECK(choose_level(in).error().code == error_code::out_of_memory);
    in = sized(99000, 0);
    CHECK(choose_level(in).error().code == error_code::out_of_memory);
    CHECK(choose_level(in).error().message.find("int2") != std::string::npos);
    in.other_bytes = total + 1;
    CHECK(choose_level(in).error().code == error_code::out_of_memory);

    auto some = at(0, 3);
    some.capability = {"fp16", "int4"};
    CHECK(level_of(some) == "int4");  // int8 is wanted: downward under pressure
    CHECK(choose_level(some).value().rule == "capability");
    some = at(45000, 0, task_priority::balanced);
    some.capability = {"fp16"};
    CHECK(level_of(some) == "fp16");
    some = at(70000, 0, task_priority::quality);
    some.capability = {"fp16", "int4"};
    CHECK(level_of(some) == "fp16");  // int8 is wanted: upward for quality
    some.force = "int8";
    CHECK(choose_level(some).error().code == error_code::unsupported);
    some.force = "";
    some.floor = "int8";
    some.capability = {"int4"};
    CHECK(choose_level(some).error().code == error_code::unsupported);
}

TEST_CASE("policy: upward only behind the dwell, and with room to spare") {
    auto in = sized(14000, 0);
    in.current = "int8";
    in.since_switch = std::chrono::milliseconds(29999);
    CHECK(level_of(in) == "int8");
    CHECK(choose_level(in).value().rule == "dwell");
    in.since_switch = std::chrono::milliseconds(30000);
    CHECK(level_of(in) == "int8");  // 39 % with fp16, and 5 % more were needed
    CHECK(choose_level(in).value().rule == "hysteresis");
    in.other_bytes = 9000;
    CHECK(level_of(in) == "fp16");
    // Downward at once.
    in.other_bytes = 30000;
    in.current = "fp16";
    in.since_switch = std::chrono::milliseconds(0);
    CHECK(level_of(in) == "int8");
}

TEST_CASE("policy: more memory in use or more requests never give a higher level") {
    const std::vector<std::vector<std::string>> capabilities{
        {}, {"fp16", "int4"}, {"int8", "int2"}, {"fp16"}, {"fp16", "int8", "int4"}};
    std::size_t seen = 0;
    for (const bool with_sizes : {false, true})
        for (const auto priority : {task_priority::quality, task_priority::balanced, task_priority::speed})
            for (const auto& capability : capabilities)
                for (const char* floor : {"", "int4", "int8"})
                    for (const char* current : {"", "fp16", "int8", "int4", "int2"})
                        for (const bool rested : {false, true}) {
                            const auto rank = [&](std::uint64_t other, unsigned requests) {
                                auto in = with_sizes ? sized(other, requests, priority)
                                                     : at(other, requests, priority);
                                in.capability = capability;
                                in.floor = floor;
                                in.current = current;
                                in.since_switch = std::chrono::seconds(rested ? 60 : 1);
                                const auto got = choose_level(in);
                                return got ? rank_of(got->level)
                                           : order.size();  // an error is lower than all
                            };
                            std::size_t before = 0;
                            for (std::uint64_t other = 0; other <= total; other += 2500) {
                                std::size_t row = 0;
                                for (const unsigned requests : {0u, 1u, 2u, 5u, 6u, 9u, 10u, 50u}) {
                                    const std::size_t now = rank(other, requests);
                                    if (now < row) FAIL("more requests, higher level");
                                    row = now;
                                    ++seen;
                                }
                                const std::size_t now = rank(other, 3);
                                if (now < before) FAIL("more memory in use, higher level");
                                before = now;
                            }
                        }
    CHECK(seen > 100000);
}

TEST_CASE("policy: readings that wander do not make the level flap") {
    policy_input in = sized(15000, 0);
    std::size_t switches = 0;
    std::string current;
    std::chrono::milliseconds since{0};
    for (int i = 0; i < 2000; ++i) {
        // Around the edge at which fp16 becomes int8, two seconds a reading.
        in.other_bytes = static_cast<std::uint64_t>(15000 + (i * 7919 % 401) - 200);
        in.current = current;
        in.since_switch = since;
        const auto next = level_of(in);
        since = next == current ? since + std::chrono::seconds(2) : std::chrono::milliseconds(0);
        if (next != current) ++switches;
        current = next;
    }
    CHECK(current == "int8");
    CHECK(switches <= 2);
}

TEST_CASE("policy: what is no level, no threshold, no priority is refused") {
    const auto refused = [](const policy_input& in, const policy_thresholds& limits = {}) {
        const auto got = choose_level(in, limits);
        return !got && got.error().code == error_code::invalid_argument;
    };
    policy_input in = at(0, 0);
    in.total_bytes = 0;
    CHECK(refused(in));
    for (auto member : {&policy_input::force, &policy_input::floor, &policy_input::current}) {
        in = at(0, 0);
        in.*member = "int7";
        CHECK(refused(in));
    }
    in = at(0, 0);
    in.capability = {"mps"};
    CHECK(refused(in));
    policy_thresholds limits;
    limits.moderate = 0.3;
    CHECK(refused(at(0, 0), limits));
    limits = {};
    limits.critical = std::numeric_limits<double>::quiet_NaN();
    CHECK(refused(at(0, 0), limits));
    limits = {};
    limits.load_high = 5;
    CHECK(refused(at(0, 0), limits));
    limits = {};
    limits.high_load_level = "int3";
    CHECK(refused(at(0, 0), limits));
    CHECK(bitmill::task_priority_from_text("speed").value() == task_priority::speed);
    CHECK(bitmill::task_priority_from_text("fast").error().code == error_code::invalid_argument);
}
