// What coding costs: floors of the signal-to-noise ratio on Gaussian weights, mse against absmax, and the
// metrics against sums of our own.
#include <bitmill/codec/codec.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <coded.hpp>
#include <weights.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::granularity;
using bitmill::method;
using bitmill::scheme;
using bitmill::scheme_type;

namespace {

struct own_sums {
    double err2 = 0, src2 = 0, dst2 = 0, dot = 0, max_err = 0;
    [[nodiscard]] double snr() const { return 10 * std::log10(src2 / err2); }
};

struct measured {
    own_sums own;
    bitmill::error_metrics reported;
};

measured run(const coding& how, dtype type, const std::vector<float>& floats, std::size_t rows) {
    const std::size_t cols = floats.size() / rows;
    const std::string bytes = bytes_as(type, floats);
    const aligned_bytes data(bytes);
    coded_matrix m(how.scheme, rows, cols, bitmill::encode_bound(how.scheme, rows, cols).value());
    bitmill::encode_options options;
    options.method = how.method;
    measured out;
    out.reported = bitmill::encode(how.scheme, view_of(type, data, rows, cols), m.view, options).value();
    const auto source = values_of(type, bytes.data(), floats.size());
    const std::string decoded = m.decoded(dtype::f32);
    const auto back = values_of(dtype::f32, decoded.data(), floats.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
        const double error = source[i] - back[i];
        out.own.err2 += error * error;
        out.own.src2 += source[i] * source[i];
        out.own.dst2 += back[i] * back[i];
        out.own.dot += source[i] * back[i];
        out.own.max_err = std::max(out.own.max_err, std::fabs(error));
    }
    return out;
}

scheme grouped(scheme_type type, std::size_t group, bool symmetric = true) {
    return {.type = type, .granularity = granularity::group, .group_size = group, .symmetric = symmetric};
}
scheme blocks(scheme_type type, std::size_t size) {
    return {.type = type, .granularity = granularity::block, .group_size = size};
}

}  // namespace

TEST_CASE("quality: floors on Gaussian weights") {
    const auto floats = make_weights(32 * 4096, 77);
    struct floor {
        coding how;
        double db;
    };
    const floor floors[] = {
        {{{.type = scheme_type::int8}}, 40},
        {{grouped(scheme_type::int4, 128), method::mse}, 20.3},
        {{grouped(scheme_type::int4, 128), method::absmax}, 19},
        {{grouped(scheme_type::int4, 32, false), method::mse}, 22},
        {{grouped(scheme_type::int2, 64, false), method::mse}, 9.8},
        {{grouped(scheme_type::int2, 32, true), method::mse}, 9},
        {{blocks(scheme_type::nf4, 64)}, 20.5},
        {{blocks(scheme_type::fp4, 64)}, 18},
        {{{.type = scheme_type::f16}}, 70},
        {{{.type = scheme_type::bf16}}, 52},
    };
    for (const auto& one : floors) {
        CAPTURE(bitmill::to_text(one.how.scheme));
        CAPTURE(static_cast<int>(one.how.method));
        const double snr = run(one.how, dtype::f32, floats, 32).own.snr();
        CHECK(snr >= one.db);
        CHECK(snr < one.db + 8);  // an encoder that did nothing would show as a far too good ratio
    }
}

namespace {

// The least squared error that any scale of a fine grid and any zero point leave in a group.
double best_squared_error(const float* group, std::size_t size) {
    double most = 0;
    for (std::size_t i = 0; i < size; ++i) most = std::max(most, std::fabs(static_cast<double>(group[i])));
    double best = most * most * static_cast<double>(size);
    for (int zero = -64; zero <= 32; zero += 4) {
        for (double scale = 0.2 * most; scale < most; scale += 0.01 * most) {
            double sum = 0;
            for (std::size_t i = 0; i < size; ++i) {
                const auto x = static_cast<double>(group[i]);
                const double q = std::clamp(std::nearbyint(x / scale + zero / 32.0), -2.0, 1.0);
                const double error = x - (q - zero / 32.0) * scale;
                sum += error * error;
            }
            best = std::min(best, sum);
        }
    }
    return best;
}

}  // namespace

TEST_CASE("quality: int2 is within 0.1 dB of the best scale and zero, in 2.75 bits a weight") {
    scheme s = grouped(scheme_type::int2, 32, false);
    s.scale_dtype = dtype::f16;
    const std::size_t count = 16 * 1024;
    CHECK(bitmill::encode_bound(s, 16, 1024).value().total() * 8 <= count * 2.75);
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
        const auto floats = make_weights(count, seed, spread::gaussian, 0.02f);
        double signal = 0, best = 0;
        for (const float x : floats) signal += static_cast<double>(x) * static_cast<double>(x);
        for (std::size_t i = 0; i < count; i += 32) best += best_squared_error(&floats[i], 32);
        const double snr = run({s, method::mse}, dtype::f32, floats, 16).own.snr();
        CHECK(snr >= 10.4);
        CHECK(snr >= 10 * std::log10(signal / best) - 0.1);
    }
}

