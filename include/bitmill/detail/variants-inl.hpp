#pragma once

#include <chrono>
#include <filesystem>

#include <bitmill/detail/metadata-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/detail/pickle_mill-inl.hpp>
#include <bitmill/mill/variants.hpp>

namespace bitmill {
namespace detail {

// The last part of the folder's path ("." and links have names, too); in the cache of the Hugging Face hub
// (models--ORG--NAME/snapshots/REV) ORG/NAME.
inline std::string folder_name(const std::string& path) {
    std::error_code failed;
    const auto real = std::filesystem::canonical(path, failed);
    const auto whole = failed ? std::filesystem::path(path) : real;
    constexpr std::string_view prefix = "models--";
    std::string cached = whole.parent_path().parent_path().filename().string();
    if (whole.parent_path().filename() != "snapshots" || !cached.starts_with(prefix))
        return whole.filename().string();
    cached.erase(0, prefix.size());
    if (const auto dashes = cached.find("--"); dashes != std::string::npos) cached.replace(dashes, 2, "/");
    return cached;
}

// Is there a metadata.json that is to be replaced? Errors: invalid_argument for one that is not bitmill's.
inline result<bool> find_metadata(const std::string& folder, bool force) {
    const std::string path = folder + "/" + metadata_name;
    const auto there = is_there(path);
    if (!there || !*there) return there;
    auto file = input_file::open_beneath(folder, metadata_name);
    if (!file) return file.error();
    const auto text = read_text(*file, max_metadata_bytes);
    if (!text) return text.error();
    if (force || !parse_metadata(*text, path).is_null()) return true;
    return error{.code = error_code::invalid_argument,
                 .message =
                     "exists already and was not written by bitmill; move it away, choose another output, or "
                     "replace it with --force",
                 .file = path};
}

inline mill_options variant_options(const mill_options& options, scheme_type level) {
    mill_options out = options;
    out.to = level;
    const bool by_group = options.granularity == granularity::group;
    if (level == scheme_type::int8 && by_group && options.format != format::bitmill) {
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
    constexpr const char* one_at_a_time =
        "both makes variants of a Hugging Face folder; quantize this to one type at a time";
    if (is_pickle_path(path))
        return error{.code = error_code::unsupported, .message = one_at_a_time, .file = path};
    auto model = checkpoint::open(path);
    if (!model) return model.error();
    if (model->shard(0).gguf() != nullptr)
        return error{.code = error_code::unsupported, .message = one_at_a_time, .file = path};
    repository_report report;
    report.source = path;
    report.output = out.empty() ? model->root() : out;
    if (out.empty() && model->config_text().empty())
        return error{.code = error_code::invalid_argument,
                     .message =
                         "is no model's folder that variants could be put into (it has no config.json); give "
                         "--output (-o)",
                     .file = report.output};
    // What would be refused is, before anything is made.
    const scheme_type levels[] = {scheme_type::int8, scheme_type::int4};
    std::vector<std::optional<mill_report>> found;
    for (const auto level : levels) {
        const mill_options one = variant_options(options, level);
        if (auto plan = make_plan(*model, one); !plan) return plan.error();
        const std::string place = report.output + "/" + facts(level).name;
        auto already = options.dry_run ? result<std::optional<mill_report>>(std::nullopt)
                                       : find_milled(*model, path, place, one);
        if (!already) return already.error();
        const auto there = is_there(place);
        if (!there) return there.error();
        if (*there && !*already && !options.force && !options.dry_run)
            return error{.code = error_code::invalid_argument,
                         .message =
                             "exists already and is not what would be written; choose another output, or "
                             "replace it with --force",
                         .file = place};
        found.push_back(std::move(*already));
    }
    const auto described = find_metadata(report.output, options.force || options.dry_run);
    if (!described) return described.error();
    bool made_folder = false;
    if (!options.dry_run) {
        std::error_code failed;
        made_folder = fs::create_directory(report.output, failed);
        if (failed) return os_error(failed.value(), "cannot make the folder", report.output);
    }
    bool milled = false;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const auto level = levels[i];
        auto one = found[i] ? result<mill_report>(std::move(*found[i]))
                            : detail::mill_into(*model, path, report.output + "/" + facts(level).name,
                                                variant_options(options, level));
        if (!one) {
            std::error_code in_use;  // it stays where it holds something
            if (made_folder) fs::remove(report.output, in_use);
            return one.error();
        }
        milled = milled || !one->already_milled;
        report.variants.push_back(std::move(*one));
    }
    if (!options.dry_run && (milled || !*described)) {
        const auto record = metadata_of(folder_name(model->root()), model->config_text(), true,
                                        std::chrono::system_clock::now());
        const auto done = replace_file(report.output + "/" + metadata_name, metadata_text(record));
        if (!done) return done.error();
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
