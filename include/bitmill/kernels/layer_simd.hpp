// The vector source of the kernels that run layers; see layer_table.hpp for what they compute.
#pragma once

#include <bitmill/kernels/attention_simd.hpp>
#include <bitmill/kernels/layer_few.hpp>
#include <bitmill/kernels/layer_functions.hpp>
#include <bitmill/kernels/layer_inputs.hpp>
#include <bitmill/kernels/layer_tile.hpp>
#include <bitmill/kernels/layer_weights.hpp>

namespace bitmill::kernels {

template <class Arch>
struct layers_of {
    using p = primitives<Arch>;
    using f = functions_of<Arch>;
    using lanes = f32x16<Arch>;
    using ints = xsimd::batch<std::int32_t, Arch>;
    using inputs = inputs_of<Arch>;
    using stored = weights_of<Arch>;
    using run_of_weights = typename stored::run_of_weights;

    // --- tiles ---------------------------------------------------------------------------------------------------
    // sum += R rows of x times P panels, over steps of four k.
    template <class Dot, std::size_t R, std::size_t P, class Sum>
    static BITMILL_FLATTEN void dot_steps(const typename Dot::x_element* x, std::size_t width,
                                          const std::uint8_t* const* w, std::size_t begin, std::size_t end,
                                          Sum (&sum)[R * P]) {
        constexpr std::size_t parts = sizeof(typename Dot::x_element);  // 64 bytes of weights each
        for (std::size_t s = begin; s < end; ++s) {
            const typename Dot::x_element* at = x + s * width * 4;
            repeat<parts>([&](auto part) BITMILL_FLAT {
                typename Dot::weights column[P];
                repeat<P>([&](auto i) BITMILL_FLAT {
                    const std::uint8_t* from = w[i] + 64 * (parts * s + part);
                    if constexpr (parts == 1 && Dot::flush == 0) __builtin_prefetch(from + read_ahead);
                    column[i] = Dot::load(from);
                });
                repeat<R>([&](auto r) BITMILL_FLAT {
                    const auto one = Dot::spread_x(at + 4 * r + 4 / parts * part);
                    repeat<P>([&](auto i) BITMILL_FLAT { Dot::step(sum[r * P + i], column[i], one); });
                });
            });
        }
    }

    // R rows of x times P panels; sums in 32 bits. centres: [flush][width], of the tile's rows.
    template <class Dot, std::size_t R, std::size_t P>
    static BITMILL_FLATTEN void dot_tile(const typename Dot::x_element* x, std::size_t width,
                                         const std::uint8_t* const* w, std::size_t steps,
                                         const std::int32_t* centres, typename Dot::sum (&sum)[R * P]) {
        if constexpr (Dot::flush == 0) {
            repeat<R * P>([&](auto i) BITMILL_FLAT { Dot::clear(sum[i]); });
            dot_steps<Dot, R, P>(x, width, w, 0, steps, sum);
        } else {
            const auto flush = [&](std::size_t s, auto first) BITMILL_FLAT {
                typename Dot::part part[R * P];
                repeat<R * P>([&](auto i) BITMILL_FLAT { Dot::begin(part[i], centres[i / P]); });
                const std::size_t end = s + Dot::flush < steps ? s + Dot::flush : steps;
                dot_steps<Dot, R, P>(x, width, w, s, end, part);
                repeat<R * P>([&](auto i) BITMILL_FLAT {
                    if constexpr (first) Dot::clear(sum[i]);
                    Dot::widen(sum[i], part[i]);
                });
                centres += width;
            };
            flush(0, std::true_type());
            for (std::size_t s = Dot::flush; s < steps; s += Dot::flush) flush(s, std::false_type());
        }
    }

