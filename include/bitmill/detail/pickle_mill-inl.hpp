// Writes a pickled model anew: the same instructions, but for the arrays that are coded.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/pickle_mill_plan-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/io/atomic_folder.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill::detail {

// Bytes of the source that others take the place of.
struct pickle_edit {
    std::uint64_t at = 0;
    std::uint64_t removed = 0;
    std::string inserted;
    std::optional<std::size_t> codes = {};  // of this array, behind `inserted`
    std::uint64_t code_bytes = 0;
    std::uint64_t alignment = 0;  // not 0: joblib's padding, which depends on where it comes to stand
};

using byte_sink = std::function<result<void>(std::span<const std::byte>)>;

class pickle_writer {
public:
    pickle_writer(const pickle_model& model, std::vector<pickle_item>& items, pickle_planner& planner,
                  const work_options& options)
        : model_(model), items_(items), planner_(planner), options_(options) {
        for (std::size_t i = 0; i < items.size(); ++i) add_array(i);
        if (edits_.empty()) return;
        // BINBYTES is of protocol 3, and every Python 3 reads it in a pickle of protocol 2, too. The number stays: below 3
        // Python takes the names of Python 2 for those of today (__builtin__, copy_reg).
        add_frames();
        for (const auto& padding : model.paddings())
            edits_.push_back({padding.at, padding.bytes, {}, {}, 0, padding.alignment});
        // At one place an insertion comes before what is replaced there.
        std::stable_sort(edits_.begin(), edits_.end(), [](const auto& a, const auto& b) {
            return a.at != b.at ? a.at < b.at : (a.removed != 0) < (b.removed != 0);
        });
    }

    // Without a sink only the length counts.
    result<std::uint64_t> write(const byte_sink* sink) {
        out_at_ = 0;
        sink_ = sink;
        std::uint64_t done = 0;
        for (const auto& edit : edits_) {
            if (edit.at < done)
                return make_error(error_code::bad_input, "parts of two arrays overlap; save the model anew",
                                  model_.file().path(), {}, edit.at);
            if (auto copied = copy(done, edit.at); !copied) return copied.error();
            if (auto put_in = put_edit(edit); !put_in) return put_in.error();
            done = edit.at + edit.removed;
        }
        if (auto copied = copy(done, model_.file().size()); !copied) return copied.error();
        return out_at_;
    }

    // Of one array's row in the report.
    [[nodiscard]] std::uint64_t bytes_of(std::size_t index) const {
        const pickle_array& array = model_.arrays()[index];
        const std::uint64_t before = array.data_end - array.op;
        return items_[index].effective
                   ? before - static_cast<std::uint64_t>(pickle_planner::saving(array, items_[index]))
                   : before;
    }

private:
    void add_array(std::size_t index) {
        const pickle_array& array = model_.arrays()[index];
        const pickle_item& item = items_[index];
        const std::uint64_t bytes = pickle_planner::code_bytes(array, item);
        if (item.prune_only) edits_.push_back({array.data, array.bytes, {}, index, bytes});
        if (!item.effective) return;
        edits_.push_back({array.begin, 0, pickle_planner::before(item)});
        edits_.push_back({array.dtype_end, 0, pickle_planner::code_dtype(item)});
        const std::string head = pickle_planner::code_head(array, item);
        if (array.stored == pickle_array::storage::latin1) {
            edits_.push_back({array.op, array.data_end - array.op, pickle_text("")});
            edits_.push_back({array.stacked, 0, "0" + head, index, bytes});
        } else {
            edits_.push_back({array.op, array.data_end - array.op, head, index, bytes});
        }
        edits_.push_back({array.end, 0, pickle_planner::after(array, item)});
    }

    // A frame's length counts what its instructions take now.
    void add_frames() {
        std::vector<pickle_edit> lengths;
        std::stable_sort(edits_.begin(), edits_.end(),
                         [](const auto& a, const auto& b) { return a.at < b.at; });
        auto edit = edits_.begin();
        for (const auto& frame : model_.frames()) {
            std::uint64_t length = frame.end - frame.begin;
            while (edit != edits_.end() && edit->at < frame.begin) ++edit;
            for (; edit != edits_.end() && edit->at < frame.end; ++edit)
                length = length + edit->inserted.size() + edit->code_bytes - edit->removed;
            if (length != frame.end - frame.begin)
                lengths.push_back({frame.begin - 8, 8, pickle_le(length, 8)});
        }
        edits_.insert(edits_.end(), lengths.begin(), lengths.end());
    }

