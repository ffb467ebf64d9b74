#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

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

// Sorted by name, so that everything that follows is deterministic.
inline result<std::vector<folder_entry>> list_folder(const std::string& path) {
    namespace fs = std::filesystem;
    std::vector<folder_entry> entries;
    std::error_code failed;
    do {
        entries.clear();
        fs::directory_iterator at(path, failed);
        for (; !failed && at != fs::directory_iterator(); at.increment(failed)) {
            const auto type = at->symlink_status(failed).type();
            if (type == fs::file_type::not_found) continue;  // deleted meanwhile
            if (failed) break;
            entries.push_back({at->path().filename().string(), type});
        }
    } while (failed == std::errc::interrupted);
    if (failed) return os_error(failed.value(), "cannot list the folder", path);
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return entries;
}

}  // namespace bitmill::detail
