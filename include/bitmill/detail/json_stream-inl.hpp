// Feeds JSON from a file or from memory to nlohmann's SAX parser, and closes the holes between that parser
// and what a header may hold: NUL bytes (its lexer takes one for the end), a BOM (it skips one), and
// memory (its lexer keeps two copies of the current token and, on an error, builds its message from three more).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/safetensors_limits-inl.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill::detail {

class json_source {
public:
    static constexpr std::size_t block_bytes = std::size_t{64} << 10;

    // `length` bytes of the file from `begin` on.
    json_source(const input_file& file, std::uint64_t begin, std::uint64_t length)
        : file_(&file), block_(std::make_unique_for_overwrite<char[]>(block_bytes)), next_(begin),
          left_(length) {
        set_limits(file.size());
    }
    explicit json_source(std::string_view text) : raw_(text.data()), raw_end_(raw_ + text.size()) {
        set_limits(text.size());
    }
    // For files that may be little else than one string, at the price of memory: about 9 times that string.
    void allow_long_strings() noexcept { max_string_ = ~std::uint64_t{0}; }
    json_source(const json_source&) = delete;
    json_source& operator=(const json_source&) = delete;

    // The lexer's view: one character at a time.
    [[nodiscard]] bool at_end() { return cursor_ == end_ && !refill(); }
    [[nodiscard]] char current() const noexcept { return *cursor_; }
    void advance() noexcept { ++cursor_; }

    // File offset behind the last character handed out.
    [[nodiscard]] std::uint64_t position() const noexcept {
        return segment_begin_ + static_cast<std::uint64_t>(cursor_ - segment_);
    }
    // Why the text ended before its end: a read error, or a rule of this class.
    [[nodiscard]] const std::optional<error>& failure() const noexcept { return failure_; }

private:
    void set_limits(std::uint64_t whole) {
        // The lexer peaks at about 9 times one string (measured): a third of the file plus 64 KiB keeps
        // opening any file below 4 times its size plus 1 MiB. No real header is a single string.
        max_string_ = whole / 3 + block_bytes;
        // Between strings and numbers the lexer never clears its token, so "[{},{},{},..." grows it too.
        max_gap_ = whole / 8 + block_bytes;
    }

    bool fail(std::string message, std::uint64_t offset) {
        failure_ = make_error(error_code::bad_input, std::move(message), {}, {}, offset);
        return false;
    }

    bool read_block() {
        if (file_ == nullptr || left_ == 0) return false;
        const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(left_, block_bytes));
        if (auto read = file_->read_at(next_, std::as_writable_bytes(std::span(block_.get(), size))); !read) {
            failure_ = read.error();
            return false;
        }
        raw_ = block_.get();
        raw_end_ = raw_ + size;
        raw_begin_ = next_;
        next_ += size;
        left_ -= size;
        return true;
    }

    static bool is_space(char c) noexcept { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

    // Hands out the next stretch of raw bytes. White space outside strings is dropped from its 256th byte on:
    // a header may be padded as far as it likes.
    bool refill() {
        while (!failure_) {
            if (raw_ == raw_end_ && !read_block()) return false;
            while (space_ >= max_space && raw_ != raw_end_ && is_space(*raw_)) {
                ++raw_;
                ++raw_begin_;
            }
            if (raw_ == raw_end_) continue;
            const char* const begin = raw_;
            const std::uint64_t offset = raw_begin_;
            if (!scan()) return false;
            raw_begin_ += static_cast<std::uint64_t>(raw_ - begin);
            segment_ = cursor_ = begin;
            end_ = raw_;
            segment_begin_ = offset;
            return true;
        }
        return false;
    }

    // Moves raw_ to the end of what may be handed out.
    bool scan() {
        const char* const begin = raw_;
        const auto offset = [&] { return raw_begin_ + static_cast<std::uint64_t>(raw_ - begin); };
        for (; raw_ != raw_end_; ++raw_) {
            const char c = *raw_;
            if (c == '\0') return fail("a NUL byte in the JSON text; write the file anew", offset());
            if (in_string_) {
                if (++token_ > max_string_) return fail("one JSON string fills most of the file", offset());
                if (escaped_)
                    escaped_ = false;
                else if (c == '\\')
                    escaped_ = true;
                else if (c == '"')
                    in_string_ = false, token_ = 0;
                continue;
            }
            if (!started_ && !is_space(c)) {
                if (c != '{' && c != '[') return fail("the JSON text does not begin with '{'", offset());
                started_ = true;
            }
            if (is_space(c)) {
                if (++space_ >= max_space) return ++raw_, true;
                continue;
            }
            space_ = 0;
            if (c == '"') {
                in_string_ = true;
                token_ = gap_ = 0;
            } else if (c == '-' || (c >= '0' && c <= '9')) {
                gap_ = 0;
                if (++token_ > max_number) return fail("a number of more than 1024 digits", offset());
            } else {
                token_ = 0;
                if (++gap_ > max_gap_)
                    return fail("too much punctuation without a string or number", offset());
            }
        }
        return true;
    }

    static constexpr std::uint64_t max_space = 256;
    static constexpr std::uint64_t max_number = 1024;

    const input_file* file_ = nullptr;
    std::unique_ptr<char[]> block_;
    std::uint64_t next_ = 0;     // file offset of the next block
    std::uint64_t left_ = 0;     // bytes behind it
    const char* raw_ = nullptr;  // read but not handed out
    const char* raw_end_ = nullptr;
    std::uint64_t raw_begin_ = 0;  // file offset of raw_
    const char* segment_ = nullptr;
    const char* cursor_ = nullptr;
    const char* end_ = nullptr;
    std::uint64_t segment_begin_ = 0;
    std::uint64_t max_string_ = 0;
    std::uint64_t max_gap_ = 0;
    std::uint64_t token_ = 0;  // bytes of the current string or number
    std::uint64_t gap_ = 0;    // other bytes since the last one
    std::uint64_t space_ = 0;  // white space in a row
    bool in_string_ = false;
    bool escaped_ = false;
    bool started_ = false;
    std::optional<error> failure_;
};

