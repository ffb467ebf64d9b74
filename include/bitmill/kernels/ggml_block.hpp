// The blocks of GGUF's quantized types, taken apart and put together: scalar code on bytes that every kernel table
// and the reference share. Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <bitmill/core/ggml_type.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill::kernels {

enum class ggml_book : std::uint8_t {
    none,
    iq4,
    mxfp4
};

// What a block holds: `elements` codes in sub-blocks of `sub`. x = scale * value - least, with value = code + low, or
// that of a code book. Blocks of one sub-block have an f16 scale (and -least) of their own; the others have one or two
// f16 for all, which the integers of the sub-blocks multiply.
struct ggml_shape {
    unsigned elements;
    unsigned sub;
    int low;  // of the values
    int high;
    bool least;
    int scale_low;  // limits of the integers; 0, 0 where there are none
    int scale_high;
    int least_high;
    unsigned d;  // where the f16 lie in the block
    unsigned dmin;
    ggml_book book;
};

inline constexpr code_book iq4_book{
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, {}, {}};
// E2M1, doubled: the scale of a block is 2^(e - 128).
inline constexpr code_book mxfp4_book{{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}, {}, {}};

// Of a book that is one.
[[nodiscard]] constexpr const code_book& book_of(ggml_book which) {
    return which == ggml_book::iq4 ? iq4_book : mxfp4_book;
}

[[nodiscard]] constexpr ggml_shape shape_of(ggml_type type) {
    switch (type) {
        case ggml_type::q8_0: return {32, 32, -128, 127, false, 0, 0, 0, 0, 0, ggml_book::none};
        case ggml_type::q4_0: return {32, 32, -8, 7, false, 0, 0, 0, 0, 0, ggml_book::none};
        case ggml_type::q5_0: return {32, 32, -16, 15, false, 0, 0, 0, 0, 0, ggml_book::none};
        case ggml_type::q4_1: return {32, 32, 0, 15, true, 0, 0, 0, 0, 2, ggml_book::none};
        case ggml_type::q5_1: return {32, 32, 0, 31, true, 0, 0, 0, 0, 2, ggml_book::none};
        case ggml_type::q2_k: return {256, 16, 0, 3, true, 0, 15, 15, 80, 82, ggml_book::none};
        case ggml_type::q3_k: return {256, 16, -4, 3, false, -32, 31, 0, 108, 0, ggml_book::none};
        case ggml_type::q4_k: return {256, 32, 0, 15, true, 0, 63, 63, 0, 2, ggml_book::none};
        case ggml_type::q5_k: return {256, 32, 0, 31, true, 0, 63, 63, 0, 2, ggml_book::none};
        case ggml_type::q6_k: return {256, 16, -32, 31, false, -128, 127, 0, 208, 0, ggml_book::none};
        case ggml_type::iq4_nl: return {32, 32, 0, 15, false, 0, 0, 0, 0, 0, ggml_book::iq4};
        case ggml_type::iq4_xs: return {256, 32, 0, 15, false, -32, 31, 0, 0, 0, ggml_book::iq4};
        default: return {32, 32, 0, 15, false, 0, 0, 0, 0, 0, ggml_book::mxfp4};
    }
}

// Calls body(std::integral_constant) with the type, so that layouts are known when kernels are compiled.
template <class Body>
inline auto with_ggml_type(ggml_type type, const Body& body) {
#define BITMILL_GGML_CASE(name) \
    case ggml_type::name: return body(std::integral_constant<ggml_type, ggml_type::name>{});
    switch (type) {
        BITMILL_GGML_CASE(q8_0)
        BITMILL_GGML_CASE(q4_0)
        BITMILL_GGML_CASE(q4_1)
        BITMILL_GGML_CASE(q5_0)
        BITMILL_GGML_CASE(q5_1)
        BITMILL_GGML_CASE(q2_k)
        BITMILL_GGML_CASE(q3_k)
        BITMILL_GGML_CASE(q4_k)
        BITMILL_GGML_CASE(q5_k)
        BITMILL_GGML_CASE(q6_k)
        BITMILL_GGML_CASE(iq4_nl)
        BITMILL_GGML_CASE(iq4_xs)
        default: return body(std::integral_constant<ggml_type, ggml_type::mxfp4>{});
    }
#undef BITMILL_GGML_CASE
}

struct ggml_block {
    std::uint16_t d;     // f16; of mxfp4 the exponent byte
    std::uint16_t dmin;  // f16; where there are no sub-blocks it is -least
    std::int16_t scale[16];
    std::int16_t least[16];
    alignas(64) std::uint8_t code[256];
};

