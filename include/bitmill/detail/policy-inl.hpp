// Bodies of model/policy.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/model/policy.hpp>

namespace bitmill {
namespace detail {

// From the highest down; a level's rank is its place.
inline constexpr std::array<const char*, 4> policy_levels{"fp16", "int8", "int4", "int2"};

inline std::optional<std::size_t> policy_rank(std::string_view level) noexcept {
    const auto found = std::find(policy_levels.begin(), policy_levels.end(), level);
    if (found == policy_levels.end()) return std::nullopt;
    return static_cast<std::size_t>(found - policy_levels.begin());
}

inline std::string percent(double share) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
    return text;
}

class level_chooser {
public:
    level_chooser(const policy_input& input, const policy_thresholds& thresholds)
        : in_(input), limits_(thresholds) {}

    result<policy_decision> choose() {
        if (auto known = check(); !known) return known.error();
        if (!in_.force.empty()) return forced();
        if (auto found = find_candidates(); !found) return found.error();
        const std::size_t level = highest(0);
        const auto current = policy_rank(in_.current);
        const bool stays = current && is_candidate(*current) && level < *current;
        if (!stays) return decided(level, rule_of(level));
        if (in_.since_switch < limits_.dwell) return decided(*current, "dwell");
        const std::size_t sure = std::min(highest(limits_.hysteresis), *current);
        return decided(sure, sure == level ? rule_of(level) : "hysteresis");
    }

private:
    static error refuse(std::string message, error_code code = error_code::invalid_argument) {
        return {.code = code, .message = std::move(message)};
    }

    [[nodiscard]] result<void> check() const {
        if (in_.total_bytes == 0) return refuse("total_bytes is 0; say how much memory there is");
        std::vector<std::string_view> names(in_.capability.begin(), in_.capability.end());
        for (const auto& one : in_.sizes) names.push_back(one.level);
        for (const std::string* one : {&in_.force, &in_.floor, &in_.current})
            if (!one->empty()) names.push_back(*one);
        names.push_back(limits_.high_load_level);
        for (const auto name : names)
            if (!policy_rank(name))
                return refuse("there is no level '" + std::string(name) + "': fp16, int8, int4, int2");
        const double edges[] = {0, limits_.comfortable, limits_.moderate, limits_.tight, limits_.critical, 1};
        // Not `is_sorted`: NaN is no edge.
        for (std::size_t i = 1; i < std::size(edges); ++i)
            if (!(edges[i - 1] <= edges[i]))
                return refuse(
                    "the thresholds of memory must rise from 0 to 1: comfortable, moderate, tight, critical");
        if (limits_.load_low > limits_.load_moderate || limits_.load_moderate >= limits_.load_high)
            return refuse("the thresholds of load must rise: low, moderate, high");
        if (!(limits_.hysteresis >= 0)) return refuse("hysteresis must not be below 0");
        return {};
    }

    [[nodiscard]] std::uint64_t peak_of(std::size_t rank) const {
        for (const auto& one : in_.sizes)
            if (one.level == policy_levels[rank]) return one.peak_bytes;
        return 0;
    }
    [[nodiscard]] bool fits(std::size_t rank) const {
        return in_.other_bytes <= in_.total_bytes && peak_of(rank) <= in_.total_bytes - in_.other_bytes;
    }
    [[nodiscard]] double used_with(std::size_t rank) const {
        return (static_cast<double>(in_.other_bytes) + static_cast<double>(peak_of(rank))) /
               static_cast<double>(in_.total_bytes);
    }
    [[nodiscard]] bool may_run(std::size_t rank) const {
        const std::string_view level = policy_levels[rank];
        const bool there =
            in_.sizes.empty() || std::any_of(in_.sizes.begin(), in_.sizes.end(),
                                             [&](const auto& one) { return one.level == level; });
        return there && (in_.capability.empty() || std::find(in_.capability.begin(), in_.capability.end(),
                                                             level) != in_.capability.end());
    }
    [[nodiscard]] bool is_candidate(std::size_t rank) const {
        return std::find(candidates_.begin(), candidates_.end(), rank) != candidates_.end();
    }

    [[nodiscard]] error no_room(std::size_t rank, const char* why) const {
        return refuse(std::string(policy_levels[rank]) + ", " + why + ", takes " +
                          std::to_string(peak_of(rank)) + " bytes, and of " +
                          std::to_string(in_.total_bytes) + " there are " +
                          std::to_string(in_.total_bytes - std::min(in_.other_bytes, in_.total_bytes)) +
                          " left; free memory, or allow a lower level",
                      error_code::out_of_memory);
    }

    [[nodiscard]] result<policy_decision> forced() const {
        const std::size_t rank = *policy_rank(in_.force);
        if (!may_run(rank))
            return refuse("level " + in_.force + " is forced, and may not be run here",
                          error_code::unsupported);
        if (!fits(rank)) return no_room(rank, "which is forced");
        return decided(rank, "force");
    }

