// One connection: reads a request, has it handled, writes the answer, and so on. Lives on the thread of http_core.
#pragma once

#include <array>
#include <memory>
#include <string>

#include <boost/asio/ip/tcp.hpp>

#include "http.hpp"
#include "request_reader.hpp"

namespace server {

class http_connection : public std::enable_shared_from_this<http_connection> {
public:
    http_connection(http_core& core, boost::asio::ip::tcp::socket socket);

    void start();
    void start_refused();  // to be told that the server is full
    void sweep(time_point now);
    // Ends it if it is idle; else its next answer is its last.
    void drain();
    void close() noexcept;

    [[nodiscard]] bool idle() const noexcept;
    [[nodiscard]] time_point deadline() const noexcept { return deadline_; }

private:
    enum class phase {
        reading,
        handling,
        writing,
        lingering,  // told that it ends: a reset would take the last answer from the client
        closed,
    };

    template <class Work>
    void guarded(Work&& work) noexcept;
    void read();
    void on_read(const boost::system::error_code& code, std::size_t count);
    void advance();
    void send_continue();
    void handle();
    void refuse(unsigned status, std::string_view message);
    void take_answer(std::uint64_t serial, http_response response, const std::string& route);
    void write(http_response response, const std::string& route);
    void on_written(const boost::system::error_code& code);
    void linger();
    void report(unsigned status);

    http_core& core_;
    boost::asio::ip::tcp::socket socket_;
    std::string local_address_;
    request_reader reader_;
    phase phase_ = phase::reading;
    time_point deadline_;

    // A read is always under way, unless pending_ is full: that is how a lost client is noticed.
    std::array<char, 8192> chunk_{};
    std::string pending_;  // read, and not taken by reader_
    bool reading_ = false;
    bool eof_ = false;

    // The request being answered.
    std::uint64_t serial_ = 0;  // an answer that comes too late must not meet the next request
    std::weak_ptr<reply::state> current_;
    std::string method_, path_;
    time_point begun_;
    bool in_request_ = false;
    bool keep_alive_ = false;

    // The answer being written.
    std::string head_, body_, route_;
    unsigned status_ = 0;
    std::size_t held_ = 0;
};

}  // namespace server
