// GGUF files: what they hold, what is refused, and what the writer makes of the same.
#include <bitmill/io/gguf.hpp>

#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/io/checkpoint.hpp>
#include <bitmill/io/weight_file.hpp>

#include <gguf_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::checkpoint;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::ggml_type;
using bitmill::gguf_metadata;
using bitmill::gguf_spec;
using bitmill::gguf_type;
using bitmill::gguf_writer;

namespace {

std::vector<std::uint64_t> list(std::span<const std::uint64_t> shape) { return {shape.begin(), shape.end()}; }
using shape = std::vector<std::uint64_t>;

std::vector<std::string> strings(const bitmill::gguf_strings& from) { return {from.begin(), from.end()}; }

}  // namespace

TEST_CASE("gguf: tensors by name, with type, shape and place") {
    const temp_folder temp;
    const std::string bytes = gguf_small();
    put_file(temp / "m.gguf", bytes);
    const auto file = open_gguf(temp / "m.gguf");
    REQUIRE_MESSAGE(file, file.error().text());
    CHECK(file->version() == 3);
    CHECK(file->alignment() == 32);
    CHECK(file->data_begin() == bytes.size() - 304);
    CHECK(gguf_problem(*file) == "");
    REQUIRE(file->size() == 4);
    const auto a = (*file)[0], b = (*file)[1], c = (*file)[2], d = (*file)[3];
    CHECK(a.name == "a.weight");
    CHECK(a.type == dtype::f32);
    CHECK(list(a.shape) == shape{2, 3});
    CHECK(list(file->shape(0)) == shape{2, 3});
    CHECK_FALSE(a.block);
    // Blocks: bytes for those who know no better, elements for the others.
    CHECK(b.type == dtype::u8);
    CHECK(b.block == ggml_type::q8_0);
    CHECK(file->type(1) == ggml_type::q8_0);
    CHECK(list(b.shape) == shape{2, 34});
    CHECK(list(file->shape(1)) == shape{2, 32});
    CHECK(b.bytes == 68);
    CHECK(b.elements == 68);
    CHECK(b.offset == a.offset + 32);
    CHECK(c.shape.empty());
    CHECK(c.bytes == 2);
    CHECK(c.elements == 1);
    CHECK(d.block == ggml_type::q4_k);
    CHECK(list(d.shape) == shape{144});
    CHECK(d.offset + d.bytes == bytes.size());  // padding that nothing follows may be missing
    CHECK(file->find("d") == 3);
    CHECK_FALSE(file->find("e"));
}

TEST_CASE("gguf: keys by name, with values of every type that are never cast") {
    const temp_folder temp;
    put_file(temp / "m.gguf", gguf_small());
    const auto file = open_gguf(temp / "m.gguf").value();
    const gguf_metadata& keys = file.metadata();
    REQUIRE(keys.size() == 16);
    CHECK(keys[0].key == "general.architecture");
    CHECK(keys.get<std::string_view>("general.architecture") == "llama");
    CHECK(keys.get<std::uint8_t>("u8") == 254);
    CHECK(keys.get<std::int8_t>("i8") == -2);
    CHECK(keys.get<std::uint16_t>("u16") == 65534);
    CHECK(keys.get<std::int16_t>("i16") == -2);
    CHECK(keys.get<std::uint32_t>("u32") == 0xfffffffe);
    CHECK(keys.get<std::int32_t>("i32") == -2);
    CHECK(keys.get<float>("f32") == -1.5f);
    CHECK(keys.get<bool>("yes") == true);
    CHECK(keys.get<std::uint64_t>("u64") == 0xfffffffffffffffe);
    CHECK(keys.get<std::int64_t>("i64") == -2);
    CHECK(keys.get<double>("f64") == 1.5);
    CHECK(keys.get<std::string_view>("empty") == "");
    CHECK_FALSE(keys.get<std::uint32_t>("u64"));
    CHECK_FALSE(keys.get<std::uint64_t>("u32"));
    CHECK_FALSE(keys.get<std::string_view>("tokens"));
    CHECK_FALSE(keys.get<std::uint32_t>("missing"));
    const auto tokens = keys.find("tokens").value();
    CHECK(tokens.type == gguf_type::array);
    CHECK(tokens.element == gguf_type::string);
    CHECK(tokens.count == 3);
    CHECK(strings(tokens.strings()) == std::vector<std::string>{"a", "", "\xe2\x96\x81z"});
    const auto scores = keys.find("scores").value();
    CHECK(scores.at<float>(0) == 0.25f);
    CHECK(scores.at<float>(1) == -3.f);
    CHECK_FALSE(scores.at<float>(2));
    CHECK_FALSE(scores.at<double>(0));
    CHECK(scores.strings().size() == 0);
    CHECK(keys.find("none")->count == 0);
    CHECK_FALSE(keys.find("none")->at<std::uint32_t>(0));
}

