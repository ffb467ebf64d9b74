// The primitives of layers on NEON, and on NEON with dot products where it is compiled for.
#pragma once

#include <bitmill/kernels/layer_primitives.hpp>

#if defined(__aarch64__)

namespace bitmill::kernels {

template <>
BITMILL_FLATTEN f32x16<xsimd::neon64> fused(const f32x16<xsimd::neon64>& a, const f32x16<xsimd::neon64>& b,
                                            const f32x16<xsimd::neon64>& c) {
    return {{vfmaq_f32(c.v[0], a.v[0], b.v[0]), vfmaq_f32(c.v[1], a.v[1], b.v[1]),
             vfmaq_f32(c.v[2], a.v[2], b.v[2]), vfmaq_f32(c.v[3], a.v[3], b.v[3])}};
}

template <>
struct float_tile_size<xsimd::neon64> {
    static constexpr std::size_t rows = 6, panels = 1, few_panels = 4;
};

BITMILL_FLATTEN int8x16_t neon_spread_x(const std::int8_t* x) {
    return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x)));
}

// The products are of signed integers: codes of 0 to 255 are taken less 128, which `offset` says.
template <int Offset>
struct neon_dot {
    using x_element = std::int8_t;
    static constexpr std::size_t panels = 1, flush = 0, few_rows = 0;
    static constexpr int offset = Offset;
    static BITMILL_FLATTEN int8x16_t load_16(const std::uint8_t* src) {
        return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(src), vdupq_n_u8(Offset)));
    }
    struct weights {
        int8x16_t v[4];
    };
    static BITMILL_FLATTEN weights load(const std::uint8_t* src) {
        return {{load_16(src), load_16(src + 16), load_16(src + 32), load_16(src + 48)}};
    }
    static BITMILL_FLATTEN int8x16_t spread_x(const std::int8_t* x) { return neon_spread_x(x); }

#if defined(__ARM_FEATURE_DOTPROD)
    static constexpr std::size_t rows = 4;
    struct sum {
        int32x4_t v[4];
    };
    static BITMILL_FLATTEN void clear(sum& s) {
        for (auto& one : s.v) one = vdupq_n_s32(0);
    }
    static BITMILL_FLATTEN void step(sum& s, const weights& w, int8x16_t x) {
        BITMILL_UNROLL_ALL
        for (std::size_t i = 0; i < 4; ++i) s.v[i] = vdotq_s32(s.v[i], w.v[i], x);
    }
    static BITMILL_FLATTEN f32x16<xsimd::neon64> lanes(const sum& s, std::int32_t start) {
        const int32x4_t begin = vdupq_n_s32(start);
        return {{vcvtq_f32_s32(vaddq_s32(s.v[0], begin)), vcvtq_f32_s32(vaddq_s32(s.v[1], begin)),
                 vcvtq_f32_s32(vaddq_s32(s.v[2], begin)), vcvtq_f32_s32(vaddq_s32(s.v[3], begin))}};
    }
#else
    static constexpr std::size_t rows = 2;
    struct sum {  // two lanes a column
        int32x4_t v[8];
    };
    static BITMILL_FLATTEN void clear(sum& s) {
        for (auto& one : s.v) one = vdupq_n_s32(0);
    }
    static BITMILL_FLATTEN void step(sum& s, const weights& w, int8x16_t x) {
        BITMILL_UNROLL_ALL
        for (std::size_t i = 0; i < 4; ++i) {
            s.v[2 * i] = vpadalq_s16(s.v[2 * i], vmull_s8(vget_low_s8(w.v[i]), vget_low_s8(x)));
            s.v[2 * i + 1] = vpadalq_s16(s.v[2 * i + 1], vmull_s8(vget_high_s8(w.v[i]), vget_low_s8(x)));
        }
    }
    static BITMILL_FLATTEN float32x4_t join(const sum& s, std::size_t i, int32x4_t begin) {
        return vcvtq_f32_s32(vaddq_s32(vpaddq_s32(s.v[2 * i], s.v[2 * i + 1]), begin));
    }
    static BITMILL_FLATTEN f32x16<xsimd::neon64> lanes(const sum& s, std::int32_t start) {
        const int32x4_t begin = vdupq_n_s32(start);
        return {{join(s, 0, begin), join(s, 1, begin), join(s, 2, begin), join(s, 3, begin)}};
    }
#endif
};
template <>
struct dot_wide<xsimd::neon64> : neon_dot<128> {};
template <>
struct dot_small<xsimd::neon64> : neon_dot<0> {};

}  // namespace bitmill::kernels

#endif
