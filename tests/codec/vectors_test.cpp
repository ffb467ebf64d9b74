// Bytes that the reference implementations of each format make of the same numbers.
#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include <coded.hpp>
#include <weights.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::granularity;
using bitmill::scheme;
using bitmill::scheme_type;

namespace {

// As compressed-tensors stores weight_packed.
scheme packed(scheme_type type, granularity how) {
    return {.type = type, .granularity = how, .offset_binary = true, .row_alignment = 4};
}

std::vector<std::uint32_t> words_of(coded_matrix& m) {
    std::vector<std::uint32_t> words(m.codes.size() / 4);
    std::memcpy(words.data(), m.codes.data(), words.size() * 4);
    return words;
}

using words = std::vector<std::uint32_t>;

std::vector<float> reference_input(std::size_t count) {
    std::vector<float> x;
    for (std::size_t i = 0; i < count; ++i) x.push_back((static_cast<float>(37 * i % 101) - 50.0f) / 50.0f);
    return x;
}

std::vector<int> codes_of(coded_matrix& m, std::size_t count) {
    std::vector<int> out;
    for (std::size_t c = 0; c < count; ++c) out.push_back(m.code_at(0, c));
    return out;
}

}  // namespace

TEST_CASE("vectors: packed 4-bit and 8-bit rows of compressed-tensors") {
    bitmill::encode_options options;
    {
        std::vector<float> row;
        for (int q = -8; q < 8; ++q) row.push_back(static_cast<float>(q));
        const scheme s = packed(scheme_type::int4, granularity::per_tensor);
        coded_matrix m(s, 1, 16, bitmill::encode_bound(s, 1, 16).value());
        options.range = bitmill::value_range{-7.5f, 7.5f};  // a scale of 1
        REQUIRE(bitmill::encode(s, {dtype::f32, row.data(), 1, 16}, m.view, options));
        CHECK(m.scale_at(0) == 1.0f);
        CHECK(words_of(m) == words{0x76543210, 0xfedcba98});
    }
    const std::vector<float> row{-128, -1, 0, 1, 127, 5, -6, 7};
    const scheme s = packed(scheme_type::int8, granularity::per_tensor);
    coded_matrix m(s, 1, 8, bitmill::encode_bound(s, 1, 8).value());
    options.range = bitmill::value_range{-127.5f, 127.5f};
    REQUIRE(bitmill::encode(s, {dtype::f32, row.data(), 1, 8}, m.view, options));
    CHECK(m.scale_at(0) == 1.0f);
    CHECK(words_of(m) == words{0x81807f00, 0x877a85ff});
}

TEST_CASE("vectors: 2-bit codes, four a byte from the lowest bits; zero points in units of 1/32") {
    std::vector<float> row;
    for (int i = 0; i < 16; ++i) row.push_back(static_cast<float>(i % 4 - 2));
    bitmill::encode_options options;
    options.range = bitmill::value_range{-1.5f, 1.5f};  // a scale of 1
    const scheme s = packed(scheme_type::int2, granularity::per_tensor);
    coded_matrix m(s, 1, 16, bitmill::encode_bound(s, 1, 16).value());
    REQUIRE(bitmill::encode(s, {dtype::f32, row.data(), 1, 16}, m.view, options));
    CHECK(m.scale_at(0) == 1.0f);
    CHECK(words_of(m) == words{0xe4e4e4e4});
    CHECK(m.decoded(dtype::f32) == bytes_as(dtype::f32, row));

    // Levels on both sides of 0: no whole zero point stands for them.
    const std::vector<float> halves{-3, -1, 1, 3, 3, 1, -1, -3};
    for (const auto how : {bitmill::method::absmax, bitmill::method::mse}) {
        scheme group{.type = scheme_type::int2,
                     .granularity = granularity::group,
                     .group_size = 8,
                     .symmetric = false,
                     .scale_dtype = dtype::f16};
        coded_matrix coded(group, 1, 8, bitmill::encode_bound(group, 1, 8).value());
        options.method = how;
        REQUIRE(bitmill::encode(group, {dtype::f32, halves.data(), 1, 8}, coded.view, options));
        CHECK(coded.codes.text() == "\xe4\x1b");
        CHECK(coded.scales.text() == std::string("\x00\x40", 2));  // 2
        CHECK(coded.zero_points.text() == "\xf0");                 // -16 / 32
        CHECK(coded.decoded(dtype::f32) == bytes_as(dtype::f32, halves));
    }
}

