// Which level serves: what was asked for, what is taken, and why that is not the same. Three fields, never silent.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <bitmill/core/error.hpp>

namespace bitmill {

struct level_decision {
    std::string requested;
    std::string effective;
    std::string reason;  // "" where both are the same

    friend bool operator==(const level_decision&, const level_decision&) = default;
};

// A pure function. `available`: the levels that are there, in the order in which they stand in for one that is not.
// `capability`: the levels that may be run; empty: all. Without `allow_fallback` nothing stands in.
// Errors: invalid_argument where the level is not there, unsupported where it may not be run, and nothing stands in.
[[nodiscard]] result<level_decision> resolve(std::string_view requested,
                                             std::span<const std::string> available,
                                             std::span<const std::string> capability, bool allow_fallback);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/level_decision-inl.hpp>
#endif
