// Header-only use: the one instruction set that the host compiles for. (Compiled mode: src/kernels/dispatch.cpp.)
#pragma once

#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/kernels/simd.hpp>

namespace bitmill {
namespace detail {
#if defined(BITMILL_AVX512) && defined(__AVX512VNNI__)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::avx512bw>::make("avx512vnni");
#elif defined(BITMILL_AVX512)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::avx512bw>::make("avx512bw");
#elif defined(__AVXVNNI__) && defined(__AVX2__) && defined(__F16C__)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::avx2>::make("avxvnni");
#elif defined(__AVX2__) && defined(__F16C__)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::avx2>::make("avx2");
#elif defined(__ARM_FEATURE_DOTPROD)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::neon64>::make("neon64_dotprod");
#elif defined(__aarch64__)
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::neon64>::make("neon64");
#else
inline constexpr kernels::table host_table = kernels::kernels_of<xsimd::sse2>::make("baseline");
#endif
}  // namespace detail

inline std::vector<std::string> isa_available() { return {detail::host_table.name}; }
inline std::string isa() { return detail::host_table.name; }
inline result<void> set_isa(std::string_view name) {
    if (name == detail::host_table.name) return {};
    return error{.code = error_code::unsupported,
                 .message = "used as headers alone, bitmill has one instruction set: " + isa()};
}

namespace kernels {
inline const table& active() noexcept { return detail::host_table; }
inline const char* available(std::size_t index) noexcept {
    return index == 0 ? detail::host_table.name : nullptr;
}
inline const table* find(std::string_view name) noexcept {
    return name == detail::host_table.name ? &detail::host_table : nullptr;
}
}  // namespace kernels
}  // namespace bitmill
