#pragma once

#include <bitmill/io/file.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/beneath-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill {

namespace detail {

inline const char* file_kind(mode_t mode) noexcept {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    if (S_ISSOCK(mode)) return "a socket";
    return "something else";
}

}  // namespace detail

BITMILL_INLINE input_file::input_file(int fd, std::string path, std::uint64_t size) noexcept
    : fd_(fd), path_(std::move(path)), size_(size) {}

BITMILL_INLINE input_file::input_file(input_file&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), size_(std::exchange(other.size_, 0)) {
}

BITMILL_INLINE input_file& input_file::operator=(input_file&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = std::exchange(other.fd_, -1);
        path_ = std::move(other.path_);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

BITMILL_INLINE input_file::~input_file() {
    if (fd_ >= 0) ::close(fd_);
}

BITMILL_INLINE result<input_file> input_file::adopt(int fd, std::string path) {
    detail::unique_fd owned(fd);
    struct stat facts{};
    if (::fstat(owned.get(), &facts) != 0)
        return detail::os_error(errno, "cannot read its size", std::move(path));
    if (!S_ISREG(facts.st_mode))
        return detail::bad_file(
            std::string("is ") + detail::file_kind(facts.st_mode) + ", not a regular file; put a file there",
            std::move(path));
    const auto size = static_cast<std::uint64_t>(facts.st_size);
    return input_file(owned.release(), std::move(path), size);
}

BITMILL_INLINE result<input_file> input_file::open_beneath(const std::string& root, const std::string& name) {
    if (const char* why = detail::why_not_relative(name))
        return detail::bad_file("'" + name.substr(0, 200) + "' cannot name a file of the model: " + why,
                                root);
    auto fd = detail::open_beneath_fd(root, name);
    if (!fd) return fd.error();
    // Before the descriptor is let go: a copy that finds no memory would lose it.
    std::string path = root.back() == '/' ? root + name : root + "/" + name;
    return adopt(fd->release(), std::move(path));
}

BITMILL_INLINE result<input_file> input_file::open(const std::string& path) {
    if (path.empty() || path.find('\0') != std::string::npos)
        return detail::make_error(error_code::invalid_argument, "a file's path must be given", path);
    std::string own_path = path;
    const int fd =
        detail::retrying([&] { return ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY); });
    if (fd < 0) return detail::os_error(errno, "cannot open", path);
    return adopt(fd, std::move(own_path));
}

BITMILL_INLINE result<void> input_file::read_at(std::uint64_t offset, std::span<std::byte> dst) const {
    const maybe_u64 end = checked_add(offset, dst.size());
    if (!end || *end > size_)
        return detail::make_error(error_code::bad_input,
                                  "the file ends at byte " + std::to_string(size_) + ", before the " +
                                      std::to_string(dst.size()) + " bytes asked for; fetch it again",
                                  path_, {}, offset);
    while (!dst.empty()) {
        const ssize_t got = detail::retrying(
            [&] { return ::pread(fd_, dst.data(), dst.size(), static_cast<off_t>(offset)); });
        if (got < 0) {
            error failed = detail::os_error(errno, "cannot read", path_);
            failed.offset = offset;
            return failed;
        }
        if (got == 0)
            return detail::make_error(error_code::bad_input,
                                      "the file was truncated while it was read; do not change it meanwhile",
                                      path_, {}, offset);
        dst = dst.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return {};
}

BITMILL_INLINE result<file_stamp> input_file::stamp() const {
    struct stat facts{};
    if (::fstat(fd_, &facts) != 0) return detail::os_error(errno, "cannot look at it", path_);
    const auto nanoseconds = [](const timespec& time) {
        return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    };
    return file_stamp{facts.st_ino, static_cast<std::uint64_t>(facts.st_size), nanoseconds(facts.st_mtim),
                      nanoseconds(facts.st_ctim)};
}

BITMILL_INLINE output_file::output_file(int fd, std::string path) noexcept
    : fd_(fd), path_(std::move(path)) {}

BITMILL_INLINE output_file::output_file(output_file&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

BITMILL_INLINE output_file& output_file::operator=(output_file&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = std::exchange(other.fd_, -1);
        path_ = std::move(other.path_);
    }
    return *this;
}

BITMILL_INLINE output_file::~output_file() {
    if (fd_ >= 0) ::close(fd_);
}

BITMILL_INLINE result<output_file> output_file::open(const std::string& path, int flags, const char* action) {
    if (path.empty() || path.find('\0') != std::string::npos)
        return detail::make_error(error_code::invalid_argument, "a file's path must be given", path);
    std::string own_path = path;
    const int fd = detail::retrying(
        [&] { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666); });
    if (fd < 0) return detail::os_error(errno, action, path);
    return output_file(fd, std::move(own_path));
}

