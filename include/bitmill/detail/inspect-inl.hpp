#pragma once

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/inspect.hpp>

namespace bitmill {

BITMILL_INLINE std::string stored_as(const stored_tensor& tensor) {
    return tensor.scheme ? to_text(*tensor.scheme) : std::string(facts(tensor.type).name);
}

BITMILL_INLINE result<inspect_report> inspect(const std::string& path) {
    return detail::guard(path, [&]() -> result<inspect_report> {
        const auto model = checkpoint::open(path);
        if (!model) return model.error();
        auto stored = read_stored(*model);
        if (!stored) return stored.error();
        inspect_report report{model->root(), std::move(stored->quant_method), {}, std::move(stored->tensors)};
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

BITMILL_INLINE std::string inspect_report::json(int indent) const {
    using detail::ordered_json;
    ordered_json shard_list = ordered_json::array();
    for (const auto& one : shards)
        shard_list.push_back(
            detail::json_object({{"name", one.name}, {"bytes", one.bytes}, {"tensors", one.tensors}}));
    ordered_json tensor_list = ordered_json::array();
    for (const auto& t : tensors)
        tensor_list.push_back(detail::json_object({{"name", t.name},
                                                   {"shape", t.shape},
                                                   {"dtype", std::string(facts(t.type).name)},
                                                   {"stored_as", stored_as(t)},
                                                   {"elements", t.elements},
                                                   {"bytes", t.bytes},
                                                   {"shard", shards[t.codes.shard].name}}));
    ordered_json out = detail::json_object({{"model", model}, {"quant_method", quant_method}});
    out["shards"] = std::move(shard_list);
    out["tensors"] = std::move(tensor_list);
    return out.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace bitmill
