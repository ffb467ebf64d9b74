// The one vector source of every kernel: kernels_of<Arch>::make() is the table of an instruction set.
// src/kernels/isa.cpp instantiates it once per instruction set with that set's compiler flags.
// No fused multiply-add in codecs: the baseline has none. Layers have their own, fused().
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/kernels/ggml_simd.hpp>
#include <bitmill/kernels/layer_simd.hpp>
#include <bitmill/kernels/primitives.hpp>
#include <bitmill/kernels/scale_rule.hpp>

namespace bitmill::kernels {

template <class Arch>
struct kernels_of {
    using p = primitives<Arch>;
    using lanes = f32x16<Arch>;

    // Calls body(lanes, index, count) for every 16 floats; the lanes past the end are 0.
    template <class Body>
    static BITMILL_FLATTEN void for_each_16(const float* src, std::size_t count, Body body) {
        std::size_t i = 0;
        for (; i + 16 <= count; i += 16) body(load<Arch>(src + i), i, std::size_t{16});
        if (i < count) body(load_first<Arch>(src + i, count - i), i, count - i);
    }

    // --- sums ------------------------------------------------------------------------------------------
    struct running_sums {
        lanes err2 = spread<Arch>(0), src2 = err2, dst2 = err2, most = err2;
        std::size_t pending = 0;

        BITMILL_FLATTEN void add(const lanes& src, const lanes& dst, sums* total) {
            const lanes err = src - dst;
            err2 = err2 + err * err;
            src2 = src2 + src * src;
            dst2 = dst2 + dst * dst;
            most = higher(most, magnitude(err));
            pending += 16;
            if (pending >= sums_run) flush(total);
        }
        void flush(sums* total) {
            total->err2 += static_cast<double>(p::fold(err2));
            total->src2 += static_cast<double>(p::fold(src2));
            total->dst2 += static_cast<double>(p::fold(dst2));
            alignas(64) float all[16];
            store(most, all);
            for (const float one : all) total->max_err = one > total->max_err ? one : total->max_err;
            *this = running_sums{};
        }
    };

    static void measure(const float* src, const float* dst, std::size_t count, sums* total) {
        running_sums run;
        for_each_16(src, count,
                    [&](const lanes& x, std::size_t i, std::size_t n) __attribute__((always_inline)) {
                        run.add(x, n == 16 ? load<Arch>(dst + i) : load_first<Arch>(dst + i, n), total);
                    });
        run.flush(total);
    }

    // --- integers ----------------------------------------------------------------------------------------
    static std::uint32_t absmax_bits(const float* src, std::size_t count) {
        typename p::absmax most;
        for_each_16(src, count, [&](const lanes& x, std::size_t, std::size_t) __attribute__((always_inline)) {
            most.add(x);
        });
        return most.bits();
    }

    // min(x, 0) and max(x, 0); x is finite. -0 becomes +0.
    static void extremes(const float* src, std::size_t count, float* least, float* most) {
        lanes low = spread<Arch>(0);
        lanes high = low;
        for_each_16(src, count, [&](const lanes& x, std::size_t, std::size_t) __attribute__((always_inline)) {
            low = lower(low, x);
            high = higher(high, x);
        });
        alignas(64) float all[16];
        store(low, all);
        *least = 0;
        for (const float one : all) *least = one < *least ? one : *least;
        store(high, all);
        *most = 0;
        for (const float one : all) *most = one > *most ? one : *most;
    }

    static bool finite_extremes(const float* src, std::size_t count, float* low, float* high) {
        if (absmax_bits(src, count) >= 0x7f800000u) return false;
        extremes(src, count, low, high);
        return true;
    }

    // q = clamp(rint(x * inverse), low, high): sum of x q and of q q, N trials side by side.
    template <std::size_t N>
    static BITMILL_FLATTEN void fit_together(const float* src, std::size_t count, const fit_trial* trials,
                                             fit_sums* sums) {
        lanes xq[N];
        lanes qq[N];
        BITMILL_UNROLL
        for (std::size_t t = 0; t < N; ++t) xq[t] = qq[t] = spread<Arch>(0);
        for_each_16(src, count, [&](const lanes& x, std::size_t, std::size_t) __attribute__((always_inline)) {
            BITMILL_UNROLL
            for (std::size_t t = 0; t < N; ++t) {
                const lanes scaled = x * spread<Arch>(trials[t].inverse);
                const lanes bounded =
                    lower(higher(scaled, spread<Arch>(trials[t].low)), spread<Arch>(trials[t].high));
                const lanes q = round_small(bounded);
                xq[t] = xq[t] + x * q;
                qq[t] = qq[t] + q * q;
            }
        });
        BITMILL_UNROLL
        for (std::size_t t = 0; t < N; ++t) sums[t] = {p::fold(xq[t]), p::fold(qq[t])};
    }

