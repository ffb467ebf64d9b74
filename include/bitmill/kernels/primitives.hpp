// What xsimd lacks, wrapped once per instruction set: the fixed fold of the lanes, f32 -> byte packing, nibbles,
// 16-entry look-ups, 16-bit products, f16. Every instruction set gives the bits of reference.hpp.
#pragma once

#include <bitmill/core/half.hpp>
#include <bitmill/kernels/lanes.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill::kernels {

// Half to even for |x| <= 2^22. Without roundps (SSE4.1) the sum with 1.5 * 2^23 has no bits below 1.
template <class Arch>
BITMILL_FLATTEN f32x16<Arch> round_small(const f32x16<Arch>& a) {
#if defined(BITMILL_AVX512)
    return {{_mm512_roundscale_ps(a.v[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}};
#elif defined(__AVX2__)
    return {{_mm256_round_ps(a.v[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
             _mm256_round_ps(a.v[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}};
#else
    const auto magic = spread<Arch>(12582912.0f);
    return (a + magic) - magic;
#endif
}

template <class Arch>
struct primitives;

// Scalar look-ups: the baseline has no byte shuffle (pshufb came with SSSE3).
template <class Arch>
struct scalar_book {
    const code_book& book;
    explicit scalar_book(const code_book& b) : book(b) {}

    // Codes (one a byte) of 16 scaled weights and the values that they stand for.
    BITMILL_FLATTEN void encode(const f32x16<Arch>& scaled, std::uint8_t* codes, f32x16<Arch>& values) const {
        alignas(64) float lanes[16];
        alignas(64) float found[16];
        store(scaled, lanes);
        for (std::size_t i = 0; i < 16; ++i) {
            unsigned rank = 0;
            for (const float threshold : book.threshold) rank += static_cast<unsigned>(lanes[i] > threshold);
            codes[i] = book.code_of_rank[rank];
            found[i] = book.value[codes[i]];
        }
        values = load<Arch>(found);
    }
    BITMILL_FLATTEN f32x16<Arch> values(const std::uint8_t* codes) const {
        alignas(64) float found[16];
        for (std::size_t i = 0; i < 16; ++i) found[i] = book.value[codes[i]];
        return load<Arch>(found);
    }
};

struct scalar_half {
    static void widen_f16(const std::uint16_t* src, std::size_t count, float* dst) {
        for (std::size_t i = 0; i < count; ++i) dst[i] = f32_from_f16(src[i]);
    }
    static void narrow_f16(const float* src, std::size_t count, std::uint16_t* dst) {
        for (std::size_t i = 0; i < count; ++i) dst[i] = f16_from_f32(src[i]);
    }
    static void widen_bf16(const std::uint16_t* src, std::size_t count, float* dst) {
        for (std::size_t i = 0; i < count; ++i) dst[i] = f32_from_bf16(src[i]);
    }
    static void narrow_bf16(const float* src, std::size_t count, std::uint16_t* dst) {
        for (std::size_t i = 0; i < count; ++i) dst[i] = bf16_from_f32(src[i]);
    }
};

}  // namespace bitmill::kernels

#if defined(__x86_64__)
#include <bitmill/kernels/primitives_x86.hpp>
#elif defined(__aarch64__)
#include <bitmill/kernels/primitives_neon.hpp>
#endif