    // The same, of codes that are unpacked in registers: few rows wait for memory, not for instructions.
    template <class Dot, panel_type Type, std::size_t R, std::size_t P>
    static BITMILL_FLATTEN void dot_few(const std::int8_t* x, std::size_t width, const panels& w,
                                        const run_of_weights& run, std::size_t panel,
                                        typename Dot::sum (&sum)[R * P]) {
        constexpr std::size_t step = facts(Type).step;
        const std::uint8_t *src[P], *rest[P];
        repeat<P>([&](auto i) BITMILL_FLAT {
            const std::size_t offset = (panel + i) * panel_bytes(Type, w.depth) + run.first / step * 64;
            src[i] = w.codes + offset;
            rest[i] = Type == panel_type::planes ? w.rest + offset : src[i];  // not read
        });
        repeat<R * P>([&](auto i) BITMILL_FLAT { Dot::clear(sum[i]); });
        for (std::size_t k = 0; k < run.count; k += step) {
            const std::size_t at = k / step * 64;
            repeat<P>([&](auto i) BITMILL_FLAT {
                __builtin_prefetch(src[i] + at + read_ahead);
                if constexpr (Type == panel_type::planes) __builtin_prefetch(rest[i] + at + read_ahead);
                ints all[lanes::parts], low[lanes::parts];
                stored::load_ints(src[i] + at, all);
                if constexpr (Type == panel_type::planes) stored::load_ints(rest[i] + at, low);
                repeat<step / 4>([&](auto j) BITMILL_FLAT {
                    ints four[lanes::parts];
                    repeat<lanes::parts>([&](auto part) BITMILL_FLAT {
                        four[part] = stored::template codes_of_step<Type, j>(all[part], low[part]);
                    });
                    typename Dot::weights column;
                    static_assert(sizeof column == sizeof four);
                    __builtin_memcpy(&column, four, sizeof column);
                    repeat<R>([&](auto r) BITMILL_FLAT {
                        Dot::step(sum[r * P + i], column, Dot::spread_x(x + (k + 4 * j) * width + 4 * r));
                    });
                });
            });
        }
    }

    // --- linear ----------------------------------------------------------------------------------------------------
    // Rows that a call works on at once.
    struct span_of_rows {
        std::size_t begin;
        std::size_t count;
    };

    // Calls body<R>(row, width) for tiles of R rows that do not leave their block of 12, R at most Most. `row` counts from
    // the span's begin, `width` is the width of the block; rows of the block before the tile: row % 12.
    template <std::size_t Most, class Body>
    static BITMILL_FLATTEN void for_each_tile(const linear_call& c, const span_of_rows& span,
                                              const Body& body) {
        for (std::size_t block = 0; block < span.count; block += row_block) {
            const std::size_t left = c.rows - span.begin - block;
            const std::size_t width = left < row_block ? left : row_block;
            const std::size_t end = span.count - block < width ? span.count : block + width;
            std::size_t row = block;
            while (row < end) {
                const std::size_t rows = end - row;
                if (Most >= 12 && rows >= 12) {
                    body.template operator()<Most >= 12 ? 12 : 1>(row, width);
                    row += 12;
                } else if (Most >= 6 && rows >= 6 && rows != 7 && rows != 8) {  // which are 4 and 3 or 4
                    body.template operator()<Most >= 6 ? 6 : 1>(row, width);
                    row += 6;
                } else if (Most >= 4 && rows >= 4) {
                    body.template operator()<Most >= 4 ? 4 : 1>(row, width);
                    row += 4;
                } else if (Most >= 3 && rows >= 3) {
                    body.template operator()<Most >= 3 ? 3 : 1>(row, width);
                    row += 3;
                } else if (Most >= 2 && rows >= 2) {
                    body.template operator()<Most >= 2 ? 2 : 1>(row, width);
                    row += 2;
                } else {
                    body.template operator()<1>(row, width);
                    ++row;
                }
            }
        }
    }

    // Whether for_each_tile makes one tile of so many rows.
    template <std::size_t Most>
    [[nodiscard]] static constexpr bool is_tile(std::size_t rows) {
        return rows <= Most && (rows <= 4 || rows == 6 || rows == 12);
    }

