// Integers of 8, 4 or 2 bits in words of 32, as compressed-tensors, GPTQ and AWQ order them.
#pragma once

#include <algorithm>

#include <bitmill/core/checked.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

struct packed_integers {
    using order = foreign_codes::order;
    using zero_points = foreign_codes::zero_points;

    order codes = order::packed_rows;
    zero_points zeros = zero_points::none;
    unsigned bits = 4;
    bool by_group = false;  // scales are [groups, out]
    std::uint64_t out = 0, in = 0, groups = 0;

    struct place {
        std::uint64_t word;
        std::uint64_t shift;
    };

    [[nodiscard]] std::uint64_t pack() const { return 32 / bits; }
    [[nodiscard]] std::uint32_t mask() const { return (1u << bits) - 1; }
    [[nodiscard]] std::uint32_t middle() const { return 1u << (bits - 1); }
    [[nodiscard]] std::uint64_t code_words() const {
        if (codes == order::packed_rows) return out * ceil_div(in, pack());
        return codes == order::gptq ? in / pack() * out : in * (out / 8);
    }
    [[nodiscard]] std::uint64_t zero_words() const {
        if (zeros == zero_points::none) return 0;
        return groups * (zeros == zero_points::packed_out ? ceil_div(out, pack()) : out / pack());
    }
    [[nodiscard]] place code_at(std::uint64_t r, std::uint64_t c) const {
        switch (codes) {
            case order::gptq: return {c / pack() * out + r, c % pack() * bits};
            case order::awq: return {c * (out / 8) + r / 8, nibble(r % 8) * 4};
            default: return {r * ceil_div(in, pack()) + c / pack(), c % pack() * bits};
        }
    }
    [[nodiscard]] place zero_at(std::uint64_t r, std::uint64_t g) const {
        if (zeros == zero_points::packed_out) return {r / pack() * groups + g, r % pack() * bits};
        const std::uint64_t word = g * (out / pack()) + r / pack();
        return {word, zeros == zero_points::awq ? nibble(r % 8) * 4 : r % pack() * bits};
    }
    [[nodiscard]] std::uint64_t scale_at(std::uint64_t r, std::uint64_t g) const {
        return by_group ? g * out + r : r * groups + g;
    }

    // `words` may be nullptr where there are none.
    [[nodiscard]] std::uint32_t zero(const std::uint32_t* words, std::uint64_t r, std::uint64_t g) const {
        if (zeros == zero_points::none) return middle();
        const auto [at, shift] = zero_at(r, g);
        if (zeros != zero_points::gptq_v1) return words[at] >> shift & mask();
        // Readers add 1 to every field in one addition of words, which may carry.
        const std::uint64_t ones = 0xffffffffu / mask();
        return static_cast<std::uint32_t>((words[at] + ones) >> shift) & mask();
    }
    // Into words that are 0. Version 1 cannot say 0.
    void put_zero(std::uint32_t* words, std::uint64_t r, std::uint64_t g, std::uint32_t value) const {
        const auto [at, shift] = zero_at(r, g);
        words[at] |= (zeros == zero_points::gptq_v1 ? value - 1 : value) << shift;
    }

private:
    // Of AWQ's column k of eight.
    [[nodiscard]] static std::uint64_t nibble(std::uint64_t k) { return k % 2 * 4 + k / 2; }
};

inline void repack_codes(const packed_integers& from, const std::uint32_t* src, const packed_integers& to,
                         std::uint32_t* dst) {
    std::fill_n(dst, to.code_words(), 0u);
    for (std::uint64_t r = 0; r < from.out; ++r)
        for (std::uint64_t c = 0; c < from.in; ++c) {
            const auto [at, shift] = from.code_at(r, c);
            const auto [to_at, to_shift] = to.code_at(r, c);
            dst[to_at] |= (src[at] >> shift & from.mask()) << to_shift;
        }
}

}  // namespace bitmill::detail