namespace ggml {

using byte = std::uint8_t;

[[nodiscard]] inline std::uint16_t load_16(const byte* src) {
    return static_cast<std::uint16_t>(src[0] | src[1] << 8);
}
inline void store_16(std::uint16_t value, byte* dst) {
    dst[0] = static_cast<byte>(value);
    dst[1] = static_cast<byte>(value >> 8);
}

// `Half` bytes: elements [0, Half) in the low nibbles, [Half, 2 Half) in the high ones.
template <std::size_t Half>
inline void unpack_nibbles(const byte* src, byte* code) {
    for (std::size_t i = 0; i < Half; ++i) code[i] = src[i] & 15;
    for (std::size_t i = 0; i < Half; ++i) code[i + Half] = src[i] >> 4;
}
template <std::size_t Half>
inline void pack_nibbles(const byte* code, byte* dst) {
    byte out[Half];
    for (std::size_t i = 0; i < Half; ++i)
        out[i] = static_cast<byte>((code[i] & 15) | (code[i + Half] & 15) << 4);
    __builtin_memcpy(dst, out, Half);
}

// The fifth bits of 32 elements, one bit each. Eight at once, in the bytes of a word: one after the other they took
// two thirds of the time of decoding.
inline void unpack_fifth_bits(const byte* src, byte* code) {
    for (unsigned k = 0; k < 4; ++k) {
        std::uint64_t codes;
        __builtin_memcpy(&codes, code + 8 * k, 8);
        // Bit i in byte i, then 0x80 where it is set.
        const std::uint64_t bits = src[k] * std::uint64_t{0x0101010101010101} & 0x8040201008040201;
        codes |= ((bits + 0x7f7f7f7f7f7f7f7f) & 0x8080808080808080) >> 3;
        __builtin_memcpy(code + 8 * k, &codes, 8);
    }
}
inline void pack_fifth_bits(const byte* code, byte* dst) {
    for (unsigned k = 0; k < 4; ++k) {
        unsigned bits = 0;
        for (unsigned i = 0; i < 8; ++i) bits |= (code[8 * k + i] >> 4 & 1u) << i;
        dst[k] = static_cast<byte>(bits);
    }
}

// Eight 6-bit scales and eight 6-bit mins in 12 bytes: q4_k, q5_k.
inline void unpack_scales_and_mins(const byte* src, ggml_block& b) {
    for (unsigned j = 0; j < 4; ++j) {
        b.scale[j] = src[j] & 63;
        b.least[j] = src[j + 4] & 63;
        b.scale[j + 4] = static_cast<std::int16_t>((src[j + 8] & 15) | (src[j] >> 6) << 4);
        b.least[j + 4] = static_cast<std::int16_t>(src[j + 8] >> 4 | (src[j + 4] >> 6) << 4);
    }
}
inline void pack_scales_and_mins(const ggml_block& b, byte* dst) {
    for (unsigned j = 0; j < 4; ++j) {
        dst[j] = static_cast<byte>(b.scale[j] | (b.scale[j + 4] >> 4) << 6);
        dst[j + 4] = static_cast<byte>(b.least[j] | (b.least[j + 4] >> 4) << 6);
        dst[j + 8] = static_cast<byte>((b.scale[j + 4] & 15) | (b.least[j + 4] & 15) << 4);
    }
}

// Sixteen 6-bit scales, stored + 32, in 12 bytes: q3_k.
inline void unpack_signed_scales(const byte* src, ggml_block& b) {
    for (unsigned k = 0; k < 16; ++k) {
        const int low = k < 8 ? src[k] & 15 : src[k - 8] >> 4;
        const int high = src[8 + k % 4] >> 2 * (k / 4) & 3;
        b.scale[k] = static_cast<std::int16_t>((low | high << 4) - 32);
    }
}
inline void pack_signed_scales(const ggml_block& b, byte* dst) {
    const auto biased = [&](unsigned k) { return static_cast<unsigned>(b.scale[k] + 32); };
    for (unsigned k = 0; k < 8; ++k) dst[k] = static_cast<byte>((biased(k) & 15) | (biased(k + 8) & 15) << 4);
    for (unsigned k = 0; k < 4; ++k)
        dst[8 + k] = static_cast<byte>(biased(k) >> 4 | (biased(k + 4) >> 4) << 2 |
                                       (biased(k + 8) >> 4) << 4 | (biased(k + 12) >> 4) << 6);
}

// Two bits of 256 elements: byte l of half h holds elements l, l + 32, l + 64, l + 96 of it.
inline void unpack_pairs(const byte* src, byte* code) {
    for (unsigned h = 0; h < 2; ++h)
        for (unsigned k = 0; k < 4; ++k)
            for (unsigned l = 0; l < 32; ++l)
                code[128 * h + 32 * k + l] = static_cast<byte>(src[32 * h + l] >> 2 * k & 3);
}
inline void pack_pairs(const byte* code, byte* dst) {
    for (unsigned h = 0; h < 2; ++h) {
        const byte* c = code + 128 * h;
        for (unsigned l = 0; l < 32; ++l)
            dst[32 * h + l] = static_cast<byte>((c[l] & 3) | (c[l + 32] & 3) << 2 | (c[l + 64] & 3) << 4 |
                                                (c[l + 96] & 3) << 6);
    }
}

// One bit of 256 elements: bit j of byte l is that of element 32 j + l, worth `worth`.
inline void unpack_bit(const byte* src, unsigned worth, byte* code) {
    for (unsigned j = 0; j < 8; ++j)
        for (unsigned l = 0; l < 32; ++l)
            code[32 * j + l] = static_cast<byte>(code[32 * j + l] | (src[l] >> j & 1) << worth);
}
inline void pack_bit(const byte* code, unsigned worth, byte* dst) {
    for (unsigned l = 0; l < 32; ++l) dst[l] = 0;
    for (unsigned j = 0; j < 8; ++j)
        for (unsigned l = 0; l < 32; ++l)
            dst[l] = static_cast<byte>(dst[l] | (code[32 * j + l] >> worth & 1) << j);
}

inline void unpack_six_bits(const byte* low, const byte* high, byte* code) {
    for (unsigned h = 0; h < 2; ++h) unpack_nibbles<64>(low + 64 * h, code + 128 * h);
    for (unsigned h = 0; h < 2; ++h)
        for (unsigned k = 0; k < 4; ++k)
            for (unsigned l = 0; l < 32; ++l)
                code[128 * h + 32 * k + l] =
                    static_cast<byte>(code[128 * h + 32 * k + l] | (high[32 * h + l] >> 2 * k & 3) << 4);
}
inline void pack_six_bits(const byte* code, byte* low, byte* high) {
    for (unsigned h = 0; h < 2; ++h) pack_nibbles<64>(code + 128 * h, low + 64 * h);
    byte upper[256];
    for (unsigned i = 0; i < 256; ++i) upper[i] = code[i] >> 4;
    pack_pairs(upper, high);
}

}  // namespace ggml

