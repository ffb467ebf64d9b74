#include "cli.hpp"

#include <cstdio>
#include <memory>

namespace cli {
namespace {

struct quantize_flags {
    work_flags work;
    bitmill::mill_options options;
    std::string to;
    std::string format;
    std::string method;
    std::string activation;
    std::string embeddings;
    std::string levels;
    std::string nan = "error";
    bool per_tensor = false;
    bool per_channel = false;
    bool asymmetric = false;
    bool verbose = false;
    bool both = false;  // two folders
    std::uint64_t group_size = 0;
    CLI::Option* group_option = nullptr;
    CLI::Option* block_option = nullptr;

    bitmill::result<void> finish();
};

bitmill::result<void> quantize_flags::finish() {
    both = to == "both";
    if (!both) {
        const auto level = bitmill::level_from_text(to);
        if (!level) return level.error();
        options.to = level->type;
        options.activation = level->activation;
    }
    if (!format.empty()) {
        const auto chosen = bitmill::format_from_text(format);
        if (!chosen) return chosen.error();
        options.format = *chosen;
    }
    if (!method.empty()) {
        const auto chosen = bitmill::method_from_text(method);
        if (!chosen) return chosen.error();
        options.method = *chosen;
    }
    if (!activation.empty()) {
        const auto chosen = bitmill::activation_from_text(activation);
        if (!chosen) return chosen.error();
        options.activation = *chosen;
    }
    if (!embeddings.empty()) {
        const auto chosen = bitmill::embeddings_from_text(embeddings);
        if (!chosen) return chosen.error();
        options.embeddings = *chosen;
    }
    if (!levels.empty()) {
        const auto chosen = bitmill::levels_from_text(levels);
        if (!chosen) return chosen.error();
        options.levels = *chosen;
    }
    options.keep_non_finite = nan == "keep";
    options.symmetric = !asymmetric;
    const bool by_group = group_option->count() != 0;
    if (static_cast<int>(per_tensor) + static_cast<int>(per_channel) + static_cast<int>(by_group) > 1)
        return usage("choose one of --per-tensor, --per-channel and --group-size");
    if (block_option->count() != 0 && !bitmill::facts(options.to).code_book)
        return usage("--block-size goes with nf4 and fp4; int8 and int4 have --group-size");
    if (per_tensor) options.granularity = bitmill::granularity::per_tensor;
    if (per_channel || (by_group && group_size == 0)) options.granularity = bitmill::granularity::per_channel;
    if (by_group && group_size != 0) {
        options.granularity = bitmill::granularity::group;
        options.group_size = static_cast<std::size_t>(group_size);
    }
    return {};
}

int run_both(quantize_flags& flags) {
    const auto report = [&] {
        const session running(flags.options);
        return bitmill::quantize_both(flags.work.model, flags.work.output, flags.options);
    }();
    if (!report) return fail(report.error(), flags.work.json);
    if (flags.work.json) {
        for (const auto& one : report->variants) show_warnings(one);
        std::printf("%s\n", report->json().c_str());
        return 0;
    }
    for (const auto& one : report->variants) show(one, false, flags.verbose || flags.options.dry_run);
    return 0;
}

}  // namespace

void add_quantize(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<quantize_flags>();
    auto& verb = *app.add_subcommand("quantize", "mill one model");
    auto& options = flags->options;
    flags->work.add_to(verb, options);
    verb.add_option(
            "--to", flags->to,
            "int8, int4, int2, nf4, fp4, fp16, bf16, fp32 (copy and prune only); of a .gguf also q8_0, q4_0, "
            "q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k; both: the variants "
            "OUT/int8 and OUT/int4, OUT being the model's own folder where -o is not given")
        ->required();
    verb.add_option(
        "--format", flags->format,
        "plain, compressed-tensors, bitsandbytes, bitmill, gguf, pickle (default: by level: fp16/bf16 "
        "plain, int8/int4 "
        "compressed-tensors, nf4/fp4 bitsandbytes, int2 bitmill; of a .gguf always gguf, of a .pkl always "
        "pickle)");
    verb.add_option("--levels", flags->levels,
                    "format bitmill: int8,int4 (default for int8), or one of them");
    verb.add_flag("--per-tensor", flags->per_tensor, "int8, int4: one scale for a tensor");
    verb.add_flag("--per-channel", flags->per_channel, "one scale for a row (default for int8)");
    flags->group_option =
        verb.add_option(
                "--group-size", flags->group_size,
                "one scale for N weights of a row, 0 = per channel (default: int4 and planes 128, int2 32)")
            ->check(not_negative());
    flags->block_option = verb.add_option("--block-size", options.block_size, "nf4, fp4: 32, 64 ... 4096")
                              ->check(not_negative())
                              ->capture_default_str();
    verb.add_flag("--double-quant", options.double_quant, "nf4, fp4: store the scales in 8 bits");
    verb.add_flag("--asymmetric", flags->asymmetric,
                  "refused for formats whose readers cannot load zero points");
    verb.add_option("--method", flags->method,
                    "absmax or mse (default: mse for int4, int2, planes and GGUF below 8 bits, else absmax)");
    verb.add_option("--activation", flags->activation,
                    "float or dynamic-int8 (int8 only: W8A8; default: by level)");
    verb.add_option("--embeddings", flags->embeddings,
                    "keep (default), fp16, int8 (default of formats bitmill and gguf)");
    verb.add_option("--include", options.include, "code only tensors whose name matches RE (repeatable)")
        ->allow_extra_args(false);
    verb.add_option("--exclude", options.exclude, "keep tensors whose name matches RE (repeatable)")
        ->allow_extra_args(false);
    verb.add_option("--override", options.override,
                    "'RE=SCHEME', SCHEME: keep, or a level with :N, :per_channel or :per_tensor (repeatable)")
        ->allow_extra_args(false);
    verb.add_flag("--strict", options.strict, "a deviation from the request is an error");
    add_pruning(verb, options);
    verb.add_option("--nan", flags->nan, "error, or keep tensors that hold NaN or Inf as they are")
        ->check(CLI::IsMember({"error", "keep"}))
        ->capture_default_str();
    verb.add_flag("--resume,!--no-resume", options.resume,
                  "go on where a killed run of the same command stopped (default)");
    verb.add_option(
            "--journal-bytes", options.journal_bytes,
            "weights, in bytes, that a kill may cost: after as many what was written is brought to disk")
        ->check(not_negative())
        ->transform(CLI::AsSizeValue(false))
        ->default_str("256M");
    verb.add_flag("-v,--verbose", flags->verbose, "a row for every tensor");
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            const bool placed = flags->options.dry_run || flags->to == "both";
            if (const int status = flags->work.check(!placed); status != 0) return status;
            if (auto ready = flags->finish(); !ready) return fail(ready.error(), flags->work.json);
            if (flags->both) return run_both(*flags);
            bitmill::result<bitmill::mill_report> report = [&] {
                const session running(flags->options);
                return bitmill::quantize(flags->work.model, flags->work.output, flags->options);
            }();
            if (!report) return fail(report.error(), flags->work.json);
            show(*report, flags->work.json, flags->verbose || flags->options.dry_run);
            return 0;
        };
    });
}

}  // namespace cli
