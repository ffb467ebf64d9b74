// JSON that is written piece by piece: a thousand vectors are no tree.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "http.hpp"

namespace server {

// The fewest digits that give the same float.
inline void append_number(std::string& out, float value) {
    if (!std::isfinite(value)) return void(out += "null");
    char text[32];
    const auto done = std::to_chars(text, text + sizeof text, value);
    out.append(text, done.ptr);
}
inline void append_numbers(std::string& out, std::span<const float> values) {
    out += '[';
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i != 0) out += ',';
        append_number(out, values[i]);
    }
    out += ']';
}

// RFC 4648.
[[nodiscard]] inline std::string base64_of(std::span<const std::byte> bytes) {
    static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
        unsigned group = 0;
        for (std::size_t k = 0; k < 3; ++k)
            group = group << 8 | (k < count ? std::to_integer<unsigned>(bytes[i + k]) : 0u);
        for (std::size_t k = 0; k < 4; ++k) out += k <= count ? digits[group >> (18 - 6 * k) & 63] : '=';
    }
    return out;
}
// As clients of OpenAI take vectors: floats as they lie in memory, little-endian on every processor that this runs on.
inline void append_base64(std::string& out, std::span<const float> values) {
    out += '"' + base64_of(std::as_bytes(values)) + '"';
}

[[nodiscard]] inline std::string json_quoted(std::string_view text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
[[nodiscard]] inline std::string dumped(const nlohmann::ordered_json& value) {
    return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}
[[nodiscard]] inline http_response answer_json(std::string body, unsigned status = 200) {
    http_response out;
    out.status = status;
    out.body = std::move(body);
    return out;
}

}  // namespace server
