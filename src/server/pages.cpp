#include "pages.hpp"

#include <bitmill/core/sha256.hpp>

#include "json_text.hpp"

// The files beside this one, as they lie.
#define BITMILL_EMBED(name, file)                                                               \
    __asm__(".pushsection .rodata\n.global " #name "\n.global " #name "_end\n" #name            \
            ":\n.incbin \"" BITMILL_SERVER_PAGES "/" file "\"\n" #name "_end:\n.popsection\n"); \
    extern "C" const char name[], name##_end[]
BITMILL_EMBED(bitmill_dashboard, "dashboard.html");
BITMILL_EMBED(bitmill_openapi, "openapi.json");

namespace server::pages {
namespace {

// 'sha256-...' of what lies between two tags, each of which occurs once.
std::string hash_of(std::string_view page, std::string_view begin, std::string_view end) {
    const std::size_t from = page.find(begin) + begin.size();
    const auto hash = bitmill::sha256::of(page.substr(from, page.find(end, from) - from));
    return "'sha256-" + base64_of(std::as_bytes(std::span(hash))) + "'";
}

}  // namespace

std::string_view dashboard() { return {bitmill_dashboard, bitmill_dashboard_end}; }
std::string_view openapi() { return {bitmill_openapi, bitmill_openapi_end}; }

const std::string& dashboard_policy() {
    static const std::string policy =
        "default-src 'none'; script-src " + hash_of(dashboard(), "<script>", "</script>") + "; style-src " +
        hash_of(dashboard(), "<style>", "</style>") +
        "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'";
    return policy;
}

}  // namespace server::pages
