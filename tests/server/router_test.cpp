// Which handler a request meets, and how it is told that there is none.
#include <server/router.hpp>

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <server/http_rules.hpp>

using server::http_request;
using server::http_response;
using server::reply;
using server::router;

namespace {

struct told {
    http_response response;
    std::string route;
    int answers = 0;
};

told ask(const router& routes, const std::string& method, const std::string& target) {
    told out;
    http_request request{.method = method};
    std::string authority;
    REQUIRE(server::read_target(target, request, authority));
    routes(std::move(request), reply([&](http_response response, const std::string& route) {
               out.response = std::move(response);
               out.route = route;
               ++out.answers;
           }));
    CHECK(out.answers == 1);
    return out;
}

std::string field(const http_response& response, const std::string& name) {
    for (const auto& [key, value] : response.headers)
        if (key == name) return value;
    return {};
}

router some_routes() {
    const auto says = [](const std::string& text) {
        return [text](http_request&& request, const reply& answer) {
            answer({.body = text + ":" + request.method + ":" + std::string(request.parameter("name")) +
                            std::string(request.parameter("part"))});
        };
    };
    router routes;
    routes.add("GET", "/models/{name}", says("one"));
    routes.add("GET", "/models/active", says("active"));
    routes.add("POST", "/models/{name}", says("make"));
    routes.add("DELETE", "/models/{name}/{part}", says("two"));
    routes.add("GET", "/", says("root"));
    routes.add("POST", "/v1/embeddings", says("v1"));
    routes.shape_errors("/v1/", [](unsigned status, std::string_view message) {
        return http_response{.status = status, .body = "v1 " + std::string(message)};
    });
    routes.shape_errors("/v1/deep/", [](unsigned status, std::string_view) {
        return http_response{.status = status, .body = "deep"};
    });
    return routes;
}

}  // namespace

TEST_CASE("router: the pattern with the fewest names") {
    const router routes = some_routes();
    CHECK(ask(routes, "GET", "/models/active").response.body == "active:GET:");
    CHECK(ask(routes, "GET", "/models/Active").response.body == "one:GET:Active");
    CHECK(ask(routes, "GET", "/models/active?x=1").route == "/models/active");
    CHECK(ask(routes, "POST", "/models/active").response.body == "make:POST:active");
    CHECK(ask(routes, "POST", "/models/active").route == "/models/{name}");
    CHECK(ask(routes, "GET", "/models/org%2Fa%20b").response.body == "one:GET:org/a b");
    CHECK(ask(routes, "DELETE", "/models/a/b").response.body == "two:DELETE:ab");
    CHECK(ask(routes, "GET", "/").response.body == "root:GET:");
    CHECK(ask(routes, "HEAD", "/").response.body == "root:HEAD:");
}

TEST_CASE("router: nothing there") {
    const router routes = some_routes();
    for (const std::string target : {"/nothing", "/models", "/models/", "/models/a/", "//models/a",
                                     "/models/a/b/c", "/Models/a", "/models/../models/a", "/%7Bname%7D/x"}) {
        const auto told = ask(routes, "GET", target);
        CHECK_MESSAGE(told.response.status == 404, target);
        CHECK(told.route.empty());
    }
    CHECK(ask(routes, "GET", "/x\"\\").response.body ==
          R"({"status":"error","message":"there is nothing at '/x\"\\'"})");
    CHECK(ask(routes, "GET", "/v1/nothing").response.body == "v1 there is nothing at '/v1/nothing'");
    CHECK(ask(routes, "GET", "/v1/deep/x").response.body == "deep");
    CHECK(ask(router(), "GET", "/").response.status == 404);
}

TEST_CASE("router: another method") {
    const router routes = some_routes();
    const auto told = ask(routes, "PUT", "/models/active");
    CHECK(told.response.status == 405);
    CHECK(field(told.response, "Allow") == "GET, HEAD, OPTIONS, POST");
    CHECK(told.route == "/models/active");
    CHECK(field(ask(routes, "HEAD", "/v1/embeddings").response, "Allow") == "OPTIONS, POST");
    CHECK(ask(routes, "get", "/").response.status == 405);
    CHECK(ask(routes, "GET", "/v1/embeddings").response.body == "v1 '/v1/embeddings' takes OPTIONS, POST");
    const auto options = ask(routes, "OPTIONS", "/models/a/b");
    CHECK(options.response.status == 204);
    CHECK(field(options.response, "Allow") == "DELETE, OPTIONS");
    CHECK(field(ask(routes, "OPTIONS", "*").response, "Allow") == "DELETE, GET, HEAD, OPTIONS, POST");
}

TEST_CASE("reply: one answer, whatever happens to its copies") {
    std::vector<unsigned> answers;
    const auto note = [&](http_response response, const std::string&) { answers.push_back(response.status); };
    {
        const reply one(note);
        const reply copy = one;
        CHECK_FALSE(copy.lost());
        one({.status = 201});
        CHECK(copy.lost());
        copy({.status = 202});
    }
    CHECK(answers == std::vector<unsigned>{201});
    {
        const reply forgotten(note);
    }
    CHECK(answers == std::vector<unsigned>{201, 500});
    {
        const reply failing([](http_response, const std::string&) { throw 1; });
    }
}
