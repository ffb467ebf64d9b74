// The policy's structs of C, for whoever asks it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include <bitmill/model/policy.hpp>
#include <bitmill/model/system_memory.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "model.hpp"

namespace bitmill::capi {

// Beyond any use, and far from where nanoseconds overflow.
inline constexpr std::int64_t most_ms = std::int64_t{1} << 40;

// 0: `otherwise`; below 0: none.
inline result<std::chrono::milliseconds> milliseconds_from(std::int64_t given,
                                                           std::chrono::milliseconds otherwise,
                                                           const char* what) {
    if (given == 0) return otherwise;
    if (given > most_ms) return invalid(std::string(what) + " may be 2^40 at most");
    return std::chrono::milliseconds(std::max<std::int64_t>(given, 0));
}

inline result<policy_thresholds> thresholds_from(const bitmill_policy_thresholds* given) {
    const auto c = read_optional(given);
    if (!c) return c.error();
    policy_thresholds limits;
    if (c->load_low != 0) limits.load_low = c->load_low;
    if (c->load_moderate != 0) limits.load_moderate = c->load_moderate;
    if (c->load_high != 0) limits.load_high = c->load_high;
    if (c->comfortable != 0) limits.comfortable = c->comfortable;
    if (c->moderate != 0) limits.moderate = c->moderate;
    if (c->tight != 0) limits.tight = c->tight;
    if (c->critical != 0) limits.critical = c->critical;
    if (c->hysteresis != 0) limits.hysteresis = c->hysteresis < 0 ? 0 : c->hysteresis;
    const auto dwell = milliseconds_from(c->dwell_ms, limits.dwell, "dwell_ms");
    if (!dwell) return dwell.error();
    limits.dwell = *dwell;
    if (c->high_load_level != nullptr) limits.high_load_level = c->high_load_level;
    return limits;
}

inline bitmill_policy_decision decision_from(const policy_decision& decision) noexcept {
    bitmill_policy_decision c = BITMILL_POLICY_DECISION_INIT;
    c.used = decision.used;
    c.projected = decision.projected;
    put_text(c.level, decision.level);
    put_text(c.rule, decision.rule);
    put_text(c.explanation, decision.explanation);
    return c;
}

}  // namespace bitmill::capi
