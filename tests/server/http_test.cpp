// The server over real sockets: the protocol, who may ask, and each limit.
#include <server/http.hpp>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "test_server.hpp"

using namespace bitmill_test;
using server::http_options;

namespace {

int status_of(test_server& server, const std::string& text) { return server.connect().ask(text).status; }

std::string with_host(const std::string& host, const std::string& fields = {}) {
    return "GET /echo HTTP/1.1\r\nHost: " + host + "\r\n" + fields + "\r\n";
}

http_options with_token() {
    auto options = free_port();
    options.token = "s3cret-token";
    return options;
}

}  // namespace

TEST_CASE("http: one connection serves one request after the other") {
    test_server server;
    auto client = server.connect();
    for (int i = 0; i < 3; ++i) {
        const auto answer = client.ask(http_text("POST", "/echo?x=1", {}, "body " + std::to_string(i)));
        CHECK(answer.status == 200);
        CHECK(answer.body == "POST /echo body " + std::to_string(i));
        CHECK(answer.field("Connection") == "");
        CHECK(answer.field("Content-Type") == "text/plain");
        CHECK(answer.field("Date").size() == 29);
    }
    CHECK(server->status().connections == 1);
    CHECK(client.ask(http_text("GET", "/echo", "Connection: close\r\n")).field("Connection") == "close");
    CHECK(client.ended());
}

TEST_CASE("http: requests sent at once are answered in their order") {
    test_server server;
    auto client = server.connect();
    client.send(http_text("GET", "/later") + http_text("POST", "/echo", {}, "two") +
                http_text("GET", "/echo"));
    auto later = server.next_later();
    std::thread([&] { later({.body = "one"}); }).join();
    CHECK(client.receive().body == "one");
    CHECK(client.receive().body == "POST /echo two");
    CHECK(client.receive().body == "GET /echo ");
    // Also where the client has nothing more to send.
    client.send(http_text("GET", "/echo") + http_text("POST", "/echo", {}, "last"));
    client.end_sending();
    CHECK(client.receive().body == "GET /echo ");
    CHECK(client.receive().body == "POST /echo last");
    CHECK(client.ended());
}

TEST_CASE("http: a body in chunks is put together") {
    test_server server;
    auto client = server.connect();
    const std::string head = http_text("POST", "/echo", "Transfer-Encoding: chunked\r\n");
    CHECK(client.ask(head + "4\r\nwiki\r\n5;name=value\r\npedia\r\n0\r\n\r\n").body ==
          "POST /echo wikipedia");
    // A trailer changes no header: this one would be another host's.
    CHECK(client.ask(head + "1\r\nx\r\n0\r\nHost: evil.example\r\n\r\n").body == "POST /echo x");
    CHECK(client.ask(http_text("GET", "/echo")).status == 200);
}

TEST_CASE("http: HEAD has the header of GET and no body") {
    test_server server;
    auto client = server.connect();
    const auto answer = client.ask(http_text("HEAD", "/large?bytes=12345"), true);
    CHECK(answer.status == 200);
    CHECK(answer.field("Content-Length") == "12345");
    CHECK(client.ask(http_text("GET", "/echo")).body == "GET /echo ");
}

