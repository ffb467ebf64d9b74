// What a GGUF file asks of the plan: roles by llama.cpp's names, types that fit a row, the keys that change.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include <bitmill/mill/plan.hpp>

namespace bitmill::detail {

// Parts of the names of matrices that llama.cpp computes with in the float type that they have.
inline constexpr std::array<std::string_view, 10> gguf_float_names{
    "_norm.",    "position_embd.", "token_types.",          "ssm_conv1d.", "shortconv.conv.",
    "time_mix_", "attn_rel_b.",    "per_layer_model_proj.", "altup",       "laurel"};

// Matrices, and stacks of them (the experts of a layer).
inline tensor_role gguf_role(std::string_view name, std::size_t rank) {
    if (rank < 2 || !name.ends_with(".weight")) return tensor_role::other;
    for (const auto part : gguf_float_names)
        if (name.find(part) != std::string_view::npos) return tensor_role::other;
    if (name == "token_embd.weight" || name == "per_layer_token_embd.weight") return tensor_role::embedding;
    if (name == "output.weight" || name.starts_with("cls.") || name.starts_with("cls_"))
        return tensor_role::head;
    if (name.find("ffn_gate_inp") != std::string_view::npos) return tensor_role::router;
    return tensor_role::linear;
}

// A GGUF type for each level that users know.
inline scheme_type gguf_type_of(scheme_type level) {
    switch (level) {
        case scheme_type::int8: return scheme_type::q8_0;
        case scheme_type::int4: return scheme_type::q4_k;
        case scheme_type::int2: return scheme_type::q2_k;
        default: return level;
    }
}

// The type that llama.cpp takes instead where a row is no multiple of a block of 256; f16 where even 32 does not
// divide it.
inline scheme_type gguf_fallback(scheme_type type) {
    switch (type) {
        case scheme_type::q2_k:
        case scheme_type::q3_k: return scheme_type::q4_0;
        case scheme_type::q4_k: return scheme_type::q5_0;
        case scheme_type::q5_k: return scheme_type::q5_1;
        case scheme_type::q6_k: return scheme_type::q8_0;
        case scheme_type::iq4_xs: return scheme_type::iq4_nl;
        default: return scheme_type::f16;
    }
}

inline bool gguf_has_minimum(scheme_type type) {
    switch (type) {
        case scheme_type::q4_1:
        case scheme_type::q5_1:
        case scheme_type::q2_k:
        case scheme_type::q4_k:
        case scheme_type::q5_k: return true;
        default: return false;
    }
}

// The value of general.file_type for a file whose matrices mostly have this type; 1 where none says it.
inline std::uint32_t gguf_file_type(scheme_type type) {
    switch (type) {
        case scheme_type::f32: return 0;
        case scheme_type::q4_0: return 2;
        case scheme_type::q4_1: return 3;
        case scheme_type::q8_0: return 7;
        case scheme_type::q5_0: return 8;
        case scheme_type::q5_1: return 9;
        case scheme_type::q2_k: return 10;
        case scheme_type::q3_k: return 11;
        case scheme_type::q4_k: return 14;
        case scheme_type::q5_k: return 16;
        case scheme_type::q6_k: return 18;
        case scheme_type::bf16: return 32;
        default: return 1;
    }
}

}  // namespace bitmill::detail
