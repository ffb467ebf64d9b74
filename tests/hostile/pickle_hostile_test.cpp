// Truncated, bit-flipped and bloated pickled models: an error that names the file, or arrays that all lie inside it;
// never more memory than the file pays for. (tests/parity/test_pickle.py has what Python's pickle can do.)
#include <bitmill/io/pickle_model.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <heap_meter.hpp>
#include <pickles.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::pickle_model;

namespace {

std::vector<std::string> seeds() {
    const std::string content = quarters(3);
    const std::string body = "}" + pickle_text("coef_") + pickle_array_of({3}, content) + "\x94s.";
    return {pickle_with(pickle_array_of({3, 1}, content)),
            pickle_with(pickle_blank_array() + std::string("q\0", 2) +
                            pickle_state({3}, pickle_dtype("f8"), pickle_latin1(content)) +
                            std::string("h\0\x86", 3),
                        2),
            pickle_with(pickle_buffer_array({3}, content), 5),
            pickle_with(pickle_joblib_array(13, {3}, content)), "\x80\4\x95" + le(body.size(), 8) + body};
}

// "" or what is wrong with a file that opened.
std::string problem_of(const pickle_model& model) {
    for (const auto& one : model.arrays()) {
        const bool ordered = one.begin <= one.op && one.op <= one.data && one.data <= one.data_end &&
                             one.data_end <= one.end && one.begin <= one.dtype_end &&
                             one.dtype_end <= one.end;
        if ((one.fixed.empty() && !ordered) || one.end > model.file().size())
            return one.name + " lies outside";
        std::string elements(static_cast<std::size_t>(one.bytes), '\0');
        bitmill::pickle_array_reader reader(model, one);
        if (!reader.next(std::as_writable_bytes(std::span(elements)))) return one.name + " cannot be read";
    }
    for (const auto& frame : model.frames())
        if (frame.begin > frame.end || frame.end > model.file().size()) return "a frame lies outside";
    return {};
}

struct tally {
    std::size_t accepted = 0, refused = 0, unnamed = 0;
    std::string problems;

    void look_at(const std::string& path) {
        const auto model = pickle_model::open(bitmill::input_file::open(path).value());
        if (!model) {
            ++refused;
            const auto code = model.error().code;
            if ((code != error_code::bad_input && code != error_code::unsupported) ||
                model.error().file != path)
                ++unnamed;
            return;
        }
        ++accepted;
        problems += problem_of(*model);
    }
};

}  // namespace

TEST_CASE("hostile pickle: no prefix of a file is a file") {
    const temp_folder temp(memory_parent());
    tally all;
    for (const auto& bytes : seeds())
        for (std::size_t length = 0; length < bytes.size(); ++length) {
            put_file(temp / "f", bytes.substr(0, length));
            all.look_at(temp / "f");
        }
    CHECK(all.accepted == 0);
    CHECK(all.unnamed == 0);
}

TEST_CASE("hostile pickle: every byte, all 256 values") {
    const temp_folder temp(memory_parent());
    tally all;
    std::size_t bytes = 0;
    for (const auto& seed : seeds()) {
        put_file(temp / "f", seed);
        const int fd = ::open((temp / "f").c_str(), O_WRONLY | O_CLOEXEC);
        REQUIRE(fd >= 0);
        for (std::size_t at = 0; at < seed.size(); ++at) {
            for (int value = 0; value < 256; ++value) {
                const char byte = static_cast<char>(value);
                REQUIRE(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
                all.look_at(temp / "f");
            }
            REQUIRE(::pwrite(fd, &seed[at], 1, static_cast<off_t>(at)) == 1);
        }
        ::close(fd);
        bytes += seed.size();
    }
    MESSAGE(all.accepted << " accepted, " << all.refused << " refused");
    CHECK(all.problems == "");
    CHECK(all.unnamed == 0);
    CHECK(all.accepted > bytes);  // at least each byte's own value
    CHECK(all.refused > all.accepted);
}

TEST_CASE("hostile pickle: instructions that ask for much, and depth, cost no more than the file pays for") {
    const temp_folder temp(memory_parent());
    constexpr std::size_t count = 200'000;
    const auto repeated = [](std::string_view part) {
        std::string out;
        for (std::size_t i = 0; i < count; ++i) out += part;
        return out;
    };
    const std::string array = pickle_with(pickle_array_of({1}, quarters(1)));
    const std::vector<std::string> bombs{
        repeated("N"),
        repeated("("),
        repeated("]"),
        repeated(")"),
        repeated("}\x94"),
        repeated("K\1\x85"),
        repeated(std::string("C\0", 2)),
        "]" + repeated("]a"),
        repeated("]") + repeated("a"),
        "N\x94" + repeated(std::string("h\0\x94", 3)),
        repeated("\x95" + std::string(8, '\0')),
        repeated(pickle_name("numpy", "a" + std::string(3, 'b'))),
        "(" + repeated("K\1") + "t",
        repeated("N\x85\x85"),
        "K\1" + repeated("\x85"),
        repeated(array.substr(2, array.size() - 3) + "0"),
    };
    for (const auto& bomb : bombs) {
        put_file(temp / "f", "\x80\4" + bomb + ".");
        const bitmill::input_file keep = bitmill::input_file::open(temp / "f").value();
        auto file = bitmill::input_file::open(temp / "f").value();
        const heap_meter meter;
        const auto model = pickle_model::open(std::move(file));
        CHECK_MESSAGE(meter.peak_bytes() <= 4 * keep.size() + (1u << 20), bomb.substr(0, 4), " ",
                      bomb.size());
    }
}
