// The main of every test program. BITMILL_FORCE_ISA=name runs the whole program on that instruction set;
// the library itself reads no environment.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <cstdlib>

#include <doctest/doctest.h>

#include <bitmill/kernels/dispatch.hpp>

int main(int argc, char** argv) {
    if (const char* name = std::getenv("BITMILL_FORCE_ISA")) {
        if (const auto done = bitmill::set_isa(name); !done) {
            std::fprintf(stderr, "BITMILL_FORCE_ISA: %s\n", done.error().text().c_str());
            // 77 tells ctest that this CPU cannot run the test; a misspelt name stays a failure.
            return done.error().code == bitmill::error_code::unsupported ? 77 : 2;
        }
        // A test run that silently used another instruction set would prove nothing.
        if (bitmill::isa() != name) {
            std::fprintf(stderr, "BITMILL_FORCE_ISA=%s had no effect: %s runs\n", name,
                         bitmill::isa().c_str());
            return 2;
        }
    }
    return doctest::Context(argc, argv).run();
}
