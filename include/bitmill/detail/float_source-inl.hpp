// A matrix of any float type as runs of f32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/kernels/dispatch.hpp>

namespace bitmill::detail {

// 4096 floats are half of the first-level cache: the choice of a scale reads them from memory, the encoding
// from the cache. It is also the run over which sums are folded.
inline constexpr std::size_t chunk_elements = kernels::sums_run;

class float_source {
public:
    float_source(const weight_view& view, float weight_threshold)
        : view_(view), threshold_(weight_threshold), table_(kernels::active()) {}

    [[nodiscard]] std::size_t elements() const { return view_.rows * view_.cols; }

    // `count` floats from element `index` on; valid until the next call. f32 needs no copy.
    [[nodiscard]] const float* read(std::size_t index, std::size_t count) {
        if (view_.type == dtype::f32 && threshold_ == 0) return static_cast<const float*>(view_.data) + index;
        if (scratch_.size() < count) scratch_.resize(count);
        float* dst = scratch_.data();
        switch (view_.type) {
            case dtype::f16:
                table_.widen_f16(static_cast<const std::uint16_t*>(view_.data) + index, count, dst);
                break;
            case dtype::bf16:
                table_.widen_bf16(static_cast<const std::uint16_t*>(view_.data) + index, count, dst);
                break;
            case dtype::f64:
                std::transform(static_cast<const double*>(view_.data) + index,
                               static_cast<const double*>(view_.data) + index + count, dst,
                               [](double x) { return static_cast<float>(x); });
                break;
            default: std::copy_n(static_cast<const float*>(view_.data) + index, count, dst); break;
        }
        if (threshold_ > 0)
            std::transform(dst, dst + count, dst,
                           [t = threshold_](float x) { return std::fabs(x) < t ? 0.0f : x; });
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
    float threshold_;
    const kernels::table& table_;
    std::vector<float> scratch_;
};

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

}  // namespace bitmill::detail
