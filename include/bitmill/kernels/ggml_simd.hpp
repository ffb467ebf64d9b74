// The vector source of GGUF's blocks: what ggml_rule.hpp does to whole sub-blocks, and the decoder.
#pragma once

#include <cstddef>
#include <cstdint>

#include <bitmill/kernels/ggml_rule.hpp>
#include <bitmill/kernels/primitives.hpp>

namespace bitmill::kernels {

// Counts are 16, 32 or 256: there are no tails.
template <class Arch>
struct ggml_ops {
    using p = primitives<Arch>;
    using lanes = f32x16<Arch>;

    static BITMILL_FLATTEN lanes truncated(const lanes& a) {
        return lanewise(
            a, a, [](const auto& x, const auto&) __attribute__((always_inline)) { return xsimd::trunc(x); });
    }

    static std::uint32_t absmax_bits(const float* x, std::size_t n) {
        typename p::absmax most;
        for (std::size_t i = 0; i < n; i += 16) most.add(load<Arch>(x + i));
        return most.bits();
    }
    static BITMILL_FLATTEN void extremes(const float* x, std::size_t n, float* low, float* high) {
        lanes least = load<Arch>(x);
        lanes most = least;
        for (std::size_t i = 16; i < n; i += 16) {
            const lanes now = load<Arch>(x + i);
            least = lower(least, now);
            most = higher(most, now);
        }
        alignas(64) float all[16];
        alignas(64) float tops[16];
        store(least, all);
        store(most, tops);
        for (std::size_t half = 8; half != 0; half /= 2)
            for (std::size_t i = 0; i < half; ++i) {
                all[i] = all[i] < all[i + half] ? all[i] : all[i + half];
                tops[i] = tops[i] > tops[i + half] ? tops[i] : tops[i + half];
            }
        *low = all[0];
        *high = tops[0];
    }
    static void round_f16(float (&values)[16]) {
        std::uint16_t halves[16];
        p::narrow_f16(values, 16, halves);
        p::widen_f16(halves, 16, values);
    }

    static BITMILL_FLATTEN void put(const lanes& codes, std::uint8_t* dst) {
        p::store_bytes(p::to_bytes(codes), dst);
    }

