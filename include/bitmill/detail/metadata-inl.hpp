// metadata.json, the registry's record of a model: who it is, when it came, whether it is quantized. A cache: whoever wants
// to know looks at config.json and manifest.json.
#pragma once

#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>

namespace bitmill::detail {

inline constexpr const char* metadata_name = "metadata.json";
inline constexpr std::uint64_t max_metadata_bytes = std::uint64_t{1} << 20;

// Under any of the names that architectures have for it; of the text part where a model has several.
inline ordered_json hidden_size(const ordered_json& config) {
    for (const char* name : {"hidden_size", "d_model", "dim", "n_embd"})
        if (const auto found = config.find(name); found != config.end() && found->is_number_unsigned())
            return *found;
    if (const auto text = config.find("text_config"); text != config.end() && text->is_object())
        return hidden_size(*text);
    return nullptr;
}

inline ordered_json metadata_of(const std::string& name, const std::string& config_text, bool is_quantized,
                                std::chrono::system_clock::time_point now) {
    using namespace std::chrono;
    const auto whole = floor<seconds>(now);
    const std::time_t time = system_clock::to_time_t(whole);
    std::tm utc{};
    ::gmtime_r(&time, &utc);
    char version[32];
    char created[32];
    std::strftime(version, sizeof version, "hf_%Y%m%d_%H%M%S", &utc);
    const std::size_t length = std::strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(created + length, sizeof created - length, ".%06d",
                  static_cast<int>(duration_cast<microseconds>(now - whole).count()));
    const auto config = config_text.empty() ? ordered_json::object() : ordered_json::parse(config_text);
    const auto type = config.find("model_type");
    return json_object({{"model_name", name},
                        {"model_type", type != config.end() && type->is_string() ? *type : ordered_json()},
                        {"version", version},
                        {"created_at", std::string(created) + "+00:00"},
                        {"is_quantized", is_quantized},
                        {"source", "HuggingFace (downloaded)"},
                        {"dimensions", hidden_size(config)}});
}

inline std::string metadata_text(const ordered_json& record) { return dumped(record, 2) + "\n"; }

// The record in a text that such a system as bitmill wrote; null where another program's is in it, or none.
inline ordered_json parse_metadata(const std::string& text, const std::string& path) {
    // Deep nesting ends nlohmann's destructor; ours has none.
    if (!check_json(text, 4, false, path)) return nullptr;
    auto record = ordered_json::parse(text);
    const auto version = record.find("version");
    const bool known = version != record.end() && version->is_string() &&
                       version->get_ref<const std::string&>().starts_with("hf_");
    return known ? std::move(record) : ordered_json();
}

}  // namespace bitmill::detail
