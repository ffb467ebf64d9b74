// The steps that atomic_folder is made of.
#pragma once

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/list_folder-inl.hpp>

namespace bitmill::detail {

inline bool same_inode(const struct stat& a, const struct stat& b) noexcept {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// errno tells why where there is none.
inline unique_fd open_folder(int parent_fd, const char* name) noexcept {
    return unique_fd(
        retrying([&] { return ::openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }));
}

inline bool lock(int fd) noexcept {
    return retrying([&] { return ::flock(fd, LOCK_EX | LOCK_NB); }) == 0;
}

// Does the name still lead to the open folder?
inline bool is_entry(int parent_fd, const std::string& name, int fd) noexcept {
    struct stat by_name{}, by_fd{};
    return ::fstatat(parent_fd, name.c_str(), &by_name, AT_SYMLINK_NOFOLLOW) == 0 &&
           ::fstat(fd, &by_fd) == 0 && same_inode(by_name, by_fd);
}

// Is parent/name the folder `path`, or one that holds it? By inode, so that links, bind mounts and other
// spellings of one path do not hide it.
inline result<bool> is_at_or_above(int parent_fd, const std::string& name, const std::string& path) {
    struct stat wanted{};
    const auto failed = [&] {
        return os_error(errno, "cannot compare the output with the model's folder", path);
    };
    if (::fstatat(parent_fd, name.c_str(), &wanted, 0) != 0) {
        if (errno == ENOENT || errno == ELOOP) return false;
        return failed();
    }
    unique_fd at(retrying([&] { return ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC); }));
    struct stat here{};
    while (at && ::fstat(at.get(), &here) == 0) {
        if (same_inode(here, wanted)) return true;
        unique_fd up(retrying([&] { return ::openat(at.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC); }));
        struct stat above{};
        if (!up || ::fstat(up.get(), &above) != 0) break;
        if (same_inode(above, here)) return false;  // the root
        at = std::move(up);
    }
    return failed();
}

// Empty, or with config.json and *.safetensors in it, or manifest.json and *.gguf.
inline result<bool> looks_replaceable(const std::string& path) {
    auto entries = list_folder(path);
    if (!entries) return entries.error();
    // Many kinds of folder have a config.json; a model has weights beside it.
    const auto holds = [&](std::string_view name) {
        return std::any_of(entries->begin(), entries->end(), [&](const auto& e) { return e.name == name; });
    };
    const auto has_weights = [&](std::string_view ending) {
        return std::any_of(entries->begin(), entries->end(), [&](const auto& e) {
            return e.name.ends_with(ending) && e.type == std::filesystem::file_type::regular;
        });
    };
    return entries->empty() || (holds("config.json") && has_weights(".safetensors")) ||
           (holds("manifest.json") && has_weights(".gguf"));
}

// Lies in a folder that bitmill may delete without asking. A folder of the partial's name without it is the
// user's. It is the first thing made in the folder and the last that is deleted, after a power cut too.
inline constexpr const char* partial_marker = ".bitmill-partial";

// Says which parts of an unfinished folder are done. It never leaves the partial folder.
inline constexpr const char* journal_name = ".bitmill-journal";

inline bool begins_with(int folder_fd, const char* name, const std::string& text) {
    const unique_fd file(
        retrying([&] { return ::openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC); }));
    std::string found(text.size(), '\0');
    return file &&
           retrying([&] { return ::pread(file.get(), found.data(), found.size(), 0); }) ==
               static_cast<ssize_t>(text.size()) &&
           found == text;
}

inline bool make_marker(int folder_fd) noexcept {
    const unique_fd made(retrying([&] {
        return ::openat(folder_fd, partial_marker, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    }));
    return made && fsync_retrying(folder_fd) == 0;
}

inline result<void> sync_path(const std::string& path, int flags) {
    const unique_fd fd(
        retrying([&] { return ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | flags); }));
    if (!fd || fsync_retrying(fd.get()) != 0) return os_error(errno, "cannot bring it to disk", path);
    return {};
}

// Deletes all that an open folder holds but the entry `spared`, which may be null; follows no link. Returns 0, or
// what errno says; takes no memory.
inline int empty_folder(int folder_fd, const char* spared) noexcept {
    // A file system may pass over entries while others are deleted: until a round finds none.
    for (bool found = true; found;) {
        found = false;
        if (::lseek(folder_fd, 0, SEEK_SET) != 0) return errno;
        int failed = 0;
        const int listed = visit_folder(folder_fd, [&](const dirent64& entry) {
            if (spared != nullptr && std::string_view(entry.d_name) == spared) return true;
            found = true;
            if (::unlinkat(folder_fd, entry.d_name, 0) == 0) return true;
            if (errno == EISDIR) {
                const unique_fd inner = open_folder(folder_fd, entry.d_name);
                failed = inner ? empty_folder(inner.get(), nullptr) : errno;
                if (failed == 0 && ::unlinkat(folder_fd, entry.d_name, AT_REMOVEDIR) != 0) failed = errno;
            } else {
                failed = errno;
            }
            return failed == 0;
        });
        if (listed != 0 || failed != 0) return listed != 0 ? listed : failed;
    }
    return 0;
}

