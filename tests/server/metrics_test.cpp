// The text that Prometheus reads, character by character.
#include <server/metrics.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using server::metrics;

TEST_CASE("metrics: the text format") {
    // https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4
    metrics all;
    all.get_counter("b_total", "Counts.", {{"route", "/a"}, {"status", "200"}}).add(3);
    all.get_counter("b_total", "Counts.", {{"route", "/a"}, {"status", "200"}}).add();
    all.get_counter("b_total", "Counts.", {{"route", "a\\b\"c\nd"}}).add();
    all.get_gauge("a", "One \\ two\nlines.").set(-1.5);
    all.add_gauge("c", "Read.", [] { return 0.1; }, {{"of", "x"}});
    auto& seconds = all.get_histogram("d_seconds", "Spread.", {0.5, 1, 2.5}, {{"route", "/"}});
    for (const double value : {0.25, 0.5, 0.75, 2.5, 3.0}) seconds.observe(value);
    CHECK(all.text() == R"(# HELP a One \\ two\nlines.
# TYPE a gauge
a -1.5
# HELP b_total Counts.
# TYPE b_total counter
b_total{route="/a",status="200"} 4
b_total{route="a\\b\"c\nd"} 1
# HELP c Read.
# TYPE c gauge
c{of="x"} 0.1
# HELP d_seconds Spread.
# TYPE d_seconds histogram
d_seconds_bucket{route="/",le="0.5"} 2
d_seconds_bucket{route="/",le="1"} 3
d_seconds_bucket{route="/",le="2.5"} 4
d_seconds_bucket{route="/",le="+Inf"} 5
d_seconds_sum{route="/"} 7
d_seconds_count{route="/"} 5
)");
    metrics none;
    CHECK(none.text().empty());
    auto& plain = none.get_histogram("h", "Plain.", {1});
    plain.observe(std::numeric_limits<double>::infinity());
    CHECK(none.text() ==
          "# HELP h Plain.\n# TYPE h histogram\nh_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 1\n"
          "h_sum +Inf\nh_count 1\n");
}

TEST_CASE("metrics: many threads lose nothing") {
    metrics all;
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
        threads.emplace_back([&, t] {
            for (int i = 0; i < 1000; ++i) {
                all.get_counter("n_total", "", {{"even", t % 2 == 0 ? "yes" : "no"}}).add();
                all.get_histogram("h", "", {0.5}).observe(i % 2);
                if (i % 100 == 0) (void)all.text();
            }
        });
    for (auto& one : threads) one.join();
    CHECK(all.get_counter("n_total", "", {{"even", "yes"}}).value() == 4000);
    CHECK(all.get_histogram("h", "", {}).count(0) == 4000);
    CHECK(all.get_histogram("h", "", {}).count(1) == 4000);
    CHECK(all.get_histogram("h", "", {}).sum() == 4000);
}

TEST_CASE("metrics: what the server tells is counted by route, and clients cannot make it grow") {
    metrics all;
    server::http_metrics count(all);
    server::http_outcome one{.method = "POST",
                             .path = "/v1/x",
                             .route = "/v1/{name}",
                             .status = 200,
                             .received_bytes = 10,
                             .sent_bytes = 20,
                             .seconds = 0.003};
    count(one);
    count(one);
    one.method = "BREW";
    one.status = 405;
    count(one);
    const auto lines = [&] {
        const std::string now = all.text();
        return std::count(now.begin(), now.end(), '\n');
    };
    const std::string text = all.text();
    CHECK(text.find("bitmill_http_requests_total{route=\"/v1/{name}\",method=\"POST\",status=\"200\"} 2\n") !=
          std::string::npos);
    CHECK(text.find("bitmill_http_received_bytes_total 30\n") != std::string::npos);
    CHECK(text.find("bitmill_http_sent_bytes_total 60\n") != std::string::npos);
    CHECK(text.find("bitmill_http_request_seconds_bucket{route=\"/v1/{name}\",le=\"0.005\"} 3\n") !=
          std::string::npos);
    CHECK(text.find("bitmill_http_request_seconds_bucket{route=\"/v1/{name}\",le=\"0.0025\"} 0\n") !=
          std::string::npos);
    CHECK(text.find("BREW") == std::string::npos);
    const auto before = lines();
    for (int i = 0; i < 100; ++i) {
        const std::string method = "M" + std::to_string(i), path = "/p" + std::to_string(i);
        count({.method = method, .path = path, .route = "/v1/{name}", .status = 405});
    }
    CHECK(lines() == before);
    count({.path = "/nothing", .status = 404});
    CHECK(all.text().find("bitmill_http_refused_total{status=\"404\"} 1\n") != std::string::npos);
}
