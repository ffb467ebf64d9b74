// A Linear layer, packed once for the kernels and run from any number of threads. The same bits for every
// instruction set, number of threads, batch and order of rows; see kernels/layer_table.hpp for the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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

// Memory for panels: a whole line of 64 bytes is where it begins. Not set.
class weight_block {
public:
    weight_block(std::size_t size, memory_source memory);
    weight_block(const weight_block&) = delete;
    weight_block& operator=(const weight_block&) = delete;
    ~weight_block() { memory_->deallocate(bytes_, size_ + line); }
    [[nodiscard]] std::uint8_t* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }

private:
    static constexpr std::size_t line = 64;
    memory_source memory_;
    std::size_t size_;
    void* bytes_;
    std::uint8_t* data_;
};

// Copies share their panels. run() is const and safe from many threads; dropping and adding the rest is not, and copies
// of the layer do not see it.
class linear {
public:
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
    [[nodiscard]] bool has_rest() const noexcept { return rest_ != nullptr; }
    void drop_rest();  // its memory is returned with the last copy that has it
    // `residual` as in linear_source. Errors: invalid_argument where this layer has no base of two planes.
    [[nodiscard]] result<void> add_rest(const std::byte* residual);
    // The same for a layer of int4 that was packed as such and is the base of `both`; `read` puts bytes
    // [offset, offset + bytes) of the residual at dst. What it refuses is the error, and nothing was added. `room`, which
    // the layer keeps: panel_bytes() at a multiple of 64, so that layers can share one block; null: memory of its own.
    using byte_reader = std::function<result<void>(std::uint64_t offset, std::size_t bytes, std::byte* dst)>;
    [[nodiscard]] result<void> add_rest(const scheme& both, const byte_reader& read,
                                        std::shared_ptr<std::uint8_t> room = nullptr);
    // Of the codes, or of the base of two planes; 0 of a layer that was moved from.
    [[nodiscard]] std::size_t panel_bytes() const noexcept { return codes_ ? codes_->size() : 0; }

    // dst [rows, out] = activation(x * w^T + bias) + residual. dst_stride in elements, 0: out. dst may be the residual.
    void run(const float* x, std::size_t rows, std::size_t x_stride, float* dst, std::size_t dst_stride,
             thread_team& team, const linear_options& = {}) const;
    // The same with x in 8 bits. Throws exception, invalid_argument, unless integer() is true and x has in() columns.
    void run(const quantized_rows& x, float* dst, std::size_t dst_stride, thread_team& team,
             const linear_options& = {}) const;

private:
    explicit linear(memory_source memory) : memory_(memory) {}
    [[nodiscard]] kernels::panels view() const noexcept;
    void run(kernels::linear_call call, bool integer, thread_team& team) const;

    std::size_t in_ = 0;
    std::size_t out_ = 0;
    bitmill::scheme scheme_;
    kernels::panels layout_;  // pointers are set by view()
    using floats = std::pmr::vector<float>;
    [[nodiscard]] std::shared_ptr<const floats> scaled(float factor) const;

    memory_source memory_;
    std::shared_ptr<const weight_block> codes_;
    std::shared_ptr<const std::uint8_t> rest_;  // as many bytes as codes_ has
    std::shared_ptr<const floats> scales_;
    std::shared_ptr<const floats> zeros_;
    std::shared_ptr<const floats> bias_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/linear-inl.hpp>
#endif