TEST_CASE("http: HTTP/1.0 ends with its answer unless it asks to stay") {
    test_server server;
    auto client = server.connect();
    const auto stays = client.ask("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(stays.body == "GET /echo ");
    CHECK(stays.field("Connection") == "keep-alive");
    CHECK(client.ask("GET /echo HTTP/1.0\r\n\r\n").field("Connection") == "close");
    CHECK(client.ended());
}

TEST_CASE("http: Expect: 100-continue") {
    auto options = free_port();
    options.limits.body_bytes = 1000;
    test_server server(options);
    auto client = server.connect();
    const auto asking = [](std::size_t length, const std::string& what = "100-continue") {
        return http_text("POST", "/echo",
                         "Expect: " + what + "\r\nContent-Length: " + std::to_string(length) + "\r\n");
    };
    CHECK(client.ask(asking(4)).status == 100);
    CHECK(client.ask("body").body == "POST /echo body");
    // With the body already there, nobody waits for it.
    CHECK(client.ask(asking(4) + "body").body == "POST /echo body");
    CHECK(client.ask(asking(1001)).status == 413);
    CHECK(client.ended());
    CHECK(status_of(server, asking(4, "a-miracle")) == 417);
}

TEST_CASE("http: a handler that throws or forgets its answer") {
    test_server server;
    auto client = server.connect();
    const auto failed = client.ask(http_text("GET", "/throw"));
    CHECK(failed.status == 500);
    CHECK(failed.body.find("secret") == std::string::npos);
    CHECK(client.ask(http_text("GET", "/never")).status == 500);
    CHECK(client.ask(http_text("GET", "/echo")).status == 200);
}

TEST_CASE("http: no header value ends its line") {
    test_server server;
    const auto answer = server.connect().ask(http_text("GET", "/split"));
    CHECK(answer.field("X-Name") == "a  X-Injected: b");
    CHECK(answer.field("X-Injected") == "");
}

TEST_CASE("http: errors have the shape that the routes give them") {
    auto options = free_port();
    options.refusal = [](std::string_view path, unsigned status, std::string_view message) {
        return server::http_response{.status = status,
                                     .body = std::string(path) + "|" + std::string(message)};
    };
    options.limits.body_bytes = 10;
    test_server server(options);
    CHECK(server.connect().ask(http_text("POST", "/echo", {}, "more than ten")).body ==
          "/echo|the body is larger than 10 bytes");
    test_server plain;
    CHECK(plain.connect().ask("\x16\x03\x01 TLS\r\n\r\n").body ==
          R"({"status":"error","message":"this is no HTTP request"})");
}

// ---- who may ask -----------------------------------------------------------------------------------------

TEST_CASE("http: another address than loopback needs a token") {
    for (const std::string address : {"0.0.0.0", "::", "[::]", "192.0.2.1", "example.com", ""}) {
        auto options = free_port();
        options.address = address;
        const auto refused = server::http_server::start(options, {});
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == bitmill::error_code::invalid_argument);
    }
    auto options = with_token();
    options.address = "0.0.0.0";
    test_server server(options);
    CHECK(status_of(server, with_host("127.0.0.1", "Authorization: Bearer s3cret-token\r\n")) == 200);
    for (const std::string token : {"two words", "line\n", "\xc3\xa9"}) {
        options.token = token;
        CHECK_FALSE(server::http_server::start(options, {}));
    }
    options = free_port();
    options.allowed_hosts = {"http://a"};
    CHECK_FALSE(server::http_server::start(options, {}));
}