    // dst = activation(sums + bias) + residual; sums: [rows][panels][16].
    static BITMILL_FLATTEN void finish(const linear_call& c, std::size_t first_row, std::size_t rows,
                                       std::size_t first_panel, std::size_t panels_done, const float* sums) {
        for (std::size_t i = 0; i < panels_done; ++i) {
            const std::size_t column = (first_panel + i) * panel_columns;
            const std::size_t left = c.weights->columns - column;
            const std::size_t n = left < panel_columns ? left : panel_columns;
            const lanes bias = c.bias != nullptr ? inputs::load_some(c.bias + column, n) : spread<Arch>(0);
            for (std::size_t r = 0; r < rows; ++r) {
                const std::size_t row = first_row + r;
                lanes y = load<Arch>(sums + (r * panels_done + i) * panel_columns);
                if (c.bias != nullptr) y = y + bias;
                if (c.activation != activation_function::none) y = f::activate(y, c.activation);
                if (c.residual != nullptr)
                    y = y + inputs::load_some(c.residual + row * c.residual_stride + column, n);
                float* dst = c.dst + row * c.dst_stride + column;
                n == panel_columns ? store(y, dst) : store_first(y, n, dst);
            }
        }
    }

    // Weights that are unpacked for a run: the first tile of rows does it, the others find them. Where there is only
    // one tile every run takes the same room, which stays in the first-level cache.
    struct unpacked_room {
        std::byte* begin;
        std::size_t each;  // bytes of a run of a panel
        bool keep;
        template <std::size_t P>
        [[nodiscard]] BITMILL_FLATTEN std::byte* at(std::size_t run, std::size_t panel) const {
            return begin + ((keep ? run : 0) * P + panel) * each;
        }
    };

    // P panels from `panel` on; tiles of at most Most rows.
    template <std::size_t Most, std::size_t P>
    static void float_panels(const linear_call& c, const span_of_rows& span, std::size_t panel,
                             std::byte* scratch) {
        const panels& w = *c.weights;
        const bool direct = w.type == panel_type::f32;
        const unpacked_room room{scratch, w.run * panel_columns * sizeof(float), !is_tile<Most>(span.count)};
        for_each_tile<Most>(c, span, [&]<std::size_t R>(std::size_t row, std::size_t width) {
            alignas(64) float sums[R * P * panel_columns];
            repeat<R * P>([&](auto at) BITMILL_FLAT { store(spread<Arch>(0), sums + at * panel_columns); });
            const std::size_t in_block = row % row_block;
            const float* x = c.x + (span.begin + row - in_block) * w.depth + in_block;
            for (run_of_weights run(w); run.first < w.depth; run.next(w), x += w.run * width) {
                const float* values[P];
                lanes scale[P];
                repeat<P>([&](auto i) BITMILL_FLAT {
                    auto* mine = reinterpret_cast<float*>(room.template at<P>(run.index, i));
                    values[i] = row == 0 || direct ? stored::values_of(w, run, panel + i, mine) : mine;
                    scale[i] = w.scales != nullptr ? load<Arch>(w.scales + run.scales_of(panel + i))
                                                   : spread<Arch>(1);
                });
                lanes t[R * P];
                float_tile<Arch, R, P>(x, width, values, run.count, t);
                repeat<R * P>([&](auto at) BITMILL_FLAT {
                    float* sum = sums + at * panel_columns;
                    store(fused(t[at], scale[at % P], load<Arch>(sum)), sum);
                });
            }
            finish(c, span.begin + row, R, panel, P, sums);
        });
    }

    static void linear_float(const linear_call& c) {
        using size = float_tile_size<Arch>;
        const std::size_t rows = rows_together(c.weights->depth);
        for (std::size_t begin = c.row_begin; begin < c.row_end; begin += rows) {
            const span_of_rows span{begin, c.row_end - begin < rows ? c.row_end - begin : rows};
            std::size_t panel = c.panel_begin;
            // So few rows leave registers for more sums, which hide the latency of each other.
            if (span.count <= 2) panel = few_rows_of<Arch>::run(c, span.begin, span.count, panel);
            if (span.count <= 2)
                for (; panel + 4 <= c.panel_end; panel += 4) float_panels<2, 4>(c, span, panel, c.scratch);
            if constexpr (size::panels == 2)
                for (; panel + 2 <= c.panel_end; panel += 2)
                    float_panels<size::rows, 2>(c, span, panel, c.scratch);
            for (; panel < c.panel_end; ++panel) float_panels<size::rows, 1>(c, span, panel, c.scratch);
        }
    }