    // Four side by side fill the 32 registers of AVX-512, two the 16 of AVX2.
    static void fit(const float* src, std::size_t count, const fit_trial* trials, int total, fit_sums* sums) {
        constexpr int together = lanes::parts == 1 ? 4 : lanes::parts == 2 ? 2 : 1;
        int t = 0;
        for (; t + together <= total; t += together) fit_together<together>(src, count, trials + t, sums + t);
        for (; t < total; ++t) fit_together<1>(src, count, trials + t, sums + t);
    }

    static void descend(const float* src, std::size_t count, float unit, const int_limits& limits,
                        line_trials& trials) {
        const lanes bottom = spread<Arch>(limits.low);
        const lanes top = spread<Arch>(limits.high);
        const lanes steps = spread<Arch>(limits.zero_steps);
        const lanes one_step = spread<Arch>(1 / limits.zero_steps);
        const auto size = static_cast<float>(count);
        const lanes n = spread<Arch>(size);
        lanes inverse = load<Arch>(trials.inverse);
        lanes zero = load<Arch>(trials.zero);
        lanes with_x = zero;
        lanes with_itself = zero;
        for (int round = 0; round < line_rounds; ++round) {
            lanes xq = spread<Arch>(0), qq = xq, all_q = xq, all_x = xq;
            for (std::size_t i = 0; i < count; ++i) {
                const lanes x = spread<Arch>(src[i] * unit);
                const lanes q = round_small(lower(higher(x * inverse + zero, bottom), top));
                xq = xq + x * q;
                qq = qq + q * q;
                all_q = all_q + q;
                all_x = all_x + x;
            }
            const lanes width = qq * n - all_q * all_q;
            const lanes slope = higher(xq * n - all_x * all_q, spread<Arch>(least_slope));
            const lanes fitted = (all_q - all_x * width / slope) * spread<Arch>(limits.zero_steps / size);
            zero = round_small(lower(higher(fitted, bottom * steps), top * steps)) * one_step;
            with_x = higher(xq - zero * all_x, spread<Arch>(least_slope));
            with_itself = higher(qq - zero * all_q - zero * all_q + zero * zero * n,
                                 spread<Arch>(least_squares_of_codes(size)));
            inverse = with_itself / with_x;
        }
        store(inverse, trials.inverse);
        store(zero, trials.zero);
        store(with_x * with_x / with_itself, trials.score);
    }

    // Of encoding with this scale and zero, as encode_int rounds; errors are multiplied by `unit` first.
    static float squared_error(const float* src, std::size_t count, const scale_and_zero& how,
                               const int_limits& limits, float unit) {
        const lanes scale = spread<Arch>(how.scale);
        const lanes zero = spread<Arch>(how.zero);
        const lanes bottom = spread<Arch>(limits.low);
        const lanes top = spread<Arch>(limits.high);
        const lanes factor = spread<Arch>(unit);
        lanes sum = spread<Arch>(0);
        for_each_16(src, count,
                    [&](const lanes& x, std::size_t, std::size_t n) __attribute__((always_inline)) {
                        const lanes q = round_small(lower(higher(x / scale + zero, bottom), top));
                        const lanes err = first_lanes((x - (q - zero) * scale) * factor, n);
                        sum = sum + err * err;
                    });
        return p::fold(sum);
    }

    static lanes base_lanes(const lanes& c) {
        return round_small(c * spread<Arch>(plane_step) + spread<Arch>(plane_step / 2));
    }

    static float plane_error(const float* src, std::size_t count, float scale, float unit) {
        const lanes coarse = spread<Arch>(scale);
        const lanes fine = spread<Arch>(scale * plane_step);
        const lanes inverse = spread<Arch>(1.0f / (scale * plane_step));
        const lanes bottom = spread<Arch>(plane_low);
        const lanes top = spread<Arch>(plane_high);
        const lanes factor = spread<Arch>(unit);
        const lanes weight = spread<Arch>(fine_weight);
        lanes sum = spread<Arch>(0);
        for_each_16(src, count, [&](const lanes& x, std::size_t, std::size_t) __attribute__((always_inline)) {
            const lanes c = round_small(lower(higher(x * inverse, bottom), top));
            const lanes both = (x - c * fine) * factor;
            const lanes alone = (x - base_lanes(c) * coarse) * factor;
            sum = sum + (both * both * weight + alone * alone);
        });
        return p::fold(sum);
    }

