// Bodies of model/registry.hpp.
#pragma once

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <bitmill/detail/registry_jobs-inl.hpp>
#include <bitmill/detail/registry_models-inl.hpp>
#include <bitmill/model/registry.hpp>

namespace bitmill {
namespace detail {

inline ordered_json json_of(const registered_model& model) {
    const model_metadata& of = model.metadata;
    const auto text_or_null = [](const std::string& text) {
        return text.empty() ? ordered_json(nullptr) : ordered_json(text);
    };
    return json_object({{"model_name", of.model_name},
                        {"model_type", text_or_null(of.model_type)},
                        {"version", text_or_null(of.version)},
                        {"created_at", text_or_null(of.created_at)},
                        {"is_quantized", of.is_quantized},
                        {"source", text_or_null(of.source)},
                        {"dimensions", of.dimensions ? ordered_json(*of.dimensions) : ordered_json(nullptr)},
                        {"types", model.types},
                        {"levels", model.levels},
                        {"active", model.active},
                        {"problem", text_or_null(model.problem)}});
}

// The level that a model serves at if nobody says.
inline std::string best_level(const std::vector<std::string>& levels) {
    for (const char* level : {"int8", "int4", "int2", "fp16", "original"})
        if (std::find(levels.begin(), levels.end(), level) != levels.end()) return level;
    return {};
}

// Of the report, what a client asks for; its paths and its tensors stay here.
inline ordered_json json_of(const quantize_outcome& outcome) {
    ordered_json out =
        json_object({{"level", outcome.level}, {"job_id", outcome.job_id}, {"did_work", outcome.did_work}});
    if (!outcome.report) return out;
    const mill_report& report = *outcome.report;
    out.update(json_object(
        {{"format", report.format},
         {"requested", report.requested},
         {"parameters", report.parameters},
         {"source_bytes", report.source_bytes},
         {"bytes", report.bytes},
         {"ratio_to_source", ratio(report.source_bytes, report.bytes)},
         {"ratio_to_f32", 4 * ratio(report.parameters, report.bytes)},
         {"bits_per_weight", report.bits_per_weight()},
         {"snr_db", report.already_milled ? ordered_json(nullptr) : number_or_null(report.error().snr_db())},
         {"seconds", report.seconds},
         {"resumed_bytes", report.resumed_bytes},
         {"warnings", report.warnings}}));
    return out;
}

}  // namespace detail

BITMILL_INLINE std::string registered_model::json(int indent) const {
    return detail::dumped(detail::json_of(*this), indent);
}

BITMILL_INLINE std::string model_list::json(int indent) const {
    using detail::ordered_json;
    ordered_json list = ordered_json::array();
    for (const auto& one : models) list.push_back(detail::json_of(one));
    return detail::dumped(detail::json_object({{"models", std::move(list)}}), indent);
}

BITMILL_INLINE std::string active_models::json(int indent) const {
    using detail::json_object;
    auto out = detail::ordered_json::object();
    for (const auto& [type, one] : models)
        out[type] = json_object(
            {{"status", one.status},
             {"metadata", json_object({{"model_name", one.model_name}, {"is_quantized", one.is_quantized}})},
             {"quantization", json_object({{"level", one.level}})}});
    return detail::dumped(out, indent);
}

BITMILL_INLINE std::string quantize_outcome::json(int indent) const {
    auto out = detail::json_object({{"status", status}, {"message", message}, {"model_name", model_name}});
    if (code == error_code::ok) {
        out["is_quantized"] = is_quantized;
        out["already_quantized"] = already_quantized;
        out["quantization"] = detail::json_of(*this);
    }
    return detail::dumped(out, indent);
}

struct model_registry::content {
    content(std::string root, const registry_options& options) : table(std::move(root), options) {}

