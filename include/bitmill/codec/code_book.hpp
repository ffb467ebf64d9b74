// The 16 values of nf4 and fp4 (Dettmers et al. 2023, QLoRA; tables of bitsandbytes 0.50) and the 256 of the
// dynamic map that stores absmax values in 8 bits (double quantization).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/config.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill {

// type: nf4 or fp4.
[[nodiscard]] const kernels::code_book& book_of(scheme_type type) noexcept;

// Ascending; 256 values in [-0.993, 1].
[[nodiscard]] const std::array<float, 256>& dynamic_map() noexcept;

inline constexpr std::size_t nested_block = 256;

// absmax - offset, in blocks of 256, to codes of the dynamic map. nested_absmax holds one f32 a block.
void encode_nested(std::span<const float> absmax, float offset, std::uint8_t* codes, float* nested_absmax);
// map[code] * nested_absmax + offset.
void decode_nested(std::span<const std::uint8_t> codes, const float* nested_absmax, float offset,
                   float* absmax);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/code_book-inl.hpp>
#endif
