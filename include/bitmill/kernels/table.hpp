// The kernels of one instruction set as a table of function pointers. Every table computes the same bits:
// reference.hpp is the truth, simd.hpp the one vector source, dispatch.hpp picks a table.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/core/ggml_type.hpp>
#include <bitmill/kernels/book.hpp>
#include <bitmill/kernels/layer_table.hpp>

namespace bitmill::kernels {

// Sums over pairs (src, dst = decode(encode(src))). Each is accumulated in 16 virtual f32 lanes over at
// most `sums_run` elements, folded by one tree (i+8, i+4, i+2, i+1) and added to f64: the same bits in SSE2,
// AVX2, AVX-512 and NEON.
inline constexpr std::size_t sums_run = 4096;

struct sums {
    double err2 = 0;  // sum of (src - dst)^2
    double src2 = 0;
    double dst2 = 0;
    float max_err = 0;
};

enum class scale_type : std::uint8_t {
    f32,
    f16,
    bf16
};

// How a group of floats becomes integers q in [-2^(bits-1), 2^(bits-1) - 1], x ~ (q - zero) * scale.
struct int_rule {
    unsigned bits = 8;  // 8, 4 or 2
    bool symmetric = true;
    bool search = false;  // false: absmax (min and max where asymmetric); true: least squares
    scale_type scale = scale_type::f32;
    bool planes = false;  // 4 bits, symmetric, f16 or bf16 scales: the base of two planes, see encode_planes
};

// `groups` runs of `group` floats, one after the other; the codes of a run start every `stride` bytes.
// int8 codes: byte = (q + 128) ^ flip (flip 0x80: two's complement; 0: offset binary).
// int4 codes: nibble = q + 8, int2 codes: two bits = q + 2, the first element in the lowest bits; flip is not used.
struct int_layout {
    std::size_t groups = 0;
    std::size_t group = 0;
    std::size_t stride = 0;
    std::uint8_t flip = 0;
};

struct table {
    const char* name;

    // Chooses scale and zero of every group, scale rounded to rule.scale. Returns the index of the first
    // group that holds a NaN or an infinity, or `groups`.
    std::size_t (*choose_int)(const float* src, const int_layout&, const int_rule&, float* scales,
                              float* zeros);
    // q = clamp(rint(x / scale + zero)). `total` may be null.
    void (*encode_int)(const float* src, const int_layout&, unsigned bits, const float* scales,
                       const float* zeros, std::uint8_t* dst, sums* total);
    // `stream`: write past the caches, for a destination that is larger than they are.
    void (*decode_int)(const std::uint8_t* src, const int_layout&, unsigned bits, const float* scales,
                       const float* zeros, float* dst, bool stream);

    // Two planes of 4 bits, both laid out as int4, which are an int8 code together: with scale the base's,
    // c = clamp(rint(x / (scale / 16)), -128, 119) = 16 * hi + lo, hi and lo in [-8, 7]; `base` holds hi + 8,
    // `rest` lo + 8. `both` and `alone` get the sums of c and of hi, or both are null.
    void (*encode_planes)(const float* src, const int_layout&, const float* scales, std::uint8_t* base,
                          std::uint8_t* rest, sums* both, sums* alone);
    void (*decode_planes)(const std::uint8_t* base, const std::uint8_t* rest, const int_layout&,
                          const float* scales, float* dst, bool stream);

    // min(x, 0) and max(x, 0) over src. False where src holds a NaN or an infinity.
    bool (*extremes)(const float* src, std::size_t count, float* low, float* high);
    // max |x| of every block of `block` elements; the last may be short, and its absmax is at least 1e-38.
    // Returns the first block with a NaN or an infinity, or the number of blocks.
    std::size_t (*absmax_blocks)(const float* src, std::size_t count, std::size_t block, float* absmax);
    // x * (1 / max(absmax, 1e-38)), in a short last block x / absmax, to the nearest entry: the rule of
    // bitsandbytes 0.50. An odd count is filled with the code of 0.
    void (*encode_book)(const float* src, std::size_t count, std::size_t block, const float* absmax,
                        const code_book&, std::uint8_t* dst, sums* total);
    void (*decode_book)(const std::uint8_t* src, std::size_t count, std::size_t block, const float* absmax,
                        const code_book&, float* dst, bool stream);

    // `blocks` blocks of a quantized type of GGUF, of f32 one after the other. Returns the first block that holds a NaN
    // or an infinity, or `blocks`. `search`: least squares; else libggml's rule where it has no search. Not for iq4_nl,
    // iq4_xs and mxfp4.
    std::size_t (*encode_ggml)(const float* src, std::size_t blocks, ggml_type, bool search,
                               std::uint8_t* dst);
    // Bit for bit what libggml decodes.
    void (*decode_ggml)(const std::uint8_t* src, std::size_t blocks, ggml_type, float* dst, bool stream);

    void (*widen_f16)(const std::uint16_t* src, std::size_t count, float* dst);
    void (*widen_bf16)(const std::uint16_t* src, std::size_t count, float* dst);
    void (*narrow_f16)(const float* src, std::size_t count, std::uint16_t* dst);
    void (*narrow_bf16)(const float* src, std::size_t count, std::uint16_t* dst);

    // Adds the sums over src against dst.
    void (*measure)(const float* src, const float* dst, std::size_t count, sums* total);

    layer_table layers{};  // of the scalar truth: none, see layer_reference.hpp
};

}  // namespace bitmill::kernels
