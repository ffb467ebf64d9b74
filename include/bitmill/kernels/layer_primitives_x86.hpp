// The primitives of layers on SSE2, AVX2 (with FMA, and with VNNI where it is compiled for), AVX-512.
#pragma once

#include <bitmill/kernels/layer_primitives.hpp>

#if defined(__x86_64__)

namespace bitmill::kernels {

// a * b + c of two doubles that hold floats, for the narrowing to float behind it: the product is exact in double, the
// sum is rounded to odd, so that both roundings together are one (Boldo and Melquiond 2008).
BITMILL_FLATTEN __m128d fused_to_odd(__m128d a, __m128d b, __m128d c) {
    const __m128d product = _mm_mul_pd(a, b);
    const __m128d sum = _mm_add_pd(product, c);
    const __m128d shadow = _mm_sub_pd(sum, product);
    const __m128d lost = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, shadow)), _mm_sub_pd(c, shadow));
    const __m128d zero = _mm_setzero_pd();
    const __m128i up = _mm_castpd_si128(_mm_cmpgt_pd(lost, zero));
    const __m128i down = _mm_castpd_si128(_mm_cmplt_pd(lost, zero));
    const __m128i bits = _mm_castpd_si128(sum);
    // Away from 0 where what was lost has the sum's sign.
    const __m128i negative = _mm_shuffle_epi32(_mm_srai_epi32(bits, 31), 0xf5);
    const __m128i away = _mm_or_si128(_mm_andnot_si128(negative, up), _mm_and_si128(negative, down));
    const __m128i inexact = _mm_or_si128(up, down);
    const __m128i one = _mm_set1_epi64x(1);
    const __m128i even = _mm_andnot_si128(bits, one);
    const __m128i step = _mm_and_si128(inexact, even);
    // + 1 away, - 1 towards 0; an odd sum stays.
    const __m128i back = _mm_andnot_si128(away, step);
    const __m128i forth = _mm_and_si128(away, step);
    return _mm_castsi128_pd(_mm_sub_epi64(_mm_add_epi64(bits, forth), back));
}

// A call: each of its hundreds of uses would be some 80 instructions, and two thirds of the compiler's time for the
// baseline and for bitmill::headers (66 s to 23, and 89 to 26, by GCC 12).
inline __attribute__((noinline)) __m128 fused_exact(__m128 a, __m128 b, __m128 c) {
    const __m128 low = _mm_cvtpd_ps(fused_to_odd(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c)));
    const __m128 high =
        _mm_cvtpd_ps(fused_to_odd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)),
                                  _mm_cvtps_pd(_mm_movehl_ps(c, c))));
    return _mm_movelh_ps(low, high);
}

template <>
BITMILL_FLATTEN f32x16<xsimd::sse2> fused(const f32x16<xsimd::sse2>& a, const f32x16<xsimd::sse2>& b,
                                          const f32x16<xsimd::sse2>& c) {
    return {{fused_exact(a.v[0], b.v[0], c.v[0]), fused_exact(a.v[1], b.v[1], c.v[1]),
             fused_exact(a.v[2], b.v[2], c.v[2]), fused_exact(a.v[3], b.v[3], c.v[3])}};
}

template <>
struct float_tile_size<xsimd::sse2> {
    static constexpr std::size_t rows = 2, panels = 1, few_panels = 1;
};