template <ggml_type Type>
inline void unpack_block(const std::uint8_t* src, ggml_block& b) {
    using namespace ggml;
    constexpr ggml_shape shape = shape_of(Type);
    b.d = load_16(src + shape.d);
    if constexpr (shape.least) b.dmin = load_16(src + shape.dmin);
    if constexpr (Type == ggml_type::q8_0)
        for (unsigned i = 0; i < 32; ++i) b.code[i] = src[2 + i] ^ 0x80;
    if constexpr (Type == ggml_type::q4_0 || Type == ggml_type::iq4_nl) unpack_nibbles<16>(src + 2, b.code);
    if constexpr (Type == ggml_type::q4_1) unpack_nibbles<16>(src + 4, b.code);
    if constexpr (Type == ggml_type::q5_0 || Type == ggml_type::q5_1) {
        constexpr unsigned at = Type == ggml_type::q5_0 ? 2 : 4;
        unpack_nibbles<16>(src + at + 4, b.code);
        unpack_fifth_bits(src + at, b.code);
    }
    if constexpr (Type == ggml_type::mxfp4) {
        b.d = src[0];
        unpack_nibbles<16>(src + 1, b.code);
    }
    if constexpr (Type == ggml_type::q4_k || Type == ggml_type::q5_k) {
        constexpr unsigned at = Type == ggml_type::q4_k ? 16 : 48;
        unpack_scales_and_mins(src + 4, b);
        for (unsigned c = 0; c < 4; ++c) unpack_nibbles<32>(src + at + 32 * c, b.code + 64 * c);
        if constexpr (Type == ggml_type::q5_k) unpack_bit(src + 16, 4, b.code);
    }
    if constexpr (Type == ggml_type::q2_k) {
        for (unsigned j = 0; j < 16; ++j) b.scale[j] = src[j] & 15;
        for (unsigned j = 0; j < 16; ++j) b.least[j] = src[j] >> 4;
        unpack_pairs(src + 16, b.code);
    }
    if constexpr (Type == ggml_type::q3_k) {
        unpack_signed_scales(src + 96, b);
        unpack_pairs(src + 32, b.code);
        unpack_bit(src, 2, b.code);
    }
    if constexpr (Type == ggml_type::q6_k) {
        for (unsigned j = 0; j < 16; ++j) b.scale[j] = static_cast<std::int8_t>(src[192 + j]);
        unpack_six_bits(src, src + 128, b.code);
    }
    if constexpr (Type == ggml_type::iq4_xs) {
        const unsigned high = load_16(src + 2);
        for (unsigned j = 0; j < 8; ++j) {
            const unsigned low = static_cast<unsigned>(src[4 + j / 2] >> 4 * (j % 2)) & 15;
            b.scale[j] = static_cast<std::int16_t>(static_cast<int>(low | (high >> 2 * j & 3) << 4) - 32);
        }
        for (unsigned j = 0; j < 8; ++j) unpack_nibbles<16>(src + 8 + 16 * j, b.code + 32 * j);
    }
}

