#include "request_reader.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/version.hpp>

namespace server {

namespace http = boost::beast::http;
using boost::beast::error_code;
using beast_text = boost::beast::string_view;

namespace {

std::string_view text_of(beast_text text) noexcept { return {text.data(), text.size()}; }

// What Beast found wrong, in the words of the protocol.
refusal refusal_of(const error_code& code) {
    if (code == http::error::bad_content_length)
        return {400, "Content-Length is no count of bytes, or stands beside another length"};
    if (code == http::error::bad_transfer_encoding)
        return {400, "Transfer-Encoding stands beside another length"};
    if (code == http::error::bad_chunk || code == http::error::bad_chunk_extension)
        return {400, "a chunk of the body is broken"};
    if (code == http::error::bad_version) return {400, "HTTP/1.1 and 1.0 are spoken here"};
    return {400, "this is no HTTP request"};
}

}  // namespace

// Builds the request as Beast reads it. What a rule refuses is in `refused`, and ends the parse.
class request_reader::parser final : public http::basic_parser<true> {
public:
    explicit parser(const reader_rules& rules) : rules_(rules) {
        // Beast counts only what it has not consumed, so the limits are counted here and by the reader.
        header_limit(std::numeric_limits<std::uint32_t>::max());
        body_limit(std::numeric_limits<std::uint64_t>::max());
        eager(true);
    }
    ~parser() override { rules_.budget.give_back(held_); }
    parser(const parser&) = delete;
    parser& operator=(const parser&) = delete;

    http_request request = {};
    std::optional<refusal> refused = std::nullopt;
    unsigned version = 11;
    bool expects_continue = false;

private:
    // Any error ends the parse; the reason is in `refused`.
    void refuse(unsigned status, std::string message, error_code& code) {
        refused = refusal{status, std::move(message)};
        code = http::error::bad_value;
    }

    void on_request_impl(http::verb, beast_text method, beast_text target, int http_version,
                         error_code& code) override {
        version = static_cast<unsigned>(http_version);
        request.method = text_of(method);
        if (target.size() > rules_.limits.target_bytes)
            return refuse(
                414, "the address is longer than " + std::to_string(rules_.limits.target_bytes) + " bytes",
                code);
        if (!read_target(text_of(target), request, authority_))
            refuse(400, "the address of the request is broken", code);
    }
    void on_response_impl(int, beast_text, int, error_code&) override {}

