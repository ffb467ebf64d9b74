// EXACT: every f16 and bf16 value, and narrowing against one correct rounding computed with exact doubles.
#include <bitmill/core/half.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <random.hpp>

namespace {

struct half_type {
    int mantissa_bits;
    int exponent_bits;
    std::uint16_t (*narrow)(float);
    float (*widen)(std::uint16_t);

    [[nodiscard]] std::uint16_t infinity() const {
        return static_cast<std::uint16_t>(((1u << exponent_bits) - 1u) << mantissa_bits);
    }
    // The value of a positive finite code by the definition of the format; infinity()'s is the power of two
    // that the largest finite value would reach next.
    [[nodiscard]] double value(unsigned code) const {
        const int bias = (1 << (exponent_bits - 1)) - 1;
        const int exponent = static_cast<int>(code >> mantissa_bits);
        const auto mantissa = static_cast<double>(code & ((1u << mantissa_bits) - 1u));
        if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits);
        return std::ldexp(mantissa + std::ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
    }
    // One rounding, half to even. Midpoints of neighbours are exact doubles.
    [[nodiscard]] std::uint16_t nearest(double x) const {
        const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
        const double size = std::fabs(x);
        unsigned low = 0, high = infinity();
        if (size >= value(high)) return static_cast<std::uint16_t>(sign | high);
        while (high - low > 1) {
            const unsigned middle = (low + high) / 2;
            (value(middle) <= size ? low : high) = middle;
        }
        const double tie = (value(low) + value(high)) / 2;
        const bool up = size > tie || (size == tie && low % 2 == 1);
        return static_cast<std::uint16_t>(sign | (up ? high : low));
    }
};

const half_type f16{10, 5, bitmill::f16_from_f32, bitmill::f32_from_f16};
const half_type bf16{7, 8, bitmill::bf16_from_f32, bitmill::f32_from_bf16};

}  // namespace

TEST_CASE("half: all 65536 codes widen to their value and come back") {
    for (const half_type* type : {&f16, &bf16}) {
        CAPTURE(type->mantissa_bits);
        unsigned wrong_values = 0, wrong_codes = 0, wrong_nans = 0;
        for (unsigned code = 0; code < 65536; ++code) {
            const auto half = static_cast<std::uint16_t>(code);
            const float wide = type->widen(half);
            const unsigned size = code & 0x7fffu;
            if (size > type->infinity()) {
                const unsigned quiet = code | 1u << (type->mantissa_bits - 1);
                wrong_nans += !std::isnan(wide) || std::signbit(wide) != (code >= 0x8000u) ||
                              type->narrow(wide) != quiet;
                continue;
            }
            double expected =
                size == type->infinity() ? std::numeric_limits<double>::infinity() : type->value(size);
            if (code >= 0x8000u) expected = -expected;
            wrong_values += std::bit_cast<std::uint64_t>(static_cast<double>(wide)) !=
                            std::bit_cast<std::uint64_t>(expected);
            wrong_codes += type->narrow(wide) != half;
        }
        CHECK(wrong_values == 0);
        CHECK(wrong_codes == 0);
        CHECK(wrong_nans == 0);
    }
}

TEST_CASE("half: narrowing f32 at and beside every tie") {
    for (const half_type* type : {&f16, &bf16}) {
        CAPTURE(type->mantissa_bits);
        unsigned wrong = 0;
        for (unsigned code = 0; code < type->infinity(); ++code) {
            const double tie = (type->value(code) + type->value(code + 1)) / 2;
            const auto at = static_cast<float>(tie);
            for (const float x : {at, std::nextafterf(at, 0.0f), std::nextafterf(at, 3e38f), -at})
                wrong += type->narrow(x) != type->nearest(static_cast<double>(x));
        }
        CHECK(wrong == 0);
        CHECK(type->narrow(std::numeric_limits<float>::infinity()) == type->infinity());
        CHECK(type->narrow(-std::numeric_limits<float>::infinity()) == (type->infinity() | 0x8000u));
        CHECK(type->narrow(std::numeric_limits<float>::denorm_min()) == 0);
        CHECK(type->narrow(-std::numeric_limits<float>::denorm_min()) == 0x8000u);
        CHECK(type->narrow(std::numeric_limits<float>::max()) == type->infinity());
    }
}

