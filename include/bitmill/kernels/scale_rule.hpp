// How a group's scale and zero point follow from its range: scalar code that every kernel table and the
// reference share. Symmetric and asymmetric absmax rules are those of compressed-tensors 0.20; the searches
// are least squares over trial scales.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/core/half.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill::kernels {

// Four levels on multiples of the scale reach 9.60 dB on Gaussian weights in groups of 32, whatever scale and zero:
// zero points of 2 bits have steps of 1/32, in the same byte, and 10.55 dB.
struct int_limits {
    float low;         // -2^(bits-1)
    float high;        // 2^(bits-1) - 1
    float levels;      // 2^bits - 1
    float zero_steps;  // a zero point is stored as zero * zero_steps
    constexpr explicit int_limits(unsigned bits)
        : low(-static_cast<float>(1u << (bits - 1))), high(-low - 1), levels(high - low),
          zero_steps(bits == 2 ? 32.0f : 1.0f) {}
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
// for a group of zeros, and nothing divides by 0. A scale whose largest code would decode to infinity becomes
// the largest whose does not (that takes weights above 3.37e38). `codes`: a power of two that no |q - zero| passes.
[[nodiscard]] constexpr float usable_scale(float scale, float codes, scale_type type) {
    // The largest bf16 over a power of two is a bf16, too: one bound serves f32 and bf16. (Masking an f32 down to
    // a bf16 in one branch of a choice is dropped by GCC 12.2 at -O1 and up.)
    const float cap = type == scale_type::f16 ? 65504.0f : 0x1.fep127f / codes;
    const float rounded = round_scale(scale, type);
    if (rounded > cap) return cap;
    if (rounded != 0) return rounded;
    return type == scale_type::f16 ? 0x1p-10f : type == scale_type::bf16 ? 0x1p-7f : 0x1p-23f;
}

[[nodiscard]] constexpr float round_half_even(float x) {  // |x| <= 2^22
    return (x + 12582912.0f) - 12582912.0f;
}

[[nodiscard]] constexpr float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

[[nodiscard]] constexpr float symmetric_scale(float most, const int_limits& limits, scale_type type) {
    return usable_scale(most / (limits.levels / 2), -limits.low, type);
}

// low <= 0 <= high. The range of two huge values may overflow; their shares do not.
[[nodiscard]] constexpr float asymmetric_scale(float low, float high, const int_limits& limits,
                                               scale_type type, float* zero) {
    const float range = high - low;
    const bool overflows = !(range <= 3.402823466e38f);
    const float scale =
        usable_scale(overflows ? high / limits.levels - low / limits.levels : range / limits.levels,
                     limits.levels + 1, type);
    const float exact = clamp(limits.low - low / scale, limits.low, limits.high);
    *zero = round_half_even(exact * limits.zero_steps) / limits.zero_steps;
    return scale;
}

// bitsandbytes never divides by less.
[[nodiscard]] constexpr float book_absmax(float absmax) { return absmax > 1e-38f ? absmax : 1e-38f; }

// --- least squares ------------------------------------------------------------------------------------------
// For codes q the best scale is sum(xq) / sum(qq), and it removes sum(xq)^2 / sum(qq) of the squared error:
// the trial with the largest such score wins. `fit(trials, count, sums)` computes both sums of every trial; a
// vector kernel runs several side by side, which hides the latency of their additions.

struct fit_trial {
    float inverse;  // of the trial scale
    float low;      // limits of q - zero
    float high;
};

struct best_fit {
    double score = 0;
    float scale = 0;
    float zero = 0;