    // What may be run, is no lower than the floor, and fits.
    result<void> find_candidates() {
        const std::size_t lowest = in_.floor.empty() ? policy_levels.size() - 1 : *policy_rank(in_.floor);
        std::optional<std::size_t> smallest;
        for (std::size_t rank = 0; rank <= lowest; ++rank) {
            if (!may_run(rank)) continue;
            if (!smallest || peak_of(rank) <= peak_of(*smallest)) smallest = rank;
            if (fits(rank)) candidates_.push_back(rank);
        }
        if (!candidates_.empty()) return {};
        if (smallest) return no_room(*smallest, "the smallest level that is allowed");
        return refuse(
            "no level that may be run is " + (in_.floor.empty() ? "there" : in_.floor + " or higher"),
            error_code::unsupported);
    }

    // What the table and the priority ask for, as a candidate: downward under pressure, upward for quality.
    [[nodiscard]] std::size_t wanted(double used) const {
        std::size_t rank = asked(used);
        const auto above = std::find_if(candidates_.rbegin(), candidates_.rend(),
                                        [&](std::size_t one) { return one <= rank; });
        const auto below = std::find_if(candidates_.begin(), candidates_.end(),
                                        [&](std::size_t one) { return one >= rank; });
        if (in_.priority == task_priority::quality && above != candidates_.rend()) return *above;
        return below != candidates_.end() ? *below : candidates_.back();
    }
    [[nodiscard]] std::size_t asked(double used) const {
        const std::size_t rank = *policy_rank(table_level(used, in_.active_requests, limits_).level);
        if (in_.priority == task_priority::quality) return rank == 0 ? 0 : rank - 1;
        if (in_.priority == task_priority::speed) return std::min(rank + 1, policy_levels.size() - 1);
        return rank;
    }

    // The highest that is no higher than what is wanted once it is loaded. The lowest candidate always is.
    [[nodiscard]] std::size_t highest(double margin) const {
        for (const std::size_t rank : candidates_)
            if (rank >= wanted(used_with(rank) + margin)) return rank;
        return candidates_.back();
    }

    [[nodiscard]] const char* rule_of(std::size_t rank) const {
        const double used = used_with(rank);
        const auto row = table_level(used, in_.active_requests, limits_);
        if (policy_levels[rank] == std::string_view(row.level)) return row.reason;
        const std::size_t ask = asked(used);
        if (rank == ask) return "priority";
        if (!is_candidate(ask))
            return !may_run(ask)                                         ? "capability"
                   : !in_.floor.empty() && ask > *policy_rank(in_.floor) ? "floor"
                                                                         : "fit";
        return row.reason;
    }

    [[nodiscard]] policy_decision decided(std::size_t rank, const char* rule) const {
        policy_decision out;
        out.level = policy_levels[rank];
        out.rule = rule;
        out.projected = used_with(rank);
        const auto current = policy_rank(in_.current);
        out.used = current ? used_with(*current)
                           : static_cast<double>(in_.other_bytes) / static_cast<double>(in_.total_bytes);
        const auto row = table_level(out.projected, in_.active_requests, limits_);
        out.explanation = out.level + " (" + out.rule + "): memory in use " + percent(out.used) + ", with " +
                          out.level + " " + percent(out.projected) + ", active requests " +
                          std::to_string(in_.active_requests) + ", for which the table has " + row.level +
                          " (" + row.reason + "); priority " + to_text(in_.priority);
        return out;
    }

    const policy_input& in_;
    const policy_thresholds& limits_;
    std::vector<std::size_t> candidates_;  // from the highest down
};

}  // namespace detail

BITMILL_INLINE const char* to_text(task_priority value) noexcept {
    static constexpr const char* names[] = {"quality", "balanced", "speed"};
    return names[static_cast<std::size_t>(value)];
}

BITMILL_INLINE result<task_priority> task_priority_from_text(std::string_view text) {
    for (const auto one : {task_priority::quality, task_priority::balanced, task_priority::speed})
        if (text == to_text(one)) return one;
    return error{.code = error_code::invalid_argument,
                 .message = "there is no priority '" + std::string(text) + "': quality, balanced, speed"};
}

BITMILL_INLINE table_row table_level(double used, unsigned active_requests,
                                     const policy_thresholds& limits) noexcept {
    const std::size_t load = active_requests < limits.load_low         ? 0
                             : active_requests <= limits.load_moderate ? 1
                             : active_requests < limits.load_high      ? 2
                                                                       : 3;
    const char* const high = limits.high_load_level == "int2" ? "int2" : "int4";
    // Each edge belongs to the band above it; a share that is no number is an emergency.
    if (used < limits.comfortable) {
        const table_row rows[] = {
            {"fp16", "best quality"}, {"int8", "balanced"}, {"int4", "efficient"}, {high, "efficient"}};
        return rows[load];
    }
    if (used < limits.moderate) {
        const table_row rows[] = {
            {"int8", "balanced"}, {"int4", "efficient"}, {"int4", "efficient"}, {high, "efficient"}};
        return rows[load];
    }
    if (used < limits.tight) return {load == 3 ? high : "int4", "required"};
    if (used < limits.critical) return {load == 3 ? "int2" : "int4", "critical"};
    return {"int2", "emergency"};
}

BITMILL_INLINE result<policy_decision> choose_level(const policy_input& input,
                                                    const policy_thresholds& thresholds) {
    return detail::level_chooser(input, thresholds).choose();
}

}  // namespace bitmill
