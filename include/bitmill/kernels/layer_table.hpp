// The kernels that run layers: what is in a table beside the codecs'. kernels/layer_reference.hpp is the truth.
//
// The arithmetic of a linear layer, the same for every shape, tile and thread. K (the depth) is cut into runs of at
// most 128 elements, which are counted from 0 and never cross a scale of the weights. For output (m, n):
//   acc = 0; for every run r in order: acc = fma(t(m, n, r) * w_scale(n, r), x_scale(m, r), acc)
// Integers: t is the exact integer sum over k of x_code * (w_code - zero), as f32 (|t| < 2^24).
// Floats: t = fma(x[m][k], value(w_code) - zero, t) for k in order, and x_scale is 1: acc = fma(t, w_scale, acc).
// Then dst = activation(acc + bias) + residual, each where it is there.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/kernels/book.hpp>

namespace bitmill::kernels {

inline constexpr std::size_t panel_columns = 16;      // outputs whose weights lie together
inline constexpr std::size_t activation_group = 128;  // elements of a row of activations that share a scale
inline constexpr std::size_t sum_group = 32;          // elements of a row of activation codes that are summed
inline constexpr float least_activation = 1e-30f;     // a group below it is all 0

// How the weights of 16 columns lie, k by k:
//   u8       steps of 4 k: 16 columns x 4 bytes                                64 bytes for  4 k
//   u4       two steps of u8, the first in the low halves of the bytes         64 bytes for  8 k
//   planes   base and rest, each as u4: code = 16 * base + rest
//   u2       four steps of u8, the first in the lowest bits                    64 bytes for 16 k
//   book     as u4, the code is an index into 16 values; floats only
//   f32 f16 bf16   k by k, 16 columns: floats only
// A depth that is no multiple of a step is filled with codes of 0, a last panel with columns of scale 0.
enum class panel_type : std::uint8_t {
    u8,
    u4,
    planes,
    u2,
    book,
    f32,
    f16,
    bf16
};

struct panel_facts {
    std::size_t step;        // k that 64 bytes of codes hold; of floats 1
    std::size_t step_bytes;  // of one plane
    bool integer;            // runs with integer activations, too
};
[[nodiscard]] constexpr panel_facts facts(panel_type type) noexcept {
    switch (type) {
        case panel_type::u8: return {4, 64, true};
        case panel_type::u4: return {8, 64, true};
        case panel_type::planes: return {8, 64, true};
        case panel_type::u2: return {16, 64, true};
        case panel_type::book: return {8, 64, false};
        case panel_type::f32: return {1, 64, false};
        default: return {1, 32, false};
    }
}
[[nodiscard]] constexpr std::size_t panel_bytes(panel_type type, std::size_t depth) noexcept {
    const auto f = facts(type);
    return (depth + f.step - 1) / f.step * f.step_bytes;
}

// The weights of a layer.
struct panels {
    panel_type type = panel_type::f32;
    const std::uint8_t* codes = nullptr;  // panel after panel
    const std::uint8_t* rest = nullptr;   // planes
    const float* scales = nullptr;        // [panel][scale group][16]; null: 1
    const float* zeros = nullptr;         // as scales: multiples of 1/32; null: `zero` for all
    float zero = 0;                       // the code that stands for 0; a whole number
    const code_book* book = nullptr;
    std::size_t columns = 0;             // N
    std::size_t depth = 0;               // K
    std::size_t run = activation_group;  // 32, 64 or 128
    std::size_t scale_group = 0;         // k that share a scale: a multiple of run; 0: all

