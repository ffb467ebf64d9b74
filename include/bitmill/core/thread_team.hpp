// Threads that stay for many short pieces of work: starting one costs more than a small layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <bitmill/core/config.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/parallel.hpp>

namespace bitmill {

// Safe from many threads: while one call uses the helpers, another runs alone on its own thread, or, with a host's
// parallel_for, goes there as well. Which thread runs what changes no result.
class thread_team {
public:
    // `threads` with the caller's own, at most max_threads; 0: one per core. `host`: the host's own threads instead; it
    // decides how many.
    explicit thread_team(unsigned threads = 0, parallel_for host = {});
    ~thread_team();
    thread_team(const thread_team&) = delete;
    thread_team& operator=(const thread_team&) = delete;

    // As many as there are: fewer than were asked for where they are too many, or the system gives no more.
    [[nodiscard]] unsigned threads() const noexcept;
    // Runs task(0) ... task(count - 1) in any order on any threads, and returns when all are done. Tasks do
    // not call run() of the same team. What one of them throws, the first, is thrown again when all are done.
    void run(std::size_t count, const task_fn& task);

    // Memory for a task, of the thread that it runs on and kept from task to task: at least `bytes`, aligned to 64, until
    // the same thread asks again. Throws std::bad_alloc.
    [[nodiscard]] static std::byte* scratch(std::size_t bytes);

    // The same for who calls run(), held while it lives: a host's thread that waits there may take up other work, which
    // then borrows for itself.
    class borrowed {
    public:
        explicit borrowed(std::size_t bytes);
        ~borrowed();
        borrowed(const borrowed&) = delete;
        borrowed& operator=(const borrowed&) = delete;
        [[nodiscard]] std::byte* data() const noexcept { return data_; }

    private:
        std::byte* data_;
        std::size_t size_;
    };

private:
    struct state;
    std::unique_ptr<state> state_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/thread_team-inl.hpp>
#endif
