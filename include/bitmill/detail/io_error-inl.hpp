// How layer io makes its errors, and the owner of a bare descriptor.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include <unistd.h>

#include <bitmill/core/error.hpp>

namespace bitmill::detail {

inline error make_error(error_code code, std::string message, std::string file, std::string tensor = {},
                        std::uint64_t offset = error::no_offset) {
    error made;
    made.code = code;
    made.message = std::move(message);
    made.file = std::move(file);
    made.tensor = std::move(tensor);
    made.offset = offset;
    return made;
}

inline error bad_file(std::string message, std::string file) {
    return make_error(error_code::bad_input, std::move(message), std::move(file));
}

// errno's own words first, then what to do where one thing is to be done.
inline error os_error(int number, const std::string& action, std::string file) {
    std::string message = action + ": " + std::generic_category().message(number);
    switch (number) {
        case ENOSPC:
        case EDQUOT: message += "; free some space there or write elsewhere"; break;
        case EMFILE: message += "; raise the limit of open files (ulimit -n)"; break;
        case EACCES:
        case EPERM: message += "; check the permissions"; break;
        case ENOENT: message += "; check the path"; break;
        case EFBIG: message += "; raise the limit of file sizes (ulimit -f)"; break;
        default: break;
    }
    return make_error(number == ENOMEM ? error_code::out_of_memory : error_code::io, std::move(message),
                      std::move(file));
}

class unique_fd {
public:
    unique_fd() = default;
    explicit unique_fd(int fd) noexcept : fd_(fd) {}
    unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    ~unique_fd() { reset(); }

    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    void reset() noexcept {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }

private:
    int fd_ = -1;
};

// Asks again where a signal came between. Not for close(): Linux has released the descriptor even then.
template <class Call>
auto retrying(const Call& call) noexcept {
    auto status = call();
    while (status < 0 && errno == EINTR) status = call();
    return status;
}

inline int fsync_retrying(int fd) noexcept {
    return retrying([&] { return ::fsync(fd); });
}

}  // namespace bitmill::detail
