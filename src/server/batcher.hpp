// Concurrent requests share the work: what waits is taken together and run at once, whatever it is.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <new>
#include <span>
#include <thread>
#include <utility>
#include <vector>

namespace server {

enum class drop_reason {
    expired,  // its deadline passed before it was run: 504
    lost,     // nobody waits for it any more
    failed    // running its batch threw: 500
};

// size(): what a batch is measured in, say texts, at least 1; bytes(): of memory that it holds while it waits.
// drop() is the end of a job that was taken in and not run, or whose batch threw. Where there is no memory for a
// batch, its jobs are destroyed.
template <class Job>
concept batchable = std::movable<Job> && requires(Job& job, const Job& same) {
    { same.size() } -> std::convertible_to<std::size_t>;
    { same.bytes() } -> std::convertible_to<std::size_t>;
    { same.deadline() } -> std::convertible_to<std::chrono::steady_clock::time_point>;
    { same.lost() } -> std::convertible_to<bool>;
    { job.drop(drop_reason::lost) } noexcept;
};

struct batch_limits {
    std::size_t batch_size = 64;   // a larger job runs alone
    std::size_t queue_jobs = 512;  // of each as many as may wait
    std::size_t queue_size = 4096;
    std::size_t queue_bytes = std::size_t{64} << 20;
};

enum class admission {
    taken,
    full,       // 503, with Retry-After: retry_after()
    too_large,  // more than the whole queue holds: 413
    stopped     // 503
};

struct batch_status {
    std::size_t queued_jobs = 0;
    std::size_t queued_size = 0;
    std::size_t running_size = 0;
    std::uint64_t batches = 0;
    std::uint64_t jobs = 0;  // that were run
    std::uint64_t expired = 0;
    std::uint64_t lost = 0;
    std::uint64_t refused = 0;
};

// Every call is safe from any thread. One job alone starts at once; what comes while a batch runs is the next
// batch, in the order in which it came.
template <batchable Job>
class batcher {
public:
    using clock = std::chrono::steady_clock;

    // run() answers every job that it is given, on the batcher's own thread.
    batcher(const batch_limits& limits, std::function<void(std::span<Job>)> run)
        : limits_(limits), run_(std::move(run)), worker_([this] { work(); }) {}
    ~batcher() { stop(); }
    batcher(const batcher&) = delete;
    batcher& operator=(const batcher&) = delete;

    // Moves from the job only where it takes it.
    [[nodiscard]] admission submit(Job&& job) {
        const std::size_t size = job.size(), bytes = job.bytes();
        const std::lock_guard lock(mutex_);
        const auto answer = judge(size, bytes);
        if (answer != admission::taken) {
            ++status_.refused;
            return answer;
        }
        queue_.push_back(std::move(job));
        status_.queued_size += size;
        queued_bytes_ += bytes;
        changed_.notify_one();
        return answer;
    }

    // How long what waits and runs will take, by what the last batches took; 1 to 60 seconds.
    [[nodiscard]] std::chrono::seconds retry_after() const {
        const std::lock_guard lock(mutex_);
        const auto ahead = static_cast<double>(status_.queued_size + status_.running_size);
        return std::chrono::seconds(static_cast<int>(std::clamp(ahead * seconds_per_size_, 0.0, 59.0)) + 1);
    }

    [[nodiscard]] batch_status status() const {
        const std::lock_guard lock(mutex_);
        batch_status out = status_;
        out.queued_jobs = queue_.size();
        return out;
    }

    // Takes nothing any more, runs what waits, and returns when that is done. Not from run().
    void stop() {
        {
            const std::lock_guard lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
        const std::lock_guard lock(joining_);
        if (worker_.joinable()) worker_.join();
    }

private:
    [[nodiscard]] admission judge(std::size_t size, std::size_t bytes) const {
        if (stopped_) return admission::stopped;
        if (size > limits_.queue_size || bytes > limits_.queue_bytes) return admission::too_large;
        const bool fits = queue_.size() < limits_.queue_jobs &&
                          size <= limits_.queue_size - status_.queued_size &&
                          bytes <= limits_.queue_bytes - queued_bytes_;
        return fits ? admission::taken : admission::full;
    }

    struct taken {
        std::vector<Job> batch, expired, lost;
        std::size_t size = 0;
    };

    // The next batch, and what nobody needs any more on the way to it.
    [[nodiscard]] taken take() {
        taken out;
        const auto now = clock::now();
        while (!queue_.empty()) {
            Job& next = queue_.front();
            const std::size_t size = next.size(), bytes = next.bytes();
            const bool lost = next.lost(), expired = next.deadline() <= now;
            if (!lost && !expired) {
                if (!out.batch.empty() && out.size + size > limits_.batch_size) break;
                out.size += size;
            }
            auto& where = lost ? out.lost : expired ? out.expired : out.batch;
            where.push_back(std::move(next));
            queue_.pop_front();
            status_.queued_size -= size;
            queued_bytes_ -= bytes;
        }
        status_.lost += out.lost.size();
        status_.expired += out.expired.size();
        status_.running_size = out.size;
        return out;
    }

    void work() {
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return stopped_ || !queue_.empty(); });
            if (queue_.empty()) return;
            try {
                work_off(take(), lock);
            } catch (const std::bad_alloc&) {
            }
        }
    }

    // Leaves the lock while it works.
    void work_off(taken now, std::unique_lock<std::mutex>& lock) {
        lock.unlock();
        for (auto& job : now.lost) job.drop(drop_reason::lost);
        for (auto& job : now.expired) job.drop(drop_reason::expired);
        const auto begin = clock::now();
        if (!now.batch.empty()) run(now.batch);
        const std::chrono::duration<double> took = clock::now() - begin;
        const std::size_t jobs = now.batch.size(), size = now.size;
        // Before the lock: what a job holds may be large.
        now = {};
        lock.lock();
        status_.running_size = 0;
        if (jobs == 0) return;
        ++status_.batches;
        status_.jobs += jobs;
        const double one = took.count() / static_cast<double>(std::max<std::size_t>(size, 1));
        seconds_per_size_ = seconds_per_size_ == 0 ? one : 0.8 * seconds_per_size_ + 0.2 * one;
    }

    void run(std::vector<Job>& batch) noexcept {
        try {
            run_(batch);
        } catch (...) {  // a job that was answered before takes no second answer
            for (auto& job : batch) job.drop(drop_reason::failed);
        }
    }

    const batch_limits limits_;
    const std::function<void(std::span<Job>)> run_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> queue_;
    std::size_t queued_bytes_ = 0;
    double seconds_per_size_ = 0;
    batch_status status_;
    bool stopped_ = false;
    std::mutex joining_;
    std::thread worker_;  // last: it uses all the others
};

}  // namespace server
