// Truncated, bit-flipped and bloated index.json files.
#include <bitmill/io/checkpoint.hpp>

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <heap_meter.hpp>
#include <io_files.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::checkpoint;
using bitmill::error_code;

namespace {

const char* const index_name = "model.safetensors.index.json";
const std::string index_text =
    R"({"metadata":{"total_size":6},"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}})";

void put_shards(const temp_folder& temp) {
    put_file(temp / "1.safetensors", small_safetensors({"a", "b"}));
    put_file(temp / "2.safetensors", small_safetensors({"c"}));
}

}  // namespace

TEST_CASE("hostile index: no prefix is an index") {
    const temp_folder temp;
    put_shards(temp);
    put_file(temp / index_name, index_text);
    REQUIRE(checkpoint::open(temp.path()));
    for (std::size_t length = index_text.size(); length-- > 0;) {
        CAPTURE(length);
        std::filesystem::resize_file(temp / index_name, length);
        const auto model = checkpoint::open(temp.path());
        REQUIRE_FALSE(model);
        CHECK(model.error().code == error_code::bad_input);
        CHECK(model.error().file == temp / index_name);
    }
}

TEST_CASE("hostile index: every byte, all 256 values: an error, or the same three tensors") {
    const temp_folder temp;
    put_shards(temp);
    put_file(temp / index_name, index_text);
    const int fd = ::open((temp / index_name).c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    std::size_t accepted = 0, refused = 0, wrong = 0;
    for (std::size_t at = 0; at < index_text.size(); ++at) {
        for (int value = 0; value < 256; ++value) {
            const char byte = static_cast<char>(value);
            REQUIRE(::pwrite(fd, &byte, 1, static_cast<off_t>(at)) == 1);
            const auto model = checkpoint::open(temp.path());
            if (!model) {
                ++refused;
                if (model.error().code != error_code::bad_input || model.error().file.empty()) ++wrong;
                continue;
            }
            ++accepted;
            if (model.value().shard_count() != 2 || !model.value().find("a") || !model.value().find("b") ||
                !model.value().find("c") || model.value().find("c")->shard != 1)
                ++wrong;
        }
        REQUIRE(::pwrite(fd, &index_text[at], 1, static_cast<off_t>(at)) == 1);
    }
    ::close(fd);
    MESSAGE(accepted << " accepted, " << refused << " refused");
    CHECK(wrong == 0);
    CHECK(accepted >= index_text.size());
    CHECK(refused > accepted);
}

TEST_CASE("hostile index: opening takes at most 4 x file + 1 MiB") {
    const std::size_t size = 5'000'000;
    const auto repeat = [&](std::string text, auto item, const std::string& close) {
        for (std::size_t i = 0; text.size() < size; ++i) text += (i ? "," : "") + item(i);
        return text + close;
    };
    const auto quoted = [](std::size_t i) { return "\"" + std::to_string(i) + "\""; };
    const std::vector<std::string> texts{
        repeat(
            R"({"weight_map":{)", [&](std::size_t i) { return quoted(i) + ":\"s.safetensors\""; }, "}}"),
        repeat(
            R"({"weight_map":{)", [&](std::size_t i) { return quoted(i) + ":\"\""; }, "}}"),
        repeat(
            R"({"weight_map":{)", [&](std::size_t i) { return quoted(i) + ":" + quoted(i); }, "}}"),
        repeat(
            R"({"weight_map":{)", [&](std::size_t) { return std::string("\"a\":\"b\""); }, "}}"),
        repeat(
            R"({"metadata":{)", [&](std::size_t i) { return quoted(i) + ":0"; }, "}}"),
        repeat(
            R"({"x":[)", [&](std::size_t) { return std::string("{}"); }, "]}"),
        R"({"weight_map":{"a":")" + std::string(size, 'x') + "\"}}",
        "{\"" + std::string(size, 'x'),
        std::string(size, '['),
        std::string(size, ' '),
    };
    const temp_folder temp;
    for (const auto& text : texts) {
        CAPTURE(text.substr(0, 40));
        put_file(temp / index_name, text);
        const heap_meter meter;
        const auto model = checkpoint::open(temp.path());
        CHECK(meter.peak_bytes() <= 4 * text.size() + (1u << 20));
        REQUIRE_FALSE(model);
        CHECK(model.error().code == error_code::bad_input);
        CHECK(model.error().text().size() < 10'000);
    }
}
