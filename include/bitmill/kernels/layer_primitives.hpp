// What layers need of each instruction set: fused multiply-add, and dot products of four 8-bit integers with 16
// columns of weights at once. A dot_wide takes codes of 0 to 255, a dot_small of 0 to 15; both are exact. Where the
// inputs are 16 bits wide, so are the codes, and a step goes over two integers instead of four. Of at most `few_rows`
// rows a tile takes four panels: as many streams out of memory, which one row waits for.
#pragma once

#include <bitmill/kernels/layer_table.hpp>
#include <bitmill/kernels/primitives.hpp>

#if defined(__clang__)
#define BITMILL_UNROLL_ALL _Pragma("clang loop unroll(full)")
#else
#define BITMILL_UNROLL_ALL _Pragma("GCC unroll 16")
#endif

namespace bitmill::kernels {

#define BITMILL_FLAT __attribute__((always_inline))

// An index that is a constant where it is used. (<utility> has such, and functions that must not be compiled here.)
template <std::size_t N>
struct constant_index {
    BITMILL_FLATTEN constexpr operator std::size_t() const { return N; }
};

template <std::size_t Next, std::size_t N, class Body>
BITMILL_FLATTEN void repeat_from(const Body& body) {
    if constexpr (Next < N) {
        body(constant_index<Next>{});
        repeat_from<Next + 1, N>(body);
    }
}
// body(0) ... body(N - 1), the indices being constants. GCC unrolls a loop too late to keep an array of registers that
// it indexes out of memory.
template <std::size_t N, class Body>
BITMILL_FLATTEN void repeat(const Body& body) {
    repeat_from<0, N>(body);
}

// a * b + c, rounded once.
template <class Arch>
BITMILL_FLATTEN f32x16<Arch> fused(const f32x16<Arch>& a, const f32x16<Arch>& b, const f32x16<Arch>& c);

// The tiles of a linear layer: `rows` rows of x against `panels` panels of 16 columns, as the registers allow; of one or
// two rows and integer weights `few_panels` panels.
template <class Arch>
struct float_tile_size;

template <class Arch>
struct dot_wide;
template <class Arch>
struct dot_small;

// Lanes of four 8-bit codes as lanes of two 16-bit ones: the first two, the others.
template <class Arch>
BITMILL_FLATTEN void split_codes(const xsimd::batch<std::int32_t, Arch>& four,
                                 xsimd::batch<std::int32_t, Arch>& low,
                                 xsimd::batch<std::int32_t, Arch>& high) {
    using ints = xsimd::batch<std::int32_t, Arch>;
    const ints bytes(0x00ff00ff), half(0xffff);
    low = four & half;
    low = (low | (low << 8)) & bytes;
    high = (four >> 16) & half;
    high = (high | (high << 8)) & bytes;
}

inline std::int32_t four_bytes(const void* src) {
    std::int32_t out;
    __builtin_memcpy(&out, src, 4);
    return out;
}

}  // namespace bitmill::kernels

#if defined(__x86_64__)
#include <bitmill/kernels/layer_primitives_x86.hpp>
#elif defined(__aarch64__)
#include <bitmill/kernels/layer_primitives_neon.hpp>
#endif
