// Jobs that wait together run together; what cannot be run is told, and nothing is lost or done twice.
#include <server/batcher.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using server::admission;
using server::batch_limits;
using server::batcher;
using server::drop_reason;
using clock_type = std::chrono::steady_clock;

namespace {

// What became of each job, by its number.
struct ledger {
    std::mutex mutex;
    std::map<int, int> run;
    std::map<int, drop_reason> dropped;
    std::vector<std::vector<int>> batches;
};

struct job {
    int number = 0;
    std::size_t units = 1;
    ledger* book = nullptr;
    clock_type::time_point until = clock_type::time_point::max();
    std::shared_ptr<std::atomic<bool>> gone = nullptr;
    std::size_t memory = 1;

    [[nodiscard]] std::size_t size() const { return units; }
    [[nodiscard]] std::size_t bytes() const { return memory; }
    [[nodiscard]] clock_type::time_point deadline() const { return until; }
    [[nodiscard]] bool lost() const { return gone && *gone; }
    void drop(drop_reason why) noexcept {
        const std::lock_guard lock(book->mutex);
        book->dropped.emplace(number, why);
    }
};

void note(std::span<job> jobs) {
    ledger& book = *jobs.front().book;
    const std::lock_guard lock(book.mutex);
    book.batches.emplace_back();
    for (const auto& one : jobs) {
        ++book.run[one.number];
        book.batches.back().push_back(one.number);
    }
}

// Holds the first batch until it is told to go on, so that what comes meanwhile is known to wait.
class gate {
public:
    std::function<void(std::span<job>)> runner() {
        return [this](std::span<job> jobs) {
            note(jobs);
            if (!first_.exchange(false)) return;
            entered_.set_value();
            opened_.get_future().wait();
        };
    }
    void wait_until_running() { entered_.get_future().wait(); }
    void open() { opened_.set_value(); }

private:
    std::atomic<bool> first_{true};
    std::promise<void> entered_, opened_;
};

admission put(batcher<job>& to, ledger& book, int number, std::size_t units = 1) {
    return to.submit(job{.number = number, .units = units, .book = &book});
}

}  // namespace

TEST_CASE("batcher: what comes while a batch runs is the next batch, up to its size") {
    ledger book;
    gate held;
    batcher<job> jobs({.batch_size = 8}, held.runner());
    CHECK(put(jobs, book, 0) == admission::taken);
    held.wait_until_running();
    for (int i = 1; i <= 5; ++i) CHECK(put(jobs, book, i, 2) == admission::taken);
    CHECK(put(jobs, book, 6, 20) == admission::taken);  // alone
    CHECK(put(jobs, book, 7) == admission::taken);
    const auto status = jobs.status();
    CHECK(status.queued_jobs == 7);
    CHECK(status.queued_size == 31);
    CHECK(status.running_size == 1);
    held.open();
    jobs.stop();
    CHECK(book.batches == std::vector<std::vector<int>>{{0}, {1, 2, 3, 4}, {5}, {6}, {7}});
    CHECK(jobs.status().batches == 5);
    CHECK(jobs.status().jobs == 8);
    CHECK(jobs.status().queued_size == 0);
}

TEST_CASE("batcher: a full queue refuses at once, and leaves the job to its owner") {
    ledger book;
    gate held;
    batcher<job> jobs({.queue_jobs = 3, .queue_size = 10, .queue_bytes = 1000}, held.runner());
    CHECK(put(jobs, book, 0) == admission::taken);
    held.wait_until_running();
    CHECK(put(jobs, book, 1, 11) == admission::too_large);
    CHECK(put(jobs, book, 1, 8) == admission::taken);
    CHECK(put(jobs, book, 2, 3) == admission::full);
    CHECK(put(jobs, book, 2, 2) == admission::taken);
    CHECK(put(jobs, book, 3, 1) == admission::full);
    CHECK(jobs.status().refused == 3);
    held.open();
    jobs.stop();
    CHECK(book.run.size() == 3);
    CHECK(put(jobs, book, 9) == admission::stopped);

    gate second;
    batcher<job> few({.queue_jobs = 2, .queue_bytes = 100}, second.runner());
    CHECK(put(few, book, 10) == admission::taken);
    second.wait_until_running();
    const auto gone = std::make_shared<std::atomic<bool>>(false);
    job large{.number = 11, .book = &book, .gone = gone, .memory = 101};
    CHECK(few.submit(std::move(large)) == admission::too_large);
    CHECK(large.gone == gone);  // not moved from
    large.memory = 100;
    CHECK(few.submit(std::move(large)) == admission::taken);
    CHECK(put(few, book, 12) == admission::full);
    second.open();
    few.stop();
    CHECK(book.run[11] == 1);
    CHECK(book.run.count(12) == 0);
}