    result<void> put(std::span<const std::byte> bytes) {
        out_at_ += bytes.size();
        return sink_ != nullptr ? (*sink_)(bytes) : result<void>();
    }

    result<void> put_edit(const pickle_edit& edit) {
        std::string inserted = edit.inserted;
        if (edit.alignment != 0) {
            const std::uint64_t count = edit.alignment - (out_at_ + 1) % edit.alignment;
            inserted = count <= 0xff
                           ? pickle_le(count, 1) + std::string(static_cast<std::size_t>(count), '\xff')
                           : pickle_le(0, 1);
        }
        if (auto done = put(std::as_bytes(std::span(inserted))); !done) return done;
        if (!edit.codes) return {};
        if (sink_ == nullptr) {
            out_at_ += edit.code_bytes;
            return {};
        }
        const std::uint64_t end = out_at_ + edit.code_bytes;
        const auto use = [&](std::span<const std::byte> codes) -> result<void> {
            if (auto going = report_progress(edit.at); !going) return going;
            return put(codes);
        };
        pickle_item& item = items_[*edit.codes];
        auto done = item.prune_only
                        ? planner_.prune_array(*edit.codes, item, use)
                        : planner_.encode_array(*edit.codes, item,
                                                planner_.threshold_of(model_.arrays()[*edit.codes], item),
                                                false, use);
        if (done && out_at_ != end)
            return make_error(error_code::bad_input,
                              "the file changed while it was read; do not change it meanwhile",
                              model_.file().path());
        return done;
    }

    result<void> copy(std::uint64_t from, std::uint64_t to) {
        if (sink_ == nullptr) {
            out_at_ += to - from;
            return {};
        }
        element_buffer buffer(memory_or_default(options_.memory));
        while (from < to) {
            const std::uint64_t count = std::min(to - from, tile_bytes);
            std::byte* const bytes = grow(buffer, count);
            const std::span<std::byte> part(bytes, static_cast<std::size_t>(count));
            if (auto read = model_.file().read_at(from, part); !read) return read;
            if (auto done = put(part); !done) return done;
            from += count;
            if (auto going = report_progress(from); !going) return going;
        }
        return {};
    }

    result<void> report_progress(std::uint64_t done) const {
        if (!options_.on_progress || options_.on_progress({done, model_.file().size()})) return {};
        return error{.code = error_code::cancelled, .message = "cancelled by the caller"};
    }

    const pickle_model& model_;
    std::vector<pickle_item>& items_;
    pickle_planner& planner_;
    const work_options& options_;
    std::vector<pickle_edit> edits_;
    const byte_sink* sink_ = nullptr;
    std::uint64_t out_at_ = 0;
};

inline mill_report pickle_report(const pickle_model& model, const std::vector<pickle_item>& items,
                                 const pickle_writer& writer, const mill_options& options) {
    mill_report report;
    report.requested = options.to == scheme_type::f32 ? "fp32" : facts(options.to).name;
    report.format = "pickle";
    report.method = options.to == scheme_type::int8 ? "absmax" : "";
    report.pruning = pruning_text(options);
    report.source_bytes = model.file().size();
    bool changed = false;
    for (std::size_t i = 0; i < items.size(); ++i) {
        const pickle_array& array = model.arrays()[i];
        const pickle_item& item = items[i];
        tensor_report row;
        row.name = array.name;
        row.shape = array.shape;
        row.source_dtype = array.type;
        row.requested = item.requested ? to_text(*item.requested) : "keep";
        row.effective = item.effective ? to_text(*item.effective) : item.prune_only ? "pruned" : "keep";
        row.reason = item.reason;
        row.elements = array.elements;
        row.source_bytes = array.data_end - array.op;
        row.bytes = writer.bytes_of(i);
        row.measured = (item.effective || item.prune_only) && !options.dry_run;
        if (row.measured) row.error = item.error;
        if (facts(array.type).weight) report.parameters += array.elements;
        changed = changed || item.effective || item.prune_only;
        report.tensors.push_back(std::move(row));
    }
    if (!changed)
        report.warnings.push_back("nothing was milled, the file is copied as it is: see the reasons");
    if (model.end() != model.file().size())
        report.warnings.push_back(std::to_string(model.file().size() - model.end()) +
                                  " bytes behind the end of the pickle are copied as they are");
    return report;
}

