// JSON of clients, who may be anybody.
#pragma once

#include <cstddef>
#include <string_view>

#include <nlohmann/json.hpp>

#include <bitmill/core/error.hpp>

namespace server {

struct json_limits {
    unsigned depth = 16;
    std::size_t values = 1u << 18;  // a value takes many times the memory of its text
};

// Errors: bad_input, with the byte where it shows as offset and in the message, for what is not JSON (RFC 8259),
// not UTF-8, nested deeper or of more values than the limits, or holds a key of one object twice.
[[nodiscard]] bitmill::result<nlohmann::json> parse_json(std::string_view text,
                                                         const json_limits& limits = {});

}  // namespace server
