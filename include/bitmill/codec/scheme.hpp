// How one tensor's numbers are stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <bitmill/core/dtype.hpp>

namespace bitmill {

enum class scheme_type : std::uint8_t {
    f32,
    f16,
    bf16,
    int8,
    int4,
    nf4,
    fp4,
    int2
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
    unsigned bits;
    bool integer;  // scale and zero_point; else a float or a code book
    bool code_book;
    dtype plain;  // the dtype of a plain float scheme
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
};

[[nodiscard]] constexpr const scheme_facts& facts(scheme_type type) noexcept {
    return scheme_table[static_cast<std::size_t>(type)];
}

// "fp32", "fp16", "bf16": what a float that is stored as it is counts as; "" for any other dtype.
[[nodiscard]] constexpr const char* plain_name(dtype type) noexcept {
    for (const auto& row : scheme_table)
        if (!row.integer && !row.code_book && row.plain == type) return row.name;
    return "";
}

// For reports: "int4 group 128", "int8 per_channel asymmetric", "nf4 block 64 double_quant", "fp16".
[[nodiscard]] inline std::string to_text(const scheme& s) {
    static constexpr const char* names[] = {"per_tensor", "per_channel", "group", "block"};
    std::string out = facts(s.type).name;
    if (!facts(s.type).integer && !facts(s.type).code_book) return out;
    out.append(" ").append(names[static_cast<std::size_t>(s.granularity)]);
    if (s.granularity == granularity::group || s.granularity == granularity::block)
        out.append(" ").append(std::to_string(s.group_size));
    if (!s.symmetric) out.append(" asymmetric");
    if (s.double_quant) out.append(" double_quant");
    if (s.planes) out.append(" planes");
    return out;
}

}  // namespace bitmill
