// What the targets share: an assertion, and files that are rewritten for every input.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <source_location>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include <bitmill/core/error.hpp>

#include <temp_folder.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed);

namespace fuzz {

// Ends the program, which libFuzzer and ctest take for a crash.
inline void require(bool holds, std::string_view what,
                    const std::source_location& where = std::source_location::current()) {
    if (holds) return;
    std::fprintf(stderr, "%s:%u: does not hold: %.*s\n", where.file_name(),
                 static_cast<unsigned>(where.line()), static_cast<int>(what.size()), what.data());
    std::abort();
}

// A refusal of a file is one short printable line that names the file.
inline void check_error(const bitmill::error& error) {
    const std::string text = error.text();
    require(error.code != bitmill::error_code::ok && !error.message.empty(), "an error has a reason");
    require(!error.file.empty(), "an error names its file: " + error.message);
    require(text.size() < 10'000, "an error is short");
    for (const char c : text) require(static_cast<unsigned char>(c) >= ' ', "an error is one line");
}

// Overwrites a file in place: several times quicker than making it anew.
inline void rewrite(const std::string& path, std::string_view bytes) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) throw std::system_error(errno, std::generic_category(), path);
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    ::close(fd);
    if (done != static_cast<ssize_t>(bytes.size()))
        throw std::system_error(EIO, std::generic_category(), path);
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

}  // namespace fuzz
