#include "cli.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>

namespace cli {
namespace {

struct batch_flags {
    work_flags work;
    bitmill::mill_options options;
    int bit_depth = 8;
    CLI::Option* threshold_option = nullptr;
    bool one_range = false;
    std::vector<std::string> names;
};

void print_table(const bitmill::batch_report& batch) {
    std::size_t widest = 5;
    for (const auto& one : batch.models)
        widest = std::max(widest, std::min<std::size_t>(printable(one.name).size(), 48));
    const int width = static_cast<int>(widest);
    std::printf("%-*s  %10s  %10s  %9s  %8s\n", width, "model", "before", "after", "reduction", "SNR dB");
    for (const auto& one : batch.models) {
        if (!one.report) {
            std::printf("%-*s  failed: %s\n", width, printable(one.name).c_str(), one.failure.text().c_str());
            continue;
        }
        char snr[32] = "";
        const auto error = one.report->error();
        if (error.elements() != 0) std::snprintf(snr, sizeof snr, "%.1f", error.snr_db());
        std::printf("%-*s  %10s  %10s  %7.1f %%  %8s%s\n", width, printable(one.name).c_str(),
                    size_text(one.report->source_bytes).c_str(), size_text(one.report->bytes).c_str(),
                    one.file_size_reduction_percent(), snr,
                    one.report->already_milled ? "  milled already" : "");
    }
    std::printf("\n%zu of %zu models, %s -> %s, %.1f %% smaller; %.2f s\n",
                batch.models.size() - batch.failed(), batch.models.size(),
                size_text(batch.source_bytes()).c_str(), size_text(batch.bytes()).c_str(),
                batch.overall_size_reduction_percent(), batch.seconds);
}

int run_batch(batch_flags& flags) {
    if (const int status = flags.work.check(false); status != 0) return status;
    const bool otherwise = flags.options.prune_relative > 0 || flags.options.target_sparsity > 0;
    if (otherwise && flags.threshold_option->count() == 0) flags.options.weight_threshold = 0;
    auto options =
        bitmill::options_from_bit_depth(flags.bit_depth, flags.options.weight_threshold, !flags.one_range);
    if (!options) return fail(options.error(), flags.work.json);
    options->prune_relative = flags.options.prune_relative;
    options->target_sparsity = flags.options.target_sparsity;
    const bitmill::model_quantizer quantizer(std::move(*options));
    const auto report = [&] {
        const session running(flags.options);
        return quantizer.batch_quantize_models(flags.work.model, flags.work.output, flags.names,
                                               flags.options);
    }();
    if (!report) return fail(report.error(), flags.work.json);
    for (const auto& one : report->models) {
        if (one.report)
            show_warnings(*one.report);
        else
            std::fprintf(stderr, "bitmill: %s: %s\n", printable(one.name).c_str(),
                         one.failure.text().c_str());
    }
    if (flags.work.json)
        std::printf("%s\n", report->json().c_str());
    else
        print_table(*report);
    for (const auto& one : report->models)
        if (!one.report) return exit_status(one.failure);
    return 0;
}

}  // namespace

void add_batch(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<batch_flags>();
    auto& verb =
        *app.add_subcommand("batch", "every model of a folder; one that fails does not stop the others");
    flags->work.add_to(verb, flags->options, "DIR", "a folder of model folders and weight files",
                       "the folder for the results, one folder a model (default: DIR/quantized)");
    verb.add_option("--bit-depth", flags->bit_depth,
                    "8: int8, one scale a tensor; 16: fp16; 32: copy and prune only")
        ->capture_default_str();
    flags->options.weight_threshold = 0.001f;
    flags->threshold_option = add_pruning(verb, flags->options)->capture_default_str();
    verb.add_flag("--one-range", flags->one_range,
                  "one range for each whole model instead of every tensor's own");
    verb.add_option("--model", flags->names, "only the model of this name (repeatable)")
        ->allow_extra_args(false);
    verb.callback([flags, &chosen] { chosen = [flags] { return run_batch(*flags); }; });
}

}  // namespace cli
