// EXACT: every instruction set that this CPU runs gives the bits of the scalar reference.
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/kernels/reference.hpp>

#include "random.hpp"

namespace k = bitmill::kernels;

namespace {

// Every family of values that a weight may come from: ordinary, tiny, huge, denormal, equal, zero, with ties,
// with outliers, any finite bits.
void fill(unsigned family, std::span<float> out, test::random& rng) {
    for (auto& x : out) {
        switch (family) {
            case 0: x = rng.normal() * 0.05f; break;
            case 1: x = rng.normal() * 1e-30f; break;
            case 2: x = rng.normal() * 1e37f; break;
            case 3: x = static_cast<float>(rng.below(2001)) * 1e-42f - 1e-39f; break;
            case 4: x = -0.75f; break;
            case 5: x = rng.below(2) != 0 ? 0.0f : -0.0f; break;
            case 6: x = static_cast<float>(rng.below(31)) * 0.5f - 7.5f; break;  // ties
            case 7: x = rng.below(100) == 0 ? rng.normal() * 50 : rng.normal() * 0.01f; break;
            default:
                do x = std::bit_cast<float>(rng.bits());
                while (!std::isfinite(x));
        }
    }
}
constexpr unsigned families = 9;
constexpr unsigned widths[] = {8, 4, 2};

std::vector<float> values_of(unsigned family, std::size_t count, test::random& rng) {
    std::vector<float> out(count);
    fill(family, out, rng);
    return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    // memcmp wants a pointer even for no bytes, and an empty vector may have none.
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

bool same_bits(const k::sums& a, const k::sums& b) {
    return std::memcmp(&a.err2, &b.err2, 3 * sizeof(double)) == 0 &&
           std::memcmp(&a.max_err, &b.max_err, 4) == 0;
}

// What a table makes of `src`: every output of the kernels that belong together.
struct outcome {
    std::size_t chosen = 0;
    std::vector<float> scales, zeros, back;
    std::vector<std::uint8_t> codes;
    k::sums sums;

    bool operator==(const outcome& other) const {
        return chosen == other.chosen && same_bits(scales, other.scales) && same_bits(zeros, other.zeros) &&
               codes == other.codes && same_bits(back, other.back) && same_bits(sums, other.sums);
    }
};

outcome code_integers(const k::table& table, const std::vector<float>& src, const k::int_layout& layout,
                      const k::int_rule& rule, bool stream) {
    outcome out;
    out.scales.resize(layout.groups);
    out.zeros.resize(layout.groups);
    out.back.resize(layout.groups * layout.group);
    out.codes.resize(layout.groups * layout.stride);
    out.chosen = table.choose_int(src.data(), layout, rule, out.scales.data(), out.zeros.data());
    table.encode_int(src.data(), layout, rule.bits, out.scales.data(), out.zeros.data(), out.codes.data(),
                     &out.sums);
    table.decode_int(out.codes.data(), layout, rule.bits, out.scales.data(), out.zeros.data(),
                     out.back.data(), stream);
    return out;
}

// Sums of both planes stand in `sums`, those of the base alone behind the decoded values.
outcome code_planes(const k::table& table, const std::vector<float>& src, const k::int_layout& layout,
                    k::scale_type type, bool search, bool stream) {
    outcome out;
    const std::size_t bytes = layout.groups * layout.stride;
    out.scales.resize(layout.groups);
    out.zeros.resize(layout.groups);
    out.back.resize(layout.groups * layout.group + 4);
    out.codes.resize(2 * bytes);
    const k::int_rule rule{4, true, search, type, true};
    out.chosen = table.choose_int(src.data(), layout, rule, out.scales.data(), out.zeros.data());
    k::sums alone;
    table.encode_planes(src.data(), layout, out.scales.data(), out.codes.data(), out.codes.data() + bytes,
                        &out.sums, &alone);
    table.decode_planes(out.codes.data(), out.codes.data() + bytes, layout, out.scales.data(),
                        out.back.data(), stream);
    float* sums = out.back.data() + layout.groups * layout.group;
    sums[0] = static_cast<float>(alone.err2);
    sums[1] = static_cast<float>(alone.src2);
    sums[2] = static_cast<float>(alone.dst2);
    sums[3] = alone.max_err;
    return out;
}

outcome code_by_book(const k::table& table, const std::vector<float>& src, std::size_t block,
                     const k::code_book& book, bool stream) {
    outcome out;
    out.scales.resize((src.size() + block - 1) / block);
    out.back.resize(src.size());
    out.codes.resize((src.size() + 1) / 2);
    out.chosen = table.absmax_blocks(src.data(), src.size(), block, out.scales.data());
    table.encode_book(src.data(), src.size(), block, out.scales.data(), book, out.codes.data(), &out.sums);
    table.decode_book(out.codes.data(), src.size(), block, out.scales.data(), book, out.back.data(), stream);
    return out;
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
            for (unsigned mode = 0; mode < 36; ++mode) {
                const k::int_rule rule{widths[mode / 12], mode % 2 == 0, (mode / 2) % 2 == 0,
                                       static_cast<k::scale_type>(mode / 4 % 3)};
                k::int_layout layout{groups, group, (group * rule.bits + 7) / 8 + 3,
                                     static_cast<std::uint8_t>(mode % 3 == 0 ? 0x80 : 0)};
                const bool stream = mode % 5 == 0;
                const auto truth = code_integers(k::reference::kernels, src, layout, rule, stream);
                REQUIRE(truth.chosen == groups);
                for (const auto* table : tables()) {
                    CAPTURE(std::string(table->name));
                    CAPTURE(group);
                    CAPTURE(family);
                    CAPTURE(mode);
                    const auto got = code_integers(*table, src, layout, rule, stream);
                    REQUIRE(got == truth);
                    for (const float one : got.back) REQUIRE_FALSE(std::isnan(one));
                    ++cases;
                }
            }
        }
    }
    MESSAGE("compared ", cases, " cases");
}

