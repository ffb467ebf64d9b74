// The reader of requests, fed whole, byte by byte and cut in two: it must come to the same.
#include <server/request_reader.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

using server::http_limits;
using server::http_options;
using server::text_pairs;

namespace {

struct outcome {
    unsigned refused = 0;
    bool done = false;
    std::string method, path, body;
    text_pairs query, headers;
    bool keep_alive = false;
    std::string left;  // of the bytes, not taken

    bool operator==(const outcome&) const = default;
};

// As a connection does: what is not taken comes again, with more behind it.
outcome feed(const std::vector<std::string_view>& pieces, const http_limits& limits = {}) {
    const http_options options;
    const server::http_gate gate(options, "127.0.0.1");
    const std::string local = "127.0.0.1";
    server::byte_budget budget(1 << 20);
    outcome out;
    {
        server::request_reader reader({limits, gate, local, budget});
        for (const auto piece : pieces) {
            out.left += piece;
            out.left.erase(0, reader.put(out.left));
        }
        out.refused = reader.refused() ? reader.refused()->status : 0;
        out.done = reader.done();
        const auto& request = reader.request();
        out.method = request.method;
        out.path = request.path;
        if (out.refused == 0) {
            out.query = request.query;
            out.headers = request.headers;
            out.body = request.body;
            out.keep_alive = reader.keep_alive();
            CHECK(budget.held() == request.body.size());
        }
    }
    CHECK(budget.held() == 0);
    return out;
}

// In pieces a header is looked at when it is whole: one that is wrong and never ends is refused when its time is over.
void check_same(const outcome& in_pieces, const outcome& whole, const std::string& text) {
    const bool endless = text.find("\r\n\r\n") == std::string::npos;
    CHECK_MESSAGE((in_pieces.refused == whole.refused || (endless && in_pieces.refused == 0)), text);
    CHECK(in_pieces.done == whole.done);
    if (whole.refused == 0) CHECK_MESSAGE(in_pieces == whole, text);
}

outcome feed_each_way(const std::string& text, const http_limits& limits = {}) {
    const outcome whole = feed({text}, limits);
    std::vector<std::string_view> bytes;
    for (std::size_t i = 0; i < text.size(); ++i) bytes.push_back(std::string_view(text).substr(i, 1));
    check_same(feed(bytes, limits), whole, text);
    for (std::size_t i = 1; i < text.size() && text.size() < 300; ++i)
        check_same(feed({std::string_view(text).substr(0, i), std::string_view(text).substr(i)}, limits),
                   whole, text);
    return whole;
}

std::string get(const std::string& target) {
    return "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
}
std::string post(const std::string& fields, const std::string& rest) {
    return "POST / HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n" + rest;
}
std::string chunks(const std::string& rest) { return post("Transfer-Encoding: chunked\r\n", rest); }

}  // namespace

TEST_CASE("request reader: requests as they should be") {
    auto one = feed_each_way(
        "\r\nPOST /a%20b/c%2Fd?q=1+2&%C3%A9=%26&empty=&bare HTTP/1.1\r\nHost: localhost\r\nX-Name:  v \t\r\n"
        "Content-Length: 4\r\n\r\nbodyGET");
    CHECK(one.done);
    CHECK(one.method == "POST");
    CHECK(one.path == "/a b/c/d");
    CHECK(one.query == text_pairs{{"q", "1 2"}, {"\xc3\xa9", "&"}, {"empty", ""}, {"bare", ""}});
    CHECK(one.headers == text_pairs{{"host", "localhost"}, {"x-name", "v"}, {"content-length", "4"}});
    CHECK(one.body == "body");
    CHECK(one.left == "GET");
    CHECK(one.keep_alive);

    CHECK(feed_each_way(chunks("4\r\nwiki\r\n005;a=b\r\npedia\r\n0\r\nX: y\r\n\r\n")).body == "wikipedia");
    CHECK(feed_each_way(chunks("0\r\n\r\n")).done);
    CHECK(feed_each_way(post("", "GET / HTTP/1.1")).left == "GET / HTTP/1.1");  // no length: no body
    CHECK_FALSE(feed_each_way("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").keep_alive);
    CHECK_FALSE(feed_each_way("GET / HTTP/1.0\r\n\r\n").keep_alive);
    CHECK(feed_each_way("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n").path == "*");
    CHECK(feed_each_way(get("http://localhost:80")).path == "/");
    CHECK(feed_each_way(get("http://localhost?q=1")).query == text_pairs{{"q", "1"}});
    CHECK(feed_each_way(get("/\xc3\xa9")).path == "/\xc3\xa9");
    CHECK(feed_each_way(post("Content-Encoding: identity\r\nContent-Length: 1\r\n", "x")).body == "x");
    CHECK_FALSE(feed_each_way("\r\n\r\n").done);
}

