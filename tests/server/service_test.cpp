// The whole service over HTTP, on a machine whose memory and clock the test sets.
#include <server/service.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <level_models.hpp>

#include "test_server.hpp"

using namespace bitmill_test;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

// A machine of 16 GiB.
struct machine {
    std::atomic<double> used{0.1};
    std::atomic<std::chrono::milliseconds> time{1h};

    [[nodiscard]] bitmill::manager_options options() {
        bitmill::manager_options out;
        out.memory_interval = 0ms;
        out.working_bytes = 0;
        out.model.threads = 1;
        out.read_memory = [this]() -> bitmill::result<bitmill::system_memory> {
            constexpr std::uint64_t total = std::uint64_t{16} << 30;
            bitmill::system_memory now;
            now.total_bytes = total;
            now.available_bytes = static_cast<std::uint64_t>(static_cast<double>(total) * (1 - used));
            return now;
        };
        out.clock = [this] { return std::chrono::steady_clock::time_point(time.load()); };
        return out;
    }
};

// Answers as `bitmill serve` does.
class running_service {
public:
    explicit running_service(server::service_options options)
        : service_(server::service::create(std::move(options)).value()) {
        service_->add_routes(routes_);
        auto http = free_port();
        http.on_outcome = [this](const server::http_outcome& outcome) { service_->note(outcome); };
        http_ =
            server::http_server::start(http, [this](server::http_request&& request, server::reply answer) {
                routes_(std::move(request), answer);
            }).value();
    }
    running_service(const running_service&) = delete;
    running_service& operator=(const running_service&) = delete;

    server::http_server& http() { return *http_; }
    [[nodiscard]] http_client connect() const { return http_client(http_->port()); }
    json get(const std::string& path) const {
        auto client = connect();
        return json::parse(client.ask(http_text("GET", path)).body);
    }

private:
    std::unique_ptr<server::service> service_;  // outlives what calls it
    server::router routes_;
    std::unique_ptr<server::http_server> http_;
};

server::service_options serving(const std::string& path, machine& host) {
    server::service_options out;
    out.manager = host.options();
    out.models = {{"m", path}};
    out.embeddings = "m";
    return out;
}

std::string question() {
    json body{{"input", json::array()}};
    for (const auto text : some_texts) body["input"].push_back(text);
    return http_text("POST", "/v1/embeddings", {}, body.dump());
}

// The level that answered; the vectors must be those of that level, whatever else goes on.
std::string level_of(const http_answer& answer, const std::map<std::string, std::vector<float>>& expected) {
    REQUIRE_MESSAGE(answer.status == 200, answer.body);
    const std::string level = answer.field("X-Bitmill-Level");
    std::vector<float> got;
    const auto body = json::parse(answer.body);
    for (const auto& one : body.at("data"))
        for (const auto& x : one.at("embedding")) got.push_back(x.get<float>());
    CHECK(got == expected.at(level));
    return level;
}

std::map<std::string, std::vector<float>> vectors_by_level(const std::string& path) {
    std::map<std::string, std::vector<float>> out;
    for (const char* level : {"fp16", "int8", "int4"}) out[level] = alone(path, level);
    return out;
}

// Each step is explained, and leads where the next begins.
std::vector<std::string> walk_of(const json& status) {
    std::vector<std::string> out;
    std::string before;
    for (const auto& one : status.at("switches")) {
        CHECK(one.at("from") == before);
        CHECK(one.at("fault") == "");
        CHECK(one.at("explanation").get<std::string>().find("memory in use") != std::string::npos);
        before = one.at("to").get<std::string>();
        out.push_back(before);
    }
    return out;
}

using names = std::vector<std::string>;

}  // namespace