TEST_CASE("gguf: version 2 reads as 3 does; others and big-endian ones are named") {
    const temp_folder temp;
    const auto code = [&](std::uint32_t version) {
        put_file(temp / "m.gguf", gguf_of({}, {{"a", {1}, 0, 0}}, "wxyz", version));
        const auto file = open_gguf(temp / "m.gguf");
        return file ? error_code::ok : file.error().code;
    };
    CHECK(code(2) == error_code::ok);
    CHECK(code(3) == error_code::ok);
    CHECK(code(0) == error_code::bad_input);
    CHECK(code(1) == error_code::unsupported);
    CHECK(code(4) == error_code::unsupported);
    CHECK(code(0x03000000) == error_code::unsupported);
    CHECK(open_gguf(temp / "m.gguf").error().message.find("big-endian") != std::string::npos);
}

TEST_CASE("gguf: general.alignment is kept, and must be one") {
    const temp_folder temp;
    const auto open = [&](std::uint32_t type, const std::string& value, std::uint64_t second,
                          std::size_t align) {
        put_file(temp / "m.gguf",
                 gguf_of({gguf_pair("general.alignment", type, value)},
                         {{"a", {1}, 0, 0}, {"b", {1}, 0, second}}, std::string(second + 4, 'x'), 3, align));
        return open_gguf(temp / "m.gguf");
    };
    CHECK(open(4, le4(64), 64, 64).value().alignment() == 64);
    CHECK(open(4, le4(8), 8, 8).value().alignment() == 8);
    CHECK(open(4, le4(1u << 20), 1u << 20, 1u << 20).value().alignment() == 1u << 20);
    CHECK(open(4, le4(64), 32, 64).error().tensor == "b");
    for (const std::uint32_t bad : {0u, 48u, 1u << 21, 0x80000000u, 0xffffffffu})
        CHECK(open(4, le4(bad), 32, 32).error().message.find("general.alignment") != std::string::npos);
    CHECK(open(10, little_endian(32), 32, 32).error().code == error_code::bad_input);
    CHECK(open(5, le4(32), 32, 32).error().code == error_code::bad_input);
}

