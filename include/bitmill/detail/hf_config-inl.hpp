// config.json as transformers, compressed-tensors and bitsandbytes read it.
#pragma once

#include <algorithm>
#include <array>
#include <map>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/model_facts-inl.hpp>
#include <bitmill/detail/plan-inl.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill {
namespace detail {

inline std::string module_of(const planned_tensor& t) { return t.name.substr(0, t.name.rfind('.')); }

// Linears that are tied to an embedding, so that no file holds them, but that the model class has: readers must
// be told to leave them alone.
inline std::vector<std::string> absent_heads(const mill_plan& plan) {
    static constexpr std::pair<std::string_view, std::string_view> table[] = {
        {"ForCausalLM", "lm_head"},
        {"LMHeadModel", "lm_head"},
        {"ForConditionalGeneration", "lm_head"},
        {"RobertaForCausalLM", "lm_head.decoder"},
        {"CamembertForCausalLM", "lm_head.decoder"},
        {"BertLMHeadModel", "cls.predictions.decoder"},
        {"BertForMaskedLM", "cls.predictions.decoder"},
        {"BertForPreTraining", "cls.predictions.decoder"},
        {"DebertaForMaskedLM", "cls.predictions.decoder"},
        {"DebertaV2ForMaskedLM", "cls.predictions.decoder"},
        {"AlbertForMaskedLM", "predictions.decoder"},
        {"AlbertForPreTraining", "predictions.decoder"},
        {"RobertaForMaskedLM", "lm_head.decoder"},
        {"RobertaXLForMaskedLM", "lm_head.decoder"},
        {"CamembertForMaskedLM", "lm_head.decoder"},
        {"MPNetForMaskedLM", "lm_head.decoder"},
        {"ElectraForMaskedLM", "generator_lm_head"},
        {"DistilBertForMaskedLM", "vocab_projector"},
        {"ModernBertForMaskedLM", "decoder"},
        {"WhisperForConditionalGeneration", "proj_out"},
        {"XLNetLMHeadModel", "lm_loss"},
        {"XLMWithLMHeadModel", "pred_layer.proj"},
        {"FlaubertWithLMHeadModel", "pred_layer.proj"},
    };
    std::vector<std::string> heads;
    for (const auto& architecture : plan.architectures) {
        for (const auto& [ending, head] : table) {
            const std::string name(head);
            const bool present = std::any_of(plan.tensors.begin(), plan.tensors.end(),
                                             [&](const auto& t) { return t.name == name + ".weight"; });
            if (architecture.ends_with(ending) && !present &&
                std::find(heads.begin(), heads.end(), name) == heads.end())
                heads.push_back(name);
        }
    }
    return heads;
}

inline bool is_kept_linear(const planned_tensor& t) {
    const bool coded =
        t.effective && (facts(t.effective->type).integer || facts(t.effective->type).code_book);
    return !coded &&
           (t.role == tensor_role::linear || t.role == tensor_role::head || t.role == tensor_role::router);
}

inline ordered_json weights_scheme(const scheme& s) {
    static constexpr const char* strategies[] = {"tensor", "channel", "group", "block"};
    ordered_json out = json_object({{"num_bits", facts(s.type).bits},
                                    {"type", "int"},
                                    {"symmetric", s.symmetric},
                                    {"strategy", strategies[static_cast<std::size_t>(s.granularity)]},
                                    {"group_size", nullptr},
                                    {"dynamic", false}});
    if (s.granularity == granularity::group) out["group_size"] = s.group_size;
    return out;
}

inline ordered_json compressed_tensors_config(const mill_plan& plan) {
    const bool activations = plan.activation == activation::dynamic_int8;
    const char* layout = activations ? "int-quantized" : "pack-quantized";
    // The commonest scheme speaks for every Linear, the others name their modules.
    std::map<std::string, std::vector<const planned_tensor*>> groups;
    ordered_json ignore = ordered_json::array();
    for (const auto& t : plan.tensors) {
        if (t.effective && facts(t.effective->type).integer)
            groups[weights_scheme(*t.effective).dump()].push_back(&t);
        // Readers of int-quantized would take it for codes that have lost their scales.
        const bool like_codes = activations && t.shape.size() == 2 && t.name.ends_with(".weight") &&
                                (t.source_dtype == dtype::i8 || t.source_dtype == dtype::f8_e4m3);
        if (is_kept_linear(t) || like_codes)
            ignore.push_back(t.role == tensor_role::head ? module_of(t) : module_pattern(module_of(t)));
    }
    for (const auto& head : absent_heads(plan)) ignore.push_back(head);
    std::vector<const std::vector<const planned_tensor*>*> by_size;
    by_size.reserve(groups.size());
    for (const auto& [key, members] : groups) by_size.push_back(&members);
    std::stable_sort(by_size.begin(), by_size.end(),
                     [](const auto* a, const auto* b) { return a->size() > b->size(); });
    ordered_json input_activations = nullptr;
    if (activations)
        input_activations = json_object({{"num_bits", 8},
                                         {"type", "int"},
                                         {"symmetric", true},
                                         {"strategy", "token"},
                                         {"group_size", nullptr},
                                         {"dynamic", true}});
    ordered_json config_groups = ordered_json::object();
    for (std::size_t i = 0; i < by_size.size(); ++i) {
        ordered_json targets = ordered_json::array();
        if (i == 0) targets.push_back("Linear");
        if (i != 0)
            for (const auto* t : *by_size[i]) targets.push_back(module_pattern(module_of(*t)));
        config_groups["group_" + std::to_string(i)] =
            json_object({{"targets", std::move(targets)},
                         {"weights", weights_scheme(*by_size[i]->front()->effective)},
                         {"input_activations", input_activations},
                         {"output_activations", nullptr},
                         {"format", layout}});
    }
    return json_object({{"quant_method", "compressed-tensors"},
                        {"format", layout},
                        {"quantization_status", "compressed"},
                        {"config_groups", std::move(config_groups)},
                        {"ignore", std::move(ignore)},
                        {"kv_cache_scheme", nullptr},
                        {"global_compression_ratio", nullptr}});
}

// bitsandbytes skips a module whose name ends in an entry, so an entry that also ends a coded module's name is
// anchored at the start.
inline ordered_json bitsandbytes_config(const mill_plan& plan, const std::string& compute_dtype) {
    std::vector<std::string> coded;
    std::vector<std::string> kept = absent_heads(plan);
    std::string quant_type = facts(plan.base.type).name;
    bool nested = false;
    for (const auto& t : plan.tensors) {
        if (t.effective && facts(t.effective->type).code_book) {
            coded.push_back(module_of(t));
            nested = nested || t.effective->double_quant;
        } else if (is_kept_linear(t)) {
            kept.push_back(module_of(t));
        }
    }
    ordered_json skip = nullptr;
    if (!kept.empty()) {
        skip = ordered_json::array();
        for (const auto& module : kept) {
            const std::string bare = without_base_prefix(module);
            const auto ends_a_coded = [&](const std::string& text) {
                return std::any_of(coded.begin(), coded.end(),
                                   [&](const auto& one) { return one.ends_with(text); });
            };
            skip.push_back(!ends_a_coded(bare) ? bare : "^" + module);
        }
    }
    return json_object({{"quant_method", "bitsandbytes"},
                        {"load_in_4bit", true},
                        {"load_in_8bit", false},
                        {"bnb_4bit_quant_type", quant_type},
                        {"bnb_4bit_use_double_quant", nested},
                        {"bnb_4bit_compute_dtype", compute_dtype},
                        {"bnb_4bit_quant_storage", "uint8"},
                        {"llm_int8_skip_modules", std::move(skip)}});
}

// Ours says what the folder holds; what a tensor is, its own tensors say.
inline ordered_json bitmill_config(const mill_plan& plan) {
    ordered_json levels = ordered_json::array();
    if (plan.base.planes) levels.push_back("int4");
    levels.push_back(facts(plan.base.type).name);
    const auto planes = std::count_if(plan.tensors.begin(), plan.tensors.end(), [](const planned_tensor& t) {
        return std::any_of(t.parts.begin(), t.parts.end(),
                           [](const auto& part) { return part.what == output_part::kind::residual; });
    });
    return json_object({{"quant_method", "bitmill"},
                        {"version", 1},
                        {"levels", std::move(levels)},
                        {"group_size", plan.base.group_size},
                        {"residual_planes", planes}});
}

}  // namespace detail

BITMILL_INLINE std::string config_for(const mill_plan& plan, const std::string& source_config) {
    auto config = detail::parse_config(source_config);
    config.erase("quantization_config");
    const bool coded = std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const auto& t) {
        return t.effective && (facts(t.effective->type).integer || facts(t.effective->type).code_book);
    });
    if (plan.format == format::plain &&
        (plan.base.type == scheme_type::f16 || plan.base.type == scheme_type::bf16))
        detail::set_config_dtype(config, facts(facts(plan.base.type).plain).torch);
    if (coded && plan.format == format::compressed_tensors)
        config["quantization_config"] = detail::compressed_tensors_config(plan);
    if (coded && plan.format == format::bitmill) config["quantization_config"] = detail::bitmill_config(plan);
    if (coded && plan.format == format::bitsandbytes)
        config["quantization_config"] = detail::bitsandbytes_config(plan, detail::config_dtype(config));
    return detail::dumped(config, 2) + "\n";
}

}  // namespace bitmill
