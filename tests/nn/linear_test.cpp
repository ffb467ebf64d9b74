// A packed layer against a product in double of what the codec decodes: every scheme, tails, planes; the same bits for
// any threads, rows and instruction set.
#include <bitmill/nn/linear.hpp>

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/kernels/dispatch.hpp>

#include <weights.hpp>

using bitmill::dtype;
using bitmill::granularity;
using bitmill::linear;
using bitmill::scheme_type;
using bitmill_test::make_weights;

namespace {

// A weight as codec.hpp encodes it, its scales as f32.
struct encoded {
    bitmill::scheme scheme;
    std::size_t rows, cols;
    std::vector<std::byte> codes, residual;
    std::vector<float> scales, nested;
    std::vector<std::int8_t> zeros;
    bitmill::encoded_view view{};

    encoded(const bitmill::scheme& s, std::size_t row_count, std::size_t col_count, std::uint64_t seed)
        : scheme(s), rows(row_count), cols(col_count) {
        const auto w = make_weights(rows * cols, seed);
        const auto sizes = bitmill::encode_bound(s, rows, cols).value();
        codes.resize(sizes.codes);
        residual.resize(sizes.residual);
        std::vector<std::byte> stored(sizes.scales);
        zeros.resize(sizes.zero_points);
        nested.resize(sizes.nested_scales / 4);
        view = {codes.data(),
                stored.data(),
                reinterpret_cast<std::byte*>(zeros.data()),
                reinterpret_cast<std::byte*>(nested.data()),
                0,
                residual.data()};
        REQUIRE(bitmill::encode(s, {dtype::f32, w.data(), rows, cols}, view));
        widen(stored);
        decoded = decode(stored);
    }

    void widen(std::vector<std::byte>& stored) {
        if (bitmill::is_plain(scheme.type)) return;
        if (scheme.double_quant) {
            scales.resize(stored.size());
            bitmill::decode_nested({reinterpret_cast<const std::uint8_t*>(stored.data()), stored.size()},
                                   nested.data(), view.nested_offset, scales.data());
            return;
        }
        const dtype type = bitmill::facts(scheme.type).integer ? scheme.scale_dtype : dtype::f32;
        scales.resize(stored.size() / bitmill::element_bytes(type));
        bitmill::cast({type, stored.data(), 1, scales.size()}, dtype::f32, scales.data());
    }
    std::vector<float> decode(std::vector<std::byte>& stored, bool both = true) {
        view.scales = stored.data();
        std::vector<float> out(rows * cols);
        auto from = view;
        if (!both || residual.empty()) from.residual = nullptr;
        bitmill::decode(scheme, from, rows, cols, dtype::f32, out.data()).value();
        return out;
    }
    [[nodiscard]] bitmill::linear_source source() const {
        return {scheme,
                rows,
                cols,
                codes.data(),
                scales.data(),
                zeros.data(),
                residual.empty() ? nullptr : residual.data()};
    }
    std::vector<float> decoded;
};

bitmill::scheme make(scheme_type type, granularity grain, std::size_t group = 0, bool symmetric = true,
                     dtype scales = dtype::f32) {
    bitmill::scheme s;
    s.type = type;
    s.granularity = grain;
    s.group_size = group;
    s.symmetric = symmetric;
    s.scale_dtype = scales;
    return s;
}

bitmill::scheme planes(std::size_t group) {
    auto s = make(scheme_type::int8, granularity::group, group, true, dtype::f16);
    s.planes = true;
    return s;
}

std::vector<bitmill::scheme> all_schemes() {
    auto nested = make(scheme_type::nf4, granularity::block, 64);
    nested.double_quant = true;
    auto offset = make(scheme_type::int8, granularity::per_channel);
    offset.offset_binary = true;
    auto aligned = make(scheme_type::int4, granularity::group, 32, false, dtype::bf16);
    aligned.row_alignment = 16;
    return {make(scheme_type::f32, granularity::per_tensor),
            make(scheme_type::f16, granularity::per_tensor),
            make(scheme_type::bf16, granularity::per_tensor),
            make(scheme_type::int8, granularity::per_tensor),
            make(scheme_type::int8, granularity::per_channel, 0, false),
            offset,
            make(scheme_type::int8, granularity::group, 64),
            make(scheme_type::int4, granularity::group, 128, true, dtype::f16),
            make(scheme_type::int4, granularity::group, 32, false),
            aligned,
            make(scheme_type::int4, granularity::per_channel),
            make(scheme_type::int2, granularity::group, 32, false, dtype::f16),
            make(scheme_type::nf4, granularity::block, 64),
            make(scheme_type::fp4, granularity::block, 128),
            nested,
            planes(128),
            planes(32)};
}

double largest(const std::vector<double>& x) {
    double most = 1e-9;
    for (const double one : x) most = std::max(most, std::fabs(one));
    return most;
}

// [rows, out] in double.
std::vector<double> product(const std::vector<float>& x, const std::vector<float>& w,
                            const std::vector<float>& bias, std::size_t rows, std::size_t in,
                            std::size_t out) {
    std::vector<double> y;
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t n = 0; n < out; ++n) {
            double sum = static_cast<double>(bias[n]);
            for (std::size_t k = 0; k < in; ++k)
                sum += static_cast<double>(x[m * in + k]) * static_cast<double>(w[n * in + k]);
            y.push_back(sum);
        }
    return y;
}