TEST_CASE("vectors: scales and codes of compressed-tensors' min-max rule") {
    const auto x = reference_input(32);
    scheme s = packed(scheme_type::int4, granularity::group);
    s.group_size = 32;
    coded_matrix four(s, 1, 32, bitmill::encode_bound(s, 1, 32).value());
    REQUIRE(bitmill::encode(s, {dtype::f32, x.data(), 1, 32}, four.view));
    CHECK(four.scale_at(0) == 0.13333334f);
    CHECK(codes_of(four, 32) == std::vector<int>{-7, -2, 4, -6, 0,  5, -4, 1,  7, -3, 3, -7, -2, 4, -6, 0,
                                                 6,  -4, 2, 7,  -3, 3, -7, -1, 4, -5, 0, 6,  -4, 2, 7,  -2});
    CHECK(words_of(four) == words{0x94d82c61, 0x82c61b5f, 0x71b5fa4e, 0x6fa4e83c});
    const scheme wide = packed(scheme_type::int8, granularity::per_channel);
    coded_matrix eight(wide, 1, 32, bitmill::encode_bound(wide, 1, 32).value());
    REQUIRE(bitmill::encode(wide, {dtype::f32, x.data(), 1, 32}, eight.view));
    CHECK(eight.scale_at(0) == doctest::Approx(0.00784314).epsilon(1e-6));
    CHECK(codes_of(eight, 8) == std::vector<int>{-127, -33, 61, -102, -8, 87, -76, 18});
}

TEST_CASE("vectors: nf4 and fp4 of bitsandbytes") {
    const std::vector<float> x{-1, -.5f, 0, .25f, .5f, .75f, 1, .1f};
    const std::pair<scheme_type, std::string> expected[] = {{scheme_type::nf4, "\x02\x7a\xce\xf8"},
                                                            {scheme_type::fp4, "\xbd\x07\x52\x36"}};
    for (const auto& [type, bytes] : expected) {
        const scheme s{.type = type, .granularity = granularity::block, .group_size = 64};
        coded_matrix m(s, 2, 4, bitmill::encode_bound(s, 2, 4).value());
        REQUIRE(bitmill::encode(s, {dtype::f32, x.data(), 2, 4}, m.view));
        CHECK(m.codes.text() == bytes);
        CHECK(m.absmax_at(0) == 1.0f);
    }
    // An odd count is filled with the code of 0; a block of zeros is all 7.
    const std::vector<float> zeros(33);
    const scheme s{.type = scheme_type::nf4, .granularity = granularity::block, .group_size = 32};
    coded_matrix m(s, 1, 33, bitmill::encode_bound(s, 1, 33).value());
    REQUIRE(bitmill::encode(s, {dtype::f32, zeros.data(), 1, 33}, m.view));
    CHECK(m.codes.text() == std::string(17, '\x77'));
    CHECK(m.absmax_at(0) == 0.0f);
    CHECK(m.absmax_at(1) <= 1e-38f);  // bitsandbytes' floor for a short block
    CHECK(m.decoded(dtype::f32) == bytes_as(dtype::f32, zeros));
}

TEST_CASE("vectors: the dynamic map") {
    const auto& map = bitmill::dynamic_map();
    CHECK(std::is_sorted(map.begin(), map.end()));
    CHECK(std::set<float>(map.begin(), map.end()).size() == 256);
    CHECK(map.front() == doctest::Approx(-0.9929688).epsilon(1e-6));
    CHECK(map.back() == 1.0f);
    CHECK(map[127] == 0.0f);
    CHECK(map[128] == doctest::Approx(5.5e-7).epsilon(1e-6));  // one midpoint of 0.1 and 1, times 1e-6
}

