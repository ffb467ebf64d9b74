// The weights of a layer run by run: their codes as dot products read them, or their values as floats.
#pragma once

#include <bitmill/kernels/layer_tile.hpp>

namespace bitmill::kernels {

template <class Arch>
struct weights_of {
    using p = primitives<Arch>;
    using lanes = f32x16<Arch>;
    using ints = xsimd::batch<std::int32_t, Arch>;

    // The codes of 16 columns, four of each column in a lane, as integers (code >> shift) & mask.
    static BITMILL_FLATTEN ints pick(const ints& four, int shift, std::int32_t mask) {
        return (four >> shift) & ints(mask);
    }
    static BITMILL_FLATTEN void load_ints(const std::uint8_t* src, ints (&dst)[lanes::parts]) {
        BITMILL_UNROLL_ALL
        for (std::size_t i = 0; i < lanes::parts; ++i)
            dst[i] = ints::load_unaligned(reinterpret_cast<const std::int32_t*>(src) + i * ints::size);
    }
    static BITMILL_FLATTEN void store_ints(const ints& x, std::uint8_t* dst, std::size_t part) {
        x.store_unaligned(reinterpret_cast<std::int32_t*>(dst) + part * ints::size);
    }

    // Codes of four k as they are multiplied: u8, or as 16 bits, first those of two k of all columns, then the others'.
    template <class Element>
    static BITMILL_FLATTEN void put_codes(const ints& four, std::uint8_t* dst, std::size_t step,
                                          std::size_t part) {
        std::uint8_t* to = dst + step * 64 * sizeof(Element);
        if constexpr (sizeof(Element) == 1) {
            store_ints(four, to, part);
        } else {
            ints low, high;
            split_codes<Arch>(four, low, high);
            store_ints(low, to, part);
            store_ints(high, to + 64, part);
        }
    }

    // Those of the J-th four k of a step, 8 bits wide.
    template <panel_type Type, std::size_t J>
    static BITMILL_FLATTEN ints codes_of_step(const ints& all, const ints& rest) {
        if constexpr (Type == panel_type::u8) {
            return all;
        } else if constexpr (Type == panel_type::u4) {
            return pick(all, 4 * J, 0x0f0f0f0f);
        } else if constexpr (Type == panel_type::u2) {
            return pick(all, 2 * J, 0x03030303);
        } else {
            const ints base = J == 0 ? all << 4 : all;
            return (base & ints(static_cast<std::int32_t>(0xf0f0f0f0))) | pick(rest, 4 * J, 0x0f0f0f0f);
        }
    }

    // `count` steps of 64 bytes of codes.
    template <panel_type Type, class Element>
    static void widen_codes(const std::uint8_t* src, const std::uint8_t* rest, std::size_t count,
                            std::uint8_t* dst) {
        for (std::size_t s = 0; s < count; ++s, src += 64) {
            __builtin_prefetch(src + read_ahead);
            if constexpr (Type == panel_type::planes) __builtin_prefetch(rest + s * 64 + read_ahead);
            BITMILL_UNROLL_ALL
            for (std::size_t i = 0; i < lanes::parts; ++i) {
                const ints all =
                    ints::load_unaligned(reinterpret_cast<const std::int32_t*>(src) + i * ints::size);
                ints low = all;  // not read
                if constexpr (Type == panel_type::planes)
                    low = ints::load_unaligned(reinterpret_cast<const std::int32_t*>(rest + s * 64) +
                                               i * ints::size);
                constexpr std::size_t steps = facts(Type).step / 4;
                repeat<steps>([&](auto j) BITMILL_FLAT {
                    put_codes<Element>(codes_of_step<Type, j>(all, low), dst, steps * s + j, i);
                });
            }
        }
    }

    // Four rows of 16 floats, finish(code), from 64 bytes of u8 codes.
    template <class Finish>
    static BITMILL_FLATTEN void floats_of_codes(const std::uint8_t* src, float* dst, const Finish& finish) {
        ints all[lanes::parts];
        load_ints(src, all);
        BITMILL_UNROLL_ALL
        for (int k = 0; k < 4; ++k) {
            lanes code;
            BITMILL_UNROLL_ALL
            for (std::size_t i = 0; i < lanes::parts; ++i)
                code.v[i] = xsimd::to_float(pick(all[i], 8 * k, 0xff));
            store(finish(code), dst + 16 * k);
        }
    }

