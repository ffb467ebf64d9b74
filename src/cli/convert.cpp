#include "cli.hpp"

#include <memory>

namespace cli {
namespace {

struct convert_flags {
    work_flags work;
    bitmill::convert_options options;
    std::string format;
};

}  // namespace

void add_convert(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<convert_flags>();
    auto& verb = *app.add_subcommand("convert", "the same integers in another container, or a refusal");
    flags->work.add_to(verb, flags->options, "MODEL", "a Hugging Face folder, or a .gguf file",
                       "the folder or .gguf file to write");
    verb.add_option("--format", flags->format, "compressed-tensors, gptq, awq, gguf")->required();
    verb.add_option("--like", flags->options.like,
                    "for GGUF: the same model as .gguf (to gguf) or as a plain folder (from gguf)");
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            if (const int status = flags->work.check(!flags->options.dry_run); status != 0) return status;
            const auto to = bitmill::container_from_text(flags->format);
            if (!to) return fail(to.error(), flags->work.json);
            const auto report = [&] {
                const session running(flags->options);
                return bitmill::convert(flags->work.model, flags->work.output, *to, flags->options);
            }();
            if (!report) return fail(report.error(), flags->work.json);
            show(*report, flags->work.json, flags->options.dry_run);
            return 0;
        };
    });
}

}  // namespace cli
