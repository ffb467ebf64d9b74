// What the copies of one reply share with the connection.
#pragma once

#include <atomic>
#include <string>
#include <utility>

#include "http.hpp"

namespace server {

struct reply::state {
    explicit state(sender to) : send(std::move(to)) {}
    state(const state&) = delete;
    state& operator=(const state&) = delete;
    ~state() { answer(error_response(500, "the server gave no answer to this request")); }

    // Without memory to hand an answer over there is none; the request ends at its deadline then.
    void answer(http_response response) noexcept {
        if (answered.exchange(true)) return;
        try {
            send(std::move(response), route);
        } catch (...) {
        }
    }

    sender send;
    std::string route = {};
    std::atomic<bool> answered{false};
    std::atomic<bool> lost{false};
    std::atomic<time_point> deadline{time_point::max()};
};

}  // namespace server
