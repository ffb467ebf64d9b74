// The primitives on NEON, which every aarch64 CPU has.
#pragma once

#include <bitmill/kernels/primitives.hpp>

#if defined(__aarch64__)

namespace bitmill::kernels {

template <class Arch>
BITMILL_FLATTEN void stream_16(const f32x16<Arch>& x, float* dst) {
    store(x, dst);
}
BITMILL_FLATTEN bool can_stream(const float*) { return false; }
BITMILL_FLATTEN void end_stream() {}

template <>
struct primitives<xsimd::neon64> : scalar_half {
    using lanes = f32x16<xsimd::neon64>;
    using book = scalar_book<xsimd::neon64>;
    using bytes = uint8x16_t;

    struct absmax {
        int32x4_t most = vdupq_n_s32(0);
        BITMILL_FLATTEN void add(const lanes& x) {
            for (const auto& part : x.v)
                most = vmaxq_s32(most, vandq_s32(vreinterpretq_s32_f32(part), vdupq_n_s32(0x7fffffff)));
        }
        BITMILL_FLATTEN std::uint32_t bits() const { return static_cast<std::uint32_t>(vmaxvq_s32(most)); }
    };
    static BITMILL_FLATTEN float fold(const lanes& x) {
        const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
        const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }

    using words = int16x8_t;  // sums: four 32-bit lanes in the same register
    static constexpr std::size_t words_per_vector = 8;
    static BITMILL_FLATTEN words spread_words(std::int16_t x) { return vdupq_n_s16(x); }
    static BITMILL_FLATTEN words load_words(const std::int16_t* src) { return vld1q_s16(src); }
    static BITMILL_FLATTEN void store_words(const lanes& x, std::int16_t* dst) {
        vst1q_s16(dst, vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.v[0])), vmovn_s32(vcvtnq_s32_f32(x.v[1]))));
        vst1q_s16(dst + 8,
                  vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.v[2])), vmovn_s32(vcvtnq_s32_f32(x.v[3]))));
    }
    static BITMILL_FLATTEN words scale_words(words a, words b) { return vqrdmulhq_s16(a, b); }
    static BITMILL_FLATTEN words lower_words(words a, words b) { return vminq_s16(a, b); }
    static BITMILL_FLATTEN words higher_words(words a, words b) { return vmaxq_s16(a, b); }
    static BITMILL_FLATTEN words add_products(words sum, words a, words b) {
        const int32x4_t low = vmlal_s16(vreinterpretq_s32_s16(sum), vget_low_s16(a), vget_low_s16(b));
        return vreinterpretq_s16_s32(vmlal_s16(low, vget_high_s16(a), vget_high_s16(b)));
    }
    static BITMILL_FLATTEN void sum_each(const words (&x)[4], std::int32_t* dst) {
        for (std::size_t i = 0; i < 4; ++i) dst[i] = vaddvq_s32(vreinterpretq_s32_s16(x[i]));
    }
    static BITMILL_FLATTEN bytes load_bytes(const std::uint8_t* src) { return vld1q_u8(src); }
    static BITMILL_FLATTEN void store_bytes(bytes b, std::uint8_t* dst) { vst1q_u8(dst, b); }
    static BITMILL_FLATTEN bytes flip(bytes b, std::uint8_t mask) { return veorq_u8(b, vdupq_n_u8(mask)); }
    static BITMILL_FLATTEN bytes to_bytes(const lanes& x) {
        const uint16x8_t low =
            vcombine_u16(vmovn_u32(vcvtnq_u32_f32(x.v[0])), vmovn_u32(vcvtnq_u32_f32(x.v[1])));
        const uint16x8_t high =
            vcombine_u16(vmovn_u32(vcvtnq_u32_f32(x.v[2])), vmovn_u32(vcvtnq_u32_f32(x.v[3])));
        return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    }
    static BITMILL_FLATTEN lanes from_bytes(bytes b) {
        const uint16x8_t low = vmovl_u8(vget_low_u8(b));
        const uint16x8_t high = vmovl_u8(vget_high_u8(b));
        return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
                 vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
                 vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
    }
    static BITMILL_FLATTEN void store_nibbles(uint8x16_t low, uint8x16_t high, std::uint8_t* dst) {
        vst1_u8(dst, vget_low_u8(vorrq_u8(low, vshlq_n_u8(high, 4))));
    }
    static BITMILL_FLATTEN void store_nibbles_low_first(bytes b, std::uint8_t* dst) {
        store_nibbles(vuzp1q_u8(b, b), vuzp2q_u8(b, b), dst);
    }
    static BITMILL_FLATTEN void store_nibbles_high_first(bytes b, std::uint8_t* dst) {
        store_nibbles(vuzp2q_u8(b, b), vuzp1q_u8(b, b), dst);
    }
    static BITMILL_FLATTEN void store_pairs_low_first(bytes b, std::uint8_t* dst) {
        const uint8x16_t twos = vorrq_u8(vuzp1q_u8(b, b), vshlq_n_u8(vuzp2q_u8(b, b), 2));
        std::uint8_t fours[8];
        store_nibbles_low_first(twos, fours);
        __builtin_memcpy(dst, fours, 4);
    }
    static BITMILL_FLATTEN bytes load_pairs_low_first(const std::uint8_t* src) {
        std::uint8_t fours[8] = {};
        __builtin_memcpy(fours, src, 4);
        const uint8x8_t twos = vget_low_u8(load_nibbles_low_first(fours));
        const uint8x8x2_t both = vzip_u8(vand_u8(twos, vdup_n_u8(3)), vshr_n_u8(twos, 2));
        return vcombine_u8(both.val[0], both.val[1]);
    }
    static BITMILL_FLATTEN bytes load_nibbles_low_first(const std::uint8_t* src) {
        const uint8x8_t packed = vld1_u8(src);
        const uint8x8x2_t both = vzip_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4));
        return vcombine_u8(both.val[0], both.val[1]);
    }
    static BITMILL_FLATTEN bytes load_nibbles_high_first(const std::uint8_t* src) {
        const uint8x8_t packed = vld1_u8(src);
        const uint8x8x2_t both = vzip_u8(vshr_n_u8(packed, 4), vand_u8(packed, vdup_n_u8(15)));
        return vcombine_u8(both.val[0], both.val[1]);
    }
};

}  // namespace bitmill::kernels

#endif
