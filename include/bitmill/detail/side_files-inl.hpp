// Which files beside the weights belong to a model.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <bitmill/detail/beneath-inl.hpp>
#include <bitmill/detail/folder_tools-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/io/checkpoint.hpp>

namespace bitmill::detail {

inline constexpr std::size_t max_side_files = 10'000;  // more is no model's folder
inline constexpr unsigned max_side_depth = 3;

inline std::string lower_ascii(std::string_view text) {
    std::string lower(text);
    for (char& c : lower)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return lower;
}

// Weights of any framework, and the indices of their shards.
inline bool is_weight_name(std::string_view name) {
    static constexpr std::array<std::string_view, 28> endings{".safetensors",
                                                              ".bin",
                                                              ".pt",
                                                              ".pth",
                                                              ".ckpt",
                                                              ".h5",
                                                              ".hdf5",
                                                              ".msgpack",
                                                              ".onnx",
                                                              ".onnx_data",
                                                              ".onnx.data",
                                                              ".gguf",
                                                              ".ggml",
                                                              ".ot",
                                                              ".tflite",
                                                              ".pkl",
                                                              ".pickle",
                                                              ".joblib",
                                                              ".mlmodel",
                                                              ".llamafile",
                                                              ".pte",
                                                              ".engine",
                                                              ".keras",
                                                              ".safetensors.index.json",
                                                              ".bin.index.json",
                                                              ".h5.index.json",
                                                              ".msgpack.index.json",
                                                              ".npz"};
    const std::string lower = lower_ascii(name);
    return std::any_of(endings.begin(), endings.end(),
                       [&](std::string_view e) { return lower.ends_with(e); });
}

inline bool is_export_folder(std::string_view name) noexcept {
    return name == "onnx" || name == "openvino" || name == "coreml";
}

// What we ourselves leave beside an output.
inline bool is_work_folder(std::string_view name) noexcept {
    return name.ends_with(".bitmill-partial") || name.ends_with(".bitmill-old");
}

// The "path" entries of modules.json (sentence-transformers): folders that belong to the model, weights and all.
inline result<std::set<std::string>> module_folders(const std::string& root) {
    std::set<std::string> folders;
    auto file = input_file::open_beneath(root, "modules.json");
    if (!file) return file.error();
    auto text = read_text(*file, std::uint64_t{1} << 20);
    if (!text) return text.error();
    const std::string path = root + "/modules.json";
    if (auto checked = check_json(*text, 64, true, path); !checked) return checked.error();
    const auto modules = json::parse(*text, nullptr, false);
    for (const auto& module : modules) {
        const auto name = module.is_object() ? module.find("path") : module.end();
        if (!module.is_object() || name == module.end() || !name->is_string()) continue;
        std::string folder = name->get<std::string>();
        while (folder.ends_with('/')) folder.pop_back();
        if (folder.empty() || folder == ".") continue;  // the model itself
        if (const char* why = why_not_relative(folder))
            return bad_file("a module's path is refused: " + std::string(why), path);
        folders.insert(std::move(folder));
    }
    return folders;
}

class side_file_finder {
public:
    explicit side_file_finder(const std::string& root) : root_(root) {}

    result<std::vector<side_file>> find() {
        auto entries = list_folder(root_);
        if (!entries) return entries.error();
        const bool has_modules = std::any_of(entries->begin(), entries->end(),
                                             [](const auto& e) { return e.name == "modules.json"; });
        if (has_modules) {
            auto folders = module_folders(root_);
            if (!folders) return folders.error();
            modules_ = std::move(*folders);
        }
        if (auto walked = walk("", *entries, 0, false); !walked) return walked.error();
        std::sort(found_.begin(), found_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
        return std::move(found_);
    }

private:
    // prefix: "" or "a/b/"; in_module: below a folder that comes whole.
    result<void> walk(const std::string& prefix, const std::vector<folder_entry>& inside, unsigned depth,
                      bool in_module) {
        for (const folder_entry& entry : inside) {
            if (entry.name.starts_with('.')) continue;
            const std::string name = prefix + entry.name;
            if (entry.type == std::filesystem::file_type::directory) {
                if (auto done = enter(name, entry.name, depth, in_module); !done) return done.error();
                continue;
            }
            const bool wanted = entry.type == std::filesystem::file_type::regular ||
                                entry.type == std::filesystem::file_type::symlink;
            if (!wanted || (depth == 0 && is_own_record(entry.name))) continue;
            if (entry.name == "metadata.json" && holds_levels(inside)) continue;
            if (!in_module && is_weight_name(entry.name)) continue;
            if (auto added = add(name); !added) return added.error();
        }
        return {};
    }

    result<void> enter(const std::string& name, const std::string& last, unsigned depth, bool in_module) {
        const bool module = in_module || modules_.count(name) != 0;
        if (depth == max_side_depth || is_work_folder(last)) return {};
        if (depth == 0 && !module && is_export_folder(last)) return {};
        auto inside = list_folder(root_ + "/" + name);
        if (!inside) return inside.error();
        if (!module && is_variant(*inside)) return {};
        return walk(name + "/", *inside, depth + 1, module);
    }

    result<void> add(const std::string& name) {
        if (found_.size() == max_side_files)
            return bad_file("holds more than 10000 files besides the weights: this is not a model's folder",
                            root_);
        auto file = input_file::open_beneath(root_, name);
        if (!file) return file.error();
        found_.push_back({name, file->size()});
        return {};
    }

    // The mill writes config.json itself; the others are records about this folder, not about a copy.
    static bool is_own_record(std::string_view name) noexcept {
        return name == "config.json" || name == "manifest.json" || name == "metadata.json" ||
               name == "quantize_config.json" || name == "quant_config.json";  // GPTQ's and AWQ's
    }
    // What --to both wrote somewhere below.
    static bool holds_levels(const std::vector<folder_entry>& inside) {
        return std::any_of(inside.begin(), inside.end(), [](const folder_entry& e) {
            return e.type == std::filesystem::file_type::directory && (e.name == "int8" || e.name == "int4");
        });
    }
    // Or what is left of one that is being replaced: the mark goes last.
    static bool is_variant(const std::vector<folder_entry>& inside) {
        const auto holds = [&](auto test) { return std::any_of(inside.begin(), inside.end(), test); };
        return holds([](const auto& e) { return e.name == partial_marker; }) ||
               (holds([](const auto& e) { return e.name == "config.json"; }) &&
                holds([](const auto& e) { return is_weight_name(e.name); }));
    }

    std::string root_;
    std::set<std::string> modules_;
    std::vector<side_file> found_;
};

}  // namespace bitmill::detail
