// Numbers for GET /metrics, in Prometheus' text format 0.0.4.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http.hpp"

namespace server {

// Only grows.
class counter {
public:
    void add(std::uint64_t more = 1) noexcept { value_.fetch_add(more, std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

private:
    std::atomic<std::uint64_t> value_{0};
};

class gauge {
public:
    void set(double value) noexcept { value_.store(value, std::memory_order_relaxed); }
    [[nodiscard]] double value() const noexcept { return value_.load(std::memory_order_relaxed); }

private:
    std::atomic<double> value_{0};
};

// How many values were at most each of the bounds.
class histogram {
public:
    explicit histogram(std::vector<double> bounds);  // ascending; one more, +Inf, is implied
    void observe(double value) noexcept;
    [[nodiscard]] const std::vector<double>& bounds() const noexcept { return bounds_; }
    [[nodiscard]] std::uint64_t count(std::size_t bucket) const noexcept {  // of this bucket alone
        return counts_[bucket].load(std::memory_order_relaxed);
    }
    [[nodiscard]] double sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

private:
    const std::vector<double> bounds_;
    const std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
    std::atomic<double> sum_{0};
};

// From 1 ms to 60 s, as http_outcome gives them.
[[nodiscard]] std::vector<double> latency_bounds();

// Every call is safe from any thread. An instrument is made when it is first asked for, and stays where it is; its
// value is then changed without a lock. Names and label names are [a-zA-Z_][a-zA-Z0-9_]*; label values may be any
// text.
class metrics {
public:
    counter& get_counter(const std::string& name, const std::string& help, const text_pairs& labels = {});
    gauge& get_gauge(const std::string& name, const std::string& help, const text_pairs& labels = {});
    // The bounds of the first call for that name hold for all.
    histogram& get_histogram(const std::string& name, const std::string& help,
                             const std::vector<double>& bounds, const text_pairs& labels = {});
    // read() is asked for the value whenever text() is.
    void add_gauge(const std::string& name, const std::string& help, std::function<double()> read,
                   const text_pairs& labels = {});

    [[nodiscard]] std::string text() const;
    static constexpr const char* content_type = "text/plain; version=0.0.4; charset=utf-8";

private:
    struct instrument {
        std::unique_ptr<counter> count = nullptr;
        std::unique_ptr<gauge> level = nullptr;
        std::unique_ptr<histogram> spread = nullptr;
        std::function<double()> read = nullptr;
    };
    struct family {
        std::string help = {};
        std::string type = {};
        std::vector<double> bounds = {};
        std::map<std::string, instrument> instruments = {};  // by their labels, as text
    };
    instrument& get(const std::string& name, const std::string& help, const char* type,
                    const text_pairs& labels);

    mutable std::mutex mutex_;
    std::map<std::string, family> families_;
};

// Counts what the server did: requests by route, method and status, their latency by route, bytes, refusals.
class http_metrics {
public:
    explicit http_metrics(metrics& in) : in_(in) {}
    void operator()(const http_outcome& outcome);

private:
    metrics& in_;
};

}  // namespace server