    void on_field_impl(http::field name, beast_text key, beast_text value, error_code& code) override {
        if (is_header_done()) return;  // a trailer changes nothing that was checked
        if (request.headers.size() == rules_.limits.header_fields)
            return refuse(431, "more than " + std::to_string(rules_.limits.header_fields) + " header fields",
                          code);
        const std::string_view text = text_of(value);
        if (name == http::field::content_length) {
            // Beast takes "5, 5" and a second field, which a proxy in front may read otherwise.
            if (has_length_ ||
                !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
                return refuse(400, "Content-Length must be one number", code);
            has_length_ = true;
        }
        if (name == http::field::transfer_encoding) {
            if (lower_case(text) != "chunked")
                return refuse(501, "of Transfer-Encoding only 'chunked' is known", code);
            if (version < 11) return refuse(400, "HTTP/1.0 has no Transfer-Encoding", code);
        }
        request.headers.emplace_back(lower_case(text_of(key)), text);
    }

    // In this order: whoever may not ask learns no more than that.
    void on_header_impl(error_code& code) override {
        refused = rules_.gate.check(request, authority_, version, rules_.local_address);
        if (!refused) refused = check_body();
        if (refused) code = http::error::bad_value;
    }

    std::optional<refusal> check_body() {
        if (const auto length = content_length(); length && *length > rules_.limits.body_bytes)
            return too_large();
        const std::string encoding = lower_case(request.header("content-encoding"));
        if (!encoding.empty() && encoding != "identity")
            return refusal{415, "the body of a request is taken without Content-Encoding only"};
        const std::string expected = lower_case(request.header("expect"));
        if (expected.empty() || version < 11) return std::nullopt;
        if (expected != "100-continue") return refusal{417, "of Expect only '100-continue' is known"};
        expects_continue = true;
        return std::nullopt;
    }

    void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
    std::size_t on_body_impl(beast_text body, error_code& code) override { return append(body, code); }
    void on_chunk_header_impl(std::uint64_t size, beast_text, error_code& code) override {
        if (size > rules_.limits.body_bytes - request.body.size()) {
            refused = too_large();
            code = http::error::body_limit;
        }
    }
    std::size_t on_chunk_body_impl(std::uint64_t, beast_text body, error_code& code) override {
        return append(body, code);
    }
#if BOOST_BEAST_VERSION >= 359
    void on_trailer_field_impl(http::field, beast_text, beast_text, error_code&) override {}
#endif
    void on_finish_impl(error_code&) override {}

    // Grows with what comes, not with what was announced.
    std::size_t append(beast_text body, error_code& code) {
        if (!rules_.budget.take(body.size())) {
            refuse(503, "the server holds as many bytes of requests and answers as it may; try again", code);
            return 0;
        }
        held_ += body.size();
        request.body.append(body.data(), body.size());
        return body.size();
    }

    [[nodiscard]] refusal too_large() const {
        return {413, "the body is larger than " + std::to_string(rules_.limits.body_bytes) + " bytes"};
    }

    const reader_rules& rules_;
    std::string authority_;
    std::size_t held_ = 0;
    bool has_length_ = false;
};

request_reader::request_reader(const reader_rules& rules)
    : rules_(rules), parser_(std::make_unique<parser>(rules_)) {}
request_reader::~request_reader() = default;

void request_reader::reset() {
    parser_ = std::make_unique<parser>(rules_);
    refused_.reset();
    received_ = 0;
    in_last_chunk_ = false;
}

std::size_t request_reader::put(std::string_view bytes) {
    std::size_t taken = 0;
    // Some clients end a body with a line of its own (RFC 9112, 2.2).
    while (!begun() && bytes.substr(taken, 2) == "\r\n") taken += 2;
    if (!begun() && bytes.substr(taken) == "\r") return taken;
    const auto& limits = rules_.limits;
    while (taken < bytes.size() && !done() && !refused_) {
        // Of the header no more than it may have: what is whole by then is short enough.
        const bool in_header = !header_done();
        const std::string_view all = bytes.substr(taken);
        // Beast asserts so many bytes where it asked for what is behind the last chunk's line.
        if (in_last_chunk_ && all.size() < 5) break;
        const std::string_view rest = in_header ? all.substr(0, limits.header_bytes - received_) : all;
        error_code code;
        const std::size_t used = parser_->put(boost::asio::const_buffer(rest.data(), rest.size()), code);
        taken += used;
        received_ += used;
        const bool needs_more = code == http::error::need_more;
        const bool in_chunk = needs_more && header_done();
        // A line of any other chunk, which may have the end of the one before in front, would have been taken.
        in_last_chunk_ = in_chunk && all.substr(used).find('\n', 2) != std::string_view::npos;
        if (parser_->refused) {
            refused_ = parser_->refused;
        } else if (code && !needs_more) {
            refused_ = refusal_of(code);
        } else if (in_header && !header_done()) {
            const std::uint64_t so_far = received_ + (bytes.size() - taken);
            const bool request_line =
                parser_->request.method.empty() && all.find('\n') == std::string_view::npos;
            // A method and a version stand beside the target.
            if (request_line && so_far > limits.target_bytes + 64)
                refused_ = refusal{414, "the request line is too long"};
            else if (so_far > limits.header_bytes)
                refused_ = refusal{
                    431, "the header is longer than " + std::to_string(limits.header_bytes) + " bytes"};
        }
        if (!needs_more || rest.size() < all.size()) continue;
        // What a chunk says of itself, or the trailer, must be seen whole.
        if (in_chunk && all.size() - used > limits.header_bytes)
            refused_ = refusal{400, "a chunk of the body has too long a line"};
        break;
    }
    return taken;
}

bool request_reader::begun() const noexcept { return parser_->got_some(); }
bool request_reader::header_done() const noexcept { return parser_->is_header_done() && !refused_; }
bool request_reader::done() const noexcept { return parser_->is_done() && !refused_; }
const std::optional<refusal>& request_reader::refused() const noexcept { return refused_; }
bool request_reader::wants_continue() const noexcept { return parser_->expects_continue && header_done(); }
bool request_reader::keep_alive() const noexcept { return header_done() && parser_->keep_alive(); }
unsigned request_reader::version() const noexcept { return parser_->version; }
std::uint64_t request_reader::received_bytes() const noexcept { return received_; }
http_request& request_reader::request() noexcept { return parser_->request; }

}  // namespace server
