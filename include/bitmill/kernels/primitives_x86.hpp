// The primitives on SSE2 (the x86-64 baseline), AVX2 with F16C, and AVX-512 with BW, DQ and VL.
#pragma once

#include <bitmill/kernels/primitives.hpp>

#if defined(__x86_64__)

namespace bitmill::kernels {

// Streaming stores spare the read of every line that is about to be overwritten. Four of 16 bytes need no more
// alignment than malloc gives, and the write-combining buffers join them into lines.
template <class Arch>
BITMILL_FLATTEN void stream_16(const f32x16<Arch>& x, float* dst) {
#if defined(BITMILL_AVX512)
    const __m512 all = x.v[0];
    _mm_stream_ps(dst, _mm512_castps512_ps128(all));
    _mm_stream_ps(dst + 4, _mm512_extractf32x4_ps(all, 1));
    _mm_stream_ps(dst + 8, _mm512_extractf32x4_ps(all, 2));
    _mm_stream_ps(dst + 12, _mm512_extractf32x4_ps(all, 3));
#elif defined(__AVX2__)
    _mm_stream_ps(dst, _mm256_castps256_ps128(x.v[0]));
    _mm_stream_ps(dst + 4, _mm256_extractf128_ps(x.v[0], 1));
    _mm_stream_ps(dst + 8, _mm256_castps256_ps128(x.v[1]));
    _mm_stream_ps(dst + 12, _mm256_extractf128_ps(x.v[1], 1));
#else
    for (std::size_t i = 0; i < 4; ++i) _mm_stream_ps(dst + 4 * i, x.v[i]);
#endif
}
BITMILL_FLATTEN bool can_stream(const float* dst) { return reinterpret_cast<std::uintptr_t>(dst) % 16 == 0; }
// Streaming stores are not ordered with those of other threads until a fence.
BITMILL_FLATTEN void end_stream() { _mm_sfence(); }

// 16 bytes live in one SSE register on every x86 instruction set.
struct x86_bytes {
    using bytes = __m128i;
    static BITMILL_FLATTEN bytes load_bytes(const std::uint8_t* src) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(src));
    }
    static BITMILL_FLATTEN void store_bytes(bytes b, std::uint8_t* dst) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), b);
    }
    static BITMILL_FLATTEN bytes flip(bytes b, std::uint8_t mask) {
        return _mm_xor_si128(b, _mm_set1_epi8(static_cast<char>(mask)));
    }
    // 16 codes below 16 -> 8 bytes, even element in the low nibble.
    static BITMILL_FLATTEN void store_nibbles_low_first(bytes b, std::uint8_t* dst) {
        const __m128i even = _mm_and_si128(b, _mm_set1_epi16(0x0f));
        const __m128i odd = _mm_and_si128(_mm_srli_epi16(b, 4), _mm_set1_epi16(0xf0));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(dst), _mm_packus_epi16(_mm_or_si128(even, odd), even));
    }
    static BITMILL_FLATTEN void store_nibbles_high_first(bytes b, std::uint8_t* dst) {
        const __m128i even = _mm_and_si128(_mm_slli_epi16(b, 4), _mm_set1_epi16(0xf0));
        const __m128i odd = _mm_srli_epi16(b, 8);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(dst), _mm_packus_epi16(_mm_or_si128(even, odd), even));
    }
    static BITMILL_FLATTEN bytes load_nibbles_low_first(const std::uint8_t* src) {
        const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(src));
        const __m128i mask = _mm_set1_epi8(0x0f);
        return _mm_unpacklo_epi8(_mm_and_si128(packed, mask), _mm_and_si128(_mm_srli_epi16(packed, 4), mask));
    }
    static BITMILL_FLATTEN bytes load_nibbles_high_first(const std::uint8_t* src) {
        const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(src));
        const __m128i mask = _mm_set1_epi8(0x0f);
        return _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), _mm_and_si128(packed, mask));
    }
    // 16 codes below 4 -> 4 bytes, the first element in the lowest bits.
    static BITMILL_FLATTEN void store_pairs_low_first(bytes b, std::uint8_t* dst) {
        const __m128i twos = _mm_and_si128(_mm_or_si128(b, _mm_srli_epi16(b, 6)), _mm_set1_epi16(0x0f));
        const __m128i fours =
            _mm_and_si128(_mm_or_si128(twos, _mm_srli_epi32(twos, 12)), _mm_set1_epi32(0xff));
        const __m128i words = _mm_packs_epi32(fours, fours);
        const int packed = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
        __builtin_memcpy(dst, &packed, 4);
    }
    static BITMILL_FLATTEN bytes load_pairs_low_first(const std::uint8_t* src) {
        int packed;
        __builtin_memcpy(&packed, src, 4);
        const __m128i fours = _mm_cvtsi32_si128(packed);
        const __m128i nibble = _mm_set1_epi8(0x0f);
        const __m128i pair = _mm_set1_epi8(0x03);
        const __m128i twos =
            _mm_unpacklo_epi8(_mm_and_si128(fours, nibble), _mm_and_si128(_mm_srli_epi16(fours, 4), nibble));
        return _mm_unpacklo_epi8(_mm_and_si128(twos, pair), _mm_and_si128(_mm_srli_epi16(twos, 2), pair));
    }
    // The end of every fold: lanes (i + 2), then (i + 1).
    static BITMILL_FLATTEN float fold4(__m128 x) {
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
    }
    // The sums of four registers of four, one a lane: two rounds of a transpose.
    static BITMILL_FLATTEN void sum_rows(__m128i a, __m128i b, __m128i c, __m128i d, std::int32_t* dst) {
        const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        const __m128i sums = _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), sums);
    }
    static BITMILL_FLATTEN __m128i max_i32(__m128i a, __m128i b) {  // pmaxsd is SSE4.1
        const __m128i bigger = _mm_cmpgt_epi32(a, b);
        return _mm_or_si128(_mm_and_si128(bigger, a), _mm_andnot_si128(bigger, b));
    }
    static BITMILL_FLATTEN std::uint32_t max4(__m128i x) {
        x = max_i32(x, _mm_shuffle_epi32(x, 0x4e));
        x = max_i32(x, _mm_shuffle_epi32(x, 0xb1));
        return static_cast<std::uint32_t>(_mm_cvtsi128_si32(x));
    }
};

