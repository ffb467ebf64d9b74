// Work that takes longer than a request: done by one thread, one after the other, each known by an id.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "http.hpp"

namespace server {

struct job_status {
    std::string id;
    std::string name;              // what it works on
    std::string state = "queued";  // queued, running, done, failed
    std::uint64_t done = 0;        // of total, in bytes
    std::uint64_t total = 0;
    std::string answer = {};  // the body that those who waited were given; "" before
};

// Every call is safe from any thread.
class jobs {
public:
    // False ends the work.
    using progress_hook = std::function<bool(std::uint64_t done, std::uint64_t total)>;
    using work = std::function<http_response(const std::string& name, const progress_hook&)>;

    explicit jobs(work run);
    ~jobs();  // ends what runs, answers those who wait with 503
    jobs(const jobs&) = delete;
    jobs& operator=(const jobs&) = delete;

    // Joins the job of that name which waits or runs, or begins one. Its id; "" once stopped, or where too many wait. The
    // answer, where one is given, comes when the job is done.
    [[nodiscard]] std::string submit(const std::string& name, const std::optional<reply>& answer);
    // The last 256.
    [[nodiscard]] std::vector<job_status> list() const;
    [[nodiscard]] std::optional<job_status> find(std::string_view id) const;
    void stop();

private:
    struct job {
        job_status status;
        std::vector<reply> waiting = {};
    };
    void run_all();
    void finish(job& one, const http_response& response);

    const work run_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::shared_ptr<job>> all_;  // in the order in which they came
    std::uint64_t count_ = 0;
    bool stopped_ = false;
    std::thread worker_;  // last: it uses all the others
};

}  // namespace server
