#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <bitmill/core/thread_team.hpp>

namespace bitmill {
namespace detail {

inline void relax() noexcept {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// One piece of work and how far it is.
struct team_work {
    const task_fn* task = nullptr;
    std::size_t count = 0;
    std::atomic<std::size_t> next{0};

    void take_part() {
        for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) (*task)(i);
    }
};

inline void free_aligned(std::byte* data) noexcept {
    if (data != nullptr) ::operator delete(data, std::align_val_t{64});
}

struct aligned_bytes {
    std::byte* data = nullptr;
    std::size_t size = 0;
    aligned_bytes() = default;
    aligned_bytes(const aligned_bytes&) = delete;
    aligned_bytes& operator=(const aligned_bytes&) = delete;
    ~aligned_bytes() { free_aligned(data); }
    void grow(std::size_t bytes) {
        if (size >= bytes) return;
        free_aligned(std::exchange(data, nullptr));
        size = 0;
        data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64}));
        size = bytes;
    }
};

inline aligned_bytes& kept_bytes() {
    thread_local aligned_bytes kept;
    return kept;
}

}  // namespace detail

struct thread_team::state {
    unsigned threads = 1;
    parallel_for host;
    std::mutex busy;
    detail::team_work work;
    std::atomic<std::uint32_t> generation{0};  // of work; odd numbers and even ones alike
    std::atomic<std::uint32_t> running{0};     // helpers that are not done with it
    std::atomic<bool> leaving{false};
    std::vector<std::jthread> helpers;

    // Between two layers there are microseconds: a helper looks that long before it sleeps.
    static constexpr int looks = 4000;

    std::uint32_t wait_for_work(std::uint32_t seen) const {
        for (int i = 0; i < looks; ++i) {
            if (const auto now = generation.load(std::memory_order_acquire); now != seen) return now;
            detail::relax();
        }
        generation.wait(seen, std::memory_order_acquire);
        return generation.load(std::memory_order_acquire);
    }
    void help() {
        std::uint32_t seen = 0;
        for (;;) {
            seen = wait_for_work(seen);
            if (leaving.load(std::memory_order_acquire)) return;
            work.take_part();
            running.fetch_sub(1, std::memory_order_acq_rel);
        }
    }
    void wake() {
        generation.fetch_add(1, std::memory_order_acq_rel);
        generation.notify_all();
    }
    void run(std::size_t count, const task_fn& task) {
        work.task = &task;
        work.count = count;
        work.next.store(0, std::memory_order_relaxed);
        running.store(static_cast<std::uint32_t>(helpers.size()), std::memory_order_relaxed);
        wake();
        work.take_part();
        // On a busy machine a helper may wait for this very core.
        for (int i = 0; running.load(std::memory_order_acquire) != 0; ++i)
            i < looks ? detail::relax() : std::this_thread::yield();
    }
};

BITMILL_INLINE thread_team::thread_team(unsigned threads, parallel_for host)
    : state_(std::make_unique<state>()) {
    state_->threads = std::min(threads == 0 ? default_threads() : threads, max_threads);
    state_->host = std::move(host);
    if (state_->host) return;
    try {
        for (unsigned i = 1; i < state_->threads; ++i)
            state_->helpers.emplace_back([owner = state_.get()] { owner->help(); });
    } catch (const std::exception&) {
        // Fewer threads than asked for (a limit of the system) only makes it slower.
    }
    state_->threads = static_cast<unsigned>(state_->helpers.size()) + 1;
}

BITMILL_INLINE thread_team::~thread_team() {
    state_->leaving.store(true, std::memory_order_release);
    state_->wake();
    state_->helpers.clear();  // joins
}

BITMILL_INLINE unsigned thread_team::threads() const noexcept { return state_->threads; }

BITMILL_INLINE void thread_team::run(std::size_t count, const task_fn& task) {
    std::atomic<bool> failed{false};
    std::exception_ptr failure;
    const task_fn guarded = [&](std::size_t i) {
        try {
            task(i);
        } catch (...) {
            if (!failed.exchange(true)) failure = std::current_exception();
        }
    };
    if (count == 0) return;
    if (state_->host) {
        state_->host(count, guarded);
    } else if (count == 1 || state_->helpers.empty() || !state_->busy.try_lock()) {
        for (std::size_t i = 0; i < count; ++i) guarded(i);
    } else {
        const std::lock_guard<std::mutex> hold(state_->busy, std::adopt_lock);
        state_->run(count, guarded);
    }
    if (failure) std::rethrow_exception(failure);
}

BITMILL_INLINE std::byte* thread_team::scratch(std::size_t bytes) {
    thread_local detail::aligned_bytes mine;
    mine.grow(bytes);
    return mine.data;
}

BITMILL_INLINE thread_team::borrowed::borrowed(std::size_t bytes) {
    auto& kept = detail::kept_bytes();
    kept.grow(bytes);
    data_ = std::exchange(kept.data, nullptr);
    size_ = std::exchange(kept.size, 0);
}
BITMILL_INLINE thread_team::borrowed::~borrowed() {
    auto& kept = detail::kept_bytes();
    if (kept.size < size_) {
        std::swap(kept.data, data_);
        std::swap(kept.size, size_);
    }
    detail::free_aligned(data_);
}

}  // namespace bitmill
