// The host's own threads and memory: tiles run on its pool, and take no more than it allows.
//
//     host_threads_and_memory MODEL OUT
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <memory_resource>
#include <mutex>
#include <thread>
#include <vector>

#include <bitmill/bitmill.hpp>

namespace {

// A pool that lives as long as the service. bitmill's tasks never throw.
class thread_pool {
public:
    explicit thread_pool(unsigned threads) {
        for (unsigned i = 0; i < threads; ++i)
            workers_.emplace_back([this](const std::stop_token& stop) { work(stop); });
    }

    // Runs task(0) ... task(count - 1) on the workers and waits for the last one.
    void run(std::size_t count, const bitmill::task_fn& task) {
        const std::lock_guard one_at_a_time(runs_);
        std::unique_lock lock(mutex_);
        task_ = &task;
        next_ = 0;
        count_ = unfinished_ = count;
        changed_.notify_all();
        changed_.wait(lock, [this] { return unfinished_ == 0; });
        tasks_run += count;
    }

    std::size_t tasks_run = 0;

private:
    void work(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        while (changed_.wait(lock, stop, [this] { return next_ < count_; })) {
            const std::size_t index = next_++;
            lock.unlock();
            (*task_)(index);
            lock.lock();
            if (--unfinished_ == 0) changed_.notify_all();
        }
    }

    std::mutex runs_, mutex_;
    std::condition_variable_any changed_;
    const bitmill::task_fn* task_ = nullptr;
    std::size_t next_ = 0, count_ = 0, unfinished_ = 0;
    std::vector<std::jthread> workers_;  // last: stops before what it uses goes
};

// Memory with a hard bound. bad_alloc becomes error_code::out_of_memory: nothing is lost but this job.
class budget : public std::pmr::memory_resource {
public:
    explicit budget(std::size_t limit) : limit_(limit) {}
    [[nodiscard]] std::size_t peak() const { return peak_; }
    [[nodiscard]] std::size_t used() const { return used_; }

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        const std::lock_guard lock(mutex_);  // tiles run at the same time
        if (bytes > limit_ - used_) throw std::bad_alloc();
        void* memory = std::pmr::new_delete_resource()->allocate(bytes, alignment);
        used_ += bytes;
        peak_ = std::max(peak_, used_);
        return memory;
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
        const std::lock_guard lock(mutex_);
        std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
        used_ -= bytes;
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }

    std::mutex mutex_;
    std::size_t limit_, used_ = 0, peak_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return std::fprintf(stderr, "host_threads_and_memory MODEL OUT\n"), 2;
    thread_pool pool(3);
    // The second is too small for one tile of a large tensor: an error, and no trace in OUT.
    for (const std::size_t limit : {std::size_t{16} << 20, std::size_t{64} << 10}) {
        budget memory(limit);
        bitmill::mill_options options;
        options.to = bitmill::scheme_type::int4;
        options.threads = 3;  // tiles in flight at most: as many as the pool has workers
        options.run = [&pool](std::size_t count, const bitmill::task_fn& task) { pool.run(count, task); };
        options.memory = &memory;
        options.force = true;

        const auto report = bitmill::quantize(argv[1], argv[2], options);
        std::printf("budget %zu: %s; peak %zu bytes, %zu left behind, %zu tasks on the pool\n", limit,
                    report ? "done" : report.error().text().c_str(), memory.peak(), memory.used(),
                    pool.tasks_run);
    }
    return 0;
}
