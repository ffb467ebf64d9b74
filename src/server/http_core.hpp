// What the connections of one server share: the thread's event loop, the limits, and the table of themselves.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "http.hpp"
#include "http_connection.hpp"
#include "request_reader.hpp"

namespace server {

class http_core : public std::enable_shared_from_this<http_core> {
public:
    http_core(http_options options, http_handler handler, const boost::asio::ip::address& address);

    // ---- from any thread
    [[nodiscard]] bitmill::result<void> listen();
    void run() noexcept;  // returns after stop()
    void stop();
    [[nodiscard]] bool drain(milliseconds timeout);
    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
    [[nodiscard]] http_status status() const noexcept;

    // ---- from its own
    [[nodiscard]] http_response refusal_of(std::string_view path, unsigned status,
                                           std::string_view message) const;
    [[nodiscard]] std::string_view date();
    [[nodiscard]] bool draining() const noexcept { return draining_; }
    void remove(const std::shared_ptr<http_connection>& one);

    // The connections' own. What they give back to is destroyed after io, which may hold the last of them.
    const http_options options;
    const http_handler handler;
    const http_gate gate;
    byte_budget budget;
    std::atomic<std::size_t> requests{0};
    boost::asio::io_context io{1};

private:
    void accept();
    void admit(boost::asio::ip::tcp::socket socket);
    [[nodiscard]] bool make_room();
    void begin_drain();
    void sweep();
    void check_drained();
    [[nodiscard]] std::vector<std::shared_ptr<http_connection>> all() const;

    boost::asio::ip::address address_;
    boost::asio::ip::tcp::acceptor acceptor_{io};
    boost::asio::steady_timer sweep_timer_{io}, accept_timer_{io};
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{io.get_executor()};
    std::uint16_t port_ = 0;
    std::unordered_set<std::shared_ptr<http_connection>> connections_;
    std::atomic<std::size_t> count_{0};
    bool draining_ = false;
    bool stopped_ = false;
    std::string date_;
    std::int64_t date_second_ = -1;

    std::mutex mutex_;
    std::condition_variable changed_;
    bool drained_ = false;
};

}  // namespace server
