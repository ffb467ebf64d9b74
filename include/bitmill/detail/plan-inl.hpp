#pragma once

#include <algorithm>
#include <array>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/model_facts-inl.hpp>
#include <bitmill/detail/plan_gguf-inl.hpp>
#include <bitmill/detail/plan_options-inl.hpp>
#include <bitmill/detail/ties-inl.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill {
namespace detail {

inline std::string_view last_part(std::string_view path) {
    const auto dot = path.rfind('.');
    return dot == std::string_view::npos ? path : path.substr(dot + 1);
}

// module is `name` or ends in ".name".
inline bool ends_in(std::string_view module, std::string_view name) {
    return module == name || (module.ends_with(name) && module.size() > name.size() &&
                              module[module.size() - name.size() - 1] == '.');
}

inline constexpr std::array<std::string_view, 7> embedding_names{
    "wte", "wpe", "shared", "embeddings", "embedding", "relative_attention_bias", "embed"};
inline constexpr std::array<std::string_view, 15> head_names{"lm_head",
                                                             "embed_out",
                                                             "vocab_projector",
                                                             "score",
                                                             "qa_outputs",
                                                             "classifier",
                                                             "output_projection",
                                                             "seq_relationship",
                                                             "lm_head.decoder",
                                                             "classifier.out_proj",
                                                             "predictions.decoder",
                                                             "generator_lm_head",
                                                             "proj_out",
                                                             "lm_loss",
                                                             "pred_layer.proj"};
inline constexpr std::array<std::string_view, 4> conv1d_models{"gpt2", "openai-gpt", "imagegpt",
                                                               "decision_transformer"};
inline constexpr std::array<std::string_view, 4> conv1d_names{"c_attn", "c_proj", "c_fc", "q_attn"};
inline constexpr std::array<std::string_view, 5> t5_models{"t5", "mt5", "umt5", "longt5",
                                                           "switch_transformers"};
inline constexpr std::array<std::string_view, 3> router_names{"gate", "router", "shared_expert_gate"};

inline const char* why_kept(tensor_role role) {
    switch (role) {
        case tensor_role::head: return "the output head is kept (an include that matches it codes it)";
        case tensor_role::embedding: return "an embedding";
        case tensor_role::conv1d: return "a Conv1D, which readers do not quantize";
        case tensor_role::router: return "a router of experts";
        case tensor_role::linear:
        case tensor_role::other: break;
    }
    return "not a Linear weight";
}

// Parts of the names of matrices that llama.cpp computes with in the float type that they have.
inline constexpr std::array<std::string_view, 10> gguf_float_names{
    "_norm.",    "position_embd.", "token_types.",          "ssm_conv1d.", "shortconv.conv.",
    "time_mix_", "attn_rel_b.",    "per_layer_model_proj.", "altup",       "laurel"};

// Matrices, and stacks of them (the experts of a layer).
inline tensor_role gguf_role(std::string_view name, std::size_t rank) {
    if (rank < 2 || !name.ends_with(".weight")) return tensor_role::other;
    for (const auto part : gguf_float_names)
        if (name.find(part) != std::string_view::npos) return tensor_role::other;
    if (name == "token_embd.weight" || name == "per_layer_token_embd.weight") return tensor_role::embedding;
    if (name == "output.weight" || name.starts_with("cls.") || name.starts_with("cls_"))
        return tensor_role::head;
    if (name.find("ffn_gate_inp") != std::string_view::npos) return tensor_role::router;
    return tensor_role::linear;
}

// Groups that divide a row: the wish, or the largest of 128, 64, 32 that does, or the whole row.
inline std::string fit_group(scheme& s, std::uint64_t cols) {
    if (s.granularity != granularity::group || (cols != 0 && cols % s.group_size == 0)) return {};
    const std::size_t wish = s.group_size;
    for (const std::size_t group : {128u, 64u, 32u}) {
        if (group < wish && cols % group == 0) {
            s.group_size = group;
            return "rows of " + std::to_string(cols) + " are no multiple of " + std::to_string(wish);
        }
    }
    s.granularity = granularity::per_channel;
    s.group_size = 0;
    return "rows of " + std::to_string(cols) + " are a multiple of neither " + std::to_string(wish) +
           " nor 128, 64, 32";
}

// bitsandbytes 0.50 on AVX-512 CPUs starts a new scale at every row, though its blocks run across row ends: only
// blocks that divide a row are read right everywhere. The wish, or the largest smaller one that does, or none.
inline bool fit_block(scheme& s, std::uint64_t cols) {
    for (std::size_t block = s.group_size; block >= 32; block /= 2) {
        if (cols % block != 0) continue;
        s.group_size = block;
        return true;
    }
    return false;
}

// A reader of packed codes sees their width from the length of a row, which is filled to whole words.
inline constexpr std::uint64_t least_cols = 16;

inline bool is_prunable(const planned_tensor& t) {
    return t.shape.size() >= 2 && !t.name.ends_with("bias") && facts(t.source_dtype).weight;
}

class planner {
public:
    planner(const mill_options& options, mill_plan& plan) : options_(options), plan_(plan) {}

