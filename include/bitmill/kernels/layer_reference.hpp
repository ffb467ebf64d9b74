// The scalar truth of the kernels that run layers: layer_table.hpp's words as loops.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <bitmill/core/half.hpp>
#include <bitmill/kernels/lane_sum.hpp>
#include <bitmill/kernels/layer_math.hpp>
#include <bitmill/kernels/layer_table.hpp>

namespace bitmill::kernels::reference {

// --- functions -----------------------------------------------------------------------------------------------------
template <std::size_t Count>
float polynomial(float x, const float (&c)[Count]) {
    float sum = c[Count - 1];
    for (std::size_t i = 1; i < Count; ++i) sum = std::fma(sum, x, c[Count - 1 - i]);
    return sum;
}

inline float exp(float given) {
    if (std::isnan(given)) return given;
    const float x = std::max(given, exp_lowest);
    const float n = std::nearbyint(x * log2_e);
    const float r = std::fma(-n, ln2_low, std::fma(-n, ln2_high, x));
    const float tail = polynomial(r, exp_coefficients);
    const float mantissa = 1.0f + std::fma(tail, r * r, r);
    return mantissa * std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
}

inline float gelu(float x) {
    const float z = std::fabs(x) * half_root;
    const float bounded = std::min(z, erfc_fitted);
    const float tail = exp(-std::fma(z, z, bounded * polynomial(bounded, erfc_coefficients)));
    return std::max(x, 0.0f) - std::fabs(x * (tail * 0.5f));
}

inline float tanh(float x) {
    const float e = exp(-2.0f * std::fabs(x));
    return std::copysign((1.0f - e) / (1.0f + e), x);
}

inline float gelu_tanh(float x) {
    const float cube = x * x * x;
    return x * 0.5f * (1.0f + tanh(std::fma(cube, gelu_tanh_cubic, x) * gelu_tanh_factor));
}

inline float activate(float x, activation_function function) {
    switch (function) {
        case activation_function::gelu: return gelu(x);
        case activation_function::gelu_tanh: return gelu_tanh(x);
        case activation_function::relu: return std::max(x, 0.0f);
        case activation_function::tanh: return tanh(x);
        default: return x;
    }
}

// --- weights -------------------------------------------------------------------------------------------------------
[[nodiscard]] inline int code_at(const std::uint8_t* panel, std::size_t k, std::size_t column,
                                 std::size_t steps, unsigned bits) {
    const std::size_t step = k / 4 % steps;
    const std::uint8_t byte = panel[k / 4 / steps * 64 + 4 * column + k % 4];
    return byte >> (step * bits) & ((1 << bits) - 1);
}

[[nodiscard]] inline int code_of(const panels& w, std::size_t n, std::size_t k) {
    const std::size_t offset = n / 16 * panel_bytes(w.type, w.depth);
    const std::uint8_t* panel = w.codes + offset;
    switch (w.type) {
        case panel_type::u8: return code_at(panel, k, n % 16, 1, 8);
        case panel_type::u2: return code_at(panel, k, n % 16, 4, 2);
        case panel_type::planes:
            return 16 * code_at(panel, k, n % 16, 2, 4) + code_at(w.rest + offset, k, n % 16, 2, 4);
        default: return code_at(panel, k, n % 16, 2, 4);
    }
}

[[nodiscard]] inline std::size_t scale_index(const panels& w, std::size_t n, std::size_t k) {
    const std::size_t group = w.scale_group == 0 ? 0 : k / w.scale_group;
    return (n / 16 * w.scale_groups() + group) * 16 + n % 16;
}
[[nodiscard]] inline float scale_of(const panels& w, std::size_t n, std::size_t k) {
    return w.scales == nullptr ? 1.0f : w.scales[scale_index(w, n, k)];
}
[[nodiscard]] inline float zero_of(const panels& w, std::size_t n, std::size_t k) {
    return w.zeros == nullptr ? w.zero : w.zeros[scale_index(w, n, k)];
}

// Less its scale.
[[nodiscard]] inline float value_of(const panels& w, std::size_t n, std::size_t k) {
    const std::uint8_t* panel = w.codes + n / 16 * panel_bytes(w.type, w.depth);
    const std::size_t element = k * 16 + n % 16;
    if (w.type == panel_type::f32) {
        float x;
        std::memcpy(&x, panel + 4 * element, 4);
        return x;
    }
    if (w.type == panel_type::f16 || w.type == panel_type::bf16) {
        std::uint16_t half;
        std::memcpy(&half, panel + 2 * element, 2);
        return w.type == panel_type::f16 ? f32_from_f16(half) : f32_from_bf16(half);
    }
    const int code = code_of(w, n, k);
    return w.type == panel_type::book ? w.book->value[code] : static_cast<float>(code) - zero_of(w, n, k);
}

// --- linear --------------------------------------------------------------------------------------------------------
// Rows without their packing.
struct rows_of_codes {
    std::vector<std::int8_t> codes;  // [row][depth]
    std::vector<float> scales;       // [row][groups]
};

inline rows_of_codes quantize(const float* x, std::size_t stride, std::size_t rows, std::size_t depth) {
    rows_of_codes out;
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t first = 0; first < depth; first += activation_group) {
            const std::size_t end = std::min(depth, first + activation_group);
            float most = 0;
            bool finite = true;
            for (std::size_t k = first; k < end; ++k) {
                finite = finite && std::isfinite(x[m * stride + k]);
                most = std::max(most, std::fabs(x[m * stride + k]));
            }
            const bool some = finite && most >= least_activation;
            out.scales.push_back(!finite ? std::numeric_limits<float>::quiet_NaN()
                                 : some  ? most / 127.0f
                                         : 0.0f);
            for (std::size_t k = first; k < end; ++k)
                out.codes.push_back(
                    some ? static_cast<std::int8_t>(std::nearbyint(x[m * stride + k] * (127.0f / most)))
                         : std::int8_t{0});
        }
    return out;
}

