#include <bitmill/io/safetensors.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::safetensors_writer;
using bitmill::tensor_spec;

namespace {

// What file systems say to a huge file differs: ext4 that it is too large; a tmpfs without a bound takes all
// memory for it; one that cannot reserve makes it sparse. This limit is the same everywhere.
class file_size_limit {
public:
    explicit file_size_limit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        if (::getrlimit(RLIMIT_FSIZE, &before_) != 0) throw std::system_error(errno, std::generic_category());
        const rlimit now{bytes, before_.rlim_max};
        if (::setrlimit(RLIMIT_FSIZE, &now) != 0) throw std::system_error(errno, std::generic_category());
    }
    file_size_limit(const file_size_limit&) = delete;
    file_size_limit& operator=(const file_size_limit&) = delete;
    ~file_size_limit() {
        (void)::setrlimit(RLIMIT_FSIZE, &before_);
        (void)std::signal(SIGXFSZ, handler_);
    }

private:
    void (*handler_)(int);
    rlimit before_{};
};

std::string pattern(std::uint64_t bytes, unsigned seed) {
    std::string text;
    for (std::uint64_t i = 0; i < bytes; ++i) text.push_back(static_cast<char>(i * 31 + seed * 17 + i / 256));
    return text;
}

// The file's text after the length, up to the padding.
std::string header_of(const std::string& path) {
    const std::string all = get_file(path);
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(all[i]);
    return all.substr(8, length);
}

}  // namespace

TEST_CASE("safetensors: every dtype, scalars and empty tensors come back as they went [EXACT]") {
    const temp_folder temp;
    std::vector<tensor_spec> specs;
    for (const auto& row : bitmill::dtype_table) {
        const std::string name(row.name);
        specs.push_back({name + ".matrix", row.type, {3, 8}});
        specs.push_back({name + ".empty", row.type, {4, 0, 2}});
        specs.push_back({name + ".deep", row.type, {1, 2, 1, 2, 1, 2, 1, 4}});
        if (row.bits >= 8) specs.push_back({name + ".scalar", row.type, {}});
    }
    auto writer = safetensors_writer::create(temp / "f.safetensors", specs).value();
    // Backwards and in two parts: neither the order nor the cut matters.
    for (std::size_t i = specs.size(); i-- > 0;) {
        const std::string data = pattern(writer.bytes(i), static_cast<unsigned>(i));
        const std::size_t half = data.size() / 2;
        REQUIRE(writer.write(i, half, bytes_of(data).subspan(half)));
        REQUIRE(writer.write(i, 0, bytes_of(data).first(half)));
    }
    REQUIRE(writer.finish());
    CHECK(std::filesystem::file_size(temp / "f.safetensors") == writer.file_bytes());
    CHECK(safetensors_writer::file_bytes(specs) == writer.file_bytes());

    const auto file = open_safetensors(temp / "f.safetensors").value();
    CHECK(walk_problem(file) == "");
    REQUIRE(file.size() == specs.size());
    CHECK(file.metadata() == bitmill::safetensors_metadata{{"format", "pt"}});
    CHECK_FALSE(file.find("F32.matri"));
    for (std::size_t i = 0; i < specs.size(); ++i) {
        CAPTURE(specs[i].name);
        const auto at = file.find(specs[i].name);
        REQUIRE(at);
        const auto tensor = file[*at];
        CHECK(tensor.name == specs[i].name);
        CHECK(tensor.type == specs[i].type);
        CHECK(std::equal(tensor.shape.begin(), tensor.shape.end(), specs[i].shape.begin(),
                         specs[i].shape.end()));
        CHECK(tensor.bytes == writer.bytes(i));
        CHECK(tensor.offset == writer.offset(i));
        CHECK(tensor.offset % std::max<std::size_t>(1, bitmill::element_bytes(tensor.type)) == 0);
        std::vector<std::byte> data(tensor.bytes);
        REQUIRE(file.file().read_at(tensor.offset, data));
        CHECK(text_of(data) == pattern(tensor.bytes, static_cast<unsigned>(i)));
    }
}