    detail::model_table table;
    detail::level_jobs jobs;
    mutable std::mutex mutex;  // of what follows
    std::map<std::string, std::string, std::less<>> types{{"roberta", "roberta-base"},
                                                          {"xlm-roberta", "xlm-roberta-base"},
                                                          {"distilbert", "distilbert-base-uncased"}};
    std::map<std::string, std::string> active;  // type -> level, "" for the best there is

    [[nodiscard]] std::string name_of(const std::string& type_or_name) const {
        const std::lock_guard lock(mutex);
        const auto found = types.find(type_or_name);
        return found == types.end() ? type_or_name : found->second;
    }

    // What is wrong with a model is said in it: one that is damaged hides no other.
    [[nodiscard]] registered_model look_up(const std::string& name, const std::string& path) {
        registered_model out;
        out.metadata.model_name = name;
        auto found = table.look_at(name, path);
        auto record =
            found ? table.describe(name, path, found->is_quantized) : result<model_metadata>(found.error());
        const auto opened = record ? checkpoint::open(path) : result<checkpoint>(record.error());
        if (!opened) out.problem = detail::relative_text(opened.error(), path, table.root());
        if (record) {
            out.metadata = std::move(*record);
            out.levels = std::move(found->levels);
        }
        const std::lock_guard lock(mutex);
        for (const auto& [type, model] : types) {
            if (model != name) continue;
            out.types.push_back(type);
            out.active = out.active || active.contains(type);
        }
        return out;
    }

