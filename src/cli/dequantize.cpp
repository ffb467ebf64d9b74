#include "cli.hpp"

#include <memory>

namespace cli {
namespace {

struct dequantize_flags {
    work_flags work;
    bitmill::work_options options;
    std::string type;

    [[nodiscard]] std::optional<bitmill::dtype> output_type() const {
        if (type == "f32") return bitmill::dtype::f32;
        if (type == "f16") return bitmill::dtype::f16;
        if (type == "bf16") return bitmill::dtype::bf16;
        return std::nullopt;
    }
};

}  // namespace

void add_dequantize(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<dequantize_flags>();
    auto& verb = *app.add_subcommand("dequantize", "a plain checkpoint back");
    flags->work.add_to(verb, flags->options);
    verb.add_option("--dtype", flags->type, "f32, f16, bf16 (default: what each tensor had)")
        ->check(CLI::IsMember({"f32", "f16", "bf16"}));
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            if (const int status = flags->work.check(flags->options); status != 0) return status;
            bitmill::result<bitmill::mill_report> report = [&] {
                const session running(flags->options);
                return bitmill::dequantize(flags->work.model, flags->work.output, flags->output_type(),
                                           flags->options);
            }();
            if (!report) return fail(report.error(), flags->work.json);
            show(*report, flags->work.json, flags->options.dry_run);
            return 0;
        };
    });
}

}  // namespace cli
