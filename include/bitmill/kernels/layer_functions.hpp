// The activation functions on 16 lanes. layer_reference.hpp has the same steps one float at a time.
#pragma once

#include <bitmill/kernels/layer_math.hpp>
#include <bitmill/kernels/layer_primitives.hpp>

namespace bitmill::kernels {

// xsimd 8.1 and 14 name the target of their bitwise_cast in two ways.
template <class To, class From, class Arch>
BITMILL_FLATTEN xsimd::batch<To, Arch> bits_as(const xsimd::batch<From, Arch>& x) {
    return __builtin_bit_cast(typename xsimd::batch<To, Arch>::register_type, x.data);
}

template <class Arch>
struct functions_of {
    using lanes = f32x16<Arch>;
    using ints = xsimd::batch<std::int32_t, Arch>;

    // The polynomial of Count coefficients, the lowest first.
    template <std::size_t Count>
    static BITMILL_FLATTEN lanes polynomial(const lanes& x, const float (&c)[Count]) {
        lanes sum = spread<Arch>(c[Count - 1]);
        BITMILL_UNROLL_ALL
        for (std::size_t i = 1; i < Count; ++i) sum = fused(sum, x, spread<Arch>(c[Count - 1 - i]));
        return sum;
    }

    // 2^n for whole n of -126 to 127.
    static BITMILL_FLATTEN lanes power_of_two(const lanes& n) {
        lanes out;
        BITMILL_UNROLL_ALL
        for (std::size_t i = 0; i < lanes::parts; ++i) {
            const ints exponent = (xsimd::to_int(n.v[i]) + ints(127)) << 23;
            out.v[i] = bits_as<float>(exponent);
        }
        return out;
    }

    // e^x for x <= 0, at least e^-87; of a NaN a NaN. Relative error 1e-7.
    static BITMILL_FLATTEN lanes exp(const lanes& given) {
        const lanes x = at_least(given, spread<Arch>(exp_lowest));
        const lanes n = round_small(x * spread<Arch>(log2_e));
        const lanes minus_n = spread<Arch>(0) - n;
        const lanes r = fused(minus_n, spread<Arch>(ln2_low), fused(minus_n, spread<Arch>(ln2_high), x));
        const lanes tail = polynomial(r, exp_coefficients);
        const lanes mantissa = spread<Arch>(1) + fused(tail, r * r, r);
        return mantissa * power_of_two(n);
    }

    // x (1 + erf(x / sqrt 2)) / 2, without cancellation: x - x erfc / 2 and x erfc / 2. Error 2e-7 of |x|.
    static BITMILL_FLATTEN lanes gelu(const lanes& x) {
        const lanes z = magnitude(x) * spread<Arch>(half_root);
        const lanes s = polynomial(lower(z, spread<Arch>(erfc_fitted)), erfc_coefficients);
        const lanes tail = exp(spread<Arch>(0) - fused(z, z, lower(z, spread<Arch>(erfc_fitted)) * s));
        const lanes part = x * (tail * spread<Arch>(0.5f));
        // max(x, 0) - |part|: x - part above 0, part below.
        return at_least(x, spread<Arch>(0)) - magnitude(part);
    }

    // (1 - e^-2|x|) / (1 + e^-2|x|) with x's sign. Absolute error 1e-7.
    static BITMILL_FLATTEN lanes tanh(const lanes& x) {
        const lanes e = exp(spread<Arch>(-2) * magnitude(x));
        const lanes size = (spread<Arch>(1) - e) / (spread<Arch>(1) + e);
        lanes out;
        BITMILL_UNROLL_ALL
        for (std::size_t i = 0; i < lanes::parts; ++i) {
            const auto sign = bits_as<std::int32_t>(x.v[i]) & ints(static_cast<std::int32_t>(0x80000000));
            out.v[i] = bits_as<float>(bits_as<std::int32_t>(size.v[i]) | sign);
        }
        return out;
    }

    static BITMILL_FLATTEN lanes gelu_tanh(const lanes& x) {
        const lanes cube = x * x * x;
        const lanes inner = fused(cube, spread<Arch>(gelu_tanh_cubic), x) * spread<Arch>(gelu_tanh_factor);
        return x * spread<Arch>(0.5f) * (spread<Arch>(1) + tanh(inner));
    }

    static BITMILL_FLATTEN lanes activate(const lanes& x, activation_function function) {
        switch (function) {
            case activation_function::gelu: return gelu(x);
            case activation_function::gelu_tanh: return gelu_tanh(x);
            case activation_function::relu: return at_least(x, spread<Arch>(0));
            case activation_function::tanh: return tanh(x);
            default: return x;
        }
    }
};

}  // namespace bitmill::kernels