TEST_CASE("http: a port in use is told") {
    test_server first;
    auto options = free_port();
    options.port = first->port();
    const auto refused = server::http_server::start(options, {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == bitmill::error_code::io);
    CHECK(refused.error().message.find(std::to_string(options.port)) != std::string::npos);
    CHECK(refused.error().message.find("in use") != std::string::npos);
}

TEST_CASE("http: the token is asked for everywhere but at the health routes") {
    test_server server(with_token());
    const auto asked = [&](const std::string& path, const std::string& fields) {
        return server.connect().ask(http_text("GET", path, fields));
    };
    const auto without = asked("/echo", "");
    CHECK(without.status == 401);
    CHECK(without.field("WWW-Authenticate") == "Bearer");
    for (const std::string wrong :
         {"Bearer", "Bearer ", "Bearer s3cret-toke", "Bearer s3cret-token2", "Bearer x3cret-token",
          "Basic s3cret-token", "s3cret-token", "Bearer s3cret-token s3cret-token"})
        CHECK(asked("/echo", "Authorization: " + wrong + "\r\n").status == 401);
    for (const std::string path :
         {"/", "/health/", "/healthz/x", "/health%00", "//health", "/HEALTH", "/nothing"})
        CHECK(asked(path, "").status >= 400);
    CHECK(asked("/nothing", "").status == 401);
    for (const std::string path : {"/health", "/healthz", "/health?verbose=1", "/%68ealth"})
        CHECK(asked(path, "").status == 200);
    for (const std::string right : {"Bearer s3cret-token", "bearer s3cret-token", "BEARER  s3cret-token"})
        CHECK(asked("/echo", "Authorization: " + right + "\r\n").status == 200);
    // Before a byte of the body is taken.
    CHECK(status_of(server, http_text("POST", "/echo", "Content-Length: 99999999999\r\n")) == 401);
}

TEST_CASE("http: the Host header must be this server's") {
    auto options = free_port();
    options.allowed_hosts = {"Models.example", "proxy.example:8443", "[2001:db8::1]"};
    test_server server(options);
    for (const std::string host :
         {"localhost", "LocalHost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:65535",
          "models.example", "MODELS.EXAMPLE:80", "proxy.example:8443", "[2001:DB8::1]:443"})
        CHECK_MESSAGE(status_of(server, with_host(host)) == 200, host);
    for (const std::string host : {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example",
                                   "127.0.0.2", "proxy.example", "proxy.example:8444", "0.0.0.0", "[::2]"})
        CHECK_MESSAGE(status_of(server, with_host(host)) == 421, host);
    for (const std::string host :
         {"", "localhost:", "localhost:x", "localhost:123456", "a@localhost", "localhost/x", "[::1", "[::1]x",
          "localhost, evil.example", "localhost evil.example", ":80", "[]"})
        CHECK_MESSAGE(status_of(server, with_host(host)) == 400, host);
    CHECK(status_of(server, "GET /echo HTTP/1.1\r\n\r\n") == 400);
    CHECK(status_of(server, with_host("localhost", "Host: localhost\r\n")) == 400);
    CHECK(status_of(server, with_host("localhost", "Host: evil.example\r\n")) == 400);
    // A whole address in the request line counts for more than the header.
    CHECK(status_of(server, "GET http://localhost/echo HTTP/1.1\r\nHost: evil.example\r\n\r\n") == 200);
    CHECK(status_of(server, "GET http://evil.example/echo HTTP/1.1\r\nHost: localhost\r\n\r\n") == 421);
}

TEST_CASE("http: pages of other sites are not served") {
    test_server server;
    for (const std::string origin : {"http://localhost:8000", "http://LOCALHOST:8000"})
        CHECK(status_of(server, with_host("localhost:8000", "Origin: " + origin + "\r\n")) == 200);
    for (const std::string origin :
         {"http://evil.example", "http://localhost", "http://localhost:8001", "null", "", "https://localhost",
          "file://localhost:8000", "localhost:8000"})
        CHECK_MESSAGE(status_of(server, with_host("localhost:8000", "Origin: " + origin + "\r\n")) == 403,
                      origin);
    CHECK(status_of(server, with_host("localhost", "Origin: http://localhost:80\r\n")) == 200);
    // Behind a proxy that adds TLS.
    CHECK(status_of(server, with_host("localhost", "Origin: https://localhost\r\n")) == 200);
    CHECK(status_of(server, with_host("localhost:443", "Origin: https://localhost\r\n")) == 200);
}

// ---- limits ----------------------------------------------------------------------------------------------

TEST_CASE("http: what is too large is told, and ends the connection") {
    auto options = free_port();
    options.limits.body_bytes = 100'000;
    test_server server(options);
    const std::string chunked = http_text("POST", "/echo", "Transfer-Encoding: chunked\r\n");
    const std::string large(100'001, 'x');
    const std::vector<std::pair<int, std::string>> cases{
        {414, http_text("GET", "/" + std::string(4096, 'a'))},
        {414, http_text("GET", "/" + std::string(100'000, 'a'))},
        {414, "GET /" + std::string(20'000, 'a')},
        {431, http_text("GET", "/echo", "X: " + std::string(16384, 'a') + "\r\n")},
        {431, "GET /echo HTTP/1.1\r\nX: " + std::string(20'000, 'a')},
        {413, http_text("POST", "/echo", {}, large)},
        {413, http_text("POST", "/echo", "Content-Length: 18446744073709551615\r\n")},
        {413, chunked + "186a1\r\n" + large},
        {413, chunked + "c350\r\n" + large.substr(0, 50'000) + "\r\nc351\r\n"},
        {413, chunked + "ffffffffffffffff\r\n"},
        {400, chunked + "1;" + std::string(20'000, 'e')},
    };
    for (const auto& [status, text] : cases) {
        auto client = server.connect();
        const auto answer = client.ask(text);
        CHECK_MESSAGE(answer.status == status, text.substr(0, 60));
        CHECK(answer.field("Connection") == "close");
        CHECK(client.ended());
    }
    std::string many;
    for (int i = 0; i < 100; ++i) many += "X: y\r\n";
    CHECK(status_of(server, http_text("GET", "/echo", many)) == 431);
    CHECK(status_of(server, http_text("GET", "/echo", many.substr(6))) == 200);
    CHECK(status_of(server, http_text("GET", "/" + std::string(4095, 'a'))) == 200);
    CHECK(status_of(server, http_text("GET", "/echo", "X: " + std::string(16'000, 'a') + "\r\n")) == 200);
    CHECK(status_of(server, http_text("POST", "/echo", {}, large.substr(1))) == 200);
    CHECK(status_of(server, chunked + "186a0\r\n" + large.substr(1) + "\r\n0\r\n\r\n") == 200);
    CHECK(eventually([&] { return server->status().connections == 0; }));
    CHECK(server->status().held_bytes == 0);
}

TEST_CASE("http: no client gets past the limit of a header by sending it in pieces") {
    test_server server;
    auto client = server.connect();
    client.send("GET /echo HTTP/1.1\r\nHost: localhost\r\n");
    // Field by field, so that the parser never holds more than one.
    for (int i = 0; i < 1000; ++i) {
        if (!client.send("X-Long: " + std::string(1000, 'a') + "\r\n")) break;
        if (server.outcomes().size() == 1) break;
    }
    CHECK(client.receive().status == 431);
    CHECK(client.ended());
}

TEST_CASE("http: what all connections hold together is bounded") {
    auto options = free_port();
    options.limits.held_bytes = 1'000'000;
    test_server server(options);
    auto answer = server.connect().ask(http_text("GET", "/large?bytes=1000001"));
    CHECK(answer.status == 503);
    CHECK(answer.field("Retry-After") == "1");
    CHECK(server.connect().ask(http_text("GET", "/large?bytes=1000000")).status == 200);
    // Two bodies that have not ended: the second does not fit beside the first.
    const std::string body(600'000, 'x');
    const std::string begin = http_text("POST", "/echo", "Content-Length: 600001\r\n") + body;
    auto first = server.connect();
    first.send(begin);
    REQUIRE(eventually([&] { return server->status().held_bytes == body.size(); }));
    auto second = server.connect();
    CHECK(second.ask(begin).status == 503);
    CHECK(second.ended());
    // The second's are free again: the first needs room for its answer, too, and finds none.
    CHECK(first.ask("x").status == 503);
    first.close();
    CHECK(eventually([&] { return server->status().connections == 0; }));
    CHECK(server->status().held_bytes == 0);
}

TEST_CASE("http: only so many connections, and idle ones make room") {
    auto options = free_port();
    options.limits.connections = 4;
    test_server server(options);
    std::vector<http_client> busy;
    for (int i = 0; i < 3; ++i) {
        busy.push_back(server.connect());
        busy.back().send(http_text("GET", "/later"));
    }
    std::vector<server::reply> replies;
    for (int i = 0; i < 3; ++i) replies.push_back(server.next_later());
    auto idle = server.connect();
    CHECK(idle.ask(http_text("GET", "/echo")).status == 200);
    REQUIRE(eventually([&] { return server->status().requests == 3; }));
    // One more takes the place of the idle one, and then there is none.
    auto fifth = server.connect();
    fifth.send(http_text("GET", "/later"));
    replies.push_back(server.next_later());
    CHECK(idle.ended());
    auto sixth = server.connect();
    const auto refused = sixth.receive();
    CHECK(refused.status == 503);
    CHECK(refused.field("Retry-After") == "1");
    CHECK(sixth.ended());
    for (const auto& one : replies) one({.body = "done"});
    for (auto& one : busy) CHECK(one.receive().body == "done");
    CHECK(fifth.receive().body == "done");
}
