// What rankings and the bootstrap compute with: logarithms and random numbers that are the same on every machine.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace bitmill::detail {

// libm's last bit differs from machine to machine. log2(m 2^e) = e + 2 atanh((m - 1) / (m + 1)) / ln 2; with m below 2
// the argument is at most 1/3, and 18 terms reach a double's precision.
[[nodiscard]] inline double log2_of(std::size_t n) {
    const int exponent = static_cast<int>(std::bit_width(n)) - 1;
    const double m = std::ldexp(static_cast<double>(n), -exponent);
    const double t = (m - 1) / (m + 1);
    double sum = 0;
    for (int k = 17; k >= 0; --k) sum = sum * t * t + 1.0 / (2 * k + 1);
    constexpr double ln2 = 0.693147180559945309417;
    return exponent + 2 * t * sum / ln2;
}

// Philox 2x32 with 10 rounds: a number for each counter, and none depends on another. Products of 32 bits fit into 64.
[[nodiscard]] inline std::uint32_t philox(std::uint64_t counter, std::uint64_t seed) {
    constexpr std::uint64_t low_half = 0xffffffff;
    std::uint64_t left = counter & low_half, right = counter >> 32;
    // The key has 32 bits; of a longer seed both halves count.
    std::uint64_t key = (seed ^ seed >> 32) & low_half;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product = left * 0xd256d193;
        left = (product >> 32) ^ key ^ right;
        right = product & low_half;
        key = (key + 0x9e3779b9) & low_half;
    }
    return static_cast<std::uint32_t>(left);
}

}  // namespace bitmill::detail
