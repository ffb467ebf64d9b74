// EXACT: every instruction set that this CPU runs gives the bits of the scalar reference.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/kernels/reference.hpp>

#include "random.hpp"

namespace k = bitmill::kernels;

namespace {

// Every family of values that a weight may come from: ordinary, tiny, huge, denormal, equal, zero, with ties.
std::vector<float> values_of(unsigned family, std::size_t count, test::random& rng) {
    std::vector<float> out(count);
    for (auto& x : out) {
        switch (family) {
            case 0: x = rng.normal() * 0.05f; break;
            case 1: x = rng.normal() * 1e-30f; break;
            case 2: x = rng.normal() * 1e37f; break;
            case 3: x = static_cast<float>(rng.below(2001)) * 1e-42f - 1e-39f; break;
            case 4: x = -0.75f; break;
            case 5: x = rng.below(2) != 0 ? 0.0f : -0.0f; break;
            case 6: x = static_cast<float>(rng.below(31)) * 0.5f - 7.5f; break;  // ties
            default: x = rng.below(100) == 0 ? rng.normal() * 50 : rng.normal() * 0.01f; break;
        }
    }
    return out;
}
constexpr unsigned families = 8;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same_bits(const k::sums& a, const k::sums& b) {
    return std::memcmp(&a.err2, &b.err2, 3 * sizeof(double)) == 0 &&
           std::memcmp(&a.max_err, &b.max_err, 4) == 0;
}

std::vector<const k::table*> tables() {
    std::vector<const k::table*> out;
    for (const auto& name : bitmill::isa_available()) out.push_back(k::find(name));
    return out;
}

}  // namespace

TEST_CASE("integers: choose, encode and decode equal the reference on every isa") {
    test::random rng(1);
    std::size_t cases = 0;
    for (const std::size_t group :
         {1u, 7u, 15u, 16u, 17u, 31u, 32u, 33u, 64u, 128u, 384u, 1000u, 4096u, 5003u}) {
        for (unsigned family = 0; family < families; ++family) {
            const std::size_t groups = group > 1000 ? 2 : 5;
            const auto src = values_of(family, groups * group, rng);
            for (unsigned mode = 0; mode < 24; ++mode) {
                const k::int_rule rule{mode % 2 == 0 ? 8u : 4u, (mode / 2) % 2 == 0, (mode / 4) % 2 == 0,
                                       static_cast<k::scale_type>(mode / 8)};
                k::int_layout layout{groups, group, (group * rule.bits + 7) / 8 + 3,
                                     static_cast<std::uint8_t>(mode % 3 == 0 ? 0x80 : 0)};
                const auto run = [&](const k::table& table) {
                    struct outcome {
                        std::vector<float> scales, zeros, back;
                        std::vector<std::uint8_t> codes;
                        k::sums sums;
                        std::size_t chosen;
                    } out{std::vector<float>(groups),
                          std::vector<float>(groups),
                          std::vector<float>(groups * group),
                          std::vector<std::uint8_t>(groups * layout.stride),
                          {},
                          0};
                    out.chosen =
                        table.choose_int(src.data(), layout, rule, out.scales.data(), out.zeros.data());
                    table.encode_int(src.data(), layout, rule.bits, out.scales.data(), out.zeros.data(),
                                     out.codes.data(), &out.sums);
                    table.decode_int(out.codes.data(), layout, rule.bits, out.scales.data(), out.zeros.data(),
                                     out.back.data(), mode % 5 == 0);
                    return out;
                };
                const auto truth = run(k::reference::kernels);
                REQUIRE(truth.chosen == groups);
                for (const auto* table : tables()) {
                    CAPTURE(table->name);
                    CAPTURE(group);
                    CAPTURE(family);
                    CAPTURE(mode);
                    const auto got = run(*table);
                    REQUIRE(got.chosen == groups);
                    REQUIRE(same_bits(got.scales, truth.scales));
                    REQUIRE(same_bits(got.zeros, truth.zeros));
                    REQUIRE(got.codes == truth.codes);
                    REQUIRE(same_bits(got.back, truth.back));
                    REQUIRE(same_bits(got.sums, truth.sums));
                    for (const float one : got.back) REQUIRE_FALSE(std::isnan(one));
                    ++cases;
                }
            }
        }
    }
    MESSAGE("compared ", cases, " cases");
}

TEST_CASE("code books: absmax, encode and decode equal the reference on every isa") {
    test::random rng(2);
    for (const auto type : {bitmill::scheme_type::nf4, bitmill::scheme_type::fp4}) {
        const auto& book = bitmill::book_of(type);
        for (const std::size_t block : {32u, 64u, 256u, 4096u}) {
            for (const std::size_t count :
                 {1ul, 15ul, 16ul, 17ul, block - 1, block, block + 1, 3 * block + 5}) {
                for (unsigned family = 0; family < families; ++family) {
                    const auto src = values_of(family, count, rng);
                    const std::size_t blocks = (count + block - 1) / block;
                    const auto run = [&](const k::table& table) {
                        struct outcome {
                            std::vector<float> absmax, back;
                            std::vector<std::uint8_t> codes;
                            k::sums sums;
                        } out{std::vector<float>(blocks),
                              std::vector<float>(count),
                              std::vector<std::uint8_t>((count + 1) / 2),
                              {}};
                        REQUIRE(table.absmax_blocks(src.data(), count, block, out.absmax.data()) == blocks);
                        table.encode_book(src.data(), count, block, out.absmax.data(), book, out.codes.data(),
                                          &out.sums);
                        table.decode_book(out.codes.data(), count, block, out.absmax.data(), book,
                                          out.back.data(), count % 2 == 0);
                        return out;
                    };
                    const auto truth = run(k::reference::kernels);
                    for (const auto* table : tables()) {
                        CAPTURE(table->name);
                        CAPTURE(block);
                        CAPTURE(count);
                        CAPTURE(family);
                        const auto got = run(*table);
                        REQUIRE(same_bits(got.absmax, truth.absmax));
                        REQUIRE(got.codes == truth.codes);
                        REQUIRE(same_bits(got.back, truth.back));
                        REQUIRE(same_bits(got.sums, truth.sums));
                    }
                }
            }
        }
    }
}

