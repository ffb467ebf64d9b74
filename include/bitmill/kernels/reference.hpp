// The scalar truth: every kernel, one element after the other, in plain C++. Slow; tests hold each
// instruction set against it, bit by bit.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <bitmill/core/half.hpp>
#include <bitmill/kernels/ggml_reference.hpp>
#include <bitmill/kernels/lane_sum.hpp>
#include <bitmill/kernels/scale_rule.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill::kernels::reference {

class pair_sums {
public:
    explicit pair_sums(sums* total) : total_(total) {}
    ~pair_sums() { flush(); }
    pair_sums(const pair_sums&) = delete;
    pair_sums& operator=(const pair_sums&) = delete;

    // `i` counts from the start of a run of groups' group: a short group still ends a step of 16.
    void add(std::size_t i, float src, float dst) {
        const std::size_t lane = i % 16;
        const float err = src - dst;
        err2_.lane[lane] += err * err;
        src2_.lane[lane] += src * src;
        dst2_.lane[lane] += dst * dst;
        most_ = std::max(most_, std::fabs(err));
    }
    void end_step() {
        pending_ += 16;
        if (pending_ >= sums_run) flush();
    }

private:
    void flush() {
        if (total_ == nullptr) return;
        total_->err2 += static_cast<double>(err2_.fold());
        total_->src2 += static_cast<double>(src2_.fold());
        total_->dst2 += static_cast<double>(dst2_.fold());
        total_->max_err = std::max(total_->max_err, most_);
        err2_ = src2_ = dst2_ = lane_sum{};
        pending_ = 0;
    }
    sums* total_;
    lane_sum err2_, src2_, dst2_;
    float most_ = 0;
    std::size_t pending_ = 0;
};

inline void measure(const float* src, const float* dst, std::size_t count, sums* total) {
    pair_sums run(total);
    for (std::size_t i = 0; i < count; ++i) {
        run.add(i, src[i], dst[i]);
        if (i % 16 == 15 || i + 1 == count) run.end_step();
    }
}

// One round of one trial.
inline void fit_line(const float* src, std::size_t count, float unit, const int_limits& limits,
                     float& inverse, float& zero, float& score) {
    const auto n = static_cast<float>(count);
    float xq = 0, qq = 0, all_q = 0, all_x = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const float x = src[i] * unit;
        const float q = std::nearbyint(clamp(x * inverse + zero, limits.low, limits.high));
        xq += x * q;
        qq += q * q;
        all_q += q;
        all_x += x;
    }
    const float width = qq * n - all_q * all_q;
    const float slope = std::max(xq * n - all_x * all_q, least_slope);
    const float steps = (all_q - all_x * width / slope) * (limits.zero_steps / n);
    zero = std::nearbyint(clamp(steps, limits.low * limits.zero_steps, limits.high * limits.zero_steps)) /
           limits.zero_steps;
    const float with_x = std::max(xq - zero * all_x, least_slope);
    const float with_itself =
        std::max(qq - zero * all_q - zero * all_q + zero * zero * n, least_squares_of_codes(n));
    inverse = with_itself / with_x;
    score = with_x * with_x / with_itself;
}