template <>
struct primitives<xsimd::sse2> : x86_bytes, scalar_half {
    using lanes = f32x16<xsimd::sse2>;
    using book = scalar_book<xsimd::sse2>;

    // The bit patterns of |x|, compared as integers: also finds Inf and NaN, which float max may drop.
    struct absmax {
        __m128i most = _mm_setzero_si128();
        BITMILL_FLATTEN void add(const lanes& x) {
            for (const auto& part : x.v)
                most = max_i32(most, _mm_and_si128(_mm_castps_si128(part), _mm_set1_epi32(0x7fffffff)));
        }
        BITMILL_FLATTEN std::uint32_t bits() const { return max4(most); }
    };
    static BITMILL_FLATTEN float fold(const lanes& x) {
        return fold4(_mm_add_ps(_mm_add_ps(x.v[0], x.v[2]), _mm_add_ps(x.v[1], x.v[3])));
    }

    using words = __m128i;
    static constexpr std::size_t words_per_vector = 8;
    static BITMILL_FLATTEN words spread_words(std::int16_t x) { return _mm_set1_epi16(x); }
    static BITMILL_FLATTEN words load_words(const std::int16_t* src) {
        return _mm_load_si128(reinterpret_cast<const __m128i*>(src));
    }
    static BITMILL_FLATTEN void store_words(const lanes& x, std::int16_t* dst) {
        auto* to = reinterpret_cast<__m128i*>(dst);
        _mm_store_si128(to, _mm_packs_epi32(_mm_cvtps_epi32(x.v[0]), _mm_cvtps_epi32(x.v[1])));
        _mm_store_si128(to + 1, _mm_packs_epi32(_mm_cvtps_epi32(x.v[2]), _mm_cvtps_epi32(x.v[3])));
    }
    // (a b + 2^14) >> 15. pmulhrsw is SSSE3: bits 15 and up of the product, plus bit 14.
    static BITMILL_FLATTEN words scale_words(words a, words b) {
        const __m128i low = _mm_mullo_epi16(a, b);
        const __m128i top = _mm_slli_epi16(_mm_mulhi_epi16(a, b), 1);
        const __m128i carry = _mm_and_si128(_mm_srli_epi16(low, 14), _mm_set1_epi16(1));
        return _mm_add_epi16(_mm_or_si128(top, _mm_srli_epi16(low, 15)), carry);
    }
    static BITMILL_FLATTEN words lower_words(words a, words b) { return _mm_min_epi16(a, b); }
    static BITMILL_FLATTEN words higher_words(words a, words b) { return _mm_max_epi16(a, b); }
    static BITMILL_FLATTEN words add_products(words sum, words a, words b) {
        return _mm_add_epi32(sum, _mm_madd_epi16(a, b));
    }
    static BITMILL_FLATTEN void sum_each(const words (&x)[4], std::int32_t* dst) {
        sum_rows(x[0], x[1], x[2], x[3], dst);
    }
    static BITMILL_FLATTEN bytes to_bytes(const lanes& x) {
        const __m128i low = _mm_packs_epi32(_mm_cvtps_epi32(x.v[0]), _mm_cvtps_epi32(x.v[1]));
        const __m128i high = _mm_packs_epi32(_mm_cvtps_epi32(x.v[2]), _mm_cvtps_epi32(x.v[3]));
        return _mm_packus_epi16(low, high);
    }
    static BITMILL_FLATTEN lanes from_bytes(bytes b) {
        const __m128i zero = _mm_setzero_si128();
        const __m128i low = _mm_unpacklo_epi8(b, zero);
        const __m128i high = _mm_unpackhi_epi8(b, zero);
        return {{_mm_cvtepi32_ps(_mm_unpacklo_epi16(low, zero)),
                 _mm_cvtepi32_ps(_mm_unpackhi_epi16(low, zero)),
                 _mm_cvtepi32_ps(_mm_unpacklo_epi16(high, zero)),
                 _mm_cvtepi32_ps(_mm_unpackhi_epi16(high, zero))}};
    }
};