    static BITMILL_FLATTEN void quick_four(const std::int16_t* src, std::size_t count,
                                           const quick_trial* trials, quick_sums* sums) {
        using words = typename p::words;
        words factor[4];
        words xq[4];
        words qq[4];
        BITMILL_UNROLL
        for (std::size_t t = 0; t < 4; ++t) {
            factor[t] = p::spread_words(trials[t].factor);
            xq[t] = qq[t] = p::spread_words(0);
        }
        const words low = p::spread_words(trials[0].low);
        const words high = p::spread_words(trials[0].high);
        for (std::size_t i = 0; i < count; i += p::words_per_vector) {
            const words x = p::load_words(src + i);
            BITMILL_UNROLL
            for (std::size_t t = 0; t < 4; ++t) {
                const words q = p::lower_words(p::higher_words(p::scale_words(x, factor[t]), low), high);
                xq[t] = p::add_products(xq[t], x, q);
                qq[t] = p::add_products(qq[t], q, q);
            }
        }
        std::int32_t run_xq[4];
        std::int32_t run_qq[4];
        p::sum_each(xq, run_xq);
        p::sum_each(qq, run_qq);
        for (std::size_t t = 0; t < 4; ++t) {
            sums[t].xq += run_xq[t];
            sums[t].qq += run_qq[t];
        }
    }

    // Trials share their limits and come in fours.
    static void quick(const float* src, std::size_t count, float to_words, const quick_trial* trials,
                      int total, quick_sums* sums) {
        for (int t = 0; t < total; ++t) sums[t] = {};
        const lanes scale = spread<Arch>(to_words);
        alignas(64) std::int16_t run[quick_run];
        for (std::size_t start = 0; start < count; start += quick_run) {
            const std::size_t size = count - start < quick_run ? count - start : quick_run;
            std::size_t filled = 0;
            for_each_16(src + start, size,
                        [&](const lanes& x, std::size_t i, std::size_t) __attribute__((always_inline)) {
                            p::store_words(x * scale, run + i);
                            filled = i + 16;
                        });
            for (; filled % 32 != 0; ++filled) run[filled] = 0;
            for (int t = 0; t < total; t += 4) quick_four(run, filled, trials + t, sums + t);
        }
    }

    static std::size_t choose_int(const float* src, const int_layout& layout, const int_rule& rule,
                                  float* scales, float* zeros) {
        const int_limits limits(rule.bits);
        for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group) {
            const std::uint32_t bits = absmax_bits(src, layout.group);
            if (bits >= 0x7f800000u) return g;
            const float most = __builtin_bit_cast(float, bits);
            zeros[g] = 0;
            if (rule.symmetric && !rule.search && !rule.planes) {
                scales[g] = symmetric_scale(most, limits, rule.scale);
                continue;
            }
            float low = 0;
            float high = 0;
            extremes(src, layout.group, &low, &high);
            const auto score = [&](const fit_trial* trials, int total, fit_sums* sums) {
                fit(src, layout.group, trials, total, sums);
            };
            const auto loss = [&](const scale_and_zero& how, float unit) {
                return squared_error(src, layout.group, how, limits, unit);
            };
            if (rule.planes) {
                const auto plane_loss = [&](float scale, float unit) {
                    return plane_error(src, layout.group, scale, unit);
                };
                scales[g] = plane_scale(low, high, rule.scale, rule.search, plane_loss);
            } else if (rule.symmetric) {
                const float to_words = quick_reach(limits) / most;
                const auto compare = [&](const quick_trial* trials, int total, quick_sums* sums) {
                    quick(src, layout.group, to_words, trials, total, sums);
                };
                scales[g] =
                    search_symmetric(high >= -low ? high : low, limits, rule.scale, compare, score, loss);
            } else if (!rule.search) {
                scales[g] = asymmetric_scale(low, high, limits, rule.scale, &zeros[g]);
            } else if (limits.zero_steps == 1) {
                scales[g] = search_asymmetric(low, high, limits, rule.scale, &zeros[g], score, loss);
            } else {
                const auto descend_all = [&](float unit, line_trials& trials) {
                    descend(src, layout.group, unit, limits, trials);
                };
                scales[g] = search_line(low, high, limits, rule.scale, &zeros[g], descend_all, loss);
            }
        }
        return layout.groups;
    }

