// A Linear layer, packed once for the kernels and run from any number of threads. The same bits for every
// instruction set, number of threads, batch and order of rows; see kernels/layer_table.hpp for the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <vector>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/thread_team.hpp>
#include <bitmill/kernels/layer_table.hpp>

namespace bitmill {

using kernels::activation_function;

// A weight [out, in] as its scheme lays it out (see codec.hpp: encoded_view), with scales as f32.
struct linear_source {
    bitmill::scheme scheme;
    std::size_t rows = 0;  // out
    std::size_t cols = 0;  // in
    const std::byte* codes = nullptr;
    const float* scales = nullptr;  // integers, nf4, fp4: as many as the scheme has; double_quant: decoded
    const std::int8_t* zero_points = nullptr;  // asymmetric
    const std::byte* residual = nullptr;       // planes: both planes at once; null: the base alone
};

// Rows of activations in 8 bits, one scale for every 128 elements of a row; several layers may share them.
class quantized_rows {
public:
    explicit quantized_rows(memory_source memory = nullptr);
    // x: `rows` rows of `cols`, `stride` elements apart.
    void assign(const float* x, std::size_t rows, std::size_t cols, std::size_t stride, thread_team& team);
    [[nodiscard]] kernels::quantized_view view() const noexcept;
    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t cols() const noexcept { return cols_; }

private:
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
    std::pmr::vector<std::int8_t> codes_;
    std::pmr::vector<float> scales_;
    std::pmr::vector<std::int32_t> sums_;
};

struct linear_options {
    activation_function activation = activation_function::none;
    const float* residual = nullptr;  // [rows, out], added behind the activation
    std::size_t residual_stride = 0;  // elements; 0: out
};

// Move-only. run() is const and safe from many threads; dropping and adding the rest is not.
class linear {
public:
    linear(linear&&) noexcept = default;
    linear& operator=(linear&&) = default;

    // Packs a weight. `bias`: out floats, copied, or null. Schemes: fp32, fp16, bf16, int8, int4, int2, nf4, fp4 with
    // scales for multiples of 32 elements along a row (or for whole rows), nf4 and fp4 with blocks that do not cross
    // rows. Errors: unsupported for any other (decode it and pack fp32), invalid_argument.
    [[nodiscard]] static result<linear> pack(const linear_source&, const float* bias,
                                             memory_source memory = nullptr);

    [[nodiscard]] std::size_t in() const noexcept { return in_; }
    [[nodiscard]] std::size_t out() const noexcept { return out_; }
    [[nodiscard]] std::size_t bytes() const noexcept;  // of memory
    // Whether inputs can be 8-bit integers: int8, int4, int2.
    [[nodiscard]] bool integer() const noexcept;
    [[nodiscard]] scheme_type type() const noexcept;  // int4 where of two planes only the base is there

    // Planes: what stands between int4 and int8.
    [[nodiscard]] bool has_rest() const noexcept { return !rest_.bytes.empty(); }
    void drop_rest();  // its memory is returned
    // `residual` as in linear_source. Errors: invalid_argument where this layer has no base of two planes.
    [[nodiscard]] result<void> add_rest(const std::byte* residual);

    // dst [rows, out] = activation(x * w^T + bias) + residual. dst_stride in elements, 0: out. dst may be the residual.
    void run(const float* x, std::size_t rows, std::size_t x_stride, float* dst, std::size_t dst_stride,
             thread_team& team, const linear_options& = {}) const;
    // The same with x in 8 bits. Throws exception, invalid_argument, unless integer() is true and x has in() columns.
    void run(const quantized_rows& x, float* dst, std::size_t dst_stride, thread_team& team,
             const linear_options& = {}) const;

private:
    explicit linear(memory_source memory);
    [[nodiscard]] kernels::panels view() const noexcept;
    void run(kernels::linear_call call, bool integer, thread_team& team) const;

    std::size_t in_ = 0;
    std::size_t out_ = 0;
    bitmill::scheme scheme_;
    kernels::panels layout_;  // pointers are set by view()
    // Panels begin at a whole line of 64 bytes, which need not be the first byte.
    struct lines {
        std::pmr::vector<std::uint8_t> bytes;
        std::size_t begin = 0;
        explicit lines(memory_source memory) : bytes(memory) {}
        std::uint8_t* resize(std::size_t size);
        [[nodiscard]] const std::uint8_t* data() const noexcept { return bytes.data() + begin; }
    };
    lines codes_;
    lines rest_;
    std::pmr::vector<float> scales_;
    std::pmr::vector<float> zeros_;
    std::pmr::vector<float> bias_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/linear-inl.hpp>
#endif