TEST_CASE("gguf: what the format forbids is named with its tensor, its byte and its rule") {
    const temp_folder temp;
    const auto refused = [&](const std::string& bytes, const char* why,
                             error_code code = error_code::bad_input) {
        CAPTURE(why);
        put_file(temp / "m.gguf", bytes);
        const auto file = open_gguf(temp / "m.gguf");
        REQUIRE_FALSE(file);
        CHECK(file.error().code == code);
        CHECK(file.error().file == temp / "m.gguf");
        CHECK(file.error().offset <= bytes.size());
        CHECK_MESSAGE(file.error().text().find(why) != std::string::npos, file.error().text());
    };
    const auto tensors = [](const std::vector<gguf_tensor>& list) {
        return gguf_of({}, list, std::string(512, 'x'));
    };
    const auto pair = [](const std::string& one) { return gguf_of({one}, {}, ""); };
    refused("GGUF", "too few");
    refused("GGML" + gguf_small().substr(4), "not a GGUF file");
    refused(tensors({{"a", {4}, 0, 0}, {"a", {4}, 0, 32}}), "twice");
    refused(tensors({{"", {4}, 0, 0}}), "1 to 63");
    refused(tensors({{std::string(64, 'n'), {4}, 0, 0}}), "at most 63");
    refused(tensors({{"\xff", {4}, 0, 0}}), "UTF-8");
    refused(tensors({{std::string("a\0b", 3), {4}, 0, 0}}), "none of them 0");
    refused(tensors({{"t", {1, 1, 1, 1, 1}, 0, 0}}), "5 dimensions");
    refused(tensors({{"t", {48}, 8, 0}}), "whole blocks of Q8_0");
    refused(tensors({{"t", {}, 8, 0}}), "whole blocks");
    refused(tensors({{"t", {std::uint64_t{1} << 63}, 24, 0}}), "63 bits");
    refused(tensors({{"t", {0, std::uint64_t{1} << 63}, 24, 0}}), "63 bits");
    refused(tensors({{"t", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 24, 0}}), "63 bits");
    refused(tensors({{"t", {std::uint64_t{1} << 62}, 28, 0}}), "64 bits");
    refused(tensors({{"t", {(std::uint64_t{1} << 63) - 1}, 1, 0}}), "64 bits");  // its padding
    refused(tensors({{"t", {4}, 0, 32}}), "a hole");
    refused(tensors({{"a", {4}, 0, 0}, {"b", {4}, 0, 0}}), "an overlap");
    refused(tensors({{"a", {4}, 0, 32}, {"b", {4}, 0, 0}}), "a hole");      // out of order
    refused(tensors({{"a", {4}, 0, 0}, {"b", {4}, 0, 16}}), "an overlap");  // not aligned
    refused(tensors({{"a", {512}, 0, 0}}), "behind the file's end");
    refused(tensors({{"t", {256}, 16, 0}}), "type 16 (IQ2_XXS)", error_code::unsupported);
    refused(tensors({{"t", {256}, 4, 0}}), "since removed", error_code::unsupported);
    refused(tensors({{"t", {64}, 40, 0}}), "NVFP4", error_code::unsupported);
    refused(tensors({{"t", {4}, 4000000000, 0}}), "type 4000000000", error_code::unsupported);
    refused(pair(gguf_pair("", 0, "x")), "empty");
    refused(pair(gguf_pair("\xff", 0, "x")), "not UTF-8");
    refused(pair(gguf_pair("k", 13, "x")), "'k' is of type 13");
    refused(pair(gguf_pair("k", 9, gguf_array(9, 1, gguf_array(0, 1, "x")))), "array of arrays",
            error_code::unsupported);
    refused(pair(gguf_pair("k", 9, gguf_array(13, 1, "x"))), "type 13");
    refused(gguf_of({gguf_pair("k", 0, "x"), gguf_pair("j", 0, "x"), gguf_pair("k", 1, "x")}, {}, ""),
            "'k' stands there twice");
    refused(gguf_head(1u << 21, 0) + std::string(100, 'x'), "at most 1048576");
    refused(gguf_head(0, 65537) + std::string(100, 'x'), "at most 65536");
    refused(gguf_head(5, 0) + std::string(100, 'x'), "too few");
}

