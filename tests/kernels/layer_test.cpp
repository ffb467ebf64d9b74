// EXACT: every instruction set that this CPU runs gives the bits of the scalar truth of layers. ULP: the functions
// against those of <cmath> in double.
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/kernels/layer_reference.hpp>

#include "random.hpp"

namespace k = bitmill::kernels;

namespace {

std::vector<float> normals(std::size_t count, test::random& rng, float size = 1) {
    std::vector<float> out(count);
    for (auto& x : out) x = rng.normal() * size;
    return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

template <class Body>
void for_each_isa(const Body& body) {
    for (std::size_t i = 0; const char* name = k::available(i); ++i) {
        CAPTURE(name);
        body(k::find(name)->layers);
    }
}

// Weights of any codes, extremes among them, as panels.
struct weights {
    std::vector<std::uint8_t> codes, rest;
    std::vector<float> scales, zeros;
    k::panels view;

    weights(k::panel_type type, std::size_t columns, std::size_t depth, std::size_t scale_group,
            bool with_zeros, test::random& rng) {
        view.type = type;
        view.columns = columns;
        view.depth = depth;
        view.scale_group = scale_group;
        view.run = scale_group % 128 == 0 ? 128 : scale_group % 64 == 0 ? 64 : 32;
        const std::size_t panels = (columns + 15) / 16;
        fill(panels * k::panel_bytes(type, depth), rng);
        view.codes = codes.data();
        view.rest = rest.data();
        view.book = &bitmill::book_of(bitmill::scheme_type::nf4);
        if (type == k::panel_type::f32 || type == k::panel_type::f16 || type == k::panel_type::bf16) return;
        static constexpr float middles[] = {128, 8, 136, 2};
        view.zero = type == k::panel_type::book ? 0 : middles[static_cast<int>(type)];
        scales.resize(panels * view.scale_groups() * 16);
        for (auto& s : scales) s = 0.001f + rng.uniform() * 0.01f;
        view.scales = scales.data();
        if (!with_zeros) return;
        zeros.resize(scales.size());
        const int steps = type == k::panel_type::u2 ? 32 : 1;
        for (auto& z : zeros)
            z = view.zero +
                static_cast<float>(static_cast<int>(rng.below(31)) - 15) / static_cast<float>(steps);
        view.zeros = zeros.data();
    }

    void fill(std::size_t bytes, test::random& rng) {
        codes.resize(bytes);
        rest.resize(bytes);
        const bool f32 = view.type == k::panel_type::f32;
        const bool half = view.type == k::panel_type::f16 || view.type == k::panel_type::bf16;
        for (std::size_t i = 0; i < bytes; ++i) {
            codes[i] = rng.below(4) == 0 ? 0xff : static_cast<std::uint8_t>(rng.bits());
            rest[i] = static_cast<std::uint8_t>(rng.bits());
        }
        for (std::size_t i = 0; f32 && i < bytes / 4; ++i) {
            const float x = rng.normal() * 0.1f;
            std::memcpy(codes.data() + 4 * i, &x, 4);
        }
        for (std::size_t i = 0; half && i < bytes / 2; ++i) {
            const float x = rng.normal() * 0.1f;
            const std::uint16_t h =
                view.type == k::panel_type::f16 ? bitmill::f16_from_f32(x) : bitmill::bf16_from_f32(x);
            std::memcpy(codes.data() + 2 * i, &h, 2);
        }
    }
};

// Rows of activations, and how a table packs them.
struct activations {
    std::size_t rows, depth;
    std::vector<float> x, packed;
    std::vector<std::int8_t> codes;
    std::vector<float> scales;
    std::vector<std::int32_t> sums;

    activations(std::size_t row_count, std::size_t depth_of_all, test::random& rng)
        : rows(row_count), depth(depth_of_all), x(normals(rows * depth, rng)) {
        for (std::size_t i = 0; i < x.size(); i += 97) x[i] = 40;  // outliers
        for (std::size_t i = 0; i < x.size() && rows > 3; ++i)
            if (i / depth == 2) x[i] = i % depth < 128 ? 0.0f : 1e-33f;  // a row of nothing
    }
    void pack(const k::layer_table& table) {
        const std::size_t groups = (depth + 127) / 128;
        const std::size_t summed = (depth + 31) / 32;
        packed.assign(rows * depth, -1);
        codes.assign(rows * k::padded_depth(depth), 0);
        scales.assign(rows * groups, -1);
        sums.assign(rows * summed, -1);
        for (std::size_t row = 0; row < rows; row += 12) {
            const std::size_t n = std::min<std::size_t>(12, rows - row);
            table.pack_rows(x.data() + row * depth, depth, n, depth, packed.data() + row * depth);
            table.quantize_rows(x.data() + row * depth, depth, n, depth,
                                codes.data() + row * k::padded_depth(depth), scales.data() + row * groups,
                                sums.data() + row * summed);
        }
    }
};

struct shape {
    std::size_t rows, columns, depth;
};

// Both kernels of a table on one layer, cut into tasks as callers cut them.
std::vector<float> run(const k::layer_table& table, k::linear_call call, bool integer) {
    std::vector<float> dst(call.rows * call.weights->columns, std::numeric_limits<float>::quiet_NaN());
    std::vector<std::byte> room(k::linear_scratch_bytes(call.weights->depth) + 64);
    call.dst = dst.data();
    call.dst_stride = call.weights->columns;
    call.scratch = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64);
    const std::size_t panels = (call.weights->columns + 15) / 16;
    const std::size_t together = call.rows <= 2 ? 9 : 3;  // few rows take four panels at once
    for (std::size_t row = 0; row < call.rows; row += 24)
        for (std::size_t panel = 0; panel < panels; panel += together) {
            call.row_begin = row;
            call.row_end = std::min(call.rows, row + 24);
            call.panel_begin = panel;
            call.panel_end = std::min(panels, panel + together);
            integer ? table.linear_int(call) : table.linear_float(call);
        }
    return dst;
}

void check_linear(const shape& s, const weights& w, k::activation_function function, test::random& rng) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    CAPTURE(s.depth);
    CAPTURE(static_cast<int>(w.view.type));
    CAPTURE(w.view.scale_group);
    activations a(s.rows, s.depth, rng);
    const auto bias = normals(s.columns, rng);
    const auto residual = normals(s.rows * s.columns, rng);
    k::linear_call call;
    call.weights = &w.view;
    call.rows = s.rows;
    call.bias = bias.data();
    call.activation = function;
    call.residual = residual.data();
    call.residual_stride = s.columns;
    const auto codes = k::reference::quantize(a.x.data(), s.depth, s.rows, s.depth);
    std::vector<float> floats;
    std::vector<float> integers;
    const bool integer = k::facts(w.view.type).integer;
    for (std::size_t m = 0; m < s.rows; ++m)
        for (std::size_t n = 0; n < s.columns; ++n) {
            floats.push_back(k::reference::linear_float(call, a.x.data() + m * s.depth, m, n));
            if (integer) integers.push_back(k::reference::linear_int(call, codes, m, n));
        }
    for_each_isa([&](const k::layer_table& table) {
        a.pack(table);
        call.x = a.packed.data();
        call.quantized = {a.codes.data(), a.scales.data(), a.sums.data()};
        CHECK(same_bits(a.scales, codes.scales));
        CHECK(same_bits(run(table, call, false), floats));
        if (integer) CHECK(same_bits(run(table, call, true), integers));
    });
}

