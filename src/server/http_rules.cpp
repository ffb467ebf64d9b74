#include "http_rules.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include <boost/beast/http/status.hpp>

namespace server {

namespace {

[[nodiscard]] bool is_control(char c) noexcept { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }
[[nodiscard]] bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

[[nodiscard]] int hex_value(char c) noexcept {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// The text up to the separator, or all of it; what is behind it stays in `rest`.
std::string_view take_until(std::string_view& rest, char separator) noexcept {
    const std::string_view part = rest.substr(0, rest.find(separator));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    return part;
}

[[nodiscard]] std::string_view value_of(const text_pairs& pairs, std::string_view name) noexcept {
    for (const auto& [key, value] : pairs)
        if (key == name) return value;
    return {};
}

[[nodiscard]] std::ptrdiff_t count_of(const text_pairs& pairs, std::string_view name) {
    return std::count_if(pairs.begin(), pairs.end(), [&](const auto& one) { return one.first == name; });
}

bool read_query(std::string_view text, text_pairs& query) {
    while (!text.empty()) {
        std::string_view value = take_until(text, '&');
        if (value.empty()) continue;
        auto name = percent_decoded(take_until(value, '='), true);
        auto decoded = percent_decoded(value, true);
        if (!name || !decoded) return false;
        query.emplace_back(std::move(*name), std::move(*decoded));
    }
    return true;
}

}  // namespace

std::string lower_case(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return out;
}

std::string_view http_request::header(std::string_view name) const noexcept {
    return value_of(headers, name);
}
std::string_view http_request::query_value(std::string_view name) const noexcept {
    return value_of(query, name);
}
std::string_view http_request::parameter(std::string_view name) const noexcept {
    return value_of(parameters, name);
}

std::optional<std::string> percent_decoded(std::string_view text, bool plus) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '%') {
            if (text.size() - i < 3) return std::nullopt;
            const int high = hex_value(text[i + 1]), low = hex_value(text[i + 2]);
            if (high < 0 || low < 0) return std::nullopt;
            c = static_cast<char>(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (is_control(c)) return std::nullopt;
        out.push_back(c);
    }
    if (!bitmill::is_utf8(out)) return std::nullopt;
    return out;
}

bool read_target(std::string_view target, http_request& request, std::string& authority) {
    if (target == "*") {
        request.path = target;
        return request.method == "OPTIONS";
    }
    if (const auto scheme = target.find("://");
        scheme != std::string_view::npos && target.substr(0, 4) == "http" && scheme <= 5) {
        target.remove_prefix(scheme + 3);
        authority = target.substr(0, target.find_first_of("/?"));
        target.remove_prefix(authority.size());
        if (authority.empty()) return false;
    }
    std::string_view query = target;
    std::string_view path = take_until(query, '?');
    if (path.empty() && !authority.empty()) path = "/";
    if (path.empty() || path.front() != '/' || target.find('#') != std::string_view::npos) return false;
    auto whole = percent_decoded(path);
    if (!whole) return false;
    request.path = std::move(*whole);
    for (path.remove_prefix(1);;) {
        const bool last = path.find('/') == std::string_view::npos;
        auto segment = percent_decoded(take_until(path, '/'));
        if (!segment) return false;
        request.segments.push_back(std::move(*segment));
        if (last) break;
    }
    return read_query(query, request.query);
}

std::optional<host_and_port> split_authority(std::string_view text) {
    host_and_port out;
    std::string_view rest;
    if (!text.empty() && text.front() == '[') {
        const auto end = text.find(']');
        if (end == std::string_view::npos) return std::nullopt;
        out.host = lower_case(text.substr(1, end - 1));
        rest = text.substr(end + 1);
    } else {
        const auto end = std::min(text.find(':'), text.size());
        out.host = lower_case(text.substr(0, end));
        rest = text.substr(end);
    }
    if (out.host.empty() || out.host.find_first_of(" \t/@\\?#%,") != std::string::npos) return std::nullopt;
    if (rest.empty()) return out;
    rest.remove_prefix(1);
    if (text[text.size() - rest.size() - 1] != ':' || rest.empty() || rest.size() > 5) return std::nullopt;
    if (!std::all_of(rest.begin(), rest.end(), is_digit)) return std::nullopt;
    out.port = rest;
    return out;
}

bool same_origin(std::string_view origin, std::string_view host) {
    const auto scheme = origin.find("://");
    if (scheme == std::string_view::npos) return false;
    const std::string name = lower_case(origin.substr(0, scheme));
    if (name != "http" && name != "https") return false;
    const std::string usual = name == "https" ? "443" : "80";
    const auto from = split_authority(origin.substr(scheme + 3));
    const auto to = split_authority(host);
    return from && to && from->host == to->host &&
           (from->port.empty() ? usual : from->port) == (to->port.empty() ? usual : to->port);
}

bool equal_in_constant_time(std::string_view given, std::string_view secret) noexcept {
    unsigned difference = given.size() == secret.size() ? 0 : 1;
    for (std::size_t i = 0; i < given.size(); ++i) {
        const char other = secret.empty() ? '\0' : secret[i % secret.size()];
        difference |= static_cast<unsigned>(static_cast<unsigned char>(given[i])) ^
                      static_cast<unsigned>(static_cast<unsigned char>(other));
    }
    return difference == 0;
}

// ---- who may ask -----------------------------------------------------------------------------------------

http_gate::http_gate(const http_options& options, const std::string& address)
    : hosts_{"localhost", "127.0.0.1", "::1", address}, open_paths_(options.open_paths),
      token_(options.token) {
    for (const auto& name : options.allowed_hosts)
        if (const auto parts = split_authority(name))
            hosts_.push_back(parts->port.empty() ? parts->host : parts->host + ":" + parts->port);
}

std::optional<refusal> http_gate::check(const http_request& request, const std::string& authority,
                                        unsigned version, const std::string& local_address) const {
    const auto hosts = count_of(request.headers, "host");
    if (hosts > 1 || (hosts == 0 && version >= 11))
        return refusal{400, hosts == 0 ? "no Host header" : "more than one Host header"};
    const std::string_view host = authority.empty() ? request.header("host") : std::string_view(authority);
    // HTTP/1.0 may leave it out; no browser speaks that.
    if (hosts != 0 || !authority.empty())
        if (auto refused = check_host(host, local_address)) return refused;
    for (const auto& [name, value] : request.headers)
        if (name == "origin" && !same_origin(value, host))
            return refusal{403, "requests of other sites' pages are not served"};
    return check_token(request);
}

std::optional<refusal> http_gate::check_host(std::string_view host, const std::string& local_address) const {
    const auto parts = split_authority(host);
    if (!parts) return refusal{400, "the Host header is no host"};
    const auto is_this = [&](const std::string& one) {
        return one == parts->host || (!parts->port.empty() && one == parts->host + ":" + parts->port);
    };
    if (parts->host == local_address || std::any_of(hosts_.begin(), hosts_.end(), is_this))
        return std::nullopt;
    return refusal{421, "not served under the name '" + bitmill::printable(parts->host) +
                            "'; start the server with it as an allowed host"};
}

std::optional<refusal> http_gate::check_token(const http_request& request) const {
    if (token_.empty()) return std::nullopt;
    const bool looks = request.method == "GET" || request.method == "HEAD";
    if (looks && std::find(open_paths_.begin(), open_paths_.end(), request.path) != open_paths_.end())
        return std::nullopt;
    std::string_view given = request.header("authorization");
    const std::string scheme = lower_case(take_until(given, ' '));
    given.remove_prefix(std::min(given.find_first_not_of(' '), given.size()));
    if (scheme == "bearer" && equal_in_constant_time(given, token_)) return std::nullopt;
    return refusal{401, "needs 'Authorization: Bearer' with the server's token"};
}

// ---- answers ---------------------------------------------------------------------------------------------

http_response error_response(unsigned status, std::string_view message) {
    std::string text;
    for (const char c : bitmill::printable(message)) {
        if (c == '"' || c == '\\') text.push_back('\\');
        text.push_back(c);
    }
    return {.status = status, .body = R"({"status":"error","message":")" + text + "\"}"};
}

