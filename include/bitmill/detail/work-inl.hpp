// What quantize and dequantize share: the output folder with its shards, index, config and side files.
#pragma once

#include <chrono>
#include <map>
#include <memory_resource>
#include <new>
#include <set>

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/manifest-inl.hpp>
#include <bitmill/detail/model_facts-inl.hpp>
#include <bitmill/io/atomic_folder.hpp>
#include <bitmill/io/checkpoint.hpp>
#include <bitmill/io/safetensors.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// A log that throws loses its line and stops nothing.
inline void log_line(const work_options& options, log_level level, const std::string& line) noexcept {
    if (!options.on_log) return;
    try {
        options.on_log(level, printable(line));
    } catch (...) {
    }
}

inline void log_start(const work_options& options, const char* verb, const checkpoint& model,
                      const std::string& requested) {
    if (!options.on_log) return;
    log_line(options, log_level::info,
             std::string(verb) + " " + model.root() + " to " + requested + ": " +
                 std::to_string(model.shard_count()) + " weight files");
}

// After the work, which no longer fails for want of a line.
inline void log_report(const work_options& options, const mill_report& report) noexcept {
    if (!options.on_log) return;
    try {
        for (const auto& one : report.tensors)
            if (one.requested != one.effective)
                log_line(options, log_level::info,
                         "tensor '" + one.name + "': " + one.requested + " -> " + one.effective + ": " +
                             one.reason);
        for (const auto& warning : report.warnings) log_line(options, log_level::warning, warning);
        log_line(options, log_level::info,
                 (report.dry_run          ? "planned "
                  : report.already_milled ? "found already milled " + report.output + ": "
                                          : "wrote " + report.output + ": ") +
                     std::to_string(report.source_bytes) + " bytes -> " + std::to_string(report.bytes));
    } catch (const std::bad_alloc&) {
    }
}

class stopwatch {
public:
    [[nodiscard]] double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The source's weight files by their names in its folder.
inline std::vector<std::pair<std::string, const weight_file*>> source_files(const checkpoint& model,
                                                                            const stored_model& stored) {
    std::vector<std::pair<std::string, const weight_file*>> out;
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard)
        out.emplace_back(model.shard_name(shard), &model.shard(shard));
    for (std::size_t shard = 0; shard < stored.residuals.size(); ++shard)
        if (stored.residuals[shard])
            out.emplace_back(residual_name(model.shard_name(shard)), &*stored.residuals[shard]);
    return out;
}

// The weight files of an output, in the source's sharding, then those of the residual planes, which no index names:
// without them the folder is whole, at a lower level. In a dry run only their sizes.
class weight_files {
public:
    static constexpr const char* gguf_name = "model.gguf";

    // With metadata: one GGUF file.
    explicit weight_files(const checkpoint& model, std::optional<gguf_metadata> gguf = {})
        : model_(model), gguf_(std::move(gguf)), specs_(2 * model.shard_count()),
          planes_(model.shard_count(), std::string(2 * sizeof(digest), '0')) {}

    struct place {
        std::size_t file;
        std::size_t spec;
    };
    place add(std::size_t shard, tensor_spec spec, std::uint64_t bytes) {
        tensor_bytes_ += bytes;
        return add_to(shard, std::move(spec));
    }
    place add_residual(std::size_t shard, tensor_spec spec) {
        return add_to(model_.shard_count() + shard, std::move(spec));
    }

    // Exact size of all files together. Errors: two tensors of one name.
    [[nodiscard]] result<std::uint64_t> file_bytes() const {
        if (collision_.code != error_code::ok) return collision_;
        std::set<std::string> files;
        for (std::size_t file = 0; file < specs_.size(); ++file)
            if (exists(file) && !files.insert(name_of(file)).second)
                return error{.code = error_code::bad_input,
                             .message = "two weight files of the output would be called " + name_of(file) +
                                        "; rename one of the source's",
                             .file = model_.root()};
        std::uint64_t sum = 0;
        for (std::size_t file = 0; file < specs_.size(); ++file) {
            const auto bytes = bytes_of(file);
            if (!bytes) return bytes;
            sum += *bytes;
        }
        return sum;
    }
    [[nodiscard]] std::uint64_t residual_bytes() const {
        std::uint64_t sum = 0;
        for (std::size_t file = model_.shard_count(); file < specs_.size(); ++file) sum += *bytes_of(file);
        return sum;
    }

