// Which tiles of an unfinished folder are done and on disk, so that the same command goes on where a killed one stopped.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/codec/metrics.hpp>
#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/manifest-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/io/atomic_folder.hpp>
#include <bitmill/io/checkpoint.hpp>

namespace bitmill::detail {

// What is left of a tile once it is written: report and manifest are folded from these.
struct tile_record {
    error_metrics error;
    error_metrics base_error;  // planes: of the base alone
    digest source{};
    // Of codes or copy, scales, and the third part: no scheme has more. Checksums where no manifest lists them.
    std::array<digest, 3> parts{};
};

// The sums of an error_metrics, without padding.
struct journal_sums {
    double err2 = 0, src2 = 0, dst2 = 0, max_err = 0;
    std::uint64_t elements = 0, zeros_before = 0, zeros_after = 0;

    journal_sums() = default;
    explicit journal_sums(const error_metrics& error)
        : err2(error.sums().err2), src2(error.sums().src2), dst2(error.sums().dst2),
          max_err(static_cast<double>(error.sums().max_err)), elements(error.elements()),
          zeros_before(error.zeros_before()), zeros_after(error.zeros_after()) {}
    [[nodiscard]] error_metrics metrics() const {
        error_metrics out;
        out.add({err2, src2, dst2, static_cast<float>(max_err)}, elements);
        out.add_zeros(zeros_before, zeros_after);
        return out;
    }
};

// The file: the folder's key, then entries in any order, each true by itself. Written and read on one machine, so
// in its byte order.
struct journal_entry {
    std::uint64_t tile = 0;
    journal_sums error, base_error;
    digest source{};
    decltype(tile_record::parts) parts{};
    std::array<std::uint8_t, 8> check{};  // of all before it and the key

    [[nodiscard]] std::array<std::uint8_t, 8> find_check(std::string_view key) const {
        const auto bytes = std::as_bytes(std::span(this, 1)).first(sizeof(journal_entry) - sizeof check);
        const digest whole = sha256().update(key).update(bytes).finish();
        std::array<std::uint8_t, 8> out;
        std::copy_n(whole.begin(), out.size(), out.begin());
        return out;
    }
};
static_assert(sizeof(journal_entry) == 16 * 8 + sizeof(digest) + sizeof(tile_record::parts),
              "padding would have no value");

inline journal_entry entry_of(std::uint64_t tile, const tile_record& record, std::string_view key) {
    journal_entry out{
        tile, journal_sums(record.error), journal_sums(record.base_error), record.source, record.parts, {}};
    out.check = out.find_check(key);
    return out;
}

inline tile_record record_of(const journal_entry& entry) {
    return {entry.error.metrics(), entry.base_error.metrics(), entry.source, entry.parts};
}

// Work of one key gives the same tiles. It holds all that they depend on; threads, memory and side files are not
// among it.
inline result<std::string> journal_key(const checkpoint& model,
                                       const std::vector<std::pair<std::string, const weight_file*>>& files,
                                       const mill_options& options) {
    sha256 sum;
    const auto add_text = [&](std::string_view text) {
        sum.update(std::to_string(text.size()) + ":").update(text);
    };
    add_text("bitmill " BITMILL_VERSION_TEXT);
    add_text(std::to_string(sizeof(journal_entry)));
    // CBOR takes what is not UTF-8 as it is.
    const auto request = ordered_json::to_cbor(json_of(options));
    sum.update(std::as_bytes(std::span(request)));
    add_text(model.config_text());
    for (const auto& [name, weights] : files) {
        const input_file& file = weights->file();
        const auto stamp = file.stamp();
        if (!stamp) return stamp.error();
        const auto [first, bytes] = weights->header();
        const auto header = digest_of_bytes(file, first, bytes, options.memory);
        if (!header) return header.error();
        add_text(name);
        add(sum.update(std::as_bytes(std::span(&*stamp, 1))), *header);
    }
    return hex_text(sum.finish());
}

// Written by many threads. It never runs ahead of the tiles: an entry is written after the bytes it speaks of are on
// disk. It is not brought there itself, since what is lost of it is only done again.
class journal {
public:
    // Brings to disk what these tiles wrote.
    using sync_fn = std::function<result<void>(std::span<const std::size_t> tiles)>;

    // `records`, one a tile, are read when a batch of `batch_bytes` of the source is done.
    journal(std::vector<tile_record>& records, std::uint64_t batch_bytes, sync_fn sync)
        : records_(records), batch_bytes_(batch_bytes), sync_(std::move(sync)) {}

    // Which tiles are done; their records are filled in. Without it add() and flush() do nothing.
    result<std::vector<bool>> open(const atomic_folder& folder) {
        const std::string path = folder.journal_path();
        key_ = folder.key();
        end_ = key_.size();
        std::vector<bool> done(records_.size());
        auto file = folder.resumes() ? output_file::reopen(path) : output_file::create(path);
        if (!file) return file.error();
        result<void> begun;
        if (folder.resumes())
            begun = read_entries(path, done);
        else if (begun = file->write_at(0, std::as_bytes(std::span(key_))); begun)
            begun =
                folder.sync_names();  // or a power cut may take a weight file, and with it all that was done
        if (!begun) return begun.error();
        file_.emplace(std::move(*file));
        return done;
    }

    // After tile and record are written.
    result<void> add(std::size_t tile, std::uint64_t bytes) {
        if (!file_) return {};
        {
            const std::lock_guard lock(mutex_);
            pending_.push_back(tile);
            pending_bytes_ += bytes;
            if (pending_bytes_ < batch_bytes_) return {};
        }
        // One thread waits for the disk; the others mill on and fill the next batch.
        const std::unique_lock writing(writing_, std::try_to_lock);
        return writing ? write_batch() : result<void>{};
    }

    result<void> flush() {
        const std::lock_guard writing(writing_);
        return write_batch();
    }

private:
    // Whatever is torn or was changed is passed over.
    result<void> read_entries(const std::string& path, std::vector<bool>& done) {
        const auto file = input_file::open(path);
        if (!file) return file.error();
        for (journal_entry entry; end_ + sizeof entry <= file->size(); end_ += sizeof entry) {
            if (auto read = file->read_at(end_, std::as_writable_bytes(std::span(&entry, 1))); !read)
                return read;
            if (entry.tile >= done.size() || entry.check != entry.find_check(key_)) continue;
            records_[entry.tile] = record_of(entry);
            done[entry.tile] = true;
        }
        return {};
    }

    result<void> write_batch() {
        std::vector<std::size_t> batch;
        {
            const std::lock_guard lock(mutex_);
            batch.swap(pending_);
            pending_bytes_ = 0;
        }
        if (batch.empty()) return {};
        if (auto synced = sync_(batch); !synced) return synced;
        std::vector<journal_entry> entries;
        for (const std::size_t tile : batch) entries.push_back(entry_of(tile, records_[tile], key_));
        const auto bytes = std::as_bytes(std::span(entries));
        if (auto written = file_->write_at(end_, bytes); !written) return written;
        end_ += bytes.size();
        return {};
    }

    std::vector<tile_record>& records_;
    std::uint64_t batch_bytes_;
    sync_fn sync_;
    std::string key_;
    std::optional<output_file> file_;
    std::uint64_t end_ = 0;
    std::mutex mutex_;  // of pending_
    std::vector<std::size_t> pending_;
    std::uint64_t pending_bytes_ = 0;
    std::mutex writing_;  // of file_ and end_
};

}  // namespace bitmill::detail