inline std::size_t choose_int(const float* src, const int_layout& layout, const int_rule& rule, float* scales,
                              float* zeros) {
    const int_limits limits(rule.bits);
    for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group) {
        float low = 0;
        float high = 0;
        for (std::size_t i = 0; i < layout.group; ++i) {
            if (!std::isfinite(src[i])) return g;
            low = std::min(low, src[i]);
            high = std::max(high, src[i]);
        }
        const auto score = [&](const fit_trial* trials, int total, fit_sums* sums) {
            for (int t = 0; t < total; ++t) {
                lane_sum xq;
                lane_sum qq;
                for (std::size_t i = 0; i < layout.group; ++i) {
                    const float q =
                        std::nearbyint(clamp(src[i] * trials[t].inverse, trials[t].low, trials[t].high));
                    xq.lane[i % 16] += src[i] * q;
                    qq.lane[i % 16] += q * q;
                }
                sums[t] = {xq.fold(), qq.fold()};
            }
        };
        const float to_words = quick_reach(limits) / std::max(high, -low);
        const auto compare = [&](const quick_trial* trials, int total, quick_sums* sums) {
            for (int t = 0; t < total; ++t) {
                sums[t] = {};
                for (std::size_t i = 0; i < layout.group; ++i) {
                    const int x = static_cast<int>(std::nearbyint(src[i] * to_words));
                    const int scaled = ((x * trials[t].factor >> 14) + 1) >> 1;
                    const int q = std::clamp<int>(scaled, trials[t].low, trials[t].high);
                    sums[t].xq += x * q;
                    sums[t].qq += q * q;
                }
            }
        };
        const auto loss = [&](const scale_and_zero& how, float unit) {
            lane_sum sum;
            for (std::size_t i = 0; i < layout.group; ++i) {
                const float q = std::nearbyint(clamp(src[i] / how.scale + how.zero, limits.low, limits.high));
                const float err = (src[i] - (q - how.zero) * how.scale) * unit;
                sum.lane[i % 16] += err * err;
            }
            return sum.fold();
        };
        const auto plane_loss = [&](float scale, float unit) {
            lane_sum sum;
            const float fine = scale * plane_step;
            for (std::size_t i = 0; i < layout.group; ++i) {
                const float c = std::nearbyint(clamp(src[i] * (1.0f / fine), plane_low, plane_high));
                const float both = (src[i] - c * fine) * unit;
                const float alone = (src[i] - std::floor((c + 8) / 16) * scale) * unit;
                sum.lane[i % 16] += both * both * fine_weight + alone * alone;
            }
            return sum.fold();
        };
        zeros[g] = 0;
        if (rule.planes) {
            scales[g] = plane_scale(low, high, rule.scale, rule.search, plane_loss);
        } else if (rule.symmetric) {
            scales[g] = rule.search ? search_symmetric(high >= -low ? high : low, limits, rule.scale, compare,
                                                       score, loss)
                                    : symmetric_scale(std::max(high, -low), limits, rule.scale);
        } else if (!rule.search) {
            scales[g] = asymmetric_scale(low, high, limits, rule.scale, &zeros[g]);
        } else if (limits.zero_steps == 1) {
            scales[g] = search_asymmetric(low, high, limits, rule.scale, &zeros[g], score, loss);
        } else {
            const auto descend = [&](float unit, line_trials& trials) {
                for (int round = 0; round < line_rounds; ++round)
                    for (std::size_t t = 0; t < 16; ++t)
                        fit_line(src, layout.group, unit, limits, trials.inverse[t], trials.zero[t],
                                 trials.score[t]);
            };
            scales[g] = search_line(low, high, limits, rule.scale, &zeros[g], descend, loss);
        }
    }
    return layout.groups;
}

inline void encode_int(const float* src, const int_layout& layout, unsigned bits, const float* scales,
                       const float* zeros, std::uint8_t* dst, sums* total) {
    const int_limits limits(bits);
    pair_sums run(total);
    for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group, dst += layout.stride) {
        for (std::size_t i = 0; i < layout.group; ++i) {
            const float q = std::nearbyint(clamp(src[i] / scales[g] + zeros[g], limits.low, limits.high));
            const auto code = static_cast<unsigned>(q - limits.low);
            std::uint8_t& byte = dst[i * bits / 8];
            const unsigned shift = i * bits % 8;
            byte = static_cast<std::uint8_t>((shift == 0 ? 0u : byte) | (code << shift));
            if (bits == 8) byte ^= layout.flip;
            run.add(i, src[i], (q - zeros[g]) * scales[g]);
            if (i % 16 == 15 || i + 1 == layout.group) run.end_step();
        }
    }
}

inline void decode_int(const std::uint8_t* src, const int_layout& layout, unsigned bits, const float* scales,
                       const float* zeros, float* dst, bool /*stream*/) {
    const int_limits limits(bits);
    for (std::size_t g = 0; g < layout.groups; ++g, src += layout.stride, dst += layout.group) {
        for (std::size_t i = 0; i < layout.group; ++i) {
            const unsigned byte = bits == 8 ? static_cast<unsigned>(src[i] ^ layout.flip) : src[i * bits / 8];
            const unsigned code = byte >> (i * bits % 8) & ((1u << bits) - 1);
            dst[i] = (static_cast<float>(code) - (zeros[g] - limits.low)) * scales[g];
        }
    }
}

inline void encode_planes(const float* src, const int_layout& layout, const float* scales, std::uint8_t* base,
                          std::uint8_t* rest, sums* both, sums* alone) {
    pair_sums run_both(both);
    pair_sums run_alone(alone);
    for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group) {
        const float fine = scales[g] / 16;
        for (std::size_t i = 0; i < layout.group; ++i) {
            const int c = static_cast<int>(std::nearbyint(clamp(src[i] / fine, -128, 119)));
            const int hi = static_cast<int>(std::floor((c + 8) / 16.0));
            const int lo = c - 16 * hi;
            const std::size_t at = g * layout.stride + i / 2;
            const unsigned shift = i % 2 * 4;
            base[at] = static_cast<std::uint8_t>((shift == 0 ? 0 : base[at]) | (hi + 8) << shift);
            rest[at] = static_cast<std::uint8_t>((shift == 0 ? 0 : rest[at]) | (lo + 8) << shift);
            run_both.add(i, src[i], static_cast<float>(c) * fine);
            run_alone.add(i, src[i], static_cast<float>(hi) * scales[g]);
            if (i % 16 != 15 && i + 1 != layout.group) continue;
            run_both.end_step();
            run_alone.end_step();
        }
    }
}

