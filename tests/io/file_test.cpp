#include <bitmill/io/file.hpp>

#include <array>
#include <cstdint>
#include <filesystem>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::input_file;
using bitmill::output_file;

TEST_CASE("input_file: reads by position and refuses what is past the end") {
    const temp_folder temp;
    put_file(temp / "f", "0123456789");
    auto file = input_file::open(temp / "f");
    REQUIRE(file);
    CHECK(file->size() == 10);
    CHECK(file->path() == temp / "f");
    std::vector<std::byte> four(4);
    REQUIRE(file->read_at(6, four));
    CHECK(text_of(four) == "6789");
    CHECK(file->read_at(10, {}));
    const std::uint64_t top = ~std::uint64_t{0};
    for (const std::uint64_t offset :
         {std::uint64_t{7}, std::uint64_t{10}, std::uint64_t{11}, top, top - 3}) {
        const auto read = file->read_at(offset, four);
        REQUIRE_FALSE(read);
        CHECK(read.error().code == error_code::bad_input);
        CHECK(read.error().offset == offset);
        CHECK(read.error().file == temp / "f");
    }
}

TEST_CASE("input_file: a file that shrinks while it is read is an error, not a signal") {
    const temp_folder temp;
    put_file(temp / "f", std::string(8192, 'x'));
    auto file = input_file::open(temp / "f");
    REQUIRE(file);
    std::filesystem::resize_file(temp / "f", 100);
    std::vector<std::byte> all(8192);
    const auto read = file->read_at(0, all);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == error_code::bad_input);
    CHECK(read.error().message.find("truncated") != std::string::npos);
    CHECK(read.error().offset == 100);
}

TEST_CASE("input_file: open says what is wrong with the path") {
    const temp_folder temp;
    CHECK(input_file::open("").error().code == error_code::invalid_argument);
    CHECK(input_file::open(std::string("a\0b", 3)).error().code == error_code::invalid_argument);
    CHECK(input_file::open(temp / "none").error().code == error_code::io);
    CHECK(input_file::open(temp / "none").error().file == temp / "none");
    CHECK(input_file::open(temp.path()).error().code == error_code::bad_input);
    REQUIRE(::mkfifo((temp / "fifo").c_str(), 0600) == 0);
    CHECK(input_file::open(temp / "fifo").error().message.find("FIFO") != std::string::npos);
    put_file(temp / "real", "abc");
    std::filesystem::create_symlink("real", temp / "link");
    CHECK(input_file::open(temp / "link")->size() == 3);
}