TEST_CASE("gguf: a zero dimension has no bytes, trailing bytes are nobody's") {
    const temp_folder temp;
    put_file(temp / "m.gguf", gguf_of({}, {{"z", {0, 3}, 0, 0}, {"y", {4}, 24, 0}, {"zz", {0}, 12, 32}},
                                      std::string(40, 'x')));
    const auto file = open_gguf(temp / "m.gguf");
    REQUIRE_MESSAGE(file, file.error().text());
    CHECK((*file)[0].bytes == 0);
    CHECK(list((*file)[0].shape) == shape{3, 0});
    CHECK((*file)[2].bytes == 0);
    CHECK(gguf_problem(*file) == "");
    put_file(temp / "m.gguf", gguf_head(0, 0));  // nothing at all, and no padding
    const auto empty = bitmill::weight_file::open(bitmill::input_file::open(temp / "m.gguf").value()).value();
    CHECK(empty.size() == 0);
    CHECK(empty.header().bytes == 24);
}

TEST_CASE("gguf_metadata: one key changed, every other byte as it was") {
    const temp_folder temp;
    put_file(temp / "m.gguf", gguf_small());
    const auto file = open_gguf(temp / "m.gguf").value();
    gguf_metadata keys = file.metadata();
    REQUIRE(keys.set("u32", std::uint32_t{7}));                 // as long as it was
    REQUIRE(keys.set("general.architecture", "a longer one"));  // longer
    REQUIRE(keys.set("tokens", true));                          // of another type
    REQUIRE(keys.set("general.file_type", std::uint32_t{15}));  // new
    auto pairs = gguf_every_pair();
    pairs[5] = gguf_pair("u32", 4, le4(7));
    pairs[0] = gguf_pair("general.architecture", 8, gguf_string("a longer one"));
    pairs[13] = gguf_pair("tokens", 7, "\1");
    pairs.push_back(gguf_pair("general.file_type", 4, le4(15)));
    std::string expected;
    for (const auto& pair : pairs) expected += pair;
    CHECK(keys.bytes() == expected);
    CHECK(keys.size() == 17);
    for (const auto* key : {"u8", "scores", "none", "general.file_type"}) CHECK(keys.find(key)->key == key);
    CHECK(keys.get<std::uint32_t>("general.file_type") == 15);
    CHECK(file.metadata().get<std::uint32_t>("u32") == 0xfffffffe);  // a copy was changed
    CHECK(keys.set("", 1.0f).error().code == error_code::invalid_argument);
    CHECK(keys.set("\xff", 1.0f).error().code == error_code::invalid_argument);
    CHECK(keys.set(std::string(65536, 'k'), 1.0f).error().code == error_code::invalid_argument);
    CHECK(keys.bytes() == expected);
    gguf_metadata fresh;
    REQUIRE(fresh.set("b", 2.5));
    REQUIRE(fresh.set("a", std::string("text")));
    REQUIRE(fresh.set("c", std::int64_t{-1}));
    CHECK(fresh[0].key == "b");
    CHECK(fresh.get<double>("b") == 2.5);
    CHECK(fresh.get<std::string_view>("a") == "text");
    CHECK(fresh.get<std::int64_t>("c") == -1);
}

TEST_CASE("gguf_writer: the same metadata and tensors make the same file") {
    const temp_folder temp;
    const std::string original = gguf_small() + std::string(16, '\0');  // with its last padding
    put_file(temp / "m.gguf", original);
    const auto file = open_gguf(temp / "m.gguf").value();
    std::vector<gguf_spec> specs;
    for (std::size_t i = 0; i < file.size(); ++i)
        specs.push_back({std::string(file[i].name), file.type(i), list(file.shape(i))});
    auto writer = gguf_writer::create(temp / "out.gguf", specs, file.metadata()).value();
    CHECK(gguf_writer::file_bytes(specs, file.metadata()) == original.size());
    CHECK(writer.file_bytes() == original.size());
    CHECK(gguf_writer::header(specs, file.metadata()) == original.substr(0, file.data_begin()));
    CHECK(gguf_writer::file_order(specs) == std::vector<std::size_t>{0, 1, 2, 3});
    std::string expected = original;
    for (std::size_t i = 0; i < specs.size(); ++i) {
        const auto t = file[i];
        CHECK(writer.offset(i) == t.offset);
        CHECK(writer.bytes(i) == t.bytes);
        const std::size_t end = static_cast<std::size_t>(t.offset + t.bytes);
        const std::size_t next =
            i + 1 < specs.size() ? static_cast<std::size_t>(file[i + 1].offset) : original.size();
        expected.replace(end, next - end, next - end, '\0');  // the seed's padding is not zero
        REQUIRE(writer.write(i, 0,
                             bytes_of(std::string_view(original).substr(static_cast<std::size_t>(t.offset),
                                                                        static_cast<std::size_t>(t.bytes)))));
    }
    REQUIRE(writer.finish());
    CHECK(get_file(temp / "out.gguf") == expected);
}

