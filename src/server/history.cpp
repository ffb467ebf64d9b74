#include "history.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace server {
namespace {

constexpr std::size_t most_latencies = 100'000;  // of one interval; more say nothing new

// Nearest rank; reorders.
double quantile(std::vector<double>& values, double share) {
    if (values.empty()) return 0;
    const auto rank = static_cast<std::ptrdiff_t>(std::ceil(share * static_cast<double>(values.size()))) - 1;
    const auto at = values.begin() + std::max<std::ptrdiff_t>(rank, 0);
    std::nth_element(values.begin(), at, values.end());
    return *at;
}

}  // namespace

history::history(std::function<void(history_point&)> read, std::chrono::milliseconds interval,
                 std::size_t most)
    : read_(std::move(read)), interval_(interval), most_(most), worker_([this] { work(); }) {}

history::~history() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    worker_.join();
}

void history::add_latency(double ms) {
    const std::lock_guard lock(mutex_);
    ++requests_;
    if (latencies_.size() < most_latencies) latencies_.push_back(ms);
}

std::vector<history_point> history::points() const {
    const std::lock_guard lock(mutex_);
    return {points_.begin(), points_.end()};
}

void history::work() {
    using namespace std::chrono;
    auto last = steady_clock::now();
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, interval_, [&] { return stopped_; })) {
        auto latencies = std::exchange(latencies_, {});
        const auto requests = std::exchange(requests_, 0);
        lock.unlock();
        const auto now = steady_clock::now();
        history_point point;
        point.unix_ms = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
        point.requests_per_s = static_cast<double>(requests) / duration<double>(now - last).count();
        point.p50_ms = quantile(latencies, 0.5);
        point.p99_ms = quantile(latencies, 0.99);
        read_(point);
        last = now;
        lock.lock();
        points_.push_back(point);
        if (points_.size() > most_) points_.pop_front();
    }
}

}  // namespace server
