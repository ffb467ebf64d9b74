// A manifest that was read, and the files it lists against their hashes.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include <bitmill/detail/manifest-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/detail/work-inl.hpp>

namespace bitmill::detail {

// A manifest that was read: its hash fits its text.
struct manifest {
    std::string text;
    std::string own_hash;
    ordered_json json;
};

inline error refused(std::string message, const std::string& file, const std::string& tensor = {}) {
    return {.code = error_code::refused, .message = std::move(message), .file = file, .tensor = tensor};
}

inline result<manifest> read_manifest(const std::string& folder) {
    constexpr std::uint64_t limit = std::uint64_t{1} << 30;  // a tensor takes up to 1200 bytes
    const auto there = is_there(folder + "/" + manifest_name);
    if (!there) return there.error();
    if (!*there)
        return error{.code = error_code::io,
                     .message =
                         "there is no manifest.json: this is not a folder that bitmill wrote (a .gguf or "
                         "pickle by itself has none)",
                     .file = folder};
    auto file = input_file::open_beneath(folder, manifest_name);
    if (!file) return file.error();
    auto text = read_text(*file, limit);
    if (!text) return text.error();
    const auto damaged = [&](const char* what) { return refused(what, file->path()); };
    constexpr std::size_t tail_bytes = manifest_tail.size() + 64 + 3;
    if (text->size() < tail_bytes) return damaged("is too short for a manifest");
    const std::string body = text->substr(0, text->size() - tail_bytes);
    manifest out{std::move(*text), hex_text(sha256::of(body)), {}};
    if (out.text != body + std::string(manifest_tail) + out.own_hash + "\"}\n")
        return damaged("was changed: the hash at its end is not that of its text");
    if (auto checked = check_json(out.text, 16, false, file->path()); !checked) return checked.error();
    // A document costs some 64 bytes a value; a manifest has one for every 30 bytes.
    if (static_cast<std::uint64_t>(std::count(out.text.begin(), out.text.end(), ',')) >
        out.text.size() / 16 + 1000)
        return damaged("is no manifest: it holds more values than one of its size has");
    out.json = ordered_json::parse(out.text);
    if (out.json.at("bitmill_manifest") != manifest_format)
        return error{.code = error_code::unsupported,
                     .message = "was written by bitmill " + out.json.at("version").get<std::string>() +
                                " in manifest format " + out.json.at("bitmill_manifest").dump() +
                                ", this is " + BITMILL_VERSION_TEXT + " and knows " +
                                std::to_string(manifest_format) + "; use that version",
                     .file = file->path()};
    return out;
}

// The pieces of the tensors of one weight file, hashed on many threads.
class file_checker {
public:
    file_checker(const std::string& root, const work_options& options) : root_(root), options_(options) {}

    // Hashes of all tensors, folded with the header's. `pieces` by name.
    result<digest> weights(const weight_file& file, const std::map<std::string, std::uint64_t>& pieces) {
        if (!file.dense()) return digest_of_bytes(file.file(), 0, file.file().size(), options_.memory);
        std::vector<tile> tiles;
        std::uint64_t total = 0;
        std::uint64_t largest = 1;
        std::uint64_t pieces_left = file.file().size() / 4096;
        for (std::size_t i = 0; i < file.size(); ++i) {
            const auto found = pieces.find(std::string(file[i].name));
            if (found == pieces.end())
                return refused("is not in the manifest", file.file().path(), std::string(file[i].name));
            const std::uint64_t piece = std::max<std::uint64_t>(found->second, 1);
            // The mill's pieces are 16 KiB of codes or more, with a few scales; a forged manifest may not cost memory.
            pieces_left += file[i].bytes / 4096 + 1;
            if (file[i].bytes / piece > pieces_left)
                return refused("the manifest cuts it into too many pieces", file.file().path(),
                               std::string(file[i].name));
            pieces_left -= file[i].bytes / piece;
            for (std::uint64_t at = 0; at < file[i].bytes; at += piece)
                tiles.push_back({i, at, std::min(piece, file[i].bytes - at)});
            total += file[i].bytes;
            largest = std::max(largest, std::min(piece, file[i].bytes));
        }
        std::vector<digest> digests(tiles.size());
        tile_runner runner(options_, total);
        auto done = runner.run(
            tiles, largest,
            [&](std::size_t at, const tile& one, tile_buffers& buffers) -> result<void> {
                std::byte* bytes = grow(buffers.source, one.count);
                const std::span<std::byte> room(bytes, static_cast<std::size_t>(one.count));
                if (auto read = file.read(file[one.tensor], one.first, room); !read) return read;
                digests[at] = sha256::of(room);
                return {};
            },
            [](const tile& one) { return one.count; });
        if (!done) return done.error();
        if (auto filled = check_filling(file); !filled) return filled.error();
        const auto [first, bytes] = file.header();
        auto header = digest_of_bytes(file.file(), first, bytes, options_.memory);
        if (!header) return header.error();
        std::vector<digest> tensors;
        std::size_t at = 0;
        for (std::size_t i = 0; i < file.size(); ++i) {
            sha256 sum;
            for (; at < tiles.size() && tiles[at].tensor == i; ++at) add(sum, digests[at]);
            tensors.push_back(sum.finish());
        }
        return weights_digest(*header, tensors);
    }