TEST_CASE("safetensors: the header is the reference writer's, byte for byte [EXACT]") {
    // Truth: safetensors 0.8.0, save({...}, metadata={"format": "pt"}).
    const temp_folder temp;
    auto writer = safetensors_writer::create(temp / "f", {{"b\"\\\n\x01\xc3\xa9/\x7f", dtype::u8, {3}},
                                                          {"z", dtype::f32, {2, 1}},
                                                          {"a", dtype::f32, {}},
                                                          {"i", dtype::i64, {0}},
                                                          {"h", dtype::f16, {1}}})
                      .value();
    for (std::size_t i = 0; i < 5; ++i) REQUIRE(writer.write(i, 0, bytes_of(pattern(writer.bytes(i), 1))));
    REQUIRE(writer.finish());
    std::string expected =
        R"({"__metadata__":{"format":"pt"},"i":{"dtype":"I64","shape":[0],"data_offsets":[0,0]},)"
        R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},)"
        R"("h":{"dtype":"F16","shape":[1],"data_offsets":[12,14]},"b\"\\\n\u0001)"
        "\xc3\xa9/\x7f"
        R"(":{"dtype":"U8","shape":[3],"data_offsets":[14,17]}})";
    expected.append((8 - expected.size() % 8) % 8, ' ');
    CHECK(header_of(temp / "f") == expected);
}

TEST_CASE("safetensors: no tensors, no metadata") {
    const temp_folder temp;
    REQUIRE(safetensors_writer::create(temp / "f", {}, {}).value().finish());
    CHECK(get_file(temp / "f") == raw_safetensors("{}      "));
    CHECK(safetensors_writer::file_bytes({}, {}) == 16);
    const auto file = open_safetensors(temp / "f").value();
    CHECK(file.size() == 0);
    CHECK(file.metadata().empty());
    CHECK_FALSE(file.find(""));
}

TEST_CASE("safetensors_writer: refuses what no reader takes") {
    const temp_folder temp;
    const auto code = [&](std::vector<tensor_spec> specs, bitmill::safetensors_metadata metadata = {}) {
        const auto made = safetensors_writer::create(temp / "f", std::move(specs), std::move(metadata));
        return made ? error_code::ok : made.error().code;
    };
    const std::uint64_t half = std::uint64_t{1} << 32;
    CHECK(code({{"a", dtype::u8, {1}}, {"a", dtype::f32, {1}}}) == error_code::invalid_argument);
    CHECK(code({{"__metadata__", dtype::u8, {1}}}) == error_code::invalid_argument);
    CHECK(code({{std::string(1025, 'n'), dtype::u8, {1}}}) == error_code::invalid_argument);
    CHECK(code({{"\xff", dtype::u8, {1}}}) == error_code::invalid_argument);
    CHECK(code({{"a", dtype::u8, {half, half}}}) == error_code::invalid_argument);
    std::vector<tensor_spec> huge;  // each fits 64 bits, their sum fits no file
    for (const char* name : {"a", "b", "c", "d", "e"}) huge.push_back({name, dtype::u8, {half, half / 16}});
    CHECK(code(huge) == error_code::invalid_argument);
    {
        const file_size_limit limit(1 << 20);
        CHECK(code({{"a", dtype::u8, {1 << 20}}}) == error_code::io);  // and nothing stays behind: below
    }
    CHECK(code({{"a", dtype::f4, {3}}}) == error_code::invalid_argument);
    CHECK(code({{"a", dtype::u8, std::vector<std::uint64_t>(9, 1)}}) == error_code::invalid_argument);
    CHECK(code({}, {{"k", "1"}, {"k", "2"}}) == error_code::invalid_argument);
    CHECK(code({}, {{"k", "\xc0\x80"}}) == error_code::invalid_argument);
    CHECK_THROWS_AS((void)safetensors_writer::file_bytes({{"a", dtype::f4, {3}}}), bitmill::exception);
    CHECK_FALSE(std::filesystem::exists(temp / "f"));
    CHECK(code({{std::string(1024, 'n'), dtype::u8, std::vector<std::uint64_t>(8, 1)}}) == error_code::ok);
}

TEST_CASE("safetensors_writer: bounds are checked and a tensor not written is not forgotten") {
    const temp_folder temp;
    auto writer =
        safetensors_writer::create(temp / "f", {{"a", dtype::u8, {4}}, {"b", dtype::u8, {4}}}).value();
    CHECK(writer.write(2, 0, bytes_of("x")).error().code == error_code::invalid_argument);
    CHECK(writer.write(0, 1, bytes_of("abcd")).error().tensor == "a");
    CHECK(writer.write(0, ~std::uint64_t{0}, bytes_of("abcd")).error().code == error_code::invalid_argument);
    REQUIRE(writer.write(0, 0, bytes_of("abcd")));
    REQUIRE(writer.write(1, 0, bytes_of("abc")));
    const auto finished = writer.finish();
    REQUIRE_FALSE(finished);
    CHECK(finished.error().tensor == "b");
}

