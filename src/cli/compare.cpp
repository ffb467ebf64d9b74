#include "cli.hpp"

#include <cstdio>
#include <memory>

namespace cli {
namespace {

struct compare_flags {
    std::string original, quantized, html;
    std::string activation = "float";
    bitmill::compare_options options;
    bool json = false;
};

int run(compare_flags flags) {
    const auto activation = bitmill::activation_from_text(flags.activation);
    if (!activation) return fail(activation.error(), flags.json);
    auto& options = flags.options;
    options.quantized.activation = *activation;
    options.original.threads = options.quantized.threads;
    const auto out = [&] {
        const session shown;
        options.on_progress = [&](std::size_t done, std::size_t total) {
            return shown.show(static_cast<double>(done) / static_cast<double>(total), "compared");
        };
        return bitmill::compare_model_performance(flags.original, flags.quantized, options);
    }();
    if (!out) return fail(out.error(), flags.json);
    show_warnings(out->original.facts);
    show_warnings(out->quantized.facts);
    std::printf("%s", flags.json ? (out->json() + "\n").c_str() : out->table().c_str());
    if (!flags.html.empty())
        if (const auto written = bitmill::replace_file(flags.html, out->html()); !written)
            return fail(written.error(), flags.json);
    if (out->passed()) return 0;
    for (const auto& one : out->gates)
        if (!one.passed)
            std::fprintf(stderr, "bitmill: the gate %s is refused: it is %g\n", printable(one.text).c_str(),
                         one.value);
    return exit_status({.code = bitmill::error_code::refused});
}

// An empty variable of a script would look like an option that was left out.
CLI::Validator a_name() {
    return {[](std::string& text) { return text.empty() ? "the name of the file is empty" : std::string(); },
            ""};
}

}  // namespace

void add_compare(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<compare_flags>();
    auto& verb = *app.add_subcommand("compare", "what a level costs: size, time, memory, quality");
    auto& options = flags->options;
    verb.add_option("ORIGINAL", flags->original, "a Hugging Face folder of an encoder")->required();
    verb.add_option("QUANTIZED", flags->quantized, "what was made of it; or ORIGINAL again, with --level")
        ->required();
    verb.add_option("--level", options.quantized.level,
                    "of QUANTIZED: original, fp16, int8, int4, int2; default: as it lies there");
    verb.add_option("--activation", flags->activation, "of QUANTIZED's integer layers: float, dynamic-int8")
        ->capture_default_str();
    verb.add_option("--threads", options.quantized.threads, "default: one per core")->check(thread_count());
    verb.add_option("--pairs", options.pairs, R"(JSON lines: {"query": "...", "document": "..."})")
        ->check(a_name());
    verb.add_option("--tasks", options.tasks,
                    R"(JSON lines: {"query": "...", "documents": ["...", ...], "relevant": [0, ...]})")
        ->check(a_name());
    verb.add_option("--gate", options.gates,
                    "'recall@10.low>=-1.5%': exit code 6 where it does not hold; many")
        ->allow_extra_args(false);
    verb.add_option("--html", flags->html, "a file for one page with plots")->check(a_name());
    verb.add_option("--rounds", options.rounds, "of timing")->check(not_negative())->capture_default_str();
    verb.add_flag("--json", flags->json, "as JSON");
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
