// What a model's config.json and the names of its files say, without any plan.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <bitmill/detail/json_document-inl.hpp>

namespace bitmill::detail {

template <std::size_t N>
inline bool one_of(std::string_view text, const std::array<std::string_view, N>& names) {
    return std::find(names.begin(), names.end(), text) != names.end();
}

// AutoModel on a ForX checkpoint drops the first part of every name, and ForX on a bare one adds it.
inline std::string without_base_prefix(const std::string& module) {
    static constexpr std::array<std::string_view, 9> prefixes{
        "model", "bert", "roberta", "distilbert", "transformer", "electra", "deberta", "mpnet", "albert"};
    const auto dot = module.find('.');
    if (dot == std::string::npos || !one_of(std::string_view(module).substr(0, dot), prefixes)) return module;
    return module.substr(dot + 1);
}

// compressed-tensors tries "re:" patterns from the start of a module's name.
inline std::string module_pattern(const std::string& module) {
    std::string escaped = "re:(.*\\.)?";
    for (const char c : without_base_prefix(module)) {
        if (std::string_view(".+*?()[]{}|^$\\").find(c) != std::string_view::npos) escaped.push_back('\\');
        escaped.push_back(c);
    }
    return escaped + "$";
}

// The dtype that config.json gives, "float32" where it gives none. `dtype` replaced `torch_dtype` in transformers 5.
inline std::string config_dtype(const ordered_json& config) {
    for (const char* key : {"dtype", "torch_dtype"})
        if (const auto found = config.find(key); found != config.end() && found->is_string())
            return found->get<std::string>();
    return "float32";
}

inline void set_config_dtype(ordered_json& config, std::string_view torch_name) {
    const char* key = config.contains("torch_dtype") && !config.contains("dtype") ? "torch_dtype" : "dtype";
    config[key] = torch_name;
}

inline ordered_json parse_config(const std::string& text) {
    return text.empty() ? ordered_json::object() : ordered_json::parse(text);
}

// The file of the residual planes beside a file of weights.
inline std::string residual_name(const std::string& weights) {
    constexpr std::string_view ending = ".safetensors";
    const std::size_t stem = weights.ends_with(ending) ? weights.size() - ending.size() : weights.size();
    return weights.substr(0, stem) + ".int8.safetensors";
}
// In __metadata__ of both: the SHA-256 of the digests of their tensors, of the base and then of the residual.
inline constexpr const char* planes_key = "bitmill_planes";

}  // namespace bitmill::detail
