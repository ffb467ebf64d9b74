// Arithmetic on numbers that come from files: u64 only, and every step says whether it still fits.
// (Six of the nine known GGUF reader holes were one unchecked `+` or `*`.)
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>

namespace bitmill {

using maybe_u64 = std::optional<std::uint64_t>;

[[nodiscard]] constexpr maybe_u64 checked_add(std::uint64_t a, std::uint64_t b) noexcept {
    if (a > std::numeric_limits<std::uint64_t>::max() - b) return std::nullopt;
    return a + b;
}

[[nodiscard]] constexpr maybe_u64 checked_mul(std::uint64_t a, std::uint64_t b) noexcept {
    if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
    return a * b;
}

// value / unit rounded up; unit must not be 0.
[[nodiscard]] constexpr std::uint64_t ceil_div(std::uint64_t value, std::uint64_t unit) noexcept {
    return value / unit + (value % unit != 0 ? 1 : 0);
}

// Narrows only where the value survives it.
template <std::integral To>
[[nodiscard]] constexpr std::optional<To> checked_cast(std::uint64_t value) noexcept {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<To>::max())) return std::nullopt;
    return static_cast<To>(value);
}

}  // namespace bitmill
