// The vector source of the kernels that run layers; see layer_table.hpp for what they compute.
#pragma once

#include <bitmill/kernels/attention_simd.hpp>
#include <bitmill/kernels/layer_few.hpp>
#include <bitmill/kernels/layer_functions.hpp>
#include <bitmill/kernels/layer_tile.hpp>

namespace bitmill::kernels {

template <class Arch>
struct layers_of {
    using p = primitives<Arch>;
    using f = functions_of<Arch>;
    using lanes = f32x16<Arch>;
    using ints = xsimd::batch<std::int32_t, Arch>;

    // --- activations -----------------------------------------------------------------------------------------
    static BITMILL_FLATTEN lanes load_some(const float* src, std::size_t count) {
        return count >= 16 ? load<Arch>(src) : load_first<Arch>(src, count);
    }

    // A group of a row; of a whole one, the usual, the loops are unrolled.
    template <std::size_t Count>
    struct row_group {
        const float* src;
        std::size_t given;

        [[nodiscard]] BITMILL_FLATTEN lanes at(std::size_t i) const {
            if constexpr (Count != 0)
                return load<Arch>(src + i);
            else
                return load_some(src + i, given - i);
        }
        template <class Body>
        BITMILL_FLATTEN void for_each_16(const Body& body) const {
            if constexpr (Count != 0)
                repeat<Count / 16>([&](auto i) BITMILL_FLAT { body(16 * i); });
            else
                for (std::size_t i = 0; i < given; i += 16) body(i);
        }
        [[nodiscard]] BITMILL_FLATTEN std::uint32_t absmax_bits() const {
            typename p::absmax most;
            for_each_16([&](std::size_t i) BITMILL_FLAT {
                __builtin_prefetch(src + i + 2 * activation_group);
                most.add(at(i));
            });
            return most.bits();
        }
        // The codes, 0 up to the next multiple of 16, and their sums.
        BITMILL_FLATTEN void quantize(float inverse, std::int8_t* dst, std::int32_t* sums) const {
            const std::size_t count = Count != 0 ? Count : given;
            if (inverse == 0) {
                __builtin_memset(dst, 0, (count + 15) / 16 * 16);
                __builtin_memset(sums, 0, (count + sum_group - 1) / sum_group * sizeof(*sums));
                return;
            }
            lanes sum = spread<Arch>(0);
            for_each_16([&](std::size_t i) BITMILL_FLAT {
                const lanes q = round_small(at(i) * spread<Arch>(inverse));
                p::store_bytes(p::flip(p::to_bytes(q + spread<Arch>(128)), 0x80),
                               reinterpret_cast<std::uint8_t*>(dst) + i);
                sum = i % sum_group == 0 ? q : sum + q;
                if (i % sum_group == 16 || i + 16 >= count)
                    sums[i / sum_group] = static_cast<std::int32_t>(p::fold(sum));
            });
        }
    };

    // A group of all rows of a block. One row after the other would wait for each absmax and for its division.
    template <std::size_t Count>
    static void quantize_groups(const float* src, std::size_t stride, std::size_t rows, std::size_t count,
                                std::int8_t (*codes)[activation_group], float* scales,
                                std::size_t scale_stride, std::int32_t* sums, std::size_t sum_stride) {
        float inverse[row_block];
        for (std::size_t m = 0; m < rows; ++m) {
            const std::uint32_t bits = row_group<Count>{src + m * stride, count}.absmax_bits();
            const float most = __builtin_bit_cast(float, bits);
            const bool finite = bits < 0x7f800000u;
            const bool some = finite && most >= least_activation;
            scales[m * scale_stride] = !finite ? __builtin_nanf("") : some ? most / 127.0f : 0.0f;
            inverse[m] = some ? 127.0f / most : 0.0f;
        }
        for (std::size_t m = 0; m < rows; ++m)
            row_group<Count>{src + m * stride, count}.quantize(inverse[m], codes[m], sums + m * sum_stride);
    }

    // The codes of a group of all rows of a block, four bytes of each row in turn.
    static void interleave(const std::int8_t (*codes)[activation_group], std::size_t rows, std::size_t count,
                           std::int8_t* dst) {
        std::size_t m = 0;
        for (; m + 4 <= rows; m += 4)
            for (std::size_t k = 0; k < count; k += 16)
                turn_four(codes[m] + k, activation_group, dst + k * rows + 4 * m, 4 * rows);
        for (; m < rows; ++m)
            for (std::size_t k = 0; k < count; k += 4)
                __builtin_memcpy(dst + k * rows + 4 * m, codes[m] + k, 4);
    }