    // The codes of the rows as the dot product reads them, and where each sum of a run begins.
    template <class Dot>
    struct staged_rows {
        const typename Dot::x_element* x;
        std::size_t padded;
        std::int32_t* starts;  // [row][run]: - zero * sum of the codes; with zeros: that sum
        std::size_t runs;
        std::int32_t* centres;  // of Dot::flush: block after block, [flush][width]
        std::size_t flushes;
    };

    // How many k a sum of 16 bits goes over.
    template <class Dot>
    [[nodiscard]] static std::size_t flush_depth(const panels& w) {
        return w.run < 4 * Dot::flush ? w.run : 4 * Dot::flush;
    }

    // Where the sums of 16 bits of a block begin: the middle of the weights' codes times the codes of x, two of the four
    // in each half of 32 bits.
    template <class Dot>
    static void find_centres(const std::int8_t* x, std::size_t width, std::size_t depth, std::size_t flush,
                             std::int32_t* dst) {
        using shorts = std::int16_t __attribute__((vector_size(16)));
        for (std::size_t first = 0; first < depth; first += flush, dst += width) {
            const std::size_t end = first + flush < depth ? first + flush : depth;
            for (std::size_t m = 0; m < width; m += 4) {
                const std::size_t bytes = width - m < 4 ? 4 * (width - m) : 16;
                shorts sum{};
                for (std::size_t k = first; k < end; k += 4) {
                    shorts two{};
                    const std::int8_t* from = x + k * width + 4 * m;
                    bytes == 16 ? __builtin_memcpy(&two, from, 16) : __builtin_memcpy(&two, from, bytes);
                    sum += ((two << 8) >> 8) + (two >> 8);
                }
                sum *= -Dot::offset;
                bytes == 16 ? __builtin_memcpy(dst + m, &sum, 16) : __builtin_memcpy(dst + m, &sum, bytes);
            }
        }
    }

    template <class Dot>
    static staged_rows<Dot> stage(const linear_call& c, const span_of_rows& span, std::byte*& scratch) {
        const panels& w = *c.weights;
        staged_rows<Dot> out{};
        out.padded = padded_depth(w.depth);
        out.runs = (w.depth + w.run - 1) / w.run;
        const std::int8_t* codes = c.quantized.codes + span.begin * out.padded;
        if constexpr (sizeof(typename Dot::x_element) == 1) {
            out.x = codes;
        } else {
            const std::size_t count = span.count * out.padded;
            auto* wide = reinterpret_cast<std::int16_t*>(take(scratch, count * 2));
            // Rows are padded to 16 codes. GCC 12 would not use vectors here by itself.
            using bytes = std::int8_t __attribute__((vector_size(16)));
            using words = std::int16_t __attribute__((vector_size(32)));
            for (std::size_t i = 0; i < count; i += 16) {
                bytes some;
                __builtin_memcpy(&some, codes + i, sizeof some);
                const auto widened = __builtin_convertvector(some, words);
                __builtin_memcpy(wide + i, &widened, sizeof widened);
            }
            out.x = wide;
        }
        out.starts = reinterpret_cast<std::int32_t*>(take(scratch, span.count * out.runs * 4));
        if constexpr (Dot::flush != 0) {
            const std::size_t depth = flush_depth<Dot>(w);
            out.flushes = (w.depth + depth - 1) / depth;
            out.centres = reinterpret_cast<std::int32_t*>(take(scratch, span.count * out.flushes * 4));
            for (std::size_t block = 0; block < span.count; block += row_block) {
                const std::size_t left = span.count - block;
                find_centres<Dot>(codes + block * out.padded, left < row_block ? left : row_block, w.depth,
                                  depth, out.centres + block * out.flushes);
            }
        }
        const std::size_t summed = (w.depth + sum_group - 1) / sum_group;
        const std::size_t each = w.run / sum_group;
        const std::int32_t factor = w.zeros != nullptr ? 1 : Dot::offset - static_cast<std::int32_t>(w.zero);
        for (std::size_t m = 0; m < span.count; ++m) {
            const std::int32_t* sums = c.quantized.sums + (span.begin + m) * summed;
            for (std::size_t r = 0; r < out.runs; ++r) {
                std::int32_t sum = 0;
                for (std::size_t i = r * each; i < (r + 1) * each && i < summed; ++i) sum += sums[i];
                out.starts[m * out.runs + r] = factor * sum;
            }
        }
        return out;
    }

