// How one tensor's numbers are stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <bitmill/core/dtype.hpp>
#include <bitmill/core/ggml_type.hpp>

namespace bitmill {

enum class scheme_type : std::uint8_t {
    f32,
    f16,
    bf16,
    int8,
    int4,
    nf4,
    fp4,
    int2,
    // Blocks of GGUF: scales and codes of 32 or 256 elements of a row lie together in `codes`. ggml_scheme() makes
    // their scheme.
    q8_0,
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    iq4_nl,
    iq4_xs,
    mxfp4
};

enum class granularity : std::uint8_t {
    per_tensor,   // one scale
    per_channel,  // one scale a row (an output of a Linear)
    group,        // one scale for every group_size elements along a row (the input)
    block,        // one scale for every group_size elements of the flattened tensor (nf4, fp4)
};

// How scales and codes are chosen: `absmax` from the largest magnitude (asymmetric: from min and max), `mse` by
// a least-squares search over trial scales.
enum class method : std::uint8_t {
    absmax,
    mse
};

struct scheme {
    scheme_type type = scheme_type::int8;
    bitmill::granularity granularity = granularity::per_channel;
    std::size_t group_size = 0;      // for group and block
    bool symmetric = true;           // integers; int2 is meant to be asymmetric
    bool double_quant = false;       // nf4, fp4: the absmax values are themselves stored in 8 bits
    dtype scale_dtype = dtype::f32;  // integers: f32, f16 or bf16
    bool offset_binary = false;      // int8 bytes hold q + 128 instead of two's complement
    std::size_t row_alignment = 1;   // integers: every row of codes is filled with 0 to this many bytes
    // int8 as two planes of 4 bits, each laid out as int4 codes are: with scale s the base plane alone is an int4
    // matrix (hi * s), with the residual plane it is an int8 one ((16 hi + lo) * s / 16, codes of -128 to 119).
    // Symmetric, not per_tensor, scale_dtype f16 or bf16.
    bool planes = false;

    friend bool operator==(const scheme&, const scheme&) = default;
};

// Facts about each type, in the order of scheme_type.
struct scheme_facts {
    scheme_type type;
    const char* name;
    unsigned bits;  // of a code; scales come on top
    bool integer;   // scale and zero_point; else a float or a code book
    bool code_book;
    dtype plain;  // the dtype of a plain float scheme
    const ggml_facts* ggml = nullptr;
    bool encodes = true;  // else it is only read
};

inline constexpr scheme_facts scheme_table[] = {
    {scheme_type::f32, "fp32", 32, false, false, dtype::f32},
    {scheme_type::f16, "fp16", 16, false, false, dtype::f16},
    {scheme_type::bf16, "bf16", 16, false, false, dtype::bf16},
    {scheme_type::int8, "int8", 8, true, false, dtype::i8},
    {scheme_type::int4, "int4", 4, true, false, dtype::u8},
    {scheme_type::nf4, "nf4", 4, false, true, dtype::u8},
    {scheme_type::fp4, "fp4", 4, false, true, dtype::u8},
    {scheme_type::int2, "int2", 2, true, false, dtype::u8},
    {scheme_type::q8_0, "q8_0", 8, false, false, dtype::u8, &facts(ggml_type::q8_0)},
    {scheme_type::q4_0, "q4_0", 4, false, false, dtype::u8, &facts(ggml_type::q4_0)},
    {scheme_type::q4_1, "q4_1", 4, false, false, dtype::u8, &facts(ggml_type::q4_1)},
    {scheme_type::q5_0, "q5_0", 5, false, false, dtype::u8, &facts(ggml_type::q5_0)},
    {scheme_type::q5_1, "q5_1", 5, false, false, dtype::u8, &facts(ggml_type::q5_1)},
    {scheme_type::q2_k, "q2_k", 2, false, false, dtype::u8, &facts(ggml_type::q2_k)},
    {scheme_type::q3_k, "q3_k", 3, false, false, dtype::u8, &facts(ggml_type::q3_k)},
    {scheme_type::q4_k, "q4_k", 4, false, false, dtype::u8, &facts(ggml_type::q4_k)},
    {scheme_type::q5_k, "q5_k", 5, false, false, dtype::u8, &facts(ggml_type::q5_k)},
    {scheme_type::q6_k, "q6_k", 6, false, false, dtype::u8, &facts(ggml_type::q6_k)},
    {scheme_type::iq4_nl, "iq4_nl", 4, false, false, dtype::u8, &facts(ggml_type::iq4_nl), false},
    {scheme_type::iq4_xs, "iq4_xs", 4, false, false, dtype::u8, &facts(ggml_type::iq4_xs), false},
    {scheme_type::mxfp4, "mxfp4", 4, false, false, dtype::u8, &facts(ggml_type::mxfp4), false},
};

[[nodiscard]] constexpr const scheme_facts& facts(scheme_type type) noexcept {
    return scheme_table[static_cast<std::size_t>(type)];
}

// Whether a matrix of it can only be cut between rows; others are cut between elements of the flattened tensor.
[[nodiscard]] constexpr bool codes_rows(scheme_type type) noexcept {
    return facts(type).integer || facts(type).ggml != nullptr;
}
// A float dtype as it is.
[[nodiscard]] constexpr bool is_plain(scheme_type type) noexcept {
    return !codes_rows(type) && !facts(type).code_book;
}

// "fp32", "fp16", "bf16": what a float that is stored as it is counts as; "" for any other dtype.
[[nodiscard]] constexpr const char* plain_name(dtype type) noexcept {
    for (const auto& row : scheme_table)
        if (is_plain(row.type) && row.plain == type) return row.name;
    return "";
}

// The scheme of a type of GGUF: groups of a block's elements along a row; nothing else of it can be chosen.
[[nodiscard]] constexpr scheme ggml_scheme(scheme_type type) noexcept {
    scheme s;
    s.type = type;
    s.granularity = granularity::group;
    s.group_size = facts(type).ggml->block_elements;
    return s;
}
// The scheme_type of a type of GGUF that is coded in blocks; empty for its plain numbers.
[[nodiscard]] constexpr std::optional<scheme_type> scheme_type_of(ggml_type type) noexcept {
    for (const auto& row : scheme_table)
        if (row.ggml != nullptr && row.ggml->type == type) return row.type;
    return std::nullopt;
}

// For reports: "int4 group 128", "int8 per_channel asymmetric", "nf4 block 64 double_quant", "fp16".
[[nodiscard]] inline std::string to_text(const scheme& s) {
    static constexpr const char* names[] = {"per_tensor", "per_channel", "group", "block"};
    std::string out = facts(s.type).name;
    if (!facts(s.type).integer && !facts(s.type).code_book) return out;  // a block of GGUF is its name
    out.append(" ").append(names[static_cast<std::size_t>(s.granularity)]);
    if (s.granularity == granularity::group || s.granularity == granularity::block)
        out.append(" ").append(std::to_string(s.group_size));
    if (!s.symmetric) out.append(" asymmetric");
    if (s.double_quant) out.append(" double_quant");
    if (s.planes) out.append(" planes");
    return out;
}

}  // namespace bitmill
