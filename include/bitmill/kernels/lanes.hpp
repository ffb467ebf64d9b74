// 16 virtual f32 lanes over the registers of one instruction set: the arithmetic that xsimd has everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include <xsimd/xsimd.hpp>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define BITMILL_AVX512
#endif

#define BITMILL_FLATTEN inline __attribute__((always_inline))
#if defined(__clang__)
#define BITMILL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BITMILL_UNROLL _Pragma("GCC unroll 4")
#endif

namespace bitmill::kernels {

template <class Arch>
struct f32x16 {
    using batch = xsimd::batch<float, Arch>;
    static constexpr std::size_t width = batch::size;
    static constexpr std::size_t parts = 16 / width;
    batch v[parts];
};

// xsimd 8.1 divides on NEON by a refined reciprocal, which is off by one bit now and then.
template <class Arch>
BITMILL_FLATTEN xsimd::batch<float, Arch> divide(const xsimd::batch<float, Arch>& a,
                                                 const xsimd::batch<float, Arch>& b) {
#if defined(__aarch64__)
    return vdivq_f32(a, b);
#else
    return a / b;
#endif
}

template <class Arch, class Op>
BITMILL_FLATTEN f32x16<Arch> lanewise(const f32x16<Arch>& a, const f32x16<Arch>& b, Op op) {
    if constexpr (f32x16<Arch>::parts == 1) {
        return {{op(a.v[0], b.v[0])}};
    } else if constexpr (f32x16<Arch>::parts == 2) {
        return {{op(a.v[0], b.v[0]), op(a.v[1], b.v[1])}};
    } else {
        return {{op(a.v[0], b.v[0]), op(a.v[1], b.v[1]), op(a.v[2], b.v[2]), op(a.v[3], b.v[3])}};
    }
}

#define BITMILL_LANEWISE(function, expression)                                                             \
    template <class Arch>                                                                                  \
    BITMILL_FLATTEN f32x16<Arch> function(const f32x16<Arch>& a, const f32x16<Arch>& b) {                  \
        return lanewise(                                                                                   \
            a, b, [](const auto& x, const auto& y) __attribute__((always_inline)) { return expression; }); \
    }
BITMILL_LANEWISE(operator+, x + y)
BITMILL_LANEWISE(operator-, x - y)
BITMILL_LANEWISE(operator*, x* y)
BITMILL_LANEWISE(operator/, divide<Arch>(x, y))
BITMILL_LANEWISE(lower, xsimd::min(x, y))
BITMILL_LANEWISE(higher, xsimd::max(x, y))
#undef BITMILL_LANEWISE

// `low` where x is below it. Of a NaN xsimd's max keeps what the instruction set likes; here it stays.
template <class Arch>
BITMILL_FLATTEN f32x16<Arch> at_least(const f32x16<Arch>& x, const f32x16<Arch>& low) {
    return lanewise(x, low, [](const auto& a, const auto& b) __attribute__((always_inline)) {
        return xsimd::select(a < b, b, a);
    });
}

template <class Arch>
BITMILL_FLATTEN f32x16<Arch> spread(float value) {
    const xsimd::batch<float, Arch> one(value);
    f32x16<Arch> out;
    for (auto& part : out.v) part = one;
    return out;
}

template <class Arch>
BITMILL_FLATTEN f32x16<Arch> load(const float* src) {
    using lanes = f32x16<Arch>;
    if constexpr (lanes::parts == 1) {
        return {{lanes::batch::load_unaligned(src)}};
    } else if constexpr (lanes::parts == 2) {
        return {{lanes::batch::load_unaligned(src), lanes::batch::load_unaligned(src + 8)}};
    } else {
        return {{lanes::batch::load_unaligned(src), lanes::batch::load_unaligned(src + 4),
                 lanes::batch::load_unaligned(src + 8), lanes::batch::load_unaligned(src + 12)}};
    }
}

// Lanes past `count` are 0.
template <class Arch>
BITMILL_FLATTEN f32x16<Arch> load_first(const float* src, std::size_t count) {
    alignas(64) float padded[16] = {};
    for (std::size_t i = 0; i < count; ++i) padded[i] = src[i];
    return load<Arch>(padded);
}

template <class Arch>
BITMILL_FLATTEN void store(const f32x16<Arch>& lanes, float* dst) {
    for (std::size_t i = 0; i < f32x16<Arch>::parts; ++i)
        lanes.v[i].store_unaligned(dst + i * f32x16<Arch>::width);
}

template <class Arch>
BITMILL_FLATTEN void store_first(const f32x16<Arch>& lanes, std::size_t count, float* dst) {
    alignas(64) float padded[16];
    store(lanes, padded);
    for (std::size_t i = 0; i < count; ++i) dst[i] = padded[i];
}

// Lanes past `count` become 0.
template <class Arch>
BITMILL_FLATTEN f32x16<Arch> first_lanes(const f32x16<Arch>& lanes, std::size_t count) {
    if (count == 16) return lanes;
    alignas(64) float all[16];
    store(lanes, all);
    return load_first<Arch>(all, count);
}

template <class Arch>
BITMILL_FLATTEN f32x16<Arch> magnitude(const f32x16<Arch>& a) {
    return lanewise(a, a,
                    [](const auto& x, const auto&) __attribute__((always_inline)) { return xsimd::abs(x); });
}

}  // namespace bitmill::kernels