    // Whether few rows unpack their weights in registers. Of 16-bit codes, or where sums are flushed, those would not do.
    template <class Dot>
    static constexpr bool unpacks_few =
        Dot::few_rows != 0 && Dot::flush == 0 && sizeof(typename Dot::x_element) == 1;

    template <class Dot, std::size_t Most, std::size_t P, bool Zeros>
    static void dot_panels(const linear_call& c, const span_of_rows& span, const staged_rows<Dot>& rows,
                           std::size_t panel, std::byte* scratch) {
        const panels& w = *c.weights;
        const std::size_t groups = (w.depth + activation_group - 1) / activation_group;
        using element = typename Dot::x_element;
        constexpr bool few = unpacks_few<Dot> && Most == Dot::few_rows;
        const bool direct = w.type == panel_type::u8 && sizeof(element) == 1;
        const std::size_t direct_bytes = panel_bytes(panel_type::u8, w.depth);
        const std::uint8_t* direct_codes = w.codes + panel * direct_bytes;
        const unpacked_room room{scratch, w.run * panel_columns * sizeof(element),
                                 !is_tile<Most>(span.count)};
        for_each_tile<Most>(c, span, [&]<std::size_t R>(std::size_t row, std::size_t width) {
            alignas(64) float sums[R * P * panel_columns];
            repeat<R * P>([&](auto at) BITMILL_FLAT { store(spread<Arch>(0), sums + at * panel_columns); });
            const std::size_t in_block = row % row_block;
            const auto* x = rows.x + (row - in_block) * rows.padded + 4 * in_block;
            const float* x_scales = c.quantized.scales + (span.begin + row) * groups;
            const std::int32_t* starts = rows.starts + row * rows.runs;
            const std::int32_t* centres = nullptr;
            std::size_t centre_step = 0;
            if constexpr (Dot::flush != 0) {
                centres = rows.centres + (row - in_block) * rows.flushes + in_block;
                centre_step = w.run / flush_depth<Dot>(w) * width;
            }
            for (run_of_weights run(w); run.first < w.depth;
                 run.next(w), x += w.run * width, ++starts, centres += centre_step) {
                const std::uint8_t* codes[P];
                lanes scale[P];
                lanes zero[P];
                repeat<P>([&](auto i) BITMILL_FLAT {
                    auto* mine = reinterpret_cast<std::uint8_t*>(room.template at<P>(run.index, i));
                    if (direct)
                        codes[i] = direct_codes + i * direct_bytes + run.first * panel_columns;
                    else if constexpr (!few)
                        codes[i] =
                            row == 0 ? stored::template codes_of<element>(w, run, panel + i, mine) : mine;
                    const std::size_t index = run.scales_of(panel + i);
                    scale[i] = load<Arch>(w.scales + index);
                    zero[i] = spread<Arch>(0);
                    if constexpr (Zeros)
                        zero[i] = load<Arch>(w.zeros + index) - spread<Arch>(static_cast<float>(Dot::offset));
                });
                typename Dot::sum sum[R * P];
                if constexpr (few) switch (w.type) {
                        case panel_type::u8:
                            dot_few<Dot, panel_type::u8, R, P>(x, width, w, run, panel, sum);
                            break;
                        case panel_type::u4:
                            dot_few<Dot, panel_type::u4, R, P>(x, width, w, run, panel, sum);
                            break;
                        case panel_type::u2:
                            dot_few<Dot, panel_type::u2, R, P>(x, width, w, run, panel, sum);
                            break;
                        default: dot_few<Dot, panel_type::planes, R, P>(x, width, w, run, panel, sum);
                    }
                else
                    dot_tile<Dot, R, P>(x, width, codes, (run.count + 3) / 4, centres, sum);
                const float* scale_of_x = x_scales + run.first / activation_group;
                repeat<R * P>([&](auto at) BITMILL_FLAT {
                    constexpr std::size_t r = at / P;
                    constexpr std::size_t i = at % P;
                    const std::int32_t start = starts[r * rows.runs];
                    lanes t = Dot::lanes(sum[at], Zeros ? 0 : start);
                    // Products and differences of whole numbers (of 32nds) below 2^24: exact.
                    if constexpr (Zeros) t = t - zero[i] * spread<Arch>(static_cast<float>(start));
                    float* to = sums + at * panel_columns;
                    store(fused(t * scale[i], spread<Arch>(scale_of_x[r * groups]), load<Arch>(to)), to);
                });
            }
            finish(c, span.begin + row, R, panel, P, sums);
        });
    }

