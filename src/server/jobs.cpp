#include "jobs.hpp"

#include <algorithm>
#include <utility>

namespace server {
namespace {

constexpr std::size_t most_known = 256, most_waiting = 64;

bool is_open(const job_status& status) { return status.state == "queued" || status.state == "running"; }

}  // namespace

jobs::jobs(work run) : run_(std::move(run)), worker_([this] { run_all(); }) {}

jobs::~jobs() { stop(); }

void jobs::stop() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    if (worker_.joinable()) worker_.join();
}

std::string jobs::submit(const std::string& name, const std::optional<reply>& answer) {
    const std::lock_guard lock(mutex_);
    if (stopped_) return {};
    auto found = std::find_if(all_.begin(), all_.end(), [&](const auto& one) {
        return one->status.name == name && is_open(one->status);
    });
    if (found == all_.end()) {
        const auto open =
            std::count_if(all_.begin(), all_.end(), [](const auto& one) { return is_open(one->status); });
        if (static_cast<std::size_t>(open) >= most_waiting) return {};
        if (all_.size() >= most_known)
            all_.erase(std::find_if(all_.begin(), all_.end(),
                                    [](const auto& one) { return !is_open(one->status); }));
        auto made = std::make_shared<job>();
        made->status.id = "quantize-" + std::to_string(++count_);
        made->status.name = name;
        all_.push_back(std::move(made));
        found = std::prev(all_.end());
    }
    if (answer) (*found)->waiting.push_back(*answer);
    changed_.notify_all();
    return (*found)->status.id;
}

std::vector<job_status> jobs::list() const {
    const std::lock_guard lock(mutex_);
    std::vector<job_status> out;
    for (const auto& one : all_) out.push_back(one->status);
    return out;
}

std::optional<job_status> jobs::find(std::string_view id) const {
    const std::lock_guard lock(mutex_);
    for (const auto& one : all_)
        if (one->status.id == id) return one->status;
    return std::nullopt;
}

// Under the lock.
void jobs::finish(job& one, const http_response& response) {
    one.status.state = response.status < 300 ? "done" : "failed";
    one.status.answer = response.body;
    for (const auto& answer : std::exchange(one.waiting, {})) answer(response);
}

void jobs::run_all() {
    std::unique_lock lock(mutex_);
    const auto next = [&] {
        return std::find_if(all_.begin(), all_.end(),
                            [](const auto& one) { return one->status.state == "queued"; });
    };
    for (;;) {
        changed_.wait(lock, [&] { return stopped_ || next() != all_.end(); });
        if (stopped_) break;
        const auto current = *next();
        current->status.state = "running";
        lock.unlock();
        http_response response;
        try {
            response = run_(current->status.name, [&](std::uint64_t done, std::uint64_t total) {
                const std::lock_guard again(mutex_);
                current->status.done = done;
                current->status.total = total;
                return !stopped_;
            });
        } catch (const std::exception&) {
            response = error_response(500, "the job failed; the server's log says why");
        }
        lock.lock();
        finish(*current, response);
    }
    for (const auto& one : all_)
        if (is_open(one->status))
            finish(*one, error_response(503, "the server stops; ask again once it runs"));
}

}  // namespace server