    result<void> prepare() {
        auto include = pattern_list::compile(options_.include, "include");
        if (!include) return include.error();
        auto exclude = pattern_list::compile(options_.exclude, "exclude");
        if (!exclude) return exclude.error();
        auto overrides = read_overrides(options_);
        if (!overrides) return overrides.error();
        for (const auto& rule : *overrides)
            if (rule.to)
                if (auto fits = check_container(plan_.format, *rule.to, options_); !fits) return fits;
        include_ = std::move(include).value();
        exclude_ = std::move(exclude).value();
        overrides_ = std::move(overrides).value();
        return {};
    }

    result<void> decide(planned_tensor& t) const {
        const bool gguf = plan_.format == format::gguf;
        t.role = gguf ? gguf_role(t.name, t.shape.size())
                      : role_of(t.name, t.shape.size(), t.source_dtype, plan_.model_type);
        const bool base_is_plain = is_plain(plan_.base.type);
        const bool is_float = facts(t.source_dtype).weight;
        std::optional<scheme> wish;
        if (gguf) {
            wish = gguf_wish(t, base_is_plain);
        } else if (base_is_plain) {
            if (is_float) wish = plan_.base;
            if (!is_float) t.reason = "not a float tensor";
        } else {
            if (t.role == tensor_role::linear || (t.role == tensor_role::head && include_.match(t.name)))
                wish = plan_.base;
            else
                t.reason = why_kept(t.role);
            if (wish && unreadable(t)) wish.reset();
            const bool native = plan_.format == format::bitmill;
            const auto tables = options_.embeddings.value_or(native ? embeddings::int8 : embeddings::keep);
            if (t.role == tensor_role::embedding && tables == embeddings::fp16)
                wish = scheme{.type = scheme_type::f16};
            if (t.role == tensor_role::embedding && tables == embeddings::int8)
                wish = scheme{.scale_dtype = dtype::f16};
            if (wish && t.role == tensor_role::embedding) t.reason.clear();
        }
        if (wish && !include_.empty() && !include_.match(t.name)) {
            wish.reset();
            t.reason = "not included";
        }
        if (wish && exclude_.match(t.name)) {
            wish.reset();
            t.reason = "excluded";
        }
        if (auto overridden = apply_overrides(t, wish); !overridden) return overridden;
        if (wish && t.elements == 0) {
            wish.reset();
            t.reason = "empty";
        }
        t.requested = t.effective = wish;
        t.prunes = wish && asks_to_prune(options_) && is_prunable(t);
        auto done = !wish ? result<void>{} : gguf ? settle_gguf(t) : settle(t);
        // What GGUF holds in blocks it goes on holding so.
        if (gguf && !t.effective && !t.requested) t.coded.reset();
        return done;
    }

private:
    // What a reader could not load although it is a Linear; says why.
    [[nodiscard]] bool unreadable(planned_tensor& t) const {
        if (plan_.format == format::bitmill) return false;
        if (one_of(plan_.model_type, t5_models) && t.name.ends_with(".wo.weight")) {
            t.reason = "transformers reads T5's wo.weight itself";
        } else if (plan_.format == format::bitsandbytes && t.name.find(".experts.") != std::string::npos) {
            t.reason = "transformers 5 fuses experts, which bitsandbytes does not code";
        } else {
            return false;
        }
        return true;
    }