TEST_CASE("safetensors_writer: a file that was begun is gone on with, if it is the same") {
    const temp_folder temp;
    const std::vector<tensor_spec> specs{{"a", dtype::u8, {4}}, {"b", dtype::u8, {4}}};
    CHECK(safetensors_writer::reopen(temp / "f", specs).error().code == error_code::io);
    {
        auto begun = safetensors_writer::create(temp / "f", specs).value();
        REQUIRE(begun.write(0, 0, bytes_of("abcd")));
        REQUIRE(begun.write(1, 2, bytes_of("gh")));
        REQUIRE(begun.sync());
    }
    auto writer = safetensors_writer::reopen(temp / "f", specs).value();
    writer.skip(0, 4);
    REQUIRE(writer.write(1, 0, bytes_of("ef")));
    auto forgetful = safetensors_writer::reopen(temp / "f", specs).value();
    CHECK(forgetful.finish().error().tensor == "a");
    writer.skip(1, 2);
    REQUIRE(writer.finish());
    const auto file = open_safetensors(temp / "f").value();
    CHECK(get_file(temp / "f").substr(file.data_begin()) == "abcdefgh");

    const auto refused = [&](const std::vector<tensor_spec>& other) {
        return safetensors_writer::reopen(temp / "f", other).error().code == error_code::bad_input;
    };
    CHECK(refused({{"a", dtype::u8, {4}}, {"c", dtype::u8, {4}}}));
    CHECK(refused({{"a", dtype::u8, {4}}, {"b", dtype::u8, {5}}}));
    std::filesystem::resize_file(temp / "f", file.file().size() - 1);
    CHECK(refused(specs));
    std::filesystem::rename(temp / "f", temp / "other");
    std::filesystem::resize_file(temp / "other", file.file().size());
    std::filesystem::create_symlink("other", temp / "f");
    CHECK(safetensors_writer::reopen(temp / "f", specs).error().code == error_code::io);
}

TEST_CASE("safetensors_writer: many threads write one file") {
    const temp_folder temp;
    std::vector<tensor_spec> specs;
    for (int i = 0; i < 64; ++i)
        specs.push_back({"t" + std::to_string(i), i % 2 ? dtype::f32 : dtype::u8, {997}});
    auto writer = safetensors_writer::create(temp / "f", specs).value();
    std::vector<std::thread> threads;
    std::vector<int> failed(4);
    for (std::size_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (std::size_t i = t; i < specs.size(); i += 4) {
                const std::string data = pattern(writer.bytes(i), static_cast<unsigned>(i));
                for (std::size_t at = 0; at < data.size(); at += 100) {
                    const auto part =
                        bytes_of(data).subspan(at, std::min<std::size_t>(100, data.size() - at));
                    if (!writer.write(i, at, part)) ++failed[t];
                }
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(failed == std::vector<int>(4));
    REQUIRE(writer.finish());
    const auto file = open_safetensors(temp / "f").value();
    CHECK(walk_problem(file) == "");
    for (std::size_t i = 0; i < specs.size(); ++i) {
        const auto tensor = file[*file.find(specs[i].name)];
        std::vector<std::byte> data(tensor.bytes);
        REQUIRE(file.file().read_at(tensor.offset, data));
        CHECK(text_of(data) == pattern(tensor.bytes, static_cast<unsigned>(i)));
    }
}

TEST_CASE("safetensors: every seed opens and is whole; moving the file keeps its views") {
    const temp_folder temp;
    for (const auto& [name, bytes] : safetensors_seeds()) {
        CAPTURE(name);
        put_file(temp / "f", bytes);
        auto file = open_safetensors(temp / "f");
        REQUIRE_MESSAGE(file, file.error().text());
        CHECK(walk_problem(*file) == "");
        const auto name_before = file->size() > 0 ? (*file)[0].name : std::string_view();
        const bitmill::safetensors_file moved = std::move(*file);
        if (moved.size() > 0) CHECK(moved[0].name.data() == name_before.data());
    }
}

TEST_CASE("safetensors: what the format forbids is refused, and the message says where") {
    struct row {
        const char* header;
        std::size_t data;
        const char* says;    // a part of the message
        const char* tensor;  // that the error names
    };
    const std::vector<row> rows{
        {R"(["a"])", 0, "must be a JSON object", ""},
        {R"("a")", 0, "begin with '{'", ""},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x)", 4, "broken", ""},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}{})", 4, "broken", ""},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},})", 4, "broken", ""},
        {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4, "not a dtype", "a"},
        {R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4, "not a dtype", "a"},
        {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype must be a string", "a"},
        {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "no dtype", "a"},
        {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "no shape", "a"},
        {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "no data_offsets", "a"},
        {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "twice", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4, "twice", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4, "twice", "a"},
        {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "fraction", "a"},
        {R"({"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}})", 4, "fraction", "a"},
        {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "negative", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}})", 4, "negative", "a"},
        {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "a string", "a"},
        {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "an array", "a"},
        {R"({"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}})", 4, "null", "a"},
        {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "a number", "a"},
        {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, "8 dimensions", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "two numbers", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", 4, "two numbers", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":{}}})", 4, "an object", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "backwards", "a"},
        {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,5]}})", 5, "takes 4 bytes", "a"},
        {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4, "2^64", "a"},
        {R"({"a":{"dtype":"F32","shape":[4294967296,4294967297],"data_offsets":[0,4]}})", 4, "64 bits", "a"},
        {R"({"a":{"dtype":"F32","shape":[4294967296,4294967297,0],"data_offsets":[0,0]}})", 0, "64 bits",
         "a"},
        {R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4, "64 bits", "a"},
        {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "whole bytes", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, "hole", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
         5, "hole", "b"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
         3, "overlap", "b"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
         2, "overlap", "b"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
         2, "twice", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
         2, "twice", "a"},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3, "follow the last", ""},
        {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
         3, "cut short", "b"},
        {R"({"a":[]})", 0, "must be an object", "a"},
        {R"({"a":null})", 0, "must be an object", "a"},
        {R"({"__metadata__":{"a":1}})", 0, "only strings", ""},
        {R"({"__metadata__":{"a":{}}})", 0, "only strings", ""},
        {R"({"__metadata__":[]})", 0, "must be an object", ""},
        {R"({"__metadata__":"x"})", 0, "must be an object", ""},
        {R"({"__metadata__":{},"__metadata__":{}})", 0, "twice", ""},
        {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "twice", ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]"
         "}}",
         1, "deeper than 16", ""},
        {"\xef\xbb\xbf{}", 0, "begin with '{'", ""},
        {"{\"\xc0\x80\":1}", 0, "broken", ""},
        {"{\"\xed\xa0\x80\":1}", 0, "broken", ""},
        {R"({"\ud800":1})", 0, "broken", ""},
        {"", 0, "empty", ""},
        {"   ", 0, "broken", ""},
    };
    const temp_folder temp;
    for (const row& bad : rows) {
        CAPTURE(bad.header);
        put_file(temp / "f", raw_safetensors(bad.header, std::string(bad.data, 'x')));
        const auto file = open_safetensors(temp / "f");
        REQUIRE_FALSE(file);
        CHECK(file.error().code == error_code::bad_input);
        CHECK(file.error().file == temp / "f");
        CHECK(file.error().tensor == bad.tensor);
        CHECK_MESSAGE(file.error().message.find(bad.says) != std::string::npos, file.error().text());
        if (file.error().offset != bitmill::error::no_offset)
            CHECK(file.error().offset <= std::filesystem::file_size(temp / "f"));
    }
}

