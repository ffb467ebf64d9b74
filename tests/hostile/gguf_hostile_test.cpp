// Truncated, bit-flipped, lying and bloated GGUF files: an error that names the file, or keys and tensors
// that all lie inside it; never more memory than the file pays for. (tests/parity/test_gguf.py compares with
// gguf-py.)
#include <bitmill/io/gguf.hpp>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <gguf_files.hpp>
#include <heap_meter.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;

namespace {

// Every value type, every tensor type, every rank, alignments: the file's end is the last tensor's.
std::vector<std::string> seeds() {
    std::vector<std::string> all{gguf_small(), gguf_head(0, 0), gguf_of({}, {{"s", {}, 30, 0}}, "bf"),
                                 gguf_of({}, {{"r", {2, 1, 3, 1}, 26, 0}}, std::string(24, 'd'), 2)};
    for (const auto& pair : gguf_every_pair()) all.push_back(gguf_of({pair}, {{"a", {1}, 24, 0}}, "x"));
    for (const auto& row : bitmill::ggml_table)
        all.push_back(gguf_of({}, {{"t", {row.block_elements, 2}, static_cast<std::uint32_t>(row.type), 0}},
                              std::string(2 * row.block_bytes, 't')));
    for (const std::uint32_t alignment : {1u, 8u, 256u})
        all.push_back(gguf_of({gguf_pair("general.alignment", 4, le4(alignment))},
                              {{"a", {1}, 24, 0}, {"b", {1}, 24, alignment}}, std::string(alignment + 1, 'x'),
                              3, alignment));
    return all;
}

struct tally {
    std::size_t accepted = 0, refused = 0, unnamed = 0;
    std::string problems;

    void look_at(const std::string& path) {
        const auto file = open_gguf(path);
        if (file) {
            ++accepted;
            problems += gguf_problem(*file);
            return;
        }
        ++refused;
        const auto code = file.error().code;
        if ((code != error_code::bad_input && code != error_code::unsupported) || file.error().file != path ||
            file.error().message.empty() || file.error().text().size() > 1000)
            ++unnamed;
    }
};

// Opens the seed with `bytes` written over it at every place of the header.
void overwrite_everywhere(tally& all, const std::string& path, const std::string& seed, std::size_t header,
                          const std::vector<std::string>& values) {
    put_file(path, seed);
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    for (std::size_t at = 0; at < header; ++at)
        for (const auto& value : values) {
            const std::size_t room = std::min(value.size(), seed.size() - at);
            REQUIRE(::pwrite(fd, value.data(), room, static_cast<off_t>(at)) == static_cast<ssize_t>(room));
            all.look_at(path);
            REQUIRE(::pwrite(fd, seed.data() + at, room, static_cast<off_t>(at)) ==
                    static_cast<ssize_t>(room));
        }
    ::close(fd);
}

}  // namespace

TEST_CASE("hostile gguf: no prefix of a file is a file") {
    const temp_folder temp;
    tally all;
    const auto files = seeds();
    CHECK(files.size() >= 40);
    for (const auto& bytes : files) {
        put_file(temp / "f", bytes);
        REQUIRE(open_gguf(temp / "f"));
        for (std::size_t length = bytes.size(); length-- > 0;) {
            std::filesystem::resize_file(temp / "f", length);
            all.look_at(temp / "f");
        }
    }
    MESSAGE(all.refused << " prefixes");
    CHECK(all.accepted == 0);
    CHECK(all.unnamed == 0);
}

