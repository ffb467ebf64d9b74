// The models of a registry's folder, and metadata.json beside each.
#pragma once

#include <algorithm>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/manifest_check-inl.hpp>
#include <bitmill/detail/metadata-inl.hpp>
#include <bitmill/detail/model_loader_sources-inl.hpp>
#include <bitmill/detail/side_files-inl.hpp>
#include <bitmill/detail/verify-inl.hpp>
#include <bitmill/model/registry.hpp>

namespace bitmill::detail {

// Why a text cannot be the name of a model or a type, or nullptr.
inline const char* why_not_model_name(std::string_view name) noexcept {
    if (name.empty()) return "the name is empty";
    if (name.size() > 255) return "the name is longer than 255 bytes";
    if (name.front() == '.') return "the name begins with a dot";
    if (!is_utf8(name)) return "the name is not UTF-8";
    for (const char c : name)
        if (c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            return "the name holds a '/' or a control character";
    if (is_work_folder(name)) return "names with this ending are for unfinished work";
    return nullptr;
}

// For a message: one line of UTF-8, of what is long its beginning.
inline std::string shown_name(std::string_view name) {
    constexpr std::size_t most = 200;
    std::string out = printable(name.substr(0, 2 * most));
    if (out.size() <= most) return out;
    std::size_t end = most;
    while ((static_cast<unsigned char>(out[end]) & 0xc0) == 0x80) --end;
    return out.replace(end, std::string::npos, "...");
}

// '#' stands for a digit.
inline bool has_form(std::string_view text, std::string_view form) noexcept {
    return text.size() == form.size() &&
           std::equal(text.begin(), text.end(), form.begin(),
                      [](char c, char f) { return f == '#' ? c >= '0' && c <= '9' : c == f; });
}

// Python's datetime writes no zone.
inline bool is_iso_time(std::string_view text) noexcept {
    constexpr std::string_view form = "####-##-##T##:##:##.######";
    const std::string_view zone = text.substr(std::min(form.size(), text.size()));
    return has_form(text.substr(0, form.size()), form) &&
           (zone.empty() || zone == "Z" || has_form(zone, "+##:##") || has_form(zone, "-##:##"));
}

// An error's text with the paths of the machine taken out; `path`: the model's folder, in the folder `root`.
inline std::string relative_text(const error& what, const std::string& path, const std::string& root) {
    std::string text = what.text();
    const auto replace = [&](const std::string& from, const std::string& to) {
        for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
            text.replace(at, from.size(), to);
    };
    const std::string name = path.substr(std::min(path.rfind('/') + 1, path.size()));
    if (!path.empty()) replace(path + "/", "");
    if (!path.empty()) replace(path, name);
    replace(root + "/", "");
    replace(root, "the registry's folder");
    return text;
}

// What lies in a model's folder.
struct model_levels_found {
    std::vector<std::string> levels;  // on disk, from the highest down
    std::vector<std::string> own;     // of them, in the folder itself
    bool is_quantized = false;
};

class model_table {
public:
    model_table(std::string root, registry_options options)
        : root_(std::move(root)), options_(std::move(options)) {}

    [[nodiscard]] const std::string& root() const noexcept { return root_; }

    // The folder of a model, links resolved.
    [[nodiscard]] result<std::string> locate(const std::string& name) const {
        namespace fs = std::filesystem;
        const auto refuse = [&](const std::string& why) {
            return error{.code = error_code::invalid_argument,
                         .message = "there is no model '" + shown_name(name) + "': " + why};
        };
        if (const char* why = why_not_model_name(name)) return refuse(why);
        std::error_code failed;
        const fs::path real = fs::canonical(root_ + "/" + name, failed);
        if (failed == std::errc::no_such_file_or_directory) return refuse("it is not in the registry");
        if (failed) return os_error(failed.value(), "cannot look at the model", name);
        if (!real.string().starts_with(root_ == "/" ? root_ : root_ + "/"))
            return refuse("it is a link that leads out of the registry's folder");
        if (!fs::is_directory(real, failed)) return refuse("it is not a folder");
        const auto config = is_there(real.string() + "/config.json");
        if (!config) return config.error();
        if (!*config) return refuse("its folder holds no config.json");
        return real.string();
    }

    // Every entry that is a model, by name.
    [[nodiscard]] result<std::vector<std::pair<std::string, std::string>>> find_all() {
        auto entries = list_folder(root_);
        if (!entries) return entries.error();
        std::vector<std::pair<std::string, std::string>> out;
        for (const auto& entry : *entries) {
            if (entry.name.starts_with('.') || is_work_folder(entry.name)) continue;
            auto path = locate(entry.name);
            if (path)
                out.emplace_back(entry.name, std::move(*path));
            else if (entry.type == std::filesystem::file_type::symlink)
                warn(path.error().text());
        }
        return out;
    }

    // Errors: those of opening the model.
    [[nodiscard]] result<model_levels_found> look_at(const std::string& name, const std::string& path) {
        return guard(path, [&]() -> result<model_levels_found> {
            const auto sources = level_sources::find(path, "");
            if (!sources) return sources.error();
            model_levels_found out;
            for (const auto& level : sources->levels()) {
                const level_source& source = *sources->get(level);
                if (source.cast || !is_sound(name, source)) continue;
                out.levels.push_back(level);
                if (source.path == path) out.own.push_back(level);
                out.is_quantized = out.is_quantized || level != "original";
            }
            return out;
        });
    }

    // What metadata.json says, after it was made or put right.
    [[nodiscard]] result<model_metadata> describe(const std::string& name, const std::string& path,
                                                  bool is_quantized) {
        return guard(path, [&]() -> result<model_metadata> {
            auto file = input_file::open_beneath(path, "config.json");
            if (!file) return file.error();
            const auto config = read_text(*file, max_config_bytes);
            if (!config) return config.error();
            if (auto sound = check_json(*config, 64, false, file->path()); !sound) return sound.error();
            const auto now = options_.now ? options_.now() : std::chrono::system_clock::now();
            // In the file it has its folder's own name, whatever link led here.
            const auto own_name = std::filesystem::path(path).filename().string();
            const auto record = put_right(name, path, metadata_of(own_name, *config, is_quantized, now));
            const auto text = [&](const char* key) {
                return record[key].is_string() ? record[key].template get<std::string>() : std::string();
            };
            model_metadata out{name,         text("model_type"), text("version"), text("created_at"),
                               is_quantized, text("source"),     std::nullopt};
            if (const auto& size = record["dimensions"]; size.is_number_unsigned())
                out.dimensions = size.template get<std::uint64_t>();
            return out;
        });
    }

    // The same line is noted once.
    void warn(const std::string& line) {
        {
            const std::lock_guard lock(mutex_);
            if (std::find(warnings_.begin(), warnings_.end(), line) != warnings_.end()) return;
            if (warnings_.size() == 256) warnings_.pop_front();
            warnings_.push_back(line);
        }
        try {
            if (options_.on_log) options_.on_log(log_level::warning, line);
        } catch (...) {  // the line is lost, and nothing else
        }
    }
    void warn(const std::string& name, const std::string& path, const error& what) {
        warn(name + ": " + relative_text(what, path, root_));
    }

    [[nodiscard]] std::vector<std::string> warnings() const {
        const std::lock_guard lock(mutex_);
        return {warnings_.begin(), warnings_.end()};
    }

private:
    // A folder that a manifest describes, or that came without one; and nowhere but in the registry's folder.
    [[nodiscard]] bool is_sound(const std::string& name, const level_source& source) {
        std::error_code failed;
        const auto real = std::filesystem::canonical(source.path, failed);
        if (failed || !real.string().starts_with(root_ + "/")) {
            warn(name + ": its level " + source.level +
                 " is a link that leads out of the registry's folder: not taken");
            return false;
        }
        const auto there = is_there(source.path + "/" + manifest_name);
        if (there && !*there) return true;
        const auto stated =
            guard_manifest(source.path, [&]() -> result<manifest> { return read_manifest(source.path); });
        if (!stated) warn(name, source.path.substr(0, source.path.rfind('/')), stated.error());
        return static_cast<bool>(stated);
    }

    [[nodiscard]] static bool is_sound_field(std::string_view key, const ordered_json& value) {
        if (!value.is_string()) return false;
        const auto& text = value.get_ref<const std::string&>();
        return key == "version"      ? has_form(text, "hf_########_######")
               : key == "created_at" ? is_iso_time(text)
                                     : true;
    }

    // `fresh` with what the file knows better, which is when the model came and from where.
    [[nodiscard]] ordered_json put_right(const std::string& name, const std::string& path,
                                         ordered_json fresh) {
        const auto there = is_there(path + "/" + metadata_name);
        if (there && *there) {
            const auto old = read_record(name, path);
            if (!old) return fresh;  // not ours to touch
            for (const char* key : {"version", "created_at", "source"}) {
                const auto found = old->find(key);
                if (found != old->end() && is_sound_field(key, *found))
                    fresh[key] = *found;
                else if (!old->empty())
                    warn(name + ": metadata.json: its " + key + " was damaged, and is written anew");
            }
            for (const auto& [key, value] : old->items())
                if (!fresh.contains(key)) fresh[key] = value;
            if (fresh == *old) return fresh;
        }
        const std::string file = path + "/" + metadata_name;
        if (auto written = replace_file(file, metadata_text(fresh)); !written) {
            error what = written.error();
            what.file = file;  // not the file beside it, which has another name each time
            warn(name, path, what);
        }
        return fresh;
    }

    // Empty where it was damaged; nothing where it is another program's, or cannot be read.
    [[nodiscard]] std::optional<ordered_json> read_record(const std::string& name, const std::string& path) {
        auto file = input_file::open_beneath(path, metadata_name);
        const auto text = file ? read_text(*file, max_metadata_bytes) : result<std::string>(file.error());
        if (!text) {
            warn(name, path, text.error());
            return std::nullopt;
        }
        auto record = parse_metadata(*text, file->path());
        if (!record.is_null()) return record;
        if (ordered_json::accept(*text)) {
            warn(name, path,
                 {.message = "is another program's and stays as it is: what the registry knows is not "
                             "written down",
                  .file = file->path()});
            return std::nullopt;
        }
        warn(name, path, {.message = "was damaged, and is written anew", .file = file->path()});
        return ordered_json::object();
    }

    const std::string root_;  // canonical
    const registry_options options_;
    mutable std::mutex mutex_;  // of warnings_
    std::deque<std::string> warnings_;
};

}  // namespace bitmill::detail