constexpr k::panel_type all_types[] = {k::panel_type::u8,  k::panel_type::u4,   k::panel_type::planes,
                                       k::panel_type::u2,  k::panel_type::book, k::panel_type::f32,
                                       k::panel_type::f16, k::panel_type::bf16};

}  // namespace

TEST_CASE("linear layers of every type, with tails of rows, columns and depth") {
    test::random rng(7);
    constexpr shape shapes[] = {{1, 16, 128},  {1, 40, 384},  {2, 33, 130}, {3, 1, 1},    {5, 17, 31},
                                {7, 50, 260},  {12, 32, 64},  {13, 47, 96}, {25, 16, 40}, {28, 70, 129},
                                {1, 170, 131}, {2, 140, 264}, {1, 64, 33},  {2, 64, 512}};
    constexpr k::activation_function functions[] = {
        k::activation_function::none, k::activation_function::gelu, k::activation_function::relu,
        k::activation_function::gelu_tanh, k::activation_function::tanh};
    std::size_t turn = 0;
    for (const auto type : all_types)
        for (const auto& s : shapes) {
            constexpr std::size_t groups[] = {0, 128, 64, 32, 96};
            const std::size_t group = groups[turn % 5];
            const weights w(type, s.columns, s.depth, group >= s.depth ? 0 : group, turn % 3 == 1, rng);
            check_linear(s, w, functions[turn % 5], rng);
            ++turn;
        }
}

