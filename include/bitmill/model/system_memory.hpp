// How much memory there is, for a program that may live in a container.
#pragma once

#include <cstdint>
#include <string>

#include <bitmill/core/error.hpp>

namespace bitmill {

struct system_memory {
    std::uint64_t total_bytes = 0;  // of the machine, or less where a control group has less
    std::uint64_t available_bytes =
        0;                            // without pushing out what is in use; pages of files that can go count
    std::uint64_t process_bytes = 0;  // resident, of this process
    std::string limit = {};           // the control group that says total_bytes; "" for the machine

    [[nodiscard]] std::uint64_t used_bytes() const noexcept { return total_bytes - available_bytes; }
    [[nodiscard]] double used_share() const noexcept {
        return total_bytes == 0 ? 1 : static_cast<double>(used_bytes()) / static_cast<double>(total_bytes);
    }
};

// From /proc/meminfo, /proc/self/statm, /proc/self/cgroup and memory.max, memory.current and memory.stat of that group
// and all above it (Documentation/admin-guide/cgroup-v2.rst); without control groups of version 2 the machine's. `root`
// stands before these paths. Thread-safe. Errors: io, bad_input where /proc/meminfo cannot be read.
[[nodiscard]] result<system_memory> read_system_memory(const std::string& root = "");

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/system_memory-inl.hpp>
#endif