template <ggml_type Type>
inline void pack_block(const ggml_block& b, std::uint8_t* dst) {
    using namespace ggml;
    constexpr ggml_shape shape = shape_of(Type);
    store_16(b.d, dst + shape.d);
    if constexpr (shape.least) store_16(b.dmin, dst + shape.dmin);
    if constexpr (Type == ggml_type::q8_0)
        for (unsigned i = 0; i < 32; ++i) dst[2 + i] = b.code[i] ^ 0x80;
    if constexpr (Type == ggml_type::q4_0) pack_nibbles<16>(b.code, dst + 2);
    if constexpr (Type == ggml_type::q4_1) pack_nibbles<16>(b.code, dst + 4);
    if constexpr (Type == ggml_type::q5_0 || Type == ggml_type::q5_1) {
        constexpr unsigned at = Type == ggml_type::q5_0 ? 2 : 4;
        pack_nibbles<16>(b.code, dst + at + 4);
        pack_fifth_bits(b.code, dst + at);
    }
    if constexpr (Type == ggml_type::q4_k || Type == ggml_type::q5_k) {
        constexpr unsigned at = Type == ggml_type::q4_k ? 16 : 48;
        pack_scales_and_mins(b, dst + 4);
        for (unsigned c = 0; c < 4; ++c) pack_nibbles<32>(b.code + 64 * c, dst + at + 32 * c);
        if constexpr (Type == ggml_type::q5_k) pack_bit(b.code, 4, dst + 16);
    }
    if constexpr (Type == ggml_type::q2_k) {
        for (unsigned j = 0; j < 16; ++j) dst[j] = static_cast<byte>(b.scale[j] | b.least[j] << 4);
        pack_pairs(b.code, dst + 16);
    }
    if constexpr (Type == ggml_type::q3_k) {
        pack_signed_scales(b, dst + 96);
        pack_pairs(b.code, dst + 32);
        pack_bit(b.code, 2, dst);
    }
    if constexpr (Type == ggml_type::q6_k) {
        for (unsigned j = 0; j < 16; ++j) dst[192 + j] = static_cast<byte>(b.scale[j]);
        pack_six_bits(b.code, dst, dst + 128);
    }
}

// The floats of a block's sub-blocks, in the order of libggml's multiplications.
template <ggml_type Type>
inline void resolve_block(const ggml_block& b, float (&scale)[16], float (&least)[16]) {
    constexpr ggml_shape shape = shape_of(Type);
    if constexpr (Type == ggml_type::mxfp4) {
        const std::uint32_t bits = b.d < 2 ? 0x00200000u << b.d : static_cast<std::uint32_t>(b.d - 1) << 23;
        scale[0] = __builtin_bit_cast(float, bits);
        least[0] = 0;
    } else if constexpr (shape.elements == shape.sub) {
        scale[0] = f32_from_f16(b.d);
        least[0] = 0;
        if constexpr (shape.least) least[0] = -f32_from_f16(b.dmin);
    } else {
        const float d = f32_from_f16(b.d);
        for (unsigned j = 0; j < shape.elements / shape.sub; ++j)
            scale[j] = d * static_cast<float>(b.scale[j]);
        for (float& one : least) one = 0;
        if constexpr (shape.least) {
            const float dmin = f32_from_f16(b.dmin);
            for (unsigned j = 0; j < shape.elements / shape.sub; ++j)
                least[j] = dmin * static_cast<float>(b.least[j]);
        }
    }
}

}  // namespace bitmill::kernels
