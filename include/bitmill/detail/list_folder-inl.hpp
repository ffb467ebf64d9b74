#pragma once

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill::detail {

struct folder_entry {
    std::string name;
    std::filesystem::file_type type;  // of the entry itself: a link is a link
};

// Is something there, be it a link that leads nowhere? Not to know is an error: a file overlooked would be left
// out of the copy without a word.
inline result<bool> is_there(const std::string& path) {
    std::error_code failed;
    const auto type = std::filesystem::symlink_status(path, failed).type();
    if (type == std::filesystem::file_type::none) return os_error(failed.value(), "cannot look at it", path);
    return type != std::filesystem::file_type::not_found;
}

// Calls visit(dirent64) for every entry of an open folder until it says false; returns 0, or what errno says. Takes
// no memory, so that unfinished work can be deleted where there is none. (readdir allocates, and libstdc++'s
// directory_iterator ends the program where it cannot.)
template <class Visit>
int visit_folder(int folder_fd, const Visit& visit) {
    alignas(dirent64) char entries[4096];
    for (;;) {
        const ssize_t got = retrying([&] { return ::getdents64(folder_fd, entries, sizeof entries); });
        if (got <= 0) return got == 0 ? 0 : errno;
        for (ssize_t at = 0; at < got;) {
            const auto& entry = *reinterpret_cast<const dirent64*>(entries + at);
            at += entry.d_reclen;
            const std::string_view name = entry.d_name;
            if (name != "." && name != ".." && !visit(entry)) return 0;
        }
    }
}

// Of the entry itself; not_found where it was deleted meanwhile, none where errno tells why it is not known.
inline std::filesystem::file_type type_of_entry(int folder_fd, const dirent64& entry) noexcept {
    using std::filesystem::file_type;
    struct stat facts{};
    facts.st_mode = static_cast<mode_t>(DTTOIF(entry.d_type));  // a file system may leave the type to stat()
    if (entry.d_type == DT_UNKNOWN && ::fstatat(folder_fd, entry.d_name, &facts, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? file_type::not_found : file_type::none;
    if (S_ISREG(facts.st_mode)) return file_type::regular;
    if (S_ISDIR(facts.st_mode)) return file_type::directory;
    if (S_ISLNK(facts.st_mode)) return file_type::symlink;
    return file_type::unknown;
}

// Sorted by name, so that everything that follows is deterministic.
inline result<std::vector<folder_entry>> list_folder(const std::string& path) {
    using std::filesystem::file_type;
    std::vector<folder_entry> entries;
    const unique_fd folder(
        retrying([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    int failed = folder ? 0 : errno;
    if (folder) {
        int unknown = 0;
        failed = visit_folder(folder.get(), [&](const dirent64& entry) {
            const file_type type = type_of_entry(folder.get(), entry);
            if (type == file_type::none) unknown = errno;
            if (type != file_type::not_found) entries.push_back({entry.d_name, type});
            return unknown == 0;
        });
        if (failed == 0) failed = unknown;
    }
    if (failed != 0) return os_error(failed, "cannot list the folder", path);
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return entries;
}

}  // namespace bitmill::detail
