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

// Sorted by name, so that everything that follows is deterministic.
inline result<std::vector<folder_entry>> list_folder(const std::string& path) {
    namespace fs = std::filesystem;
    std::vector<folder_entry> entries;
    std::error_code failed;
    fs::directory_iterator at(path, failed);
    for (; !failed && at != fs::directory_iterator(); at.increment(failed)) {
        std::error_code unknown;
        const auto type = at->symlink_status(unknown).type();
        entries.push_back({at->path().filename().string(), unknown ? fs::file_type::unknown : type});
    }
    if (failed) return os_error(failed.value(), "cannot list the folder", path);
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return entries;
}

}  // namespace bitmill::detail