    // Goes over the runs of the weights without a division: of 128 k there are so few multiplications that five of them
    // were seen.
    struct run_of_weights {
        std::size_t first = 0;  // k
        std::size_t count;
        std::size_t index = 0;
        std::size_t group = 0;  // of scales
        std::size_t groups;
        std::size_t group_end;

        BITMILL_FLATTEN explicit run_of_weights(const panels& w)
            : count(w.run < w.depth ? w.run : w.depth), groups(w.scale_groups()),
              group_end(w.scale_group == 0 ? w.depth : w.scale_group) {}
        BITMILL_FLATTEN void next(const panels& w) {
            ++index;
            first += w.run;
            count = w.depth - first < w.run ? w.depth - first : w.run;
            if (first != group_end) return;
            ++group;
            group_end += w.scale_group;
        }
        // Of a panel's scales and zeros.
        [[nodiscard]] BITMILL_FLATTEN std::size_t scales_of(std::size_t panel) const {
            return (panel * groups + group) * panel_columns;
        }
    };

    [[nodiscard]] static BITMILL_FLATTEN std::size_t code_offset(const panels& w, const run_of_weights& run,
                                                                 std::size_t panel) {
        const auto facts = kernels::facts(w.type);
        return panel * panel_bytes(w.type, w.depth) + run.first / facts.step * facts.step_bytes;
    }

    // Codes of a run, four k by four; room: 16 * 128 elements.
    template <class Element>
    static const std::uint8_t* codes_of(const panels& w, const run_of_weights& run, std::size_t panel,
                                        std::uint8_t* room) {
        const std::size_t offset = code_offset(w, run, panel);
        const std::size_t step = facts(w.type).step;
        const std::size_t steps = (run.count + step - 1) / step;
        const std::uint8_t* src = w.codes + offset;
        switch (w.type) {
            case panel_type::u4:
            case panel_type::book: widen_codes<panel_type::u4, Element>(src, nullptr, steps, room); break;
            case panel_type::u2: widen_codes<panel_type::u2, Element>(src, nullptr, steps, room); break;
            case panel_type::planes:
                widen_codes<panel_type::planes, Element>(src, w.rest + offset, steps, room);
                break;
            default:
                if constexpr (sizeof(Element) == 1) return src;
                widen_codes<panel_type::u8, Element>(src, nullptr, steps, room);
        }
        return room;
    }

    // Values of a run less their scales, [k][16]; room: 64 * 128 bytes.
    static const float* values_of(const panels& w, const run_of_weights& run, std::size_t panel,
                                  float* room) {
        const std::uint8_t* raw = w.codes + code_offset(w, run, panel);
        if (w.type == panel_type::f32) return reinterpret_cast<const float*>(raw);
        if (w.type == panel_type::f16 || w.type == panel_type::bf16) {
            const auto* half = reinterpret_cast<const std::uint16_t*>(raw);
            const auto widen = w.type == panel_type::f16 ? p::widen_f16 : p::widen_bf16;
            widen(half, run.count * panel_columns, room);
            return room;
        }
        alignas(64) std::uint8_t widened[activation_group * panel_columns];
        const std::uint8_t* codes = codes_of<std::uint8_t>(w, run, panel, widened);
        if (w.type == panel_type::book) {
            const typename p::book book(*w.book);
            const auto value = [&](const lanes& index) BITMILL_FLAT {
                alignas(16) std::uint8_t bytes[16];
                p::store_bytes(p::to_bytes(index), bytes);
                return book.values(bytes);
            };
            for (std::size_t k = 0; k < run.count; k += 4)
                floats_of_codes(codes + 16 * k, room + 16 * k, value);
            return room;
        }
        const lanes zero =
            w.zeros != nullptr ? load<Arch>(w.zeros + run.scales_of(panel)) : spread<Arch>(w.zero);
        const auto less_zero = [&](const lanes& code) BITMILL_FLAT { return code - zero; };
        for (std::size_t k = 0; k < run.count; k += 4) {
            if (w.type == panel_type::u8) __builtin_prefetch(codes + 16 * k + read_ahead);
            floats_of_codes(codes + 16 * k, room + 16 * k, less_zero);
        }
        return room;
    }
};

}  // namespace bitmill::kernels
