#pragma once

#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/mill/variants.hpp>

namespace bitmill {
namespace detail {

inline constexpr const char* metadata_name = "metadata.json";

// The last part of the folder's real path: "." and links have names, too.
inline std::string folder_name(const std::string& path) {
    std::error_code failed;
    const auto real = std::filesystem::canonical(path, failed);
    return (failed ? std::filesystem::path(path) : real).filename().string();
}

// Under any of the names that architectures have for it; of the text part where a model has several.
inline ordered_json hidden_size(const ordered_json& config) {
    for (const char* name : {"hidden_size", "d_model", "dim", "n_embd"})
        if (const auto found = config.find(name); found != config.end() && found->is_number_unsigned())
            return *found;
    if (const auto text = config.find("text_config"); text != config.end() && text->is_object())
        return hidden_size(*text);
    return nullptr;
}

inline std::string metadata_text(const checkpoint& model, std::chrono::system_clock::time_point now) {
    using namespace std::chrono;
    const auto micros = duration_cast<microseconds>(now.time_since_epoch()).count();
    const std::time_t seconds = static_cast<std::time_t>(micros / 1000000);
    std::tm utc{};
    ::gmtime_r(&seconds, &utc);
    char version[32];
    char created[32];
    std::strftime(version, sizeof version, "hf_%Y%m%d_%H%M%S", &utc);
    const std::size_t length = std::strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%S", &utc);
    std::snprintf(created + length, sizeof created - length, ".%06d", static_cast<int>(micros % 1000000));
    const auto config =
        model.config_text().empty() ? ordered_json::object() : ordered_json::parse(model.config_text());
    const auto type = config.find("model_type");
    return json_object({{"model_name", folder_name(model.root())},
                        {"model_type", type != config.end() && type->is_string() ? *type : ordered_json()},
                        {"version", version},
                        {"created_at", std::string(created) + "+00:00"},
                        {"is_quantized", true},
                        {"source", "HuggingFace (downloaded)"},
                        {"dimensions", hidden_size(config)}})
               .dump(2, ' ', false, ordered_json::error_handler_t::replace) +
           "\n";
}

inline mill_options variant_options(const mill_options& options, scheme_type level) {
    mill_options out = options;
    out.to = level;
    const bool by_group = options.granularity == granularity::group;
    if (level == scheme_type::int8 && by_group) {
        out.granularity.reset();
        out.group_size = 0;
    }
    return out;
}

inline result<repository_report> quantize_both(const std::string& path, const std::string& out,
                                               const mill_options& options) {
    namespace fs = std::filesystem;
    const stopwatch clock;
    if (!options.levels.empty())
        return error{.code = error_code::invalid_argument,
                     .message = "levels go with one folder of format bitmill; both writes two folders"};
    auto model = checkpoint::open(path);
    if (!model) return model.error();
    repository_report report;
    report.source = path;
    report.output = out.empty() ? model->root() : out;
    // Both plans stand before anything is made.
    const scheme_type levels[] = {scheme_type::int8, scheme_type::int4};
    for (const auto level : levels)
        if (auto plan = make_plan(*model, variant_options(options, level)); !plan) return plan.error();
    bool made_folder = false;
    if (!options.dry_run) {
        std::error_code failed;
        made_folder = fs::create_directory(report.output, failed);
        if (failed) return os_error(failed.value(), "cannot make the folder", report.output);
    }
    bool milled = false;
    for (const auto level : levels) {
        auto one =
            detail::quantize(path, report.output + "/" + facts(level).name, variant_options(options, level));
        if (!one) {
            std::error_code in_use;  // it stays where it holds something
            if (made_folder) fs::remove(report.output, in_use);
            return one.error();
        }
        milled = milled || !one->already_milled;
        report.variants.push_back(std::move(*one));
    }
    const auto described = is_there(report.output + "/" + metadata_name);
    if (!described) return described.error();
    if (!options.dry_run && (milled || !*described)) {
        const std::string text = metadata_text(*model, std::chrono::system_clock::now());
        if (auto done = replace_file(report.output + "/" + metadata_name, text); !done) return done.error();
    }
    report.seconds = clock.seconds();
    return report;
}

}  // namespace detail

BITMILL_INLINE std::string repository_report::json(int indent) const {
    using detail::ordered_json;
    ordered_json list = ordered_json::array();
    for (const auto& one : variants) list.push_back(ordered_json::parse(one.json(-1)));
    return detail::json_object(
               {{"source", source}, {"output", output}, {"seconds", seconds}, {"variants", std::move(list)}})
        .dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

BITMILL_INLINE result<repository_report> quantize_both(const std::string& model, const std::string& out,
                                                       const mill_options& options) {
    return detail::guard(
        model, [&]() -> result<repository_report> { return detail::quantize_both(model, out, options); });
}

}  // namespace bitmill
