// The coefficients of exp, erf and tanh as our own polynomials, the same for the scalar truth (layer_reference.hpp) and for
// 16 lanes (layer_functions.hpp). They are minimax fits.
#pragma once

#include <cstddef>

namespace bitmill::kernels {

// e^r = 1 + r + r^2 (c0 + c1 r + ...) for |r| <= ln 2 / 2; relative error 2e-8 before rounding.
inline constexpr float exp_coefficients[] = {0x1p-1f, 0x1.55548ep-3f, 0x1.55545ep-5f, 0x1.123bep-7f,
                                             0x1.6db4e4p-10f};
inline constexpr float log2_e = 0x1.715476p+0f;
inline constexpr float ln2_high = 0x1.62e4p-1f;  // few bits: n * ln2_high is exact
inline constexpr float ln2_low = 0x1.7f7d1cp-20f;
inline constexpr float exp_lowest = -87.0f;  // e^-87 is above the smallest normal float

// erfc(z) = e^-(z^2 + z s(z)) for z >= 0; s is fitted on [0, 4] and taken there, which costs nothing: beyond, erfc is
// below 2e-8.
inline constexpr float erfc_coefficients[] = {1.1283796f,      -0.36338755f,  0.10281508f,    -0.019241493f,
                                              -6.0368715e-05f, 0.001623058f,  -0.0006440125f, 0.00013642697f,
                                              -1.600292e-05f,  8.1409644e-07f};
inline constexpr float erfc_fitted = 4.0f;

inline constexpr float half_root = 0.70710678f;        // 1 / sqrt(2)
inline constexpr float gelu_tanh_factor = 0.7978846f;  // sqrt(2 / pi)
inline constexpr float gelu_tanh_cubic = 0.044715f;

}  // namespace bitmill::kernels
