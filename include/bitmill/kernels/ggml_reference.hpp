// The scalar truth of GGUF's blocks. Tests hold each instruction set against it, bit by bit.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <bitmill/kernels/ggml_rule.hpp>
#include <bitmill/kernels/lane_sum.hpp>

namespace bitmill::kernels::reference {

struct ggml_ops {
    static std::uint32_t absmax_bits(const float* x, std::size_t n) {
        std::uint32_t most = 0;
        for (std::size_t i = 0; i < n; ++i)
            most = std::max(most, std::bit_cast<std::uint32_t>(std::fabs(x[i])));
        return most;
    }
    static void extremes(const float* x, std::size_t n, float* low, float* high) {
        *low = *std::min_element(x, x + n);
        *high = *std::max_element(x, x + n);
    }
    static void round_f16(float (&values)[16]) {
        for (float& one : values) one = f32_from_f16(f16_from_f32(one));
    }
    static void round_away(const float* x, std::size_t n, float inverse, std::uint8_t* code) {
        for (std::size_t i = 0; i < n; ++i)
            code[i] = static_cast<std::uint8_t>(std::round(clamp(x[i] * inverse, -127, 127)) + 128);
    }
    static void truncate(const float* x, std::size_t n, float shift, float inverse, float add, float most,
                         std::uint8_t* code) {
        for (std::size_t i = 0; i < n; ++i)
            code[i] = static_cast<std::uint8_t>(clamp((x[i] - shift) * inverse + add, 0, most));
    }

    static float value_of(float x, float scale, float inverse, float least, const ggml_shape& s) {
        const float q = std::nearbyint(
            clamp((x + least) * inverse, static_cast<float>(s.low), static_cast<float>(s.high)));
        return q * scale - least;
    }
    static float inverse_of(float scale) { return scale / std::max(scale * scale, ggml::least_square); }

    static void weigh(const float* x, std::size_t n, const ggml_shape& s, float* weight) {
        lane_sum squares;
        for (std::size_t i = 0; i < n; ++i) squares.lane[i % 16] += x[i] * x[i];
        const float mean = squares.fold() / static_cast<float>(n);
        const float rms = std::sqrt(mean) + ggml::least_weight;
        const float half = mean * 0.5f + ggml::least_weight;
        for (std::size_t i = 0; i < n; ++i) weight[i] = s.least ? rms + std::fabs(x[i]) : half + x[i] * x[i];
    }
    static float within(float x, int low, int high) {
        return clamp(x, static_cast<float>(low), static_cast<float>(high));
    }
    static void neighbours(const ggml::integer_centre& at, const ggml_shape& s, float* scale, float* least,
                           ggml::candidates& c) {
        for (std::size_t t = 0; t < 16; ++t) {
            const float wider = ggml::near_scale[t];
            scale[t] = within(at.scale + wider, s.scale_low, s.scale_high);
            least[t] =
                within(at.least + ggml::near_least[t] + std::nearbyint(wider * at.tilt), 0, s.least_high);
            c.scale[t] = at.d * scale[t];
            c.least[t] = at.dmin * least[t];
        }
    }
    static void signed_neighbours(const ggml::integer_centre& at, const ggml_shape& s, float* scale,
                                  ggml::candidates& c) {
        for (std::size_t t = 0; t < 16; ++t) {
            scale[t] =
                within(at.scale * ggml::near_sign[t] + ggml::near_signed[t], s.scale_low, s.scale_high);
            c.scale[t] = at.d * scale[t];
        }
    }

