#include "cli.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    CLI::App app{"bitmill mills neural-network weights down to 16, 8, 4 and 2 bits.", "bitmill"};
    app.set_version_flag("--version", std::string("bitmill " BITMILL_VERSION_TEXT));
    app.require_subcommand(1);
    cli::action chosen;
    cli::add_quantize(app, chosen);
    cli::add_batch(app, chosen);
    cli::add_dequantize(app, chosen);
    cli::add_convert(app, chosen);
    cli::add_inspect(app, chosen);
    cli::add_validate(app, chosen);
    cli::add_verify(app, chosen);
    cli::add_tokenize(app, chosen);
    cli::add_embed(app, chosen);
    cli::add_rerank(app, chosen);
    cli::add_classify(app, chosen);
    cli::add_bench(app, chosen);
    cli::add_compare(app, chosen);
#if defined(BITMILL_WITH_SERVER)
    cli::add_serve(app, chosen);
#endif
    cli::add_info(app, chosen);
    // A limit of file sizes (ulimit -f) shows as an error of write(), with a message, not as a signal.
    std::signal(SIGXFSZ, SIG_IGN);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& stop) {
        if (stop.get_exit_code() == 0) return app.exit(stop);  // --help, --version
        std::fprintf(stderr, "bitmill: %s (see bitmill --help)\n", stop.what());
        return 2;
    }
    // The library reads no environment; the program passes this one on, for tests and for comparing CPUs.
    if (const char* forced = std::getenv("BITMILL_FORCE_ISA"))
        if (auto set = bitmill::set_isa(forced); !set) return cli::fail(set.error(), false);
    try {
        const int status = chosen();
        // A report that was lost to a full disk must not look like success.
        if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
        return cli::fail({.code = bitmill::error_code::io, .message = "cannot write to standard output"},
                         false);
    } catch (const bitmill::exception& failure) {
        return cli::fail(failure.error(), false);
    } catch (const std::bad_alloc&) {
        return cli::fail({.code = bitmill::error_code::out_of_memory, .message = "out of memory"}, false);
    }
}
