#include "cli.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>

namespace cli {
namespace {

struct inspect_flags {
    std::string model;
    bool json = false;
};

void print_table(const bitmill::inspect_report& model) {
    std::size_t widest = 6;
    for (const auto& t : model.tensors)
        widest = std::max(widest, std::min<std::size_t>(printable(t.name).size(), 64));
    std::printf("%-*s  %-16s  %-26s %10s  %s\n", static_cast<int>(widest), "tensor", "shape", "stored as",
                "size", "shard");
    std::uint64_t bytes = 0;
    std::uint64_t elements = 0;
    for (const auto& t : model.tensors) {
        std::printf("%-*s  %-16s  %-26s %10s  %s\n", static_cast<int>(widest), printable(t.name).c_str(),
                    shape_text(t.shape).c_str(), bitmill::stored_as(t).c_str(), size_text(t.bytes).c_str(),
                    printable(model.shards[t.codes.shard].name).c_str());
        bytes += t.bytes;
        elements += t.elements;
    }
    if (model.gguf) {
        std::string counts;
        for (const auto& [type, count] : model.types())
            counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + type;
        std::printf("\nGGUF version %u, %llu keys, architecture %s, name %s\n%s\n", model.gguf->version,
                    static_cast<unsigned long long>(model.gguf->keys),
                    printable(model.gguf->architecture).c_str(), printable(model.gguf->name).c_str(),
                    counts.c_str());
    }
    std::printf("\n%zu tensors, %llu elements, %s in %zu file%s; %s\n", model.tensors.size(),
                static_cast<unsigned long long>(elements), size_text(bytes).c_str(), model.shards.size(),
                model.shards.size() == 1 ? "" : "s",
                model.quant_method.empty() ? "not quantized" : printable(model.quant_method).c_str());
}

}  // namespace

void add_inspect(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<inspect_flags>();
    auto& verb = *app.add_subcommand("inspect", "tensors, dtypes, schemes, sizes, shards");
    verb.add_option(
            "MODEL", flags->model,
            "a Hugging Face folder, or a .safetensors, .bin, .pt, .pth, .gguf, .pkl, .pickle or .joblib file")
        ->required();
    verb.add_flag("--json", flags->json, "as JSON");
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            const auto model = bitmill::inspect(flags->model);
            if (!model) return fail(model.error(), flags->json);
            if (flags->json) std::printf("%s\n", model->json().c_str());
            if (!flags->json) print_table(*model);
            return 0;
        };
    });
}

}  // namespace cli
