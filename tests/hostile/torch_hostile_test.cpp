// Truncated, bit-flipped, lying and bloated files of torch.save: an error that names the file, or tensors that all lie
// inside it; never more memory than the file pays for. (tests/parity/test_torch.py has what Python's pickle can do.)
#include <bitmill/io/torch.hpp>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <heap_meter.hpp>
#include <temp_folder.hpp>
#include <torch_files.hpp>

using namespace bitmill_test;
using bitmill::error_code;

namespace {

std::vector<std::string> seeds() {
    const std::vector<torch_tensor> tensors{{"encoder.weight", {4, 3}, {3, 1}, 2},
                                            {"encoder.bias", {4}, {1}, 0, "1", 4},
                                            {"transposed", {3, 4}, {1, 3}}};
    return {torch_file_of(state_pickle(tensors)), torch_file_of(state_pickle({{"w", {}, {}}})),
            torch_file_of("\x80\x02}" + pickle_text("model") + "}" + pickle_items(tensors) + "s.")};
}

// "" or what is wrong with a file that opened.
std::string problem_of(const bitmill::torch_file& file) {
    for (std::size_t i = 0; i < file.size(); ++i) {
        const auto t = file[i];
        std::uint64_t last = t.offset + t.bytes;
        if (!t.strides.empty()) {
            last = t.offset + bitmill::element_bytes(t.type);
            for (std::size_t d = 0; d < t.shape.size(); ++d)
                last += (t.shape[d] - 1) * t.strides[d] * bitmill::element_bytes(t.type);
        }
        if (last > file.file().size()) return std::string(t.name) + " lies outside";
        if (file.find(t.name) != i) return std::string(t.name) + " is not found";
    }
    return {};
}

struct tally {
    std::size_t accepted = 0, refused = 0, unnamed = 0;
    std::string problems;

    void look_at(const std::string& path) {
        const auto file = open_torch(path);
        if (!file) {
            ++refused;
            const auto code = file.error().code;
            if ((code != error_code::bad_input && code != error_code::unsupported) ||
                file.error().file != path)
                ++unnamed;
            return;
        }
        ++accepted;
        problems += problem_of(*file);
    }
};

}  // namespace

TEST_CASE("hostile torch: no prefix of a file is a file") {
    const temp_folder temp;
    tally all;
    for (const auto& bytes : seeds()) {
        put_file(temp / "f", bytes);
        for (std::size_t length = bytes.size(); length-- > 0;) {
            std::filesystem::resize_file(temp / "f", length);
            all.look_at(temp / "f");
        }
    }
    MESSAGE(all.refused << " prefixes");
    CHECK(all.accepted == 0);
    CHECK(all.unnamed == 0);
}

TEST_CASE("hostile torch: every byte but those of tensors, all 256 values") {
    const temp_folder temp;
    const std::string seed = seeds()[0];
    put_file(temp / "f", seed);
    const int fd = ::open((temp / "f").c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    tally all;
    const std::size_t weights = seed.find(std::string("\0\1\2\3\4\5", 6));
    REQUIRE(weights != std::string::npos);
    for (std::size_t at = 0; at < seed.size(); ++at) {
        if (at >= weights && at < weights + 256) continue;
        for (int value = 0; value < 256; ++value) {
            const char byte = static_cast<char>(value);
            REQUIRE(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
            all.look_at(temp / "f");
        }
        REQUIRE(::pwrite(fd, &seed[at], 1, static_cast<off_t>(at)) == 1);
    }
    ::close(fd);
    MESSAGE(all.accepted << " accepted, " << all.refused << " refused");
    CHECK(all.problems == "");
    CHECK(all.unnamed == 0);
    CHECK(all.accepted > seed.size() - 256);  // at least each byte's own value
    CHECK(all.refused > all.accepted);
}

TEST_CASE("hostile torch: boundary values in every number of the zip file") {
    const temp_folder temp;
    const std::string seed = seeds()[0];
    const std::size_t directory = seed.find("PK\1\2");
    const std::size_t end = seed.find("PK\5\6");
    tally all;
    const auto with = [&](std::size_t at, unsigned width, std::uint64_t value) {
        std::string bytes = seed;
        bytes.replace(at, width, le(value, width));
        put_file(temp / "f", bytes);
        all.look_at(temp / "f");
    };
    for (const std::uint64_t value :
         {0ull, 1ull, 2ull, 0x7fffull, 0x8000ull, 0xfffeull, 0xffffull, 0x7fffffffull, 0x80000000ull,
          0xfffffffeull, 0xffffffffull, static_cast<unsigned long long>(seed.size()),
          static_cast<unsigned long long>(seed.size() - 1), static_cast<unsigned long long>(directory),
          static_cast<unsigned long long>(end), 46ull, 22ull, 64ull}) {
        for (const std::size_t at : {10u, 20u, 24u, 28u, 30u, 32u, 42u})
            with(directory + at, at < 20 || at > 24 ? 2 : 4, value);
        with(directory + 42, 4, value);
        for (const std::size_t at : {4u, 6u, 8u, 10u, 20u}) with(end + at, 2, value);
        for (const std::size_t at : {12u, 16u}) with(end + at, 4, value);
    }
    CHECK(all.problems == "");
    CHECK(all.unnamed == 0);
    CHECK(all.refused > 100);
}

TEST_CASE("hostile torch: what is in the zip file, and how") {
    const temp_folder temp;
    const std::string pickle = state_pickle({{"w", {2}, {1}}});
    const std::string storage(256, 's');
    const auto code = [&](const std::string& bytes) {
        put_file(temp / "f", bytes);
        const auto file = open_torch(temp / "f");
        return file ? error_code::ok : file.error().code;
    };
    CHECK(code(zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}})) == error_code::ok);
    CHECK(code(zip_of({{"a/data.pkl", pickle}, {"b/data/0", storage}})) == error_code::bad_input);
    CHECK(code(zip_of({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}, {"a/data/0", storage}})) ==
          error_code::bad_input);
    CHECK(code(zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}, {"a/data/0", storage}})) ==
          error_code::bad_input);
    CHECK(code(zip_of({{"data.pkl", pickle}, {"data/0", storage}})) == error_code::bad_input);
    CHECK(code(zip_of({{"a/b/data.pkl", pickle}, {"a/b/data/0", storage}})) == error_code::bad_input);
    CHECK(code(zip_of({})) == error_code::bad_input);
    CHECK(code(zip_of({{"a/data.pkl", ""}})) == error_code::bad_input);
    CHECK(code(zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}}) + "behind") == error_code::bad_input);
    // Two directory entries for one place.
    std::string overlapping = zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}, {"a/data/1", "x"}});
    const std::size_t second =
        overlapping.find("PK\1\2", overlapping.find("a/data/0", overlapping.find("PK\1\2")));
    const std::size_t first = overlapping.rfind("PK\1\2", second - 1);
    overlapping.replace(second + 42, 4, overlapping.substr(first + 42, 4));
    CHECK(code(overlapping) == error_code::bad_input);
}

