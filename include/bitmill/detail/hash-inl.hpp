// Hashes of open-addressed tables. Their products wrap, as they are meant to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace bitmill::detail {

// Tables are at most half full, so that among a million honest keys the longest way to a free place is about 70. Longer
// ways are what somebody made who knows the hash, to cost quadratic time; such a file is refused.
inline constexpr std::size_t max_probes = 256;

// Eight bytes a step, multiplied and folded.
[[nodiscard]] inline std::uint64_t hash_of(std::string_view text) noexcept {
    std::uint64_t h = text.size() * 0x9e3779b97f4a7c15u;
    const char* at = text.data();
    std::size_t left = text.size();
    const auto mix = [&](std::uint64_t word) {
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    };
    for (; left >= 8; at += 8, left -= 8) {
        std::uint64_t word;
        std::memcpy(&word, at, 8);
        mix(word);
    }
    std::uint64_t word = 0;
    if (left != 0) std::memcpy(&word, at, left);
    mix(word);
    return h * 0xc4ceb9fe1a85ec53u >> 7;
}

// Of a pair of integers; the fold, so that all bits of both reach the lower ones, by which tables look up.
[[nodiscard]] inline std::uint64_t hash_of(std::uint32_t a, std::uint32_t b) noexcept {
    const std::uint64_t h = (std::uint64_t{a} << 32 | b) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

}  // namespace bitmill::detail
