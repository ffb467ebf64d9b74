// Which types of GGUF stand for levels and for each other.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>

#include <bitmill/codec/scheme.hpp>

namespace bitmill::detail {

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
