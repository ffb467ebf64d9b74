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

inline void pack_rows(const float* src, std::size_t stride, std::size_t rows, std::size_t depth, float* dst) {
    for (std::size_t k = 0; k < depth; ++k)
        for (std::size_t m = 0; m < rows; ++m) dst[k * rows + m] = src[m * stride + k];
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
