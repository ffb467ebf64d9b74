#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include <bitmill/core/sha256.hpp>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace bitmill {
namespace detail {

alignas(16) inline constexpr std::uint32_t sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// Takes `count` blocks of 64 bytes into the state.
using sha256_blocks_fn = void (*)(std::uint32_t* state, const std::byte* bytes, std::size_t count);

inline void sha256_blocks_scalar(std::uint32_t* state, const std::byte* bytes, std::size_t count) {
    for (; count != 0; --count, bytes += 64) {
        std::uint32_t w[64];
        for (std::size_t i = 0; i < 16; ++i)
            w[i] = std::to_integer<std::uint32_t>(bytes[4 * i]) << 24 |
                   std::to_integer<std::uint32_t>(bytes[4 * i + 1]) << 16 |
                   std::to_integer<std::uint32_t>(bytes[4 * i + 2]) << 8 |
                   std::to_integer<std::uint32_t>(bytes[4 * i + 3]);
        for (std::size_t i = 16; i < 64; ++i) {
            const std::uint32_t low = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
            const std::uint32_t high = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + low + w[i - 7] + high;
        }
        std::uint32_t s[8];
        std::copy_n(state, 8, s);
        for (std::size_t i = 0; i < 64; ++i) {
            const std::uint32_t mix = std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25);
            const std::uint32_t chosen = (s[4] & s[5]) ^ (~s[4] & s[6]);
            const std::uint32_t first = s[7] + mix + chosen + sha256_k[i] + w[i];
            const std::uint32_t sum = std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22);
            const std::uint32_t second = sum + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            std::copy_backward(s, s + 7, s + 8);
            s[4] += first;
            s[0] = first + second;
        }
        for (std::size_t i = 0; i < 8; ++i) state[i] += s[i];
    }
}

#if defined(__x86_64__)

// With the SHA extensions a core takes in 1.8 GB/s on Zen 4; the loop above 0.35.
__attribute__((target("sha,sse4.1"))) inline void sha256_blocks_native(std::uint32_t* state,
                                                                       const std::byte* bytes,
                                                                       std::size_t count) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    // The instructions keep a, b, e, f in one register and c, d, g, h in the other.
    const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0xb1);
    const __m128i hgfe =
        _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
    __m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
    for (; count != 0; --count, bytes += 64) {
        const __m128i abef_before = abef;
        const __m128i cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; ++i)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes) + i), big_endian);
// Unrolled, the four words of the schedule stay in registers.
#if defined(__clang__)
#pragma unroll
#else
#pragma GCC unroll 16
#endif
        for (int i = 0; i < 16; ++i) {
            const __m128i now = w[i % 4];
            const __m128i sum =
                _mm_add_epi32(now, _mm_load_si128(reinterpret_cast<const __m128i*>(sha256_k) + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i >= 12) continue;
            // Four words of the schedule, 16 rounds ahead.
            const __m128i seventh = _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4);
            const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(i + 1) % 4]), seventh);
            w[i % 4] = _mm_sha256msg2_epu32(part, w[(i + 3) % 4]);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

inline bool sha256_is_native() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 29 & 1) != 0;
}

#elif defined(__aarch64__)

__attribute__((target("+crypto"))) inline void sha256_blocks_native(std::uint32_t* state,
                                                                    const std::byte* bytes,
                                                                    std::size_t count) {
    uint32x4_t abcd = vld1q_u32(state);
    uint32x4_t efgh = vld1q_u32(state + 4);
    for (; count != 0; --count, bytes += 64) {
        const uint32x4_t abcd_before = abcd;
        const uint32x4_t efgh_before = efgh;
        uint32x4_t w[4];
        for (int i = 0; i < 4; ++i)
            w[i] = vreinterpretq_u32_u8(
                vrev32q_u8(vld1q_u8(reinterpret_cast<const std::uint8_t*>(bytes) + 16 * i)));
        for (int i = 0; i < 16; ++i) {
            const uint32x4_t sum = vaddq_u32(w[i % 4], vld1q_u32(sha256_k + 4 * i));
            const uint32x4_t before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, before, sum);
            if (i >= 12) continue;
            w[i % 4] =
                vsha256su1q_u32(vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]), w[(i + 2) % 4], w[(i + 3) % 4]);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

inline bool sha256_is_native() { return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0; }

#else
inline constexpr sha256_blocks_fn sha256_blocks_native = sha256_blocks_scalar;
inline bool sha256_is_native() { return false; }
#endif

inline sha256_blocks_fn sha256_blocks() {
    static const sha256_blocks_fn chosen = sha256_is_native() ? sha256_blocks_native : sha256_blocks_scalar;
    return chosen;
}

}  // namespace detail

BITMILL_INLINE std::string hex_text(const digest& value) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const auto byte : value) out.append({digits[byte >> 4], digits[byte & 15]});
    return out;
}

BITMILL_INLINE sha256& sha256::update(std::span<const std::byte> bytes) noexcept {
    const auto take = detail::sha256_blocks();
    const std::size_t held = bytes_ % 64;
    bytes_ += bytes.size();
    if (held != 0) {
        const std::size_t count = std::min(64 - held, bytes.size());
        std::copy_n(bytes.data(), count, block_.data() + held);
        bytes = bytes.subspan(count);
        if (held + count < 64) return *this;
        take(state_.data(), block_.data(), 1);
    }
    take(state_.data(), bytes.data(), bytes.size() / 64);
    bytes = bytes.subspan(bytes.size() / 64 * 64);
    std::copy_n(bytes.data(), bytes.size(), block_.data());
    return *this;
}

BITMILL_INLINE digest sha256::finish() noexcept {
    const std::uint64_t bits = bytes_ * 8;
    static constexpr std::byte padding[64] = {std::byte{0x80}};
    update({padding, 1 + (119 - bytes_ % 64) % 64});
    std::byte length[8];
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(bits >> (56 - 8 * i));
    update(length);
    digest out;
    for (std::size_t i = 0; i < 32; ++i)
        out[i] = static_cast<std::uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    *this = sha256();
    return out;
}

}  // namespace bitmill
