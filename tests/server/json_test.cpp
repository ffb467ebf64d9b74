// JSON of clients: what is taken is what nlohmann takes, what is refused says where.
#include <server/json.hpp>

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using bitmill::error_code;
using nlohmann::json;
using server::parse_json;

namespace {

std::string nested(std::size_t depth, const std::string& open = "[", const std::string& close = "]") {
    std::string out;
    for (std::size_t i = 0; i < depth; ++i) out += open;
    for (std::size_t i = 0; i < depth; ++i) out += close;
    return out;
}

}  // namespace

TEST_CASE("json: what is right is what nlohmann makes of it") {
    for (const std::string text :
         {"null", "true", " 1 ", "-1", "18446744073709551615", "-9223372036854775808", "1.5e3", "\"\"",
          "\"\\u00e9\\ud83d\\ude00\\u0000\"", "[]", "{}", "[[],{},[1,[2]]]",
          R"({"a":{"b":[1,"x",null,{"a":true}]},"":[],"b":{"a":1}})", "\r\n\t[ 1 , 2 ]\n",
          "{\"\xc3\xa9\":\"\xf0\x9f\x98\x80\"}", "18446744073709551616"}) {
        const auto tree = parse_json(text);
        REQUIRE_MESSAGE(tree, text);
        CHECK(*tree == json::parse(text));
        CHECK(tree->dump() == json::parse(text).dump());
    }
}

TEST_CASE("json: what is wrong says where") {
    const std::vector<std::pair<std::string, std::uint64_t>> cases{
        {"", 0},
        {"{", 1},
        {"[1,]", 4},
        {"[1 2]", 5},
        {"{\"a\":1,\"a\":2}", 10},
        {"{\"a\":{\"b\":1,\"c\":2,\"b\":3}}", 21},
        {"{\"a\":1,\"\\u0061\":2}", 15},
        {"[1] x", 5},
        {"\"\xff\"", 2},
        {"\"\xc3\"", 3},
        {"\"\xed\xa0\x80\"", 3},
        {"\"\\ud800\"", 8},
        {"\"a\nb\"", 3},
        {"[01]", 4},
        {"[NaN]", 2},
        {"['a']", 2},
        {"[1e999]", 7},
        {"// x\n1", 1},
        {std::string("[1,\0]", 5), 3},
        {std::string("1\0", 2), 1},
        {"\xef\xbb\xbf[]", 0},
    };
    for (const auto& [text, offset] : cases) {
        const auto refused = parse_json(text);
        REQUIRE_FALSE_MESSAGE(bool(refused), text);
        CHECK(refused.error().code == error_code::bad_input);
        CHECK_MESSAGE(refused.error().offset == offset, text);
        CHECK(refused.error().message.find("at byte " + std::to_string(offset)) != std::string::npos);
        CHECK(bitmill::is_utf8(refused.error().message));
    }
    CHECK(parse_json("{\"a\":1,\"a\":2}").error().message.find("'a' stands twice") != std::string::npos);
}

TEST_CASE("json: depth and count of values are bounded") {
    CHECK(parse_json(nested(16)));
    CHECK(parse_json(nested(17)).error().offset == 17);
    CHECK(parse_json(nested(16, "{\"a\":[", "]}").substr(0, 1000)).error().message.find("16 levels") !=
          std::string::npos);
    CHECK_FALSE(parse_json(nested(1'000'000)));
    CHECK_FALSE(parse_json(std::string(1'000'000, '[')));
    const auto list = [](std::size_t count) {
        std::string out = "[0";
        for (std::size_t i = 1; i < count; ++i) out += ",0";
        return out + "]";
    };
    const server::json_limits limits{.depth = 2, .values = 10};
    CHECK(parse_json(list(9), limits)->size() == 9);
    CHECK(parse_json(list(10), limits).error().message.find("more than 10 values") != std::string::npos);
    CHECK(parse_json("[[]]", limits));
    CHECK_FALSE(parse_json("[[[]]]", limits));
    CHECK(parse_json("[[],[],[]]", limits));  // side by side is no depth
}

TEST_CASE("json: a message holds little of a hostile text") {
    const std::string key(100'000, 'k');
    const auto refused = parse_json("{\"" + key + "\":1,\"" + key + "\":2}");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.size() < 300);
    CHECK(parse_json("[" + std::string(100'000, 'x')).error().message.size() < 400);
    CHECK(parse_json("[1" + std::string(1000, '0') + "]").error().message.size() < 400);
    CHECK(parse_json("\"" + std::string(1000, 'x') + "\x01\"").error().message.size() < 400);
}
