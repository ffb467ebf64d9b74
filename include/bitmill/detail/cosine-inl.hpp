// Vectors of floats: whether they are numbers, the angle between two.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

namespace bitmill::detail {

[[nodiscard]] inline bool all_finite(std::span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float one) { return std::isfinite(one); });
}

// Sums run in four lanes: exact products of floats, added in a fixed order.
[[nodiscard]] inline double dot_of(std::span<const float> a, std::span<const float> b) {
    double lanes[4] = {};
    std::size_t i = 0;
    for (; i + 4 <= a.size(); i += 4)
        for (std::size_t k = 0; k < 4; ++k) lanes[k] += double{a[i + k]} * double{b[i + k]};
    for (; i < a.size(); ++i) lanes[0] += double{a[i]} * double{b[i]};
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

// 0 where one of them has no direction. Not above 1, which rounding would make it.
[[nodiscard]] inline double cosine_of(double dot, double square_a, double square_b) {
    const double norms = std::sqrt(square_a) * std::sqrt(square_b);
    return norms == 0 ? 0 : std::clamp(dot / norms, -1.0, 1.0);
}
[[nodiscard]] inline double cosine_of(std::span<const float> a, std::span<const float> b) {
    return cosine_of(dot_of(a, b), dot_of(a, a), dot_of(b, b));
}

}  // namespace bitmill::detail