    // On what a killed run left of them, or anew.
    result<void> create(atomic_folder& folder) {
        if (folder.resumes()) {
            if (auto reopened = reopen(folder); reopened) return reopened;
            writers_.clear();
            if (auto emptied = folder.start_anew(); !emptied) return emptied;
        }
        writers_.resize(specs_.size());
        for (std::size_t file = 0; file < specs_.size(); ++file) {
            if (!exists(file)) continue;
            auto writer = begin(file, folder.path_of(name_of(file)), false);
            if (!writer) return writer.error();
            writers_[file].emplace(std::move(writer).value());
        }
        return {};
    }

    // Nothing where create() was not called: then the bytes are only wanted for their digests.
    result<void> write(place where, std::uint64_t offset, const std::byte* bytes, std::uint64_t count) {
        if (writers_.empty()) return {};
        return writers_[where.file]->write(where.spec, offset, {bytes, static_cast<std::size_t>(count)});
    }

    // Counts bytes that lie there already.
    result<void> skip(place where, std::uint64_t count) {
        writers_[where.file]->skip(where.spec, count);
        return {};
    }
    // Of a part's first byte, in its file.
    [[nodiscard]] std::uint64_t offset_of(place where) const {
        return writers_[where.file]->offset(where.spec);
    }

    // Brings what was written into a file to disk.
    result<void> sync(std::size_t file) { return writers_[file]->sync(); }

    // Base and residual plane of a shard say that they belong together: by `of`, a digest of each tensor of the files.
    void join_planes(const std::map<std::string, digest>& of) {
        for (std::size_t shard = 0; shard < planes_.size(); ++shard) {
            if (!has_planes(shard)) continue;
            sha256 sum;
            for (const std::size_t file : {shard, planes_.size() + shard})
                for (const std::size_t index : order_of(file))
                    detail::add(sum, of.at(specs_[file][index].name));
            planes_[shard] = hex_text(sum.finish());
        }
    }

    // fsyncs every file, then writes the index: it is the commit record of a sharded model.
    result<void> finish(const atomic_folder& folder) {
        for (std::size_t file = 0; file < writers_.size(); ++file) {
            if (!writers_[file]) continue;
            if (has_planes(file % planes_.size()))
                if (auto done = writers_[file]->rewrite_header(header_of(file)); !done) return done;
            if (auto done = writers_[file]->finish(); !done) return done;
        }
        if (!model_.sharded()) return {};
        return write_file(folder.path_of(index_name), index_text());
    }

    // "" where there is one file.
    [[nodiscard]] std::string index_text() const {
        if (!model_.sharded()) return {};
        ordered_json metadata = ordered_json::object();
        if (!model_.index_metadata_text().empty())
            metadata = ordered_json::parse(model_.index_metadata_text());
        metadata["total_size"] = tensor_bytes_;
        ordered_json index = json_object({{"metadata", std::move(metadata)}});
        index["weight_map"] = weight_map_;
        return index.dump(2) + "\n";
    }

