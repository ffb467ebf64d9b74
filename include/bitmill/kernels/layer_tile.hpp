// What linear layers and attention share: rows packed for a tile, and the product of a tile of floats.
#pragma once

#include <bitmill/kernels/layer_primitives.hpp>

namespace bitmill::kernels {

// Memory off the front of a scratch that is aligned to 64.
BITMILL_FLATTEN std::byte* take(std::byte*& scratch, std::size_t bytes) {
    std::byte* out = scratch;
    scratch += (bytes + 63) / 64 * 64;
    return out;
}

// Few rows wait for memory, and what the hardware fetches ahead ends with the page: 1.3 to 2.2 times as fast with it.
inline constexpr std::size_t read_ahead = 2048;  // bytes

// A square of 4 x 4 elements of four bytes, its rows turned into columns. Strides in bytes.
BITMILL_FLATTEN void turn_four(const void* src, std::size_t src_stride, void* dst, std::size_t dst_stride) {
    using four = std::int32_t __attribute__((vector_size(16)));
    four row[4];
    repeat<4>([&](auto i) BITMILL_FLAT {
        __builtin_memcpy(&row[i], static_cast<const std::byte*>(src) + i * src_stride, 16);
    });
    const four low[2] = {__builtin_shufflevector(row[0], row[1], 0, 4, 1, 5),
                         __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5)};
    const four high[2] = {__builtin_shufflevector(row[0], row[1], 2, 6, 3, 7),
                          __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7)};
    const four turned[4] = {__builtin_shufflevector(low[0], low[1], 0, 1, 4, 5),
                            __builtin_shufflevector(low[0], low[1], 2, 3, 6, 7),
                            __builtin_shufflevector(high[0], high[1], 0, 1, 4, 5),
                            __builtin_shufflevector(high[0], high[1], 2, 3, 6, 7)};
    repeat<4>([&](auto i) BITMILL_FLAT {
        __builtin_memcpy(static_cast<std::byte*>(dst) + i * dst_stride, &turned[i], 16);
    });
}

inline void pack_rows(const float* src, std::size_t stride, std::size_t rows, std::size_t depth, float* dst) {
    std::size_t m = 0;
    for (; m + 4 <= rows; m += 4) {
        const float* from = src + m * stride;
        std::size_t k = 0;
        for (; k + 4 <= depth; k += 4)
            turn_four(from + k, stride * sizeof(float), dst + k * rows + m, rows * sizeof(float));
        for (; k < depth; ++k)
            for (std::size_t i = 0; i < 4; ++i) dst[k * rows + m + i] = from[i * stride + k];
    }
    for (; m < rows; ++m)
        for (std::size_t k = 0; k < depth; ++k) dst[k * rows + m] = src[m * stride + k];
}

// R rows of x, [k][width], times P panels, [k][16].
template <class Arch, std::size_t R, std::size_t P>
BITMILL_FLATTEN void float_tile(const float* x, std::size_t width, const float* const* w, std::size_t depth,
                                f32x16<Arch> (&t)[R * P]) {
    repeat<R * P>([&](auto i) BITMILL_FLAT { t[i] = spread<Arch>(0); });
    for (std::size_t k = 0; k < depth; ++k, x += width) {
        f32x16<Arch> column[P];
        repeat<P>([&](auto i) BITMILL_FLAT { column[i] = load<Arch>(w[i] + 16 * k); });
        repeat<R>([&](auto r) BITMILL_FLAT {
            const f32x16<Arch> one = spread<Arch>(x[r]);
            repeat<P>([&](auto i) BITMILL_FLAT { t[r * P + i] = fused(one, column[i], t[r * P + i]); });
        });
    }
}

}  // namespace bitmill::kernels
