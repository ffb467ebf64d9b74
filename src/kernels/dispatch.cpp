// Picks the widest instruction set that this CPU and its operating system offer.
#include <bitmill/kernels/dispatch.hpp>

#include <array>
#include <atomic>

#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

// Defined once per instruction set by isa.cpp.
#define BITMILL_TABLE extern "C" __attribute__((visibility("hidden"))) const bitmill::kernels::table
#if defined(BITMILL_HAVE_BASELINE)
BITMILL_TABLE bitmill_kernels_baseline;
#endif
#if defined(BITMILL_HAVE_AVX2)
BITMILL_TABLE bitmill_kernels_avx2;
#endif
#if defined(BITMILL_HAVE_AVXVNNI)
BITMILL_TABLE bitmill_kernels_avxvnni;
#endif
#if defined(BITMILL_HAVE_AVX512BW)
BITMILL_TABLE bitmill_kernels_avx512bw;
#endif
#if defined(BITMILL_HAVE_AVX512VNNI)
BITMILL_TABLE bitmill_kernels_avx512vnni;
#endif
#if defined(BITMILL_HAVE_NEON64)
BITMILL_TABLE bitmill_kernels_neon64;
#endif
#if defined(BITMILL_HAVE_NEON64_DOTPROD)
BITMILL_TABLE bitmill_kernels_neon64_dotprod;
#endif

namespace bitmill {
namespace {

struct candidate {
    const kernels::table* table;
    bool (*runs_here)();
};

#if defined(BITMILL_HAVE_AVX2) || defined(BITMILL_HAVE_AVXVNNI)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

#if defined(BITMILL_HAVE_AVXVNNI)
// GCC 12 has no name for it. It uses the registers of AVX2.
bool has_avxvnni() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#endif

#if defined(BITMILL_HAVE_AVX512BW) || defined(BITMILL_HAVE_AVX512VNNI)
bool has_avx512bw() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
#endif

// Slowest first.
constexpr std::array candidates{
#if defined(BITMILL_HAVE_BASELINE)
    candidate{&bitmill_kernels_baseline, [] { return true; }},
#endif
#if defined(BITMILL_HAVE_AVX2)
    candidate{&bitmill_kernels_avx2, has_avx2},
#endif
#if defined(BITMILL_HAVE_AVXVNNI)
    candidate{&bitmill_kernels_avxvnni, has_avxvnni},
#endif
#if defined(BITMILL_HAVE_AVX512BW)
    candidate{&bitmill_kernels_avx512bw, has_avx512bw},
#endif
#if defined(BITMILL_HAVE_AVX512VNNI)
    candidate{&bitmill_kernels_avx512vnni,
              [] { return has_avx512bw() && __builtin_cpu_supports("avx512vnni"); }},
#endif
#if defined(BITMILL_HAVE_NEON64)
    candidate{&bitmill_kernels_neon64, [] { return true; }},
#endif
#if defined(BITMILL_HAVE_NEON64_DOTPROD)
    candidate{&bitmill_kernels_neon64_dotprod, [] { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }},
#endif
};

const kernels::table* best() {
    const kernels::table* found = candidates[0].table;
    for (const auto& one : candidates)
        if (one.runs_here()) found = one.table;
    return found;
}

std::atomic<const kernels::table*>& chosen() {
    static std::atomic<const kernels::table*> table{best()};
    return table;
}

}  // namespace

std::vector<std::string> isa_available() {
    std::vector<std::string> names;
    while (const char* name = kernels::available(names.size())) names.emplace_back(name);
    return names;
}

std::string isa() { return kernels::active().name; }

result<void> set_isa(std::string_view name) {
    if (const auto* table = kernels::find(name)) {
        chosen().store(table);
        return {};
    }
    std::string names;
    bool known = false;
    for (const auto& one : candidates) known = known || name == one.table->name;
    for (const auto& one : isa_available()) names.append(names.empty() ? "" : ", ").append(one);
    return error{.code = known ? error_code::unsupported : error_code::invalid_argument,
                 .message = (known ? "this CPU cannot run isa '" : "there is no isa '") + std::string(name) +
                            "'; available: " + names};
}

namespace kernels {

const table& active() noexcept { return *chosen().load(std::memory_order_relaxed); }

const char* available(std::size_t index) noexcept {
    for (const auto& one : candidates)
        if (one.runs_here() && index-- == 0) return one.table->name;
    return nullptr;
}

const table* find(std::string_view name) noexcept {
    for (const auto& one : candidates)
        if (name == one.table->name && one.runs_here()) return one.table;
    return nullptr;
}

}  // namespace kernels
}  // namespace bitmill
