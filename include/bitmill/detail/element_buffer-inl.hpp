// Scratch for elements of any dtype, from the host's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/memory.hpp>

namespace bitmill::detail {

// In units of 8 bytes: no dtype is aligned more strictly, and of single bytes a host may align none.
using element_buffer = std::pmr::vector<std::uint64_t>;

// Room for `bytes`; the old content is gone where it has to grow.
inline std::byte* grow(element_buffer& buffer, std::uint64_t bytes) {
    const auto units = static_cast<std::size_t>(ceil_div(bytes, sizeof(std::uint64_t)));
    if (buffer.size() < units) buffer = element_buffer(units, buffer.get_allocator());
    return reinterpret_cast<std::byte*>(buffer.data());
}

}  // namespace bitmill::detail
