// A client that sends exactly the bytes it is given, right or wrong.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace bitmill_test {

struct http_answer {
    int status = 0;         // 0: the connection ended before one came
    std::string head = {};  // status line and fields
    std::string body = {};

    // Of the first field of that name, written as the server does.
    [[nodiscard]] std::string field(const std::string& name) const {
        const auto at = head.find("\r\n" + name + ": ");
        if (at == std::string::npos) return {};
        const auto begin = at + name.size() + 4;
        return head.substr(begin, head.find("\r\n", begin) - begin);
    }
};

class http_client {
public:
    // receive_buffer: bytes that the system takes for a client that does not read; 0: as many as it likes.
    explicit http_client(std::uint16_t port, int receive_buffer = 0) {
        fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "socket");
        if (receive_buffer != 0)
            ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
        // A server that never answers must fail the test, not hang it.
        const timeval patience{60, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(port);
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
            const int reason = errno;
            ::close(fd_);
            throw std::system_error(reason, std::generic_category(), "connect");
        }
    }
    http_client(http_client&& other) noexcept
        : fd_(std::exchange(other.fd_, -1)), rest_(std::move(other.rest_)) {}
    http_client(const http_client&) = delete;
    http_client& operator=(const http_client&) = delete;
    ~http_client() { close(); }

    void close() {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }
    // With a reset instead of an orderly end.
    void abort() {
        const linger at_once{1, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        close();
    }
    void end_sending() const { ::shutdown(fd_, SHUT_WR); }

    // False where the server has ended the connection.
    bool send(std::string_view bytes) const {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }

    // `without_body`: the answer to HEAD. The interim 100 is an answer, too.
    http_answer receive(bool without_body = false) {
        http_answer out;
        std::size_t end = 0;
        while ((end = rest_.find("\r\n\r\n")) == std::string::npos)
            if (!more()) return out;
        out.head = rest_.substr(0, end + 2);
        rest_.erase(0, end + 4);
        out.status = std::atoi(out.head.substr(9, 3).c_str());
        const std::string length = out.field("Content-Length");
        if (without_body || length.empty()) return out;
        const std::size_t size = std::stoul(length);
        while (rest_.size() < size)
            if (!more()) throw std::runtime_error("an answer ends before its end");
        out.body = rest_.substr(0, size);
        rest_.erase(0, size);
        return out;
    }
    http_answer ask(std::string_view request, bool without_body = false) {
        send(request);
        return receive(without_body);
    }
    // Waits for the end of the connection. False where something else comes, or nothing for a minute.
    bool ended() {
        if (!rest_.empty()) return false;
        char byte = 0;
        const ssize_t count = ::recv(fd_, &byte, 1, 0);
        return count == 0 || (count < 0 && errno == ECONNRESET);
    }

private:
    bool more() {
        char bytes[65536];
        const ssize_t count = ::recv(fd_, bytes, sizeof bytes, 0);
        if (count <= 0) return false;
        rest_.append(bytes, static_cast<std::size_t>(count));
        return true;
    }

    int fd_ = -1;
    std::string rest_;
};

// "METHOD PATH HTTP/1.1" with a Host, further fields ("Name: value\r\n"), and a body with its length.
inline std::string http_text(const std::string& method, const std::string& target,
                             const std::string& fields = {}, const std::string& body = {}) {
    std::string out = method + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + fields;
    if (!body.empty()) out += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    return out + "\r\n" + body;
}

}  // namespace bitmill_test