TEST_CASE("gguf_writer: alignment is the metadata's") {
    const temp_folder temp;
    gguf_metadata keys;
    const std::vector<gguf_spec> specs{{"a", ggml_type::f16, {3}}, {"b", ggml_type::q4_0, {2, 32}}};
    CHECK(gguf_writer::file_bytes(specs, keys) % 32 == 0);
    REQUIRE(keys.set("general.alignment", std::uint32_t{4096}));
    auto writer = gguf_writer::create(temp / "m.gguf", specs, keys).value();
    CHECK(writer.offset(0) == 4096);
    CHECK(writer.offset(1) == 8192);
    CHECK(writer.file_bytes() == 12288);
    REQUIRE(writer.write(0, 0, bytes_of("123456")));
    REQUIRE(writer.write(1, 0, bytes_of(std::string(36, 'q'))));
    REQUIRE(writer.finish());
    CHECK(open_gguf(temp / "m.gguf").value().alignment() == 4096);
    REQUIRE(keys.set("general.alignment", std::uint32_t{48}));
    CHECK(gguf_writer::create(temp / "n.gguf", specs, keys).error().code == error_code::invalid_argument);
    REQUIRE(keys.set("general.alignment", std::uint64_t{64}));
    CHECK(gguf_writer::create(temp / "n.gguf", specs, keys).error().code == error_code::invalid_argument);
}

TEST_CASE("gguf_writer: refuses what no reader takes") {
    const temp_folder temp;
    const auto refused = [&](const std::vector<gguf_spec>& specs) {
        const auto made = gguf_writer::create(temp / "f", specs, {});
        CHECK_FALSE(std::filesystem::exists(temp / "f"));
        return !made && made.error().code == error_code::invalid_argument;
    };
    CHECK(refused({{"a", ggml_type::f32, {1}}, {"a", ggml_type::f32, {1}}}));
    CHECK(refused({{"", ggml_type::f32, {1}}}));
    CHECK(refused({{std::string(64, 'n'), ggml_type::f32, {1}}}));
    CHECK(refused({{"\xff", ggml_type::f32, {1}}}));
    CHECK(refused({{std::string(1, '\0'), ggml_type::f32, {1}}}));
    CHECK(refused({{"a", ggml_type::f32, {1, 1, 1, 1, 1}}}));
    CHECK(refused({{"a", ggml_type::q4_k, {256, 128}}}));
    CHECK(refused({{"a", ggml_type::q8_0, {}}}));
    CHECK(refused({{"a", ggml_type::f32, {std::uint64_t{1} << 62}}}));
    CHECK(refused({{"a", ggml_type::i8, {std::uint64_t{1} << 61}},
                   {"b", ggml_type::i8, {std::uint64_t{1} << 61}},
                   {"c", ggml_type::i8, {1}}}));
    CHECK_THROWS_AS((void)gguf_writer::file_bytes({{"", ggml_type::f32, {1}}}, {}), bitmill::exception);
    CHECK_THROWS_AS((void)gguf_writer::file_order({{"", ggml_type::f32, {1}}}), bitmill::exception);
}