    [[nodiscard]] std::size_t file_count() const { return specs_.size(); }
    // A shard is there even where it holds nothing; planes only where there are some.
    [[nodiscard]] bool exists(std::size_t file) const {
        return file < model_.shard_count() || !specs_[file].empty();
    }
    // These throw exception for specs that no reader takes.
    [[nodiscard]] std::vector<std::size_t> order_of(std::size_t file) const {
        return gguf_ ? gguf_writer::file_order(gguf_specs(file))
                     : safetensors_writer::file_order(specs_[file]);
    }
    [[nodiscard]] std::string header_of(std::size_t file) const {
        return gguf_ ? gguf_writer::header(gguf_specs(file), *gguf_)
                     : safetensors_writer::header(specs_[file], metadata_of(file));
    }
    [[nodiscard]] result<std::uint64_t> bytes_of(std::size_t file) const {
        if (!exists(file)) return std::uint64_t{0};
        try {
            return gguf_ ? gguf_writer::file_bytes(gguf_specs(file), *gguf_)
                         : safetensors_writer::file_bytes(specs_[file], metadata_of(file));
        } catch (const exception& failure) {
            return failure.error();
        }
    }
    [[nodiscard]] const std::vector<tensor_spec>& specs(std::size_t file) const { return specs_[file]; }
    [[nodiscard]] std::string name_of(std::size_t file) const {
        const std::size_t shards = model_.shard_count();
        if (gguf_ && file < shards) return gguf_name;
        const std::string weights =
            model_.sharded() ? safetensors_name(model_.shard_name(file % shards)) : std::string(single_name);
        return file < shards ? weights : residual_name(weights);
    }

private:
    result<void> reopen(atomic_folder& folder) {
        std::set<std::string> names;
        writers_.resize(specs_.size());
        for (std::size_t file = 0; file < specs_.size(); ++file) {
            if (!exists(file)) continue;
            auto writer = begin(file, folder.path_of(name_of(file)), true);
            if (!writer) return writer.error();
            writers_[file].emplace(std::move(writer).value());
            names.insert(name_of(file));
        }
        return folder.keep_only(names);
    }
    place add_to(std::size_t file, tensor_spec spec) {
        if (file < model_.shard_count()) weight_map_.emplace(spec.name, name_of(file));
        if (!names_.insert(spec.name).second && collision_.code == error_code::ok) {
            collision_ = {.code = error_code::bad_input,
                          .message = "two tensors of the output would have this name; exclude one of them",
                          .file = model_.shard(file % model_.shard_count()).file().path(),
                          .tensor = spec.name};
        }
        specs_[file].push_back(std::move(spec));
        return {file, specs_[file].size() - 1};
    }
    result<tensor_writer> begin(std::size_t file, const std::string& path, bool again) const {
        const auto made = [](auto writer) -> result<tensor_writer> {
            if (!writer) return writer.error();
            return tensor_writer(std::move(*writer));
        };
        if (gguf_)
            return again ? made(gguf_writer::reopen(path, gguf_specs(file), *gguf_))
                         : made(gguf_writer::create(path, gguf_specs(file), *gguf_));
        return again ? made(safetensors_writer::reopen(path, specs_[file], metadata_there(file, path)))
                     : made(safetensors_writer::create(path, specs_[file], metadata_of(file)));
    }
    // Behind the last tile a killed run may have told the file already what it holds.
    [[nodiscard]] safetensors_metadata metadata_there(std::size_t file, const std::string& path) const {
        auto out = metadata_of(file);
        auto opened = input_file::open(path);
        if (!opened || !has_planes(file % planes_.size())) return out;
        const auto there = weight_file::open(std::move(*opened));
        const auto planes = there ? there->metadata(planes_key) : std::nullopt;
        if (planes && planes->size() == out.back().second.size()) out.back().second = *planes;
        return out;
    }
    [[nodiscard]] bool has_planes(std::size_t shard) const { return !specs_[planes_.size() + shard].empty(); }
    [[nodiscard]] safetensors_metadata metadata_of(std::size_t file) const {
        safetensors_metadata out{{"format", "pt"}};
        const std::size_t shard = file % planes_.size();
        if (has_planes(shard)) out.emplace_back(planes_key, planes_[shard]);
        return out;
    }
    [[nodiscard]] std::vector<gguf_spec> gguf_specs(std::size_t file) const {
        std::vector<gguf_spec> out;
        for (const tensor_spec& one : specs_[file])
            out.push_back({one.name, one.block ? *one.block : *ggml_type_of(one.type), one.shape});
        return out;
    }

    const checkpoint& model_;
    std::optional<gguf_metadata> gguf_;
    std::vector<std::vector<tensor_spec>> specs_;
    std::vector<std::string> planes_;  // what both files of a shard say; zeros until their tensors are known
    std::vector<std::optional<tensor_writer>> writers_;
    std::map<std::string, std::string> weight_map_;
    std::set<std::string> names_;  // of the tensors of all files
    error collision_;
    std::uint64_t tensor_bytes_ = 0;
};