TEST_CASE("code books: values next to every threshold") {
    for (const auto type : {bitmill::scheme_type::nf4, bitmill::scheme_type::fp4}) {
        const auto& book = bitmill::book_of(type);
        std::vector<float> src{1.0f};
        for (const float t : book.threshold)
            for (const float x : {t, std::nextafter(t, -2.0f), std::nextafter(t, 2.0f)}) src.push_back(x);
        const float absmax = 1.0f;
        std::vector<std::uint8_t> truth((src.size() + 1) / 2);
        k::reference::kernels.encode_book(src.data(), src.size(), 64, &absmax, book, truth.data(), nullptr);
        for (const auto* table : tables()) {
            std::vector<std::uint8_t> codes(truth.size());
            table->encode_book(src.data(), src.size(), 64, &absmax, book, codes.data(), nullptr);
            CHECK(codes == truth);
        }
    }
}

TEST_CASE("NaN and infinity are found in any lane") {
    for (const auto* table : tables()) {
        for (const std::size_t size : {1u, 15u, 16u, 17u, 100u}) {
            for (std::size_t at = 0; at < size; ++at) {
                for (const float bad :
                     {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
                      std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
                    std::vector<float> src(2 * size, 0.5f);
                    src[size + at] = bad;
                    float scales[2];
                    float zeros[2];
                    float low;
                    float high;
                    const k::int_layout layout{2, size, size, 0};
                    CHECK(table->choose_int(src.data(), layout, {}, scales, zeros) == 1);
                    CHECK(table->absmax_blocks(src.data(), 2 * size, size, scales) == 1);
                    CHECK_FALSE(table->extremes(src.data(), 2 * size, &low, &high));
                }
            }
        }
    }
}

TEST_CASE("f16 and bf16 equal the reference on every isa") {
    std::vector<std::uint16_t> halves(65536);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
    test::random rng(3);
    std::vector<float> floats(200003);
    for (auto& x : floats) {
        const std::uint32_t bits = rng.bits();
        std::memcpy(&x, &bits, 4);
    }
    // Half way between neighbours, and one step to either side.
    for (std::uint32_t h = 0; h < 0x7c00; h += 7) {
        const double mid = (static_cast<double>(bitmill::f32_from_f16(static_cast<std::uint16_t>(h))) +
                            static_cast<double>(bitmill::f32_from_f16(static_cast<std::uint16_t>(h + 1)))) /
                           2;
        for (const float x : {static_cast<float>(mid), std::nextafter(static_cast<float>(mid), 0.0f),
                              std::nextafter(static_cast<float>(mid), 1e9f)})
            floats.push_back(x);
    }
    const auto& truth = k::reference::kernels;
    for (const auto* table : tables()) {
        CAPTURE(table->name);
        std::vector<float> wide(halves.size());
        std::vector<float> wide_truth(halves.size());
        table->widen_f16(halves.data(), halves.size(), wide.data());
        truth.widen_f16(halves.data(), halves.size(), wide_truth.data());
        CHECK(same_bits(wide, wide_truth));
        table->widen_bf16(halves.data(), halves.size(), wide.data());
        truth.widen_bf16(halves.data(), halves.size(), wide_truth.data());
        CHECK(same_bits(wide, wide_truth));
        std::vector<std::uint16_t> narrow(floats.size());
        std::vector<std::uint16_t> narrow_truth(floats.size());
        table->narrow_f16(floats.data(), floats.size(), narrow.data());
        truth.narrow_f16(floats.data(), floats.size(), narrow_truth.data());
        CHECK(narrow == narrow_truth);
        table->narrow_bf16(floats.data(), floats.size(), narrow.data());
        truth.narrow_bf16(floats.data(), floats.size(), narrow_truth.data());
        CHECK(narrow == narrow_truth);
    }
}

TEST_CASE("measure equals the reference on every isa") {
    test::random rng(4);
    for (const std::size_t count : {0ul, 1ul, 16ul, 4095ul, 4096ul, 4097ul, 10000ul}) {
        const auto a = values_of(0, count, rng);
        const auto b = values_of(0, count, rng);
        k::sums truth;
        k::reference::kernels.measure(a.data(), b.data(), count, &truth);
        for (const auto* table : tables()) {
            k::sums got;
            table->measure(a.data(), b.data(), count, &got);
            CHECK(same_bits(got, truth));
        }
    }
}

TEST_CASE("set_isa forces an isa, and says no to others") {
    const std::string before = bitmill::isa();
    for (const auto& name : bitmill::isa_available()) {
        REQUIRE(bitmill::set_isa(name));
        CHECK(bitmill::isa() == name);
        CHECK(&k::active() == k::find(name));
    }
    const auto unknown = bitmill::set_isa("avx9000");
    REQUIRE_FALSE(unknown);
    CHECK(unknown.error().code == bitmill::error_code::invalid_argument);
    CHECK(unknown.error().message.find(bitmill::isa_available().front()) != std::string::npos);
    CHECK(bitmill::isa() == bitmill::isa_available().back());
    REQUIRE(bitmill::set_isa(before));
}
