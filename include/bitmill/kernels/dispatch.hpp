// Which instruction set runs. Chosen once, from what the CPU and the operating system offer; a host may
// force one. All of them compute the same bits.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/kernels/table.hpp>

namespace bitmill {

// The names that this CPU can run, slowest first: of "baseline", "avx2", "avxvnni", "avx512bw", "avx512vnni" on
// x86-64,
// "neon64", "neon64_dotprod" on aarch64.
[[nodiscard]] std::vector<std::string> isa_available();

// The name in use.
[[nodiscard]] std::string isa();

// Forces one by name for the whole process. Thread-safe; calls that already run finish on the old one.
// Errors: invalid_argument (no such name), unsupported (this CPU lacks it).
[[nodiscard]] result<void> set_isa(std::string_view name);

namespace kernels {
// The table in use. Fetch it once per call, not per row.
[[nodiscard]] const table& active() noexcept;
// The name of the index-th set that this CPU can run, slowest first; null behind the last.
[[nodiscard]] const char* available(std::size_t index) noexcept;
// A table by name, for tests that compare instruction sets; null where this CPU cannot run it.
[[nodiscard]] const table* find(std::string_view name) noexcept;
}  // namespace kernels

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/dispatch-inl.hpp>
#endif
