// Element types: the 22 of the safetensors specification, in the order of its reference writer (which
// sorts tensors by it, largest alignment first).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bitmill {

enum class dtype : std::uint8_t {
    boolean,
    f4,
    f6_e2m3,
    f6_e3m2,
    u8,
    i8,
    f8_e5m2,
    f8_e4m3,
    f8_e8m0,
    f8_e4m3fnuz,
    f8_e5m2fnuz,
    i16,
    u16,
    f16,
    bf16,
    i32,
    u32,
    f32,
    c64,
    f64,
    i64,
    u64,
};

struct dtype_facts {
    dtype type;
    std::string_view name;   // as safetensors spells it
    std::string_view torch;  // as config.json and torch spell it; empty where torch has no such type
    unsigned bits;
    bool weight;  // a float that bitmill can mill: f16 bf16 f32 f64
};

inline constexpr std::array<dtype_facts, 22> dtype_table{{
    {dtype::boolean, "BOOL", "bool", 8, false},
    {dtype::f4, "F4", "float4_e2m1fn_x2", 4, false},
    {dtype::f6_e2m3, "F6_E2M3", "", 6, false},
    {dtype::f6_e3m2, "F6_E3M2", "", 6, false},
    {dtype::u8, "U8", "uint8", 8, false},
    {dtype::i8, "I8", "int8", 8, false},
    {dtype::f8_e5m2, "F8_E5M2", "float8_e5m2", 8, false},
    {dtype::f8_e4m3, "F8_E4M3", "float8_e4m3fn", 8, false},
    {dtype::f8_e8m0, "F8_E8M0", "float8_e8m0fnu", 8, false},
    {dtype::f8_e4m3fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz", 8, false},
    {dtype::f8_e5m2fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz", 8, false},
    {dtype::i16, "I16", "int16", 16, false},
    {dtype::u16, "U16", "uint16", 16, false},
    {dtype::f16, "F16", "float16", 16, true},
    {dtype::bf16, "BF16", "bfloat16", 16, true},
    {dtype::i32, "I32", "int32", 32, false},
    {dtype::u32, "U32", "uint32", 32, false},
    {dtype::f32, "F32", "float32", 32, true},
    {dtype::c64, "C64", "complex64", 64, false},
    {dtype::f64, "F64", "float64", 64, true},
    {dtype::i64, "I64", "int64", 64, false},
    {dtype::u64, "U64", "uint64", 64, false},
}};

[[nodiscard]] constexpr const dtype_facts& facts(dtype type) noexcept {
    return dtype_table[static_cast<std::size_t>(type)];
}

// Case-sensitive, as the specification is.
[[nodiscard]] constexpr std::optional<dtype> dtype_from_name(std::string_view name) noexcept {
    for (const auto& row : dtype_table)
        if (row.name == name) return row.type;
    return std::nullopt;
}

// Bytes of one element; 0 for the sub-byte types.
[[nodiscard]] constexpr std::size_t element_bytes(dtype type) noexcept { return facts(type).bits / 8; }

}  // namespace bitmill