std::string write_head(const http_response& response, const answer_head& about) {
    const auto reason =
        boost::beast::http::obsolete_reason(boost::beast::http::int_to_status(response.status));
    std::string out = "HTTP/1.1 " + std::to_string(response.status) + " ";
    out.append(reason.data(), reason.size()).append("\r\n");
    const auto add = [&](std::string_view name, std::string_view value) {
        out.append(name).append(": ");
        const std::size_t begin = out.size();
        out.append(value).append("\r\n");
        std::replace_if(out.begin() + static_cast<std::ptrdiff_t>(begin), out.end() - 2, is_control, ' ');
    };
    add("Date", about.date);
    // 204 has no body by its nature, and must not tell its length.
    if (response.status != 204) {
        add("Content-Type", response.content_type);
        add("Content-Length", std::to_string(response.body.size()));
        add("X-Content-Type-Options", "nosniff");
    }
    for (const auto& [name, value] : response.headers) add(name, value);
    if (!about.keep_alive)
        add("Connection", "close");
    else if (about.old_client)
        add("Connection", "keep-alive");
    return out.append("\r\n");
}

std::string http_date(std::int64_t seconds) {
    static constexpr std::array days{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr std::array months{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const auto time = static_cast<std::time_t>(seconds);
    std::tm parts{};
    if (::gmtime_r(&time, &parts) == nullptr) return {};
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%s, %02d %s %04d %02d:%02d:%02d GMT",
                  days[static_cast<std::size_t>(parts.tm_wday)], parts.tm_mday,
                  months[static_cast<std::size_t>(parts.tm_mon)], parts.tm_year + 1900, parts.tm_hour,
                  parts.tm_min, parts.tm_sec);
    return text.data();
}

}  // namespace server
