// Truncated, bit-flipped, lying and bloated safetensors files: an error that names the place, or a file whose
// tensors all lie inside it.
#include <bitmill/io/safetensors.hpp>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <heap_meter.hpp>
#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;

namespace {

std::uint64_t header_end(const std::string& bytes) {
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
    return 8 + length;
}

std::string replaced(std::string text, const std::string& mark, const std::string& by) {
    text.replace(text.find(mark), mark.size(), by);
    return text;
}

}  // namespace

TEST_CASE("hostile safetensors: no prefix of a file is a file") {
    const temp_folder temp;
    const auto seeds = safetensors_seeds();
    REQUIRE(seeds.size() >= 25);
    std::size_t cases = 0, accepted = 0, unnamed = 0;
    for (const auto& [name, bytes] : seeds) {
        put_file(temp / "f", bytes);
        const std::size_t fine = std::min<std::size_t>(bytes.size(), header_end(bytes) + 64);
        for (std::size_t length = bytes.size(); length-- > 0;) {
            if (length > fine && length % 97 != 0) continue;
            std::filesystem::resize_file(temp / "f", length);
            const auto file = open_safetensors(temp / "f");
            ++cases;
            if (file)
                ++accepted;
            else if (file.error().code != error_code::bad_input || file.error().file != temp / "f")
                ++unnamed;
        }
    }
    MESSAGE(cases << " prefixes");
    CHECK(cases > 2500);
    CHECK(accepted == 0);
    CHECK(unnamed == 0);
}

TEST_CASE("hostile safetensors: every header byte, all 256 values") {
    const temp_folder temp;
    const std::string seed = raw_safetensors(
        R"({"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b\n":{"dtype":"I8","shape":[],"data_offsets":[12,13]}})",
        "0123456789abc");
    put_file(temp / "f", seed);
    const int fd = ::open((temp / "f").c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    std::size_t accepted = 0, refused = 0, unnamed = 0;
    std::string problems;
    for (std::size_t at = 0; at < header_end(seed); ++at) {
        for (int value = 0; value < 256; ++value) {
            const char byte = static_cast<char>(value);
            REQUIRE(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
            const auto file = open_safetensors(temp / "f");
            if (!file) {
                ++refused;
                if (file.error().code != error_code::bad_input || file.error().file.empty()) ++unnamed;
                continue;
            }
            ++accepted;
            if (const std::string problem = walk_problem(*file); !problem.empty())
                problems += std::to_string(at) + "=" + std::to_string(value) + ": " + problem + "; ";
        }
        REQUIRE(::pwrite(fd, &seed[at], 1, static_cast<off_t>(at)) == 1);
    }
    ::close(fd);
    MESSAGE(accepted << " accepted, " << refused << " refused");
    CHECK(problems == "");
    CHECK(unnamed == 0);
    CHECK(accepted > header_end(seed));  // at least each byte's own value
    CHECK(refused > 10 * accepted);
}

TEST_CASE("hostile safetensors: boundary values in every number") {
    const std::vector<std::string> values{"0",
                                          "1",
                                          "2",
                                          "3",
                                          "7",
                                          "8",
                                          "9",
                                          "2147483647",
                                          "2147483648",
                                          "2147483649",
                                          "4294967295",
                                          "4294967296",
                                          "4294967297",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "9223372036854775809",
                                          "18446744073709551615",
                                          "18446744073709551616",
                                          "18446744073709551617",
                                          "100000000",
                                          "100000001",
                                          "6148914691236517206",
                                          "-1",
                                          "24",
                                          "25",
                                          "23",
                                          "170",
                                          "171",
                                          "169",
                                          "4611686018427387904"};
    // '@' marks the number; its right value stands first. Everything else must be refused.
    const std::vector<std::pair<std::string, std::string>> fields{
        {"3",
         R"({"a":{"dtype":"F32","shape":[@,2],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}})"},
        {"2",
         R"({"a":{"dtype":"F32","shape":[3,@],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}})"},
        {"0",
         R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[@,24]},"b":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}})"},
        {"24",
         R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,@]},"b":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}})"},
        {"2",
         R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[@],"data_offsets":[24,26]}})"},
        {"24",
         R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[2],"data_offsets":[@,26]}})"},
        {"26",
         R"({"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[2],"data_offsets":[24,@]}})"}};
    REQUIRE(values.size() >= 24);
    const temp_folder temp;
    for (const auto& [right, header] : fields) {
        put_file(temp / "f", raw_safetensors(replaced(header, "@", right), std::string(26, 'x')));
        REQUIRE(open_safetensors(temp / "f"));
        for (const auto& value : values) {
            if (value == right) continue;
            CAPTURE(header);
            CAPTURE(value);
            put_file(temp / "f", raw_safetensors(replaced(header, "@", value), std::string(26, 'x')));
            CHECK_FALSE(open_safetensors(temp / "f"));
        }
    }
    // Two numbers that agree with each other but not with the file, and products that wrap to what is there.
    for (const char* header :
         {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}})",
          R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,9223372036854775808]}})",
          R"({"a":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}})",
          R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})",
          R"({"a":{"dtype":"F32","shape":[4294967296,1073741824],"data_offsets":[0,0]}})",
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[18446744073709551615,1]}})",
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[27,27]}})"}) {
        CAPTURE(header);
        put_file(temp / "f", raw_safetensors(header, std::string(26, 'x')));
        CHECK_FALSE(open_safetensors(temp / "f"));
    }
    // The length in front, as a number of its own.
    const std::string header = "{}";
    for (const std::uint64_t length : {0ull,
                                       1ull,
                                       3ull,
                                       7ull,
                                       8ull,
                                       9ull,
                                       10ull,
                                       0x7fffffffull,
                                       0x80000000ull,
                                       0x80000001ull,
                                       0xffffffffull,
                                       0x100000000ull,
                                       0x100000001ull,
                                       0x7fffffffffffffffull,
                                       0x8000000000000000ull,
                                       0x8000000000000001ull,
                                       ~0ull,
                                       ~0ull - 1,
                                       ~0ull - 7,
                                       ~0ull - 8,
                                       99'999'999ull,
                                       100'000'000ull,
                                       100'000'001ull,
                                       0x200000000ull}) {
        CAPTURE(length);
        put_file(temp / "f", little_endian(length) + header);
        CHECK_FALSE(open_safetensors(temp / "f"));
    }
}

