// The header-only mode: the bodies compile as inline functions in two files of one program, and encode gives the
// codes that the rule asks for.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <bitmill/bitmill.hpp>

#if defined(BITMILL_COMPILED_LIB)
#error "bitmill::headers must not define BITMILL_COMPILED_LIB"
#endif

std::size_t bound_in_other_file(std::size_t rows, std::size_t cols);

int main() {
    // Row maxima 127.5 and 255 make the scales 1 and 2 (absmax / 127.5), so the codes can be written down.
    constexpr std::array<float, 8> weights{127.5f, -1.f, 0.5f, 2.5f, 255.f, -255.f, 3.f, 5.f};
    constexpr std::array<std::int8_t, 8> expected{127, -1, 0, 2, 127, -128, 2, 2};

    const bitmill::scheme scheme;  // int8, one scale a row
    std::vector<std::byte> codes(bound_in_other_file(2, 4)), scales(2 * sizeof(float));
    bitmill::encoded_view encoded{.codes = codes.data(), .scales = scales.data()};
    static_cast<void>(bitmill::encode(scheme, {bitmill::dtype::f32, weights.data(), 2, 4}, encoded).value());
    int wrong = codes.size() == expected.size() ? 0 : 1;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto code = static_cast<std::int8_t>(codes.at(i));
        if (code == expected[i]) continue;
        std::printf("code %zu is %d, not %d\n", i, code, expected[i]);
        ++wrong;
    }
    return wrong == 0 ? 0 : 1;
}