TEST_CASE(
    "gguf_writer: many threads write one file; a file that was begun is gone on with, if it is the same") {
    const temp_folder temp;
    const std::vector<gguf_spec> specs{{"a", ggml_type::f32, {64, 1024}}, {"b", ggml_type::i8, {5}}};
    gguf_metadata keys;
    REQUIRE(keys.set("general.architecture", "test"));
    {
        auto writer = gguf_writer::create(temp / "m.gguf", specs, keys).value();
        std::vector<std::jthread> threads;
        for (unsigned t = 0; t < 4; ++t)
            threads.emplace_back([&, t] {
                const std::string row(4096, static_cast<char>('a' + t));
                for (std::uint64_t i = t; i < 64; i += 4) CHECK(writer.write(0, i * 4096, bytes_of(row)));
            });
        threads.clear();
        CHECK(writer.finish().error().tensor == "b");
        REQUIRE(writer.sync());
    }
    auto other = keys;
    REQUIRE(other.set("general.architecture", "tset"));
    CHECK(gguf_writer::reopen(temp / "m.gguf", specs, other).error().code == error_code::bad_input);
    auto writer = gguf_writer::reopen(temp / "m.gguf", specs, keys).value();
    writer.skip(0, 64 * 4096);
    REQUIRE(writer.write(1, 0, bytes_of("12345")));
    REQUIRE(writer.finish());
    const auto file = open_gguf(temp / "m.gguf").value();
    CHECK(gguf_problem(file) == "");
    const std::string bytes = get_file(temp / "m.gguf");
    for (std::size_t i = 0; i < 64; ++i)
        CHECK(bytes[static_cast<std::size_t>(file[0].offset) + i * 4096 + 17] ==
              static_cast<char>('a' + i % 4));
    CHECK(bytes.substr(static_cast<std::size_t>(file[1].offset)) == "12345" + std::string(27, '\0'));
}

TEST_CASE("checkpoint: a .gguf file, or the folder of one") {
    const temp_folder temp;
    put_file(temp / "one/m.gguf", gguf_small());
    put_file(temp / "one/README.md", "x");
    const auto file = checkpoint::open(temp / "one/m.gguf").value();
    CHECK(file.shard(0).gguf() != nullptr);
    CHECK(file.root() == temp / "one");
    CHECK(file.side_files().empty());  // beside a lone file lies anything
    CHECK(file.find("b.weight")->tensor == 1);
    const auto folder = checkpoint::open(temp / "one").value();
    CHECK(folder.shard_name(0) == "m.gguf");
    CHECK(folder.side_files().size() == 1);
    // Which of two is meant nothing says.
    put_file(temp / "one/n.gguf", gguf_small());
    CHECK(checkpoint::open(temp / "one").error().code == error_code::unsupported);
    std::filesystem::remove(temp / "one/n.gguf");
    put_file(temp / "one/other.onnx", "x");
    CHECK(checkpoint::open(temp / "one").error().code == error_code::unsupported);
    put_file(temp / "one/model.safetensors", small_safetensors({"x"}));
    CHECK(checkpoint::open(temp / "one").value().shard_name(0) == "model.safetensors");
    // Split models are told apart from whole ones.
    const auto split = [&](const char* count) {
        put_file(temp / "two/m.gguf", gguf_of({gguf_pair("split.count", 2, {count, 2})}, {}, ""));
        return checkpoint::open(temp / "two/m.gguf");
    };
    CHECK(split("\1\0").value().shard_count() == 1);
    CHECK(split("\2\0").error().code == error_code::unsupported);
    CHECK(split("\2\0").error().message.find("llama-gguf-split --merge") != std::string::npos);
    CHECK(checkpoint::open(temp / "two").error().code == error_code::unsupported);
    // An index is one of safetensors or PyTorch shards.
    put_file(temp / "three/m.gguf", gguf_small());
    put_file(temp / "three/model.safetensors.index.json", R"({"weight_map":{"a.weight":"m.gguf"}})");
    CHECK(checkpoint::open(temp / "three").error().code == error_code::bad_input);
}