#if defined(__AVX2__) && defined(__F16C__)

struct avx_half : scalar_half {
    static void widen_f16(const std::uint16_t* src, std::size_t count, float* dst) {
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(dst + i,
                             _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
        scalar_half::widen_f16(src + i, count - i, dst + i);
    }
    static void narrow_f16(const float* src, std::size_t count, std::uint16_t* dst) {
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8)
            _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
        scalar_half::narrow_f16(src + i, count - i, dst + i);
    }
    static void widen_bf16(const std::uint16_t* src, std::size_t count, float* dst) {
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8) {
            const __m256i wide =
                _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + i), _mm256_slli_epi32(wide, 16));
        }
        scalar_half::widen_bf16(src + i, count - i, dst + i);
    }
    static void narrow_bf16(const float* src, std::size_t count, std::uint16_t* dst) {
        std::size_t i = 0;
        for (; i + 8 <= count; i += 8) {
            const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i));
            const __m256i top = _mm256_srli_epi32(bits, 16);
            const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
            const __m256i carry = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, carry), 16);
            const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
            const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
            const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
            const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, is_nan);
            const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(chosen, chosen), 0xd8);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i), _mm256_castsi256_si128(packed));
        }
        scalar_half::narrow_bf16(src + i, count - i, dst + i);
    }
};

template <>
struct primitives<xsimd::avx2> : x86_bytes, avx_half {
    using lanes = f32x16<xsimd::avx2>;

