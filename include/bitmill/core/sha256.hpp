// SHA-256 (FIPS 180-4). Our own because a library that is embedded reads no environment and keeps no global state;
// libcrypto does both on load.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <bitmill/core/config.hpp>

namespace bitmill {

using digest = std::array<std::uint8_t, 32>;

[[nodiscard]] std::string hex_text(const digest& value);  // 64 lower-case digits

class sha256 {
public:
    sha256& update(std::span<const std::byte> bytes) noexcept;
    sha256& update(std::string_view text) noexcept { return update(std::as_bytes(std::span(text))); }
    // The digest of everything so far; the object starts anew.
    [[nodiscard]] digest finish() noexcept;

    [[nodiscard]] static digest of(std::span<const std::byte> bytes) noexcept {
        return sha256().update(bytes).finish();
    }
    [[nodiscard]] static digest of(std::string_view text) noexcept { return sha256().update(text).finish(); }

private:
    static constexpr std::array<std::uint32_t, 8> start{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<std::uint32_t, 8> state_ = start;
    std::array<std::byte, 64> block_{};
    std::uint64_t bytes_ = 0;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/sha256-inl.hpp>
#endif