double worst(const std::vector<float>& y, const std::vector<double>& truth) {
    double most = 0;
    for (std::size_t i = 0; i < y.size(); ++i)
        most = std::max(most, std::fabs(static_cast<double>(y[i]) - truth[i]));
    return most / largest(truth);
}

double snr_db(const std::vector<float>& y, const std::vector<double>& truth) {
    double noise = 1e-30;
    double signal = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        noise += std::pow(static_cast<double>(y[i]) - truth[i], 2);
        signal += truth[i] * truth[i];
    }
    return 10 * std::log10(signal / noise);
}

std::vector<float> run_float(const linear& layer, const std::vector<float>& x, std::size_t rows,
                             bitmill::thread_team& team) {
    std::vector<float> y(rows * layer.out());
    layer.run(x.data(), rows, layer.in(), y.data(), 0, team);
    return y;
}
std::vector<float> run_int(const linear& layer, const std::vector<float>& x, std::size_t rows,
                           bitmill::thread_team& team) {
    std::vector<float> y(rows * layer.out());
    bitmill::quantized_rows q;
    q.assign(x.data(), rows, layer.in(), layer.in(), team);
    layer.run(q, y.data(), 0, team);
    return y;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

}  // namespace

TEST_CASE("every scheme gives the product with what the codec decodes") {
    bitmill::thread_team team(2);
    for (const auto& s : all_schemes())
        for (const std::size_t out : {1u, 35u}) {
            const std::size_t in = 384;
            CAPTURE(bitmill::to_text(s));
            const encoded w(s, out, in, 17);
            const auto bias = make_weights(out, 3);
            const auto x = make_weights(5 * in, 5, bitmill_test::spread::gaussian, 1);
            const auto layer = linear::pack(w.source(), bias.data());
            REQUIRE_MESSAGE(layer, layer.error().text());
            const auto truth = product(x, w.decoded, bias, 5, in, out);
            CHECK(worst(run_float(*layer, x, 5, team), truth) < 2e-6);
            CHECK(layer->integer() == bitmill::facts(s.type).integer);
            // The inputs' 8 bits: measured 42 to 47 dB on Gaussians.
            if (layer->integer() && out > 1) CHECK(snr_db(run_int(*layer, x, 5, team), truth) > 40);
        }
}

TEST_CASE("inputs in 8 bits that a layer does not take are refused") {
    bitmill::thread_team team(1);
    const auto x = make_weights(3 * 256, 5, bitmill_test::spread::gaussian, 1);
    std::vector<float> y(3 * 16);
    bitmill::quantized_rows narrow, fitting;
    narrow.assign(x.data(), 3, 128, 128, team);
    fitting.assign(x.data(), 3, 256, 256, team);
    CHECK(narrow.cols() == 128);
    const auto code_of = [&](const linear& layer, const bitmill::quantized_rows& q) {
        try {
            layer.run(q, y.data(), 0, team);
        } catch (const bitmill::exception& failure) {
            return failure.error().code;
        }
        return bitmill::error_code::ok;
    };
    for (const auto& s : all_schemes()) {
        CAPTURE(bitmill::to_text(s));
        const encoded w(s, 16, 256, 17);
        const auto layer = linear::pack(w.source(), nullptr).value();
        CHECK(code_of(layer, fitting) ==
              (layer.integer() ? bitmill::error_code::ok : bitmill::error_code::invalid_argument));
        CHECK(code_of(layer, narrow) == bitmill::error_code::invalid_argument);
    }
}

