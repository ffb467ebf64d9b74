#pragma once

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/pickle_mill-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/inspect.hpp>

namespace bitmill {
namespace detail {

inline result<inspect_report> inspect_pickle(const std::string& path) {
    auto file = input_file::open(path);
    if (!file) return file.error();
    const auto model = pickle_model::open(std::move(*file));
    if (!model) return model.error();
    inspect_report report{path, "", {}, {}, {}};
    report.shards.push_back(
        {std::filesystem::path(path).filename().string(), model->file().size(), model->arrays().size()});
    for (const pickle_array& array : model->arrays()) {
        stored_tensor row;
        row.name = array.name;
        row.shape = array.shape;
        row.type = array.type;
        row.elements = array.elements;
        row.bytes = array.bytes;
        row.offset = array.data;
        report.tensors.push_back(std::move(row));
    }
    return report;
}

}  // namespace detail

BITMILL_INLINE result<inspect_report> inspect(const std::string& path) {
    return detail::guard(path, [&]() -> result<inspect_report> {
        if (detail::is_pickle_path(path)) return detail::inspect_pickle(path);
        const auto model = checkpoint::open(path);
        if (!model) return model.error();
        auto stored = read_stored(*model);
        if (!stored) return stored.error();
        inspect_report report{
            model->root(), std::move(stored->quant_method), {}, std::move(stored->tensors), {}};
        if (const gguf_file* gguf = model->shard(0).gguf()) {
            const auto text = [&](const char* key) {
                return std::string(gguf->metadata().get<std::string_view>(key).value_or(std::string_view()));
            };
            report.gguf = gguf_report{gguf->version(), gguf->alignment(), gguf->metadata().size(),
                                      text("general.architecture"), text("general.name")};
        }
        for (std::size_t i = 0; i < model->shard_count(); ++i)
            report.shards.push_back(
                {model->shard_name(i), model->shard(i).file().size(), model->shard(i).size()});
        for (std::size_t i = 0; i < stored->residuals.size(); ++i)
            if (const auto& planes = stored->residuals[i])
                report.shards.push_back(
                    {detail::residual_name(model->shard_name(i)), planes->file().size(), planes->size()});
        return report;
    });
}

BITMILL_INLINE std::map<std::string, std::uint64_t> inspect_report::types() const {
    std::map<std::string, std::uint64_t> counts;
    for (const auto& t : tensors) ++counts[stored_as(t)];
    return counts;
}

BITMILL_INLINE std::string inspect_report::json(int indent) const {
    using detail::ordered_json;
    ordered_json shard_list = ordered_json::array();
    for (const auto& one : shards)
        shard_list.push_back(
            detail::json_object({{"name", one.name}, {"bytes", one.bytes}, {"tensors", one.tensors}}));
    ordered_json tensor_list = ordered_json::array();
    for (const auto& t : tensors) {
        tensor_list.push_back(detail::json_object({{"name", t.name},
                                                   {"shape", t.shape},
                                                   {"dtype", std::string(facts(t.type).name)},
                                                   {"stored_as", stored_as(t)},
                                                   {"elements", t.elements},
                                                   {"bytes", t.bytes},
                                                   {"shard", shards[t.codes.shard].name}}));
        if (t.offset) tensor_list.back()["offset"] = *t.offset;
    }
    ordered_json out = detail::json_object({{"model", model}, {"quant_method", quant_method}});
    if (gguf) {
        out["gguf"] = detail::json_object({{"version", gguf->version},
                                           {"alignment", gguf->alignment},
                                           {"keys", gguf->keys},
                                           {"architecture", gguf->architecture},
                                           {"name", gguf->name}});
        out["gguf"]["types"] = types();
    }
    out["shards"] = std::move(shard_list);
    out["tensors"] = std::move(tensor_list);
    return out.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace bitmill