    result<void> apply_overrides(planned_tensor& t, std::optional<scheme>& wish) const {
        for (const auto& rule : overrides_) {
            if (!rule.pattern.match(t.name)) continue;
            const bool coded = rule.to && !is_plain(rule.to->type);
            const bool tables = plan_.format == format::bitmill || plan_.format == format::gguf;
            const bool codable = t.role == tensor_role::linear || t.role == tensor_role::head ||
                                 (t.role == tensor_role::embedding && tables);
            if (coded && !codable) {
                if (options_.strict)
                    return error{.code = error_code::invalid_argument,
                                 .message = std::string("an override asks for ") + facts(rule.to->type).name +
                                            ": " + why_kept(t.role),
                                 .tensor = t.name};
                continue;
            }
            if (rule.to && !facts(t.source_dtype).weight) continue;
            wish = rule.to;
            t.reason = "override";
        }
        return {};
    }

    // A head that is no more asked for than an embedding is coded as one.
    [[nodiscard]] std::optional<scheme> gguf_wish(planned_tensor& t, bool base_is_plain) const {
        t.reason = why_kept(t.role);
        const bool matrix =
            t.role == tensor_role::linear || t.role == tensor_role::head || t.role == tensor_role::embedding;
        if (!matrix || !facts(t.source_dtype).weight) return std::nullopt;
        const bool table = t.role == tensor_role::embedding ||
                           (t.role == tensor_role::head && (include_.empty() || !include_.match(t.name)));
        const auto tables = options_.embeddings.value_or(embeddings::int8);
        if (!base_is_plain && table && tables == embeddings::keep) return std::nullopt;
        t.reason.clear();
        if (base_is_plain || !table) return plan_.base;
        t.reason = "embeddings and the output head have a setting of their own";
        return tables == embeddings::fp16 ? scheme{.type = scheme_type::f16} : ggml_scheme(scheme_type::q8_0);
    }

    // As llama.cpp: the type, or the one that it falls back to. Kept as it is, in blocks or not, where nothing is won.
    result<void> settle_gguf(planned_tensor& t) const {
        scheme& s = *t.effective;
        const auto keep_it = [&](std::string why) {
            t.effective.reset();
            t.requested.reset();
            t.coded.reset();
            t.reason = std::move(why);
            return result<void>{};
        };
        const std::uint64_t cols = t.shape.back();
        while (facts(s.type).ggml != nullptr && cols % facts(s.type).ggml->block_elements != 0) {
            t.reason = "rows of " + std::to_string(cols) + " are no multiple of " +
                       facts(t.requested->type).name + "'s " +
                       std::to_string(facts(t.requested->type).ggml->block_elements);
            if (options_.strict)
                return error{.code = error_code::invalid_argument,
                             .message = t.reason + "; leave out strict, or exclude it",
                             .tensor = t.name};
            const scheme_type less = gguf_fallback(s.type);
            s = facts(less).ggml != nullptr ? ggml_scheme(less) : scheme{.type = less};
        }
        t.method = options_.method.value_or(default_method(s));
        if (t.coded && s.type == t.coded->scheme->type && !t.prunes)
            return keep_it(std::string("already ") + facts(s.type).name);
        if (is_plain(s.type)) {
            const bool same = facts(s.type).plain == t.source_dtype;
            if (t.coded && same && !t.prunes) {
                t.effective.reset();  // decoded
                return {};
            }
            if (same && !t.prunes) return keep_it("already " + std::string(facts(t.source_dtype).name));
            if (!t.coded && s.type == scheme_type::f32 && !same) return keep_it("nothing is widened");
        }
        const auto bytes = encode_bound(s, t.rows(), t.cols());
        if (!bytes) return bytes.error();
        // Levels below that of the embeddings are no wish to widen them.
        if (t.role != tensor_role::linear && !options_.embeddings && bytes->codes >= t.source_bytes &&
            !is_plain(plan_.base.type))
            return keep_it("would not shrink: " + std::to_string(t.source_bytes) + " bytes to " +
                           std::to_string(bytes->codes));
        return {};
    }

