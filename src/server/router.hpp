// A table of methods and paths.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "http.hpp"

namespace server {

// Filled before the server starts, then const: from any thread.
class router {
public:
    // What an error looks like to the clients of some routes: (status, message).
    using error_shape = std::function<http_response(unsigned, std::string_view)>;

    // A segment "{name}" of the pattern takes any one segment, which is then request.parameter("name"); "%2F" in it
    // is a slash. Of several patterns that match, the one with the fewest names. GET serves HEAD, too.
    void add(std::string method, std::string pattern, http_handler handler);
    // For all paths that begin so ("/": for that alone); the longest prefix counts. Without one: error_response.
    void shape_errors(std::string prefix, error_shape shape);

    // Calls the handler, or answers 404, 405 with Allow, and OPTIONS.
    void operator()(http_request&& request, const reply& answer) const;
    // In the shape of the path's group. For handlers, and for http_options::refusal.
    [[nodiscard]] http_response error(std::string_view path, unsigned status, std::string_view message) const;

private:
    struct route {
        std::string method;
        std::string pattern;
        std::vector<std::string> segments;
        http_handler handler;
    };
    [[nodiscard]] std::string allowed(const std::vector<const route*>& routes) const;

    std::vector<route> routes_;
    std::vector<std::pair<std::string, error_shape>> shapes_;
};

}  // namespace server
