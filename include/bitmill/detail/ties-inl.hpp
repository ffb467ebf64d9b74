// Tensors under several names, and which of them an output holds.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include <bitmill/io/checkpoint.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill::detail {

// Whose config.json does not say that they tie the head to the embedding, since that is their default.
inline constexpr std::array<std::string_view, 43> tied_models{"albert",
                                                              "bart",
                                                              "bert",
                                                              "big_bird",
                                                              "bloom",
                                                              "camembert",
                                                              "convbert",
                                                              "deberta",
                                                              "deberta-v2",
                                                              "distilbert",
                                                              "electra",
                                                              "ernie",
                                                              "esm",
                                                              "falcon",
                                                              "gemma",
                                                              "gemma2",
                                                              "gemma3",
                                                              "gemma3_text",
                                                              "gpt2",
                                                              "gpt_bigcode",
                                                              "gpt_neo",
                                                              "led",
                                                              "longformer",
                                                              "longt5",
                                                              "m2m_100",
                                                              "mamba",
                                                              "marian",
                                                              "mbart",
                                                              "modernbert",
                                                              "mpnet",
                                                              "mpt",
                                                              "mt5",
                                                              "opt",
                                                              "pegasus",
                                                              "roberta",
                                                              "starcoder2",
                                                              "switch_transformers",
                                                              "t5",
                                                              "umt5",
                                                              "whisper",
                                                              "xlm",
                                                              "xlm-roberta",
                                                              "xlnet"};

// Names of one tensor (torch.save keeps them apart and their bytes together). A reader that ties the output head to
// the embedding itself needs the embedding alone, as save_pretrained writes it; any other name becomes a tensor of
// its own.
inline void settle_ties(const checkpoint& model, mill_plan& plan) {
    std::map<std::tuple<std::size_t, std::uint64_t, std::vector<std::uint64_t>, std::vector<std::uint64_t>>,
             std::vector<planned_tensor*>>
        groups;
    for (auto& t : plan.tensors) {
        if (model.shard(t.source.shard).dense()) continue;  // no two tensors share their bytes
        if (t.elements == 0 || t.shape.size() != 2 || t.coded) continue;
        const tensor_info info = model.shard(t.source.shard)[t.source.tensor];
        groups[{t.source.shard, info.offset, t.shape, {info.strides.begin(), info.strides.end()}}].push_back(
            &t);
    }
    std::size_t untied = 0;
    std::string first;
    for (auto& [place, names] : groups) {
        // T5's and BART's "shared" is the one that all the others are made of.
        const auto rank = [](const planned_tensor* t) {
            return std::tuple(t->role != tensor_role::embedding, !t->name.ends_with("shared.weight"),
                              t->name.size());
        };
        std::stable_sort(names.begin(), names.end(), [&](auto* a, auto* b) { return rank(a) < rank(b); });
        const bool ties = plan.ties_embeddings && names[0]->role == tensor_role::embedding;
        for (std::size_t i = 1; i < names.size(); ++i) {
            if (!ties || names[i]->role == tensor_role::other) {
                if (untied++ == 0) first = names[i]->name + " (with " + names[0]->name + ")";
                continue;
            }
            names[i]->tied_to = names[0]->name;
            names[i]->requested.reset();
            names[i]->effective.reset();
            names[i]->reason = "tied to " + names[0]->name;
        }
    }
    if (untied != 0)
        plan.warnings.push_back(
            "tensors that share their bytes with another in the source and are written apart from it: " +
            std::to_string(untied) + ", first " + first +
            (plan.ties_embeddings
                 ? ""
                 : "; with a config.json beside the weights whose tie_word_embeddings is true "
                   "an output head stays one with its embedding"));
}

}  // namespace bitmill::detail