    // Fits the wish to this tensor.
    result<void> settle(planned_tensor& t) const {
        scheme& s = *t.effective;
        t.method =
            s.type == plan_.base.type && s.planes == plan_.base.planes ? plan_.method : default_method(s);
        if (facts(s.type).integer) {
            if (plan_.format == format::bitmill && t.cols() < least_cols)
                return keep(
                    t, "rows of " + std::to_string(t.cols()) + " weights are too short to tell widths apart",
                    options_.strict);
            if (plan_.format != format::bitmill)
                s.scale_dtype = t.source_dtype == dtype::f64 ? dtype::f32 : t.source_dtype;
            const bool packed = plan_.activation == activation::floating;
            s.offset_binary = packed;
            s.row_alignment = packed ? 4 : 1;
            if (std::string why = fit_group(s, t.cols()); !why.empty()) {
                if (options_.strict)
                    return error{.code = error_code::invalid_argument,
                                 .message = why + "; leave out strict, or choose a group_size that divides",
                                 .tensor = t.name};
                t.reason = std::move(why);
            }
        } else if (facts(s.type).code_book) {
            const std::size_t wish = s.group_size;
            const std::string why =
                "rows of " + std::to_string(t.cols()) + " are no multiple of " + std::to_string(wish);
            if (!fit_block(s, t.cols()))
                return keep(
                    t, why + " nor of a smaller block: bitsandbytes 0.50 misreads such codes on AVX-512 CPUs",
                    options_.strict);
            if (s.group_size != wish) {
                if (options_.strict)
                    return error{.code = error_code::invalid_argument,
                                 .message = why + "; leave out strict, or choose a block_size that divides",
                                 .tensor = t.name};
                t.reason = why;
            }
        } else {
            // fp32 means copy and prune only: nothing is widened.
            if (s.type == scheme_type::f32) {
                for (const auto& row : scheme_table)
                    if (is_plain(row.type) && row.plain == t.source_dtype) s.type = row.type;
            }
            const bool same = facts(s.type).plain == t.source_dtype;
            if ((same && !t.prunes) || (s.type == scheme_type::f32 && !same)) {
                t.effective.reset();
                if (t.coded) return {};
                t.requested.reset();
                t.reason =
                    same ? "already " + std::string(facts(t.source_dtype).name) : "copied: no scheme for F64";
            }
        }
        if (t.effective)
            if (auto fits = check_scheme(*t.effective, t.source_dtype, t.rows(), t.cols()); !fits) {
                error what = fits.error();
                what.tensor = t.name;
                return what;
            }
        return {};
    }

    const mill_options& options_;
    mill_plan& plan_;
    pattern_list include_;
    pattern_list exclude_;
    std::vector<override_rule> overrides_;
};

inline void read_model_facts(const checkpoint& model, mill_plan& plan) {
    if (model.config_text().empty()) return;
    const auto config = json::parse(model.config_text());
    if (const auto found = config.find("model_type"); found != config.end() && found->is_string())
        plan.model_type = *found;
    const auto ties = config.find("tie_word_embeddings");
    plan.ties_embeddings =
        ties != config.end() && ties->is_boolean() ? ties->get<bool>() : one_of(plan.model_type, tied_models);
    if (const auto found = config.find("architectures"); found != config.end() && found->is_array())
        for (const auto& one : *found)
            if (one.is_string()) plan.architectures.push_back(one);
}

// The logical tensors as they lie in their files; of a quantized model with where their codes and scales are.
inline std::vector<planned_tensor> find_tensors(stored_model& source) {
    std::vector<planned_tensor> out;
    for (auto& s : source.tensors) {
        planned_tensor t;
        t.name = s.name;
        t.source = s.codes;
        t.source_dtype = s.type;
        t.shape = s.shape;
        t.elements = s.elements;
        t.source_bytes = s.bytes;
        if (s.scheme && facts(s.scheme->type).ggml != nullptr) t.block = facts(s.scheme->type).ggml->type;
        if (s.coded()) t.coded = std::move(s);
        out.push_back(std::move(t));
    }
    source.tensors.clear();
    std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
        return std::pair(a.source.shard, a.source.tensor) < std::pair(b.source.shard, b.source.tensor);
    });
    return out;
}

}  // namespace detail

