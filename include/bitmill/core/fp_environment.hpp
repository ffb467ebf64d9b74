// A host may have set flush-to-zero or another rounding mode on the calling thread. Every entry that
// computes holds one of these: it sets the default (nearest even, denormals kept) and puts the host's back.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace bitmill {

class fp_environment {
public:
#if defined(__x86_64__)
    fp_environment() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~fp_environment() { _mm_setcsr(saved_); }

private:
    std::uint32_t saved_;

public:
#elif defined(__aarch64__)
    fp_environment() noexcept {
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_));
        __asm__ __volatile__("msr fpcr, %0" : : "r"(std::uint64_t{0}));
    }
    ~fp_environment() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_)); }

private:
    std::uint64_t saved_ = 0;

public:
#else
    fp_environment() noexcept = default;
#endif
    fp_environment(const fp_environment&) = delete;
    fp_environment& operator=(const fp_environment&) = delete;
};

}  // namespace bitmill