    [[nodiscard]] std::size_t scale_groups() const noexcept {
        return scale_group == 0 ? 1 : (depth + scale_group - 1) / scale_group;
    }
};

enum class activation_function : std::uint8_t {
    none,
    gelu,       // x * (1 + erf(x / sqrt 2)) / 2
    gelu_tanh,  // its approximation by tanh
    relu,
    tanh
};

// Activations are packed 12 rows at a time, a last block holding what is left; block b begins at row 12 b, and its
// width is the number of its rows. Floats: [k][width], from element 12 * b * depth on. Integers of -127 to 127,
// x ~ code * scale: [k / 4][width][4], from byte 12 * b * padded_depth on, 0 behind the depth.
inline constexpr std::size_t row_block = 12;
[[nodiscard]] constexpr std::size_t padded_depth(std::size_t depth) noexcept {
    return (depth + 15) / 16 * 16;
}

struct quantized_view {
    const std::int8_t* codes = nullptr;
    const float* scales = nullptr;       // [row][ceil(depth / 128)]
    const std::int32_t* sums = nullptr;  // [row][ceil(depth / 32)]: of the codes
};

// Rows [row_begin, row_end) and panels [panel_begin, panel_end) of dst = activation(x * w + bias) + residual.
// row_begin is a multiple of 12, and row_end too, or all rows. Strides count elements. dst may be the residual itself.
struct linear_call {
    const panels* weights = nullptr;
    std::size_t rows = 0;      // of x in all
    const float* x = nullptr;  // packed; linear_float
    quantized_view quantized;  // linear_int
    std::size_t row_begin = 0;
    std::size_t row_end = 0;
    std::size_t panel_begin = 0;
    std::size_t panel_end = 0;
    float* dst = nullptr;
    std::size_t dst_stride = 0;
    const float* bias = nullptr;  // columns; or null
    activation_function activation = activation_function::none;
    const float* residual = nullptr;  // or null
    std::size_t residual_stride = 0;
    std::byte* scratch = nullptr;  // linear_scratch_bytes(depth), aligned to 64; one for every thread
};

// How many rows share one pass over the weights. 132 rows of 4096 floats are more than the second-level cache holds, but
// weights come from farther away: with 24 rows, which fit, f32 ran at 0.6 of the speed.
[[nodiscard]] constexpr std::size_t rows_together(std::size_t depth) noexcept {
    const std::size_t fit = (std::size_t{9} << 18) / (4 * depth + 1) / row_block * row_block;
    return fit < row_block ? row_block : fit > 240 ? 240 : fit;
}
// Two panels of unpacked weights (or four of a run), where the sums of codes begin, codes of rows widened to 16 bits.
[[nodiscard]] constexpr std::size_t linear_scratch_bytes(std::size_t depth) noexcept {
    const std::size_t rows = rows_together(depth);
    const std::size_t runs = (depth + sum_group - 1) / sum_group;
    return (2 * (depth + activation_group) + 2 * activation_group) * 64 + rows * runs * 4 +
           rows * padded_depth(depth) * 2 + 4 * 64;
}

struct layer_table {
    // One block of at most 12 rows, `stride` elements apart.
    void (*pack_rows)(const float* src, std::size_t stride, std::size_t rows, std::size_t depth, float* dst);
    // For every 128 elements of a row: scale = absmax / 127, code = rint(x * (127 / absmax)), or all 0 where absmax is
    // below 1e-30. A group with a NaN or an infinity: codes 0, scale NaN.
    void (*quantize_rows)(const float* src, std::size_t stride, std::size_t rows, std::size_t depth,
                          std::int8_t* codes, float* scales, std::int32_t* sums);
    void (*linear_int)(const linear_call&);
    void (*linear_float)(const linear_call&);

    // dst = (src - mean) * (1 / sqrt(variance + epsilon)) * weight + bias over one row; dst may be src. Sums in 16
    // lanes.
    void (*layer_norm)(const float* src, std::size_t count, const float* weight, const float* bias,
                       float epsilon, float* dst);

    // One head of one sequence: dst = softmax(q * k^T * scale) * v. q, k, v: `length` rows of `width` floats, `stride`
    // apart, dst likewise, `dst_stride` apart. Queries [row_begin, row_end) are done. Sums run over width and over the
    // keys in order. scratch: attention_scratch_bytes(length, width), aligned to 64.
    void (*attend)(const float* q, const float* k, const float* v, std::size_t length, std::size_t width,
                   std::size_t stride, float scale, std::size_t row_begin, std::size_t row_end, float* dst,
                   std::size_t dst_stride, std::byte* scratch);
};

inline constexpr std::size_t attention_queries = 32;  // done at once: cut queries at multiples of it
[[nodiscard]] constexpr std::size_t attention_scratch_bytes(std::size_t length, std::size_t width) noexcept {
    return 4 * length * width + 128 * width + 128 * length + 512;  // keys as rows, queries as panels, scores
}

}  // namespace bitmill::kernels
