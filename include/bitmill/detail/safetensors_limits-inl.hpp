// What io/safetensors.hpp and the readers of its JSON both need.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitmill {

// Limits beyond the specification, for readers and writers alike. (A header over 100 MB is refused by the
// reference reader too.)
inline constexpr std::uint64_t safetensors_max_header_bytes = 100'000'000;
inline constexpr std::size_t safetensors_max_tensors = std::size_t{1} << 20;
inline constexpr std::size_t safetensors_max_rank = 8;
inline constexpr std::size_t safetensors_max_name_bytes = 1024;

}  // namespace bitmill
