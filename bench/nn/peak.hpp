// What a core can do at best: multiply-adds in a loop that touches registers only, by instruction set; and summing
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {

struct peak {
    const char* name;
    std::size_t operations;  // of a round
    void (*run)(std::size_t rounds);
};

inline constexpr std::size_t chains = 12;  // hide the latency of 4 cycles twice, and fit 16 registers

#if defined(__x86_64__)

// Twelve independent chains; the empty assembly keeps the compiler from multiplying once for all.
#define BITMILL_BENCH_CHAINS(function, instructions, vector, next)                             \
    __attribute__((target(instructions), noinline)) inline void function(std::size_t rounds) { \
        vector a, b, sums[chains] = {};                                                        \
        std::memset(&a, 0x3f, sizeof a);                                                       \
        std::memset(&b, 0x3f, sizeof b);                                                       \
        for (std::size_t i = 0; i < rounds; ++i) {                                             \
            _Pragma("GCC unroll 12") for (auto& sum : sums) {                                  \
                asm volatile("" : "+v"(a));                                                    \
                sum = next;                                                                    \
            }                                                                                  \
        }                                                                                      \
        _Pragma("GCC unroll 12") for (auto& sum : sums) asm volatile("" : : "v"(sum));         \
    }

BITMILL_BENCH_CHAINS(f32_sse2, "sse2", __m128, _mm_add_ps(sum, _mm_mul_ps(a, b)))
BITMILL_BENCH_CHAINS(f32_avx2, "avx2,fma", __m256, _mm256_fmadd_ps(a, b, sum))
BITMILL_BENCH_CHAINS(f32_avx512, "avx512f", __m512, _mm512_fmadd_ps(a, b, sum))
BITMILL_BENCH_CHAINS(i16_sse2, "sse2", __m128i, _mm_add_epi32(sum, _mm_madd_epi16(a, b)))
BITMILL_BENCH_CHAINS(i16_avx2, "avx2", __m256i, _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)))
BITMILL_BENCH_CHAINS(i16_avx512, "avx512bw", __m512i, _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)))
BITMILL_BENCH_CHAINS(u8_avx2, "avx2", __m256i, _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)))
// What u8 x s8 peers do without VNNI: two instructions to multiply, of which the first saturates.
BITMILL_BENCH_CHAINS(pairs_avx2, "avx2", __m256i,
                     _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), b)))
BITMILL_BENCH_CHAINS(u8_avx512, "avx512bw", __m512i, _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, b)))
BITMILL_BENCH_CHAINS(dot_avx512, "avx512vnni", __m512i, _mm512_dpbusd_epi32(sum, a, b))
BITMILL_BENCH_CHAINS(dot_avx, "avxvnni", __m256i, _mm256_dpbusd_avx_epi32(sum, a, b))
#undef BITMILL_BENCH_CHAINS

__attribute__((target("avx2"), noinline)) inline std::uint64_t sum_avx2(
    std::span<const std::uint64_t> words) {
    __m256i sums[4] = {};
    const auto* at = reinterpret_cast<const __m256i*>(words.data());
    const std::size_t count = words.size() / 16;
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t k = 0; k < 4; ++k)
            sums[k] = _mm256_add_epi64(sums[k], _mm256_loadu_si256(at + 4 * i + k));
    std::uint64_t each[16], all = 0;
    std::memcpy(each, sums, sizeof each);
    for (const auto one : each) all += one;
    return all;
}

// The instruction that exact int8 needs there, and the one that suffices for u8 x s4.
inline std::vector<peak> peaks(std::string_view isa) {
    constexpr std::size_t xmm = 16, ymm = 32, zmm = 64;  // bytes
    const auto floats = [](std::size_t bytes) { return chains * 2 * bytes / 4; };
    const auto i16 = [](std::size_t bytes) { return chains * 2 * bytes / 2; };
    const auto i8 = [](std::size_t bytes) { return chains * 2 * bytes; };
    if (isa == "avx2")
        return {{"f32", floats(ymm), f32_avx2},
                {"int8", i16(ymm), i16_avx2},
                {"int4", i8(ymm), u8_avx2},
                {"saturating", i8(ymm), pairs_avx2}};
    if (isa == "avx512bw")
        return {
            {"f32", floats(zmm), f32_avx512}, {"int8", i16(zmm), i16_avx512}, {"int4", i8(zmm), u8_avx512}};
    if (isa == "avx512vnni")
        return {
            {"f32", floats(zmm), f32_avx512}, {"int8", i8(zmm), dot_avx512}, {"int4", i8(zmm), dot_avx512}};
    if (isa == "avxvnni" || isa == "avx2vnni")
        return {{"f32", floats(ymm), f32_avx2}, {"int8", i8(ymm), dot_avx}, {"int4", i8(ymm), dot_avx}};
    return {{"f32", floats(xmm), f32_sse2}, {"int8", i16(xmm), i16_sse2}, {"int4", i16(xmm), i16_sse2}};
}

#else

inline std::vector<peak> peaks(std::string_view) { return {}; }

#endif

inline std::uint64_t sum(std::span<const std::uint64_t> words) {
#if defined(__x86_64__)
    if (words.size() % 16 == 0 && __builtin_cpu_supports("avx2")) return sum_avx2(words);
#endif
    std::uint64_t all = 0;
    for (const auto one : words) all += one;
    return all;
}

}  // namespace bench
