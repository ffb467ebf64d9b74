// What a user's first program does: the version, the element types, and a matrix to int8 and back.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <bitmill/bitmill.hpp>

int main() {
    if (std::strcmp(BITMILL_VERSION_TEXT, EXPECTED_VERSION) != 0) return 1;
    if (bitmill::dtype_from_name("BF16") != bitmill::dtype::bf16) return 2;

    constexpr std::size_t rows = 3, cols = 50;
    std::vector<float> weights(rows * cols);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(static_cast<float>(i));

    const bitmill::scheme scheme;  // int8, one scale a row
    const bitmill::weight_view src{bitmill::dtype::f32, weights.data(), rows, cols};
    const auto sizes = bitmill::encode_bound(scheme, rows, cols).value();
    if (sizes.codes != rows * cols || sizes.scales != rows * sizeof(float)) return 3;
    std::vector<std::byte> codes(sizes.codes), scales(sizes.scales);
    bitmill::encoded_view encoded{.codes = codes.data(), .scales = scales.data()};
    static_cast<void>(bitmill::encode(scheme, src, encoded).value());

    std::vector<float> back(weights.size());
    bitmill::decode(scheme, encoded, rows, cols, bitmill::dtype::f32, back.data()).value();
    for (std::size_t i = 0; i < weights.size(); ++i) {
        float scale;
        std::memcpy(&scale, scales.data() + i / cols * sizeof scale, sizeof scale);
        // Half a step, and the rounding of the decoded value itself.
        if (!(std::abs(back[i] - weights[i]) <= scale * 0.5001f)) return 4;
    }
    std::printf("bitmill %s on %s: %zu weights to int8 and back\n", BITMILL_VERSION_TEXT,
                bitmill::isa().c_str(), weights.size());
    return 0;
}
