#pragma once

#include <algorithm>
#include <filesystem>
#include <utility>

#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/detail/pickle_mill-inl.hpp>
#include <bitmill/mill/model_quantizer.hpp>

namespace bitmill {
namespace detail {

inline constexpr const char* quantized_name = "quantized";

inline double reduction_percent(std::uint64_t before, std::uint64_t after) {
    return before == 0 ? 0 : 100 * (1 - static_cast<double>(after) / static_cast<double>(before));
}

// A model's name and where it lies.
struct batch_entry {
    std::string name;
    std::string path;
    std::string output;  // the folder's name, or the file's: a .gguf and what is pickled stay files
};

// Folders that hold weights, and weight files. Hidden entries, unfinished work and `skipped` are none.
inline result<std::vector<batch_entry>> find_models(const std::string& folder, const std::string& skipped) {
    auto entries = list_folder(folder);
    if (!entries) return entries.error();
    std::vector<batch_entry> found;
    for (const folder_entry& entry : *entries) {
        const std::string path = folder + "/" + entry.name;
        if (entry.name.starts_with('.') || is_work_folder(entry.name)) continue;
        std::error_code unknown;
        if (!skipped.empty() && std::filesystem::equivalent(path, skipped, unknown)) continue;
        const auto type = std::filesystem::status(path, unknown).type();
        if (type == std::filesystem::file_type::directory) {
            const auto inside = list_folder(path);
            // One that cannot be listed fails as a model, with the reason, and stops no other.
            const bool weights =
                !inside || std::any_of(inside->begin(), inside->end(), [](const folder_entry& e) {
                    return e.type != std::filesystem::file_type::directory &&
                           (is_weight_file_name(e.name) || e.name.ends_with(".index.json"));
                });
            if (weights) found.push_back({entry.name, path, entry.name});
        } else if (is_weight_file_name(entry.name) || is_pickle_file_name(entry.name)) {
            const bool stays_file = is_pickle_file_name(entry.name) || is_gguf_name(entry.name);
            const std::string name = entry.name.substr(0, entry.name.rfind('.'));
            found.push_back({name, path, stays_file ? entry.name : name});
        }
    }
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return found;
}

inline result<std::vector<batch_entry>> choose_models(const std::string& folder, const std::string& skipped,
                                                      const std::vector<std::string>& names) {
    auto found = find_models(folder, skipped);
    if (!found) return found;
    const auto refuse = [&](std::string message) {
        return error{.code = error_code::invalid_argument, .message = std::move(message), .file = folder};
    };
    // Of models that differ in their endings alone each takes its whole name.
    for (std::size_t i = 0; i + 1 < found->size(); ++i) {
        batch_entry &one = (*found)[i], &other = (*found)[i + 1];
        if (one.name != other.name) continue;
        const auto whole = [](batch_entry& entry) {
            entry.name = entry.output = std::filesystem::path(entry.path).filename().string();
        };
        for (std::size_t k = i + 1; k < found->size() && (*found)[k].name == one.name; ++k)
            whole((*found)[k]);
        whole(one);
    }
    std::string known;
    for (const auto& one : *found) known += (known.empty() ? "" : ", ") + one.name;
    if (found->empty())
        return refuse(
            "holds no models: no folder with weights, no .safetensors, .bin, .pt, .pth, .gguf, .pkl, "
            ".pickle or .joblib file");
    if (names.empty()) return found;
    std::vector<batch_entry> chosen;
    for (const auto& name : names) {
        const auto at =
            std::find_if(found->begin(), found->end(), [&](const auto& one) { return one.name == name; });
        if (at == found->end()) return refuse("holds no model '" + name + "'; it holds " + known);
        const bool again =
            std::any_of(chosen.begin(), chosen.end(), [&](const auto& one) { return one.name == name; });
        if (!again) chosen.push_back(*at);
    }
    return chosen;
}

// Makes the folder for outputs where it is not there.
inline result<void> make_output_parent(const std::string& folder, const work_options& work) {
    if (work.dry_run) return {};
    std::error_code failed;
    std::filesystem::create_directory(folder, failed);
    if (failed) return os_error(failed.value(), "cannot make the folder", folder);
    return {};
}

// Eight bits in a .gguf are Q8_0, whose blocks have scales of their own. A threshold for the weights of networks would
// take what scikit-learn divides by, or all of a model whose features are large.
inline mill_options options_for(const std::string& model, mill_options options) {
    if (is_gguf_name(model)) options.granularity.reset();
    if (is_pickle_path(model)) {
        options.weight_threshold = 0;
        options.prune_relative = options.target_sparsity = 0;
    }
    return options;
}

inline result<batch_report> mill_batch(const mill_options& options, const std::string& folder,
                                       const std::string& out, const std::vector<std::string>& names) {
    const stopwatch clock;
    if (auto sound = check_pruning(options); !sound) return sound.error();  // once, not for each model
    batch_report report;
    report.source = folder;
    report.output = out.empty() ? folder + "/" + quantized_name : out;
    std::error_code unknown;
    if (std::filesystem::equivalent(folder, report.output, unknown))
        return error{.code = error_code::invalid_argument,
                     .message = "the results cannot lie among the models; choose another output",
                     .file = report.output};
    const auto models = choose_models(folder, report.output, names);
    if (!models) return models.error();
    if (auto made = make_output_parent(report.output, options); !made) return made.error();
    for (const auto& model : *models) {
        batch_row row{model.name, model.path, report.output + "/" + model.output, {}, {}};
        auto done = bitmill::quantize(model.path, row.output, options_for(model.path, options));
        if (!done && done.error().code == error_code::cancelled) return done.error();
        if (done) {
            row.report.emplace(std::move(*done));
        } else {
            row.output.clear();
            row.failure = done.error();
            log_line(options, log_level::warning, model.name + ": " + row.failure.text());
        }
        report.models.push_back(std::move(row));
    }
    report.seconds = clock.seconds();
    return report;
}

}  // namespace detail

BITMILL_INLINE double batch_row::file_size_reduction_percent() const {
    return report ? detail::reduction_percent(report->source_bytes, report->bytes) : 0;
}

BITMILL_INLINE std::size_t batch_report::failed() const {
    return static_cast<std::size_t>(
        std::count_if(models.begin(), models.end(), [](const auto& one) { return !one.report; }));
}

BITMILL_INLINE std::uint64_t batch_report::source_bytes() const {
    std::uint64_t sum = 0;
    for (const auto& one : models) sum += one.report ? one.report->source_bytes : 0;
    return sum;
}

BITMILL_INLINE std::uint64_t batch_report::bytes() const {
    std::uint64_t sum = 0;
    for (const auto& one : models) sum += one.report ? one.report->bytes : 0;
    return sum;
}

BITMILL_INLINE double batch_report::overall_size_reduction_percent() const {
    return detail::reduction_percent(source_bytes(), bytes());
}

BITMILL_INLINE std::string batch_report::json(int indent) const {
    using detail::ordered_json;
    ordered_json rows = ordered_json::object();
    for (const auto& one : models) {
        ordered_json row =
            detail::json_object({{"status", one.report ? "success" : "error"}, {"source", one.source}});
        if (one.report) {
            row["output"] = one.output;
            row["already_milled"] = one.report->already_milled;
            row["original_size_bytes"] = one.report->source_bytes;
            row["quantized_size_bytes"] = one.report->bytes;
            row["file_size_reduction_percent"] = one.file_size_reduction_percent();
            row["report"] = ordered_json::parse(one.report->json(-1));
        } else {
            row["error"] = one.failure.text();
        }
        rows[one.name] = std::move(row);
    }
    ordered_json out = detail::json_object({{"source", source}, {"output", output}});
    out["models"] = std::move(rows);
    out["summary"] =
        detail::json_object({{"models", models.size()},
                             {"succeeded", models.size() - failed()},
                             {"failed", failed()},
                             {"original_size_bytes", source_bytes()},
                             {"quantized_size_bytes", bytes()},
                             {"overall_size_reduction_percent", overall_size_reduction_percent()},
                             {"seconds", seconds}});
    return dumped(out, indent);
}

BITMILL_INLINE result<model_quantizer> model_quantizer::create(int bit_depth, float weight_threshold,
                                                               bool use_dynamic_quantization) {
    auto options = options_from_bit_depth(bit_depth, weight_threshold, use_dynamic_quantization);
    if (!options) return options.error();
    return model_quantizer(std::move(*options));
}

BITMILL_INLINE result<mill_report> model_quantizer::quantize_model_file(const std::string& model,
                                                                        const std::string& output,
                                                                        const work_options& work) const {
    return detail::guard(model, [&]() -> result<mill_report> {
        mill_options options = detail::options_for(model, options_);
        static_cast<work_options&>(options) = work;
        if (!output.empty()) return quantize(model, output, options);
        std::filesystem::path path(model);
        if (!path.has_filename()) path = path.parent_path();
        const std::string folder = (path.parent_path() / detail::quantized_name).string();
        const bool loses_ending = is_weight_file_name(model) && !detail::is_gguf_name(model) &&
                                  !std::filesystem::is_directory(path);
        const std::string name = (loses_ending ? path.stem() : path.filename()).string();
        if (auto made = detail::make_output_parent(folder, work); !made) return made.error();
        return quantize(model, folder + "/" + name, options);
    });
}

BITMILL_INLINE result<batch_report> model_quantizer::batch_quantize_models(
    const std::string& model_dir, const std::string& output_dir, const std::vector<std::string>& names,
    const work_options& work) const {
    return detail::guard(model_dir, [&]() -> result<batch_report> {
        mill_options options = options_;
        static_cast<work_options&>(options) = work;
        return detail::mill_batch(options, model_dir, output_dir, names);
    });
}

}  // namespace bitmill
