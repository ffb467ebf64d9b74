#include "cli.hpp"

#include <cstdio>
#include <memory>

namespace cli {
namespace {

struct verify_flags {
    std::string source;
    std::string model;
    bool json = false;
    bitmill::work_options options;

    void add_to(CLI::App& verb) {
        verb.add_option("MODEL", model, "a folder that bitmill wrote")->required();
        verb.add_option("--memory-limit", options.memory_limit, "cap on working memory")
            ->check(not_negative())
            ->transform(CLI::AsSizeValue(false))
            ->default_str("256M");
        verb.add_option("--threads", options.threads, "default: one per core")->check(thread_count());
        verb.add_flag("--json", json, "report as JSON on stdout");
    }

    // Work: options -> result<verify_report>.
    template <class Work>
    int run(const char* verdict, const Work& work) {
        bitmill::result<bitmill::verify_report> report = [&] {
            const session running(options);
            return work();
        }();
        if (!report) return fail(report.error(), json);
        if (json) {
            std::printf("%s\n", report->json().c_str());
            return 0;
        }
        std::printf("%s: %s%s\n  %llu tensors, %llu files, %s; %.2f s\n  manifest %s\n",
                    printable(report->model).c_str(), verdict,
                    report->residuals_missing != 0 ? "; level int4, the residual planes are not there" : "",
                    static_cast<unsigned long long>(report->tensors),
                    static_cast<unsigned long long>(report->files), size_text(report->bytes).c_str(),
                    report->seconds, report->manifest_sha256.c_str());
        return 0;
    }
};

}  // namespace

void add_validate(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<verify_flags>();
    auto& verb = *app.add_subcommand("validate", "every file against the hashes of its manifest");
    flags->add_to(verb);
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            return flags->run("every byte that the manifest lists is as it was written",
                              [&] { return bitmill::validate(flags->model, flags->options); });
        };
    });
}

void add_verify(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<verify_flags>();
    auto& verb = *app.add_subcommand("verify", "derive the model from its source anew, compare every byte");
    verb.add_option("SOURCE", flags->source, "the model that it was milled from")->required();
    flags->add_to(verb);
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            return flags->run("derives from the source, byte for byte",
                              [&] { return bitmill::verify(flags->source, flags->model, flags->options); });
        };
    });
}

}  // namespace cli
