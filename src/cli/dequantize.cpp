#include "cli.hpp"

#include <memory>

namespace cli {
namespace {

struct dequantize_flags {
    work_flags work;
    bitmill::work_options options;
    std::string type;
    std::string level;
};

}  // namespace

void add_dequantize(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<dequantize_flags>();
    auto& verb = *app.add_subcommand("dequantize", "a plain checkpoint back");
    flags->work.add_to(verb, flags->options);
    verb.add_option("--dtype", flags->type, "f32, f16, bf16 (default: what each tensor had)");
    verb.add_option("--level", flags->level, "int8, int4: of a bitmill folder (default: the highest there)");
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            if (const int status = flags->work.check(!flags->options.dry_run); status != 0) return status;
            std::optional<bitmill::dtype> type;
            if (!flags->type.empty()) {
                const auto named = bitmill::float_dtype_from_text(flags->type);
                if (!named) return fail(named.error(), flags->work.json);
                type = *named;
            }
            std::optional<bitmill::scheme_type> level;
            if (!flags->level.empty()) {
                const auto named = bitmill::level_from_text(flags->level);
                if (!named) return fail(named.error(), flags->work.json);
                level = named->type;
            }
            bitmill::result<bitmill::mill_report> report = [&] {
                const session running(flags->options);
                return bitmill::dequantize(flags->work.model, flags->work.output, type, flags->options,
                                           level);
            }();
            if (!report) return fail(report.error(), flags->work.json);
            show(*report, flags->work.json, flags->options.dry_run);
            return 0;
        };
    });
}

}  // namespace cli
