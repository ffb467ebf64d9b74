// Buffers in, buffers out: one matrix to codes and scales, and back. Thread-safe; results do not depend on the
// instruction set or on the floating-point mode of the calling thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include <bitmill/codec/metrics.hpp>
#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/memory.hpp>

namespace bitmill {

// A matrix of f32, f16, bf16 or f64, aligned to their size. A Linear weight is [out, in]: rows are outputs, groups
// run along a row. Strides count elements, may be negative, and 0 stands for a matrix without gaps: row_stride
// cols, col_stride 1. `data` points to the element of row 0 and column 0. Strides that reach farther than memory
// does are invalid_argument.
template <class Pointer>
struct strided_matrix {
    dtype type = dtype::f32;
    Pointer data = nullptr;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::ptrdiff_t row_stride = 0;
    std::ptrdiff_t col_stride = 0;

    [[nodiscard]] bool dense() const noexcept {
        return (col_stride == 0 || col_stride == 1 || cols <= 1) &&
               (row_stride == 0 || row_stride == static_cast<std::ptrdiff_t>(cols) || rows <= 1);
    }
};
using weight_view = strided_matrix<const void*>;  // read
using matrix_view = strided_matrix<void*>;        // written

// Sizes, in bytes, of the parts of an encoded matrix; 0 where a scheme has no such part.
struct encoded_sizes {
    std::uint64_t codes = 0;
    std::uint64_t scales = 0;         // integers: scale_dtype; nf4, fp4: f32 absmax, or u8 with double_quant
    std::uint64_t zero_points = 0;    // i8, one a scale, int2 in units of 1/32; asymmetric only
    std::uint64_t nested_scales = 0;  // double_quant: f32, one for 256 scales
    std::uint64_t residual = 0;       // planes: as many as codes
    [[nodiscard]] std::uint64_t total() const noexcept {
        return codes + scales + zero_points + nested_scales + residual;
    }
};

struct encoded_view {
    std::byte* codes = nullptr;
    std::byte* scales = nullptr;
    std::byte* zero_points = nullptr;
    std::byte* nested_scales = nullptr;
    float nested_offset = 0;        // double_quant: mean absmax, written by encode, read by decode
    std::byte* residual = nullptr;  // planes; decode takes the base plane alone where there is none
};

// min(x, 0) and max(x, 0) over what shares one scale.
struct value_range {
    float low = 0;
    float high = 0;
    void include(const value_range& other) noexcept {
        low = other.low < low ? other.low : low;
        high = other.high > high ? other.high : high;
    }
};

// What becomes 0: x with |x| < threshold, and of those with |x| = threshold the elements before index `equal_before`
// (row * cols + col). threshold 0: nothing.
struct pruning {
    float threshold = 0;
    std::size_t equal_before = 0;
};

struct encode_options {
    bitmill::method method = method::absmax;
    // Before coding; what it takes away is part of the error.
    float weight_threshold = 0;    // see pruning
    std::size_t equal_before = 0;  // see pruning
    // per_tensor: the range to use instead of the matrix's own (a tile of a larger tensor, or one range for a
    // whole model). Finite, low <= 0 <= high.
    std::optional<value_range> range;
    // double_quant: the offset to use instead of the matrix's own mean absmax (a tile of a larger tensor). Finite,
    // not negative.
    std::optional<float> nested_offset;
    // Off: encode returns zero sums and runs faster.
    bool measure = true;
    // Whether the zeros of the matrix and of what decodes are counted, too, which costs a decoding.
    bool count_zeros = false;
    // planes: gets the error of the base plane alone, as encode returns that of both.
    error_metrics* base_error = nullptr;
    memory_source memory = nullptr;  // scratch: some rows of f32, with double_quant an f32 for every block
};

// Whether the scheme can hold a rows x cols matrix of this dtype. Errors: invalid_argument, unsupported. Blocks of GGUF
// must fill rows; where they do not the message names the type whose blocks do.
[[nodiscard]] result<void> check_scheme(const scheme&, dtype source, std::uint64_t rows, std::uint64_t cols);

// How large the parts are. Errors: those of check_scheme, and sizes past 2^64.
[[nodiscard]] result<encoded_sizes> encode_bound(const scheme&, std::uint64_t rows, std::uint64_t cols);

// Encodes one matrix into parts of encode_bound() bytes. A plain float scheme casts into `codes`. Blocks of GGUF:
// absmax gives libggml's bytes for q8_0, q4_0, q4_1, q5_0 and q5_1; iq4_nl, iq4_xs and mxfp4 are read, not written.
// f16 scales end at 65504: a block of larger weights is clipped, as the metrics show.
// Errors: those of check_scheme; bad_input where a weight is NaN or infinite: `offset` is the element's index.
[[nodiscard]] result<error_metrics> encode(const scheme&, const weight_view& src, encoded_view& dst,
                                           const encode_options& = {});

// Decodes to f32, f16, bf16 or f64. int8, int4: (q - zero_point) * scale; int2: (q - zero_point / 32) * scale; nf4,
// fp4: value[code] * absmax; blocks of GGUF: what libggml decodes; in f32, then rounded once. Errors: those of check_scheme.
[[nodiscard]] result<void> decode(const scheme&, const encoded_view& src, const matrix_view& dst,
                                  memory_source memory = nullptr);
[[nodiscard]] inline result<void> decode(const scheme& s, const encoded_view& src, std::size_t rows,
                                         std::size_t cols, dtype type, void* dst) {
    return decode(s, src, matrix_view{type, dst, rows, cols});
}

// Casts between f32, f16, bf16 and f64, rounding once, half to even; NaN and infinities pass through. dst is
// without gaps. Throws exception where the strides are invalid_argument.
void cast(const weight_view& src, dtype to, void* dst);

// min and max of a matrix, once it is pruned. Errors: bad_input where an element is NaN or infinite.
[[nodiscard]] result<value_range> find_range(const weight_view& src, const pruning& prune = {});

// Sum of the absmax values of `src`'s blocks, once it is pruned, exact in f64, for the mean that double quantization
// subtracts.
[[nodiscard]] result<double> sum_absmax(const weight_view& src, std::size_t block_size,
                                        const pruning& prune = {});

// What stands in the way of casting `src` to a narrower float: the index of the first element that overflows or
// is NaN or infinite. Throws exception where the strides are invalid_argument.
struct cast_obstacle {
    std::size_t index;
    bool not_finite;
};
[[nodiscard]] std::optional<cast_obstacle> find_cast_obstacle(const weight_view& src, dtype to);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/codec-inl.hpp>
#endif
