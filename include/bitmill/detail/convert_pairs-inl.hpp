// Which tensor of a GGUF file is which of a Hugging Face folder, and whether the two hold one model.
// https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/convert_keys-inl.hpp>
#include <bitmill/detail/convert_same-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// Name of a tensor of an HF folder in GGUF; "" where the table has none.
inline std::string gguf_name_of(std::string_view architecture, std::string_view name) {
    using entry = std::pair<std::string_view, std::string_view>;
    static constexpr std::array<entry, 3> outside{
        {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}}};
    static constexpr std::array<entry, 13> inside{{{"self_attn.q_proj", "attn_q"},
                                                   {"self_attn.k_proj", "attn_k"},
                                                   {"self_attn.v_proj", "attn_v"},
                                                   {"self_attn.o_proj", "attn_output"},
                                                   {"self_attn.q_norm", "attn_q_norm"},
                                                   {"self_attn.k_norm", "attn_k_norm"},
                                                   {"mlp.gate_proj", "ffn_gate"},
                                                   {"mlp.up_proj", "ffn_up"},
                                                   {"mlp.down_proj", "ffn_down"},
                                                   {"input_layernorm", "attn_norm"},
                                                   {"post_attention_layernorm", "ffn_norm"},
                                                   {"pre_feedforward_layernorm", "ffn_norm"},
                                                   {"post_feedforward_layernorm", "post_ffw_norm"}}};
    const auto end = std::min(name.rfind('.'), name.size());
    const std::string tail(name.substr(end));
    if (tail != ".weight" && tail != ".bias") return {};
    name = name.substr(0, end);
    for (const auto& [hf, gguf] : outside)
        if (name == hf) return std::string(gguf) + tail;
    constexpr std::string_view layers = "model.layers.";
    if (!name.starts_with(layers)) return {};
    name.remove_prefix(layers.size());
    const auto dot = name.find('.');
    const std::string_view number = name.substr(0, dot);
    if (dot == std::string_view::npos || number.empty() ||
        number.find_first_not_of("0123456789") != std::string_view::npos)
        return {};
    name.remove_prefix(dot + 1);
    for (const auto& [hf, gguf] : inside) {
        if (name != hf) continue;
        const bool after = architecture.starts_with("gemma") && name.starts_with("post_attention");
        return "blk." + std::string(number) + "." + std::string(after ? "post_attention_norm" : gguf) + tail;
    }
    return {};
}

class gguf_pairs {
public:
    gguf_pairs(const checkpoint& hf, const stored_model& hf_stored, const checkpoint& gguf,
               const stored_model& gguf_stored, memory_source memory)
        : hf_(hf), hf_stored_(hf_stored), gguf_(gguf), gguf_stored_(gguf_stored), keys_(hf, gguf),
          values_(hf, hf_stored, gguf, gguf_stored, memory) {}

    // The keys, without any tensor.
    result<void> open() {
        static constexpr std::array<std::string_view, 5> known{"llama", "qwen2", "qwen3", "gemma2", "gemma3"};
        architecture_ =
            gguf_.shard(0).gguf()->metadata().get<std::string_view>("general.architecture").value_or("");
        if (std::find(known.begin(), known.end(), architecture_) == known.end())
            return problem(error_code::unsupported, {},
                           "is of architecture '" + architecture_ +
                               "'; convert knows the names of llama, qwen2, qwen3, gemma2 and gemma3");
        return keys_.check();
    }

    // The index, in the GGUF file, of the tensor that the folder calls `name`.
    [[nodiscard]] std::optional<std::size_t> find(const std::string& name) const {
        const std::string there = gguf_name_of(architecture_, name);
        return there.empty() ? std::nullopt : gguf_.shard(0).find(there);
    }

    [[nodiscard]] result<row_order> order_of(const std::string& name, std::uint64_t rows) const {
        const bool q = name.find(".q_proj.") != std::string::npos,
                   k = name.find(".k_proj.") != std::string::npos;
        if (architecture_ != "llama" || !(q || k)) return row_order{};
        const std::uint64_t heads = q ? keys_.heads() : keys_.kv_heads();
        if (rows % (2 * heads) == 0) return row_order{rows / heads};
        return problem(error_code::invalid_argument, name,
                       std::to_string(rows) + " rows are no " + std::to_string(heads) +
                           " heads of an even count of rows: it is not the same model")
            .error();
    }

