// What the dashboard draws over time, and the latency of the last moments.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace server {

struct history_point {
    std::int64_t unix_ms = 0;
    double used_share = 0;
    unsigned active_requests = 0;
    double requests_per_s = 0;
    double p50_ms = 0;  // of the requests since the last point; 0 where there was none
    double p99_ms = 0;
};

// A point every `interval`, the last `most` of them. Every call is safe from any thread.
class history {
public:
    // read() fills used_share and active_requests.
    history(std::function<void(history_point&)> read, std::chrono::milliseconds interval, std::size_t most);
    ~history();
    history(const history&) = delete;
    history& operator=(const history&) = delete;

    void add_latency(double ms);
    [[nodiscard]] std::vector<history_point> points() const;

private:
    void work();

    const std::function<void(history_point&)> read_;
    const std::chrono::milliseconds interval_;
    const std::size_t most_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<history_point> points_;
    std::vector<double> latencies_;
    std::uint64_t requests_ = 0;
    bool stopped_ = false;
    std::thread worker_;  // last: it uses all the others
};

}  // namespace server
