#pragma once

#include <bitmill/io/checkpoint.hpp>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/side_files-inl.hpp>
#include <bitmill/detail/weight_map-inl.hpp>
#include <bitmill/io/pickle_model.hpp>

namespace bitmill {

namespace detail {

inline constexpr std::uint64_t max_config_bytes = std::uint64_t{16} << 20;
inline constexpr std::uint64_t max_index_metadata_bytes = std::uint64_t{1} << 20;
inline constexpr const char* single_name = "model.safetensors";
inline constexpr const char* index_name = "model.safetensors.index.json";
inline constexpr const char* torch_single_name = "pytorch_model.bin";
inline constexpr const char* torch_index_name = "pytorch_model.bin.index.json";

// What a shard is called where it is written as safetensors: pytorch_model-1.bin -> model-1.safetensors.
inline std::string safetensors_name(const std::string& shard) {
    if (shard.ends_with(".safetensors")) return shard;
    std::string stem = shard.substr(0, shard.rfind('.'));
    constexpr std::string_view prefix = "pytorch_";
    if (stem.starts_with(std::string(prefix) + "model")) stem.erase(0, prefix.size());
    return stem + ".safetensors";
}

// A file that the model itself names must be there: the model is broken where it is not.
inline error cannot_open_shard(error failed) {
    std::error_code unknown;
    if (std::filesystem::status(failed.file, unknown).type() == std::filesystem::file_type::not_found)
        failed.code = error_code::bad_input;
    failed.message += "; the index names it as a shard";
    return failed;
}

// GGUF knows no index: each file says itself how many there are.
inline result<void> check_whole(const weight_file& file) {
    if (file.gguf() == nullptr) return {};
    const auto count = file.gguf()->metadata().get<std::uint16_t>("split.count");
    if (!count || *count <= 1) return {};
    return make_error(error_code::unsupported,
                      "is one of " + std::to_string(*count) +
                          " files that hold the model together; make one of them first "
                          "(llama-gguf-split --merge FIRST OUT)",
                      file.file().path());
}

// A folder's only weights, where those are GGUF; else "".
inline std::string lone_gguf(const std::vector<folder_entry>& entries) {
    std::string only;
    for (const folder_entry& entry : entries) {
        if (entry.name.starts_with('.') || !is_weight_name(entry.name)) continue;
        if (!only.empty() || !entry.name.ends_with(".gguf")) return {};
        only = entry.name;
    }
    return only;
}

inline error no_weights(const std::vector<folder_entry>& entries, const std::string& root) {
    std::size_t count = 0;
    std::string other;
    for (const folder_entry& entry : entries) {
        if (entry.name.ends_with(".safetensors"))
            ++count;
        else if (other.empty() && is_weight_name(entry.name))
            other = entry.name;
    }
    if (count > 1)
        return bad_file("holds " + std::to_string(count) +
                            " *.safetensors files, but neither model.safetensors nor "
                            "model.safetensors.index.json says which is the model; give the one file instead "
                            "of the folder",
                        root);
    if (!other.empty() && is_weight_file_name(other))
        return make_error(error_code::unsupported,
                          "holds neither model.safetensors nor pytorch_model.bin, but " + other +
                              "; if that is the model, give this file instead of the folder",
                          root);
    if (!other.empty())
        return make_error(error_code::unsupported,
                          "holds no safetensors or PyTorch weights, only others (" + other +
                              "), which this version cannot read; convert them to safetensors first",
                          root);
    return bad_file(
        "holds no weights (model.safetensors, pytorch_model.bin, or the index of one of them); give a "
        "model's folder",
        root);
}

}  // namespace detail

BITMILL_INLINE result<checkpoint> checkpoint::open(const std::string& path) {
    namespace fs = std::filesystem;
    if (path.empty() || path.find('\0') != std::string::npos)
        return detail::make_error(error_code::invalid_argument, "the model's path must be given", path);
    std::error_code failed;
    const auto type = fs::status(path, failed).type();
    if (type == fs::file_type::not_found || failed)
        return detail::os_error(failed ? failed.value() : ENOENT, "cannot open the model", path);
    checkpoint made;
    if (type == fs::file_type::directory) {
        made.root_ = path;
        while (made.root_.size() > 1 && made.root_.back() == '/') made.root_.pop_back();
        if (auto opened = made.open_folder(); !opened) return opened.error();
        return made;
    }
    const fs::path file(path);
    if (is_pickle_file_name(path))
        return detail::make_error(
            error_code::unsupported,
            "is a pickled model, which only quantize, batch and inspect read: pickle.load "
            "restores the arrays of a milled one by itself",
            path);
    if (!is_weight_file_name(path))
        return detail::make_error(
            error_code::unsupported,
            path.ends_with(".index.json")
                ? "is only the index of a model; give the folder that holds it"
                : "is neither a folder nor a .safetensors, .bin, .pt, .pth, .gguf, .pkl, .pickle or .joblib "
                  "file, which is all this version reads",
            path);
    auto opened = input_file::open(path);
    if (!opened) return opened.error();
    auto shard = weight_file::open(std::move(*opened));
    if (!shard) return shard.error();
    if (auto whole = detail::check_whole(*shard); !whole) return whole.error();
    made.root_ = file.has_parent_path() ? file.parent_path().string() : ".";
    made.shard_names_.push_back(file.filename().string());
    made.shards_.push_back(std::move(*shard));
    // Beside a lone file lies anything; only with a config.json is its folder a model's.
    const auto has_config = detail::is_there(made.root_ + "/config.json");
    if (!has_config) return has_config.error();
    if (!*has_config) return made;
    if (auto read = made.open_rest(); !read) return read.error();
    return made;
}

BITMILL_INLINE result<void> checkpoint::open_folder() {
    auto entries = detail::list_folder(root_);
    if (!entries) return entries.error();
    const auto holds = [&](std::string_view name) {
        return std::any_of(entries->begin(), entries->end(), [&](const auto& e) { return e.name == name; });
    };
    std::string only;
    std::size_t count = 0;
    for (const auto& entry : *entries) {
        if (!entry.name.ends_with(".safetensors") || entry.name.starts_with('.')) continue;
        only = entry.name;
        ++count;
    }
    std::string index;
    if (holds(detail::single_name))
        only = detail::single_name;
    else if (holds(detail::index_name))
        index = detail::index_name;
    else if (holds(detail::torch_single_name))
        only = detail::torch_single_name;
    else if (holds(detail::torch_index_name))
        index = detail::torch_index_name;
    else if (count == 0)
        only = detail::lone_gguf(*entries);
    else if (count > 1)
        only.clear();
    if (index.empty() && only.empty()) return detail::no_weights(*entries, root_);

    auto file = input_file::open_beneath(root_, index.empty() ? only : index);
    if (!file) return file.error();
    if (!index.empty()) {
        if (auto opened = open_index(std::move(*file)); !opened) return opened;
    } else {
        auto shard = weight_file::open(std::move(*file));
        if (!shard) return shard.error();
        if (auto whole = detail::check_whole(*shard); !whole) return whole;
        shard_names_.push_back(only);
        shards_.push_back(std::move(*shard));
    }
    return open_rest();
}

BITMILL_INLINE result<void> checkpoint::open_rest() {
    const auto has_config = detail::is_there(root_ + "/config.json");
    if (!has_config) return has_config.error();
    if (*has_config) {
        auto file = input_file::open_beneath(root_, "config.json");
        if (!file) return file.error();
        auto text = read_text(*file, detail::max_config_bytes);
        if (!text) return text.error();
        if (auto checked = detail::check_json(*text, 64, false, file->path()); !checked) return checked;
        config_text_ = std::move(*text);
    }
    auto found = detail::side_file_finder(root_).find();
    if (!found) return found.error();
    side_files_ = std::move(*found);
    return {};
}

BITMILL_INLINE result<void> checkpoint::open_index(input_file index) {
    const auto refuse = [&](std::string message, std::string tensor = {}) {
        return detail::make_error(error_code::bad_input, std::move(message), index.path(), std::move(tensor));
    };
    if (index.size() > safetensors_max_header_bytes) return refuse("the index is over 100000000 bytes long");
    auto map = std::make_shared<detail::weight_map>();
    detail::json_source source(index, 0, index.size());
    detail::index_handler handler(source, *map);
    if (auto parsed = detail::parse_json(source, handler, index.path()); !parsed) return parsed;
    if (!handler.has_map()) return refuse("has no weight_map, so it is not the index of a model");
    if (map->rows.empty()) return refuse("its weight_map is empty");

    std::sort(map->rows.begin(), map->rows.end(),
              [&](const auto& a, const auto& b) { return map->name(a) < map->name(b); });
    const auto twice =
        std::adjacent_find(map->rows.begin(), map->rows.end(),
                           [&](const auto& a, const auto& b) { return map->name(a) == map->name(b); });
    if (twice != map->rows.end())
        return refuse("stands twice in the weight_map; write the index anew", std::string(map->name(*twice)));
    if (handler.has_metadata()) {
        const std::uint64_t bytes = handler.metadata_end - handler.metadata_begin;
        if (bytes > detail::max_index_metadata_bytes) return refuse("its metadata is over 1 MiB long");
        index_metadata_text_.resize(static_cast<std::size_t>(bytes));
        if (auto read = index.read_at(handler.metadata_begin,
                                      std::as_writable_bytes(std::span(index_metadata_text_)));
            !read)
            return read;
    }
    // Shards are numbered by name, whatever the order in which tensors mention them.
    std::vector<std::uint32_t> number(handler.shards().size());
    for (const auto& [name, first_seen] : handler.shards()) {
        if (const char* why = detail::why_not_relative(name))
            return refuse("'" + name.substr(0, 200) + "' cannot name a shard: " + why);
        if (!is_weight_file_name(name) || name.ends_with(".gguf"))
            return refuse("'" + name.substr(0, 200) + "' is neither a .safetensors nor a .bin file");
        number[first_seen] = static_cast<std::uint32_t>(shard_names_.size());
        shard_names_.push_back(name);
        auto file = input_file::open_beneath(root_, name);
        if (!file) return detail::cannot_open_shard(file.error());
        auto shard = weight_file::open(std::move(*file));
        if (!shard) return shard.error();
        shards_.push_back(std::move(*shard));
    }
    for (auto& row : map->rows) row.shard = number[row.shard];
    map_ = std::move(map);
    return check_against_map();
}

// Index and shards must say the same, or a tensor would silently be lost or taken from the wrong file.
BITMILL_INLINE result<void> checkpoint::check_against_map() const {
    for (const auto& row : map_->rows) {
        const std::string_view name = map_->name(row);
        if (!shards_[row.shard].find(name))
            return detail::make_error(error_code::bad_input,
                                      "the index says that it lies here, but it does not; "
                                      "fetch index and shards again",
                                      shards_[row.shard].file().path(), std::string(name));
    }
    for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
        for (std::size_t tensor = 0; tensor < shards_[shard].size(); ++tensor) {
            const tensor_info info = shards_[shard][tensor];
            const auto mapped = map_->find(info.name);
            if (mapped == shard) continue;
            return detail::make_error(
                error_code::bad_input,
                mapped ? "lies in this shard and in " + shard_names_[*mapped] + "; keep one"
                       : std::string("the index does not name it; fetch index and shards again"),
                shards_[shard].file().path(), std::string(info.name), info.offset);
        }
    }
    return {};
}

BITMILL_INLINE std::optional<checkpoint::location> checkpoint::find(
    std::string_view tensor_name) const noexcept {
    std::size_t shard = 0;
    if (map_) {
        const auto mapped = map_->find(tensor_name);
        if (!mapped) return std::nullopt;
        shard = *mapped;
    }
    const auto tensor = shards_[shard].find(tensor_name);
    if (!tensor) return std::nullopt;
    return location{shard, *tensor};
}

BITMILL_INLINE result<input_file> checkpoint::open_side(const std::string& name) const {
    return input_file::open_beneath(root_, name);
}

}  // namespace bitmill