template <>
struct dot_wide<xsimd::sse2> {
    using x_element = std::int16_t;
    static constexpr std::size_t rows = 2, panels = 1, flush = 0, few_rows = 0;
    static constexpr int offset = 0;
    struct weights {
        __m128i v[4];
    };
    using sum = weights;
    static BITMILL_FLATTEN weights load(const std::uint8_t* src) {
        const auto* from = reinterpret_cast<const __m128i*>(src);
        return {{_mm_loadu_si128(from), _mm_loadu_si128(from + 1), _mm_loadu_si128(from + 2),
                 _mm_loadu_si128(from + 3)}};
    }
    static BITMILL_FLATTEN __m128i spread_x(const std::int16_t* x) { return _mm_set1_epi32(four_bytes(x)); }
    static BITMILL_FLATTEN void clear(sum& s) { s = sum{}; }
    static BITMILL_FLATTEN void step(sum& s, const weights& w, __m128i x) {
        repeat<4>([&](auto i) BITMILL_FLAT { s.v[i] = _mm_add_epi32(s.v[i], _mm_madd_epi16(w.v[i], x)); });
    }
    static BITMILL_FLATTEN f32x16<xsimd::sse2> lanes(const sum& s, std::int32_t start) {
        const __m128i begin = _mm_set1_epi32(start);
        return {{_mm_cvtepi32_ps(_mm_add_epi32(s.v[0], begin)), _mm_cvtepi32_ps(_mm_add_epi32(s.v[1], begin)),
                 _mm_cvtepi32_ps(_mm_add_epi32(s.v[2], begin)),
                 _mm_cvtepi32_ps(_mm_add_epi32(s.v[3], begin))}};
    }
};
template <>
struct dot_small<xsimd::sse2> : dot_wide<xsimd::sse2> {};

#if defined(__AVX2__) && defined(__F16C__)

template <>
BITMILL_FLATTEN f32x16<xsimd::avx2> fused(const f32x16<xsimd::avx2>& a, const f32x16<xsimd::avx2>& b,
                                          const f32x16<xsimd::avx2>& c) {
#if defined(__FMA__)
    return {{_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])}};
#else
    const auto halves = [](__m256 x, __m256 y, __m256 z) {
        const __m128 low =
            fused_exact(_mm256_castps256_ps128(x), _mm256_castps256_ps128(y), _mm256_castps256_ps128(z));
        const __m128 high = fused_exact(_mm256_extractf128_ps(x, 1), _mm256_extractf128_ps(y, 1),
                                        _mm256_extractf128_ps(z, 1));
        return _mm256_set_m128(high, low);
    };
    return {{halves(a.v[0], b.v[0], c.v[0]), halves(a.v[1], b.v[1], c.v[1])}};
#endif
}

template <>
struct float_tile_size<xsimd::avx2> {
    static constexpr std::size_t rows = 6, panels = 1, few_panels = 4;
};

BITMILL_FLATTEN __m256i load_256(const void* src) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(src));
}

// Of ints and shorts rather than __m256i, which is of long longs: between the two GCC 12 copies every sum at every step.
using ints_256 = int __attribute__((vector_size(32)));
using shorts_256 = short __attribute__((vector_size(32)));

// 64 bytes of codes, and 16 sums of 32 bits in order.
struct avx2_codes {
    __m256i v[2];
};
struct avx2_sums {
    ints_256 v[2];
};

// What the dot products of AVX2 share. `add` is of one vector.
template <class Dot, class Element>
struct avx2_dot {
    using x_element = Element;
    static constexpr std::size_t rows = 6, panels = 1, flush = 0, few_rows = 0;
    static constexpr int offset = 0;
    using weights = avx2_codes;
    using sum = avx2_sums;
    static BITMILL_FLATTEN weights load(const std::uint8_t* src) {
        return {{load_256(src), load_256(src + 32)}};
    }
    static BITMILL_FLATTEN __m256i spread_x(const Element* x) { return _mm256_set1_epi32(four_bytes(x)); }
    static BITMILL_FLATTEN void clear(sum& s) { s = sum{}; }
    template <class Sum>
    static BITMILL_FLATTEN void step(Sum& s, const weights& w, __m256i x) {
        Dot::add(s.v[0], w.v[0], x);
        Dot::add(s.v[1], w.v[1], x);
    }
    static BITMILL_FLATTEN f32x16<xsimd::avx2> lanes(const sum& s, std::int32_t start) {
        const ints_256 begin = reinterpret_cast<ints_256>(_mm256_set1_epi32(start));
        return {{_mm256_cvtepi32_ps(reinterpret_cast<__m256i>(s.v[0] + begin)),
                 _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(s.v[1] + begin))}};
    }
};

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))