TEST_CASE("request reader: segments of the path are cut before they are decoded") {
    server::http_request request;
    std::string authority;
    REQUIRE(server::read_target("/models/org%2Fname//x", request, authority));
    CHECK(request.segments == std::vector<std::string>{"models", "org/name", "", "x"});
    server::http_request root;
    REQUIRE(server::read_target("/?x", root, authority));
    CHECK(root.segments == std::vector<std::string>{""});
}

TEST_CASE("request reader: lengths that contradict each other or themselves") {
    const std::vector<std::pair<unsigned, std::string>> cases{
        {400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
        {400, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")},
        {400, post("Content-Length: 4\r\nContent-Length: 5\r\n", "body")},
        {400, post("Content-Length: 4\r\nContent-Length: 4\r\n", "body")},
        {400, post("Content-Length: 4, 4\r\n", "body")},
        {400, post("Content-Length: -1\r\n", "")},
        {400, post("Content-Length: +4\r\n", "body")},
        {400, post("Content-Length: 0x4\r\n", "body")},
        {400, post("Content-Length: 4 4\r\n", "body")},
        {400, post("Content-Length:\r\n", "body")},
        {400, post("Content-Length: 18446744073709551616\r\n", "")},
        {400, post("Content-Length : 4\r\n", "body")},
        {413, post("Content-Length: 18446744073709551615\r\n", "")},
        {413, post("Content-Length: 8388609\r\n", "")},
        {501, post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")},
        {501, post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")},
        {501, post("Transfer-Encoding: identity\r\n", "")},
        {501, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")},
        {400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")},
        {501, post("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n", "")},
        {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {415, post("Content-Encoding: gzip\r\nContent-Length: 1\r\n", "x")},
        {417, post("Expect: 200-ok\r\nContent-Length: 1\r\n", "x")},
    };
    for (const auto& [status, text] : cases) CHECK_MESSAGE(feed_each_way(text).refused == status, text);
}

TEST_CASE("request reader: broken chunks") {
    for (const std::string rest :
         {"-2\r\nxx\r\n0\r\n\r\n", "+2\r\nxx\r\n", " 2\r\nxx\r\n", "0x2\r\n\r\n", "g\r\n", "\r\n",
          "2\r\nxxx\r\n0\r\n\r\n", "10000000000000000\r\n", "fffffffffffffffff\r\n", "2 2\r\nxx\r\n",
          "2;\r\nxx\r\n", "2\r\nxx0\r\n\r\n"})
        CHECK_MESSAGE(feed_each_way(chunks(rest)).refused == 400, rest);
    for (const std::string rest :
         {"ffffffffffffffff\r\n", "8000000000000000\r\n", "800001\r\n", "7fffffffffffffff\r\n"})
        CHECK_MESSAGE(feed_each_way(chunks(rest)).refused == 413, rest);
    http_limits small;
    small.body_bytes = 5;
    CHECK(feed_each_way(chunks("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), small).body == "abcde");
    CHECK(feed_each_way(chunks("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"), small).refused == 413);
    CHECK(feed_each_way(post("Content-Length: 6\r\n", "abcdef"), small).refused == 413);
}

TEST_CASE("request reader: what is no request") {
    for (const std::string& text :
         {std::string("\0", 1), std::string("GET\r\n\r\n"), std::string("GET / HTTP/1.1 \r\n\r\n"),
          std::string("GET /  HTTP/1.1\r\n\r\n"), std::string("GET / HTTP/2.0\r\n\r\n"),
          std::string("GET / HTTP/1.2\r\n\r\n"), std::string("GET / http/1.1\r\n\r\n"),
          std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), std::string("G<T / HTTP/1.1\r\n\r\n"),
          std::string("\x16\x03\x01\x02"), std::string("GET / HTTP/1.1\nHost: localhost\n\n"),
          std::string("GET / HTTP/1.1\r\nHost: localhost\n\r\n"),
          std::string("GET / HTTP/1.1\r\nHost localhost\r\n\r\n"),
          std::string("GET / HTTP/1.1\r\n: x\r\n\r\n"),
          get("/").substr(0, 33) + "X: a" + std::string(1, '\0') + "b\r\n\r\n"})
        CHECK_MESSAGE(feed_each_way(text).refused == 400, text);
    for (const std::string target :
         {"x", "/%", "/%4", "/%zz", "/%00", "/%0a", "/%ff", "/\xff", "/#x", "/?%", "/?a=%1", "*", "http:///x",
          "localhost:80", "ftp://localhost/", "/%7f", "/%C3/%A9"})
        CHECK_MESSAGE(feed_each_way(get(target)).refused == 400, target);
    CHECK(feed_each_way("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n").refused == 400);
}

TEST_CASE("request reader: limits at their edges") {
    http_limits limits;
    limits.target_bytes = 100;
    limits.header_bytes = 1000;
    limits.header_fields = 4;
    CHECK(feed_each_way(get("/" + std::string(99, 'a')), limits).done);
    CHECK(feed_each_way(get("/" + std::string(100, 'a')), limits).refused == 414);
    CHECK(feed({"GET /" + std::string(200, 'a')}, limits).refused == 414);
    const auto with = [&](std::size_t bytes) {
        const std::string head = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
        return head + std::string(bytes - head.size() - 4, 'a') + "\r\n\r\n";
    };
    CHECK(feed_each_way(with(1000), limits).done);
    CHECK(feed_each_way(with(1100), limits).refused == 431);
    const std::string three = "A: 1\r\nB: 2\r\nC: 3\r\n";
    CHECK(feed_each_way("GET / HTTP/1.1\r\nHost: localhost\r\n" + three + "\r\n", limits).done);
    CHECK(feed_each_way("GET / HTTP/1.1\r\nHost: localhost\r\n" + three + "D: 4\r\n\r\n", limits).refused ==
          431);
    // Line by line Beast forgets what it has consumed.
    std::vector<std::string_view> lines{"GET / HTTP/1.1\r\n", "Host: localhost\r\n"};
    const std::string field = "X: " + std::string(200, 'a') + "\r\n";
    limits.header_fields = 100;
    for (int i = 0; i < 5; ++i) lines.emplace_back(field);
    CHECK(feed(lines, limits).refused == 431);
    CHECK(feed({post("Transfer-Encoding: chunked\r\n", "1;" + std::string(1100, 'x'))}, limits).refused ==
          400);
    CHECK(feed({chunks("0\r\nX: " + std::string(1100, 'x'))}, limits).refused == 400);
}

TEST_CASE("request reader: a body that the budget has no room for") {
    CHECK(feed({post("Content-Length: 1048576\r\n", std::string(1048576, 'x'))}).done);
    CHECK(feed({post("Content-Length: 1048577\r\n", std::string(1048577, 'x'))}).refused == 503);
}

TEST_CASE("request reader: one after the other") {
    const http_options options;
    const server::http_gate gate(options, "127.0.0.1");
    const std::string local = "127.0.0.1";
    server::byte_budget budget(1 << 20);
    server::request_reader reader({options.limits, gate, local, budget});
    std::string text =
        get("/1") + post("Content-Length: 2\r\n", "ab") + chunks("1\r\nc\r\n0\r\n\r\n") + get("/4");
    std::vector<std::string> seen;
    while (!text.empty()) {
        text.erase(0, reader.put(text));
        REQUIRE(reader.done());
        seen.push_back(reader.request().path + reader.request().body);
        CHECK(reader.put("GET") == 0);
        reader.reset();
        CHECK_FALSE(reader.begun());
    }
    CHECK(seen == std::vector<std::string>{"/1", "/ab", "/c", "/4"});
    CHECK(budget.held() == 0);
}

TEST_CASE("constant-time comparison compares") {
    using server::equal_in_constant_time;
    CHECK(equal_in_constant_time("abc", "abc"));
    CHECK(equal_in_constant_time("", ""));
    for (const std::string other : {"", "a", "ab", "abd", "xbc", "abcd", "abcabc", "abc "})
        CHECK_FALSE(equal_in_constant_time(other, "abc"));
    CHECK_FALSE(equal_in_constant_time("abc", ""));
}

TEST_CASE("dates of HTTP") {
    // The example of RFC 9110, 5.6.7.
    CHECK(server::http_date(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT");
    CHECK(server::http_date(951782400) == "Tue, 29 Feb 2000 00:00:00 GMT");
}
