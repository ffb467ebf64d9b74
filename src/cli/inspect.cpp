#include "cli.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

namespace cli {
namespace {

struct inspect_flags {
    std::string model;
    bool json = false;
};

std::string stored_as(const bitmill::stored_tensor& t) {
    return t.scheme ? bitmill::to_text(*t.scheme) : std::string(bitmill::facts(t.type).name);
}

void print_json(const bitmill::checkpoint& model, const bitmill::stored_model& stored) {
    using nlohmann::ordered_json;
    ordered_json shards = ordered_json::array();
    for (std::size_t i = 0; i < model.shard_count(); ++i)
        shards.push_back({{"name", model.shard_name(i)},
                          {"bytes", model.shard(i).file().size()},
                          {"tensors", model.shard(i).size()}});
    ordered_json tensors = ordered_json::array();
    for (const auto& t : stored.tensors)
        tensors.push_back({{"name", t.name},
                           {"shape", t.shape},
                           {"dtype", std::string(bitmill::facts(t.type).name)},
                           {"stored_as", stored_as(t)},
                           {"elements", t.elements},
                           {"bytes", t.bytes},
                           {"shard", model.shard_name(t.codes.shard)}});
    const ordered_json out{{"model", model.root()},
                           {"quant_method", stored.quant_method},
                           {"shards", std::move(shards)},
                           {"tensors", std::move(tensors)}};
    std::printf("%s\n", out.dump(2, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

void print_table(const bitmill::checkpoint& model, const bitmill::stored_model& stored) {
    std::size_t widest = 6;
    for (const auto& t : stored.tensors)
        widest = std::max(widest, std::min<std::size_t>(printable(t.name).size(), 64));
    std::printf("%-*s  %-16s  %-26s %10s  %s\n", static_cast<int>(widest), "tensor", "shape", "stored as",
                "size", "shard");
    std::uint64_t bytes = 0;
    std::uint64_t elements = 0;
    for (const auto& t : stored.tensors) {
        std::printf("%-*s  %-16s  %-26s %10s  %s\n", static_cast<int>(widest), printable(t.name).c_str(),
                    shape_text(t.shape).c_str(), stored_as(t).c_str(), size_text(t.bytes).c_str(),
                    printable(model.shard_name(t.codes.shard)).c_str());
        bytes += t.bytes;
        elements += t.elements;
    }
    std::printf("\n%zu tensors, %llu elements, %s in %zu file%s; %s\n", stored.tensors.size(),
                static_cast<unsigned long long>(elements), size_text(bytes).c_str(), model.shard_count(),
                model.shard_count() == 1 ? "" : "s",
                stored.quant_method.empty() ? "not quantized" : printable(stored.quant_method).c_str());
}

}  // namespace

void add_inspect(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<inspect_flags>();
    auto& verb = *app.add_subcommand("inspect", "tensors, dtypes, schemes, sizes, shards");
    verb.add_option("MODEL", flags->model, "a Hugging Face folder or a .safetensors file")->required();
    verb.add_flag("--json", flags->json, "as JSON");
    verb.callback([flags, &chosen] {
        chosen = [flags] {
            const auto model = bitmill::checkpoint::open(flags->model);
            if (!model) return fail(model.error(), flags->json);
            const auto stored = bitmill::read_stored(*model);
            if (!stored) return fail(stored.error(), flags->json);
            flags->json ? print_json(*model, *stored) : print_table(*model, *stored);
            return 0;
        };
    });
}

}  // namespace cli