TEST_CASE("hostile torch: a pickle that asks for much gets little, and soon") {
    const temp_folder temp;
    const auto many = [](const std::string& piece, std::size_t times) {
        std::string out;
        for (std::size_t i = 0; i < times; ++i) out += piece;
        return out;
    };
    const std::string memo_bomb = "\x80\x02]q\x00" + many(
                                                         "(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00"
                                                         "tq\x00",
                                                         20000);
    const std::vector<std::string> pickles{"\x80\x02" + many("N", 1 << 20),
                                           "\x80\x02" + many("(", 1 << 20),
                                           "\x80\x02" + many("}", 1 << 20),
                                           "\x80\x02" + many("]q\x00", 1 << 18),
                                           "\x80\x02" + many(")", 1 << 20),
                                           "\x80\x02" + many("](", 1 << 19),
                                           "\x80\x02]" + many("]a", 1 << 19),
                                           "\x80\x02]" + many("(NNNNNNNNe", 1 << 17),
                                           "\x80\x02N" + many("\x85", 1 << 20),
                                           "\x80\x02N" + many("\x94", 1 << 20),
                                           memo_bomb,
                                           "\x80\x02X\xff\xff\xff\xff",
                                           std::string("\x80\x02") + "r" + le(0xffffffff, 4),
                                           "\x80\x02Nj" + le(0xffffffff, 4),
                                           "\x80\x02" + std::string("\x8a\xff") + std::string(255, '\x7f'),
                                           state_pickle(std::vector<torch_tensor>(4000, {"w", {1}, {1}}))};
    for (std::size_t i = 0; i < pickles.size(); ++i) {
        CAPTURE(i);
        const std::string bytes = torch_file_of(pickles[i]);
        put_file(temp / "f", bytes);
        const heap_meter meter;
        const std::clock_t begin = std::clock();
        const auto file = open_torch(temp / "f");
        CHECK(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC < 10);
        CHECK(meter.peak_bytes() <= 4 * bytes.size() + (1u << 20));
        CHECK(!file);
    }
}

TEST_CASE("hostile torch: thousands of the smallest tensors fit what their file pays for") {
    const temp_folder temp;
    std::vector<torch_tensor> tensors;
    std::vector<std::pair<std::string, std::string>> entries{{"m/data.pkl", ""}};
    for (int i = 0; i < 5000; ++i) {
        const std::string key = std::to_string(i);
        tensors.push_back({"layer." + key + ".scale", {}, {}, 0, key, 1});
        entries.emplace_back("m/data/" + key, "1234");
    }
    entries[0].second = state_pickle(tensors);
    const std::string bytes = zip_of(entries);
    put_file(temp / "f", bytes);
    const heap_meter meter;
    const auto file = open_torch(temp / "f");
    CHECK(meter.peak_bytes() <= 4 * bytes.size() + (1u << 20));
    REQUIRE_MESSAGE(file, file.error().text());
    CHECK(file->size() == 5000);
}