    result<digest> plain(const std::string& name) const {
        auto file = input_file::open_beneath(root_, name);
        if (!file) return file.error();
        return digest_of_bytes(*file, 0, file->size(), options_.memory);
    }

private:
    // What fills GGUF's tensors up to its alignment is 0.
    static result<void> check_filling(const weight_file& file) {
        std::uint64_t at = file.header().offset + file.header().bytes;
        std::array<std::byte, 4096> room;
        for (std::size_t i = 0; i <= file.size(); ++i) {
            const std::uint64_t end = i < file.size() ? file[i].offset : file.file().size();
            for (std::uint64_t count = 0; at < end; at += count) {
                count = std::min<std::uint64_t>(end - at, room.size());
                const std::span<std::byte> some(room.data(), static_cast<std::size_t>(count));
                if (auto read = file.file().read_at(at, some); !read) return read;
                if (std::any_of(some.begin(), some.end(), [](std::byte b) { return b != std::byte{0}; }))
                    return refused("was changed: what lies between its tensors is not 0", file.file().path());
            }
            if (i < file.size()) at = end + file[i].bytes;
        }
        return {};
    }

    const std::string& root_;
    const work_options& options_;
};

// Is this the file of the residual planes beside another that is listed?
inline bool is_residual(const manifest& stated, const std::string& name) {
    const auto& files = stated.json.at("files");
    return std::any_of(files.begin(), files.end(), [&](const auto& one) {
        return is_text(one.at("hash"), "tensors") &&
               residual_name(one.at("name").template get<std::string>()) == name;
    });
}

struct checked_files {
    std::uint64_t residuals_missing = 0;  // files of residual planes: all of them, which leaves level int4
    std::uint64_t files = 0;
    std::uint64_t bytes = 0;
};

inline result<checked_files> check_files(const std::string& model, const manifest& stated,
                                         const work_options& options) {
    std::map<std::string, std::map<std::string, std::uint64_t>> pieces;  // by file, by tensor
    for (const auto& tensor : stated.json.at("tensors"))
        for (const auto& part : tensor.at("parts"))
            pieces[part.at("file").get<std::string>()][part.at("name").get<std::string>()] =
                part.at("piece").get<std::uint64_t>();
    checked_files checked;
    file_checker checker(model, options);
    std::set<std::string> weights_listed;
    std::set<std::string> names;
    std::uint64_t residuals = 0;  // files of residual planes that are there
    std::string missing;          // the first that is not
    for (const auto& entry : stated.json.at("files")) {
        const auto name = entry.at("name").get<std::string>();
        const std::string path = model + "/" + name;
        auto file = input_file::open_beneath(model, name);
        if (!names.insert(name).second)
            return refused("lists " + name + " twice", model + "/" + manifest_name);
        if (!file && is_residual(stated, name)) {
            if (missing.empty()) missing = path;
            ++checked.residuals_missing;
            continue;
        }
        if (!file) return refused("is listed in the manifest, but: " + file.error().message, path);
        residuals += is_residual(stated, name) ? 1u : 0u;
        if (file->size() != entry.at("bytes").get<std::uint64_t>())
            return refused("has " + std::to_string(file->size()) + " bytes, the manifest says " +
                               std::to_string(entry.at("bytes").get<std::uint64_t>()),
                           path);
        const std::uint64_t bytes = file->size();
        result<digest> found = error{};
        if (is_text(entry.at("hash"), "tensors")) {
            weights_listed.insert(name);
            auto weights = weight_file::open(std::move(*file));
            if (!weights) return refused("was changed: " + weights.error().text(), path);
            found = checker.weights(*weights, pieces[name]);
        } else if (is_text(entry.at("hash"), "plain")) {
            found = checker.plain(name);
        } else {
            return refused("names a hash of " + name + " that this version does not know",
                           model + "/" + manifest_name);
        }
        if (!found) return found.error();
        if (hex_text(*found) != entry.at("sha256").get<std::string>())
            return refused("was changed: its hash is not the manifest's", path);
        ++checked.files;
        checked.bytes += bytes;
    }
    if (checked.residuals_missing != 0 && residuals != 0)
        return refused("is missing, while other residual files are there: copy it back, or delete them all",
                       missing);
    // What a reader of the folder would load is what was checked, and not weights put beside it.
    const auto opened = checkpoint::open(model);
    if (!opened) return opened.error();
    for (std::size_t shard = 0; shard < opened->shard_count(); ++shard)
        if (!weights_listed.contains(opened->shard_name(shard)))
            return refused("would be loaded, but the manifest does not list it",
                           model + "/" + opened->shard_name(shard));
    return checked;
}

// The records of a manifest's list by name.
inline std::map<std::string, const ordered_json*> records_by_name(const ordered_json& list) {
    std::map<std::string, const ordered_json*> out;
    for (const auto& one : list) out[one.at("name").get<std::string>()] = &one;
    return out;
}

// What says nothing of the folder that was looked at, but of memory, disk or the user's patience.
inline bool is_failure(const error& what) {
    return what.code == error_code::out_of_memory || what.code == error_code::cancelled ||
           what.code == error_code::io;
}

// Was the folder milled by this version, with this request?
inline bool asks_the_same(const manifest& stated, const mill_options& options) {
    // As text, since a number read is not of the type that a number written was.
    return stated.json.at("version") == BITMILL_VERSION_TEXT &&
           stated.json.at("request").dump() == ordered_json::parse(json_of(options).dump()).dump();
}

// Does the manifest speak of just these tensors, coded like this?
inline bool has_plan(const manifest& stated, const mill_plan& plan) {
    const auto& rows = stated.json.at("tensors");
    if (rows.size() != plan.tensors.size()) return false;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const planned_tensor& t = plan.tensors[i];
        const auto& parts = rows[i].at("parts");
        bool same = rows[i].at("name") == t.name && rows[i].at("algorithm") == algorithm_id(t) &&
                    parts.size() == t.parts.size();
        for (std::size_t p = 0; same && p < parts.size(); ++p) same = parts[p].at("name") == t.parts[p].name;
        if (!same) return false;
    }
    return true;
}

