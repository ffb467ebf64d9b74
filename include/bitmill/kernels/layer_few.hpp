// Integer weights times one or two rows of floats. Such a layer waits for memory, so its codes become floats in
// registers, four panels side by side, rather than in a room that many rows share.
#pragma once

#include <bitmill/kernels/layer_tile.hpp>

namespace bitmill::kernels {

template <class Arch>
struct layers_of;

template <class Arch>
struct few_rows_of {
    using p = primitives<Arch>;
    using lanes = f32x16<Arch>;
    using ints = xsimd::batch<std::int32_t, Arch>;
    static constexpr std::size_t panels = float_tile_size<Arch>::few_panels;

    // 64 bytes of codes of 16 columns; of planes 64 bytes of each.
    template <panel_type Type>
    struct step_of_codes {
        static constexpr bool planes = Type == panel_type::planes;
        static constexpr int width = Type == panel_type::u2                               ? 2
                                     : Type == panel_type::u4 || Type == panel_type::book ? 4
                                                                                          : 8;
        ints v[planes ? 2 : 1][lanes::parts];

        BITMILL_FLATTEN void load(const std::uint8_t* src, const std::uint8_t* rest) {
            __builtin_prefetch(src + read_ahead);
            repeat<lanes::parts>([&](auto i) BITMILL_FLAT { v[0][i] = part(src, i); });
            if constexpr (planes) {
                __builtin_prefetch(rest + read_ahead);
                const ints high(static_cast<std::int32_t>(0xf0f0f0f0)), low(0x0f0f0f0f);
                repeat<lanes::parts>([&](auto i) BITMILL_FLAT {
                    const ints base = v[0][i], residual = part(rest, i);
                    v[0][i] = ((base << 4) & high) | (residual & low);
                    v[1][i] = (base & high) | ((residual >> 4) & low);
                });
            }
            // With its top bit flipped a code less its middle is a signed integer.
            constexpr std::uint32_t top = width == 8 ? 0x80808080u : width == 4 ? 0x88888888u : 0xaaaaaaaau;
            if constexpr (Type != panel_type::book)
                for (auto& four : v)
                    repeat<lanes::parts>([&](auto i) BITMILL_FLAT {
                        four[i] = four[i] ^ ints(static_cast<std::int32_t>(top));
                    });
        }
        static BITMILL_FLATTEN ints part(const std::uint8_t* src, std::size_t i) {
            return ints::load_unaligned(reinterpret_cast<const std::int32_t*>(src) + i * ints::size);
        }
        // Of the k-th code of each column.
        template <std::size_t K, class Book>
        [[nodiscard]] BITMILL_FLATTEN lanes value(const Book& book) const {
            constexpr int at = 8 * (K % 4) + (planes ? 0 : width * static_cast<int>(K / 4));
            const auto& four = v[planes ? K / 4 : 0];
            lanes out;
            repeat<lanes::parts>([&](auto i) BITMILL_FLAT {
                if constexpr (Type == panel_type::book)
                    out.v[i] = book.value_of(four[i] >> at);
                else
                    out.v[i] = xsimd::to_float((four[i] << (32 - width - at)) >> (32 - width));
            });
            if constexpr (planes) out = out - spread<Arch>(8);  // whose middle is 136
            return out;
        }
    };
    template <panel_type Type, std::size_t R, class Book>
    static void run_panels(const linear_call& c, std::size_t row, std::size_t panel, const Book& book) {
        using layers = layers_of<Arch>;
        constexpr std::size_t step = facts(Type).step;
        const kernels::panels& w = *c.weights;
        const float* x = c.x + row * w.depth;  // a block of its own: [k][R]
        alignas(64) float sums[R * panels * panel_columns];
        repeat<R * panels>([&](auto at) BITMILL_FLAT { store(spread<Arch>(0), sums + at * panel_columns); });
        const std::size_t bytes = panel_bytes(Type, w.depth);
        for (typename layers::run_of_weights run(w); run.first < w.depth; run.next(w)) {
            const std::size_t first = run.first, count = run.count;
            const std::uint8_t *src[panels], *rest[panels];
            repeat<panels>([&](auto i) BITMILL_FLAT {
                const std::size_t offset = (panel + i) * bytes + first / step * 64;
                src[i] = w.codes + offset;
                rest[i] = Type == panel_type::planes ? w.rest + offset : src[i];  // not read
            });
            lanes t[R * panels];
            repeat<R * panels>([&](auto at) BITMILL_FLAT { t[at] = spread<Arch>(0); });
            const auto go = [&](std::size_t k, auto whole) BITMILL_FLAT {
                repeat<panels>([&](auto i) BITMILL_FLAT {
                    step_of_codes<Type> codes;
                    codes.load(src[i] + k / step * 64, rest[i] + k / step * 64);
                    repeat<step>([&](auto j) BITMILL_FLAT {
                        if (!whole && k + j >= count) return;
                        const lanes value = codes.template value<j>(book);
                        repeat<R>([&](auto r) BITMILL_FLAT {
                            lanes& sum = t[r * panels + i];
                            sum = fused(spread<Arch>(x[(first + k + j) * R + r]), value, sum);
                        });
                    });
                });
            };
            std::size_t k = 0;
            for (; k + step <= count; k += step) go(k, std::true_type());
            if (k < count) go(k, std::false_type());
            repeat<R * panels>([&](auto at) BITMILL_FLAT {
                const std::size_t index = run.scales_of(panel + at % panels);
                float* sum = sums + at * panel_columns;
                store(fused(t[at], load<Arch>(w.scales + index), load<Arch>(sum)), sum);
            });
        }
        layers::finish(c, row, R, panel, panels, sums);
    }

    template <panel_type Type, class Book>
    static std::size_t run_all(const linear_call& c, std::size_t row, std::size_t rows, std::size_t panel,
                               const Book& book) {
        for (; panel + panels <= c.panel_end; panel += panels)
            rows == 1 ? run_panels<Type, 1>(c, row, panel, book) : run_panels<Type, 2>(c, row, panel, book);
        return panel;
    }

    // One or two rows, `rows`, from `row` on. Returns the first panel that is left to others: of a type that does not lie
    // symmetric about its middle, or of so few panels.
    static std::size_t run(const linear_call& c, std::size_t row, std::size_t rows, std::size_t panel) {
        const kernels::panels& w = *c.weights;
        if (w.scales == nullptr) return panel;
        if (w.type == panel_type::book) {
            if constexpr (requires(const typename p::book& b, const ints& code) { b.value_of(code); })
                return run_all<panel_type::book>(c, row, rows, panel, typename p::book(*w.book));
            else
                return panel;
        }
        if (w.zeros != nullptr) return panel;
        const int none = 0;  // no book
        switch (w.type) {
            case panel_type::u8:
                return w.zero == 128 ? run_all<panel_type::u8>(c, row, rows, panel, none) : panel;
            case panel_type::planes:
                return w.zero == 136 ? run_all<panel_type::planes>(c, row, rows, panel, none) : panel;
            case panel_type::u4:
                return w.zero == 8 ? run_all<panel_type::u4>(c, row, rows, panel, none) : panel;
            case panel_type::u2:
                return w.zero == 2 ? run_all<panel_type::u2>(c, row, rows, panel, none) : panel;
            default: return panel;
        }
    }
};

}  // namespace bitmill::kernels