TEST_CASE("rows that do not fill words, steps or groups") {
    bitmill::thread_team team(1);
    for (const std::size_t in : {1u, 3u, 31u, 33u, 47u, 129u})
        for (const auto& s : {make(scheme_type::int8, granularity::per_channel),
                              make(scheme_type::int4, granularity::per_channel),
                              make(scheme_type::int2, granularity::per_channel, 0, false),
                              make(scheme_type::f32, granularity::per_tensor),
                              make(scheme_type::bf16, granularity::per_tensor)}) {
            CAPTURE(in);
            CAPTURE(bitmill::to_text(s));
            const encoded w(s, 17, in, in);
            const std::vector<float> bias(17, 0.25f);
            const auto x = make_weights(13 * in, 5, bitmill_test::spread::gaussian, 1);
            const auto layer = linear::pack(w.source(), bias.data());
            REQUIRE_MESSAGE(layer, layer.error().text());
            const auto truth = product(x, w.decoded, bias, 13, in, 17);
            CHECK(worst(run_float(*layer, x, 13, team), truth) < 2e-6);
            if (layer->integer()) CHECK(worst(run_int(*layer, x, 13, team), truth) < 0.02);
        }
}

TEST_CASE("planes: dropping the residual gives int4, adding it gives int8 back, bit for bit") {
    bitmill::thread_team team(1);
    const encoded w(planes(128), 40, 256, 9);
    const auto x = make_weights(3 * 256, 5, bitmill_test::spread::gaussian, 1);
    auto layer = linear::pack(w.source(), nullptr).value();
    auto base_only = w.source();
    base_only.residual = nullptr;
    auto base = linear::pack(base_only, nullptr).value();
    const auto int8 = run_int(layer, x, 3, team);
    const auto int4 = run_int(base, x, 3, team);
    CHECK(layer.type() == scheme_type::int8);
    CHECK(base.type() == scheme_type::int4);
    const std::size_t both_bytes = layer.bytes();
    layer.drop_rest();
    CHECK(layer.type() == scheme_type::int4);
    CHECK(layer.bytes() + 40 * 256 / 2 <= both_bytes);
    CHECK(same(run_int(layer, x, 3, team), int4));
    layer.add_rest(w.residual.data()).value();
    CHECK(same(run_int(layer, x, 3, team), int8));
    base.add_rest(w.residual.data()).value();
    CHECK(same(run_int(base, x, 3, team), int8));
    const encoded plain(make(scheme_type::int4, granularity::group, 128), 8, 128, 1);
    auto other = linear::pack(plain.source(), nullptr).value();
    CHECK(other.add_rest(w.residual.data()).error().code == bitmill::error_code::invalid_argument);
}

TEST_CASE("the same bits for every instruction set, any threads, alone or in any batch") {
    const std::string before = bitmill::isa();
    const std::size_t in = 416;
    const std::size_t out = 150;
    const std::size_t rows = 300;
    const auto x = make_weights(rows * in, 5, bitmill_test::spread::heavy_tails, 1);
    for (const auto& s : {make(scheme_type::int8, granularity::per_channel), planes(32),
                          make(scheme_type::int4, granularity::group, 32, false),
                          make(scheme_type::f32, granularity::per_tensor)}) {
        CAPTURE(bitmill::to_text(s));
        const encoded w(s, out, in, 21);
        const auto layer = linear::pack(w.source(), nullptr).value();
        std::vector<float> floats;
        std::vector<float> integers;
        for (const auto& name : bitmill::isa_available()) {
            CAPTURE(name);
            bitmill::set_isa(name).value();
            for (const unsigned threads : {1u, 2u, 3u, 7u}) {
                bitmill::thread_team team(threads);
                const auto f = run_float(layer, x, rows, team);
                if (floats.empty()) floats = f;
                CHECK(same(f, floats));
                if (!layer.integer()) continue;
                const auto q = run_int(layer, x, rows, team);
                if (integers.empty()) integers = q;
                CHECK(same(q, integers));
            }
            bitmill::thread_team team(2);
            for (const std::size_t row : {0u, 11u, 12u, 299u}) {
                const std::vector<float> one(x.begin() + static_cast<std::ptrdiff_t>(row * in),
                                             x.begin() + static_cast<std::ptrdiff_t>((row + 1) * in));
                const auto y = run_float(layer, one, 1, team);
                CHECK(std::memcmp(y.data(), floats.data() + row * out, out * 4) == 0);
                if (!layer.integer()) continue;
                const auto q = run_int(layer, one, 1, team);
                CHECK(std::memcmp(q.data(), integers.data() + row * out, out * 4) == 0);
            }
        }
    }
    bitmill::set_isa(before).value();
}