    // 16 codes, one a byte, to and from 2 * Bits bytes.
    template <unsigned Bits>
    static BITMILL_FLATTEN void store_codes(typename p::bytes codes, std::uint8_t flip, std::uint8_t* dst) {
        if constexpr (Bits == 8) p::store_bytes(p::flip(codes, flip), dst);
        if constexpr (Bits == 4) p::store_nibbles_low_first(codes, dst);
        if constexpr (Bits == 2) p::store_pairs_low_first(codes, dst);
    }
    template <unsigned Bits>
    static BITMILL_FLATTEN typename p::bytes load_codes(const std::uint8_t* src, std::uint8_t flip) {
        if constexpr (Bits == 8) return p::flip(p::load_bytes(src), flip);
        if constexpr (Bits == 4) return p::load_nibbles_low_first(src);
        if constexpr (Bits == 2) return p::load_pairs_low_first(src);
    }

    template <unsigned Bits, bool Measured>
    static void encode_int_as(const float* src, const int_layout& layout, const float* scales,
                              const float* zeros, std::uint8_t* dst, sums* total) {
        const int_limits limits(Bits);
        const lanes bottom = spread<Arch>(limits.low);
        const lanes top = spread<Arch>(limits.high);
        running_sums run;
        for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group, dst += layout.stride) {
            const lanes scale = spread<Arch>(scales[g]);
            const lanes zero = spread<Arch>(zeros[g]);
            for_each_16(src, layout.group,
                        [&](const lanes& x, std::size_t i, std::size_t n) __attribute__((always_inline)) {
                            const lanes q = round_small(lower(higher(x / scale + zero, bottom), top));
                            const auto codes = p::to_bytes(q - bottom);
                            std::uint8_t* to = dst + i * Bits / 8;
                            if (n == 16) {
                                store_codes<Bits>(codes, layout.flip, to);
                            } else {
                                alignas(16) std::uint8_t all[2 * Bits];
                                store_codes<Bits>(codes, layout.flip, all);
                                const std::size_t rest = n * Bits % 8;  // the bits past the end are 0
                                if (rest != 0)
                                    all[n * Bits / 8] &= static_cast<std::uint8_t>((1u << rest) - 1);
                                for (std::size_t k = 0; k < (n * Bits + 7) / 8; ++k) to[k] = all[k];
                            }
                            if constexpr (Measured) run.add(x, first_lanes((q - zero) * scale, n), total);
                        });
        }
        if constexpr (Measured) run.flush(total);
    }

    static void encode_int(const float* src, const int_layout& layout, unsigned bits, const float* scales,
                           const float* zeros, std::uint8_t* dst, sums* total) {
        const bool measured = total != nullptr;
        const auto encode = bits == 8   ? (measured ? encode_int_as<8, true> : encode_int_as<8, false>)
                            : bits == 4 ? (measured ? encode_int_as<4, true> : encode_int_as<4, false>)
                                        : (measured ? encode_int_as<2, true> : encode_int_as<2, false>);
        encode(src, layout, scales, zeros, dst, total);
    }

    template <unsigned Bits, bool Stream>
    static void decode_int_as(const std::uint8_t* src, const int_layout& layout, const float* scales,
                              const float* zeros, float* dst) {
        const float low = int_limits(Bits).low;
        for (std::size_t g = 0; g < layout.groups; ++g, src += layout.stride, dst += layout.group) {
            const lanes scale = spread<Arch>(scales[g]);
            const lanes shift = spread<Arch>(zeros[g] - low);
            const bool stream = Stream && can_stream(dst);
            std::size_t i = 0;
            for (; i + 16 <= layout.group; i += 16) {
                const auto codes = load_codes<Bits>(src + i * Bits / 8, layout.flip);
                const lanes values = (p::from_bytes(codes) - shift) * scale;
                stream ? stream_16(values, dst + i) : store(values, dst + i);
            }
            if (i < layout.group) {
                const std::size_t n = layout.group - i;
                alignas(16) std::uint8_t all[16] = {};
                for (std::size_t k = 0; k < (n * Bits + 7) / 8; ++k) all[k] = src[i * Bits / 8 + k];
                const auto codes = load_codes<Bits>(all, layout.flip);
                store_first((p::from_bytes(codes) - shift) * scale, n, dst + i);
            }
        }
        if constexpr (Stream) end_stream();
    }

    static void decode_int(const std::uint8_t* src, const int_layout& layout, unsigned bits,
                           const float* scales, const float* zeros, float* dst, bool stream) {
        const auto decode = bits == 8   ? (stream ? decode_int_as<8, true> : decode_int_as<8, false>)
                            : bits == 4 ? (stream ? decode_int_as<4, true> : decode_int_as<4, false>)
                                        : (stream ? decode_int_as<2, true> : decode_int_as<2, false>);
        decode(src, layout, scales, zeros, dst);
    }

    // --- two planes -----------------------------------------------------------------------------------------
    // The first n nibbles of 16 codes; one past the end is 0.
    template <class Codes>
    static void put_nibbles(const Codes& codes, std::size_t n, std::uint8_t* dst) {
        if (n == 16) return p::store_nibbles_low_first(codes, dst);
        alignas(16) std::uint8_t all[8];
        p::store_nibbles_low_first(codes, all);
        const std::size_t whole = n / 2 & 7;  // n < 16, which GCC does not see
        for (std::size_t k = 0; k < whole; ++k) dst[k] = all[k];
        if (n % 2 != 0) dst[whole] = all[whole] & 0x0f;
    }

    template <bool Measured>
    static BITMILL_FLATTEN void encode_planes_as(const float* src, const int_layout& layout,
                                                 const float* scales, std::uint8_t* base, std::uint8_t* rest,
                                                 sums* both, sums* alone) {
        const lanes bottom = spread<Arch>(plane_low);
        const lanes top = spread<Arch>(plane_high);
        const lanes offset = spread<Arch>(8);
        const lanes sixteen = spread<Arch>(16);
        running_sums run_both;
        running_sums run_alone;
        for (std::size_t g = 0; g < layout.groups; ++g, src += layout.group) {
            const lanes coarse = spread<Arch>(scales[g]);
            const lanes fine = spread<Arch>(scales[g] * plane_step);
            std::uint8_t* to_base = base + g * layout.stride;
            std::uint8_t* to_rest = rest + g * layout.stride;
            for_each_16(src, layout.group,
                        [&](const lanes& x, std::size_t i, std::size_t n) __attribute__((always_inline)) {
                            const lanes c = round_small(lower(higher(x / fine, bottom), top));
                            const lanes hi = base_lanes(c);
                            put_nibbles(p::to_bytes(hi + offset), n, to_base + i / 2);
                            put_nibbles(p::to_bytes(c - hi * sixteen + offset), n, to_rest + i / 2);
                            if constexpr (Measured) {
                                run_both.add(x, c * fine, both);
                                run_alone.add(x, hi * coarse, alone);
                            }
                        });
        }
        if constexpr (Measured) {
            run_both.flush(both);
            run_alone.flush(alone);
        }
    }

    static void encode_planes(const float* src, const int_layout& layout, const float* scales,
                              std::uint8_t* base, std::uint8_t* rest, sums* both, sums* alone) {
        both != nullptr ? encode_planes_as<true>(src, layout, scales, base, rest, both, alone)
                        : encode_planes_as<false>(src, layout, scales, base, rest, both, alone);
    }

    static void decode_planes(const std::uint8_t* base, const std::uint8_t* rest, const int_layout& layout,
                              const float* scales, float* dst, bool stream) {
        const lanes sixteen = spread<Arch>(16);
        const lanes offset = spread<Arch>(8 * 16 + 8);
        for (std::size_t g = 0; g < layout.groups; ++g, dst += layout.group) {
            const lanes fine = spread<Arch>(scales[g] * plane_step);
            const std::uint8_t* from_base = base + g * layout.stride;
            const std::uint8_t* from_rest = rest + g * layout.stride;
            const bool past_caches = stream && can_stream(dst);
            const auto values = [&](const std::uint8_t* hi, const std::uint8_t* lo) {
                return (p::from_bytes(p::load_nibbles_low_first(hi)) * sixteen +
                        p::from_bytes(p::load_nibbles_low_first(lo)) - offset) *
                       fine;
            };
            std::size_t i = 0;
            for (; i + 16 <= layout.group; i += 16) {
                const lanes all = values(from_base + i / 2, from_rest + i / 2);
                past_caches ? stream_16(all, dst + i) : store(all, dst + i);
            }
            if (i == layout.group) continue;
            const std::size_t n = layout.group - i;
            alignas(16) std::uint8_t hi[16] = {};
            alignas(16) std::uint8_t lo[16] = {};
            for (std::size_t k = 0; k < (n + 1) / 2; ++k) {
                hi[k] = from_base[i / 2 + k];
                lo[k] = from_rest[i / 2 + k];
            }
            store_first(values(hi, lo), n, dst + i);
        }
        if (stream) end_stream();
    }

    // --- code books ----------------------------------------------------------------------------------------
    static std::size_t absmax_blocks(const float* src, std::size_t count, std::size_t block, float* absmax) {
        std::size_t b = 0;
        for (std::size_t i = 0; i < count; i += block, ++b) {
            const bool is_short = count - i < block;
            const std::uint32_t bits = absmax_bits(src + i, is_short ? count - i : block);
            if (bits >= 0x7f800000u) return b;
            const float most = __builtin_bit_cast(float, bits);
            absmax[b] = is_short ? book_absmax(most) : most;
        }
        return b;
    }

    template <bool Measured>
    static void encode_book_as(const float* src, std::size_t count, std::size_t block, const float* absmax,
                               const code_book& facts, std::uint8_t* dst, sums* total) {
        const typename p::book book(facts);
        running_sums run;
        for (std::size_t start = 0; start < count; start += block, ++absmax) {
            const std::size_t size = count - start < block ? count - start : block;
            const bool is_short = size < block;
            const lanes scale = spread<Arch>(*absmax);
            const lanes inverse = spread<Arch>(1.0f / book_absmax(*absmax));
            for_each_16(src + start, size,
                        [&](const lanes& x, std::size_t i, std::size_t n) __attribute__((always_inline)) {
                            alignas(16) std::uint8_t codes[16];
                            lanes values;
                            book.encode(is_short ? x / scale : x * inverse, codes, values);
                            std::uint8_t* to = dst + (start + i) / 2;
                            if (n == 16) {
                                p::store_nibbles_high_first(p::load_bytes(codes), to);
                            } else {
                                alignas(16) std::uint8_t packed[8];
                                p::store_nibbles_high_first(p::load_bytes(codes), packed);
                                for (std::size_t k = 0; k < (n + 1) / 2; ++k) to[k] = packed[k];
                            }
                            if constexpr (Measured) run.add(x, values * scale, total);
                        });
        }
        if constexpr (Measured) run.flush(total);
    }

    static void encode_book(const float* src, std::size_t count, std::size_t block, const float* absmax,
                            const code_book& facts, std::uint8_t* dst, sums* total) {
        total != nullptr ? encode_book_as<true>(src, count, block, absmax, facts, dst, total)
                         : encode_book_as<false>(src, count, block, absmax, facts, dst, total);
    }

    template <bool Stream>
    static void decode_book_as(const std::uint8_t* src, std::size_t count, std::size_t block,
                               const float* absmax, const code_book& facts, float* dst) {
        const typename p::book book(facts);
        for (std::size_t start = 0; start < count; start += block, ++absmax) {
            const std::size_t size = count - start < block ? count - start : block;
            const lanes scale = spread<Arch>(*absmax);
            std::size_t i = 0;
            const bool stream = Stream && can_stream(dst + start);
            alignas(16) std::uint8_t codes[16];
            for (; i + 16 <= size; i += 16) {
                p::store_bytes(p::load_nibbles_high_first(src + (start + i) / 2), codes);
                const lanes values = book.values(codes) * scale;
                stream ? stream_16(values, dst + start + i) : store(values, dst + start + i);
            }
            if (i < size) {
                std::uint8_t packed[8] = {};
                for (std::size_t k = 0; k < (size - i + 1) / 2; ++k) packed[k] = src[(start + i) / 2 + k];
                p::store_bytes(p::load_nibbles_high_first(packed), codes);
                store_first(book.values(codes) * scale, size - i, dst + start + i);
            }
        }
        if constexpr (Stream) end_stream();
    }

    static void decode_book(const std::uint8_t* src, std::size_t count, std::size_t block,
                            const float* absmax, const code_book& facts, float* dst, bool stream) {
        stream ? decode_book_as<true>(src, count, block, absmax, facts, dst)
               : decode_book_as<false>(src, count, block, absmax, facts, dst);
    }

    static constexpr table make(const char* name) {
        return {name,
                choose_int,
                encode_int,
                decode_int,
                encode_planes,
                decode_planes,
                finite_extremes,
                absmax_blocks,
                encode_book,
                decode_book,
                ggml_kernels<Arch>::encode,
                ggml_kernels<Arch>::decode,
                p::widen_f16,
                p::widen_bf16,
                p::narrow_f16,
                p::narrow_bf16,
                measure,
                layers_of<Arch>::make()};
    }
};

}  // namespace bitmill::kernels