TEST_CASE("input_file: many threads read at once, moves keep the descriptor") {
    const temp_folder temp;
    std::string content;
    for (int i = 0; i < 100'000; ++i) content.push_back(static_cast<char>(i * 7 + i / 256));
    put_file(temp / "f", content);
    input_file first = input_file::open(temp / "f").value();
    const input_file file = std::move(first);
    std::vector<std::thread> threads;
    std::vector<int> wrong(4);
    for (std::size_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (std::size_t at = t; at + 64 < content.size(); at += 997) {
                std::vector<std::byte> part(64);
                if (!file.read_at(at, part) || text_of(part) != content.substr(at, 64)) ++wrong[t];
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4));
    std::byte one{};
    CHECK_FALSE(first.read_at(0, {&one, 1}));  // NOLINT: a moved-from file is empty
}

TEST_CASE("output_file: never replaces, writes anywhere, honours the umask") {
    const temp_folder temp;
    const mode_t before = ::umask(027);
    auto made = output_file::create(temp / "f");
    ::umask(before);
    REQUIRE(made);
    CHECK(output_file::create(temp / "f").error().code == error_code::io);
    std::filesystem::create_symlink("nowhere", temp / "link");
    CHECK(output_file::create(temp / "link").error().code == error_code::io);
    CHECK_FALSE(std::filesystem::exists(temp / "nowhere"));
    REQUIRE(made->reserve(8));
    CHECK(std::filesystem::file_size(temp / "f") == 8);
    REQUIRE(made->write_at(4, bytes_of("4567")));
    REQUIRE(made->write_at(0, bytes_of("0123")));
    REQUIRE(made->resize(6));
    REQUIRE(made->finish());
    CHECK(made->finish().error().code == error_code::invalid_argument);
    CHECK_FALSE(made->write_at(0, bytes_of("x")));
    CHECK(get_file(temp / "f") == "012345");
    struct stat facts{};
    REQUIRE(::stat((temp / "f").c_str(), &facts) == 0);
    CHECK((facts.st_mode & 0777) == 0640);
}

TEST_CASE("output_file: one that is there is gone on with") {
    const temp_folder temp;
    CHECK(output_file::reopen(temp / "f").error().code == error_code::io);
    CHECK_FALSE(std::filesystem::exists(temp / "f"));
    put_file(temp / "f", "0123");
    auto file = output_file::reopen(temp / "f");
    REQUIRE(file);
    REQUIRE(file->write_at(2, bytes_of("xyz")));
    REQUIRE(file->sync());
    CHECK(get_file(temp / "f") == "01xyz");
    REQUIRE(file->finish());
    CHECK_FALSE(file->sync());
    std::filesystem::create_symlink("f", temp / "link");
    CHECK(output_file::reopen(temp / "link").error().code == error_code::io);
}

TEST_CASE("input_file: the stamp tells what was done to a file") {
    const temp_folder temp;
    put_file(temp / "f", "0123");
    const auto stamp = [&] {
        const auto now = input_file::open(temp / "f").value().stamp().value();
        return std::array{static_cast<std::int64_t>(now.inode), static_cast<std::int64_t>(now.bytes),
                          now.modified_ns, now.changed_ns};
    };
    const auto first = stamp();
    CHECK(first == stamp());
    CHECK(first[1] == 4);
    const timespec times[] = {{}, {first[2] / 1'000'000'000, first[2] % 1'000'000'000}};
    // File systems take the time from a clock that moves every few milliseconds.
    const auto until_it_moved = [&](const auto& change) {
        auto now = first;
        while (now[3] == first[3]) {
            change();
            now = stamp();
        }
        return now;
    };
    const auto rewritten = until_it_moved([&] { put_file(temp / "f", "3210"); });
    CHECK(rewritten[1] == 4);
    CHECK(rewritten[2] != first[2]);
    // Who sets the time of writing back still cannot set that of the change.
    const auto hidden =
        until_it_moved([&] { REQUIRE(::utimensat(AT_FDCWD, (temp / "f").c_str(), times, 0) == 0); });
    CHECK(hidden[2] == first[2]);
}

TEST_CASE("output_file: a refusing disk gives an io error") {
    auto full = output_file::create("/dev/full");
    CHECK(full.error().code == error_code::io);  // exists: never opened
    const temp_folder temp;
    auto file = output_file::create(temp / "f");
    REQUIRE(file);
    CHECK(file->resize(~std::uint64_t{0}).error().code == error_code::io);
    CHECK(file->write_at(~std::uint64_t{0} - 1, bytes_of("abc")).error().code ==
          error_code::invalid_argument);
    CHECK(output_file::create(temp / "none/f").error().code == error_code::io);
}

TEST_CASE("read_text and write_file") {
    const temp_folder temp;
    REQUIRE(bitmill::write_file(temp / "t", "hello"));
    CHECK(bitmill::write_file(temp / "t", "again").error().code == error_code::io);
    const auto file = input_file::open(temp / "t").value();
    CHECK(bitmill::read_text(file, 5).value() == "hello");
    CHECK(bitmill::read_text(file, 4).error().code == error_code::bad_input);
}

TEST_CASE("no descriptor is leaked, on success or failure") {
    const auto open_now = [] {
        return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                             std::filesystem::directory_iterator());
    };
    const temp_folder temp;
    put_file(temp / "d/f", "x");
    const auto before = open_now();
    for (int i = 0; i < 5; ++i) {
        (void)input_file::open(temp / "d/f");
        (void)input_file::open(temp.path());
        (void)input_file::open_beneath(temp.path(), "d/f");
        (void)input_file::open_beneath(temp.path(), "d");
        (void)input_file::open_beneath(temp.path(), "none");
        auto a = input_file::open(temp / "d/f"), b = input_file::open(temp / "d/f");
        *a = std::move(*b);
        auto made = output_file::create(temp / ("o" + std::to_string(i)));
        (void)made->finish();
    }
    CHECK(open_now() == before);
}
