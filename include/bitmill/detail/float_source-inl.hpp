// Matrices of any float type and any strides as runs of f32.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory_resource>
#include <string>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/kernels/dispatch.hpp>

namespace bitmill::detail {

// 4096 floats are half of the first-level cache: the choice of a scale reads them from memory, the encoding
// from the cache. It is also the run over which sums are folded.
inline constexpr std::size_t chunk_elements = kernels::sums_run;

// Whether the distance of any two elements fits ptrdiff_t. Where there is one row, its stride says nothing.
template <class Pointer>
[[nodiscard]] result<void> check_strides(const strided_matrix<Pointer>& matrix) {
    if (matrix.rows == 0 || matrix.cols == 0) return {};
    const auto reach = [](std::size_t count, std::ptrdiff_t stride) {
        // -PTRDIFF_MIN does not fit a ptrdiff_t.
        const std::uint64_t distance =
            stride < 0 ? static_cast<std::uint64_t>(-(stride + 1)) + 1 : static_cast<std::uint64_t>(stride);
        return count <= 1 ? maybe_u64(0) : checked_mul(distance, count - 1);
    };
    const auto default_stride = static_cast<std::ptrdiff_t>(matrix.cols);
    const auto rows = reach(matrix.rows, matrix.row_stride == 0 ? default_stride : matrix.row_stride);
    const auto cols = reach(matrix.cols, matrix.col_stride == 0 ? 1 : matrix.col_stride);
    const auto elements = rows && cols ? checked_add(*rows, *cols) : std::nullopt;
    constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max());
    if (elements && *elements < most / element_bytes(matrix.type)) return {};
    return error{.code = error_code::invalid_argument,
                 .message = "the strides reach farther than memory does"};
}

// Copies elements [index, index + count) of a strided matrix to or from a dense run; Width: bytes of an element.
template <std::size_t Width, bool ToMatrix, class Matrix, class Run>
void copy_strided(const Matrix& matrix, std::size_t index, std::size_t count, Run* run) {
    using matrix_byte = std::conditional_t<ToMatrix, std::byte, const std::byte>;
    constexpr auto width = static_cast<std::ptrdiff_t>(Width);
    const std::ptrdiff_t row_stride = matrix.rows <= 1         ? 0
                                      : matrix.row_stride == 0 ? static_cast<std::ptrdiff_t>(matrix.cols)
                                                               : matrix.row_stride;
    const std::ptrdiff_t row_step = width * row_stride;
    const std::ptrdiff_t col_step =
        width * (matrix.col_stride == 0 || matrix.cols <= 1 ? 1 : matrix.col_stride);
    auto* const base = static_cast<matrix_byte*>(matrix.data);
    const auto copy = [](auto* place, auto* value, std::size_t bytes) {
        if constexpr (ToMatrix) std::memcpy(place, value, bytes);
        if constexpr (!ToMatrix) std::memcpy(value, place, bytes);
    };
    while (count != 0) {
        const std::size_t col = index % matrix.cols;
        const std::size_t length = std::min(matrix.cols - col, count);
        auto* place = base + static_cast<std::ptrdiff_t>(index / matrix.cols) * row_step +
                      static_cast<std::ptrdiff_t>(col) * col_step;
        if (col_step == width) {
            copy(place, run, length * Width);
        } else {
            for (std::size_t i = 0; i < length; ++i)
                copy(place + static_cast<std::ptrdiff_t>(i) * col_step, run + i * Width, Width);
        }
        run += length * Width;
        index += length;
        count -= length;
    }
}

template <bool ToMatrix, class Matrix, class Run>
void copy_strided(const Matrix& matrix, std::size_t index, std::size_t count, Run* run) {
    switch (element_bytes(matrix.type)) {
        case 2: return copy_strided<2, ToMatrix>(matrix, index, count, run);
        case 4: return copy_strided<4, ToMatrix>(matrix, index, count, run);
        default: return copy_strided<8, ToMatrix>(matrix, index, count, run);
    }
}

class float_source {
public:
    explicit float_source(const weight_view& view, const pruning& prune = {}, memory_source memory = nullptr)
        : view_(view), dense_(view.dense()), prune_(prune), table_(kernels::active()),
          gathered_(memory_or_default(memory)), scratch_(memory_or_default(memory)) {}

    [[nodiscard]] std::size_t elements() const { return view_.rows * view_.cols; }

    // `count` elements from `index` on, of the matrix's own type; valid until the next call.
    [[nodiscard]] const void* read_raw(std::size_t index, std::size_t count) {
        const std::size_t width = element_bytes(view_.type);
        if (dense_) return static_cast<const std::byte*>(view_.data) + index * width;
        std::byte* run = grow(gathered_, count * width);
        copy_strided<false>(view_, index, count, run);
        return run;
    }