    template <bool Least>
    static void try_all(const float* x, const float* weight, std::size_t n, const ggml_shape& s,
                        ggml::candidates& c) {
        for (std::size_t t = 0; t < 16; ++t) {
            c.error[t] = 0;
            const float inverse = inverse_of(c.scale[t]);
            for (std::size_t i = 0; i < n; ++i) {
                const float err = x[i] - value_of(x[i], c.scale[t], inverse, Least ? c.least[t] : 0, s);
                c.error[t] += err * err * weight[i];
            }
        }
    }
    static float error(const float* x, const float* weight, std::size_t n, const ggml_shape& s, float scale,
                       float least) {
        lane_sum sum;
        for (std::size_t i = 0; i < n; ++i) {
            const float err = x[i] - value_of(x[i], scale, inverse_of(scale), least, s);
            sum.lane[i % 16] += err * err * weight[i];
        }
        return sum.fold();
    }
    static void code(const float* x, std::size_t n, const ggml_shape& s, float scale, float least,
                     std::uint8_t* code) {
        const auto low = static_cast<float>(s.low);
        const float inverse = inverse_of(scale);
        for (std::size_t i = 0; i < n; ++i)
            code[i] = static_cast<std::uint8_t>(
                std::nearbyint(clamp((x[i] + least) * inverse, low, static_cast<float>(s.high))) - low);
    }
    static ggml::code_sums sums(const float* x, const float* weight, std::size_t n, const ggml_shape& s,
                                const std::uint8_t* code) {
        lane_sum xq, qq;
        for (std::size_t i = 0; i < n; ++i) {
            const float q = static_cast<float>(code[i]) + static_cast<float>(s.low);
            const float heavy = q * weight[i];
            xq.lane[i % 16] += x[i] * heavy;
            qq.lane[i % 16] += q * heavy;
        }
        return {xq.fold(), qq.fold()};
    }
    static void fit(const float* x, const float* weight, std::size_t count, const ggml::line_start& start,
                    ggml::lines& fitted) {
        for (std::size_t t = 0; t < 16; ++t) {
            const float inverse = (start.levels + ggml::line_reach[t]) / start.range;
            const float first = start.low + (start.range - start.levels / inverse) * ggml::line_middle[t];
            float all = 0, all_x = 0, xq = 0, qq = 0, all_q = 0;
            for (std::size_t i = 0; i < count; ++i) {
                const float q = std::nearbyint(clamp((x[i] - first) * inverse, 0, start.levels));
                const float heavy = q * weight[i];
                all += weight[i];
                all_x += x[i] * weight[i];
                xq += x[i] * heavy;
                qq += q * heavy;
                all_q += heavy;
            }
            const float width = std::max(qq * all - all_q * all_q, ggml::least_scale);
            const float slope = (xq * all - all_x * all_q) / width;
            const float offset = std::min((all_x - slope * all_q) / all, start.ceiling);
            const float scale =
                std::max((xq - offset * all_q) / std::max(qq, ggml::least_scale), ggml::least_scale);
            fitted.scale[t] = scale;
            fitted.offset[t] = offset;
            fitted.error[t] = (scale * qq + (offset + offset) * all_q - xq - xq) * scale +
                              (offset * all - all_x - all_x) * offset;
        }
    }
};

inline std::size_t encode_ggml(const float* src, std::size_t blocks, ggml_type type, bool search,
                               std::uint8_t* dst) {
    return ggml::encode_blocks<ggml_ops>(src, blocks, type, search, dst);
}

inline void decode_ggml(const std::uint8_t* src, std::size_t blocks, ggml_type type, float* dst,
                        bool /*stream*/) {
    with_ggml_type(type, [&](auto constant) {
        constexpr ggml_type as = decltype(constant)::value;
        constexpr ggml_shape shape = shape_of(as);
        ggml_block block{};
        float scale[16] = {};
        float least[16] = {};
        for (std::size_t b = 0; b < blocks; ++b) {
            unpack_block<as>(src + b * facts(as).block_bytes, block);
            resolve_block<as>(block, scale, least);
            for (std::size_t i = 0; i < shape.elements; ++i) {
                const float value = shape.book != ggml_book::none
                                        ? book_of(shape.book).value[block.code[i]]
                                        : static_cast<float>(static_cast<int>(block.code[i]) + shape.low);
                *dst++ = scale[i / shape.sub] * value - least[i / shape.sub];
            }
        }
    });
}

}  // namespace bitmill::kernels::reference