TEST_CASE("planes: choose, encode and decode equal the reference on every isa") {
    test::random rng(6);
    for (const std::size_t group : {1u, 7u, 15u, 16u, 17u, 32u, 33u, 64u, 128u, 1000u, 4096u}) {
        for (unsigned family = 0; family < families; ++family) {
            const std::size_t groups = group > 1000 ? 2 : 5;
            const auto src = values_of(family, groups * group, rng);
            for (unsigned mode = 0; mode < 8; ++mode) {
                const auto type = mode % 2 == 0 ? k::scale_type::f16 : k::scale_type::bf16;
                const bool search = mode / 2 % 2 == 0;
                const k::int_layout layout{groups, group, (group + 1) / 2 + 3, 0};
                const auto truth =
                    code_planes(k::reference::kernels, src, layout, type, search, mode / 4 == 0);
                REQUIRE(truth.chosen == groups);
                for (const auto* table : tables()) {
                    CAPTURE(std::string(table->name));
                    CAPTURE(group);
                    CAPTURE(family);
                    CAPTURE(mode);
                    const auto got = code_planes(*table, src, layout, type, search, mode / 4 == 0);
                    REQUIRE(got == truth);
                    for (std::size_t i = 0; i < src.size(); ++i) REQUIRE_FALSE(std::isnan(got.back[i]));
                }
            }
        }
    }
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
                    const auto truth = code_by_book(k::reference::kernels, src, block, book, count % 2 == 0);
                    REQUIRE(truth.chosen == truth.scales.size());
                    for (const auto* table : tables()) {
                        CAPTURE(std::string(table->name));
                        CAPTURE(block);
                        CAPTURE(count);
                        CAPTURE(family);
                        REQUIRE(code_by_book(*table, src, block, book, count % 2 == 0) == truth);
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

TEST_CASE("blocks of GGUF: encode and decode equal the reference on every isa") {
    test::random rng(8);
    for (const auto& type : bitmill::ggml_table) {
        if (type.block_elements == 1) continue;
        const std::size_t blocks = type.block_elements == 32 ? 20 : 4;
        for (unsigned family = 0; family < families; ++family) {
            auto src = values_of(family, blocks * type.block_elements, rng);
            // Parts of a block that lie far apart.
            if (family == 0)
                for (std::size_t i = 0; i < src.size(); ++i)
                    src[i] *= std::ldexp(1.0f, -static_cast<int>(i % 128));
            std::vector<std::uint8_t> random(blocks * type.block_bytes);
            for (auto& byte : random) byte = static_cast<std::uint8_t>(rng.bits());
            for (const bool search : {false, true}) {
                std::vector<std::uint8_t> truth = random;
                const bool writes = k::shape_of(type.type).book == bitmill::kernels::ggml_book::none;
                if (writes)
                    REQUIRE(k::reference::kernels.encode_ggml(src.data(), blocks, type.type, search,
                                                              truth.data()) == blocks);
                std::vector<float> back(src.size());
                k::reference::kernels.decode_ggml(truth.data(), blocks, type.type, back.data(), false);
                for (const auto* table : tables()) {
                    CAPTURE(std::string(table->name));
                    CAPTURE(std::string(type.name));
                    CAPTURE(family);
                    CAPTURE(search);
                    std::vector<std::uint8_t> codes = random;
                    if (writes)
                        REQUIRE(table->encode_ggml(src.data(), blocks, type.type, search, codes.data()) ==
                                blocks);
                    REQUIRE(codes == truth);
                    std::vector<float> got(src.size());
                    table->decode_ggml(truth.data(), blocks, type.type, got.data(), search);
                    for (std::size_t i = 0; i < got.size(); ++i) {
                        if (writes) REQUIRE(std::isfinite(got[i]));
                        // A NaN may carry any sign and payload.
                        REQUIRE(
                            (std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(back[i]) ||
                             (std::isnan(got[i]) && std::isnan(back[i]))));
                    }
                }
            }
        }
    }
}

TEST_CASE("blocks of GGUF: NaN and infinity are found in any element") {
    for (const auto* table : tables())
        for (const auto type : {bitmill::ggml_type::q4_0, bitmill::ggml_type::q4_k}) {
            const std::size_t block = bitmill::facts(type).block_elements;
            std::vector<float> src(2 * block, 0.5f);
            std::vector<std::uint8_t> codes(2 * bitmill::facts(type).block_bytes);
            for (std::size_t at = 0; at < 2 * block; ++at)
                for (const float bad :
                     {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
                    src[at] = bad;
                    for (const bool search : {false, true})
                        CHECK(table->encode_ggml(src.data(), 2, type, search, codes.data()) == at / block);
                    src[at] = 0.5f;
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
        CAPTURE(std::string(table->name));
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

namespace {

// The other kernels of a table: range, f16 and bf16 there and back, sums.
struct passes {
    bool finite = false;
    float low = 0, high = 0;
    std::vector<std::uint16_t> f16, bf16;
    std::vector<float> from_f16, from_bf16;
    k::sums sums;

    passes(const k::table& table, const std::vector<float>& src)
        : f16(src.size()), bf16(src.size()), from_f16(src.size()), from_bf16(src.size()) {
        finite = table.extremes(src.data(), src.size(), &low, &high);
        table.narrow_f16(src.data(), src.size(), f16.data());
        table.narrow_bf16(src.data(), src.size(), bf16.data());
        table.widen_f16(f16.data(), src.size(), from_f16.data());
        table.widen_bf16(bf16.data(), src.size(), from_bf16.data());
        table.measure(src.data(), from_bf16.data(), src.size(), &sums);
    }
    bool operator==(const passes& other) const {
        return finite == other.finite &&
               std::bit_cast<std::uint32_t>(low) == std::bit_cast<std::uint32_t>(other.low) &&
               std::bit_cast<std::uint32_t>(high) == std::bit_cast<std::uint32_t>(other.high) &&
               f16 == other.f16 && bf16 == other.bf16 && same_bits(from_f16, other.from_f16) &&
               same_bits(from_bf16, other.from_bf16) && same_bits(sums, other.sums);
    }
};

}  // namespace

// 10^4 blocks of 32 to 128 weights through every kernel; 10^6 where BITMILL_TEST_ALL is set.
TEST_CASE("random blocks: every kernel equals the reference on every isa") {
    const std::size_t wanted = std::getenv("BITMILL_TEST_ALL") != nullptr ? 1'000'000 : 10'000;
    constexpr std::size_t groups = 50;
    const auto& reference = k::reference::kernels;
    test::random rng(5);
    for (std::size_t done = 0; done < wanted; done += groups) {
        const std::size_t group = 32 + rng.below(97);
        std::vector<float> src(groups * group);
        for (std::size_t g = 0; g < groups; ++g)
            fill(rng.below(families), std::span(src).subspan(g * group, group), rng);
        const k::int_rule rule{widths[rng.below(3)], rng.below(2) != 0, rng.below(2) != 0,
                               static_cast<k::scale_type>(rng.below(3))};
        const k::int_layout layout{groups, group, (group * rule.bits + 7) / 8 + rng.below(4),
                                   static_cast<std::uint8_t>(rng.bits())};
        const auto& book =
            bitmill::book_of(rng.below(2) != 0 ? bitmill::scheme_type::nf4 : bitmill::scheme_type::fp4);
        const std::size_t block = std::size_t{32} << rng.below(3);
        const bool stream = rng.below(2) != 0;

        const auto integers = code_integers(reference, src, layout, rule, stream);
        const auto by_book = code_by_book(reference, src, block, book, stream);
        const auto plane_type = rng.below(2) != 0 ? k::scale_type::f16 : k::scale_type::bf16;
        const bool search = rng.below(2) != 0;
        const k::int_layout half{groups, group, (group + 1) / 2 + rng.below(4), 0};
        const auto planes = code_planes(reference, src, half, plane_type, search, stream);
        const passes others(reference, src);
        CAPTURE(done);
        for (const auto* table : tables()) {
            CAPTURE(std::string(table->name));
            REQUIRE(code_integers(*table, src, layout, rule, stream) == integers);
            REQUIRE(code_by_book(*table, src, block, book, stream) == by_book);
            REQUIRE(code_planes(*table, src, half, plane_type, search, stream) == planes);
            REQUIRE(passes(*table, src) == others);
        }
    }
}

TEST_CASE("set_isa forces an isa, and says no to others") {
    const std::string before = bitmill::isa();
    if (std::getenv("BITMILL_FORCE_ISA") == nullptr) CHECK(before == bitmill::isa_available().back());
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