TEST_CASE("strides, a residual that is the destination, many rows") {
    bitmill::thread_team team(2);
    const encoded w(make(scheme_type::int8, granularity::per_channel), 20, 64, 2);
    const auto layer = linear::pack(w.source(), nullptr).value();
    const std::size_t rows = 5;
    const auto x = make_weights(rows * 70, 5, bitmill_test::spread::gaussian, 1);
    const auto residual = make_weights(rows * 30, 6);
    std::vector<float> expected(rows * 20);
    layer.run(x.data(), rows, 70, expected.data(), 0, team,
              {.activation = bitmill::activation_function::relu,
               .residual = residual.data(),
               .residual_stride = 30});
    auto y = residual;
    layer.run(
        x.data(), rows, 70, y.data(), 30, team,
        {.activation = bitmill::activation_function::relu, .residual = y.data(), .residual_stride = 30});
    for (std::size_t m = 0; m < rows; ++m) {
        CHECK(std::memcmp(y.data() + m * 30, expected.data() + m * 20, 80) == 0);
        CHECK(std::memcmp(y.data() + m * 30 + 20, residual.data() + m * 30 + 20, 40) == 0);
    }
}

TEST_CASE("what a layer refuses") {
    const encoded w(make(scheme_type::int4, granularity::group, 128), 8, 128, 1);
    auto odd = w.source();
    odd.scheme.group_size = 16;
    CHECK(linear::pack(odd, nullptr).error().code == bitmill::error_code::unsupported);
    auto blocks = w.source();
    blocks.scheme = bitmill::ggml_scheme(scheme_type::q4_0);
    CHECK(linear::pack(blocks, nullptr).error().code == bitmill::error_code::unsupported);
    auto crossing = w.source();
    crossing.scheme = make(scheme_type::nf4, granularity::block, 64);
    crossing.cols = 96;
    CHECK(linear::pack(crossing, nullptr).error().code == bitmill::error_code::unsupported);
    auto empty = w.source();
    empty.cols = 0;
    CHECK(linear::pack(empty, nullptr).error().code == bitmill::error_code::invalid_argument);
    auto bare = w.source();
    bare.scales = nullptr;
    CHECK(linear::pack(bare, nullptr).error().code == bitmill::error_code::invalid_argument);
    auto asymmetric = w.source();
    asymmetric.scheme.symmetric = false;
    asymmetric.zero_points = nullptr;
    CHECK(linear::pack(asymmetric, nullptr).error().code == bitmill::error_code::invalid_argument);
}

TEST_CASE("a team runs every piece once, passes on what a task throws, and serves two callers") {
    for (const unsigned threads : {1u, 2u, 5u}) {
        bitmill::thread_team team(threads);
        CHECK(team.threads() == threads);
        for (int round = 0; round < 200; ++round) {
            std::vector<std::atomic<int>> done(static_cast<std::size_t>(round % 23));
            team.run(done.size(), [&](std::size_t i) { ++done[i]; });
            for (const auto& one : done) REQUIRE(one == 1);
        }
        CHECK_THROWS_AS(team.run(9,
                                 [](std::size_t i) {
                                     if (i == 4) throw std::runtime_error("four");
                                 }),
                        std::runtime_error);
        std::atomic<int> count{0};
        const auto work = [&] {
            for (int i = 0; i < 300; ++i) team.run(7, [&](std::size_t) { ++count; });
        };
        {
            std::jthread other(work);
            work();
        }
        CHECK(count == 2 * 300 * 7);
    }
    std::size_t asked = 0;
    bitmill::thread_team host(3, [&](std::size_t n, const bitmill::task_fn& task) {
        asked = n;
        for (std::size_t i = n; i-- != 0;) task(i);
    });
    host.run(4, [](std::size_t) {});
    CHECK(asked == 4);
}

TEST_CASE("a host's thread that waits may run another layer meanwhile") {
    constexpr std::size_t rows = 30, in = 200, out = 40;
    test::random rng(8);
    std::vector<float> weight(in * out), x(rows * in);
    for (auto& one : weight) one = rng.normal();
    for (auto& one : x) one = rng.normal();
    bitmill::linear_source source;
    source.scheme.type = bitmill::scheme_type::f32;
    source.rows = out;
    source.cols = in;
    source.codes = reinterpret_cast<const std::byte*>(weight.data());
    const auto layer = bitmill::linear::pack(source, nullptr).value();
    const auto run = [&](std::size_t count, bitmill::thread_team& team) {
        std::vector<float> y(count * out);
        layer.run(x.data(), count, in, y.data(), 0, team);
        return y;
    };
    bitmill::thread_team alone(1);
    const auto truth = run(rows, alone);
    bool busy = false;
    bitmill::thread_team host(2, [&](std::size_t n, const bitmill::task_fn& task) {
        for (std::size_t i = 0; i < n; ++i) task(i);
        if (std::exchange(busy, true)) return;
        const std::vector<float> other(x.rbegin(), x.rend());
        std::vector<float> y(rows * out);
        layer.run(other.data(), rows, in, y.data(), 0, host);
        busy = false;
    });
    CHECK(run(rows, host) == truth);
}