    struct absmax {
        __m256i most = _mm256_setzero_si256();
        BITMILL_FLATTEN void add(const lanes& x) {
            for (const auto& part : x.v)
                most = _mm256_max_epi32(
                    most, _mm256_and_si256(_mm256_castps_si256(part), _mm256_set1_epi32(0x7fffffff)));
        }
        BITMILL_FLATTEN std::uint32_t bits() const {
            return max4(_mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1)));
        }
    };
    static BITMILL_FLATTEN float fold(const lanes& x) {
        const __m256 eight = _mm256_add_ps(x.v[0], x.v[1]);
        return fold4(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
    }

    using words = __m256i;
    static constexpr std::size_t words_per_vector = 16;
    static BITMILL_FLATTEN words spread_words(std::int16_t x) { return _mm256_set1_epi16(x); }
    static BITMILL_FLATTEN words load_words(const std::int16_t* src) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(src));
    }
    static BITMILL_FLATTEN void store_words(const lanes& x, std::int16_t* dst) {
        const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1]));
        _mm256_store_si256(reinterpret_cast<__m256i*>(dst), _mm256_permute4x64_epi64(mixed, 0xd8));
    }
    static BITMILL_FLATTEN words scale_words(words a, words b) { return _mm256_mulhrs_epi16(a, b); }
    static BITMILL_FLATTEN words lower_words(words a, words b) { return _mm256_min_epi16(a, b); }
    static BITMILL_FLATTEN words higher_words(words a, words b) { return _mm256_max_epi16(a, b); }
    static BITMILL_FLATTEN words add_products(words sum, words a, words b) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
    }
    static BITMILL_FLATTEN __m128i to_four(words x) {
        return _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    }
    static BITMILL_FLATTEN void sum_each(const words (&x)[4], std::int32_t* dst) {
        sum_rows(to_four(x[0]), to_four(x[1]), to_four(x[2]), to_four(x[3]), dst);
    }
    static BITMILL_FLATTEN bytes to_bytes(const lanes& x) {
        const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.v[0]), _mm256_cvtps_epi32(x.v[1]));
        const __m256i words = _mm256_permute4x64_epi64(mixed, 0xd8);
        return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    }
    static BITMILL_FLATTEN lanes from_bytes(bytes b) {
        return {{_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
                 _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))}};
    }

    // The rank is found by halving: thresholds 7; 3, 11; 1, 5, 9, 13; 0, 2 ... 14, each level one permute of
    // eight floats. 4 compares and 3 permutes for 8 weights instead of 15 compares.
    struct book {
        __m256 middle, fourths, eighths, sixteenths, values_low, values_high;
        __m128i code_of_rank;
        explicit book(const code_book& b) {
            const float* t = b.threshold;
            middle = _mm256_set1_ps(t[7]);
            fourths = _mm256_setr_ps(t[3], t[11], 0, 0, 0, 0, 0, 0);
            eighths = _mm256_setr_ps(t[1], t[5], t[9], t[13], 0, 0, 0, 0);
            sixteenths = _mm256_setr_ps(t[0], t[2], t[4], t[6], t[8], t[10], t[12], t[14]);
            values_low = _mm256_loadu_ps(b.value);
            values_high = _mm256_loadu_ps(b.value + 8);
            code_of_rank = load_bytes(b.code_of_rank);
        }
        static BITMILL_FLATTEN __m256i step(__m256i rank, __m256 x, __m256 threshold) {
            const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x, threshold, _CMP_GT_OQ));
            return _mm256_sub_epi32(_mm256_add_epi32(rank, rank), above);
        }
        BITMILL_FLATTEN __m256i rank_of(__m256 x) const {
            __m256i rank = step(_mm256_setzero_si256(), x, middle);
            rank = step(rank, x, _mm256_permutevar8x32_ps(fourths, rank));
            rank = step(rank, x, _mm256_permutevar8x32_ps(eighths, rank));
            return step(rank, x, _mm256_permutevar8x32_ps(sixteenths, rank));
        }
        BITMILL_FLATTEN __m256 value_of(__m256i code) const {
            const __m256 low = _mm256_permutevar8x32_ps(values_low, code);
            const __m256 high = _mm256_permutevar8x32_ps(values_high, code);
            return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
        }
        BITMILL_FLATTEN void encode(const lanes& scaled, std::uint8_t* codes, lanes& found) const {
            const __m256i mixed = _mm256_packs_epi32(rank_of(scaled.v[0]), rank_of(scaled.v[1]));
            const __m256i words = _mm256_permute4x64_epi64(mixed, 0xd8);
            const __m128i ranks =
                _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            const __m128i chosen = _mm_shuffle_epi8(code_of_rank, ranks);
            store_bytes(chosen, codes);
            found = look_up(chosen);
        }
        BITMILL_FLATTEN lanes look_up(__m128i codes) const {
            return {{value_of(_mm256_cvtepu8_epi32(codes)),
                     value_of(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)))}};
        }
        BITMILL_FLATTEN lanes values(const std::uint8_t* codes) const { return look_up(load_bytes(codes)); }
    };
};

#endif  // AVX2

#if defined(BITMILL_AVX512)

template <>
struct primitives<xsimd::avx512bw> : x86_bytes, avx_half {
    using lanes = f32x16<xsimd::avx512bw>;

