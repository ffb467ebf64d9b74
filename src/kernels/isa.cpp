// Compiled once per instruction set with that set's flags; BITMILL_ISA names it. Everything but the table's
// symbol is made local afterwards (cmake/isa.cmake), so no function compiled for a newer CPU can leak.
#include <bitmill/kernels/simd.hpp>

namespace {
#if defined(__x86_64__)
using baseline = xsimd::sse2;
using avx2 = xsimd::avx2;
using avxvnni = xsimd::avx2;
using avx512bw = xsimd::avx512bw;
using avx512vnni = xsimd::avx512bw;
#elif defined(__aarch64__)
using neon64 = xsimd::neon64;
using neon64_dotprod = xsimd::neon64;
#endif
}  // namespace

#define BITMILL_JOIN_2(a, b) a##b
#define BITMILL_JOIN(a, b) BITMILL_JOIN_2(a, b)
#define BITMILL_TEXT_2(a) #a
#define BITMILL_TEXT(a) BITMILL_TEXT_2(a)

// Hidden: a shared library that exports bitmill_* must not export its tables.
extern "C" __attribute__((visibility("hidden")))
const bitmill::kernels::table BITMILL_JOIN(bitmill_kernels_, BITMILL_ISA);
extern "C" constexpr bitmill::kernels::table BITMILL_JOIN(bitmill_kernels_, BITMILL_ISA) =
    bitmill::kernels::kernels_of<BITMILL_ISA>::make(BITMILL_TEXT(BITMILL_ISA));