inline float finish(float sum, const linear_call& c, std::size_t m, std::size_t n) {
    const float y = activate(c.bias != nullptr ? sum + c.bias[n] : sum, c.activation);
    return c.residual != nullptr ? y + c.residual[m * c.residual_stride + n] : y;
}

// One output; `t(first, end)` is the sum of a run.
template <class SumOfRun, class XScale>
float linear_output(const linear_call& c, std::size_t m, std::size_t n, bool integer, const SumOfRun& t,
                    const XScale& x_scale) {
    const panels& w = *c.weights;
    float sum = 0;
    for (std::size_t first = 0; first < w.depth; first += w.run) {
        const float run = t(first, std::min(w.depth, first + w.run));
        const float scale = scale_of(w, n, first);
        sum = integer ? std::fma(run * scale, x_scale(first), sum) : std::fma(run, scale, sum);
    }
    return finish(sum, c, m, n);
}

inline float linear_float(const linear_call& c, const float* x, std::size_t m, std::size_t n) {
    return linear_output(
        c, m, n, false,
        [&](std::size_t first, std::size_t end) {
            float t = 0;
            for (std::size_t k = first; k < end; ++k) t = std::fma(x[k], value_of(*c.weights, n, k), t);
            return t;
        },
        [](std::size_t) { return 1.0f; });
}

inline float linear_int(const linear_call& c, const rows_of_codes& x, std::size_t m, std::size_t n) {
    const std::size_t depth = c.weights->depth;
    const std::size_t groups = (depth + activation_group - 1) / activation_group;
    return linear_output(
        c, m, n, true,
        [&](std::size_t first, std::size_t end) {
            std::int64_t t = 0;  // in 32nds
            for (std::size_t k = first; k < end; ++k)
                t += x.codes[m * depth + k] *
                     (32 * code_of(*c.weights, n, k) -
                      static_cast<std::int64_t>(std::lround(32 * zero_of(*c.weights, n, k))));
            return static_cast<float>(static_cast<double>(t) / 32);
        },
        [&](std::size_t first) { return x.scales[m * groups + first / activation_group]; });
}

// --- norms and attention ----------------------------------------------------------------------------------------------
inline void layer_norm(const float* src, std::size_t count, const float* weight, const float* bias,
                       float epsilon, float* dst) {
    lane_sum sum;
    for (std::size_t i = 0; i < count; ++i) sum.lane[i % 16] += src[i];
    const float mean = sum.fold() / static_cast<float>(count);
    lane_sum squares;
    for (std::size_t i = 0; i < count; ++i) squares.lane[i % 16] += (src[i] - mean) * (src[i] - mean);
    const float factor = 1.0f / std::sqrt(squares.fold() / static_cast<float>(count) + epsilon);
    for (std::size_t i = 0; i < count; ++i) dst[i] = std::fma((src[i] - mean) * factor, weight[i], bias[i]);
}

inline void attend(const float* q, const float* k, const float* v, std::size_t length, std::size_t width,
                   std::size_t stride, float scale, float* dst, std::size_t dst_stride) {
    std::vector<float> scores(length);
    for (std::size_t i = 0; i < length; ++i) {
        for (std::size_t j = 0; j < length; ++j) {
            scores[j] = 0;
            for (std::size_t d = 0; d < width; ++d)
                scores[j] = std::fma(k[j * stride + d], q[i * stride + d], scores[j]);
        }
        const float most = *std::max_element(scores.begin(), scores.end());
        float sum = 0;
        for (auto& s : scores) sum += s = exp((s - most) * scale);
        const float inverse = 1.0f / sum;
        for (std::size_t d = 0; d < width; ++d) {
            float out = 0;
            for (std::size_t j = 0; j < length; ++j) out = std::fma(v[j * stride + d], scores[j], out);
            dst[i * dst_stride + d] = out * inverse;
        }
    }
}

}  // namespace bitmill::kernels::reference