TEST_CASE("integers at their extremes do not saturate") {
    for (const auto type : {k::panel_type::u8, k::panel_type::u4, k::panel_type::planes, k::panel_type::u2})
        for (const int code : {0, 255}) {
            test::random rng(3);
            const shape s{13, 16, 1024};
            weights w(type, s.columns, s.depth, 0, false, rng);
            std::fill(w.codes.begin(), w.codes.end(), static_cast<std::uint8_t>(code));
            std::fill(w.rest.begin(), w.rest.end(), static_cast<std::uint8_t>(code));
            activations a(s.rows, s.depth, rng);
            for (std::size_t i = 0; i < a.x.size(); ++i) a.x[i] = i / s.depth % 2 == 0 ? 1.0f : -1.0f;
            k::linear_call call;
            call.weights = &w.view;
            call.rows = s.rows;
            const auto codes = k::reference::quantize(a.x.data(), s.depth, s.rows, s.depth);
            CHECK(codes.codes[0] == 127);
            for_each_isa([&](const k::layer_table& table) {
                a.pack(table);
                call.quantized = {a.codes.data(), a.scales.data(), a.sums.data()};
                const auto got = run(table, call, true);
                for (std::size_t m = 0; m < s.rows; ++m)
                    REQUIRE(got[m * 16] == k::reference::linear_int(call, codes, m, 0));
            });
        }
}

TEST_CASE("codes of activations: rounding, sums, padding, what is not finite") {
    test::random rng(5);
    for (const std::size_t depth : {1u, 15u, 16u, 17u, 127u, 128u, 129u, 300u})
        for (const std::size_t rows : {1u, 5u, 12u}) {
            activations a(rows, depth, rng);
            if (rows == 5) a.x[depth] = std::numeric_limits<float>::infinity();
            if (rows == 12) a.x[0] = std::numeric_limits<float>::quiet_NaN();
            const auto truth = k::reference::quantize(a.x.data(), depth, rows, depth);
            for_each_isa([&](const k::layer_table& table) {
                a.pack(table);
                const std::size_t padded = k::padded_depth(depth);
                for (std::size_t m = 0; m < rows; ++m) {
                    std::vector<int> sums((depth + 31) / 32);
                    for (std::size_t i = 0; i < padded; ++i) {
                        const int code = a.codes[i / 4 * 4 * rows + 4 * m + i % 4];
                        REQUIRE(code == (i < depth ? truth.codes[m * depth + i] : 0));
                        if (i < depth) sums[i / 32] += code;
                    }
                    for (std::size_t i = 0; i < sums.size(); ++i)
                        REQUIRE(a.sums[m * sums.size() + i] == sums[i]);
                }
                for (std::size_t i = 0; i < truth.scales.size(); ++i)
                    CHECK((a.scales[i] == truth.scales[i] ||
                           (std::isnan(a.scales[i]) && std::isnan(truth.scales[i]))));
            });
        }
}

TEST_CASE("layer norm") {
    test::random rng(9);
    for (const std::size_t count : {1u, 3u, 15u, 16u, 17u, 48u, 384u, 769u}) {
        const auto x = normals(count, rng, 3);
        const auto weight = normals(count, rng);
        const auto bias = normals(count, rng);
        std::vector<float> truth(count);
        k::reference::layer_norm(x.data(), count, weight.data(), bias.data(), 1e-12f, truth.data());
        for_each_isa([&](const k::layer_table& table) {
            std::vector<float> got = x;
            table.layer_norm(got.data(), count, weight.data(), bias.data(), 1e-12f, got.data());
            CHECK(same_bits(got, truth));
        });
    }
}

