#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <bitmill/codec/code_book.hpp>

namespace bitmill {
namespace detail {

// The thresholds are the midpoints between neighbours, in f32; a tie goes to the lower entry.
inline constexpr kernels::code_book nf4_book{
    {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
     -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
     0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
     0.7229568362236023f, 1.0f},
    {-0x1.b239b0p-1f, -0x1.38a4e0p-1f, -0x1.d70900p-2f, -0x1.5bd4ecp-2f, -0x1.e079d8p-3f, -0x1.1a7178p-3f,
     -0x1.74f0e2p-5f, 0x1.45f5fep-5f, 0x1.ec90c4p-4f, 0x1.a0cfc0p-3f, 0x1.2b05a8p-2f, 0x1.8ea7f2p-2f,
     0x1.00da08p-1f, 0x1.491b5ep-1f, 0x1.b913b4p-1f},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

// fp4 has two zeros: bitsandbytes gives code 0 to what is at or just below 0 and code 8 to what is just above.
inline constexpr kernels::code_book fp4_book{
    {0.0f, 0.0052083334885537624f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f,
     0.25f, 0.0f, -0.0052083334885537624f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f,
     -0.1666666716337204f, -0.25f},
    {-0x1.aaaaacp-1f, -0x1.2aaaacp-1f, -0x1.aaaaacp-2f, -0x1.2aaaacp-2f, -0x1.aaaaacp-3f, -0x1.6p-4f,
     -0x1.555556p-9f, 0.0f, 0x1.555556p-9f, 0x1.6p-4f, 0x1.aaaaacp-3f, 0x1.2aaaacp-2f, 0x1.aaaaacp-2f,
     0x1.2aaaacp-1f, 0x1.aaaaacp-1f},
    {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}};

// For e = 0 ... 6: 2^e midpoints of 2^e + 1 points spread evenly over [0.1, 1], times 10^(e - 6), both signs;
// and 0 and 1. The f32 steps are torch.linspace's (Dettmers et al. 2022, 8-bit optimizers, dynamic tree).
inline std::array<float, 256> make_dynamic_map() {
    constexpr float powers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    std::array<float, 256> map{};
    std::size_t used = 0;
    map[used++] = 0.0f;
    map[used++] = 1.0f;
    for (unsigned e = 0; e < 7; ++e) {
        const unsigned points = (1u << e) + 1;
        const float step = (1.0f - 0.1f) / static_cast<float>(points - 1);
        const auto point = [&](unsigned k) {
            return k < points / 2 ? std::fma(step, static_cast<float>(k), 0.1f)
                                  : std::fma(-step, static_cast<float>(points - 1 - k), 1.0f);
        };
        for (unsigned k = 0; k + 1 < points; ++k) {
            const float value = (point(k) + point(k + 1)) / 2.0f * powers[e];
            map[used++] = value;
            map[used++] = -value;
        }
    }
    std::sort(map.begin(), map.end());
    return map;
}

// bitsandbytes rounds a scaled value to one of 65536 bins and looks the bin's code up.
struct dynamic_bins {
    std::vector<std::uint8_t> code = std::vector<std::uint8_t>(65536);
    dynamic_bins() {
        const auto& map = dynamic_map();
        std::size_t next = 0;
        for (std::size_t i = 0; i < code.size(); ++i) {
            const float value = -1.0f + static_cast<float>(2 * i) / 65535.0f;
            while (next < 255 && 0.5f * (map[next] + map[next + 1]) < value) ++next;
            code[i] = static_cast<std::uint8_t>(next);
        }
    }
};

}  // namespace detail

BITMILL_INLINE const kernels::code_book& book_of(scheme_type type) noexcept {
    return type == scheme_type::fp4 ? detail::fp4_book : detail::nf4_book;
}

BITMILL_INLINE const std::array<float, 256>& dynamic_map() noexcept {
    static const std::array<float, 256> map = detail::make_dynamic_map();
    return map;
}

BITMILL_INLINE void encode_nested(std::span<const float> absmax, float offset, std::uint8_t* codes,
                                  float* nested_absmax) {
    static const detail::dynamic_bins bins;
    for (std::size_t start = 0; start < absmax.size(); start += nested_block, ++nested_absmax) {
        const auto block = absmax.subspan(start, std::min(nested_block, absmax.size() - start));
        float most = 0;
        for (const float one : block) most = std::max(most, std::fabs(one - offset));
        *nested_absmax = most;
        const float inverse = 1.0f / most;
        for (std::size_t i = 0; i < block.size(); ++i) {
            const float scaled = (block[i] - offset) * inverse;
            if (!(scaled >= -1.0f)) {  // also NaN: 0 * (1 / 0) in a block of equal values
                codes[start + i] = 0;
                continue;
            }
            const float bin = ((std::min(scaled, 1.0f) + 1.0f) * 0.5f) * 65535.0f + 0.5f;
            codes[start + i] = bins.code[static_cast<std::size_t>(bin)];
        }
    }
}

BITMILL_INLINE void decode_nested(std::span<const std::uint8_t> codes, const float* nested_absmax,
                                  float offset, float* absmax) {
    const auto& map = dynamic_map();
    for (std::size_t i = 0; i < codes.size(); ++i) {
        const float share = map[codes[i]] * nested_absmax[i / nested_block];
        absmax[i] = std::min(share + offset, std::numeric_limits<float>::max());
    }
}

}  // namespace bitmill