BITMILL_INLINE result<output_file> output_file::create(const std::string& path) {
    return open(path, O_CREAT | O_EXCL, "cannot create");
}

BITMILL_INLINE result<output_file> output_file::reopen(const std::string& path) {
    return open(path, 0, "cannot open");
}

BITMILL_INLINE result<void> output_file::write_at(std::uint64_t offset, std::span<const std::byte> src) {
    constexpr std::size_t large = std::size_t{64} << 10;
    const std::uint64_t first = offset;
    const std::size_t count = src.size();
    const maybe_u64 end = checked_add(offset, src.size());
    if (!end || *end > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
        return detail::make_error(error_code::invalid_argument, "no file can be that long", path_, {},
                                  offset);
    while (!src.empty()) {
        const ssize_t done = detail::retrying(
            [&] { return ::pwrite(fd_, src.data(), src.size(), static_cast<off_t>(offset)); });
        if (done <= 0) {
            error failed = detail::os_error(done < 0 ? errno : EIO, "cannot write", path_);
            failed.offset = offset;
            return failed;
        }
        src = src.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    // The disk begins while the next tile is coded; finish() waits for less. Where it cannot, nothing is lost.
    if (count >= large)
        ::sync_file_range(fd_, static_cast<off_t>(first), static_cast<off_t>(count), SYNC_FILE_RANGE_WRITE);
    return {};
}

BITMILL_INLINE result<void> output_file::resize(std::uint64_t bytes) {
    const auto length = checked_cast<off_t>(bytes);
    errno = EFBIG;
    if (!length || detail::retrying([&] { return ::ftruncate(fd_, *length); }) != 0)
        return detail::os_error(errno, "cannot make it " + std::to_string(bytes) + " bytes long", path_);
    return {};
}

BITMILL_INLINE result<void> output_file::reserve(std::uint64_t bytes) {
    const auto length = checked_cast<off_t>(bytes);
    if (length && *length != 0 && detail::retrying([&] { return ::fallocate(fd_, 0, 0, *length); }) != 0) {
        // Every other refusal (EOPNOTSUPP and its kin) only says that this file system cannot reserve.
        if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == EIO)
            return detail::os_error(errno, "no room for its " + std::to_string(bytes) + " bytes", path_);
    }
    return resize(bytes);
}

BITMILL_INLINE result<void> output_file::sync() {
    if (detail::retrying([&] { return ::fdatasync(fd_); }) != 0)
        return detail::os_error(errno, "cannot bring it to disk", path_);
    return {};
}

BITMILL_INLINE result<void> output_file::finish() {
    if (fd_ < 0)
        return detail::make_error(error_code::invalid_argument, "the file is already closed; write it anew",
                                  path_);
    const int fd = std::exchange(fd_, -1);
    const int synced = detail::fsync_retrying(fd);
    const int sync_error = errno;
    const int closed = ::close(fd);
    if (synced != 0) return detail::os_error(sync_error, "cannot bring it to disk", path_);
    if (closed != 0 && errno != EINTR) return detail::os_error(errno, "cannot close it", path_);
    return {};
}

BITMILL_INLINE result<std::string> read_text(const input_file& file, std::uint64_t limit_bytes) {
    if (file.size() > limit_bytes)
        return detail::bad_file("has " + std::to_string(file.size()) + " bytes, but at most " +
                                    std::to_string(limit_bytes) + " are allowed here",
                                file.path());
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    if (auto read = file.read_at(0, std::as_writable_bytes(std::span(text))); !read) return read.error();
    return text;
}

BITMILL_INLINE result<void> write_file(const std::string& path, std::string_view bytes) {
    auto file = output_file::create(path);
    if (!file) return file.error();
    if (auto written = file->write_at(0, std::as_bytes(std::span(bytes))); !written) return written.error();
    return file->finish();
}

BITMILL_INLINE result<void> replace_file(const std::string& path, std::string_view bytes) {
    const std::filesystem::path whole(path);
    const std::string folder = whole.has_parent_path() ? whole.parent_path().string() : ".";
    // Hidden, so that it never counts as a file of the model; one a call, so that none writes into another's.
    static std::atomic<unsigned> calls{0};
    const std::string partial = folder + "/." + whole.filename().string() + "." + std::to_string(::getpid()) +
                                "-" + std::to_string(calls++) + ".bitmill-partial";
    ::unlink(partial.c_str());  // of a killed process that had our number
    auto written = write_file(partial, bytes);
    if (written && ::rename(partial.c_str(), path.c_str()) != 0)
        written = detail::os_error(errno, "cannot replace the file", path);
    if (!written) {
        ::unlink(partial.c_str());
        return written;
    }
    const detail::unique_fd parent(
        detail::retrying([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    if (!parent || detail::fsync_retrying(parent.get()) != 0)
        return detail::os_error(errno, "cannot bring its name to disk", path);
    return {};
}

}  // namespace bitmill