namespace {

void check_mse_against_absmax(dtype scale) {
    for (const spread kind : spreads) {
        for (const float size : {0.05f, 1.0f}) {
            const auto floats = make_weights(16 * 1024, 5, kind, size);
            for (const auto type : {scheme_type::int8, scheme_type::int4, scheme_type::int2}) {
                for (const bool symmetric : {true, false}) {
                    for (const std::size_t group : {32u, 128u, 1024u}) {
                        scheme s = grouped(type, group, symmetric);
                        s.scale_dtype = scale;
                        CAPTURE(bitmill::to_text(s));
                        CAPTURE(static_cast<int>(kind));
                        CAPTURE(size);
                        const double absmax = run({s, method::absmax}, dtype::f32, floats, 16).own.err2;
                        const auto mse = run({s, method::mse}, dtype::f32, floats, 16).own;
                        // 1e-12 of the signal: the last bits of f32 where both are exact but for rounding.
                        CHECK(mse.err2 <= absmax * (1 + 1e-6) + 1e-12 * mse.src2);
                    }
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("quality: mse costs no more squared error than absmax") { check_mse_against_absmax(dtype::f32); }

TEST_CASE("quality: mse costs no more squared error than absmax with 16-bit scales") {
    check_mse_against_absmax(dtype::f16);
    check_mse_against_absmax(dtype::bf16);
}

TEST_CASE("quality: the reported metrics are those of decode(encode(x))") {
    for (const spread kind : {spread::gaussian, spread::heavy_tails, spread::one_sided}) {
        for (const std::size_t cols : {std::size_t{33}, std::size_t{4096}, std::size_t{5000}}) {
            const auto floats = make_weights(6 * cols, cols, kind);
            for (const auto& how : codings_for(cols)) {
                for (const dtype type : {dtype::f32, dtype::f16}) {
                    CAPTURE(bitmill::to_text(how.scheme));
                    CAPTURE(bitmill::facts(type).name);
                    CAPTURE(cols);
                    const auto [own, reported] = run(how, type, floats, 6);
                    CHECK(reported.sums().src2 == doctest::Approx(own.src2).epsilon(1e-5));
                    CHECK(reported.sums().dst2 == doctest::Approx(own.dst2).epsilon(1e-5));
                    // Casting back loses f32's rounding error at most; below that both are noise.
                    CHECK(std::fabs(reported.sums().err2 - own.err2) <= 1e-5 * own.err2 + 1e-14 * own.src2);
                    CHECK(reported.max_abs() == doctest::Approx(own.max_err).epsilon(1e-5));
                    CHECK(reported.mse() ==
                          doctest::Approx(own.err2 / static_cast<double>(floats.size())).epsilon(1e-4));
                    const double cosine = own.dot / std::sqrt(own.src2 * own.dst2);
                    CHECK(reported.cosine() == doctest::Approx(cosine).epsilon(1e-5));
                    if (own.err2 > 1e-10 * own.src2)
                        CHECK(reported.snr_db() == doctest::Approx(own.snr()).epsilon(1e-5));
                }
            }
        }
    }
}

TEST_CASE("quality: metrics of weights whose squares vanish or overflow in f32") {
    for (const float size : {1e-25f, 1e25f, 1e36f}) {
        CAPTURE(size);
        const auto floats = make_weights(4 * 512, 8, spread::gaussian, size);
        for (const auto& how : {coding{{.type = scheme_type::int8}}, coding{blocks(scheme_type::nf4, 64)}}) {
            CAPTURE(bitmill::to_text(how.scheme));
            const auto [own, reported] = run(how, dtype::f32, floats, 4);
            CHECK(reported.sums().err2 == doctest::Approx(own.err2).epsilon(1e-5));
            CHECK(reported.snr_db() == doctest::Approx(own.snr()).epsilon(1e-5));
        }
    }
}

TEST_CASE("quality: measure off gives the same bytes and no sums") {
    const auto floats = make_weights(8 * 256, 4);
    const aligned_bytes data(bytes_as(dtype::f32, floats));
    for (const auto& how : codings_for(256)) {
        CAPTURE(bitmill::to_text(how.scheme));
        std::string bytes[2];
        for (const bool measure : {false, true}) {
            coded_matrix m(how.scheme, 8, 256, bitmill::encode_bound(how.scheme, 8, 256).value());
            bitmill::encode_options options;
            options.method = how.method;
            options.measure = measure;
            const auto metrics =
                bitmill::encode(how.scheme, view_of(dtype::f32, data, 8, 256), m.view, options).value();
            CHECK((metrics.sums().src2 > 0) == measure);
            bytes[measure] = m.all_bytes();
        }
        CHECK(bytes[0] == bytes[1]);
    }
}

TEST_CASE("quality: metrics of nothing and of zeros") {
    const bitmill::error_metrics none;
    CHECK(none.mse() == 0);
    CHECK(none.cosine() == 1);
    CHECK(std::isinf(none.snr_db()));
    const std::vector<float> zeros(64);
    const auto [own, reported] = run({{.type = scheme_type::int8}}, dtype::f32, zeros, 1);
    CHECK(own.err2 == 0);
    CHECK(reported.mse() == 0);
    CHECK(reported.cosine() == 1);
    CHECK(reported.elements() == 64);
}
