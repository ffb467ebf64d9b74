// The server over time: slow clients, lost clients, late answers, many connections, and its end.
#include <server/http.hpp>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "test_server.hpp"

using namespace bitmill_test;
using server::http_options;
using server::milliseconds;

namespace {

// Short enough to wait for; no test depends on anything being quicker.
constexpr milliseconds briefly{100};

std::size_t thread_count() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

bool told(test_server& server, const std::string& path, unsigned status) {
    return eventually([&] {
        const auto all = server.outcomes();
        return std::find(all.begin(), all.end(), std::pair(path, status)) != all.end();
    });
}

}  // namespace

TEST_CASE("http: a request that comes too slowly") {
    auto options = free_port();
    options.limits.header_timeout = briefly;
    test_server server(options);
    for (const std::string begin :
         {"G", "GET /echo HTTP/1.1\r\n", "GET /echo HTTP/1.1\r\nHost: localhost\r\n"}) {
        auto client = server.connect();
        const auto answer = client.ask(begin);
        CHECK(answer.status == 408);
        CHECK(answer.field("Connection") == "close");
        CHECK(client.ended());
    }
    // One that says nothing hears nothing; nor does one that sends line ends only.
    auto silent = server.connect();
    CHECK(silent.ended());
    auto empty = server.connect();
    empty.send("\r\n\r\n\r\n");
    CHECK(empty.ended());
}