TEST_CASE("batcher: jobs that are late or lost are not run") {
    ledger book;
    gate held;
    batcher<job> jobs({}, held.runner());
    CHECK(put(jobs, book, 0) == admission::taken);
    held.wait_until_running();
    const auto gone = std::make_shared<std::atomic<bool>>(false);
    CHECK(jobs.submit({.number = 1, .book = &book, .until = clock_type::now()}) == admission::taken);
    CHECK(jobs.submit({.number = 2, .book = &book, .gone = gone}) == admission::taken);
    CHECK(jobs.submit({.number = 3, .book = &book}) == admission::taken);
    *gone = true;
    held.open();
    jobs.stop();
    CHECK(book.batches == std::vector<std::vector<int>>{{0}, {3}});
    CHECK(book.dropped == std::map<int, drop_reason>{{1, drop_reason::expired}, {2, drop_reason::lost}});
    CHECK(jobs.status().expired == 1);
    CHECK(jobs.status().lost == 1);
    CHECK(jobs.status().jobs == 2);
}

TEST_CASE("batcher: a batch that throws fails its jobs only") {
    ledger book;
    std::atomic<int> calls{0};
    batcher<job> jobs({}, [&](std::span<job> batch) {
        if (++calls == 1) throw std::runtime_error("broken");
        note(batch);
    });
    CHECK(put(jobs, book, 1) == admission::taken);
    while (calls == 0) std::this_thread::yield();
    CHECK(put(jobs, book, 2) == admission::taken);
    jobs.stop();
    CHECK(book.dropped == std::map<int, drop_reason>{{1, drop_reason::failed}});
    CHECK(book.run == std::map<int, int>{{2, 1}});
}

TEST_CASE("batcher: how long to wait follows what batches take") {
    ledger book;
    gate held;
    batcher<job> jobs({.batch_size = 1}, held.runner());
    CHECK(jobs.retry_after().count() == 1);
    CHECK(put(jobs, book, 0) == admission::taken);
    held.wait_until_running();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::promise<void> second_entered, second_opened;
    held.open();
    jobs.stop();
    CHECK(jobs.retry_after().count() == 1);

    // A unit took 50 ms or longer, and 1000 of them wait behind a batch that is held.
    std::atomic<int> calls{0};
    batcher<job> slow({.batch_size = 1}, [&](std::span<job>) {
        if (++calls == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(50));
        if (calls == 2) {
            second_entered.set_value();
            second_opened.get_future().wait();
        }
    });
    CHECK(put(slow, book, 1) == admission::taken);
    CHECK(put(slow, book, 2) == admission::taken);
    second_entered.get_future().wait();
    CHECK(put(slow, book, 3, 1000) == admission::taken);
    CHECK(slow.retry_after().count() >= 50);
    CHECK(slow.retry_after().count() <= 60);
    second_opened.set_value();
}

TEST_CASE("batcher: many threads, and a stop between them") {
    for (const bool stops_early : {false, true}) {
        ledger book;
        constexpr int threads = 8, each = 500;
        std::atomic<int> taken{0}, stopped{0}, full{0};
        {
            batcher<job> jobs({.batch_size = 16, .queue_jobs = 64}, note);
            std::vector<std::thread> asking;
            for (int t = 0; t < threads; ++t)
                asking.emplace_back([&, t] {
                    for (int i = 0; i < each; ++i) {
                        admission got = admission::full;
                        while ((got = put(jobs, book, t * each + i)) == admission::full) {
                            ++full;
                            std::this_thread::yield();
                        }
                        ++(got == admission::taken ? taken : stopped);
                    }
                });
            if (stops_early) {
                while (taken < 100) std::this_thread::yield();
                jobs.stop();
            }
            for (auto& one : asking) one.join();
            CHECK(jobs.status().refused == static_cast<std::uint64_t>(full + stopped));
        }
        CHECK(taken + stopped == threads * each);
        if (!stops_early) CHECK(stopped == 0);
        CHECK(book.run.size() == static_cast<std::size_t>(taken));
        for (const auto& [number, times] : book.run) REQUIRE(times == 1);
        for (const auto& batch : book.batches) REQUIRE(batch.size() <= 16);
    }
}