    struct absmax {
        __m512i most = _mm512_setzero_si512();
        BITMILL_FLATTEN void add(const lanes& x) {
            most = _mm512_max_epi32(
                most, _mm512_and_si512(_mm512_castps_si512(x.v[0]), _mm512_set1_epi32(0x7fffffff)));
        }
        BITMILL_FLATTEN std::uint32_t bits() const {
            const __m256i eight =
                _mm256_max_epi32(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
            return max4(_mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1)));
        }
    };
    static BITMILL_FLATTEN float fold(const lanes& x) {
        const __m512 all = x.v[0];
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
        return fold4(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
    }

    using words = __m512i;
    static constexpr std::size_t words_per_vector = 32;
    static BITMILL_FLATTEN words spread_words(std::int16_t x) { return _mm512_set1_epi16(x); }
    static BITMILL_FLATTEN words load_words(const std::int16_t* src) { return _mm512_load_si512(src); }
    static BITMILL_FLATTEN void store_words(const lanes& x, std::int16_t* dst) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(dst),
                           _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x.v[0])));
    }
    static BITMILL_FLATTEN words scale_words(words a, words b) { return _mm512_mulhrs_epi16(a, b); }
    static BITMILL_FLATTEN words lower_words(words a, words b) { return _mm512_min_epi16(a, b); }
    static BITMILL_FLATTEN words higher_words(words a, words b) { return _mm512_max_epi16(a, b); }
    static BITMILL_FLATTEN words add_products(words sum, words a, words b) {
#if defined(__AVX512VNNI__)
        // Exact, as the two are. 3 % of int4 `mse` on Zen 4.
        return _mm512_dpwssd_epi32(sum, a, b);
#else
        return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
    }
    static BITMILL_FLATTEN __m128i to_four(words x) {
        const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
        return _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    }
    static BITMILL_FLATTEN void sum_each(const words (&x)[4], std::int32_t* dst) {
        sum_rows(to_four(x[0]), to_four(x[1]), to_four(x[2]), to_four(x[3]), dst);
    }
    static BITMILL_FLATTEN bytes to_bytes(const lanes& x) {
        return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v[0]));
    }
    static BITMILL_FLATTEN lanes from_bytes(bytes b) {
        return {{_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b))}};
    }

    // The same halving, each level one permute of sixteen floats.
    struct book {
        __m512 middle, fourths, eighths, sixteenths, value;
        __m128i code_of_rank;
        explicit book(const code_book& b) {
            alignas(64) float levels[3][16] = {};
            for (std::size_t i = 0; i < 2; ++i) levels[0][i] = b.threshold[3 + 8 * i];
            for (std::size_t i = 0; i < 4; ++i) levels[1][i] = b.threshold[1 + 4 * i];
            for (std::size_t i = 0; i < 8; ++i) levels[2][i] = b.threshold[2 * i];
            middle = _mm512_set1_ps(b.threshold[7]);
            fourths = _mm512_load_ps(levels[0]);
            eighths = _mm512_load_ps(levels[1]);
            sixteenths = _mm512_load_ps(levels[2]);
            value = _mm512_loadu_ps(b.value);
            code_of_rank = load_bytes(b.code_of_rank);
        }
        static BITMILL_FLATTEN __m512i step(__m512i rank, __m512 x, __m512 threshold) {
            const __m512i doubled = _mm512_add_epi32(rank, rank);
            return _mm512_mask_add_epi32(doubled, _mm512_cmp_ps_mask(x, threshold, _CMP_GT_OQ), doubled,
                                         _mm512_set1_epi32(1));
        }
        BITMILL_FLATTEN void encode(const lanes& scaled, std::uint8_t* codes, lanes& found) const {
            const __m512 x = scaled.v[0];
            __m512i rank = step(_mm512_setzero_si512(), x, middle);
            rank = step(rank, x, _mm512_permutexvar_ps(rank, fourths));
            rank = step(rank, x, _mm512_permutexvar_ps(rank, eighths));
            rank = step(rank, x, _mm512_permutexvar_ps(rank, sixteenths));
            const __m128i chosen = _mm_shuffle_epi8(code_of_rank, _mm512_cvtepi32_epi8(rank));
            store_bytes(chosen, codes);
            found = look_up(chosen);
        }
        BITMILL_FLATTEN __m512 value_of(__m512i code) const { return _mm512_permutexvar_ps(code, value); }
        BITMILL_FLATTEN lanes look_up(__m128i codes) const {
            return {{value_of(_mm512_cvtepu8_epi32(codes))}};
        }
        BITMILL_FLATTEN lanes values(const std::uint8_t* codes) const { return look_up(load_bytes(codes)); }
    };
};

#endif  // AVX-512

}  // namespace bitmill::kernels

#endif