template <>
struct dot_wide<xsimd::avx2> : avx2_dot<dot_wide<xsimd::avx2>, std::int8_t> {
    static BITMILL_FLATTEN void add(ints_256& s, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
        s = reinterpret_cast<ints_256>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(s), w, x));
#else
        s = reinterpret_cast<ints_256>(_mm256_dpbusd_epi32(reinterpret_cast<__m256i>(s), w, x));
#endif
    }
};
template <>
struct dot_small<xsimd::avx2> : dot_wide<xsimd::avx2> {};

#else

// vpmaddubsw would saturate: 2 * 255 * 127 does not fit 16 bits. Widened to 16 bits the products are exact at the same
// rate of the multiplier. In assembly, since GCC 12 gathers products of several steps, more than there are registers for,
// and reads the weights again for every row.
template <>
struct dot_wide<xsimd::avx2> : avx2_dot<dot_wide<xsimd::avx2>, std::int16_t> {
    static BITMILL_FLATTEN void add(ints_256& s, __m256i w, __m256i x) {
        __m256i product;
        __asm__("vpmaddwd %[x], %[w], %[product]\n\tvpaddd %[product], %[s], %[s]"
                : [s] "+x"(s), [product] "=&x"(product)
                : [w] "x"(w), [x] "x"(x));
    }
};

template <>
BITMILL_FLATTEN void split_codes(const xsimd::batch<std::int32_t, xsimd::avx2>& four,
                                 xsimd::batch<std::int32_t, xsimd::avx2>& low,
                                 xsimd::batch<std::int32_t, xsimd::avx2>& high) {
    const __m256i first = _mm256_broadcastsi128_si256(_mm_set_epi64x(
        static_cast<long long>(0x800d800c80098008u), static_cast<long long>(0x8005800480018000u)));
    const __m256i second = _mm256_add_epi8(first, _mm256_set1_epi16(2));
    low = _mm256_shuffle_epi8(four, first);
    high = _mm256_shuffle_epi8(four, second);
}

// Codes of 0 to 15: a product of two is at most 2 * 15 * 127 = 3810, which does not saturate. Taken less 8 they are at
// most 8, so sums of sixteen steps, 16 * 2 * 8 * 127 = 32512, fit 16 bits; since additions wrap around it does not matter
// that they begin with all that is to be taken away.
template <>
struct dot_small<xsimd::avx2> : avx2_dot<dot_small<xsimd::avx2>, std::int8_t> {
    static constexpr std::size_t flush = 16;
    static constexpr int offset = 8;
    struct part {
        shorts_256 v[2];
    };
    static BITMILL_FLATTEN void begin(part& s, std::int32_t centre) {
        s.v[0] = s.v[1] = reinterpret_cast<shorts_256>(_mm256_set1_epi32(centre));
    }
    static BITMILL_FLATTEN void add(shorts_256& s, __m256i w, __m256i x) {
        __m256i product;
        __asm__("vpmaddubsw %[x], %[w], %[product]\n\tvpaddw %[product], %[s], %[s]"
                : [s] "+x"(s), [product] "=&x"(product)
                : [w] "x"(w), [x] "x"(x));
    }
    static BITMILL_FLATTEN ints_256 pairs(shorts_256 x) {
        return reinterpret_cast<ints_256>(
            _mm256_madd_epi16(reinterpret_cast<__m256i>(x), _mm256_set1_epi16(1)));
    }
    static BITMILL_FLATTEN void widen(sum& s, const part& p) {
        s.v[0] += pairs(p.v[0]);
        s.v[1] += pairs(p.v[1]);
    }
};

#endif  // VNNI
#endif  // AVX2

#if defined(BITMILL_AVX512)

template <>
BITMILL_FLATTEN f32x16<xsimd::avx512bw> fused(const f32x16<xsimd::avx512bw>& a,
                                              const f32x16<xsimd::avx512bw>& b,
                                              const f32x16<xsimd::avx512bw>& c) {
    return {{_mm512_fmadd_ps(a.v[0], b.v[0], c.v[0])}};
}