// Deletes what lies below `path` but the files of these names, which are relative to it, with '/' between parts.
// `prefix` is that of the entries' names: "" or "folder/".
inline result<void> keep_only(const std::string& path, const std::string& prefix,
                              const std::set<std::string>& names) {
    auto entries = list_folder(path);
    if (!entries) return entries.error();
    for (const folder_entry& entry : *entries) {
        const std::string inner = path + "/" + entry.name, name = prefix + entry.name;
        const bool is_folder = entry.type == std::filesystem::file_type::directory;
        if (is_folder)
            if (auto kept = keep_only(inner, name + "/", names); !kept) return kept;
        if (names.contains(name)) continue;
        const int deleted = ::unlinkat(AT_FDCWD, inner.c_str(), is_folder ? AT_REMOVEDIR : 0);
        if (deleted != 0 && !(is_folder && errno == ENOTEMPTY))
            return os_error(errno, "cannot delete what a killed run left", inner);
    }
    return {};
}

// Does a folder of the partial's name hold what a killed run left? Errors: invalid_argument where it holds what
// is not bitmill's.
inline result<bool> is_stale_partial(const std::string& path) {
    auto entries = list_folder(path);
    if (!entries) return entries.error();
    const bool ours = std::any_of(entries->begin(), entries->end(),
                                  [](const folder_entry& entry) { return entry.name == partial_marker; });
    if (!ours && !entries->empty())
        return make_error(
            error_code::invalid_argument,
            "is needed for unfinished work but holds files that are not bitmill's; move it away", path);
    return !entries->empty();
}

inline result<void> sync_names(int folder_fd, const std::string& path) {
    if (fsync_retrying(folder_fd) != 0) return os_error(errno, "cannot bring its names to disk", path);
    return {};
}

// The marker goes last. Returns 0, or what errno says; takes no memory.
inline int delete_folder(int parent_fd, const char* name, int folder_fd) noexcept {
    if (const int failed = empty_folder(folder_fd, partial_marker); failed != 0) return failed;
    if (fsync_retrying(folder_fd) != 0) return errno;
    if (::unlinkat(folder_fd, partial_marker, 0) != 0 && errno != ENOENT) return errno;
    return ::unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 ? 0 : errno;
}

// Files first, then the folder that names them.
inline result<void> sync_tree(const std::string& path) {
    auto entries = list_folder(path);
    if (!entries) return entries.error();
    for (const folder_entry& entry : *entries) {
        const std::string inner = path + "/" + entry.name;
        result<void> synced;
        if (entry.type == std::filesystem::file_type::directory)
            synced = sync_tree(inner);
        else if (entry.type == std::filesystem::file_type::regular)
            synced = sync_path(inner, 0);
        if (!synced) return synced;
    }
    return sync_path(path, O_DIRECTORY);
}

// renameat2 within one folder. NOREPLACE where the file system has no flags: rename(2), which never replaces a
// folder that holds anything.
inline int rename_with(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) noexcept {
    const long done = ::syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
    if (done == 0) return 0;
    if (flags == RENAME_EXCHANGE || (errno != EINVAL && errno != ENOSYS)) return -1;
    return ::renameat(from_fd, from, to_fd, to);
}

// A kill between the two renames of a file system that cannot exchange leaves OUT under its old name only. A folder
// of that name without the mark is the user's and stays.
inline result<void> recover_old(int parent_fd, const std::string& name, const std::string& out) {
    const std::string old_name = name + ".bitmill-old";
    const auto has_old = is_there(out + ".bitmill-old/" + partial_marker);
    if (!has_old) return has_old.error();
    if (!*has_old) return {};
    const auto has_out = is_there(out);
    if (!has_out) return has_out.error();
    if (*has_out) {
        // The swap itself must be on disk first, or a power cut brings back what is deleted here.
        if (auto synced = sync_names(parent_fd, out); !synced) return synced;
        const unique_fd old = open_folder(parent_fd, old_name.c_str());
        const int failed = old ? delete_folder(parent_fd, old_name.c_str(), old.get()) : errno;
        if (failed != 0) return os_error(failed, "cannot delete", out + ".bitmill-old");
        return {};
    }
    if (rename_with(parent_fd, old_name.c_str(), parent_fd, name.c_str(), RENAME_NOREPLACE) != 0)
        return os_error(errno, "cannot bring the old folder back", out + ".bitmill-old");
    return {};
}

}  // namespace bitmill::detail
