// Compile-time choices that every header shares.
#pragma once

#if defined(__FAST_MATH__)
#error "bitmill promises exact numerics: do not compile it with -ffast-math"
#endif

#if __cplusplus < 202002L
#error "bitmill needs C++20"
#endif

// bitmill::bitmill (compiled once, run-time dispatch) defines BITMILL_COMPILED_LIB. Without it the bodies
// in detail/*-inl.hpp are included here and there as inline functions (bitmill::headers).
#if defined(BITMILL_COMPILED_LIB)
#define BITMILL_INLINE
#else
#define BITMILL_INLINE inline
#endif
