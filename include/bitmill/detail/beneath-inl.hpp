// Opens a name that came out of a file without ever leaving the model's folder.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill::detail {

// Why a relative name is not one, or nullptr. Purely textual: links are the kernel's part.
inline const char* why_not_relative(std::string_view name) noexcept {
    if (name.empty()) return "the name is empty";
    if (name.find('\0') != std::string_view::npos) return "the name holds a NUL byte";
    if (name.front() == '/') return "the name is an absolute path";
    if (name.size() > 4000) return "the name is longer than 4000 bytes";
    for (std::size_t begin = 0; begin <= name.size();) {
        const std::size_t end = std::min(name.find('/', begin), name.size());
        const std::string_view part = name.substr(begin, end - begin);
        if (part.empty()) return "the name has an empty part";
        if (part == "." || part == "..") return "the name has a '.' or '..' part";
        begin = end + 1;
    }
    return nullptr;
}

// The folder that links may not leave, and where the model lies in it ("" or "a/b/").
struct containment {
    std::string folder;
    std::string prefix;
};

// Normally the model's folder itself. The hub cache keeps models--x--y/snapshots/REV/NAME as a link to
// models--x--y/blobs/HASH, so there it is models--x--y.
inline result<containment> find_containment(const std::string& root) {
    namespace fs = std::filesystem;
    if (root.empty() || root.find('\0') != std::string::npos)
        return make_error(error_code::invalid_argument, "the model's folder has no name", root);
    std::error_code failed;
    const fs::path real = fs::canonical(root, failed);
    if (failed) return os_error(failed.value(), "cannot open the model's folder", root);
    fs::path below;
    fs::path at = real;
    // 4: a variant or a module may lie a little below the revision.
    for (int level = 0; level < 4 && at.has_relative_path(); ++level) {
        below = below.empty() ? at.filename() : at.filename() / below;
        at = at.parent_path();
        if (at.filename() != "snapshots") continue;
        const auto blobs = fs::status(at.parent_path() / "blobs", failed).type();
        if (blobs == fs::file_type::none)
            return os_error(failed.value(), "cannot open the blobs folder", root);
        if (blobs != fs::file_type::directory) continue;
        return containment{at.parent_path().string(), (fs::path("snapshots") / below).string() + "/"};
    }
    return containment{real.string(), ""};
}

// Splits "a/b" so that pop_back() gives the parts from left to right.
inline void push_parts(std::vector<std::string>& parts, std::string_view path) {
    std::vector<std::string> found;
    for (std::size_t begin = 0; begin < path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        if (end > begin) found.emplace_back(path.substr(begin, end - begin));
        begin = end + 1;
    }
    parts.insert(parts.end(), found.rbegin(), found.rend());
}

// What openat2(RESOLVE_BENEATH) does, for kernels (and qemu) without it: no descriptor above `folder_fd` is
// ever opened, and links are read here, never followed by the kernel. Returns a descriptor or -errno.
inline int open_beneath_walking(int folder_fd, const std::string& name, int flags) {
    std::vector<std::string> parts;
    push_parts(parts, name);
    std::vector<unique_fd> entered;  // folders below folder_fd, so ".." in a link is a pop
    int links = 0;
    while (!parts.empty()) {
        const std::string part = std::move(parts.back());
        parts.pop_back();
        if (part == ".") continue;
        if (part == "..") {
            if (entered.empty()) return -EXDEV;
            entered.pop_back();
            continue;
        }
        const int at = entered.empty() ? folder_fd : entered.back().get();
        struct stat facts{};
        if (::fstatat(at, part.c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) return -errno;
        if (S_ISLNK(facts.st_mode)) {
            if (++links > 40) return -ELOOP;
            std::string target(4096, '\0');
            const ssize_t length = ::readlinkat(at, part.c_str(), target.data(), target.size());
            if (length < 0) return -errno;
            if (static_cast<std::size_t>(length) == target.size()) return -ENAMETOOLONG;
            target.resize(static_cast<std::size_t>(length));
            if (!target.empty() && target.front() == '/') return -EXDEV;
            push_parts(parts, target);
            continue;
        }
        if (parts.empty()) {
            const int fd = retrying([&] { return ::openat(at, part.c_str(), flags | O_NOFOLLOW); });
            return fd < 0 ? -errno : fd;
        }
        const int fd = retrying(
            [&] { return ::openat(at, part.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); });
        if (fd < 0) return -errno;
        entered.emplace_back(fd);
    }
    return -EISDIR;
}

inline int open_beneath_kernel(int folder_fd, const std::string& name, int flags) noexcept {
    struct open_how how{};
    how.flags = static_cast<unsigned>(flags);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const long fd =
        retrying([&] { return ::syscall(SYS_openat2, folder_fd, name.c_str(), &how, sizeof how); });
    return fd < 0 ? -errno : static_cast<int>(fd);
}

// Returns an open descriptor of whatever lies at `name`, which why_not_relative() has passed.
inline result<unique_fd> open_beneath_fd(const std::string& root, const std::string& name) {
    const std::string shown = root + "/" + name;
    auto inside = find_containment(root);
    if (!inside) return inside.error();
    const unique_fd folder(
        retrying([&] { return ::open(inside->folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC); }));
    if (!folder) return os_error(errno, "cannot open the model's folder", root);
    // O_NONBLOCK: a FIFO in the folder must not stop us.
    constexpr int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    const std::string full = inside->prefix + name;
    int fd = -EAGAIN;
    // EAGAIN: something was renamed during the look-up.
    for (int attempt = 0; attempt < 8 && fd == -EAGAIN; ++attempt)
        fd = open_beneath_kernel(folder.get(), full, flags);
    // EPERM: old seccomp filters of containers do not know openat2.
    if (fd == -ENOSYS || fd == -EPERM || fd == -EAGAIN) fd = open_beneath_walking(folder.get(), full, flags);
    if (fd >= 0) return unique_fd(fd);
    if (fd == -EXDEV)
        return bad_file(
            "leads outside the model's folder, which a model may not do; put the file itself there", shown);
    if (fd == -ELOOP) return bad_file("is a circle of symbolic links; put the file itself there", shown);
    if (fd == -ENXIO) return bad_file("is not a regular file", shown);
    if (fd == -ENAMETOOLONG) return bad_file("the name is too long for this file system", shown);
    return os_error(-fd, "cannot open", shown);
}

}  // namespace bitmill::detail
