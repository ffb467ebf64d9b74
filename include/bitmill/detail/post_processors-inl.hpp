// What is put around the tokens of one text or two, and where offsets lose their blanks. Source:
// tokenizers/src/processors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/unicode-inl.hpp>
#include <bitmill/text/tokenizer.hpp>

namespace bitmill::detail {

// A place in the template of a sequence: a special token, or one of the texts.
struct template_part {
    enum class kind : std::uint8_t {
        special,
        first,
        second,
    };
    kind what = kind::first;
    std::int32_t id = 0;
    std::int32_t type = 0;
};

struct post_rules {
    bool has_template = false;
    std::vector<template_part> single{};
    std::vector<template_part> pair{};
    bool trim_offsets = false;
    bool add_prefix_space = false;  // the blank that was put in front is in nobody's offsets

    [[nodiscard]] std::size_t added(bool is_pair) const noexcept {
        const auto& parts = is_pair ? pair : single;
        return static_cast<std::size_t>(std::count_if(parts.begin(), parts.end(), [](const template_part& p) {
            return p.what == template_part::kind::special;
        }));
    }
};

// Blanks at both ends of a token's text, in characters: white space, and U+0120, which stands for a space.
struct token_blanks {
    std::uint16_t leading = 0;
    std::uint16_t trailing = 0;
};
inline token_blanks blanks_of(std::string_view token) {
    constexpr std::size_t most = 0xffff;
    std::size_t leading = 0;
    std::size_t run = 0;  // of blanks up to here
    bool only = true;
    for (std::size_t i = 0; i < token.size(); i += utf8_step(token[i])) {
        const char32_t c = utf8_character(token.data() + i);
        const bool blank = c == 0x120 || (character_classes()[c] & character::space) != 0;
        run = blank ? run + 1 : 0;
        only = only && blank;
        if (only) leading = run;
    }
    return {static_cast<std::uint16_t>(std::min(leading, most)),
            static_cast<std::uint16_t>(std::min(run, most))};
}

inline void trim_offset(token_span& place, bool is_first_token, token_blanks blanks,
                        bool add_prefix_space) noexcept {
    std::uint32_t leading = blanks.leading;
    if (leading == 1 && add_prefix_space && (is_first_token || place.begin == 0)) leading = 0;
    if (leading > 0) place.begin = std::min(place.begin + leading, place.end);
    if (blanks.trailing > 0 && place.end >= blanks.trailing)
        place.end = std::max(place.end - blanks.trailing, place.begin);
}

// How many tokens of each text stay.
enum class truncation_strategy : std::uint8_t {
    longest_first,
    only_first,
    only_second,
};
struct truncation_rules {
    std::size_t max_length = 0;
    truncation_strategy strategy = truncation_strategy::longest_first;
    bool from_left = false;
};

// False: the strategy cannot be met. has_second: there is a second text.
inline bool truncate_counts(std::size_t& first, std::size_t& second, bool has_second, std::size_t most,
                            truncation_strategy strategy) noexcept {
    if (most == 0) {
        first = second = 0;
        return true;
    }
    if (first + second <= most) return true;
    const std::size_t surplus = first + second - most;
    if (strategy != truncation_strategy::longest_first) {
        if (strategy == truncation_strategy::only_second && !has_second) return false;
        std::size_t& target = strategy == truncation_strategy::only_first ? first : second;
        if (target <= surplus) return false;
        target -= surplus;
        return true;
    }
    if (!has_second) {
        first = most;
        return true;
    }
    const bool swaps = first > second;
    std::size_t low = swaps ? second : first;
    std::size_t high = low > most ? low : std::max(low, most - low);
    if (low + high > most) {
        low = most / 2;
        high = low + most % 2;
    }
    first = swaps ? high : low;
    second = swaps ? low : high;
    return true;
}

}  // namespace bitmill::detail