    // `noise`: of its rows, where the folder's tensor is coded.
    result<void> check_same(const stored_tensor& hf, std::size_t at,
                            const same_values::row_noise& noise = {}) {
        auto rows = order_of(hf.name, hf.shape.empty() ? 0 : hf.shape[0]);
        if (!rows) return rows.error();
        const bool norm = hf.name.ends_with("norm.weight");
        auto why = values_.difference(hf, gguf_stored_.tensors[at], *rows,
                                      norm && architecture_.starts_with("gemma") ? 1 : 0, noise);
        if (!why) return why.error();
        return why->empty() ? result<void>{} : other(hf, *why);
    }

    // A tensor of the folder that is not coded. Files leave out a head that is tied to the embeddings, and the
    // frequencies of rotary embeddings, which follow from keys.
    result<void> check_plain(const stored_tensor& hf, std::optional<std::size_t> at) {
        if (!at && hf.name.ends_with(".rotary_emb.inv_freq")) return {};
        if (hf.name == "lm_head.weight" && (!at || keys_.tied())) {
            const auto embeddings = gguf_.shard(0).find("token_embd.weight");
            if (at && embeddings)
                if (auto done = check_same(hf, *embeddings); !done) return done;
            if (!at) at = embeddings;
        }
        if (at) return check_same(hf, *at);
        return other(hf, "that has no tensor for it, or its name is not known to convert");
    }

    // `met`: the tensors of the GGUF file that the folder has, too.
    result<void> check_all_met(const std::set<std::size_t>& met) {
        const std::vector<float> factors = keys_.rope_factors();
        if (!factors.empty() && !gguf_.shard(0).find(rope_freqs))
            return problem(error_code::invalid_argument, std::string(rope_freqs),
                           "is missing, and rope_scaling of " + hf_.root() + "/config.json is llama3");
        for (std::size_t i = 0; i < gguf_stored_.tensors.size(); ++i) {
            const auto& t = gguf_stored_.tensors[i];
            if (met.contains(i)) continue;
            if (t.name == rope_freqs && !factors.empty()) {
                if (auto done = check_factors(t, factors); !done) return done;
                continue;
            }
            const auto embeddings =
                std::find_if(hf_stored_.tensors.begin(), hf_stored_.tensors.end(),
                             [](const auto& one) { return one.name == "model.embed_tokens.weight"; });
            if (t.name != "output.weight" || embeddings == hf_stored_.tensors.end())
                return problem(error_code::unsupported, t.name,
                               "has no counterpart in the folder " + hf_.root() +
                                   ": it is not the same model, or its names are not known to convert");
            if (auto done = check_same(*embeddings, i); !done) return done;
        }
        return {};
    }

private:
    static constexpr std::string_view rope_freqs = "rope_freqs.weight";

    [[nodiscard]] result<void> problem(error_code code, const std::string& tensor,
                                       const std::string& what) const {
        return error{.code = code, .message = what, .file = gguf_.shard(0).file().path(), .tensor = tensor};
    }
    [[nodiscard]] result<void> other(const stored_tensor& hf, const std::string& why) const {
        return error{
            .code = error_code::invalid_argument,
            .message =
                "is not the same model as " + gguf_.shard(0).file().path() + ": " + why +
                "; give files of one model, such as what dequantize makes of the folder and a .gguf of that",
            .file = hf_.shard(hf.codes.shard).file().path(),
            .tensor = hf.name};
    }

    result<void> check_factors(const stored_tensor& t, const std::vector<float>& factors) {
        const auto apart = [](float a, float b) { return !(std::abs(a - b) <= 1e-4f * std::abs(b)); };
        if (t.elements == factors.size() && facts(t.type).weight && !t.coded()) {
            auto theirs = values_.theirs(t);
            if (!theirs) return theirs.error();
            if (std::equal(factors.begin(), factors.end(), *theirs, std::not_fn(apart))) return {};
        }
        return problem(
            error_code::invalid_argument, t.name,
            "is not what rope_scaling of " + hf_.root() + "/config.json says: it is not the same model");
    }

    const checkpoint& hf_;
    const stored_model& hf_stored_;
    const checkpoint& gguf_;
    const stored_model& gguf_stored_;
    model_keys keys_;
    same_values values_;
    std::string architecture_;
};

}  // namespace bitmill::detail