TEST_CASE("service: memory walks the level down and up again; no request fails, nothing flaps") {
    // EXACT
    const family model;
    const auto expected = vectors_by_level(model.path);
    machine host;
    running_service service(serving(model.path, host));
    auto client = service.connect();
    const auto at = [&](double used) {
        host.used = used;
        std::set<std::string> seen;
        for (int i = 0; i < 10; ++i) seen.insert(level_of(client.ask(question()), expected));
        REQUIRE(seen.size() == 1);
        return *seen.begin();
    };
    CHECK(at(0.1) == "fp16");
    CHECK(at(0.5) == "int8");
    CHECK(at(0.7) == "int4");
    // Around an edge: up only after a while, and with room to spare.
    for (int i = 0; i < 10; ++i) {
        CHECK(at(0.59) == "int4");
        CHECK(at(0.61) == "int4");
        host.time = host.time.load() + 40s;
    }
    CHECK(at(0.5) == "int8");
    host.time = host.time.load() + 40s;
    CHECK(at(0.1) == "fp16");
    CHECK(walk_of(service.get("/api/v1/quantization/status")) ==
          names{"fp16", "int8", "int4", "int8", "fp16"});
}

TEST_CASE("service: load walks the level down, and up again when it is gone") {
    // EXACT
    const family model;
    const auto expected = vectors_by_level(model.path);
    machine host;
    running_service service(serving(model.path, host));
    auto client = service.connect();
    CHECK(level_of(client.ask(question()), expected) == "fp16");
    // Until it is at the level of many requests; how many meet in one batch is the machine's.
    std::atomic<bool> enough{false};
    std::atomic<int> answered{0};
    std::vector<std::thread> clients;
    for (int i = 0; i < 16; ++i)
        clients.emplace_back([&] {
            auto mine = service.connect();
            for (int n = 0; n < 20'000 && !enough; ++n, ++answered)
                if (level_of(mine.ask(question()), expected) == "int4") enough = true;
        });
    for (auto& one : clients) one.join();
    CHECK(enough);
    CHECK(answered >= 16);
    CHECK(level_of(client.ask(question()), expected) == "int4");
    host.time = host.time.load() + 40s;
    CHECK(level_of(client.ask(question()), expected) == "fp16");
    const auto walk = walk_of(service.get("/api/v1/quantization/status"));
    CHECK(walk.front() == "fp16");
    CHECK(walk.back() == "fp16");
    CHECK(walk.size() <= 4);  // perhaps by way of int8
    CHECK(walk.at(walk.size() - 2) == "int4");
}

TEST_CASE("service: ten times what it can hold is answered or refused, and a moment later all is well") {
    const family model;
    machine host;
    auto options = serving(model.path, host);
    options.models[0].level = "int8";
    options.limits = {.batch_size = 4, .queue_jobs = 8, .queue_size = 64};
    running_service service(std::move(options));
    std::map<int, int> seen;
    std::mutex mutex;
    std::vector<std::thread> clients;
    for (int i = 0; i < 80; ++i)
        clients.emplace_back([&] {
            auto mine = service.connect();
            for (int n = 0; n < 5; ++n) {
                const auto answer = mine.ask(question());
                const std::lock_guard lock(mutex);
                ++seen[answer.status];
                if (answer.status == 503) CHECK_FALSE(answer.field("Retry-After").empty());
            }
        });
    for (auto& one : clients) one.join();
    CHECK(seen[200] > 0);
    CHECK(seen[200] + seen[503] == 400);
    auto client = service.connect();
    CHECK(client.ask(question()).status == 200);
    // An answer goes out a little before its request is no longer counted.
    CHECK(eventually([&] { return service.get("/api/v1/quantization/status").at("active_requests") == 0; }));
    client.close();
    CHECK(service.http().drain(10s));
}

TEST_CASE("service: what cannot be served is told when it starts") {
    const family model;
    machine host;
    auto options = serving(model.path, host);
    options.embeddings = "other";
    CHECK(server::service::create(options).error().message.find("'other'") != std::string::npos);
    options = serving(model.path + "/none", host);
    CHECK(server::service::create(options).error().code == bitmill::error_code::io);
    options = serving(model.path, host);
    options.models_root = model.path + "/none";
    CHECK(server::service::create(options).error().code == bitmill::error_code::io);
    options = serving(model.path, host);
    options.models[0].level = "int2";  // which it has not: told with the first request
    running_service service(std::move(options));
    auto client = service.connect();
    CHECK(client.ask(question()).status >= 400);
}