    // Fills `out`; what is returned went wrong.
    result<void> quantize(const std::string& path, const mill_options& options, quantize_outcome& out) {
        const auto refuse = [](std::string message) {
            return error{.code = error_code::invalid_argument, .message = std::move(message)};
        };
        if (options.dry_run) return refuse("a registry makes no plans; call quantize with dry_run itself");
        out.level = detail::level_of_scheme(options.to);
        if (out.level.empty())
            return refuse(std::string(facts(options.to).name) + " is no level: fp16, int8, int4, int2");
        auto model = checkpoint::open(path);
        if (!model) return model.error();
        const auto stored = detail::quantization_of(*model);
        if (!stored) return stored.error();
        if (!stored->method.empty()) {
            const auto there = table.look_at(out.model_name, path);
            if (!there) return there.error();
            const auto& own = there->own;
            out.already_quantized = std::find(own.begin(), own.end(), out.level) != own.end();
            if (out.already_quantized) return {};
        }
        const auto request =
            detail::open_request(out.model_name, out.level, path, std::move(*model), options);
        if (!request) return request.error();
        out.job_id = request->id();
        const auto done = jobs.get(*request);
        if (!done) return done.error();
        out.already_quantized = done->already;
        out.did_work = done->did_work;
        out.report = done->report;
        if (done->looked) (void)look_up(out.model_name, path);  // metadata.json is to know of it
        return {};
    }
};

BITMILL_INLINE model_registry::model_registry(std::unique_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE model_registry::model_registry(model_registry&&) noexcept = default;
BITMILL_INLINE model_registry& model_registry::operator=(model_registry&&) noexcept = default;
BITMILL_INLINE model_registry::~model_registry() = default;

BITMILL_INLINE result<model_registry> model_registry::open(const std::string& root,
                                                           const registry_options& options) {
    return detail::guard(root, [&]() -> result<model_registry> {
        std::error_code failed;
        const auto real = std::filesystem::canonical(root, failed);
        if (failed) return detail::os_error(failed.value(), "cannot open the registry's folder", root);
        if (const auto listed = detail::list_folder(real.string()); !listed) return listed.error();
        return model_registry(std::make_unique<content>(real.string(), options));
    });
}

BITMILL_INLINE result<void> model_registry::register_model(const std::string& type,
                                                           const std::string& model_name) {
    for (const auto* text : {&type, &model_name})
        if (const char* why = detail::why_not_model_name(*text))
            return error{.code = error_code::invalid_argument,
                         .message = "'" + detail::shown_name(*text) + "' names no type and no model: " + why};
    const std::lock_guard lock(content_->mutex);
    content_->types[type] = model_name;
    return {};
}

BITMILL_INLINE result<std::string> model_registry::path_of(const std::string& type_or_name) const {
    return detail::guard(content_->table.root(), [&]() -> result<std::string> {
        return content_->table.locate(content_->name_of(type_or_name));
    });
}

BITMILL_INLINE result<registered_model> model_registry::find(const std::string& type_or_name) {
    return detail::guard(content_->table.root(), [&]() -> result<registered_model> {
        const std::string name = content_->name_of(type_or_name);
        const auto path = content_->table.locate(name);
        if (!path) return path.error();
        return content_->look_up(name, *path);
    });
}

BITMILL_INLINE result<model_list> model_registry::list() {
    return detail::guard(content_->table.root(), [&]() -> result<model_list> {
        const auto all = content_->table.find_all();
        if (!all) return all.error();
        model_list out;
        for (const auto& [name, path] : *all) out.models.push_back(content_->look_up(name, path));
        return out;
    });
}

BITMILL_INLINE mill_options model_registry::default_options() {
    mill_options out;
    out.to = scheme_type::int8;
    out.format = format::bitmill;
    return out;
}

BITMILL_INLINE quantize_outcome model_registry::quantize(const std::string& type_or_name,
                                                         const mill_options& options) {
    quantize_outcome out{.status = "success", .message = {}, .model_name = content_->name_of(type_or_name)};
    const std::string name = out.model_name;
    const auto path = detail::guard(out.model_name, [&] { return content_->table.locate(out.model_name); });
    const auto fail = [&](const error& what, std::string message) {
        out.status = "error";
        out.code = what.code;
        out.message = std::move(message);
    };
    if (!path && path.error().code == error_code::invalid_argument) {
        out.model_name = detail::shown_name(name);
        fail(path.error(), "Model " + out.model_name + " not found or not supported for quantization");
        return out;
    }
    out.found = true;
    const auto done = path ? detail::guard(*path, [&] { return content_->quantize(*path, options, out); })
                           : result<void>(path.error());
    if (!done) {
        const std::string where = path ? *path : std::string();
        fail(done.error(), "Error during quantization: " +
                               detail::relative_text(done.error(), where, content_->table.root()));
        return out;
    }
    out.is_quantized = true;
    out.message = out.already_quantized ? "Model " + name + " is already quantized"
                                        : "Successfully quantized " + name + " model";
    return out;
}

BITMILL_INLINE std::vector<quantize_job> model_registry::jobs() const { return content_->jobs.running(); }

BITMILL_INLINE result<void> model_registry::set_active(const std::string& type, bool active,
                                                       const std::string& level) {
    if (!level.empty())
        if (auto known = detail::check_level(level, {}); !known) return known;
    const std::lock_guard lock(content_->mutex);
    if (!content_->types.contains(type))
        return error{.code = error_code::invalid_argument,
                     .message = "there is no type '" + detail::shown_name(type) + "'; register it first"};
    if (active)
        content_->active[type] = level;
    else
        content_->active.erase(type);
    return {};
}

BITMILL_INLINE active_models model_registry::active() const {
    std::map<std::string, std::pair<std::string, std::string>> marked;  // type -> model, level
    {
        const std::lock_guard lock(content_->mutex);
        for (const auto& [type, level] : content_->active)
            marked[type] = {content_->types.find(type)->second, level};
    }
    active_models out;
    for (const auto& [type, what] : marked) {
        const auto& [name, level] = what;
        active_model one{.model_name = name, .level = level};
        const auto path = content_->table.locate(name);
        const auto found =
            path ? content_->table.look_at(name, *path) : result<detail::model_levels_found>(path.error());
        if (found) {
            one.is_quantized = found->is_quantized;
            if (level.empty()) one.level = detail::best_level(found->levels);
        }
        out.models[type] = std::move(one);
    }
    return out;
}

BITMILL_INLINE std::vector<std::string> model_registry::warnings() const {
    return content_->table.warnings();
}

}  // namespace bitmill
