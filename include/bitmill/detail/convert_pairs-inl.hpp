// Which tensor of a GGUF file is which of a Hugging Face folder, and whether the two hold one model.
// https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <bitmill/codec/codec.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// Of the rows of a matrix; llama.cpp interleaves the two halves of each head of q and k where it rotates
// neighbours.
struct row_order {
    std::uint64_t head_rows = 0;  // 0: as they lie
    [[nodiscard]] std::uint64_t gguf_row(std::uint64_t r) const {
        if (head_rows == 0) return r;
        const std::uint64_t in_head = r % head_rows, half = head_rows / 2;
        return r - in_head + in_head % half * 2 + in_head / half;
    }
};

// Name of a tensor of an HF folder in GGUF; "" where the table has none.
inline std::string gguf_name_of(std::string_view architecture, std::string_view name) {
    using entry = std::pair<std::string_view, std::string_view>;
    static constexpr std::array<entry, 3> outside{{{"model.embed_tokens.weight", "token_embd.weight"},
                                                   {"model.norm.weight", "output_norm.weight"},
                                                   {"lm_head.weight", "output.weight"}}};
    static constexpr std::array<entry, 13> inside{
        {{"self_attn.q_proj.weight", "attn_q.weight"},
         {"self_attn.k_proj.weight", "attn_k.weight"},
         {"self_attn.v_proj.weight", "attn_v.weight"},
         {"self_attn.o_proj.weight", "attn_output.weight"},
         {"self_attn.q_norm.weight", "attn_q_norm.weight"},
         {"self_attn.k_norm.weight", "attn_k_norm.weight"},
         {"mlp.gate_proj.weight", "ffn_gate.weight"},
         {"mlp.up_proj.weight", "ffn_up.weight"},
         {"mlp.down_proj.weight", "ffn_down.weight"},
         {"input_layernorm.weight", "attn_norm.weight"},
         {"post_attention_layernorm.weight", "ffn_norm.weight"},
         {"pre_feedforward_layernorm.weight", "ffn_norm.weight"},
         {"post_feedforward_layernorm.weight", "post_ffw_norm.weight"}}};
    for (const auto& [hf, gguf] : outside)
        if (name == hf) return std::string(gguf);
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
        return "blk." + std::string(number) + "." + std::string(after ? "post_attention_norm.weight" : gguf);
    }
    return {};
}

class gguf_pairs {
public:
    gguf_pairs(const checkpoint& hf, const stored_model& hf_stored, const checkpoint& gguf,
               const stored_model& gguf_stored, memory_source memory)
        : hf_(hf), gguf_(gguf), gguf_stored_(gguf_stored), hf_values_(hf, hf_stored, memory),
          gguf_values_(gguf, gguf_stored, memory), memory_(memory_or_default(memory)) {}

    result<void> open() {
        static constexpr std::array<std::string_view, 5> known{"llama", "qwen2", "qwen3", "gemma2", "gemma3"};
        const auto& keys = gguf_.shard(0).gguf()->metadata();
        architecture_ = keys.get<std::string_view>("general.architecture").value_or("");
        if (std::find(known.begin(), known.end(), architecture_) == known.end())
            return problem(error_code::unsupported, {},
                           "is of architecture '" + architecture_ +
                               "'; convert knows the names of llama, qwen2, qwen3, gemma2 and gemma3");
        if (architecture_ != "llama") return {};
        const std::string key = architecture_ + ".attention.head_count";
        heads_ = keys.get<std::uint32_t>(key).value_or(0);
        kv_heads_ = keys.find(key + "_kv") ? keys.get<std::uint32_t>(key + "_kv").value_or(0) : heads_;
        if (heads_ != 0 && kv_heads_ != 0) return {};
        return problem(error_code::unsupported, {},
                       "does not say with one number how many heads its attention has: " + key);
    }

    // The index, in the GGUF file, of the tensor that the folder calls `name`.
    [[nodiscard]] std::optional<std::size_t> find(const std::string& name) const {
        const std::string there = gguf_name_of(architecture_, name);
        return there.empty() ? std::nullopt : gguf_.shard(0).find(there);
    }

    [[nodiscard]] result<row_order> order_of(const std::string& name, std::uint64_t rows) const {
        const bool q = name.ends_with(".q_proj.weight"), k = name.ends_with(".k_proj.weight");
        if (architecture_ != "llama" || !(q || k)) return row_order{};
        const std::uint64_t heads = q ? heads_ : kv_heads_;
        if (rows % (2 * heads) == 0) return row_order{rows / heads};
        return problem(error_code::invalid_argument, name,
                       std::to_string(rows) + " rows are no " + std::to_string(heads) +
                           " heads of an even count of rows: it is not the same model")
            .error();
    }

