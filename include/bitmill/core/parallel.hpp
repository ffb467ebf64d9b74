// Running independent pieces of work on threads: ours, or a pool that the host supplies.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace bitmill {

using task_fn = std::function<void(std::size_t index)>;

// Runs task(0) ... task(count - 1), in any order, on any threads, and returns when all are done. A host
// may give its own (P7); tasks never throw.
using parallel_for = std::function<void(std::size_t count, const task_fn& task)>;

[[nodiscard]] inline unsigned default_threads() noexcept {
    return std::max(1u, std::thread::hardware_concurrency());
}

// More are never started: each takes memory, and no machine has so many cores to spare.
inline constexpr unsigned max_threads = 1024;

// Threads live for one call, which has many tasks: starting a thread costs less than one tile of 512 KiB. At most
// max_threads of them.
inline void run_parallel(unsigned threads, std::size_t count, const task_fn& task) {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) task(i);
    };
    std::vector<std::jthread> helpers;
    const std::size_t wanted = std::min<std::size_t>(std::clamp(threads, 1u, max_threads), count);
    try {
        for (std::size_t i = 1; i < wanted; ++i) helpers.emplace_back(work);
    } catch (const std::exception&) {
        // Fewer threads than asked for (a limit of the system) only makes it slower.
    }
    work();
}

}  // namespace bitmill
