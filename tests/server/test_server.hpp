// A server with a few routes, for tests of what stands in front of routes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <server/http.hpp>

#include <http_client.hpp>

namespace bitmill_test {

// Waits for what another thread will bring about. How long that takes decides nothing but when a broken test ends.
inline bool eventually(const std::function<bool()>& holds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!holds()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
}

inline server::http_options free_port() {
    server::http_options options;
    options.port = 0;
    return options;
}

// /echo      method, path and body
// /large     as many bytes as the query says
// /later     nothing, until the test answers
// /never     the reply is dropped
// /throw     the handler fails with a path in its words
class test_server {
public:
    explicit test_server(server::http_options options = free_port()) {
        options.on_outcome = [this](const server::http_outcome& one) {
            const std::lock_guard lock(mutex_);
            outcomes_.emplace_back(std::string(one.path), one.status);
        };
        server_ = server::http_server::start(std::move(options), [this](server::http_request&& request,
                                                                        server::reply answer) {
                      handle(std::move(request), std::move(answer));
                  }).value();
    }
    test_server(const test_server&) = delete;
    test_server& operator=(const test_server&) = delete;

    server::http_server& operator*() { return *server_; }
    server::http_server* operator->() { return server_.get(); }
    void stop() { server_.reset(); }
    http_client connect(int receive_buffer = 0) { return http_client(server_->port(), receive_buffer); }

    // The oldest reply of /later, once there is one.
    server::reply next_later() {
        std::vector<server::reply> found;
        REQUIRE(eventually([&] {
            const std::lock_guard lock(mutex_);
            if (later_.empty()) return false;
            found.push_back(std::move(later_.front()));
            later_.erase(later_.begin());
            return true;
        }));
        return found.front();
    }
    std::vector<std::pair<std::string, unsigned>> outcomes() {
        const std::lock_guard lock(mutex_);
        return outcomes_;
    }

private:
    void handle(server::http_request&& request, server::reply answer) {
        if (request.path == "/later") {
            const std::lock_guard lock(mutex_);
            return later_.push_back(std::move(answer));
        }
        if (request.path == "/never") return;
        if (request.path == "/throw") throw std::runtime_error("cannot open /home/secret/model");
        if (request.path == "/large")
            return answer({.body = std::string(std::stoul(std::string(request.query_value("bytes"))), 'x')});
        if (request.path == "/split") return answer({.headers = {{"X-Name", "a\r\nX-Injected: b"}}});
        answer(
            {.content_type = "text/plain", .body = request.method + " " + request.path + " " + request.body});
    }

    std::mutex mutex_;
    std::vector<server::reply> later_;
    std::vector<std::pair<std::string, unsigned>> outcomes_;
    std::unique_ptr<server::http_server> server_;
};

}  // namespace bitmill_test
