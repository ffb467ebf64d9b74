// How a group's scale and zero point follow from its range: scalar code that every kernel table and the
// reference share. Symmetric and asymmetric absmax rules are those of compressed-tensors 0.20; the searches
// are least squares over trial scales.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/core/half.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill::kernels {

struct int_limits {
    float low;     // -2^(bits-1)
    float high;    // 2^(bits-1) - 1
    float levels;  // 2^bits - 1
    constexpr explicit int_limits(unsigned bits)
        : low(bits == 8 ? -128.0f : -8.0f), high(bits == 8 ? 127.0f : 7.0f), levels(bits == 8 ? 255.0f : 15.0f) {}
};

struct fit_sums {
    float xq;
    float qq;
};

[[nodiscard]] constexpr float round_scale(float scale, scale_type type) {
    switch (type) {
        case scale_type::f16: return f32_from_f16(f16_from_f32(scale));
        case scale_type::bf16: return f32_from_bf16(bf16_from_f32(scale));
        case scale_type::f32: break;
    }
    return scale;
}

// A scale of 0 becomes the machine epsilon of its type, as compressed-tensors does: all codes are then 0
// for a group of zeros, and nothing divides by 0. A scale past its type's range becomes the largest, so that
// nothing decodes to NaN.
[[nodiscard]] constexpr float usable_scale(float scale, scale_type type) {
    const float rounded = round_scale(scale, type);
    if (rounded > 3.4028234e38f) return type == scale_type::f16 ? 65504.0f : f32_from_bf16(0x7f7f);
    if (rounded != 0) return rounded;
    return type == scale_type::f16 ? 0x1p-10f : type == scale_type::bf16 ? 0x1p-7f : 0x1p-23f;
}

[[nodiscard]] constexpr float round_half_even(float x) {  // |x| <= 2^22
    return (x + 12582912.0f) - 12582912.0f;
}

[[nodiscard]] constexpr float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

[[nodiscard]] constexpr float symmetric_scale(float most, const int_limits& limits, scale_type type) {
    return usable_scale(most / (limits.levels / 2), type);
}

// low <= 0 <= high. The range of two huge values may overflow; their shares do not.
[[nodiscard]] constexpr float asymmetric_scale(float low, float high, const int_limits& limits, scale_type type,
                                               float* zero) {
    const float range = high - low;
    const bool overflows = !(range <= 3.402823466e38f);
    const float scale =
        usable_scale(overflows ? high / limits.levels - low / limits.levels : range / limits.levels, type);
    *zero = round_half_even(clamp(limits.low - low / scale, limits.low, limits.high));
    return scale;
}

// bitsandbytes never divides by less.
[[nodiscard]] constexpr float book_absmax(float absmax) { return absmax > 1e-38f ? absmax : 1e-38f; }

// --- least squares ------------------------------------------------------------------------------------------
// For codes q the best scale is sum(xq) / sum(qq), and it removes sum(xq)^2 / sum(qq) of the squared error:
// the trial with the largest such score wins. `score(inverse_scale, low, high)` returns both sums.

struct best_fit {
    double score = 0;
    float scale = 0;
    float zero = 0;

    constexpr bool offer(const fit_sums& sums, float zero_point) {
        if (!(sums.qq > 0)) return false;
        const double gain = static_cast<double>(sums.xq) * static_cast<double>(sums.xq) / static_cast<double>(sums.qq);
        const float fitted = sums.xq / sums.qq;
        const float size = fitted < 0 ? -fitted : fitted;
        if (!(gain > score) || !(size <= 3e38f) || size == 0) return false;
        score = gain;
        scale = fitted;
        zero = zero_point;
        return true;
    }
};

// Codes re-rounded against the fitted scale fit no worse; two rounds reach the fixed point on real weights.
template <class Score>
inline void refine(best_fit& best, const int_limits& limits, const Score& score) {
    for (int round = 0; round < 2 && best.score > 0; ++round)
        if (!best.offer(score(1.0f / best.scale, limits.low - best.zero, limits.high - best.zero), best.zero)) break;
}

// METHODS S1: the signed extreme maps to -2^(bits-1), so the scale is negative where the extreme is positive
// and all 2^bits codes serve; 19 trial scales around it.
template <class Score>
[[nodiscard]] inline float search_symmetric(float low, float high, const int_limits& limits, scale_type type,
                                            const Score& score) {
    const float extreme = high >= -low ? high : low;
    best_fit best;
    for (int k = -9; k <= 9; ++k) {
        const float inverse = (limits.low - 0.1f * static_cast<float>(k)) / extreme;
        if (inverse - inverse == 0) best.offer(score(inverse, limits.low, limits.high), 0);
    }
    refine(best, limits, score);
    const float scale = round_scale(best.scale, type);
    if (scale != 0 && scale - scale == 0) return scale;
    return symmetric_scale(high > -low ? high : -low, limits, type);
}

// METHODS S2 with an integer zero point: 12 shrunken ranges, the zero point rounded down and up.
template <class Score>
[[nodiscard]] inline float search_asymmetric(float low, float high, const int_limits& limits, scale_type type,
                                             float* zero, const Score& score) {
    float min_max_zero = 0;
    const float min_max = asymmetric_scale(low, high, limits, type, &min_max_zero);
    const float exact_zero = clamp(limits.low - low / min_max, limits.low, limits.high);
    const float down = round_half_even(exact_zero) > exact_zero ? min_max_zero - 1 : min_max_zero;
    best_fit best;
    for (int shrink = 0; shrink < 12; ++shrink) {
        const float inverse = 1.0f / (min_max * (1.0f - 0.03f * static_cast<float>(shrink)));
        if (!(inverse - inverse == 0)) continue;
        for (int step = 0; step < 2; ++step) {
            const float point = clamp(down + static_cast<float>(step), limits.low, limits.high);
            best.offer(score(inverse, limits.low - point, limits.high - point), point);
        }
    }
    refine(best, limits, score);
    const float scale = round_scale(best.scale, type);
    *zero = min_max_zero;
    if (!(scale > 0) || !(scale - scale == 0)) return min_max;
    *zero = best.zero;
    return scale;
}

}  // namespace bitmill::kernels
