// Files read and written by position. Reading goes through pread, never mmap: a file that shrinks while it
// is read gives an error instead of SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <bitmill/core/error.hpp>

namespace bitmill {

// Tells one state of a file from another without reading it.
struct file_stamp {
    std::uint64_t inode = 0;
    std::uint64_t bytes = 0;
    std::int64_t modified_ns = 0;
    std::int64_t changed_ns = 0;  // of the inode; no program can set it back
};

// A regular file open for reading; owns its descriptor. Move-only. const calls are safe from many threads.
class input_file {
public:
    // Opens `name`, a relative path with '/' between its parts, beneath the folder `root`. Names come from
    // files (a shard in an index), so nothing that leaves the folder is opened: no "..", no absolute path,
    // no empty part, no NUL, no symbolic link that leads outside. In a Hugging Face hub cache
    // (models--x--y/snapshots/REV) links may lead to the blobs folder beside snapshots. Hard links are
    // files like any other. Anything but a regular file is bad_input.
    [[nodiscard]] static result<input_file> open_beneath(const std::string& root, const std::string& name);

    // Opens a path that the user himself chose: symbolic links are followed.
    [[nodiscard]] static result<input_file> open(const std::string& path);

    input_file(input_file&& other) noexcept;
    input_file& operator=(input_file&& other) noexcept;
    input_file(const input_file&) = delete;
    input_file& operator=(const input_file&) = delete;
    ~input_file();

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    // Bytes, as they were when the file was opened.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] result<file_stamp> stamp() const;  // as of now
    // Fills dst from byte `offset` on. bad_input where that is past the end, or the file became shorter.
    [[nodiscard]] result<void> read_at(std::uint64_t offset, std::span<std::byte> dst) const;

private:
    input_file(int fd, std::string path, std::uint64_t size) noexcept;
    static result<input_file> adopt(int fd, std::string path);

    int fd_ = -1;
    std::string path_;
    std::uint64_t size_ = 0;
};

// A new file open for writing; owns its descriptor. Move-only. write_at is safe from many threads.
class output_file {
public:
    // The path must not exist yet (io if it does); mode 0666 less the umask.
    [[nodiscard]] static result<output_file> create(const std::string& path);
    // Opens one that is there, to write it further.
    [[nodiscard]] static result<output_file> reopen(const std::string& path);

    output_file(output_file&& other) noexcept;
    output_file& operator=(output_file&& other) noexcept;
    output_file(const output_file&) = delete;
    output_file& operator=(const output_file&) = delete;
    ~output_file();  // closes without fsync and leaves the file: whoever chose the folder cleans it

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] result<void> write_at(std::uint64_t offset, std::span<const std::byte> src);
    [[nodiscard]] result<void> resize(std::uint64_t bytes);
    // Asks the file system for the room now, so that a full disk shows before the work and not after it.
    // Where the file system cannot reserve this is resize().
    [[nodiscard]] result<void> reserve(std::uint64_t bytes);
    // What was written before this call is on disk after it. Safe beside write_at.
    [[nodiscard]] result<void> sync();
    // fsync and close. After an error the file's content is unknown and the object is dead: write anew.
    [[nodiscard]] result<void> finish();

private:
    output_file(int fd, std::string path) noexcept;
    static result<output_file> open(const std::string& path, int flags, const char* action);

    int fd_ = -1;
    std::string path_;
};

// The whole file as text; bad_input where it is longer than limit_bytes.
[[nodiscard]] result<std::string> read_text(const input_file& file, std::uint64_t limit_bytes);

// Creates a file that must not exist yet, writes it and fsyncs it.
[[nodiscard]] result<void> write_file(const std::string& path, std::string_view bytes);

// Makes or replaces a file: whatever happens, a reader finds the old bytes or the new ones.
[[nodiscard]] result<void> replace_file(const std::string& path, std::string_view bytes);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/file-inl.hpp>
#endif
