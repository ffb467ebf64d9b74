#include "router.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace server {

namespace {

[[nodiscard]] bool is_name(const std::string& segment) {
    return segment.size() > 2 && segment.front() == '{' && segment.back() == '}';
}

[[nodiscard]] bool matches(const std::vector<std::string>& pattern, const std::vector<std::string>& path) {
    return std::equal(pattern.begin(), pattern.end(), path.begin(), path.end(),
                      [](const std::string& wanted, const std::string& given) {
                          return is_name(wanted) ? !given.empty() : wanted == given;
                      });
}

[[nodiscard]] std::vector<std::string> split(std::string_view path) {
    std::vector<std::string> out;
    for (path.remove_prefix(1);;) {
        const auto end = path.find('/');
        out.emplace_back(path.substr(0, end));
        if (end == std::string_view::npos) return out;
        path.remove_prefix(end + 1);
    }
}

}  // namespace

void router::add(std::string method, std::string pattern, http_handler handler) {
    auto segments = split(pattern);
    const auto names = [](const std::vector<std::string>& all) {
        return std::count_if(all.begin(), all.end(), is_name);
    };
    const auto at = std::find_if(routes_.begin(), routes_.end(),
                                 [&](const route& one) { return names(one.segments) > names(segments); });
    routes_.insert(at, {std::move(method), std::move(pattern), std::move(segments), std::move(handler)});
}

void router::shape_errors(std::string prefix, error_shape shape) {
    shapes_.emplace_back(std::move(prefix), std::move(shape));
    std::stable_sort(shapes_.begin(), shapes_.end(),
                     [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
}

http_response router::error(std::string_view path, unsigned status, std::string_view message) const {
    const std::string line = bitmill::printable(message);  // what a client sent may be in it
    for (const auto& [prefix, shape] : shapes_)
        if (prefix == "/" ? path == prefix : path.substr(0, prefix.size()) == prefix)
            return shape(status, line);
    return error_response(status, line);
}

// "GET, HEAD, OPTIONS, POST"
std::string router::allowed(const std::vector<const route*>& routes) const {
    std::set<std::string> methods{"OPTIONS"};
    for (const route* one : routes) {
        methods.insert(one->method);
        if (one->method == "GET") methods.insert("HEAD");
    }
    std::string out;
    for (const auto& method : methods) out.append(out.empty() ? "" : ", ").append(method);
    return out;
}

void router::operator()(http_request&& request, const reply& answer) const {
    const bool everything = request.path == "*";  // OPTIONS * asks of the server as a whole
    std::vector<const route*> found;
    for (const auto& one : routes_)
        if (everything || matches(one.segments, request.segments)) found.push_back(&one);
    if (found.empty())
        return answer(error(request.path, 404, "there is nothing at '" + request.path.substr(0, 200) + "'"));
    if (!everything) answer.set_route(found.front()->pattern);
    const std::string wanted = request.method == "HEAD" ? "GET" : request.method;
    const auto at =
        std::find_if(found.begin(), found.end(), [&](const route* one) { return one->method == wanted; });
    if (at == found.end()) {
        auto response =
            request.method == "OPTIONS"
                ? http_response{.status = 204}
                : error(request.path, 405, "'" + request.path.substr(0, 200) + "' takes " + allowed(found));
        response.headers.emplace_back("Allow", allowed(found));
        return answer(std::move(response));
    }
    const route& one = **at;
    answer.set_route(one.pattern);
    for (std::size_t i = 0; i < one.segments.size(); ++i)
        if (is_name(one.segments[i]))
            request.parameters.emplace_back(one.segments[i].substr(1, one.segments[i].size() - 2),
                                            request.segments[i]);
    one.handler(std::move(request), answer);
}

}  // namespace server
