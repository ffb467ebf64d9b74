// Bytes in, one request out: Beast's parser, and the rules and limits that it leaves to others. Knows no socket, so
// that tests and the fuzzer feed it directly.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "http_rules.hpp"

namespace server {

// Bytes that all connections may hold together. Taken and given back by one thread; any may read held().
class byte_budget {
public:
    explicit byte_budget(std::size_t most) noexcept : most_(most) {}
    [[nodiscard]] bool take(std::size_t bytes) noexcept {
        if (bytes > most_ - held()) return false;
        held_.fetch_add(bytes, std::memory_order_relaxed);
        return true;
    }
    void give_back(std::size_t bytes) noexcept { held_.fetch_sub(bytes, std::memory_order_relaxed); }
    [[nodiscard]] std::size_t held() const noexcept { return held_.load(std::memory_order_relaxed); }

private:
    std::size_t most_;
    std::atomic<std::size_t> held_{0};
};

// What a reader holds to; outlives it.
struct reader_rules {
    const http_limits& limits;
    const http_gate& gate;
    const std::string& local_address;
    byte_budget& budget;
};

class request_reader {
public:
    explicit request_reader(const reader_rules& rules);
    ~request_reader();  // gives the budget back
    request_reader(const request_reader&) = delete;
    request_reader& operator=(const request_reader&) = delete;

    // Takes bytes and says how many; what is left must come again, with more behind it. After done() or refused()
    // it takes none.
    std::size_t put(std::string_view bytes);
    // For the next request.
    void reset();

    [[nodiscard]] bool begun() const noexcept;        // a byte of the request line has come
    [[nodiscard]] bool header_done() const noexcept;  // and was found right
    [[nodiscard]] bool done() const noexcept;
    [[nodiscard]] const std::optional<refusal>& refused() const noexcept;
    [[nodiscard]] bool wants_continue() const noexcept;  // Expect: 100-continue; of use while the body is out
    [[nodiscard]] bool keep_alive() const noexcept;      // the client wishes it
    [[nodiscard]] unsigned version() const noexcept;     // 10, 11
    [[nodiscard]] std::uint64_t received_bytes() const noexcept;
    // What has come of it: method and path also of a request that was refused. To be moved from once it is done.
    [[nodiscard]] http_request& request() noexcept;

private:
    class parser;
    reader_rules rules_;
    std::unique_ptr<parser> parser_;
    std::optional<refusal> refused_;
    std::uint64_t received_ = 0;
    bool in_last_chunk_ = false;
};

}  // namespace server
