#pragma once

#include <algorithm>
#include <map>
#include <set>

#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/mill/manifest.hpp>

namespace bitmill {
namespace detail {

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
    // A tensor takes about 500 bytes; a million of them is the most that a file may hold.
    constexpr std::uint64_t limit = std::uint64_t{1} << 30;
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
    out.json = ordered_json::parse(out.text);
    if (out.json.at("bitmill_manifest") != manifest_format)
        return error{.code = error_code::unsupported,
                     .message = "was written by bitmill " + out.json.at("version").get<std::string>() +
                                "; use that version",
                     .file = file->path()};
    return out;
}

// The pieces of the tensors of one weight file, hashed on many threads.
class file_checker {
public:
    file_checker(const std::string& root, const work_options& options) : root_(root), options_(options) {}

    // Hashes of all tensors, folded with the header's. `pieces` by name.
    result<digest> weights(const safetensors_file& file, const std::map<std::string, std::uint64_t>& pieces) {
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
                if (auto read = file.file().read_at(file[one.tensor].offset + one.first, room); !read)
                    return read;
                digests[at] = sha256::of(room);
                return {};
            },
            [](const tile& one) { return one.count; });
        if (!done) return done.error();
        auto header = digest_of_bytes(file.file(), 0, file.data_begin(), options_.memory);
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
    const std::string& root_;
    const work_options& options_;
};

inline result<verify_report> check_files(const std::string& model, const manifest& stated,
                                         const work_options& options) {
    std::map<std::string, std::map<std::string, std::uint64_t>> pieces;  // by file, by tensor
    for (const auto& tensor : stated.json.at("tensors"))
        for (const auto& part : tensor.at("parts"))
            pieces[part.at("file").get<std::string>()][part.at("name").get<std::string>()] =
                part.at("piece").get<std::uint64_t>();
    verify_report report;
    report.model = model;
    report.manifest_sha256 = stated.own_hash;
    report.tensors = stated.json.at("tensors").size();
    file_checker checker(model, options);
    std::set<std::string> weights_listed;
    for (const auto& entry : stated.json.at("files")) {
        const auto name = entry.at("name").get<std::string>();
        const std::string path = model + "/" + name;
        auto file = input_file::open_beneath(model, name);
        if (!file) return refused("is listed in the manifest, but: " + file.error().message, path);
        if (file->size() != entry.at("bytes").get<std::uint64_t>())
            return refused("has " + std::to_string(file->size()) + " bytes, the manifest says " +
                               std::to_string(entry.at("bytes").get<std::uint64_t>()),
                           path);
        const std::uint64_t bytes = file->size();
        result<digest> found = error{};
        if (entry.at("hash") == "tensors") {
            weights_listed.insert(name);
            auto weights = safetensors_file::open(std::move(*file));
            if (!weights) return refused("was changed: " + weights.error().text(), path);
            found = checker.weights(*weights, pieces[name]);
        } else {
            found = checker.plain(name);
        }
        if (!found) return found.error();
        if (hex_text(*found) != entry.at("sha256").get<std::string>())
            return refused("was changed: its hash is not the manifest's", path);
        ++report.files;
        report.bytes += bytes;
    }
    // What a reader of the folder would load is what was checked, and not weights put beside it.
    const auto opened = checkpoint::open(model);
    if (!opened) return opened.error();
    for (std::size_t shard = 0; shard < opened->shard_count(); ++shard)
        if (!weights_listed.contains(opened->shard_name(shard)))
            return refused("would be loaded, but the manifest does not list it",
                           model + "/" + opened->shard_name(shard));
    return report;
}

// Where two manifests part: the first tensor, or the part that differs.
inline error first_difference(const manifest& stated, const std::string& derived, const std::string& path) {
    const auto now = ordered_json::parse(derived);
    if (stated.json.at("version") != now.at("version"))
        return {.code = error_code::unsupported,
                .message = "was milled by bitmill " + stated.json.at("version").get<std::string>() +
                           ", this is " + BITMILL_VERSION_TEXT +
                           ", whose bytes may differ: verify it with that version",
                .file = path};
    const auto& before = stated.json.at("tensors");
    const auto& after = now.at("tensors");
    for (std::size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
        if (before[i] == after[i]) continue;
        const auto name = before[i].value("name", "");
        if (before[i].at("source") != after[i].at("source"))
            return refused("the source's tensor is not the one that was milled", path, name);
        return refused("the source gives other bytes than the manifest says", path, name);
    }
    for (const char* key : {"source", "files", "request"})
        if (stated.json.at(key) != now.at(key))
            return refused(std::string("the source gives another list of ") + key, path);
    return refused("the source gives another manifest", path);
}

}  // namespace detail

BITMILL_INLINE std::string verify_report::json(int indent) const {
    detail::ordered_json out;
    if (!source.empty()) out["source"] = source;
    out.update(detail::json_object({{"model", model},
                                    {"manifest_sha256", manifest_sha256},
                                    {"files", files},
                                    {"tensors", tensors},
                                    {"bytes", bytes},
                                    {"seconds", seconds}}));
    return out.dump(indent, ' ', false, detail::ordered_json::error_handler_t::replace);
}

BITMILL_INLINE result<verify_report> validate(const std::string& model, const work_options& options) {
    return detail::guard(model + "/" + detail::manifest_name, [&]() -> result<verify_report> {
        const detail::stopwatch clock;
        const auto stated = detail::read_manifest(model);
        if (!stated) return stated.error();
        auto report = detail::check_files(model, *stated, options);
        if (report) report->seconds = clock.seconds();
        return report;
    });
}

BITMILL_INLINE result<verify_report> verify(const std::string& source, const std::string& model,
                                            const work_options& options) {
    return detail::guard(model + "/" + detail::manifest_name, [&]() -> result<verify_report> {
        const detail::stopwatch clock;
        const auto stated = detail::read_manifest(model);
        if (!stated) return stated.error();
        const auto original = checkpoint::open(source);
        if (!original) return original.error();
        mill_options request = detail::options_of(stated->json.at("request"), options);
        request.dry_run = false;
        const auto derived = detail::mill_model(*original, source, model, request, nullptr);
        if (!derived) return derived.error();
        const std::string path = model + "/" + detail::manifest_name;
        if (derived->manifest != stated->text)
            return detail::first_difference(*stated, derived->manifest, path);
        auto report = detail::check_files(model, *stated, options);
        if (!report) return report;
        report->source = source;
        report->seconds = clock.seconds();
        return report;
    });
}

}  // namespace bitmill