TEST_CASE("safetensors: NUL bytes do not end a header") {
    const temp_folder temp;
    const std::string good = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
    for (const std::size_t at : {std::size_t{0}, std::size_t{1}, good.size() - 1, good.size()}) {
        std::string header = good;
        header.insert(at, 1, '\0');
        put_file(temp / "f", raw_safetensors(header, "x"));
        const auto file = open_safetensors(temp / "f");
        REQUIRE_FALSE(file);
        CHECK(file.error().message.find("NUL") != std::string::npos);
        CHECK(file.error().offset == 8 + at);
    }
}

TEST_CASE("safetensors: lengths that lie") {
    const temp_folder temp;
    for (const std::string& bytes :
         {std::string(), std::string(7, 'x'), little_endian(0), little_endian(1),
          little_endian(100'000'001) + "{}", little_endian(~std::uint64_t{0}) + "{}",
          little_endian(~std::uint64_t{0} - 7) + "{}", little_endian(3) + "{}"}) {
        put_file(temp / "f", bytes);
        const auto file = open_safetensors(temp / "f");
        REQUIRE_FALSE(file);
        CHECK(file.error().code == error_code::bad_input);
    }
}

TEST_CASE("safetensors: a header may be padded with any amount of white space") {
    const temp_folder temp;
    const std::string entry = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
    const std::string wide(300'000, ' ');
    put_file(temp / "f", raw_safetensors(wide + "{" + wide + entry + wide + "}" + wide, "x"));
    const auto file = open_safetensors(temp / "f");
    REQUIRE_MESSAGE(file, file.error().text());
    CHECK(walk_problem(*file) == "");
    // Offsets in messages stay exact across the white space that is skipped.
    const std::string broken = wide + "{" + wide + R"("a":7)";
    put_file(temp / "f", raw_safetensors(broken + "}", ""));
    CHECK(open_safetensors(temp / "f").error().offset == 8 + broken.size() + 1);
}
