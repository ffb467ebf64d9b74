// Rows of floats as 8-bit integers, in the order that dot products read; see quantize_rows in layer_table.hpp.
#pragma once

#include <bitmill/kernels/layer_tile.hpp>

namespace bitmill::kernels {

template <class Arch>
struct inputs_of {
    using p = primitives<Arch>;
    using lanes = f32x16<Arch>;

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
};

}  // namespace bitmill::kernels
