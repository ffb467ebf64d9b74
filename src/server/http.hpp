// What `bitmill serve` speaks: HTTP/1.1 and 1.0 (RFC 9110, 9112) over TCP, without TLS, which a proxy in front adds.
// Nothing here knows of models.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <bitmill/core/error.hpp>

namespace server {

using std::chrono::milliseconds;
using time_point = std::chrono::steady_clock::time_point;
using text_pairs = std::vector<std::pair<std::string, std::string>>;

struct http_request {
    std::string method = {};
    std::string path = {};                   // percent-decoded, without the query; "*" for OPTIONS *
    std::vector<std::string> segments = {};  // of the path, decoded each by itself: "%2F" separates none
    text_pairs query = {};                   // decoded, in their order
    text_pairs headers = {};                 // names in lower case, in their order
    std::string body = {};                   // without chunks
    text_pairs parameters = {};              // the router's: what stands for {name} in its pattern
    time_point deadline = {};                // the client is answered 504 then, if nobody has answered before

    // The first value of that name; "" where there is none. Header names in lower case.
    [[nodiscard]] std::string_view header(std::string_view name) const noexcept;
    [[nodiscard]] std::string_view query_value(std::string_view name) const noexcept;
    [[nodiscard]] std::string_view parameter(std::string_view name) const noexcept;
};

struct http_response {
    unsigned status = 200;
    std::string content_type = "application/json";
    std::string body = {};
    // Without Content-Length, Connection, Date and Transfer-Encoding, which are the connection's.
    text_pairs headers = {};
};

// {"status": "error", "message": ...}
[[nodiscard]] http_response error_response(unsigned status, std::string_view message);

// The answer to one request. May be copied, and called once, from any thread: later calls do nothing, nor does one
// whose client is gone. When the last copy goes without an answer, the client gets 500.
class reply {
public:
    // `send` is called once at most, with the route.
    using sender = std::function<void(http_response, const std::string&)>;
    explicit reply(sender send);

    void operator()(http_response response) const;

    // The client is gone, has closed its side, or has been answered: no work is worth its while.
    [[nodiscard]] bool lost() const noexcept;

    // The pattern that the path matched, for the metrics. Set by the router before the handler is called.
    void set_route(std::string route) const;

    // For work that takes longer than a request may. Before the handler returns, or the answer may be there already.
    void set_deadline(time_point deadline) const noexcept;

private:
    friend class http_connection;
    struct state;
    std::shared_ptr<state> state_;
};

// Called on the thread that serves all connections, so it must not block: it answers at once, or gives both to
// others. What it throws is answered with 500.
using http_handler = std::function<void(http_request&&, reply)>;

struct http_limits {
    std::size_t target_bytes = std::size_t{4} << 10;   // else 414
    std::size_t header_bytes = std::size_t{16} << 10;  // request line and fields; else 431
    std::size_t header_fields = 100;                   // else 431
    std::size_t body_bytes = std::size_t{8} << 20;     // without chunks; else 413
    // Bodies and answers that all connections hold together; what would exceed it is answered with 503.
    std::size_t held_bytes = std::size_t{256} << 20;
    std::size_t connections = 1024;        // one more takes the place of an idle one, or gets 503
    milliseconds header_timeout{10'000};   // from its first byte on; else 408
    milliseconds body_timeout{30'000};     // the whole body; else 408
    milliseconds idle_timeout{75'000};     // between requests; then closed
    milliseconds write_timeout{30'000};    // the whole answer; then closed
    milliseconds request_timeout{60'000};  // until it is answered; else 504
};

// What a request came to, told when its answer is sent or its client is lost.
struct http_outcome {
    std::string_view method = {};  // "" where the request line could not be read
    std::string_view path = {};    // likewise; the client's words
    std::string_view route = {};   // the router's pattern; "" where none was asked
    unsigned status = 0;           // 499: the client went away first
    std::uint64_t received_bytes = 0;
    std::uint64_t sent_bytes = 0;
    double seconds = 0;  // from the whole request to its last byte handed to the system
};

struct http_options {
    std::string address = "127.0.0.1";  // one of this machine's, v4 or v6, or localhost
    std::uint16_t port = 8000;          // 0: any that is free
    // `Authorization: Bearer TOKEN`, asked for everywhere but at open_paths. Needed where address is not loopback.
    std::string token = {};
    std::vector<std::string> open_paths = {"/health", "/healthz"};
    // Beside localhost, 127.0.0.1, [::1] and the address that was connected to: names under which clients know this
    // server, with a port or for any.
    std::vector<std::string> allowed_hosts = {};
    http_limits limits = {};
    // The answer to what never reaches the handler: (path, status, message). Empty: error_response.
    std::function<http_response(std::string_view, unsigned, std::string_view)> refusal = {};
    std::function<void(const http_outcome&)> on_outcome = {};  // on the thread of the connections
};

struct http_status {
    std::size_t connections = 0;
    std::size_t requests = 0;  // being answered
    std::size_t held_bytes = 0;
};

class http_core;

// One thread serves all connections; one that is idle costs a buffer and no thread. Every call is safe from any
// thread, but for the destructor.
class http_server {
public:
    // Errors: invalid_argument for an address that is none, a token that no header can carry, or none where one is needed.
    [[nodiscard]] static bitmill::result<void> check(const http_options& options);
    // Listens. Errors: those of check(); io where the system refuses.
    [[nodiscard]] static bitmill::result<std::unique_ptr<http_server>> start(http_options options,
                                                                             http_handler handler);
    ~http_server();  // ends all connections as they are
    http_server(const http_server&) = delete;
    http_server& operator=(const http_server&) = delete;

    [[nodiscard]] std::uint16_t port() const noexcept;
    [[nodiscard]] http_status status() const noexcept;

    // Accepts nobody any more, ends idle connections, and lets what has begun come to its end. False where
    // `timeout` was too short for that; then the rest is ended by the destructor.
    bool drain(milliseconds timeout);

private:
    explicit http_server(std::shared_ptr<http_core> core);
    std::shared_ptr<http_core> core_;
    std::thread thread_;
};

}  // namespace server
