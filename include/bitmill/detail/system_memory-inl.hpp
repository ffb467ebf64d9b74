// Bodies of model/system_memory.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <bitmill/core/config.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/model/system_memory.hpp>

namespace bitmill {
namespace detail {

// Of a file that the kernel makes as it is read; nullopt where it is not there.
inline std::optional<std::string> read_kernel_file(const std::string& path) {
    const unique_fd file(retrying([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (!file) return std::nullopt;
    std::string text;
    std::array<char, 4096> block;
    while (text.size() < (std::size_t{1} << 20)) {
        const ssize_t got = retrying([&] { return ::read(file.get(), block.data(), block.size()); });
        if (got < 0) return std::nullopt;
        if (got == 0) break;
        text.append(block.data(), static_cast<std::size_t>(got));
    }
    return text;
}

// The number behind `key` at the beginning of a line; "" for the first number of the text.
inline std::optional<std::uint64_t> number_behind(std::string_view text, std::string_view key) {
    while (!text.empty()) {
        std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        if (!line.starts_with(key)) continue;
        line.remove_prefix(key.size());
        line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
        std::uint64_t value = 0;
        if (std::from_chars(line.data(), line.data() + line.size(), value).ec == std::errc()) return value;
        return std::nullopt;
    }
    return std::nullopt;
}

// kB, as the kernel has it, of 1024 bytes.
inline std::optional<std::uint64_t> kilobytes(std::string_view text, std::string_view key) {
    const auto value = number_behind(text, key);
    if (!value || *value > (std::uint64_t{1} << 53)) return std::nullopt;
    return *value * 1024;
}

// Lowers what there is to what the group `path` may have.
inline void apply_control_group(const std::string& folder, const std::string& path, system_memory& memory) {
    const auto most = read_kernel_file(folder + path + "/memory.max");
    const auto limit = most ? number_behind(*most, "") : std::nullopt;  // "max": none
    const auto now = read_kernel_file(folder + path + "/memory.current");
    const auto current = now ? number_behind(*now, "") : std::nullopt;
    if (!limit || !current) return;
    const auto stat = read_kernel_file(folder + path + "/memory.stat");
    // Pages of files that were not used lately go before anything else.
    const std::uint64_t files = stat ? number_behind(*stat, "inactive_file ").value_or(0) : 0;
    const std::uint64_t used = *current - std::min(files, *current);
    if (*limit < memory.total_bytes) {
        memory.total_bytes = *limit;
        memory.limit = path.empty() ? "/" : path;
    }
    memory.available_bytes =
        std::min({memory.available_bytes, *limit - std::min(used, *limit), memory.total_bytes});
}

}  // namespace detail

BITMILL_INLINE result<system_memory> read_system_memory(const std::string& root) {
    const std::string file = root + "/proc/meminfo";
    return detail::guard(file, [&]() -> result<system_memory> {
        const auto machine = detail::read_kernel_file(file);
        if (!machine) return detail::make_error(error_code::io, "cannot be read; is /proc mounted?", file);
        const auto total = detail::kilobytes(*machine, "MemTotal:");
        const auto available = detail::kilobytes(*machine, "MemAvailable:");
        if (!total || !available || *available > *total)
            return detail::bad_file("says no MemTotal and MemAvailable in kB", file);
        system_memory out{.total_bytes = *total, .available_bytes = *available};
        if (const auto pages = detail::read_kernel_file(root + "/proc/self/statm"))
            if (const auto resident =
                    detail::number_behind(pages->substr(std::min(pages->find(' '), pages->size())), ""))
                out.process_bytes = *resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        const auto group = detail::read_kernel_file(root + "/proc/self/cgroup");
        const std::size_t at =
            group ? (group->starts_with("0::/") ? 0 : group->find("\n0::/")) : std::string::npos;
        if (at == std::string::npos) return out;
        std::string path = group->substr(group->find("0::/", at) + 3);
        path.resize(std::min(path.find('\n'), path.size()));
        // In a container the path may be that of the host; what is mounted is then the group itself.
        while (!path.empty() && path.back() == '/') path.pop_back();
        for (;; path.resize(path.rfind('/'))) {
            detail::apply_control_group(root + "/sys/fs/cgroup", path, out);
            if (path.empty()) return out;
        }
    });
}

}  // namespace bitmill