// What nlohmann's input adapter wants of an iterator; a default one is the end.
class json_iterator {
public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = char;

    json_iterator() = default;
    explicit json_iterator(json_source& source) noexcept : source_(&source) {}
    char operator*() const noexcept { return source_->current(); }
    json_iterator& operator++() noexcept {
        source_->advance();
        return *this;
    }
    json_iterator operator++(int) noexcept {
        source_->advance();
        return *this;
    }
    friend bool operator!=(const json_iterator& a, const json_iterator&) { return !a.source_->at_end(); }
    friend bool operator==(const json_iterator& a, const json_iterator& b) { return !(a != b); }

private:
    json_source* source_ = nullptr;
};

// The base of our SAX handlers: depth, and the first failure with its place. A handler's function returns
// false to stop.
class json_handler {
public:
    json_handler(const json_source& source, unsigned max_depth) : source_(source), max_depth_(max_depth) {}

    [[nodiscard]] std::optional<error> take_failure() { return std::move(failure_); }

    // nlohmann's words hold the whole last token, which may be megabytes and is hostile.
    bool parse_error(std::size_t, const std::string& token, const nlohmann::json::exception& what) {
        if (what.id == 406)  // out_of_range
            return fail("the number " + token.substr(0, 64) + (token.size() > 64 ? "..." : "") +
                        " is too large for a double; correct it");
        std::string_view reason = what.what();
        reason.remove_prefix(std::min(reason.find("syntax error"), reason.size()));
        reason = reason.substr(0, std::min<std::size_t>(reason.find("; last read"), 200));
        return fail("the JSON text is broken (" + std::string(reason) + "); fetch the file again");
    }

protected:
    bool fail(std::string message, std::string tensor = {}) {
        failure_ =
            make_error(error_code::bad_input, std::move(message), {}, std::move(tensor), source_.position());
        return false;
    }
    bool enter() {
        if (++depth_ > max_depth_)
            return fail("JSON nested deeper than " + std::to_string(max_depth_) + " levels");
        return true;
    }
    void leave() noexcept { --depth_; }
    [[nodiscard]] unsigned depth() const noexcept { return depth_; }
    [[nodiscard]] const json_source& source() const noexcept { return source_; }

    // A key that names a tensor, `before` of which there are.
    bool take_tensor_name(const std::string& key, std::size_t before, std::string& name) {
        if (key.size() > safetensors_max_name_bytes)
            return fail("a tensor name of more than 1024 bytes", key.substr(0, 64) + "...");
        if (before == safetensors_max_tensors) return fail("more than 1048576 tensors");
        name = key;
        return true;
    }

private:
    const json_source& source_;
    unsigned max_depth_;
    unsigned depth_ = 0;
    std::optional<error> failure_;
};

// Runs a handler over a source; the error, if any, names `file`.
template <class Handler>
result<void> parse_json(json_source& source, Handler& handler, const std::string& file) {
    const bool accepted = nlohmann::json::sax_parse(json_iterator(source), json_iterator(), &handler);
    std::optional<error> failed = source.failure();  // first: it is why the lexer saw an early end
    if (!failed) failed = handler.take_failure();
    if (!failed && !accepted) failed = make_error(error_code::bad_input, "the JSON text is broken", {});
    if (!failed) return {};
    failed->file = file;
    return *failed;
}

// Accepts any JSON text.
class json_checker : public json_handler {
public:
    using string_t = nlohmann::json::string_t;
    using json_handler::json_handler;

    bool null() { return true; }
    bool boolean(bool) { return true; }
    bool number_integer(nlohmann::json::number_integer_t) { return true; }
    bool number_unsigned(nlohmann::json::number_unsigned_t) { return true; }
    bool number_float(nlohmann::json::number_float_t, const string_t&) { return true; }
    bool string(string_t&) { return true; }
    bool binary(nlohmann::json::binary_t&) { return fail("binary data"); }
    bool key(string_t&) { return true; }
    bool start_object(std::size_t) { return enter(); }
    bool start_array(std::size_t) { return enter(); }
    bool end_object() { return leave(), true; }
    bool end_array() { return leave(), true; }
};

inline result<void> check_json(std::string_view text, unsigned max_depth, bool root_is_array,
                               const std::string& file) {
    // Whatever else stands there the parser would only call no object.
    const auto begin = text.find_first_not_of(" \t\n\r");
    if (begin != std::string_view::npos && text[begin] != (root_is_array ? '[' : '{'))
        return make_error(error_code::bad_input,
                          std::string("must be a JSON ") +
                              (root_is_array ? "array, in [ ]" : "object, in { }") + "; write the file anew",
                          file, {}, begin);
    json_source source(text);
    json_checker checker(source, max_depth);
    return parse_json(source, checker, file);
}

}  // namespace bitmill::detail
