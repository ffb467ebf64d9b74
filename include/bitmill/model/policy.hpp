// Which level a model should have, by memory, load and priority. A pure function of what it is given: it reads no clock and
// no memory, so that every decision can be explained and repeated.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>

namespace bitmill {

enum class task_priority : std::uint8_t {
    quality,   // one level above the table's, and never int2
    balanced,  // the table's
    speed      // one level below
};
[[nodiscard]] const char* to_text(task_priority value) noexcept;
[[nodiscard]] result<task_priority> task_priority_from_text(
    std::string_view text);  // quality, balanced, speed

struct policy_thresholds {
    // Shares of memory in use; each band begins at its edge: 0.85 is an emergency.
    double comfortable = 0.40;
    double moderate = 0.60;
    double tight = 0.75;
    double critical = 0.85;
    // Active requests: fewer than low, low to moderate, more, high and more.
    unsigned load_low = 2;
    unsigned load_moderate = 5;
    unsigned load_high = 10;
    std::string high_load_level = "int4";  // or int2: of load_high and more, where memory leaves a choice
    // A higher level has to be right with so much more memory in use, and so long after the last switch.
    double hysteresis = 0.05;
    std::chrono::milliseconds dwell{30000};
};

// What a level takes of memory while it runs: its weights, and what it needs beside them at its peak.
struct level_size {
    std::string level;
    std::uint64_t peak_bytes = 0;
};

struct policy_input {
    std::uint64_t total_bytes =
        0;  // of memory that may be used: the host's, or less where a container has less
    std::uint64_t other_bytes = 0;  // in use by everything but this model
    unsigned active_requests = 0;
    task_priority priority = task_priority::balanced;
    std::vector<level_size> sizes = {};  // of the levels there are; none: they take nothing
    std::vector<std::string> capability =
        {};                    // the levels that may be run, of fp16, int8, int4, int2; empty: all
    std::string force = {};    // this level, whatever else is said, if it fits
    std::string floor = {};    // no level below it (min_quantization)
    std::string current = {};  // the level that serves; "" for none
    std::chrono::milliseconds since_switch{0};  // how long it has served
};

struct policy_decision {
    std::string level;  // fp16, int8, int4, int2
    std::string rule;   // force, floor, fit, priority, capability, dwell, hysteresis, or the table's row
    std::string explanation;  // one line
    double used = 0;          // share of memory, with the current level
    double projected = 0;     // with the chosen one
};

// The table: share of memory in use and active requests -> level. Its reasons: best quality, balanced, efficient,
// required, critical, emergency.
struct table_row {
    const char* level;
    const char* reason;
};
[[nodiscard]] table_row table_level(double used, unsigned active_requests,
                                    const policy_thresholds& = {}) noexcept;

// Of the levels that may be run and fit, the highest that is right for the memory that is in use once it is loaded: what
// is judged is the state behind the switch, so that no level asks for another one by itself. Order: force, floor, what
// fits, priority, table. Monotone: more memory in use or more requests never give a higher level, all else equal.
// Errors: out_of_memory where no level that is allowed fits (says what the smallest takes), invalid_argument for names
// that are no levels, unsupported for a forced level that may not be run.
[[nodiscard]] result<policy_decision> choose_level(const policy_input&, const policy_thresholds& = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/policy-inl.hpp>
#endif