BITMILL_INLINE tensor_role role_of(std::string_view name, std::size_t rank, dtype type,
                                   std::string_view model_type) {
    constexpr std::string_view suffix = ".weight";
    if (rank != 2 || !facts(type).weight || !name.ends_with(suffix)) return tensor_role::other;
    const std::string_view module = name.substr(0, name.size() - suffix.size());
    const std::string_view last = detail::last_part(module);
    for (const auto head : detail::head_names)
        if (detail::ends_in(module, head)) return tensor_role::head;
    if (last.ends_with("embeddings") || last.ends_with("embedding") || last.starts_with("embed_") ||
        detail::one_of(last, detail::embedding_names))
        return tensor_role::embedding;
    if (detail::one_of(model_type, detail::conv1d_models) && detail::one_of(last, detail::conv1d_names))
        return tensor_role::conv1d;
    if (detail::one_of(last, detail::router_names)) return tensor_role::router;
    return tensor_role::linear;
}

BITMILL_INLINE result<void> keep(planned_tensor& tensor, std::string reason, bool strict) {
    if (strict)
        return error{.code = error_code::bad_input,
                     .message = reason + "; strict forbids to keep it as it is",
                     .tensor = tensor.name};
    tensor.effective.reset();
    tensor.reason = std::move(reason);
    return {};
}

BITMILL_INLINE result<mill_plan> make_plan(const checkpoint& model, const mill_options& given) {
    const bool gguf = model.shard(0).gguf() != nullptr;
    mill_options options = given;
    if (gguf && given.format == format::automatic) options.format = format::gguf;
    mill_plan plan;
    plan.base = detail::base_scheme(options);
    plan.activation = options.activation;
    plan.method = options.method.value_or(detail::default_method(plan.base));
    plan.format = detail::container_of(options);
    if (auto sound = detail::check_options(options, plan.format, plan.base, plan.method); !sound)
        return sound.error();
    if (auto sound = detail::check_source(gguf, plan.format); !sound) return sound.error();
    detail::planner planner(options, plan);
    if (auto ready = planner.prepare(); !ready) return ready.error();
    detail::read_model_facts(model, plan);
    auto source = read_stored(model);
    if (!source) return source.error();
    plan.source = std::move(*source);
    plan.tensors = detail::find_tensors(plan.source);
    for (auto& t : plan.tensors) {
        if (auto decided = planner.decide(t); !decided) {
            error what = decided.error();
            what.file = model.shard(t.source.shard).file().path();
            return what;
        }
    }
    const bool coded =
        std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const auto& t) { return t.coded; });
    if (const auto& how = plan.source.quant_method; coded)
        plan.warnings.push_back("the source is quantized (" + how +
                                "): errors are those against its own dequantized weights");
    detail::settle_ties(model, plan);
    // Their classes initialise a Linear's weight by name, which compressed modules do not have.
    if (plan.format == format::compressed_tensors &&
        (plan.model_type == "modernbert" || detail::one_of(plan.model_type, detail::t5_models)))
        plan.warnings.push_back("transformers 5.23 cannot load " + plan.model_type +
                                " from compressed-tensors; it can from bitsandbytes (nf4)");
    return plan;
}

}  // namespace bitmill
