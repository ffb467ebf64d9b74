#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <bitmill/core/sha256.hpp>

namespace bitmill::detail {

// Tells bytes that read back as they were written from others; no proof against a forger, whom only what a manifest
// lists need fear. At 4 lanes of 8 bytes it takes a fraction of SHA-256's time. Each step can be undone, so one changed
// word always shows.
inline digest checksum_of(std::span<const std::byte> bytes) noexcept {
    constexpr std::uint64_t odd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, as Fibonacci hashing has it
    std::array<std::uint64_t, 4> lanes{odd, 2 * odd, 3 * odd, bytes.size()};
    const auto add = [&](const std::byte* from) {
        std::array<std::uint64_t, 4> words;
        std::memcpy(words.data(), from, sizeof words);
        for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i] = std::rotl(lanes[i] ^ words[i], 29) * odd;
    };
    std::size_t at = 0;
    for (; bytes.size() - at >= sizeof lanes; at += sizeof lanes) add(bytes.data() + at);
    std::array<std::byte, sizeof lanes> rest{};
    std::copy_n(bytes.data() + at, bytes.size() - at, rest.data());
    add(rest.data());
    digest out;
    std::memcpy(out.data(), lanes.data(), out.size());
    return out;
}

}  // namespace bitmill::detail