TEST_CASE("hostile gguf: every byte of a header, all 256 values") {
    const temp_folder temp;
    const std::string seed = gguf_small();
    std::vector<std::string> values;
    for (int value = 0; value < 256; ++value) values.emplace_back(1, static_cast<char>(value));
    tally all;
    overwrite_everywhere(all, temp / "f", seed, seed.size() - 304, values);
    MESSAGE(all.accepted << " accepted, " << all.refused << " refused");
    CHECK(all.problems == "");
    CHECK(all.unnamed == 0);
    CHECK(all.accepted >= seed.size() - 304);  // at least each byte's own value
    CHECK(all.refused > 50'000);
}

TEST_CASE("hostile gguf: boundary values of 4 and 8 bytes at every place where a number may lie") {
    const temp_folder temp;
    const std::string seed = gguf_small();
    std::vector<std::string> values;
    for (const std::uint64_t value : {0ull,
                                      1ull,
                                      2ull,
                                      0x7full,
                                      0xffull,
                                      0xffffull,
                                      0x7ffffffeull,
                                      0x7fffffffull,
                                      0x80000000ull,
                                      0xfffffffeull,
                                      0xffffffffull,
                                      0x100000000ull,
                                      0x7ffffffffffffffeull,
                                      0x7fffffffffffffffull,
                                      0x8000000000000000ull,
                                      0xfffffffffffffff0ull,
                                      0xfffffffffffffffeull,
                                      0xffffffffffffffffull,
                                      0x2000000000000000ull,
                                      0x4000000000000001ull,
                                      static_cast<unsigned long long>(seed.size() - 1),
                                      static_cast<unsigned long long>(seed.size()),
                                      static_cast<unsigned long long>(seed.size() + 1),
                                      31ull,
                                      33ull,
                                      64ull}) {
        values.push_back(little_endian(value));
        values.push_back(le4(value));
    }
    tally all;
    overwrite_everywhere(all, temp / "f", seed, seed.size() - 304, values);
    MESSAGE(all.accepted << " accepted, " << all.refused << " refused");
    CHECK(all.problems == "");
    CHECK(all.unnamed == 0);
    CHECK(all.refused > 20'000);
}

TEST_CASE("hostile gguf: counts, sizes and offsets that wrap") {
    const temp_folder temp;
    const auto refused = [&](const std::string& bytes) {
        put_file(temp / "f", bytes);
        const heap_meter meter;
        const auto file = open_gguf(temp / "f");
        CHECK(meter.peak_bytes() <= 4 * bytes.size() + (1u << 20));
        return !file && file.error().code == error_code::bad_input;
    };
    const std::string tail(200, '\0');
    for (const std::uint64_t count :
         {std::uint64_t{1} << 61, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} / 14,
          ~std::uint64_t{0} / 25, ~std::uint64_t{0} / 32 + 1, ~std::uint64_t{0} / 8 + 1}) {
        CAPTURE(count);
        CHECK(refused(gguf_head(count, 0) + tail));                     // CVE-2024-21836
        CHECK(refused(gguf_head(0, count) + tail));                     // CVE-2024-23605
        CHECK(refused(gguf_head(0, 1) + little_endian(count) + tail));  // CVE-2024-23496
        CHECK(refused(gguf_head(0, 1) + gguf_pair("k", 8, little_endian(count)) +
                      tail));                                   // the same, of a value
        for (const std::uint32_t type : {0u, 2u, 4u, 8u, 12u})  // CVE-2024-21825
            CHECK(refused(gguf_head(0, 1) + gguf_pair("k", 9, le4(type) + little_endian(count)) + tail));
        CHECK(refused(gguf_of({}, {{"t", {count}, 28, 0}}, tail)));  // CVE-2026-33298
        CHECK(refused(gguf_of({}, {{"t", {1, count}, 28, 0}}, tail)));
        CHECK(refused(gguf_of({}, {{"t", {count, count}, 24, 0}}, tail)));
        CHECK(refused(gguf_of({}, {{"t", {4}, 24, count}}, tail)));
        // CVE-2025-53630: each fits, their sum wraps
        CHECK(refused(gguf_of(
            {}, {{"a", {std::uint64_t{1} << 62}, 25, 0}, {"b", {std::uint64_t{1} << 62}, 25, 1ull << 63}},
            tail)));
    }
    std::string ranks = gguf_entry({"t", {1, 1, 1, 1, 1, 1, 1, 1}, 0, 0});  // CVE-2024-21802
    CHECK(refused(gguf_head(1, 0) + ranks + tail));
    ranks = gguf_string("t") + le4(0xffffffff);
    CHECK(refused(gguf_head(1, 0) + ranks + tail));
}

TEST_CASE("hostile gguf: opening takes at most 4 x file + 1 MiB, and a second for 10 MB") {
    const std::size_t size = 10'000'000;
    const auto repeat = [&](const std::function<std::string(std::uint64_t)>& item, std::uint64_t& count,
                            std::uint64_t limit) {
        std::string text;
        for (count = 0; text.size() < size && count < limit; ++count) text += item(count);
        return text;
    };
    const auto name = [](std::uint64_t i) {
        std::string text;
        for (; i > 0 || text.empty(); i /= 200) text.push_back(static_cast<char>(32 + i % 90));
        return text;
    };
    std::uint64_t count = 0;
    struct row {
        std::string what, bytes;
        bool accepted;
    };
    std::vector<row> rows;
    const auto tensors = [&](const char* what, const std::vector<std::uint64_t>& dims, std::uint32_t type,
                             const std::string& prefix) {
        const auto body =
            repeat([&](std::uint64_t i) { return gguf_entry({prefix + std::to_string(i), dims, type, 0}); },
                   count, 400'000);
        rows.push_back({what, gguf_head(count, 0) + body + std::string(64, '\0'), true});
    };
    tensors("tiny tensors", {0}, 24, "");
    tensors("tiny matrices", {0, 1}, 24, "");
    tensors("matrices of blocks", {0, 1}, 12, "");
    tensors("four dimensions", {0, 1, 2, 3}, 24, "");
    tensors("blocks in four dimensions", {0, 1, 2, 3}, 14, "");
    tensors("long names", {0}, 24, std::string(50, 'n'));
    auto body = repeat([](std::uint64_t) { return gguf_entry({"a", {0}, 24, 0}); }, count, 400'000);
    rows.push_back({"one name", gguf_head(count, 0) + body + std::string(64, '\0'), false});
    body = repeat([](std::uint64_t) { return gguf_entry({"a", {}, 24, 0}); }, count, 400'000);
    rows.push_back({"scalars in one place", gguf_head(count, 0) + body + std::string(64, '\0'), false});
    body = repeat([&](std::uint64_t i) { return gguf_pair(name(i), 0, "x"); }, count, 65536);
    rows.push_back({"tiny keys", gguf_head(0, count) + body, false});
    body = repeat([&](std::uint64_t i) { return gguf_pair(std::to_string(i), 0, "x"); }, count, 65536);
    rows.push_back({"short keys", gguf_head(0, count) + body, true});
    body = repeat([](std::uint64_t) { return gguf_pair("k", 0, "x"); }, count, 65536);
    rows.push_back({"one key", gguf_head(0, count) + body, false});
    body =
        repeat([](std::uint64_t i) { return gguf_pair(std::string(1000, 'k') + std::to_string(i), 0, "x"); },
               count, 65536);
    rows.push_back({"long keys", gguf_head(0, count) + body, true});
    body = repeat([](std::uint64_t) { return gguf_string(""); }, count, size);
    rows.push_back({"empty strings", gguf_head(0, 1) + gguf_pair("k", 9, gguf_array(8, count, body)), true});
    body = repeat([](std::uint64_t i) { return gguf_string(std::to_string(i)); }, count, size);
    rows.push_back({"tokens", gguf_head(0, 1) + gguf_pair("k", 9, gguf_array(8, count, body)), true});
    rows.push_back(
        {"tokens, cut", gguf_head(0, 1) + gguf_pair("k", 9, gguf_array(8, count + 1, body)), false});
    const std::string many(size, 'x');
    rows.push_back({"bytes", gguf_head(0, 1) + gguf_pair("k", 9, gguf_array(0, size, many)), true});
    rows.push_back({"numbers", gguf_head(0, 1) + gguf_pair("k", 9, gguf_array(12, size / 8, many)), true});
    rows.push_back({"one string", gguf_head(0, 1) + gguf_pair("k", 8, gguf_string(many)), true});
    rows.push_back(
        {"one string, open", gguf_head(0, 1) + gguf_pair("k", 8, little_endian(size + 1) + many), false});
    rows.push_back({"one key, too long", gguf_head(0, 1) + gguf_pair(many, 0, "x"), false});
    rows.push_back({"nothing but a tensor", gguf_of({}, {{"t", {size}, 24, 0}}, many), true});
    rows.push_back({"zeros", gguf_head(0, 1) + std::string(size, '\0'), false});
    const temp_folder temp;
    double worst = 0;
    for (const row& hostile : rows) {
        CAPTURE(hostile.what);
        put_file(temp / "f", hostile.bytes);
        const std::size_t allowed = 4 * hostile.bytes.size() + (1u << 20);
        const std::clock_t begin = std::clock();  // processor time: other programs do not count
        const heap_meter meter;
        const auto file = open_gguf(temp / "f");
        const std::size_t peak = meter.peak_bytes();
        [[maybe_unused]] const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
        CHECK_MESSAGE(static_cast<bool>(file) == hostile.accepted, (file ? "accepted" : file.error().text()));
        CHECK(peak <= allowed);
        CHECK(peak > 0);
        if (file) CHECK(gguf_problem(*file) == "");
        if (!file) CHECK(file.error().text().size() < 1000);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CHECK(seconds < 1.0 * static_cast<double>(hostile.bytes.size()) / 10e6 + 0.1);
#endif
        worst = std::max(worst, static_cast<double>(peak) / static_cast<double>(allowed));
    }
    MESSAGE("the worst took " << worst << " of what is allowed");
}

TEST_CASE("hostile gguf: nothing of the heap gets into what is written") {
    const temp_folder temp;
    const std::string marker = "MARKER-OF-SOMEBODY-ELSE";
    put_file(temp / "in", gguf_small());
    for (int i = 0; i < 64; ++i) {  // freed blocks of many sizes, full of it
        std::string block;
        while (block.size() < std::size_t{64} << (i % 14)) block += marker;
    }
    const auto file = open_gguf(temp / "in").value();
    std::vector<bitmill::gguf_spec> specs;
    for (std::size_t i = 0; i < 200; ++i)
        specs.push_back({"t" + std::to_string(i), bitmill::ggml_type::i8, {i % 31 + 1}});
    auto writer = bitmill::gguf_writer::create(temp / "out", specs, file.metadata()).value();
    for (std::size_t i = 0; i < specs.size(); ++i) {
        const std::string data(static_cast<std::size_t>(writer.bytes(i)), '\0');
        REQUIRE(writer.write(i, 0, bytes_of(data)));
    }
    REQUIRE(writer.finish());
    const std::string bytes = get_file(temp / "out");
    const auto out = open_gguf(temp / "out").value();
    CHECK(bytes.find("MARKER") == std::string::npos);
    const std::size_t data = static_cast<std::size_t>(out.data_begin());
    CHECK(bytes.substr(data) == std::string(bytes.size() - data, '\0'));
    CHECK(gguf_problem(out) == "");
}
