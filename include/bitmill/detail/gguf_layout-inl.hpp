// Sizes and places of tensors in a GGUF file, for the reader and the writer.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/ggml_type.hpp>
#include <bitmill/detail/safetensors_table-inl.hpp>
#include <bitmill/io/gguf.hpp>

namespace bitmill::detail {

inline bool is_alignment(std::uint32_t value) noexcept {
    return std::has_single_bit(value) && value <= gguf_max_alignment;
}

// alignment must not be 0.
inline maybe_u64 align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
    return checked_mul(ceil_div(value, alignment), alignment);
}

// On an error the problem alone is set.
struct gguf_size {
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
    std::string problem{};
};

// shape: in elements, the contiguous dimension last. llama.cpp counts elements in an int64, and numpy, which gguf-py
// reads with, the bytes that the other dimensions span where one is 0.
inline gguf_size measure(const ggml_facts& row, std::span<const std::uint64_t> shape) {
    constexpr std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
    gguf_size size;
    const maybe_u64 elements = tensor_elements(shape);
    maybe_u64 span = sizeof(double);
    for (const std::uint64_t dimension : shape)
        span = span ? checked_mul(*span, std::max<std::uint64_t>(dimension, 1)) : span;
    if (!elements || *elements > limit || (*elements == 0 && (!span || *span > limit))) {
        size.problem = "shape " + shape_text(shape) + " has more elements than 63 bits can count";
        return size;
    }
    const std::uint64_t along = shape.empty() ? 1 : shape.back();
    if (along % row.block_elements != 0) {
        size.problem = "rows of " + std::to_string(along) + " elements are not whole blocks of " +
                       std::string(row.name) + ", which has " + std::to_string(row.block_elements);
        return size;
    }
    const maybe_u64 bytes = checked_mul(*elements / row.block_elements, row.block_bytes);
    if (!bytes) {
        size.problem = "shape " + shape_text(shape) + " has more bytes than 64 bits can count";
        return size;
    }
    size.elements = *elements;
    size.bytes = *bytes;
    return size;
}

}  // namespace bitmill::detail