TEST_CASE("attention") {
    test::random rng(11);
    for (const std::size_t length : {1u, 2u, 11u, 12u, 13u, 16u, 33u, 70u})
        for (const std::size_t width : {1u, 4u, 16u, 19u, 64u}) {
            const std::size_t stride = 3 * width + 5;
            const auto all = normals(length * stride, rng, 2);
            const float* q = all.data();
            const float* key = q + width;
            const float* v = key + width;
            const float scale = 1.0f / std::sqrt(static_cast<float>(width));
            std::vector<float> truth(length * width);
            k::reference::attend(q, key, v, length, width, stride, scale, truth.data(), width);
            for_each_isa([&](const k::layer_table& table) {
                std::vector<std::byte> room(k::attention_scratch_bytes(length, width) + 64);
                std::byte* scratch = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64);
                for (const std::size_t cut : {length, std::size_t{32}, std::size_t{5}}) {
                    std::vector<float> got(length * width, -7);
                    for (std::size_t row = 0; row < length; row += cut)
                        table.attend(q, key, v, length, width, stride, scale, row,
                                     std::min<std::size_t>(length, row + cut), got.data(), width, scratch);
                    CHECK(same_bits(got, truth));
                }
            });
        }
}

TEST_CASE("a NaN stays one: in every activation, in a score of attention") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    test::random rng(21);
    const weights w(k::panel_type::f32, 20, 33, 0, false, rng);
    activations a(13, 33, rng);
    auto bias = normals(20, rng);
    bias[3] = bias[18] = nan;
    k::linear_call call;
    call.weights = &w.view;
    call.rows = 13;
    call.bias = bias.data();
    const std::size_t length = 37, width = 24;
    auto all = normals(3 * length * width, rng);
    all[length * width + 5 * width + 7] = nan;  // of one key
    for_each_isa([&](const k::layer_table& table) {
        a.pack(table);
        call.x = a.packed.data();
        for (const auto function :
             {k::activation_function::none, k::activation_function::gelu, k::activation_function::gelu_tanh,
              k::activation_function::relu, k::activation_function::tanh}) {
            call.activation = function;
            const auto got = run(table, call, false);
            for (std::size_t i = 0; i < got.size(); ++i)
                REQUIRE(std::isnan(got[i]) == (i % 20 == 3 || i % 20 == 18));
            CHECK(std::isnan(k::reference::activate(nan, function)));
        }
        std::vector<std::byte> room(k::attention_scratch_bytes(length, width) + 64);
        std::byte* scratch = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64);
        std::vector<float> got(length * width, 0);
        table.attend(all.data(), all.data() + length * width, all.data() + 2 * length * width, length, width,
                     width, 0.2f, 0, length, got.data(), width, scratch);
        for (const float one : got) REQUIRE(std::isnan(one));
    });
}

TEST_CASE("exp, gelu and tanh are near the exact ones") {
    double worst_exp = 0;
    double worst_gelu = 0;
    double worst_tanh = 0;
    double worst_approximation = 0;
    for (int i = -200000; i <= 200000; ++i) {
        const float x = static_cast<float>(i) * 1e-4f;  // -20 to 20
        const double wide = static_cast<double>(x);
        if (x <= 0)
            worst_exp = std::max(worst_exp,
                                 std::fabs(static_cast<double>(k::reference::exp(x)) / std::exp(wide) - 1));
        const double gelu = wide * std::erfc(-wide / std::sqrt(2.0)) / 2;
        worst_gelu = std::max(worst_gelu, std::fabs(static_cast<double>(k::reference::gelu(x)) - gelu) /
                                              std::max(std::fabs(wide), 1e-3));
        worst_tanh =
            std::max(worst_tanh, std::fabs(static_cast<double>(k::reference::tanh(x)) - std::tanh(wide)));
        const double inner = std::sqrt(2 / 3.14159265358979323846) * (wide + 0.044715 * wide * wide * wide);
        worst_approximation = std::max(
            worst_approximation,
            std::fabs(static_cast<double>(k::reference::gelu_tanh(x)) - wide / 2 * (1 + std::tanh(inner))) /
                std::max(std::fabs(wide), 1.0));
    }
    CHECK(worst_exp < 1.5e-7);
    CHECK(worst_gelu < 2e-7);
    CHECK(worst_tanh < 1.5e-7);
    CHECK(worst_approximation < 4e-7);
}
