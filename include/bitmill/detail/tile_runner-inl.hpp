// Tensors as tiles of bounded size, worked on by several threads within a memory budget.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/core/parallel.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/mill/options.hpp>

namespace bitmill::detail {

// A tile's extent follows from the tensor alone, never from memory or threads: the sums of the report are
// folded tile by tile and must not change either. 512 KiB of source and its codes fit a second-level cache.
inline constexpr std::uint64_t tile_bytes = std::uint64_t{512} << 10;

struct tile {
    std::size_t tensor;   // index into the plan
    std::uint64_t first;  // of the tensor's units: rows, elements or bytes
    std::uint64_t count;
};

// Enough for one tile: what it reads, what it writes. Grows to the largest tile it has met.
struct tile_buffers {
    element_buffer source;
    element_buffer output;
    element_buffer coded;  // what a coded source is decoded from
};

class tile_runner {
public:
    tile_runner(const work_options& options, std::uint64_t total_bytes)
        : options_(options), threads_(options.threads != 0 ? options.threads : default_threads()) {
        progress_.total_bytes = total_bytes;
    }

    // work(tile index, tile, buffers) -> result<void>; bytes(tile) is what progress counts, footprint the
    // memory of the largest tile. Stops at the first error; of several the one of the lowest tile is returned.
    template <class Work, class Bytes>
    result<void> run(const std::vector<tile>& tiles, std::uint64_t footprint, const Work& work,
                     const Bytes& bytes) {
        const std::uint64_t fitting = options_.memory_limit / std::max<std::uint64_t>(footprint, 1);
        if (fitting == 0)
            return error{.code = error_code::out_of_memory,
                         .message = "one tile needs " + std::to_string((footprint >> 20) + 1) +
                                    " MiB, the memory limit is " +
                                    std::to_string(options_.memory_limit >> 20) +
                                    " MiB: raise --memory-limit"};
        const memory_source memory = memory_or_default(options_.memory);
        free_.clear();
        for (std::uint64_t i = 0; i < std::min<std::uint64_t>({fitting, threads_, tiles.size()}); ++i)
            free_.push_back({element_buffer(memory), element_buffer(memory), element_buffer(memory)});
        finished_ = 0;
        failed_at_ = tiles.size();
        failure_.reset();
        stop_ = false;
        const task_fn task = [&](std::size_t i) {
            if (stop_.load(std::memory_order_relaxed)) return;
            const fp_environment environment;
            finish(i, bytes(tiles[i]), guarded(i, tiles[i], work));
        };
        if (options_.run) {
            options_.run(tiles.size(), task);
        } else {
            run_parallel(static_cast<unsigned>(free_.size()), tiles.size(), task);
        }
        free_.clear();
        if (failure_) return *std::move(failure_);
        if (finished_ != tiles.size())
            return error{.code = error_code::invalid_argument,
                         .message = "the host's parallel_for ran " + std::to_string(finished_) + " of " +
                                    std::to_string(tiles.size()) + " tasks"};
        return {};
    }

    // Work that was done before, as far as progress goes.
    void skip(std::uint64_t bytes) { progress_.done_bytes += bytes; }
    [[nodiscard]] const progress& now() const { return progress_; }

private:
    // A task never throws, not even where there is no memory for the words of an error.
    template <class Work>
    result<void> guarded(std::size_t index, const tile& one, const Work& work) noexcept {
        tile_buffers buffers = acquire();
        result<void> outcome;
        try {
            try {
                outcome = work(index, one, buffers);
            } catch (const exception& failure) {
                outcome = failure.error();
            }
        } catch (...) {  // allocation is all else that can fail
            outcome = error{.code = error_code::out_of_memory, .message = "out of memory"};
        }
        release(std::move(buffers));
        return outcome;
    }

    tile_buffers acquire() {
        std::unique_lock lock(mutex_);
        returned_.wait(lock, [this] { return !free_.empty(); });
        tile_buffers buffers = std::move(free_.back());
        free_.pop_back();
        return buffers;
    }

    void release(tile_buffers buffers) {
        {
            const std::lock_guard lock(mutex_);
            free_.push_back(std::move(buffers));
        }
        returned_.notify_one();
    }

    void finish(std::size_t index, std::uint64_t bytes, result<void> outcome) noexcept {
        {
            const std::lock_guard lock(mutex_);
            ++finished_;
            if (!outcome) return fail(index, std::move(outcome).error());
            progress_.done_bytes += bytes;
        }
        if (!options_.on_progress) return;
        // A hook that waits on the host's pool may find itself running another tile: so a lock of its own, which
        // the same thread may take twice.
        const std::lock_guard reporting(progress_mutex_);
        if (stop_) return;
        const auto go_on = [&]() noexcept {
            try {
                return options_.on_progress(progress_now());
            } catch (...) {
                return false;  // the host's exception cannot cross the threads; it wants an end, and gets one
            }
        };
        if (go_on()) return;
        const std::lock_guard lock(mutex_);
        fail(index, {.code = error_code::cancelled, .message = "cancelled"});
    }

    progress progress_now() {
        const std::lock_guard lock(mutex_);
        return progress_;
    }

    void fail(std::size_t index, error what) noexcept {
        stop_ = true;
        if (index >= failed_at_ && failure_) return;
        failed_at_ = index;
        failure_ = std::move(what);
    }

    const work_options& options_;
    unsigned threads_;
    std::mutex mutex_;
    std::recursive_mutex progress_mutex_;
    std::condition_variable returned_;
    std::vector<tile_buffers> free_;
    std::atomic<bool> stop_{false};
    std::size_t finished_ = 0;
    std::size_t failed_at_ = 0;
    std::optional<error> failure_;
    progress progress_;
};

}  // namespace bitmill::detail
