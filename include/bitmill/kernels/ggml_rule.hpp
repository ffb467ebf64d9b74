// How a block of GGUF gets its scales and codes, for every kernel table and the reference; what is done to whole
// sub-blocks comes from `Ops`. `absmax` is libggml's rule for blocks of 32, bit for bit; for those of 256 the
// range of every sub-block. `search` is least squares over the scales and integers as they are stored, where
// llama.cpp fits and then rounds. Gaussian weights lose less (RMSE; in brackets by llama.cpp's weights) than
// with it: q2_k 10 % (3), q3_k 1.2 (4), q4_k 1.3 (1.3), q5_k 3.8 (4.3), q6_k 1.7 (0.4), q4_0 6, q4_1 12.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/kernels/ggml_block.hpp>
#include <bitmill/kernels/scale_rule.hpp>

namespace bitmill::kernels::ggml {

// Sixteen candidates, one a lane: y ~ scale * q - least, and the weighted squared error that each leaves.
struct candidates {
    alignas(64) float scale[16];
    alignas(64) float least[16];
    alignas(64) float error[16];
};

// Sixteen lines y ~ scale * q + offset, q = clamp(rint((y - offset) * inverse), 0, levels), first over the range
// [low, low + range]: codes for levels + line_reach of it, held at its lower end or in its middle.
struct line_start {
    float low;
    float range;
    float levels;
    float ceiling;  // offsets stay at or below it
};
inline constexpr float line_reach[16] = {-1.0f, -0.65f, -0.3f, 0.05f, 0.4f, 0.75f, 1.1f, 1.45f,
                                         -1.0f, -0.65f, -0.3f, 0.05f, 0.4f, 0.75f, 1.1f, 1.45f};
inline constexpr float line_middle[16] = {0,    0,    0,    0,    0,    0,    0,    0,
                                          0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
// An element weighs at least this, so that the sums of a sub-block far below the largest one are not 0.
inline constexpr float least_weight = 1e-18f;
inline constexpr float least_scale = 1e-30f;  // of a line, so that it has an inverse
// Of scale and offset, those of the line that leaves the least error; by `error` as much as it takes away, negative.
struct lines {
    alignas(64) float scale[16];
    alignas(64) float offset[16];
    alignas(64) float error[16];
};

// Neighbours of the integers of a sub-block. A wider line is held in its middle by a larger least: `tilt` units of
// least for one of scale.
struct integer_centre {
    float scale;
    float least;
    float d;
    float dmin;
    float tilt;
};
inline constexpr float near_scale[16] = {-2, -1, 0, 1, 2, -2, -1, 0, 1, 2, -2, -1, 0, 1, 2, 0};
inline constexpr float near_least[16] = {-1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0};
// Without a least: near the scale, and near its opposite, which has the farther end on the other side.
inline constexpr float near_sign[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1};
inline constexpr float near_signed[16] = {-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, -2, -1, 0, 1, 2};

// 1 / scale, and 0 for 0: scale / max(scale^2, this). Below 3e-19 of the largest weight no code matters.
inline constexpr float least_square = 1e-37f;

// Weighted: of x q and of q q.
struct code_sums {
    float xq = 0;
    float qq = 0;
};

// Weights are searched as y = x / whole, a power of two, with the largest |y| in [1, 2): squares of no weights
// overflow or vanish, and nothing is rounded.
struct frame {
    float whole;
    float unit;
    explicit frame(std::uint32_t absmax_bits) {
        const std::uint32_t exponent = absmax_bits >> 23;
        whole = __builtin_bit_cast(float, (exponent == 0 ? 1u : exponent) << 23);
        unit = 1.0f / whole;
    }
};

// The largest f16 stands for what is beyond: such a block is clipped, and the error says so.
[[nodiscard]] inline float bounded_f16(float x) { return clamp(x, -65504.0f, 65504.0f); }

struct stored {
    std::uint16_t bits;
    float value;  // in the units of y
    stored(float y, const frame& f) : bits(f16_from_f32(bounded_f16(y * f.whole) + 0.0f)) {  // no -0
        value = f32_from_f16(bits) * f.unit;
    }
};

// Of two extremes the one farther from 0, with its sign.
[[nodiscard]] inline float farther(float low, float high) { return high >= -low ? high : low; }

// The first of the least.
[[nodiscard]] inline std::size_t best_of(const float (&error)[16]) {
    alignas(64) float least[8];
    for (std::size_t i = 0; i < 8; ++i) least[i] = error[i] < error[i + 8] ? error[i] : error[i + 8];
    for (std::size_t i = 0; i < 4; ++i) least[i] = least[i] < least[i + 4] ? least[i] : least[i + 4];
    for (std::size_t i = 0; i < 2; ++i) least[i] = least[i] < least[i + 2] ? least[i] : least[i + 2];
    const float best = least[0] < least[1] ? least[0] : least[1];
    std::size_t t = 0;
    while (t < 15 && error[t] != best) ++t;
    return t;
}

// --- absmax, blocks of 32 -----------------------------------------------------------------------------------
template <class Ops>
inline void plain_block(const ggml_shape& s, const float* x, ggml_block& b) {
    float low = 0;
    float high = 0;
    Ops::extremes(x, 32, &low, &high);
    float exact = 0;
    float shift = 0;
    if (s.least) {
        exact = (high - low) / static_cast<float>(s.high);
        if (!is_finite(exact)) exact = 65504.0f;
        shift = low;
        b.dmin = f16_from_f32(bounded_f16(low) + 0.0f);  // no -0
    } else if (s.low == -128) {
        exact = (high > -low ? high : 0.0f - low) / 127.0f;
    } else {
        float extreme = farther(low, high);
        if (high == -low)  // the first of them
            for (std::size_t i = 32; i != 0; --i)
                if (x[i - 1] == high || x[i - 1] == low) extreme = x[i - 1];
        exact = (extreme == 0 ? 0.0f : extreme) / static_cast<float>(s.low);
    }
    const float d = bounded_f16(exact);
    b.d = f16_from_f32(d);
    // Of scales below 2^-128 there is no inverse; as f16 they are 0.
    const float inverse = d == 0 || !is_finite(1.0f / d) ? 0.0f : 1.0f / d;
    if (s.low == -128) return Ops::round_away(x, 32, inverse, b.code);
    Ops::truncate(x, 32, shift, inverse, 0.5f - static_cast<float>(s.low), static_cast<float>(s.high - s.low),
                  b.code);
}

inline constexpr struct {
    alignas(64) float one[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
} equal;

// --- search, blocks of 32 ------------------------------------------------------------------------------------
// Candidate scales as they will be stored.
template <class Ops>
inline void store_all(float (&values)[16], const frame& f) {
    for (float& one : values) one = bounded_f16(one * f.whole);
    Ops::round_f16(values);
    for (float& one : values) one *= f.unit;
}

// One scale: a coarse grid below the one that reaches the extreme, some of the other sign, then a finer grid around
// the best.
template <class Ops>
inline void search_scale(const ggml_shape& s, const float* y, const frame& f, ggml_block& b) {
    float low = 0;
    float high = 0;
    Ops::extremes(y, 32, &low, &high);
    const float extreme = farther(low, high);
    const float step = 0.22f / static_cast<float>(-s.low);
    candidates c{};
    for (int t = 0; t < 12; ++t)
        c.scale[t] = extreme / static_cast<float>(s.low) * (1.0f - step * static_cast<float>(t));
    for (int t = 12; t < 16; ++t)
        c.scale[t] = extreme / static_cast<float>(s.high) * (1.0f - 2 * step * static_cast<float>(t - 12));
    for (int pass = 0;; ++pass) {
        store_all<Ops>(c.scale, f);
        Ops::template try_all<false>(y, equal.one, 32, s, c);
        const float best = c.scale[best_of(c.error)];
        if (pass == 1) {
            const stored d(best, f);
            b.d = d.bits;
            return Ops::code(y, 32, s, d.value, 0, b.code);
        }
        for (int t = 0; t < 16; ++t) c.scale[t] = best * (1.0f + step * 0.125f * static_cast<float>(t - 8));
    }
}

template <class Ops>
inline void fit_line(const float* y, const float* weight, std::size_t n, const line_start& start,
                     float* scale, float* least) {
    *scale = 0;
    *least = -start.low;
    if (!(start.range > least_scale)) return;
    lines fitted;
    Ops::fit(y, weight, n, start, fitted);
    const std::size_t best = best_of(fitted.error);
    *scale = fitted.scale[best];
    *least = -fitted.offset[best];
}

// Scale and offset: a fitted line, then its neighbours as f16.
template <class Ops>
inline void search_line_of_block(const ggml_shape& s, const float* y, const frame& f, ggml_block& b) {
    float low = 0;
    float high = 0;
    Ops::extremes(y, 32, &low, &high);
    // Around the middle, so that f32 sums see the differences.
    const float middle = 0.5f * low + 0.5f * high;
    alignas(64) float centred[32];
    for (std::size_t i = 0; i < 32; ++i) centred[i] = y[i] - middle;
    float scale = 0;
    float least = 0;
    const auto levels = static_cast<float>(s.high);
    fit_line<Ops>(centred, equal.one, 32, {low - middle, high - low, levels, 4.0f}, &scale, &least);
    least -= middle;
    candidates c{};
    for (int t = 0; t < 15; ++t) {
        // About a turn of the line around its middle, and shifts of it.
        const float turn = 0.006f * static_cast<float>(t / 3 - 2) * scale;
        c.scale[t] = scale + turn;
        c.least[t] = least + 0.5f * levels * turn + 0.04f * static_cast<float>(t % 3 - 1) * scale;
    }
    c.scale[15] = (high - low) / levels;
    c.least[15] = -low;
    store_all<Ops>(c.scale, f);
    store_all<Ops>(c.least, f);
    Ops::template try_all<true>(y, equal.one, 32, s, c);
    const std::size_t best = best_of(c.error);
    const stored d(c.scale[best], f);
    const stored m(-c.least[best], f);
    b.d = d.bits;
    b.dmin = m.bits;
    Ops::code(y, 32, s, d.value, -m.value, b.code);
}

// --- blocks of 256 --------------------------------------------------------------------------------------------
// The integers of the sub-blocks against d and dmin, and the squared error that they leave.
struct super_scales {
    std::uint16_t d_bits = 0;
    std::uint16_t dmin_bits = 0;
    float d = 0;
    float dmin = 0;
    float scale[16] = {};
    float least[16] = {};
    float error = 0;
};

[[nodiscard]] inline float integer_of(float value, float unit, int low, int high) {
    if (unit == 0) return 0;
    return round_half_even(clamp(value / unit, static_cast<float>(low), static_cast<float>(high)));
}

inline void set_super(super_scales& all, float d, float dmin, const frame& f) {
    const stored one(d, f);
    const stored two(dmin, f);
    all.d_bits = one.bits;
    all.dmin_bits = two.bits;
    all.d = one.value;
    all.dmin = two.value;
}

// The scales and leasts of the sub-blocks to integers, each for itself.
inline super_scales round_scales(const ggml_shape& s, const float* scale, const float* least,
                                 const frame& f) {
    const unsigned blocks = s.elements / s.sub;
    float far = 0;
    float most = 0;
    for (unsigned j = 0; j < blocks; ++j) {
        const float size = scale[j] < 0 ? -scale[j] : scale[j];
        if (size > (far < 0 ? -far : far)) far = scale[j];
        most = least[j] > most ? least[j] : most;
    }
    super_scales all;
    set_super(all, far / static_cast<float>(s.scale_low < 0 ? s.scale_low : s.scale_high),
              s.least ? most / static_cast<float>(s.least_high) : 0, f);
    for (unsigned j = 0; j < blocks; ++j) {
        all.scale[j] = integer_of(scale[j], all.d, s.scale_low, s.scale_high);
        all.least[j] = integer_of(least[j], all.dmin, 0, s.least_high);
    }
    return all;
}

template <class Ops>
inline void measure_super(const ggml_shape& s, const float* y, const float* weight, super_scales& all) {
    all.error = 0;
    for (unsigned j = 0; j < s.elements / s.sub; ++j)
        all.error += Ops::error(y + j * s.sub, weight + j * s.sub, s.sub, s, all.d * all.scale[j],
                                all.dmin * all.least[j]);
}

// Every sub-block's neighbouring integers, by the error that they leave.
template <class Ops>
inline void search_integers(const ggml_shape& s, const float* y, const float* weight, super_scales& all) {
    all.error = 0;
    candidates c;
    alignas(64) float scale[16];
    alignas(64) float least[16];
    const float tilt = all.dmin == 0 ? 0 : 0.5f * static_cast<float>(s.high) * all.d / all.dmin;
    for (unsigned j = 0; j < s.elements / s.sub; ++j) {
        const integer_centre centre{all.scale[j], all.least[j], all.d, all.dmin, clamp(tilt, 0, 32)};
        const std::size_t at = j * s.sub;
        if (s.least) {
            Ops::neighbours(centre, s, scale, least, c);
            Ops::template try_all<true>(y + at, weight + at, s.sub, s, c);
        } else {
            Ops::signed_neighbours(centre, s, scale, c);
            Ops::template try_all<false>(y + at, weight + at, s.sub, s, c);
        }
        const std::size_t best = best_of(c.error);
        all.scale[j] = scale[best];
        if (s.least) all.least[j] = least[best];
        all.error += c.error[best];
    }
}

template <class Ops>
inline void code_super(const ggml_shape& s, const float* y, const super_scales& all, std::uint8_t* code) {
    for (unsigned j = 0; j < s.elements / s.sub; ++j)
        Ops::code(y + j * s.sub, s.sub, s, all.d * all.scale[j], all.dmin * all.least[j], code + j * s.sub);
}

// The d that fits the integers and codes best. Without leasts.
template <class Ops>
inline void refit_super(const ggml_shape& s, const float* y, const float* weight, const frame& f,
                        super_scales& all, std::uint8_t* code) {
    code_super<Ops>(s, y, all, code);
    float xq = 0;
    float qq = 0;
    for (unsigned j = 0; j < s.elements / s.sub; ++j) {
        const std::size_t at = j * s.sub;
        const code_sums sums = Ops::sums(y + at, weight + at, s.sub, s, code + at);
        xq += all.scale[j] * sums.xq;
        qq += all.scale[j] * all.scale[j] * sums.qq;
    }
    if (qq > 0) set_super(all, xq / qq, 0, f);
}

template <class Ops>
inline void choose_super(const ggml_shape& s, const float* y, const frame& f, bool search, ggml_block& b) {
    float scale[16] = {};
    float least[16] = {};
    float fitted[16] = {};
    float fitted_least[16] = {};
    const unsigned blocks = s.elements / s.sub;
    alignas(64) float weight[256];
    for (unsigned j = 0; j < blocks; ++j) {
        const float* part = y + j * s.sub;
        if (search) Ops::weigh(part, s.sub, s, weight + j * s.sub);
        float low = 0;
        float high = 0;
        Ops::extremes(part, s.sub, &low, &high);
        if (s.least) {
            low = low < 0 ? low : 0;
            high = high > low ? high : low;
            scale[j] = (high - low) / static_cast<float>(s.high);
            least[j] = -low;
            if (search)
                fit_line<Ops>(part, weight + j * s.sub, s.sub,
                              {low, high - low, static_cast<float>(s.high), 0}, &fitted[j], &fitted_least[j]);
        } else {
            scale[j] = farther(low, high) / static_cast<float>(s.low);
        }
    }
    super_scales chosen = round_scales(s, scale, least, f);
    if (search) {
        measure_super<Ops>(s, y, weight, chosen);
        super_scales now = s.least ? round_scales(s, fitted, fitted_least, f) : chosen;
        search_integers<Ops>(s, y, weight, now);
        if (now.error < chosen.error) chosen = now;
        // Fitting d and searching again takes 1 to 2 % of the error of q3_k and q6_k away, of the others 0.4 %: there
        // it would not be worth half the speed.
        if (!s.least) {
            refit_super<Ops>(s, y, weight, f, now, b.code);
            search_integers<Ops>(s, y, weight, now);
            if (now.error < chosen.error) chosen = now;
        }
    }
    b.d = chosen.d_bits;
    b.dmin = chosen.dmin_bits;
    for (unsigned j = 0; j < blocks; ++j) {
        b.scale[j] = static_cast<std::int16_t>(chosen.scale[j]);
        b.least[j] = static_cast<std::int16_t>(chosen.least[j]);
    }
    code_super<Ops>(s, y, chosen, b.code);
}

// --- all ----------------------------------------------------------------------------------------------------
// False where the block holds a NaN or an infinity.
template <class Ops>
[[nodiscard]] inline bool choose_block(const ggml_shape& s, const float* x, bool search, ggml_block& b) {
    const std::uint32_t bits = Ops::absmax_bits(x, s.elements);
    if (bits >= 0x7f800000u) return false;
    const bool small = s.elements == s.sub;
    if (small && !search) {
        plain_block<Ops>(s, x, b);
        return true;
    }
    const frame f(bits);
    alignas(64) float y[256];
    for (std::size_t i = 0; i < s.elements; ++i) y[i] = x[i] * f.unit;
    if (!small)
        choose_super<Ops>(s, y, f, search, b);
    else if (s.least)
        search_line_of_block<Ops>(s, y, f, b);
    else
        search_scale<Ops>(s, y, f, b);
    return true;
}

template <class Ops>
inline std::size_t encode_blocks(const float* src, std::size_t count, ggml_type type, bool search,
                                 std::uint8_t* dst) {
    return with_ggml_type(type, [&](auto constant) -> std::size_t {
        constexpr ggml_type as = decltype(constant)::value;
        constexpr ggml_shape shape = shape_of(as);
        ggml_block block{};
        for (std::size_t i = 0; i < count; ++i) {
            if (!choose_block<Ops>(shape, src + i * shape.elements, search, block)) return i;
            pack_block<as>(block, dst + i * facts(as).block_bytes);
        }
        return count;
    });
}

}  // namespace bitmill::kernels::ggml
