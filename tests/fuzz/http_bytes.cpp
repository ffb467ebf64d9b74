// Input: a byte that says in pieces of what size the rest comes, then the bytes of one connection. They are read as
// the server reads them, and every request goes through a router, its body through the parser of JSON. However the
// bytes are cut, the requests are the same.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <heap_meter.hpp>
#include <mutators.hpp>

#include <server/json.hpp>
#include <server/request_reader.hpp>
#include <server/router.hpp>

using fuzz::require;

namespace {

struct read_request {
    std::string method, path, body;
    server::text_pairs headers;
    bool keep_alive = false;
    bool operator==(const read_request&) const = default;
};

struct connection {
    std::vector<read_request> requests;
    unsigned refused = 0;
};

unsigned depth_of(const nlohmann::json& value) {
    unsigned most = 0;
    if (value.is_structured())
        for (const auto& child : value) most = std::max(most, depth_of(child));
    return value.is_structured() ? most + 1 : 0;
}

void check_body(const std::string& body) {
    const auto tree = server::parse_json(body);
    if (!tree) {
        require(tree.error().offset <= body.size(), "an error lies in the body");
        require(tree.error().message.size() < 1000, "an error is short");
        return;
    }
    require(depth_of(*tree) <= 16, "the depth is bounded");
    require(server::parse_json(tree->dump()).value() == *tree, "what was taken is JSON again");
}

void check_routes(server::http_request&& request) {
    static const server::router routes = [] {
        server::router made;
        const auto handler = [](server::http_request&& one, const server::reply& answer) {
            answer({.body = std::string(one.parameter("name"))});
        };
        made.add("GET", "/models/{name}", handler);
        made.add("POST", "/models/active", handler);
        return made;
    }();
    int answers = 0;
    routes(std::move(request), server::reply([&](server::http_response response, const std::string&) {
               ++answers;
               const std::string head = server::write_head(response, {});
               require(head.find("\r\n\r\n") == head.size() - 4, "no value ends the header");
           }));
    require(answers == 1, "one answer to one request");
}

connection read_all(std::string_view bytes, std::size_t piece, const server::http_limits& limits) {
    static const server::http_gate gate(server::http_options{}, "127.0.0.1");
    static const std::string local = "127.0.0.1";
    server::byte_budget budget(3 * limits.body_bytes / 2);
    connection out;
    {
        server::request_reader reader({limits, gate, local, budget});
        std::string pending;
        while (out.refused == 0) {
            pending.erase(0, reader.put(pending));
            if (reader.refused()) {
                out.refused = reader.refused()->status;
                require(out.refused >= 400 && !reader.refused()->message.empty(), "a refusal has a reason");
            } else if (reader.done()) {
                auto& request = reader.request();
                require(request.body.size() <= limits.body_bytes, "the limit of a body holds");
                require(request.headers.size() <= limits.header_fields, "the limit of fields holds");
                require(bitmill::is_utf8(request.path), "a path is a text");
                out.requests.push_back(
                    {request.method, request.path, request.body, request.headers, reader.keep_alive()});
                check_body(request.body);
                check_routes(std::move(request));
                reader.reset();
            } else {
                require(pending.size() <= limits.header_bytes, "little is left over");
                const auto next = bytes.substr(0, piece);
                if (next.empty()) break;
                pending += next;
                bytes.remove_prefix(next.size());
            }
        }
    }
    require(budget.held() == 0, "the budget is given back");
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string_view bytes = fuzz::as_text(data, size).substr(1);
    server::http_limits limits;
    limits.target_bytes = 1024;
    limits.header_bytes = 4096;
    limits.body_bytes = 4096;
    const bitmill_test::heap_meter meter;
    const auto whole = read_all(bytes, bytes.size(), limits);
    const auto cut = read_all(bytes, std::size_t{data[0]} + 1, limits);
    require(meter.peak_bytes() <= 256 * size + (std::size_t{1} << 20), "memory stays near the input's size");
    // Where the limits of a header are met, the reader sees more of it in one case than in the other.
    if (bytes.size() > limits.target_bytes) return 0;
    require(whole.requests == cut.requests, "pieces do not change the requests");
    // In pieces a header is looked at when it is whole; one that never is, is not refused.
    require(cut.refused == whole.refused || cut.refused == 0, "pieces do not change the refusal");
    return 0;
}

// ---- mutation: lines that mean something, put between lines ------------------------------------------------------
namespace {

constexpr std::string_view lines[] = {"GET / HTTP/1.1\r\n",
                                      "POST /models/active HTTP/1.1\r\n",
                                      "HEAD /models/a%2Fb?x=1&y=%20+ HTTP/1.0\r\n",
                                      "OPTIONS * HTTP/1.1\r\n",
                                      "GET http://localhost:80/a HTTP/1.1\r\n",
                                      "Host: localhost\r\n",
                                      "Host: [::1]:8000\r\n",
                                      "Host: evil.example\r\n",
                                      "Origin: http://localhost\r\n",
                                      "Content-Length: 4\r\n",
                                      "Content-Length: 18446744073709551615\r\n",
                                      "Transfer-Encoding: chunked\r\n",
                                      "Transfer-Encoding: gzip, chunked\r\n",
                                      "Content-Encoding: gzip\r\n",
                                      "Expect: 100-continue\r\n",
                                      "Connection: close\r\n",
                                      "Connection: keep-alive, upgrade\r\n",
                                      "X: folded\r\n value\r\n",
                                      "\r\n",
                                      "4\r\n[1]\n\r\n",
                                      "2;name=\"v\"\r\n{}\r\n",
                                      "0\r\n\r\n",
                                      "0\r\nHost: x\r\n\r\n",
                                      "ffffffffffffffff\r\n",
                                      "-2\r\n",
                                      "{\"a\":[1,{\"b\":\"\\u00e9\"}]}",
                                      "[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    if (size == 0 || rng.below(3) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::string input(fuzz::as_text(data, size));
    // Somewhere behind a line end, or behind the first byte.
    const std::size_t found = input.find('\n', rng.below(static_cast<std::uint32_t>(size)));
    const std::size_t at = found == std::string::npos ? 1 : found + 1;
    const std::size_t line =
        std::min(input.find('\n', at), input.size() - 1) + 1 - std::min(at, input.size() - 1);
    switch (rng.below(4)) {
        case 0: input.erase(at, line); break;
        case 1: input.insert(at, input.substr(at, line)); break;
        case 2: input.replace(at, line, fuzz::pick(lines, rng)); break;
        default: input.insert(at, fuzz::pick(lines, rng));
    }
    return fuzz::hand_back(input, data, max_size);
}
