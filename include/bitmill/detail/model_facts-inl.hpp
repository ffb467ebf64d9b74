// What a model's config.json and the names of its files say, without any plan.
#pragma once

#include <string>
#include <string_view>

#include <bitmill/detail/json_document-inl.hpp>

namespace bitmill::detail {

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

}  // namespace bitmill::detail