    // The shape, and the direction of the first and last rows: Q2_K and 4 bits together leave a cosine of
    // 0.9, rows in another order hardly more than 0.5.
    result<void> check_matrix(const stored_tensor& hf, std::size_t at, const row_order& rows) const {
        const auto& there = gguf_stored_.tensors[at];
        if (hf.shape != there.shape) return other(hf, "its shape differs from that of " + there.name);
        if (hf.shape.size() != 2 || !facts(hf.type).weight || !facts(there.type).weight)
            return other(hf, "it is no matrix of floats in one of them");
        const std::uint64_t out = hf.shape[0], cols = hf.shape[1], count = std::min(out, most_rows);
        element_buffer ours(memory_), theirs(memory_), scratch(memory_);
        double dot = 0, a2 = 0, b2 = 0;
        for (const std::uint64_t first : {std::uint64_t{0}, out - count}) {
            auto a = values(hf_, hf_values_, hf, first * cols, count * cols, ours, scratch);
            if (!a) return a.error();
            for (std::uint64_t r = 0; r < count; ++r) {
                auto b = values(gguf_, gguf_values_, there, rows.gguf_row(first + r) * cols, cols, theirs,
                                scratch);
                if (!b) return b.error();
                for (std::uint64_t c = 0; c < cols; ++c) {
                    const double x = (*a)[r * cols + c], y = (*b)[c];
                    dot += x * y;
                    a2 += x * x;
                    b2 += y * y;
                }
            }
        }
        if ((a2 == 0 && b2 == 0) || dot > least_cosine * std::sqrt(a2 * b2)) return {};
        return other(hf, "its values are not those of " + there.name + ", or its rows lie in another order");
    }

    // Quantizers that fold scales into norms leave matrices that fit no other norms.
    result<void> check_norm(const stored_tensor& hf, std::size_t at) const {
        const auto& there = gguf_stored_.tensors[at];
        if (!hf.name.ends_with("norm.weight") || there.coded()) return {};
        if (hf.shape.size() != 1 || hf.shape != there.shape || !facts(hf.type).weight ||
            !facts(there.type).weight)
            return other(hf, "its shape or type differs from that of " + there.name);
        element_buffer ours(memory_), theirs(memory_), scratch(memory_);
        auto a = values(hf_, hf_values_, hf, 0, hf.shape[0], ours, scratch);
        if (!a) return a.error();
        auto b = values(gguf_, gguf_values_, there, 0, hf.shape[0], theirs, scratch);
        if (!b) return b.error();
        const double shift = architecture_.starts_with("gemma") ? 1 : 0;
        double apart = 0, whole = 0;
        for (std::uint64_t i = 0; i < hf.shape[0]; ++i) {
            const double x = (*a)[i] + shift, y = (*b)[i];
            apart += (x - y) * (x - y);
            whole += y * y;
        }
        if (apart <= most_apart * most_apart * whole) return {};
        return other(hf,
                     "it is another norm than " + there.name +
                         " (quantizers such as AWQ change norms): make the .gguf of what dequantize makes "
                         "of the folder");
    }

    // `met`: the tensors of the GGUF file that the folder has, too.
    result<void> check_all_met(const std::set<std::size_t>& met) const {
        for (std::size_t i = 0; i < gguf_stored_.tensors.size(); ++i) {
            const auto& t = gguf_stored_.tensors[i];
            if (met.contains(i) || t.shape.size() < 2 || !(t.coded() || t.name.starts_with("blk."))) continue;
            return problem(error_code::unsupported, t.name,
                           "has no counterpart in the folder " + hf_.root() +
                               ": it is not the same model, or its names are not known to convert");
        }
        return {};
    }

private:
    static constexpr std::uint64_t most_rows = 64;
    static constexpr double least_cosine = 0.8;
    static constexpr double most_apart = 0.02;  // BF16 rounds by 0.004

    [[nodiscard]] result<void> problem(error_code code, const std::string& tensor,
                                       const std::string& what) const {
        return error{.code = code, .message = what, .file = gguf_.shard(0).file().path(), .tensor = tensor};
    }
    [[nodiscard]] result<void> other(const stored_tensor& hf, const std::string& why) const {
        return error{.code = error_code::invalid_argument,
                     .message = "is not the same model as " + gguf_.shard(0).file().path() + ": " + why,
                     .file = hf_.shard(hf.codes.shard).file().path(),
                     .tensor = hf.name};
    }

    static result<const float*> values(const checkpoint& model, const stored_values& decoded,
                                       const stored_tensor& t, std::uint64_t first, std::uint64_t count,
                                       element_buffer& buffer, element_buffer& scratch) {
        std::byte* to = grow(buffer, count * sizeof(float));
        if (t.coded()) {
            if (auto done = decoded.read(t, first, count, dtype::f32, to, scratch); !done)
                return done.error();
        } else {
            const auto& file = model.shard(t.codes.shard);
            const std::uint64_t width = element_bytes(t.type);
            std::byte* bytes = grow(scratch, count * width);
            auto done = file.read(file[t.codes.tensor], first * width,
                                  {bytes, static_cast<std::size_t>(count * width)});
            if (!done) return done.error();
            cast({t.type, bytes, 1, static_cast<std::size_t>(count)}, dtype::f32, to);
        }
        return reinterpret_cast<const float*>(to);
    }

    const checkpoint& hf_;
    const checkpoint& gguf_;
    const stored_model& gguf_stored_;
    stored_values hf_values_;
    stored_values gguf_values_;
    memory_source memory_;
    std::string architecture_;
    std::uint64_t heads_ = 0, kv_heads_ = 0;
};

}  // namespace bitmill::detail
