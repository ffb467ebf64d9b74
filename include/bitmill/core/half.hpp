// f16 (IEEE 754 binary16) and bf16 <-> f32, f64. Exact; narrowing rounds half to even; denormals, Inf and
// NaN are right (a NaN keeps its sign and the top of its payload and becomes quiet, as F16C does).
#pragma once

#include <bit>
#include <cstdint>

namespace bitmill {

[[nodiscard]] constexpr std::uint16_t f16_from_f32(float value) noexcept {
    auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    std::uint32_t out = 0;
    if (bits > 0x7f800000u) {
        out = 0x7e00u | ((bits >> 13) & 0x3ffu);
    } else if (bits >= 0x477ff000u) {  // 65520, half way between the largest f16 and the next power of two
        out = 0x7c00u;
    } else if (bits >= 0x38800000u) {
        out = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    } else if (bits > 0x33000000u) {  // above 2^-25: a denormal counts in units of 2^-24
        const std::uint32_t shift = 126u - (bits >> 23);
        const std::uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
        const std::uint32_t rest = mantissa & ((1u << shift) - 1u);
        const std::uint32_t half = 1u << (shift - 1u);
        out = mantissa >> shift;
        out += static_cast<std::uint32_t>(rest > half || (rest == half && (out & 1u) != 0));
    }
    return static_cast<std::uint16_t>(sign | out);
}

[[nodiscard]] constexpr float f32_from_f16(std::uint16_t half) noexcept {
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 31u;
    const std::uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0) {  // mantissa * 2^-24, exact
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    if (exponent == 31) {
        const std::uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
        return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

[[nodiscard]] constexpr std::uint16_t bf16_from_f32(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[nodiscard]] constexpr float f32_from_bf16(std::uint16_t half) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

// f64 -> f32 rounded to odd: narrowing the result once more (to f16, bf16) then rounds as if it were done
// in one step (Boldo and Melquiond 2008), which two roundings to nearest do not.
[[nodiscard]] constexpr float f32_from_f64_to_odd(double value) noexcept {
    const auto nearest = static_cast<float>(value);
    const auto back = static_cast<double>(nearest);
    if (back == value || value != value) return nearest;
    const auto bits = std::bit_cast<std::uint32_t>(nearest);
    if ((bits & 1u) != 0) return nearest;
    const bool magnitude_too_big = value < 0 ? back < value : back > value;
    return std::bit_cast<float>(magnitude_too_big ? bits - 1u : bits + 1u);
}

}  // namespace bitmill
