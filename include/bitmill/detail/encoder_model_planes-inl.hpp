// An open model of two planes at its other level.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/detail/encoder_model-inl.hpp>

namespace bitmill {
namespace detail {

struct named_layer {
    linear* layer;
    const std::string* name;  // in the checkpoint, without ".weight"
};

inline std::vector<named_layer> layers_of(encoder& body, std::optional<classification_head>& classes) {
    std::vector<named_layer> out;
    for (auto& one : body.layers())
        out.insert(out.end(), {{&one.query, &one.names.query},
                               {&one.key, &one.names.key},
                               {&one.value, &one.names.value},
                               {&one.attention_output, &one.names.attention_output},
                               {&one.intermediate, &one.names.intermediate},
                               {&one.output, &one.names.output}});
    if (classes)
        out.insert(out.end(), {{&classes->dense, &classes->dense_name}, {&classes->out, &classes->out_name}});
    return out;
}

// Each layer is one task; all share one block of memory. Returns how many planes there were.
inline result<std::size_t> add_residuals(const std::vector<named_layer>& layers, const model_weights& weights,
                                         thread_team& team) {
    struct plane {
        linear* layer;
        const stored_tensor* tensor;
        std::size_t offset;
    };
    std::vector<plane> planes;
    std::size_t bytes = 0;
    for (const auto& [layer, name] : layers) {
        const auto t = weights.get(*name + ".weight", {layer->out(), layer->in()});
        if (!t) return t.error();
        if (!(*t)->scheme || !(*t)->scheme->planes) continue;
        planes.push_back({layer, *t, bytes});
        bytes += layer->panel_bytes();
    }
    const auto block = std::make_shared<const weight_block>(bytes, weights.memory());
    first_error failed;
    team.run(planes.size(), [&](std::size_t i) {
        const auto& [layer, tensor, offset] = planes[i];
        auto done = guard(weights.model().root(), [&]() -> result<void> {
            const auto read = [&](std::uint64_t from, std::size_t count, std::byte* dst) {
                return weights.read_residual(*tensor, from, count, dst);
            };
            return layer->add_rest(*tensor->scheme, read, {block, block->data() + offset});
        });
        if (!done) failed.set(i, std::move(done).error());
    });
    if (auto done = failed.take(); !done) return done.error();
    return planes.size();
}

inline std::uint64_t bytes_of(const std::vector<named_layer>& layers) {
    std::uint64_t sum = 0;
    for (const auto& one : layers) sum += one.layer->bytes();
    return sum;
}

}  // namespace detail

BITMILL_INLINE result<std::unique_ptr<encoder_model::content>> encoder_model::content::at_level(
    const std::string& level) const {
    const auto refuse_level = [&](const std::string& why) {
        error what = refuse(why);
        what.file = facts.path;
        return what;
    };
    if (level != "int8" && level != "int4")
        return refuse_level("planes have the levels int8 and int4, not '" + level + "'");
    std::unique_ptr<content> made(
        new content{facts, weights, embeddings, layers, sentence, classes, memory, team});
    const auto all = detail::layers_of(made->layers, made->classes);
    const std::uint64_t before = detail::bytes_of(all);
    std::size_t planes = 0;
    if (level == "int4") {
        for (const auto& one : all) {
            planes += one.layer->has_rest() ? 1u : 0u;
            one.layer->drop_rest();
        }
        if (planes != 0) made->facts.file_bytes = weights->base_bytes();
    } else if (facts.effective == "int4") {
        std::unique_ptr<const detail::model_weights> opened;
        if (!weights->has_residuals()) {
            auto both = weights->with_residuals();
            if (!both) return both.error();
            opened = std::move(*both);
        }
        const auto& both = opened ? *opened : *weights;
        const auto added = detail::add_residuals(all, both, *team);
        if (!added) return added.error();
        planes = *added;
        made->facts.file_bytes = both.file_bytes();
    }
    if (planes == 0 && facts.effective != level)
        return refuse_level("this model has no planes: its level is " + facts.effective);
    made->facts.requested = made->facts.effective = level;
    made->facts.reason.clear();
    made->facts.weight_bytes = facts.weight_bytes - before + detail::bytes_of(all);
    return made;
}

}  // namespace bitmill
