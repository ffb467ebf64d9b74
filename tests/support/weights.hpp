// Synthetic weights of several shapes of distribution, in any float type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <bitmill/core/dtype.hpp>
#include <bitmill/core/half.hpp>

#include <random.hpp>

namespace bitmill_test {

enum class spread : std::uint8_t {
    gaussian,
    heavy_tails,
    sparse,
    constant,
    ramp,
    one_sided
};
inline constexpr spread spreads[] = {spread::gaussian, spread::heavy_tails, spread::sparse,
                                     spread::constant, spread::ramp,        spread::one_sided};

inline std::vector<float> make_weights(std::size_t count, std::uint64_t seed, spread kind = spread::gaussian,
                                       float size = 0.05f) {
    test::random rng(seed);
    std::vector<float> out(count);
    for (std::size_t i = 0; i < count; ++i) {
        float x = rng.normal();
        switch (kind) {
            case spread::gaussian: break;
            case spread::heavy_tails: {  // Student's t with 4 degrees of freedom
                float squares = 0;
                for (int k = 0; k < 4; ++k) {
                    const float n = rng.normal();
                    squares += n * n;
                }
                x /= std::sqrt(squares / 4 + 1e-3f);
                break;
            }
            case spread::sparse: x = rng.below(20) == 0 ? x : 0.0f; break;
            case spread::constant: x = 0.75f; break;
            case spread::ramp: x = static_cast<float>(i % 257) / 128.0f - 1.0f; break;
            case spread::one_sided: x = std::fabs(x) + 0.5f; break;
        }
        out[i] = x * size;
    }
    return out;
}

// The elements as bytes of f32, f16, bf16 or f64.
inline std::string bytes_as(bitmill::dtype type, const std::vector<float>& values) {
    std::string out(values.size() * bitmill::element_bytes(type), '\0');
    char* to = out.data();
    for (const float x : values) {
        if (type == bitmill::dtype::f32) std::memcpy(to, &x, 4);
        if (type == bitmill::dtype::f64) {
            const auto wide = static_cast<double>(x);
            std::memcpy(to, &wide, 8);
        }
        if (type == bitmill::dtype::f16 || type == bitmill::dtype::bf16) {
            const std::uint16_t half =
                type == bitmill::dtype::f16 ? bitmill::f16_from_f32(x) : bitmill::bf16_from_f32(x);
            std::memcpy(to, &half, 2);
        }
        to += bitmill::element_bytes(type);
    }
    return out;
}

// What those bytes hold.
inline std::vector<double> values_of(bitmill::dtype type, const void* data, std::size_t count) {
    std::vector<double> out(count);
    const auto* from = static_cast<const char*>(data);
    for (std::size_t i = 0; i < count; ++i, from += bitmill::element_bytes(type)) {
        float narrow = 0;
        std::uint16_t half = 0;
        if (type == bitmill::dtype::f64) {
            std::memcpy(&out[i], from, 8);
            continue;
        }
        if (type == bitmill::dtype::f32) {
            std::memcpy(&narrow, from, 4);
        } else {
            std::memcpy(&half, from, 2);
            narrow = type == bitmill::dtype::f16 ? bitmill::f32_from_f16(half) : bitmill::f32_from_bf16(half);
        }
        out[i] = static_cast<double>(narrow);
    }
    return out;
}

}  // namespace bitmill_test