TEST_CASE("hostile safetensors: opening takes at most 4 x file + 1 MiB, and a second for 10 MB") {
    const std::size_t size = 10'000'000;
    const auto repeat = [&](const std::string& open, const std::function<std::string(std::size_t)>& item,
                            const std::string& close) {
        std::string text = open;
        for (std::size_t i = 0; text.size() < size; ++i) text += (i ? "," : "") + item(i);
        return text + close;
    };
    const auto base36 = [](std::size_t i) {
        std::string text;
        for (; i > 0 || text.empty(); i /= 36) text.push_back("0123456789abcdefghijklmnopqrstuvwxyz"[i % 36]);
        return text;
    };
    const std::string field = R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":)";
    struct row {
        std::string what;
        std::string header;
        bool accepted;
    };
    const std::vector<row> rows{
        {"tiny tensors",
         repeat(
             "{",
             [&](std::size_t i) {
                 return "\"" + base36(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
             },
             "}"),
         true},
        {"deep tiny tensors",
         repeat(
             "{",
             [&](std::size_t i) {
                 return "\"" + base36(i) +
                        R"(":{"dtype":"U8","shape":[0,0,0,0,0,0,0,0],"data_offsets":[0,0]})";
             },
             "}"),
         true},
        {"long names",
         repeat(
             "{",
             [&](std::size_t i) {
                 return "\"" + std::string(1000, 'n') + base36(i) +
                        R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
             },
             "}"),
         true},
        {"one name",
         repeat(
             "{", [&](std::size_t) { return R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})"; }, "}"),
         false},
        {"tiny metadata",
         repeat(
             R"({"__metadata__":{)", [&](std::size_t i) { return "\"" + base36(i) + "\":\"\""; }, "}}"),
         false},
        {"metadata",
         repeat(
             R"({"__metadata__":{)",
             [&](std::size_t i) { return "\"" + base36(i) + "\":\"" + std::string(60, 'v') + "\""; }, "}}"),
         true},
        {"metadata of 16 letters",
         repeat(
             R"({"__metadata__":{)",
             [&](std::size_t i) {
                 return "\"" + base36(i) + std::string(12, 'k') + "\":\"" + std::string(46, 'v') + "\"";
             },
             "}}"),
         true},
        {"big metadata",
         R"({"__metadata__":{"a":")" + std::string(size / 5, 'x') + R"(","b":")" +
             std::string(size / 5, 'x') + "\"}}" + std::string(size * 3 / 5, ' '),
         true},
        {"one string", R"({"__metadata__":{"a":")" + std::string(size, 'x') + "\"}}", false},
        {"one string, open", R"({"__metadata__":{"a":")" + std::string(size, 'x'), false},
        {"one name for all", "{\"" + std::string(size, 'x') + "\":", false},
        {"third of a string, then broken",
         R"({"__metadata__":{"a":")" + std::string(size / 3, 'x') + "\x01" +
             std::string(size - size / 3, 'x'),
         false},
        {"escapes",
         field + "\"" +
             repeat(
                 "", [](std::size_t) { return "\\u0041"; }, "\"}}"),
         false},
        {"white space", std::string(size, ' ') + "{}", true},
        {"white space, then broken", "{" + std::string(size, '\n') + "!", false},
        {"numbers",
         field + repeat(
                     "[", [](std::size_t) { return "1"; }, "]}}"),
         true},
        {"one number", field + std::string(size, '1') + "}}", false},
        {"one fraction", field + "0." + std::string(size, '1') + "}}", false},
        {"objects",
         field + repeat(
                     "[", [](std::size_t) { return "{}"; }, "]}}"),
         false},
        {"words",
         field + repeat(
                     "[", [](std::size_t) { return "true"; }, "]}}"),
         false},
        {"words, then broken",
         field + "[" +
             repeat(
                 "", [](std::size_t) { return "true"; }, "")
                 .substr(0, size / 9) +
             "!" + std::string(size, ' '),
         false},
        {"depth", field + std::string(size, '['), false},
        {"braces", std::string(size, '{'), false},
        {"commas", "{" + std::string(size, ','), false},
        {"shape",
         R"({"a":{"dtype":"U8","shape":[)" + repeat(
                                                 "", [](std::size_t) { return "1"; }, "]}}"),
         false},
        {"skipped fields",
         repeat(
             "{\"a\":{", [&](std::size_t i) { return "\"" + base36(i) + "\":0"; },
             R"(,"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
         true},
        {"small and broken", "{\"", false},
    };
    const temp_folder temp;
    double worst = 0;
    for (const row& hostile : rows) {
        CAPTURE(hostile.what);
        put_file(temp / "f", raw_safetensors(hostile.header));
        const std::uint64_t allowed = 4 * std::filesystem::file_size(temp / "f") + (1u << 20);
        const std::clock_t begin = std::clock();  // processor time: other programs do not count
        const heap_meter meter;
        const auto file = open_safetensors(temp / "f");
        const std::size_t peak = meter.peak_bytes();
        [[maybe_unused]] const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
        CHECK_MESSAGE(static_cast<bool>(file) == hostile.accepted, (file ? "accepted" : file.error().text()));
        CHECK(peak <= allowed);
        CHECK(peak > 0);
        if (!file) CHECK(file.error().text().size() < 1000);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CHECK(seconds < 1.0 * static_cast<double>(hostile.header.size()) / 10e6 + 0.1);
#endif
        worst = std::max(worst, static_cast<double>(peak) / static_cast<double>(allowed));
    }
    MESSAGE("the worst took " << worst << " of what is allowed");
}

TEST_CASE("hostile safetensors: at most 2^20 tensors") {
    std::string header = "{", last;
    for (std::size_t i = 0; i <= bitmill::safetensors_max_tensors; ++i) {
        header += last;
        last =
            (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    }
    const temp_folder temp;
    put_file(temp / "many", raw_safetensors(header + last + "}"));
    const auto many = open_safetensors(temp / "many");
    REQUIRE_FALSE(many);
    CHECK(many.error().message.find("1048576") != std::string::npos);
    put_file(temp / "just", raw_safetensors(header + "}"));
    const auto just = open_safetensors(temp / "just");
    REQUIRE_MESSAGE(just, just.error().text());
    CHECK(just.value().size() == bitmill::safetensors_max_tensors);
    CHECK(just.value().find("1048575"));
    CHECK_FALSE(just.value().find("1048576"));
}
