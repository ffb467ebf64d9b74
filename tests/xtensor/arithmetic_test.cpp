// xtensor as an independent truth: what a decoded weight is, and what the error figures say, in its f64 arithmetic.
#include <bitmill/xtensor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#if __has_include(<xtensor/core/xmath.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/core/xmath.hpp>
#include <xtensor/core/xoperation.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xmath.hpp>
#include <xtensor/xoperation.hpp>
#include <xtensor/xview.hpp>
#endif

#include <doctest/doctest.h>

#include <coded.hpp>

using namespace bitmill_test;

namespace {

constexpr std::size_t rows = 96, cols = 512;

xt::xtensor<float, 2> weights(spread kind) {
    const auto values = make_weights(rows * cols, 3, kind);
    xt::xtensor<float, 2> out({rows, cols});
    std::copy(values.begin(), values.end(), out.data());
    return out;
}

}  // namespace

// SNR(1e-4 dB): the codec folds sums of 4096 squares in f32, good for 1e-5 of the sum.
TEST_CASE("xtensor: mse, SNR, cosine and largest error are those of f64 arithmetic") {
    for (const auto kind : {spread::gaussian, spread::heavy_tails, spread::one_sided, spread::sparse})
        for (const auto& [scheme, method] : codings_for(cols)) {
            CAPTURE(bitmill::to_text(scheme));
            bitmill::encode_options options;
            options.method = method;
            const xt::xtensor<float, 2> source = weights(kind);
            const auto coded = bitmill::encode(scheme, source, options).value();
            const xt::xtensor<double, 2> x = xt::cast<double>(source);
            const xt::xtensor<double, 2> y = bitmill::decode<double>(coded).value();

            const double err2 = xt::sum(xt::square(x - y))();
            const double src2 = xt::sum(xt::square(x))();
            const double cosine = xt::sum(x * y)() / std::sqrt(src2 * xt::sum(xt::square(y))());
            const double largest = xt::amax(xt::abs(x - y))();
            CHECK(coded.error.elements() == x.size());
            CHECK(coded.error.mse() == doctest::Approx(xt::mean(xt::square(x - y))()).epsilon(1e-4));
            CHECK(coded.error.max_abs() == doctest::Approx(largest).epsilon(1e-5));
            CHECK(coded.error.cosine() == doctest::Approx(cosine).epsilon(1e-5));
            if (err2 != 0)
                CHECK(std::fabs(coded.error.snr_db() - 10 * std::log10(src2 / err2)) < 1e-4);
            else
                CHECK(coded.error.snr_db() == std::numeric_limits<double>::infinity());
        }
}

// EXACT: one multiplication in f32, as xtensor does it.
TEST_CASE("xtensor: an int8 weight is (code - zero_point) * scale") {
    for (const bool symmetric : {true, false})
        for (const std::size_t group : {cols, std::size_t{128}}) {
            bitmill::scheme s;
            s.granularity = group == cols ? bitmill::granularity::per_channel : bitmill::granularity::group;
            s.group_size = group == cols ? 0 : group;
            s.symmetric = symmetric;
            const auto coded = bitmill::encode(s, weights(spread::one_sided)).value();

            const std::array<std::size_t, 3> grouped{rows, cols / group, group};
            const std::array<std::size_t, 3> one_each{rows, cols / group, 1};
            const auto* codes = reinterpret_cast<const std::int8_t*>(coded.codes.data());
            const xt::xtensor<float, 3> q =
                xt::cast<float>(xt::adapt(codes, rows * cols, xt::no_ownership(), grouped));
            const xt::xtensor<float, 3> scale = xt::adapt(reinterpret_cast<const float*>(coded.scales.data()),
                                                          rows * cols / group, xt::no_ownership(), one_each);
            xt::xtensor<float, 3> zero = xt::zeros<float>(one_each);
            if (!symmetric)
                zero =
                    xt::cast<float>(xt::adapt(reinterpret_cast<const std::int8_t*>(coded.zero_points.data()),
                                              rows * cols / group, xt::no_ownership(), one_each));

            xt::xtensor<float, 3> decoded(grouped);
            auto flat = xt::adapt(decoded.data(), rows * cols, xt::no_ownership(), std::array{rows, cols});
            bitmill::decode(coded, flat).value();
            CHECK(xt::all(xt::equal(decoded, (q - zero) * scale)));
            // And the code is the nearest: half a step away at most, or at the end of the range.
            const xt::xtensor<float, 3> x = xt::reshape_view(weights(spread::one_sided), grouped);
            CHECK(xt::all(xt::abs(x - decoded) <= 0.5001f * scale || xt::equal(xt::abs(q), 127.0f) ||
                          xt::equal(q, -128.0f)));
        }
}