    static void quantize_rows(const float* src, std::size_t stride, std::size_t rows, std::size_t depth,
                              std::int8_t* codes, float* scales, std::int32_t* sums) {
        const std::size_t groups = (depth + activation_group - 1) / activation_group;
        const std::size_t summed = (depth + sum_group - 1) / sum_group;
        alignas(64) std::int8_t group[row_block][activation_group];
        for (std::size_t g = 0; g < groups; ++g) {
            const std::size_t k = g * activation_group;
            const std::size_t count = depth - k < activation_group ? depth - k : activation_group;
            const auto quantize =
                count == activation_group ? quantize_groups<activation_group> : quantize_groups<0>;
            quantize(src + k, stride, rows, count, group, scales + g, groups, sums + k / sum_group, summed);
            interleave(group, rows, (count + 15) / 16 * 16, codes + k * rows);
        }
    }

    // --- weights of one run ------------------------------------------------------------------------------------
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
                if constexpr (Type == panel_type::u8) {
                    put_codes<Element>(all, dst, s, i);
                } else if constexpr (Type == panel_type::u4) {
                    put_codes<Element>(pick(all, 0, 0x0f0f0f0f), dst, 2 * s, i);
                    put_codes<Element>(pick(all, 4, 0x0f0f0f0f), dst, 2 * s + 1, i);
                } else if constexpr (Type == panel_type::u2) {
                    put_codes<Element>(pick(all, 0, 0x03030303), dst, 4 * s, i);
                    put_codes<Element>(pick(all, 2, 0x03030303), dst, 4 * s + 1, i);
                    put_codes<Element>(pick(all, 4, 0x03030303), dst, 4 * s + 2, i);
                    put_codes<Element>(pick(all, 6, 0x03030303), dst, 4 * s + 3, i);
                } else {
                    const ints low = ints::load_unaligned(
                        reinterpret_cast<const std::int32_t*>(rest + s * 64) + i * ints::size);
                    const ints base_first = (all << 4) & ints(static_cast<std::int32_t>(0xf0f0f0f0));
                    const ints base_second = all & ints(static_cast<std::int32_t>(0xf0f0f0f0));
                    put_codes<Element>(base_first | pick(low, 0, 0x0f0f0f0f), dst, 2 * s, i);
                    put_codes<Element>(base_second | pick(low, 4, 0x0f0f0f0f), dst, 2 * s + 1, i);
                }
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
            const lanes bias = c.bias != nullptr ? load_some(c.bias + column, n) : spread<Arch>(0);
            for (std::size_t r = 0; r < rows; ++r) {
                const std::size_t row = first_row + r;
                lanes y = load<Arch>(sums + (r * panels_done + i) * panel_columns);
                if (c.bias != nullptr) y = y + bias;
                if (c.activation != activation_function::none) y = f::activate(y, c.activation);
                if (c.residual != nullptr)
                    y = y + load_some(c.residual + row * c.residual_stride + column, n);
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
                    values[i] = row == 0 || direct ? values_of(w, run, panel + i, mine) : mine;
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
                find_centres<Dot>(codes + block * out.padded, left < row_block ? left : row_block, w.depth, depth,
                                  out.centres + block * out.flushes);
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

    template <class Dot, std::size_t Most, std::size_t P, bool Zeros>
    static void dot_panels(const linear_call& c, const span_of_rows& span, const staged_rows<Dot>& rows,
                           std::size_t panel, std::byte* scratch) {
        const panels& w = *c.weights;
        const std::size_t groups = (w.depth + activation_group - 1) / activation_group;
        using element = typename Dot::x_element;
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
                    else
                        codes[i] = row == 0 ? codes_of<element>(w, run, panel + i, mine) : mine;
                    const std::size_t index = run.scales_of(panel + i);
                    scale[i] = load<Arch>(w.scales + index);
                    zero[i] = spread<Arch>(0);
                    if constexpr (Zeros)
                        zero[i] = load<Arch>(w.zeros + index) - spread<Arch>(static_cast<float>(Dot::offset));
                });
                typename Dot::sum sum[R * P];
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
                if (span.count <= Dot::few_rows && c.weights->type == panel_type::u8)
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
        for (std::size_t i = 0; i < count; i += 16) sum = sum + load_some(src + i, count - i);
        const lanes mean = spread<Arch>(p::fold(sum) / size);
        lanes squares = spread<Arch>(0);
        for (std::size_t i = 0; i < count; i += 16) {
            const std::size_t n = count - i < 16 ? count - i : 16;
            const lanes x = first_lanes(load_some(src + i, n) - mean, n);
            squares = squares + x * x;
        }
        const lanes factor = spread<Arch>(1.0f / __builtin_sqrtf(p::fold(squares) / size + epsilon));
        for (std::size_t i = 0; i < count; i += 16) {
            const std::size_t n = count - i < 16 ? count - i : 16;
            const lanes x = (load_some(src + i, n) - mean) * factor;
            const lanes y = fused(x, load_some(weight + i, n), load_some(bias + i, n));
            n == 16 ? store(y, dst + i) : store_first(y, n, dst + i);
        }
    }

    static constexpr layer_table make() {
        return {pack_rows, quantize_rows, linear_int, linear_float, layer_norm, attention_of<Arch>::attend};
    }
};

}  // namespace bitmill::kernels