// Does `out` hold what a plan would write? The same tensors and the same source, byte for byte, index and config.json
// as they would be, and every byte that was written still there. `others`: records of index and config.json.
inline result<bool> holds_already(const checkpoint& model, const mill_plan& plan,
                                  const std::vector<file_record>& others, const std::string& out,
                                  const manifest& stated, const mill_options& options) {
    if (!has_plan(stated, plan)) return false;
    auto source = records_by_name(stated.json.at("source"));
    auto copies = records_by_name(stated.json.at("files"));
    const auto same = [](const ordered_json* record, std::uint64_t bytes) {
        return record != nullptr && record->at("bytes") == bytes;
    };
    const auto equals = [](const ordered_json* record, const digest& value) {
        return record->at("sha256") == hex_text(value);
    };
    // What costs nothing first.
    const std::string& config = model.config_text();
    const bool has_config = !config.empty();
    const auto files = source_files(model, plan.source);
    if (source.size() != files.size() + (has_config ? 1 : 0)) return false;
    if (has_config &&
        !(same(source["config.json"], config.size()) && equals(source["config.json"], sha256::of(config))))
        return false;
    for (const auto& [name, file] : files)
        if (!same(source[name], file->file().size())) return false;
    const auto plain = std::count_if(copies.begin(), copies.end(), [](const auto& one) {
        return is_text(one.second->at("hash"), "plain");
    });
    if (static_cast<std::size_t>(plain) != others.size() + model.side_files().size()) return false;
    for (const auto& one : others)
        if (!same(copies[one.name], one.bytes) || !equals(copies[one.name], one.value)) return false;
    for (const auto& side : model.side_files())
        if (!same(copies[side.name], side.bytes)) return false;
    // Then every byte.
    for (const auto& side : model.side_files()) {
        auto file = model.open_side(side.name);
        if (!file) return file.error();
        const auto value = digest_of_bytes(*file, 0, file->size(), options.memory);
        if (!value) return value.error();
        if (!equals(copies[side.name], *value)) return false;
    }
    std::map<std::string, std::uint64_t> pieces;
    for (const auto& tensor : stated.json.at("tensors"))
        pieces[tensor.at("name").get<std::string>()] = tensor.at("source").at("piece").get<std::uint64_t>();
    for (const auto& [name, file] : files) {
        const auto value = plan.source.quant_method.empty()
                               ? file_checker(model.root(), options).weights(*file, pieces)
                               : digest_of_bytes(file->file(), 0, file->file().size(), options.memory);
        if (!value && value.error().code == error_code::refused) return false;
        if (!value) return value.error();
        if (!equals(source[name], *value)) return false;
    }
    const auto checked = check_files(out, stated, options);
    if (!checked && is_failure(checked.error())) return checked.error();
    return checked && checked->residuals_missing == 0;
}

}  // namespace bitmill::detail
