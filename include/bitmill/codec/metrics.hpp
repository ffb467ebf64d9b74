// What quantizing cost one tensor: the error of decode(encode(x)) against x.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <bitmill/kernels/table.hpp>

namespace bitmill {

class error_metrics {
public:
    void add(const kernels::sums& part, std::uint64_t elements) {
        sums_.err2 += part.err2;
        sums_.src2 += part.src2;
        sums_.dst2 += part.dst2;
        sums_.max_err = std::max(sums_.max_err, part.max_err);
        elements_ += elements;
    }
    void add(const error_metrics& other) {
        add(other.sums_, other.elements_);
        add_zeros(other.zeros_before_, other.zeros_after_);
    }
    void add_zeros(std::uint64_t before, std::uint64_t after) noexcept {
        zeros_before_ += before;
        zeros_after_ += after;
    }

    [[nodiscard]] std::uint64_t elements() const noexcept { return elements_; }
    // Elements that are exactly 0, in x and in decode(encode(x)); 0 where they were not counted.
    [[nodiscard]] std::uint64_t zeros_before() const noexcept { return zeros_before_; }
    [[nodiscard]] std::uint64_t zeros_after() const noexcept { return zeros_after_; }
    [[nodiscard]] const kernels::sums& sums() const noexcept { return sums_; }
    [[nodiscard]] double mse() const noexcept {
        return elements_ == 0 ? 0 : sums_.err2 / static_cast<double>(elements_);
    }
    [[nodiscard]] double max_abs() const noexcept { return static_cast<double>(sums_.max_err); }
    // 10 log10(signal / error) in dB; infinity where nothing was lost.
    [[nodiscard]] double snr_db() const noexcept {
        if (sums_.err2 == 0) return std::numeric_limits<double>::infinity();
        return 10 * std::log10(sums_.src2 / sums_.err2);
    }
    // Between the tensor and its decoded form, both flattened; 1 where both are 0.
    [[nodiscard]] double cosine() const noexcept {
        const double norms = std::sqrt(sums_.src2) * std::sqrt(sums_.dst2);
        if (norms == 0) return sums_.src2 == sums_.dst2 ? 1 : 0;
        return std::clamp((sums_.src2 + sums_.dst2 - sums_.err2) / (2 * norms), -1.0, 1.0);
    }

private:
    kernels::sums sums_;
    std::uint64_t elements_ = 0;
    std::uint64_t zeros_before_ = 0;
    std::uint64_t zeros_after_ = 0;
};

}  // namespace bitmill