template <>
struct float_tile_size<xsimd::avx512bw> {
    static constexpr std::size_t rows = 12, panels = 2, few_panels = 4;
};

// Of ints rather than __m512i, which is of long longs: between the two GCC 12 copies every sum at every step.
using ints_512 = int __attribute__((vector_size(64)));

template <class Element>
struct avx512_dot {
    using x_element = Element;
    static constexpr std::size_t rows = 12, panels = 2, flush = 0, few_rows = 2;
    static constexpr int offset = 0;
    using weights = __m512i;
    using sum = ints_512;
    static BITMILL_FLATTEN weights load(const std::uint8_t* src) { return _mm512_loadu_si512(src); }
    static BITMILL_FLATTEN __m512i spread_x(const Element* x) { return _mm512_set1_epi32(four_bytes(x)); }
    static BITMILL_FLATTEN void clear(sum& s) { s = sum{}; }
    static BITMILL_FLATTEN f32x16<xsimd::avx512bw> lanes(const sum& s, std::int32_t start) {
        return {{_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(s + start))}};
    }
};

#if defined(__AVX512VNNI__)

template <>
struct dot_wide<xsimd::avx512bw> : avx512_dot<std::int8_t> {
    static BITMILL_FLATTEN void step(sum& s, const weights& w, __m512i x) {
        s = reinterpret_cast<sum>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(s), w, x));
    }
};
template <>
struct dot_small<xsimd::avx512bw> : dot_wide<xsimd::avx512bw> {};

#else

// As on AVX2.
template <>
BITMILL_FLATTEN void split_codes(const xsimd::batch<std::int32_t, xsimd::avx512bw>& four,
                                 xsimd::batch<std::int32_t, xsimd::avx512bw>& low,
                                 xsimd::batch<std::int32_t, xsimd::avx512bw>& high) {
    const __m512i first = _mm512_broadcast_i32x4(_mm_set_epi64x(static_cast<long long>(0x800d800c80098008u),
                                                                static_cast<long long>(0x8005800480018000u)));
    const __m512i second = _mm512_add_epi8(first, _mm512_set1_epi16(2));
    low = _mm512_shuffle_epi8(four, first);
    high = _mm512_shuffle_epi8(four, second);
}

using shorts_512 = short __attribute__((vector_size(64)));

template <>
struct dot_wide<xsimd::avx512bw> : avx512_dot<std::int16_t> {
    static BITMILL_FLATTEN void step(sum& s, const weights& w, __m512i x) {
        __m512i product;
        __asm__("vpmaddwd %[x], %[w], %[product]\n\tvpaddd %[product], %[s], %[s]"
                : [s] "+v"(s), [product] "=&v"(product)
                : [w] "v"(w), [x] "v"(x));
    }
};

template <>
struct dot_small<xsimd::avx512bw> : avx512_dot<std::int8_t> {
    static constexpr std::size_t panels = 1, flush = 16;
    static constexpr int offset = 8;
    struct part {
        shorts_512 v;
    };
    static BITMILL_FLATTEN void begin(part& s, std::int32_t centre) {
        s.v = reinterpret_cast<shorts_512>(_mm512_set1_epi32(centre));
    }
    static BITMILL_FLATTEN void step(part& s, const weights& w, __m512i x) {
        __m512i product;
        __asm__("vpmaddubsw %[x], %[w], %[product]\n\tvpaddw %[product], %[s], %[s]"
                : [s] "+v"(s.v), [product] "=&v"(product)
                : [w] "v"(w), [x] "v"(x));
    }
    static BITMILL_FLATTEN void widen(sum& s, const part& p) {
        s += reinterpret_cast<ints_512>(
            _mm512_madd_epi16(reinterpret_cast<__m512i>(p.v), _mm512_set1_epi16(1)));
    }
};

#endif  // VNNI
#endif  // AVX-512

}  // namespace bitmill::kernels

#endif