TEST_CASE("half: narrowing random f32 bit patterns") {
    test::random rng(11);
    unsigned wrong = 0;
    for (int i = 0; i < 200000; ++i) {
        const auto x = std::bit_cast<float>(rng.bits());
        if (std::isnan(x)) continue;
        wrong += bitmill::f16_from_f32(x) != f16.nearest(static_cast<double>(x));
        wrong += bitmill::bf16_from_f32(x) != bf16.nearest(static_cast<double>(x));
    }
    CHECK(wrong == 0);
}

TEST_CASE("half: f64 by way of round-to-odd rounds once") {
    const auto wrong = [](const half_type& type, double x) {
        return type.narrow(bitmill::f32_from_f64_to_odd(x)) != type.nearest(x);
    };
    unsigned failures = 0, naive_failures = 0;
    const auto check = [&](const half_type& type, double x) {
        failures += wrong(type, x) || wrong(type, -x);
        naive_failures += type.narrow(static_cast<float>(x)) != type.nearest(x);
    };
    for (const half_type* type : {&f16, &bf16}) {
        for (unsigned code = 0; code < type->infinity(); code += code < 64 ? 1 : 7) {
            const double tie = (type->value(code) + type->value(code + 1)) / 2;
            check(*type, tie);
            // A hair beside the tie: f32 cannot hold it, so a rounding to nearest first would land on the tie.
            for (const int down : {25, 30, 40, 52}) {
                check(*type, tie * (1 + std::ldexp(1.0, -down)));
                check(*type, tie * (1 - std::ldexp(1.0, -down)));
            }
        }
    }
    CHECK(failures == 0);
    CHECK(naive_failures > 1000);  // so the doubles above do tell one rounding from two
}

TEST_CASE("half: round-to-odd itself") {
    using bitmill::f32_from_f64_to_odd;
    test::random rng(12);
    unsigned wrong = 0;
    for (int i = 0; i < 200000; ++i) {
        const auto bits = static_cast<std::uint64_t>(rng.bits()) << 32 | rng.bits();
        // Exponents that f32 has, some that it has not.
        const double x = std::ldexp(1.0 + static_cast<double>(bits >> 12) * 0x1p-52,
                                    static_cast<int>(rng.below(300)) - 160) *
                         (bits % 2 != 0 ? 1 : -1);
        const float odd = f32_from_f64_to_odd(x);
        const auto back = static_cast<double>(odd);
        if (back == x) continue;
        // Inexact: odd, and one of the two neighbours of x.
        wrong += std::bit_cast<std::uint32_t>(odd) % 2 != 1;
        const float other = std::nextafterf(odd, back < x ? HUGE_VALF : -HUGE_VALF);
        wrong += std::isfinite(other) &&
                 (back < x ? static_cast<double>(other) < x : static_cast<double>(other) > x);
    }
    CHECK(wrong == 0);
    CHECK(f32_from_f64_to_odd(1e300) == std::numeric_limits<float>::max());
    CHECK(f32_from_f64_to_odd(-1e300) == -std::numeric_limits<float>::max());
    CHECK(f32_from_f64_to_odd(1e-300) == std::numeric_limits<float>::denorm_min());
    CHECK(std::signbit(f32_from_f64_to_odd(-1e-300)));
    CHECK(std::signbit(f32_from_f64_to_odd(-0.0)));
    CHECK(std::isinf(f32_from_f64_to_odd(std::numeric_limits<double>::infinity())));
    CHECK(std::isnan(f32_from_f64_to_odd(std::numeric_limits<double>::quiet_NaN())));
}