// Whether the file `path` holds just what the writer writes.
inline result<bool> pickle_holds(pickle_writer& writer, const std::string& path, std::uint64_t bytes) {
    auto there = input_file::open(path);
    if (!there) return there.error();
    if (there->size() != bytes) return false;
    bool same = true;
    std::uint64_t at = 0;
    std::string held;
    const byte_sink compare = [&](std::span<const std::byte> part) -> result<void> {
        held.resize(part.size());
        if (auto read = there->read_at(at, std::as_writable_bytes(std::span(held))); !read) return read;
        same = same && std::memcmp(held.data(), part.data(), part.size()) == 0;
        at += part.size();
        return {};
    };
    if (auto done = writer.write(&compare); !done) return done.error();
    return same;
}

inline result<void> write_pickle(pickle_writer& writer, const std::string& out, bool force,
                                 std::uint64_t bytes) {
    static constexpr const char* name = "model.pkl";
    auto folder = atomic_folder::create(out, {}, force, {}, name);
    if (!folder) return folder.error();
    auto file = output_file::create(folder->path_of(name));
    if (!file) return file.error();
    if (auto reserved = file->reserve(bytes); !reserved) return reserved;
    std::uint64_t at = 0;
    const byte_sink append = [&](std::span<const std::byte> part) -> result<void> {
        auto written = file->write_at(at, part);
        at += part.size();
        return written;
    };
    if (auto done = writer.write(&append); !done) return done.error();
    if (auto finished = file->finish(); !finished) return finished;
    return folder->commit();
}

inline bool is_pickle_path(const std::string& path) {
    std::error_code unknown;
    return is_pickle_file_name(path) && !std::filesystem::is_directory(path, unknown);
}

inline result<mill_report> quantize_pickle(const std::string& path, const std::string& out,
                                           const mill_options& options) {
    const stopwatch clock;
    std::error_code none;
    if (std::filesystem::equivalent(path, out, none))
        return error{.code = error_code::invalid_argument,
                     .message = "is the model that is read; choose another output",
                     .file = out};
    for (const char* other : {".gguf", ".safetensors", ".bin", ".pt", ".pth"})
        if (out.ends_with(other))
            return error{.code = error_code::invalid_argument,
                         .message = "a pickled model stays a pickle; give it the ending .pkl or .joblib",
                         .file = out};
    auto file = input_file::open(path);
    if (!file) return file.error();
    const auto model = pickle_model::open(std::move(*file));
    if (!model) return model.error();
    pickle_planner planner(*model, options);
    auto items = planner.plan();
    if (!items) return items.error();
    std::optional<pickle_writer> writer(std::in_place, *model, *items, planner, options);
    auto bytes = writer->write(nullptr);
    if (!bytes) return bytes.error();
    // Only where joblib's padding takes more than the codes saved.
    if (*bytes > model->file().size()) {
        for (auto& item : *items)
            if (item.effective || item.prune_only) {
                item.effective.reset();
                item.prune_only = false;
                item.reason = "the whole file would not shrink";
            }
        writer.emplace(*model, *items, planner, options);
        *bytes = model->file().size();
    }
    mill_report report = pickle_report(*model, *items, *writer, options);
    report.source = path;
    report.output = out;
    report.dry_run = options.dry_run;
    report.bytes = *bytes;
    if (!options.dry_run) {
        const auto there = is_there(out);
        if (!there) return there.error();
        if (*there && !options.force && std::filesystem::is_regular_file(out)) {
            const auto same = pickle_holds(*writer, out, *bytes);
            if (!same) return same.error();
            report.already_milled = *same;
        }
        if (report.already_milled)
            for (auto& row : report.tensors) row.measured = false;
        if (!report.already_milled)
            if (auto written = write_pickle(*writer, out, options.force, *bytes); !written)
                return written.error();
    }
    report.seconds = clock.seconds();
    log_report(options, report);
    return report;
}

}  // namespace bitmill::detail