TEST_CASE("http: a body that comes too slowly") {
    auto options = free_port();
    options.limits.body_timeout = briefly;
    test_server server(options);
    for (const std::string fields : {"Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"}) {
        auto client = server.connect();
        CHECK(client.ask(http_text("POST", "/echo", fields) + "1").status == 408);
        CHECK(client.ended());
    }
    // A trickle does not stretch the time.
    auto client = server.connect();
    client.send(http_text("POST", "/echo", "Content-Length: 100000\r\n"));
    std::atomic<bool> stop{false};
    std::thread trickle([&] {
        for (int i = 0; i < 99'999 && !stop && client.send("x"); ++i)
            std::this_thread::sleep_for(milliseconds(1));
    });
    CHECK(client.receive().status == 408);
    stop = true;
    trickle.join();
}

TEST_CASE("http: a connection between requests is ended after its time") {
    auto options = free_port();
    options.limits.idle_timeout = briefly;
    test_server server(options);
    auto client = server.connect();
    CHECK(client.ask(http_text("GET", "/echo")).status == 200);
    CHECK(client.ended());
}

TEST_CASE("http: a client that does not read its answer loses it, and its memory is free again") {
    auto options = free_port();
    options.limits.write_timeout = briefly;
    test_server server(options);
    auto client = server.connect(4096);
    client.send(http_text("GET", "/large?bytes=100000000"));
    CHECK(told(server, "/large", 499));
    CHECK(eventually([&] { return server->status().connections == 0; }));
    CHECK(server->status().held_bytes == 0);
    CHECK(server->status().requests == 0);
}

TEST_CASE("http: a client that leaves is noticed, and a late answer goes nowhere") {
    test_server server;
    for (const bool aborts : {false, true}) {
        auto client = server.connect();
        client.send(http_text("GET", "/later"));
        auto later = server.next_later();
        CHECK_FALSE(later.lost());
        aborts ? client.abort() : client.close();
        CHECK(eventually([&] { return later.lost(); }));
        later({.body = std::string(1'000'000, 'x')});
        CHECK(eventually([&] { return server->status().connections == 0; }));
    }
    CHECK(told(server, "/later", 499));
    CHECK(server.connect().ask(http_text("GET", "/echo")).status == 200);
}

TEST_CASE("http: an answer that comes too late does not meet the next request") {
    auto options = free_port();
    options.limits.request_timeout = briefly;
    test_server server(options);
    auto client = server.connect();
    CHECK(client.ask(http_text("GET", "/later")).status == 504);
    auto late = server.next_later();
    CHECK(late.lost());
    client.send(http_text("GET", "/later"));
    auto second = server.next_later();
    late({.body = "late"});
    second({.body = "second"});
    second({.body = "twice"});
    // Its own answer, unless this machine was so slow that its time was over, too.
    const auto answer = client.receive();
    CHECK((answer.body == "second" || answer.status == 504));
    CHECK(client.ask(http_text("GET", "/echo")).body == "GET /echo ");
}

TEST_CASE("http: a handler may take longer than a request may") {
    auto options = free_port();
    options.limits.request_timeout = milliseconds(1);
    std::optional<server::reply> answer;
    std::atomic<bool> there{false};
    const auto server = server::http_server::start(options, [&](server::http_request&&, server::reply to) {
                            to.set_deadline(server::time_point::max());
                            answer = std::move(to);
                            there = true;
                        }).value();
    http_client client(server->port());
    client.send(http_text("GET", "/"));
    REQUIRE(eventually([&] { return there.load(); }));
    std::this_thread::sleep_for(briefly);
    CHECK_FALSE(answer->lost());
    (*answer)({.body = "done"});
    CHECK(client.receive().body == "done");
}

TEST_CASE("http: 200 connections stay, and take no threads") {
    test_server server;
    auto first = server.connect();
    CHECK(first.ask(http_text("GET", "/echo")).status == 200);
    const std::size_t before = thread_count();
    std::vector<http_client> clients;
    for (int i = 0; i < 200; ++i) clients.push_back(server.connect());
    for (int round = 0; round < 3; ++round) {
        for (auto& one : clients) one.send(http_text("GET", "/echo"));
        for (auto& one : clients) REQUIRE(one.receive().body == "GET /echo ");
    }
    CHECK(server->status().connections == 201);
    CHECK(thread_count() == before);
}

TEST_CASE("http: answers from many threads") {
    test_server server;
    constexpr int clients = 8, rounds = 50;
    std::atomic<int> right{0};
    std::atomic<bool> stop{false};
    std::thread answering([&] {
        for (int i = 0; i < clients * rounds && !stop; ++i) {
            auto one = server.next_later();
            std::thread([one] { one({.body = "done"}); }).detach();
        }
    });
    std::vector<std::thread> asking;
    for (int i = 0; i < clients; ++i)
        asking.emplace_back([&] {
            auto client = server.connect();
            for (int round = 0; round < rounds; ++round)
                right += client.ask(http_text("GET", "/later")).body == "done" ? 1 : 0;
        });
    for (auto& one : asking) one.join();
    stop = true;
    answering.join();
    CHECK(right == clients * rounds);
}

// ---- the end ---------------------------------------------------------------------------------------------

TEST_CASE("http: draining lets what has begun come to its end") {
    test_server server;
    auto idle = server.connect();
    CHECK(idle.ask(http_text("GET", "/echo")).status == 200);
    auto waiting = server.connect();
    waiting.send(http_text("GET", "/later") + http_text("GET", "/echo"));
    auto later = server.next_later();
    auto sending = server.connect();
    sending.send(http_text("POST", "/echo", "Content-Length: 4\r\n") + "bo");
    REQUIRE(eventually([&] { return server->status().held_bytes == 2; }));

    std::optional<bool> drained;
    std::thread draining([&] { drained = server->drain(milliseconds(60'000)); });
    CHECK(idle.ended());
    CHECK_THROWS_AS(server.connect(), std::system_error);
    sending.send("dy");
    const auto sent = sending.receive();
    CHECK(sent.body == "POST /echo body");
    CHECK(sent.field("Connection") == "close");
    CHECK(sending.ended());
    later({.body = "in time"});
    const auto last = waiting.receive();
    CHECK(last.body == "in time");
    CHECK(last.field("Connection") == "close");
    CHECK(waiting.ended());
    draining.join();
    CHECK(drained.value());
    CHECK(server->drain(milliseconds(0)));
}

TEST_CASE("http: draining gives up after its time") {
    test_server server;
    auto client = server.connect();
    client.send(http_text("GET", "/later"));
    auto later = server.next_later();
    CHECK_FALSE(server->drain(briefly));
    server.stop();
    CHECK(client.ended());
    CHECK(later.lost());
    later({.body = "to nobody"});
}

TEST_CASE("http: a reply outlives its server") {
    std::vector<server::reply> kept;  // GCC 12 takes an optional for uninitialized
    {
        test_server server;
        auto client = server.connect();
        client.send(http_text("GET", "/later"));
        kept.push_back(server.next_later());
    }
    CHECK(kept.at(0).lost());
    kept[0]({.body = "to nobody"});
    kept.clear();
}