    template <class Dot, bool Zeros>
    static void dot_linear(const linear_call& c) {
        const std::size_t rows = rows_together(c.weights->depth);
        for (std::size_t begin = c.row_begin; begin < c.row_end; begin += rows) {
            std::byte* scratch = c.scratch;
            const span_of_rows span{begin, c.row_end - begin < rows ? c.row_end - begin : rows};
            const auto staged = stage<Dot>(c, span, scratch);
            std::size_t panel = c.panel_begin;
            if constexpr (Dot::few_rows != 0)
                if (span.count <= Dot::few_rows && (unpacks_few<Dot> || c.weights->type == panel_type::u8))
                    for (; panel + 4 <= c.panel_end; panel += 4)
                        dot_panels<Dot, Dot::few_rows, 4, Zeros>(c, span, staged, panel, scratch);
            if constexpr (Dot::panels == 2)
                for (; panel + 2 <= c.panel_end; panel += 2)
                    dot_panels<Dot, Dot::rows, 2, Zeros>(c, span, staged, panel, scratch);
            for (; panel < c.panel_end; ++panel)
                dot_panels<Dot, Dot::rows, 1, Zeros>(c, span, staged, panel, scratch);
        }
    }

    static void linear_int(const linear_call& c) {
        const bool small = c.weights->type == panel_type::u4 || c.weights->type == panel_type::u2;
        if (c.weights->zeros != nullptr)
            return small ? dot_linear<dot_small<Arch>, true>(c) : dot_linear<dot_wide<Arch>, true>(c);
        small ? dot_linear<dot_small<Arch>, false>(c) : dot_linear<dot_wide<Arch>, false>(c);
    }

    // --- norms --------------------------------------------------------------------------------------
    static void layer_norm(const float* src, std::size_t count, const float* weight, const float* bias,
                           float epsilon, float* dst) {
        const float size = static_cast<float>(count);
        lanes sum = spread<Arch>(0);
        for (std::size_t i = 0; i < count; i += 16) sum = sum + inputs::load_some(src + i, count - i);
        const lanes mean = spread<Arch>(p::fold(sum) / size);
        lanes squares = spread<Arch>(0);
        for (std::size_t i = 0; i < count; i += 16) {
            const std::size_t n = count - i < 16 ? count - i : 16;
            const lanes x = first_lanes(inputs::load_some(src + i, n) - mean, n);
            squares = squares + x * x;
        }
        const lanes factor = spread<Arch>(1.0f / __builtin_sqrtf(p::fold(squares) / size + epsilon));
        for (std::size_t i = 0; i < count; i += 16) {
            const std::size_t n = count - i < 16 ? count - i : 16;
            const lanes x = (inputs::load_some(src + i, n) - mean) * factor;
            const lanes y = fused(x, inputs::load_some(weight + i, n), inputs::load_some(bias + i, n));
            n == 16 ? store(y, dst + i) : store_first(y, n, dst + i);
        }
    }

    static constexpr layer_table make() {
        return {pack_rows,  inputs::quantize_rows,     linear_int, linear_float,
                layer_norm, attention_of<Arch>::attend};
    }
};

}  // namespace bitmill::kernels