    // Half away from zero: the float below 0.5 keeps 0.49999997 from becoming 1.
    static BITMILL_FLATTEN void round_away(const float* x, std::size_t n, float inverse, std::uint8_t* code) {
        const lanes zero = spread<Arch>(0);
        const lanes half = spread<Arch>(0x1.fffffep-2f);
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes scaled = lower(higher(load<Arch>(x + i) * spread<Arch>(inverse), spread<Arch>(-127)),
                                       spread<Arch>(127));
            const lanes up = truncated(higher(scaled, zero) + half);
            const lanes down = truncated(half - lower(scaled, zero));
            put(up - down + spread<Arch>(128), code + i);
        }
    }
    static BITMILL_FLATTEN void truncate(const float* x, std::size_t n, float shift, float inverse, float add,
                                         float most, std::uint8_t* code) {
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes scaled =
                (load<Arch>(x + i) - spread<Arch>(shift)) * spread<Arch>(inverse) + spread<Arch>(add);
            put(truncated(lower(higher(scaled, spread<Arch>(0)), spread<Arch>(most))), code + i);
        }
    }

    static BITMILL_FLATTEN lanes inverse_of(const lanes& scale) {
        return scale / higher(scale * scale, spread<Arch>(ggml::least_square));
    }

    static void weigh(const float* x, std::size_t n, const ggml_shape& s, float* weight) {
        lanes squares = spread<Arch>(0);
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes now = load<Arch>(x + i);
            squares = squares + now * now;
        }
        const float mean = p::fold(squares) / static_cast<float>(n);
        const lanes rms = spread<Arch>(__builtin_sqrtf(mean) + ggml::least_weight);
        const lanes half = spread<Arch>(mean * 0.5f + ggml::least_weight);
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes now = load<Arch>(x + i);
            store(s.least ? rms + magnitude(now) : half + now * now, weight + i);
        }
    }

    static BITMILL_FLATTEN lanes within(const lanes& x, int low, int high) {
        return lower(higher(x, spread<Arch>(static_cast<float>(low))),
                     spread<Arch>(static_cast<float>(high)));
    }
    static BITMILL_FLATTEN void neighbours(const ggml::integer_centre& at, const ggml_shape& s, float* scale,
                                           float* least, ggml::candidates& c) {
        const lanes wider = load<Arch>(ggml::near_scale);
        const lanes scales = within(spread<Arch>(at.scale) + wider, s.scale_low, s.scale_high);
        const lanes along = round_small(wider * spread<Arch>(at.tilt));
        const lanes leasts =
            within(spread<Arch>(at.least) + load<Arch>(ggml::near_least) + along, 0, s.least_high);
        store(scales, scale);
        store(leasts, least);
        store(spread<Arch>(at.d) * scales, c.scale);
        store(spread<Arch>(at.dmin) * leasts, c.least);
    }
    static BITMILL_FLATTEN void signed_neighbours(const ggml::integer_centre& at, const ggml_shape& s,
                                                  float* scale, ggml::candidates& c) {
        const lanes near =
            spread<Arch>(at.scale) * load<Arch>(ggml::near_sign) + load<Arch>(ggml::near_signed);
        const lanes scales = within(near, s.scale_low, s.scale_high);
        store(scales, scale);
        store(spread<Arch>(at.d) * scales, c.scale);
    }

    // An element after the other against sixteen candidates: no sum over lanes.
    template <bool Least>
    static void try_all(const float* x, const float* weight, std::size_t n, const ggml_shape& s,
                        ggml::candidates& c) {
        const lanes low = spread<Arch>(static_cast<float>(s.low));
        const lanes high = spread<Arch>(static_cast<float>(s.high));
        const lanes scale = load<Arch>(c.scale);
        const lanes inverse = inverse_of(scale);
        const lanes least = Least ? load<Arch>(c.least) : spread<Arch>(0);
        lanes sum = spread<Arch>(0);
        for (std::size_t i = 0; i < n; ++i) {
            const lanes one = spread<Arch>(x[i]);
            lanes err = one;
            if constexpr (Least) {
                const lanes q = round_small(lower(higher((one + least) * inverse, low), high));
                err = one - (q * scale - least);
            } else {
                err = one - round_small(lower(higher(one * inverse, low), high)) * scale;
            }
            sum = sum + err * err * spread<Arch>(weight[i]);
        }
        store(sum, c.error);
    }

    static BITMILL_FLATTEN lanes codes_of(const lanes& x, const lanes& inverse, const lanes& least,
                                          const ggml_shape& s) {
        return round_small(lower(higher((x + least) * inverse, spread<Arch>(static_cast<float>(s.low))),
                                 spread<Arch>(static_cast<float>(s.high))));
    }
    static float error(const float* x, const float* weight, std::size_t n, const ggml_shape& s, float scale,
                       float least) {
        const lanes factor = spread<Arch>(scale);
        const lanes inverse = inverse_of(factor);
        const lanes shift = spread<Arch>(least);
        lanes sum = spread<Arch>(0);
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes now = load<Arch>(x + i);
            const lanes err = now - (codes_of(now, inverse, shift, s) * factor - shift);
            sum = sum + err * err * load<Arch>(weight + i);
        }
        return p::fold(sum);
    }
    static void code(const float* x, std::size_t n, const ggml_shape& s, float scale, float least,
                     std::uint8_t* code) {
        const lanes inverse = inverse_of(spread<Arch>(scale));
        const lanes shift = spread<Arch>(least);
        const lanes low = spread<Arch>(static_cast<float>(s.low));
        for (std::size_t i = 0; i < n; i += 16)
            put(codes_of(load<Arch>(x + i), inverse, shift, s) - low, code + i);
    }
    static ggml::code_sums sums(const float* x, const float* weight, std::size_t n, const ggml_shape& s,
                                const std::uint8_t* code) {
        const lanes low = spread<Arch>(static_cast<float>(s.low));
        lanes xq = spread<Arch>(0);
        lanes qq = xq;
        for (std::size_t i = 0; i < n; i += 16) {
            const lanes q = p::from_bytes(p::load_bytes(code + i)) + low;
            const lanes heavy = q * load<Arch>(weight + i);
            xq = xq + load<Arch>(x + i) * heavy;
            qq = qq + q * heavy;
        }
        return {p::fold(xq), p::fold(qq)};
    }

    static void fit(const float* x, const float* weight, std::size_t count, const ggml::line_start& start,
                    ggml::lines& fitted) {
        const lanes top = spread<Arch>(start.levels);
        const lanes zero = spread<Arch>(0);
        const lanes tiny = spread<Arch>(ggml::least_scale);
        const lanes range = spread<Arch>(start.range);
        const lanes inverse = (top + load<Arch>(ggml::line_reach)) / range;
        const lanes first = spread<Arch>(start.low) + (range - top / inverse) * load<Arch>(ggml::line_middle);
        lanes xq = zero, qq = zero, all_q = zero;
        float whole = 0, whole_x = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const lanes one = spread<Arch>(x[i]);
            const lanes q = round_small(lower(higher((one - first) * inverse, zero), top));
            const lanes heavy = q * spread<Arch>(weight[i]);
            whole += weight[i];
            whole_x += x[i] * weight[i];
            xq = xq + one * heavy;
            qq = qq + q * heavy;
            all_q = all_q + heavy;
        }
        const lanes all = spread<Arch>(whole);
        const lanes all_x = spread<Arch>(whole_x);
        const lanes slope = (xq * all - all_x * all_q) / higher(qq * all - all_q * all_q, tiny);
        const lanes offset = lower((all_x - slope * all_q) / all, spread<Arch>(start.ceiling));
        const lanes scale = higher((xq - offset * all_q) / higher(qq, tiny), tiny);
        store(scale, fitted.scale);
        store(offset, fitted.offset);
        store((scale * qq + (offset + offset) * all_q - xq - xq) * scale +
                  (offset * all - all_x - all_x) * offset,
              fitted.error);
    }
};