TEST_CASE("double quantization: the 8-bit absmax lies within a step of the exact one") {
    for (const std::size_t count : {1u, 2u, 255u, 256u, 257u, 1000u}) {
        CAPTURE(count);
        auto absmax = make_weights(count, count, spread::one_sided, 0.1f);
        double sum = 0;
        for (const float one : absmax) sum += static_cast<double>(one);
        const auto offset = static_cast<float>(sum / static_cast<double>(count));
        std::vector<std::uint8_t> codes(count);
        std::vector<float> nested((count + 255) / 256), back(count);
        bitmill::encode_nested(absmax, offset, codes.data(), nested.data());
        bitmill::decode_nested(codes, nested.data(), offset, back.data());
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            // Largest gap of the map is 0.014; the bin rounds by 1/65535 more.
            const double allowed = (0.0071 + 2e-5) * static_cast<double>(nested[i / 256]) + 1e-7;
            wrong += !(std::fabs(static_cast<double>(back[i]) - static_cast<double>(absmax[i])) <= allowed);
        }
        CHECK(wrong == 0);
        for (std::size_t b = 0; b < nested.size(); ++b) {
            float most = 0;
            for (std::size_t i = b * 256; i < std::min(count, b * 256 + 256); ++i)
                most = std::max(most, std::fabs(absmax[i] - offset));
            CHECK(nested[b] == most);
        }
    }
    // All equal: nothing left after the offset.
    const std::vector<float> equal(300, 0.3f);
    std::vector<std::uint8_t> codes(300);
    std::vector<float> nested(2, -1.0f), back(300);
    bitmill::encode_nested(equal, 0.3f, codes.data(), nested.data());
    bitmill::decode_nested(codes, nested.data(), 0.3f, back.data());
    CHECK(nested == std::vector<float>{0.0f, 0.0f});
    CHECK(back == equal);
}

TEST_CASE("double quantization: encode writes the mean of the block maxima, or the one it is given") {
    const auto floats = make_weights(64 * 300, 6);
    const scheme s{
        .type = scheme_type::nf4, .granularity = granularity::block, .group_size = 64, .double_quant = true};
    const scheme plain{.type = scheme_type::nf4, .granularity = granularity::block, .group_size = 64};
    const bitmill::weight_view view{dtype::f32, floats.data(), 300, 64};
    coded_matrix m(s, 300, 64, bitmill::encode_bound(s, 300, 64).value());
    coded_matrix exact(plain, 300, 64, bitmill::encode_bound(plain, 300, 64).value());
    REQUIRE(bitmill::encode(s, view, m.view));
    REQUIRE(bitmill::encode(plain, view, exact.view));
    double sum = 0;
    for (std::size_t b = 0; b < 300; ++b) sum += static_cast<double>(exact.absmax_at(b));
    CHECK(bitmill::sum_absmax(view, 64).value() == doctest::Approx(sum).epsilon(1e-12));
    CHECK(m.view.nested_offset == doctest::Approx(sum / 300).epsilon(1e-6));
    CHECK(m.codes.text() == exact.codes.text());  // rounded against the exact absmax, as bitsandbytes does
    bitmill::encode_options options;
    options.nested_offset = 0.25f;
    REQUIRE(bitmill::encode(s, view, m.view, options));
    CHECK(m.view.nested_offset == 0.25f);
    double worst = 0;
    for (std::size_t b = 0; b < 300; ++b)
        worst = std::max(
            worst, std::fabs(static_cast<double>(m.absmax_at(b)) - static_cast<double>(exact.absmax_at(b))));
    CHECK(worst > 0);
    CHECK(worst < 0.0072 * 0.25);
}
