// Integers of 8, 4 or 2 bits in words of 32, as compressed-tensors, GPTQ and AWQ order them, and in blocks of
// GGUF.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/io/checkpoint.hpp>
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

// How the integers of a coded weight lie and how many columns share a scale; why they cannot be moved, or "".
// With `bytes` those of int-quantized compressed-tensors may lie one in a byte: as packed_rows, but for the
// upper bit.
inline std::string find_integers(const stored_tensor& t, bool bytes, packed_integers& from,
                                 std::uint64_t& group) {
    if (t.elements == 0 || t.shape.size() != 2) return "it is no matrix of weights";
    from.bits = t.scheme ? facts(t.scheme->type).bits : t.foreign->bits;
    from.out = t.shape[0];
    from.in = t.shape[1];
    if (t.scheme) {
        const scheme& s = *t.scheme;
        const bool packed = s.offset_binary && s.row_alignment == 4;
        if (!facts(s.type).integer || !s.symmetric || s.planes ||
            !(packed || (bytes && from.bits == 8 && from.in % 4 == 0)))
            return "it lies as " + stored_as(t) + ", not as symmetric integers packed in words";
        if (s.granularity == granularity::per_tensor) return "one scale serves all rows";
        group = s.granularity == granularity::group ? s.group_size : from.in;
    } else {
        const foreign_codes& f = *t.foreign;
        if (f.codes == packed_integers::order::bytes)
            return "it lies as " + stored_as(t) + ", a code in a byte";
        if (f.g_idx) return "its groups are in another order (act-order)";
        from.codes = f.codes;
        from.zeros = f.zeros;
        from.by_group = f.by_group;
        group = std::min(f.col_block, from.in);
        if (from.in % group != 0) return "its last group is short";
    }
    from.groups = from.in / group;
    return {};
}

// A tensor of words or scales, whole.
inline result<const std::byte*> load_whole(const checkpoint& model, checkpoint::location at,
                                           element_buffer& buffer) {
    const auto& file = model.shard(at.shard);
    const tensor_info info = file[at.tensor];
    std::byte* bytes = grow(buffer, info.bytes);
    auto done = file.read(info, 0, {bytes, static_cast<std::size_t>(info.bytes)});
    if (!done) return done.error();
    return static_cast<const std::byte*>(bytes);
}

// `type` is F32, F16 or BF16.
inline float float_at(dtype type, const std::byte* bytes, std::uint64_t index) {
    if (type == dtype::f32) {
        float value;
        std::memcpy(&value, bytes + index * 4, 4);
        return value;
    }
    std::uint16_t half;
    std::memcpy(&half, bytes + index * 2, 2);
    return type == dtype::f16 ? f32_from_f16(half) : f32_from_bf16(half);
}

inline bool fits_f16(float value) {
    const float half = f32_from_f16(f16_from_f32(value));
    return std::memcmp(&value, &half, sizeof value) == 0;
}

inline std::string not_finite(float scale, std::uint64_t row, std::uint64_t group) {
    return std::string("its scale of row ") + std::to_string(row) + ", group " + std::to_string(group) +
           " is " + (std::isnan(scale) ? "NaN" : "infinite") +
           ": no weight is coded like that; quantize the model anew";
}

inline constexpr std::uint64_t gguf_block = 32;

// A row of blocks of 32: `code(c)` gives code c as stored words do, upwards from 0, and scale(c) its scale.
template <class Code, class Scale>
void put_blocks(unsigned bits, std::uint64_t cols, const Code& code, const Scale& scale, std::uint8_t* to) {
    for (std::uint64_t first = 0; first < cols; first += gguf_block) {
        const std::uint16_t half = f16_from_f32(scale(first));
        std::memcpy(to, &half, 2);
        to += 2;
        if (bits == 8) {
            for (std::uint64_t k = 0; k < 32; ++k) *to++ = static_cast<std::uint8_t>(code(first + k) ^ 0x80u);
        } else {
            for (std::uint64_t k = 0; k < 16; ++k)
                *to++ = static_cast<std::uint8_t>(code(first + k) | code(first + k + 16) << 4);
        }
    }
}

// Code `c` of a row of blocks, upwards from 0.
inline std::uint32_t code_of_blocks(unsigned bits, const std::uint8_t* row, std::uint64_t c) {
    const std::uint8_t* codes = row + c / gguf_block * (2 + gguf_block * bits / 8) + 2;
    const std::uint64_t k = c % gguf_block;
    if (bits == 8) return codes[k] ^ 0x80u;
    return k < 16 ? codes[k] & 15u : static_cast<std::uint32_t>(codes[k - 16] >> 4);
}

}  // namespace bitmill::detail