// After the tiles progress stands at its end, but cancelling still works.
inline result<void> ask_to_go_on(const work_options& options, const progress& now) {
    if (!options.on_progress || options.on_progress(now)) return {};
    return error{.code = error_code::cancelled, .message = "cancelled"};
}

// SHA-256 of bytes [offset, offset + count) of a file; put(bytes, offset) sees each run of them.
template <class Put>
result<digest> digest_of_bytes(const input_file& file, std::uint64_t offset, std::uint64_t count,
                               memory_source memory, const Put& put) {
    std::pmr::vector<std::byte> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(count, 1u << 20)),
                                       memory_or_default(memory));
    sha256 sum;
    for (std::uint64_t at = 0; at < count; at += buffer.size()) {
        const std::span<std::byte> piece(
            buffer.data(), static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), count - at)));
        if (auto done = file.read_at(offset + at, piece); !done) return done.error();
        if (result<void> done = put(piece, offset + at); !done) return done.error();
        sum.update(piece);
    }
    return sum.finish();
}
inline result<digest> digest_of_bytes(const input_file& file, std::uint64_t offset, std::uint64_t count,
                                      memory_source memory) {
    return digest_of_bytes(file, offset, count, memory, [](auto, auto) -> result<void> { return {}; });
}

// Hashes a side file of the model, and copies it where there is a folder.
inline result<digest> copy_side_file(const checkpoint& model, const std::string& name,
                                     const atomic_folder* folder, const work_options& options,
                                     const progress& now) {
    auto from = model.open_side(name);
    if (!from) return from.error();
    std::optional<output_file> to;
    if (folder != nullptr) {
        auto made = output_file::create(folder->path_of(name));
        if (!made) return made.error();
        to.emplace(std::move(*made));
    }
    auto value =
        digest_of_bytes(*from, 0, from->size(), options.memory, [&](auto piece, auto at) -> result<void> {
            if (to)
                if (auto done = to->write_at(at, piece); !done) return done;
            return ask_to_go_on(options, now);
        });
    if (!value || !to) return value;
    if (auto done = to->finish(); !done) return done.error();
    return value;
}

// The files that the mill itself thinks out; "" for none.
inline std::vector<file_record> own_records(const std::string& index, const std::string& config) {
    std::vector<file_record> out;
    if (!index.empty()) out.push_back({index_name, index.size(), sha256::of(index), false});
    if (!config.empty()) out.push_back({"config.json", config.size(), sha256::of(config), false});
    return out;
}

// config.json and what comes along from the model: written where there is a folder; the latter is recorded.
inline result<std::vector<file_record>> put_other_files(const checkpoint& model, const std::string& config,
                                                        const atomic_folder* folder,
                                                        const work_options& options, const progress& now) {
    std::vector<file_record> out;
    if (folder != nullptr && !config.empty())
        if (auto done = write_file(folder->path_of("config.json"), config); !done) return done.error();
    for (const auto& side : model.side_files()) {
        auto value = copy_side_file(model, side.name, folder, options, now);
        if (!value) return value.error();
        // JSON cannot hold such a name; find_warnings says that the file is not covered.
        if (is_utf8(side.name)) out.push_back({side.name, side.bytes, *value, false});
    }
    return out;
}

// The manifest ("": none), then the swap.
inline result<void> commit(atomic_folder& folder, const std::string& manifest, const work_options& options,
                           const progress& now) {
    if (!manifest.empty())
        if (auto done = write_file(folder.path_of(manifest_name), manifest); !done) return done;
    if (auto go = ask_to_go_on(options, now); !go) return go;
    return folder.commit();
}

inline std::uint64_t source_file_bytes(const checkpoint& model) {
    std::uint64_t sum = 0;
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard) sum += model.shard(shard).file().size();
    return sum;
}

inline std::uint64_t side_file_bytes(const checkpoint& model) {
    std::uint64_t sum = 0;
    for (const auto& side : model.side_files()) sum += side.bytes;
    return sum;
}

}  // namespace bitmill::detail