    constexpr bool offer(const fit_sums& sums, float zero_point) {
        if (!(sums.qq > 0)) return false;
        const double gain =
            static_cast<double>(sums.xq) * static_cast<double>(sums.xq) / static_cast<double>(sums.qq);
        const float fitted = sums.xq / sums.qq;
        const float size = fitted < 0 ? -fitted : fitted;
        if (!(gain > score) || !(size <= 1e36f) || size == 0) return false;
        score = gain;
        scale = fitted;
        zero = zero_point;
        return true;
    }
};

// Codes re-rounded against the fitted scale fit no worse; two rounds reach the fixed point on real weights.
template <class Fit>
inline void refine(best_fit& best, const int_limits& limits, const Fit& fit) {
    for (int round = 0; round < 2 && best.score > 0; ++round) {
        const fit_trial trial{1.0f / best.scale, limits.low - best.zero, limits.high - best.zero};
        fit_sums sums{};
        fit(&trial, 1, &sums);
        if (!best.offer(sums, best.zero)) break;
    }
}

[[nodiscard]] constexpr bool is_finite(float x) { return x - x == 0; }

struct scale_and_zero {
    float scale;
    float zero;
};

// The search fits unrounded scales; what is stored is rounded. So the two that could be stored are compared by the
// squared error that encoding leaves: `mse` is never worse than `absmax`.
template <class Loss>
[[nodiscard]] inline scale_and_zero better_of(scale_and_zero found, scale_and_zero plain, const Loss& loss) {
    if (found.scale == 0 || !is_finite(found.scale)) return plain;
    // In units of a scale, where no ordinary weight's square overflows or vanishes.
    const float unit = 1.0f / plain.scale;
    return loss(found, unit) < loss(plain, unit) ? found : plain;
}

// The symmetric search compares its trials in 16-bit integers, twice the lanes of f32 and exact in any order:
// x becomes x16 = rint(x * reach / |extreme|), a trial's codes are q = clamp((x16 * factor + 2^14) >> 15).
struct quick_trial {
    std::int16_t factor;
    std::int16_t low;
    std::int16_t high;
};

struct quick_sums {
    std::int64_t xq;  // of x16 q
    std::int64_t qq;
};

// The largest |x16|. The sum of 4096 products of x16 and q fits 31 bits (4095 * 128 * 4096 < 2^31), and factors are
// 116 or more, fine enough to tell trials apart.
[[nodiscard]] constexpr float quick_reach(const int_limits& limits) {
    return limits.low == -128 ? 4095.0f : 256 * -limits.low - 1;
}
inline constexpr std::size_t quick_run = 4096;

// The signed extreme maps near -2^(bits-1), so the scale is negative where the extreme is positive and all
// 2^bits codes serve. Eight trial scales from a tenth above the range down to 0.59 of it (long groups gain
// from clipping their tail), then four around the best of them. `quick(trials, count, sums)` compares, `fit` then
// gives the scale of the best.
template <class Quick, class Fit, class Loss>
[[nodiscard]] inline float search_symmetric(float extreme, const int_limits& limits, scale_type type,
                                            const Quick& quick, const Fit& fit, const Loss& loss) {
    constexpr float coarse[] = {0.91f, 0.97f, 1.03f, 1.10f, 1.19f, 1.30f, 1.46f, 1.70f};
    constexpr float fine[] = {0.97f, 0.985f, 1.015f, 1.03f};
    const float sign = extreme < 0 ? -1.0f : 1.0f;
    const float size = extreme * sign;
    const float step = 32768.0f / quick_reach(limits) * limits.low * sign;
    float best_share = 1;
    double best_score = 0;
    const auto compare = [&](const float* shares, int count, float around) {
        quick_trial trials[8];
        quick_sums sums[8];
        for (int i = 0; i < count; ++i) {
            const auto factor = static_cast<std::int16_t>(round_half_even(step * around * shares[i]));
            trials[i] = {factor, static_cast<std::int16_t>(limits.low),
                         static_cast<std::int16_t>(limits.high)};
        }
        quick(trials, count, sums);
        for (int i = 0; i < count; ++i) {
            if (sums[i].qq == 0) continue;
            const auto xq = static_cast<double>(sums[i].xq);
            const double score = xq * xq / static_cast<double>(sums[i].qq);
            if (!(score > best_score)) continue;
            best_score = score;
            best_share = around * shares[i];
        }
    };
    best_fit best;
    const float inverse = limits.low / extreme;
    if (is_finite(quick_reach(limits) / size) && is_finite(inverse * 2)) {
        compare(coarse, 8, 1);
        compare(fine, 4, best_share);
        const fit_trial chosen{inverse * best_share, limits.low, limits.high};
        fit_sums sums{};
        fit(&chosen, 1, &sums);
        best.offer(sums, 0);
        refine(best, limits, fit);
    }
    const scale_and_zero plain{symmetric_scale(size, limits, type), 0};
    return better_of({round_scale(best.scale, type), 0}, plain, loss).scale;
}

// --- two planes -----------------------------------------------------------------------------------------------
// Codes of 8 bits step by a 16th of the base plane's scale. The signed extreme maps to -8 in the base plane, -128 in
// both, so that neither level clips it. The search moves that a little: less scale serves 4 bits, more 8 bits. The
// error of 8 bits weighs 8 times that of 4 bits: MiniLM at g128 has 18.96 and 41.33 dB without the search, 19.13 and
// 40.64 with it (direct: 19.61 int4 mse, 40.06 int8 per channel).
inline constexpr float plane_step = 0.0625f;
inline constexpr float plane_low = -128.0f;
inline constexpr float plane_high = 119.0f;
inline constexpr float fine_weight = 8.0f;

// floor((c + 8) / 16) of an integer c: half a step more than rounding needs keeps it off the ties.
[[nodiscard]] constexpr float base_of(float c) { return round_half_even(c * plane_step + plane_step / 2); }

// `loss(scale, unit)`: fine_weight * error of 8 bits + error of 4 bits, squares of errors times `unit`.
template <class Loss>
[[nodiscard]] inline float plane_scale(float low, float high, scale_type type, bool search,
                                       const Loss& loss) {
    const bool positive = high >= -low;
    const float size = usable_scale((positive ? high : -low) / 8, 8, type);
    float best = positive ? -size : size;
    if (!search || !is_finite(1.0f / (size * plane_step))) return best;
    const float plain = best;
    const float unit = 1.0f / plain;
    float least = loss(plain, unit);
    for (const float share : {0.98f, 1.02f, 0.96f, 1.04f, 0.94f, 1.06f, 0.92f}) {
        const float trial = round_scale(plain * share, type);
        if (trial == 0 || !is_finite(trial)) continue;
        const float error = loss(trial, unit);
        if (!(error < least)) continue;
        least = error;
        best = trial;
    }
    return best;
}

// 12 shrunken ranges, the whole zero point rounded down and up.
template <class Fit, class Loss>
[[nodiscard]] inline float search_asymmetric(float low, float high, const int_limits& limits, scale_type type,
                                             float* zero, const Fit& fit, const Loss& loss) {
    constexpr int shrinks = 12;
    const float min_max = asymmetric_scale(low, high, limits, type, zero);
    const float exact_zero = clamp(limits.low - low / min_max, limits.low, limits.high);
    const float down = round_half_even(exact_zero) > exact_zero ? *zero - 1 : *zero;
    const float points[2] = {clamp(down, limits.low, limits.high), clamp(down + 1, limits.low, limits.high)};
    fit_trial trials[2 * shrinks];
    fit_sums sums[2 * shrinks];
    for (int i = 0; i < 2 * shrinks; ++i) {
        const float inverse = 1.0f / (min_max * (1.0f - 0.03f * static_cast<float>(i / 2)));
        trials[i] = {inverse, limits.low - points[i % 2], limits.high - points[i % 2]};
    }
    best_fit best;
    if (is_finite(trials[2 * shrinks - 1].inverse)) {
        fit(trials, 2 * shrinks, sums);
        for (int i = 0; i < 2 * shrinks; ++i) best.offer(sums[i], points[i % 2]);
    }
    refine(best, limits, fit);
    const scale_and_zero chosen =
        better_of({round_scale(best.scale, type), best.zero}, {min_max, *zero}, loss);
    *zero = chosen.zero;
    return chosen.scale;
}

// --- least squares over scale and zero ----------------------------------------------------------------------
// Where zero has steps below one, the line x = scale * q - scale * zero through the codes gives both. 16 trials go
// side by side, one a lane, over weights divided by their largest magnitude: no sum overflows, none needs a fold.

inline constexpr int line_rounds = 2;

struct line_trials {
    float inverse[16];  // of the scale; codes are clamp(rint(x * inverse + zero))
    float zero[16];
    float score[16];  // the squared error that scale and zero remove
};

// Keep what a trial divides by above 0 where all its codes are the same; any other trial has more.
inline constexpr float least_slope = 0x1p-40f;
[[nodiscard]] constexpr float least_squares_of_codes(float count) { return count * 0x1p-11f; }

// Trial scales from 0.95 down to 0.45 of the range's (long groups gain from clipping their tails), the middle of the
// codes from 0 to beyond that of the range. `descend(unit, trials)` moves each to the line that fits its codes, line_rounds
// times. Gaussian weights in groups of 32: 10.55 dB, a third round 10.57; all scales and zeros, tried one by one, 10.58.
template <class Descend, class Loss>
[[nodiscard]] inline float search_line(float low, float high, const int_limits& limits, scale_type type,
                                       float* zero, const Descend& descend, const Loss& loss) {
    constexpr float times[] = {1.05f, 1.33f, 1.67f, 2.22f};
    const float min_max = asymmetric_scale(low, high, limits, type, zero);
    const float unit = 1.0f / (high > -low ? high : -low);
    if (!is_finite(unit)) return min_max;
    const float range = high * unit - low * unit;
    const float middle = (high * unit + low * unit) / 2;
    const float whole = limits.levels / range;
    line_trials trials{};
    for (int i = 0; i < 16; ++i) {
        const float inverse = whole * times[i / 4];
        const float shift = middle * 0.5f * static_cast<float>(i % 4) * inverse;
        trials.inverse[i] = inverse;
        trials.zero[i] = clamp((limits.low + limits.high) / 2 - shift, limits.low, limits.high);
    }
    descend(unit, trials);
    int best = 0;
    for (int i = 1; i < 16; ++i) best = trials.score[i] > trials.score[best] ? i : best;
    const float scale = round_scale(1.0f / (trials.inverse[best] * unit), type);
    const scale_and_zero chosen = better_of({scale, trials.zero[best]}, {min_max, *zero}, loss);
    *zero = chosen.zero + 0.0f;  // one 0 for all: instructions that round give -0, sums do not
    return chosen.scale;
}

}  // namespace bitmill::kernels