    // The same as floats. Dense f32 needs no copy.
    [[nodiscard]] const float* read(std::size_t index, std::size_t count) {
        const void* src = read_raw(index, count);
        if (view_.type == dtype::f32 && prune_.threshold == 0) return static_cast<const float*>(src);
        if (scratch_.size() < count) scratch_.resize(count);
        float* dst = scratch_.data();
        switch (view_.type) {
            case dtype::f16: table_.widen_f16(static_cast<const std::uint16_t*>(src), count, dst); break;
            case dtype::bf16: table_.widen_bf16(static_cast<const std::uint16_t*>(src), count, dst); break;
            case dtype::f64:
                std::transform(static_cast<const double*>(src), static_cast<const double*>(src) + count, dst,
                               [](double x) { return static_cast<float>(x); });
                break;
            default: std::copy_n(static_cast<const float*>(src), count, dst); break;
        }
        if (prune_.threshold > 0) {
            float* cut = dst + std::clamp(prune_.equal_before, index, index + count) - index;
            std::transform(dst, cut, dst,
                           [t = prune_.threshold](float x) { return std::fabs(x) <= t ? 0.0f : x; });
            std::transform(cut, dst + count, cut,
                           [t = prune_.threshold](float x) { return std::fabs(x) < t ? 0.0f : x; });
        }
        return dst;
    }

    // The element that made a kernel refuse [index, index + count).
    [[nodiscard]] error not_finite(std::size_t index, std::size_t count) {
        const float* values = read(index, count);
        const float* bad = std::find_if(values, values + count, [](float x) { return !std::isfinite(x); });
        const std::size_t found = index + static_cast<std::size_t>(bad - values);
        const bool nan = bad != values + count && std::isnan(*bad);
        return {.code = error_code::bad_input,
                .message = std::string(nan ? "NaN" : "an infinity") + " at element " + std::to_string(found),
                .offset = found};
    }

private:
    const weight_view& view_;
    bool dense_;
    pruning prune_;
    const kernels::table& table_;
    element_buffer gathered_;
    std::pmr::vector<float> scratch_;
};

// The other way: runs of f32 into a matrix of any float type and any strides.
class float_sink {
public:
    float_sink(const matrix_view& view, memory_source memory)
        : view_(view), dense_(view.dense()), direct_(dense_ && view.type == dtype::f32),
          values_(memory_or_default(memory)), narrow_(memory_or_default(memory)) {}

    // Whether what is written goes to the matrix itself.
    [[nodiscard]] bool direct() const { return direct_; }

    // Room for the values of elements [index, index + count); put() brings them to the matrix.
    [[nodiscard]] float* room(std::size_t index, std::size_t count) {
        if (direct_) return static_cast<float*>(view_.data) + index;
        if (values_.size() < count) values_.resize(count);
        return values_.data();
    }
    void put(std::size_t index, std::size_t count) {
        if (direct_) return;
        const std::size_t width = element_bytes(view_.type);
        const weight_view values{dtype::f32, values_.data(), 1, count};
        if (dense_) return cast(values, view_.type, static_cast<std::byte*>(view_.data) + index * width);
        if (view_.type == dtype::f32)
            return copy_strided<true>(view_, index, count,
                                      reinterpret_cast<const std::byte*>(values_.data()));
        std::byte* run = grow(narrow_, count * width);
        cast(values, view_.type, run);
        copy_strided<true>(view_, index, count, static_cast<const std::byte*>(run));
    }

private:
    const matrix_view& view_;
    bool dense_;
    bool direct_;
    std::pmr::vector<float> values_;
    element_buffer narrow_;
};

// Of fewer than 2^32 values. Lanes of their own: at -O2 no compiler makes vectors of one sum.
inline std::uint64_t count_zeros(const float* values, std::size_t count) {
    std::array<std::uint32_t, 16> lanes{};
    std::size_t i = 0;
    for (; count - i >= lanes.size(); i += lanes.size())
        for (std::size_t lane = 0; lane < lanes.size(); ++lane)
            lanes[lane] += values[i + lane] == 0 ? 1u : 0u;
    for (; i < count; ++i) lanes[0] += values[i] == 0 ? 1u : 0u;
    std::uint64_t sum = 0;
    for (const auto one : lanes) sum += one;
    return sum;
}

// The sums over src against dst. f32 sums of values whose squares overflow or vanish say nothing: then add in f64.
inline void add_sums(error_metrics& metrics, const float* src, const float* dst, std::size_t count) {
    kernels::sums fast;
    kernels::active().measure(src, dst, count, &fast);
    if (fast.src2 > 1e-24 && std::isfinite(fast.src2 + fast.dst2 + fast.err2))
        return metrics.add(fast, count);
    kernels::sums exact;
    exact.max_err = fast.max_err;
    for (std::size_t i = 0; i < count; ++i) {
        const double x = static_cast<double>(src[i]);
        const double y = static_cast<double>(dst[i]);
        exact.err2 += (x - y) * (x - y);
        exact.src2 += x * x;
        exact.dst2 += y * y;
    }
    metrics.add(exact, count);
}

inline pruning pruning_of(const encode_options& options) {
    return {options.weight_threshold, options.equal_before};
}

// Sums that a kernel folded while it coded hold for what it was given, and where their squares neither overflow nor
// vanish.
inline bool must_measure_anew(const encode_options& options, const kernels::sums& sums) {
    return options.weight_threshold > 0 || !(sums.src2 > 1e-24) || !std::isfinite(sums.src2 + sums.err2);
}

// `sums`, or those of src against dst anew; and the zeros of both where they are asked for.
inline void add_measured(error_metrics& metrics, const encode_options& options, bool anew,
                         const kernels::sums& sums, const float* src, const float* dst, std::size_t count) {
    if (anew) add_sums(metrics, src, dst, count);
    if (!anew) metrics.add(sums, count);
    if (options.count_zeros) metrics.add_zeros(count_zeros(src, count), count_zeros(dst, count));
}

}  // namespace bitmill::detail