inline void decode_planes(const std::uint8_t* base, const std::uint8_t* rest, const int_layout& layout,
                          const float* scales, float* dst, bool /*stream*/) {
    for (std::size_t g = 0; g < layout.groups; ++g, dst += layout.group) {
        for (std::size_t i = 0; i < layout.group; ++i) {
            const std::size_t at = g * layout.stride + i / 2;
            const int hi = (base[at] >> i % 2 * 4 & 15) - 8;
            const int lo = (rest[at] >> i % 2 * 4 & 15) - 8;
            dst[i] = static_cast<float>(16 * hi + lo) * (scales[g] / 16);
        }
    }
}

inline bool extremes(const float* src, std::size_t count, float* low, float* high) {
    *low = *high = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (!std::isfinite(src[i])) return false;
        *low = std::min(*low, src[i]);
        *high = std::max(*high, src[i]);
    }
    return true;
}

inline std::size_t absmax_blocks(const float* src, std::size_t count, std::size_t block, float* absmax) {
    std::size_t b = 0;
    for (std::size_t start = 0; start < count; start += block, ++b) {
        absmax[b] = 0;
        for (std::size_t i = start; i < std::min(count, start + block); ++i) {
            if (!std::isfinite(src[i])) return b;
            absmax[b] = std::max(absmax[b], std::fabs(src[i]));
        }
        if (count - start < block) absmax[b] = book_absmax(absmax[b]);
    }
    return b;
}

inline void encode_book(const float* src, std::size_t count, std::size_t block, const float* absmax,
                        const code_book& book, std::uint8_t* dst, sums* total) {
    pair_sums run(total);
    const auto code_of = [&](float scaled) {
        std::size_t rank = 0;
        while (rank < 15 && scaled > book.threshold[rank]) ++rank;
        return book.code_of_rank[rank];
    };
    for (std::size_t i = 0; i < count; ++i) {
        const float scale = absmax[i / block];
        const bool is_short = i - i % block + block > count;
        const std::uint8_t code = code_of(is_short ? src[i] / scale : src[i] * (1.0f / book_absmax(scale)));
        if (i % 2 == 0) {
            dst[i / 2] = static_cast<std::uint8_t>(code << 4 | code_of(0.0f));
        } else {
            dst[i / 2] = static_cast<std::uint8_t>((dst[i / 2] & 0xf0) | code);
        }
        const std::size_t in_block = i % block;
        run.add(in_block, src[i], book.value[code] * scale);
        if (in_block % 16 == 15 || in_block + 1 == block || i + 1 == count) run.end_step();
    }
}

inline void decode_book(const std::uint8_t* src, std::size_t count, std::size_t block, const float* absmax,
                        const code_book& book, float* dst, bool /*stream*/) {
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned code = i % 2 == 0 ? src[i / 2] >> 4 : src[i / 2] & 15;
        dst[i] = book.value[code] * absmax[i / block];
    }
}

inline void widen_f16(const std::uint16_t* src, std::size_t count, float* dst) {
    for (std::size_t i = 0; i < count; ++i) dst[i] = f32_from_f16(src[i]);
}
inline void widen_bf16(const std::uint16_t* src, std::size_t count, float* dst) {
    for (std::size_t i = 0; i < count; ++i) dst[i] = f32_from_bf16(src[i]);
}
inline void narrow_f16(const float* src, std::size_t count, std::uint16_t* dst) {
    for (std::size_t i = 0; i < count; ++i) dst[i] = f16_from_f32(src[i]);
}
inline void narrow_bf16(const float* src, std::size_t count, std::uint16_t* dst) {
    for (std::size_t i = 0; i < count; ++i) dst[i] = bf16_from_f32(src[i]);
}

inline constexpr table kernels{"reference",   choose_int,  encode_int,    decode_int,  encode_planes,
                               decode_planes, extremes,    absmax_blocks, encode_book, decode_book,
                               encode_ggml,   decode_ggml, widen_f16,     widen_bf16,  narrow_f16,
                               narrow_bf16,   measure};

}  // namespace bitmill::kernels::reference