// The values that codes stand for: a bias away, or in a book.
template <class Arch, ggml_type Type>
struct ggml_values {
    using p = primitives<Arch>;
    f32x16<Arch> bias = spread<Arch>(static_cast<float>(shape_of(Type).low));
    BITMILL_FLATTEN f32x16<Arch> of(const std::uint8_t* codes) const {
        return p::from_bytes(p::load_bytes(codes)) + bias;
    }
};
template <class Arch, ggml_type Type>
    requires(shape_of(Type).book != ggml_book::none)
struct ggml_values<Arch, Type> {
    typename primitives<Arch>::book book{book_of(shape_of(Type).book)};
    BITMILL_FLATTEN f32x16<Arch> of(const std::uint8_t* codes) const { return book.values(codes); }
};

template <class Arch, ggml_type Type, bool Stream>
void decode_ggml_as(const std::uint8_t* src, std::size_t blocks, float* dst) {
    constexpr ggml_shape shape = shape_of(Type);
    const ggml_values<Arch, Type> values;
    ggml_block block{};
    float scale[16];
    float least[16];
    for (std::size_t b = 0; b < blocks; ++b, src += facts(Type).block_bytes, dst += shape.elements) {
        unpack_block<Type>(src, block);
        resolve_block<Type>(block, scale, least);
        const bool stream = Stream && can_stream(dst);
        for (unsigned i = 0; i < shape.elements; i += 16) {
            f32x16<Arch> now = values.of(block.code + i) * spread<Arch>(scale[i / shape.sub]);
            if constexpr (shape.least) now = now - spread<Arch>(least[i / shape.sub]);
            stream ? stream_16(now, dst + i) : store(now, dst + i);
        }
    }
    if constexpr (Stream) end_stream();
}

template <class Arch>
struct ggml_kernels {
    static std::size_t encode(const float* src, std::size_t blocks, ggml_type type, bool search,
                              std::uint8_t* dst) {
        return ggml::encode_blocks<ggml_ops<Arch>>(src, blocks, type, search, dst);
    }
    static void decode(const std::uint8_t* src, std::size_t blocks, ggml_type type, float* dst, bool stream) {
        with_ggml_type(type, [&](auto constant) {
            constexpr ggml_type as = decltype(constant)::value;
            stream ? decode_ggml_as<Arch, as, true>(src, blocks, dst)
                   : decode_ggml_as<Arch, as, false>(src, blocks, dst);
        });
    }
};

}  // namespace bitmill::kernels
