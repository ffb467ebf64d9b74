// The rules that need no connection: targets, hosts, origins, tokens, and how the head of an answer is written.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http.hpp"

namespace server {

struct refusal {
    unsigned status = 0;
    std::string message = {};
};

// Percent-decoded; nullopt for a broken escape, a control character, or what is not UTF-8. `plus`: '+' is a space.
[[nodiscard]] std::optional<std::string> percent_decoded(std::string_view text, bool plus = false);

// Fills path, segments and query of a request-target; of "http://host/path" the host becomes `authority`. False
// where it is none.
[[nodiscard]] bool read_target(std::string_view target, http_request& request, std::string& authority);

// "host", "host:port" or "[v6]:port" in its parts, the host in lower case; nullopt where it is none of these. No
// port: "".
struct host_and_port {
    std::string host;
    std::string port;
};
[[nodiscard]] std::optional<host_and_port> split_authority(std::string_view text);

// Whether a browser's page of that origin is this server's own.
[[nodiscard]] bool same_origin(std::string_view origin, std::string_view host);

// Takes as long for every text of one length, whatever it is.
[[nodiscard]] bool equal_in_constant_time(std::string_view given, std::string_view secret) noexcept;

[[nodiscard]] std::string lower_case(std::string_view text);

// Who may ask: Host against DNS rebinding, Origin against other sites' pages, the token.
class http_gate {
public:
    // `address` as it was bound, e.g. "127.0.0.1" or "::1".
    http_gate(const http_options& options, const std::string& address);

    // `authority` as in read_target; `local_address` is the one that the client connected to. nullopt: welcome.
    [[nodiscard]] std::optional<refusal> check(const http_request& request, const std::string& authority,
                                               unsigned version, const std::string& local_address) const;

private:
    [[nodiscard]] std::optional<refusal> check_host(std::string_view host,
                                                    const std::string& local_address) const;
    [[nodiscard]] std::optional<refusal> check_token(const http_request& request) const;

    std::vector<std::string> hosts_;  // with a port, or for any
    std::vector<std::string> open_paths_;
    std::string token_;
};

// Status line and fields, the empty line included. Control characters in values become spaces, so that no value can
// end its field. `date`: as http_date gives it.
struct answer_head {
    bool keep_alive = true;
    bool old_client = false;  // HTTP/1.0, which must be told that the connection stays
    std::string_view date = {};
};
[[nodiscard]] std::string write_head(const http_response& response, const answer_head& about);
// "Sun, 06 Nov 1994 08:49:37 GMT"; seconds since 1970.
[[nodiscard]] std::string http_date(std::int64_t seconds);

}  // namespace server
