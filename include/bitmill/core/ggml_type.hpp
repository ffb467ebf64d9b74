// The element types of GGUF: blocks of consecutive elements of a row, each with its own scales.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <bitmill/core/dtype.hpp>

namespace bitmill {

// With the numbers that files hold.
enum class ggml_type : std::uint32_t {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    iq4_nl = 20,
    iq4_xs = 23,
    i8 = 24,
    i16 = 25,
    i32 = 26,
    i64 = 27,
    f64 = 28,
    bf16 = 30,
    mxfp4 = 39,
};

struct ggml_facts {
    ggml_type type;
    std::string_view name;  // as gguf-py and llama.cpp spell it
    std::uint32_t block_elements;
    std::uint32_t block_bytes;
};

inline constexpr ggml_facts ggml_table[] = {
    {ggml_type::f32, "F32", 1, 4},         {ggml_type::f16, "F16", 1, 2},
    {ggml_type::q4_0, "Q4_0", 32, 18},     {ggml_type::q4_1, "Q4_1", 32, 20},
    {ggml_type::q5_0, "Q5_0", 32, 22},     {ggml_type::q5_1, "Q5_1", 32, 24},
    {ggml_type::q8_0, "Q8_0", 32, 34},     {ggml_type::q2_k, "Q2_K", 256, 84},
    {ggml_type::q3_k, "Q3_K", 256, 110},   {ggml_type::q4_k, "Q4_K", 256, 144},
    {ggml_type::q5_k, "Q5_K", 256, 176},   {ggml_type::q6_k, "Q6_K", 256, 210},
    {ggml_type::iq4_nl, "IQ4_NL", 32, 18}, {ggml_type::iq4_xs, "IQ4_XS", 256, 136},
    {ggml_type::i8, "I8", 1, 1},           {ggml_type::i16, "I16", 1, 2},
    {ggml_type::i32, "I32", 1, 4},         {ggml_type::i64, "I64", 1, 8},
    {ggml_type::f64, "F64", 1, 8},         {ggml_type::bf16, "BF16", 1, 2},
    {ggml_type::mxfp4, "MXFP4", 32, 17},
};

// nullptr for a number that no type of this version has.
[[nodiscard]] constexpr const ggml_facts* find_ggml_facts(std::uint32_t number) noexcept {
    for (const auto& row : ggml_table)
        if (static_cast<std::uint32_t>(row.type) == number) return &row;
    return nullptr;
}
[[nodiscard]] constexpr const ggml_facts& facts(ggml_type type) noexcept {
    return *find_ggml_facts(static_cast<std::uint32_t>(type));
}

// The type of plain numbers that a dtype is; empty where GGUF has none.
[[nodiscard]] constexpr std::optional<ggml_type> ggml_type_of(dtype type) noexcept {
    for (const auto& row : ggml_table)
        if (row.block_elements == 1 && row.name == facts(type).name) return row.type;
    return std::nullopt;
}

}  // namespace bitmill
