// What went wrong, where (file, tensor, byte offset) and what to do about it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <bitmill/core/config.hpp>

namespace bitmill {

// The values are pinned: the C ABI hands them out as they are.
enum class error_code : std::int32_t {
    ok = 0,
    invalid_argument = 1,  // the caller asked for something that has no meaning
    bad_input = 2,         // a file breaks its format's rules
    io = 3,                // the operating system refused
    out_of_memory = 4,     // the work does not fit the memory it was given
    refused = 5,           // a gate or a verification said no
    cancelled = 6,         // the caller's progress hook asked to stop
    unsupported = 7,       // valid, but this version cannot do it
};

namespace detail {

// Bytes of the character at the front of a text that is not empty; 0 where it is not UTF-8.
[[nodiscard]] constexpr std::size_t utf8_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return 1;
    const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xc0) != 0x80) return 0;
    // Overlong forms, surrogates, and what lies above U+10FFFF.
    const bool low = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
    const bool high = (lead == 0xed && byte(1) > 0x9f) || (lead == 0xf4 && byte(1) > 0x8f);
    return low || high ? 0 : length;
}

}  // namespace detail

[[nodiscard]] constexpr bool is_utf8(std::string_view text) noexcept {
    while (!text.empty()) {
        const std::size_t length = detail::utf8_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

// One line of UTF-8, whatever hostile names it holds: control characters and stray bytes are written as \xNN.
[[nodiscard]] inline std::string printable(std::string_view text) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    while (!text.empty()) {
        const auto byte = static_cast<unsigned char>(text.front());
        const std::size_t length = byte < 0x20 || byte == 0x7f ? 0 : detail::utf8_length(text);
        if (length == 0) out.append("\\x").append({digits[byte >> 4], digits[byte & 15]});
        out.append(text, 0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return out;
}

struct error {
    static constexpr std::uint64_t no_offset = ~std::uint64_t{0};

    error_code code = error_code::ok;
    std::string message = {};  // one line: what was wrong and what to do
    std::string file = {};     // empty where no file is involved
    std::string tensor = {};   // empty where no tensor is involved
    // Byte offset in `file`; without a file, the index of an element.
    std::uint64_t offset = no_offset;

    // "FILE: tensor 'T': at byte N: MESSAGE", each part only where it is known. Always one line of UTF-8.
    [[nodiscard]] std::string text() const {
        std::string out;
        if (!file.empty()) out.append(file).append(": ");
        if (!tensor.empty()) out.append("tensor '").append(tensor).append("': ");
        if (!file.empty() && offset != no_offset)
            out.append("at byte ").append(std::to_string(offset)).append(": ");
        return printable(out.append(message));
    }
};

class exception : public std::exception {
public:
    explicit exception(bitmill::error what) : error_(std::move(what)), text_(error_.text()) {}
    [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }
    [[nodiscard]] const bitmill::error& error() const noexcept { return error_; }

private:
    bitmill::error error_;
    std::string text_;
};

// A value or an error. Parsers and codecs return it; value() throws bitmill::exception.
template <class T>
class [[nodiscard]] result {
public:
    result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    result(bitmill::error what) : state_(std::in_place_index<1>, std::move(what)) {}

    [[nodiscard]] explicit operator bool() const noexcept { return state_.index() == 0; }
    [[nodiscard]] T& value() & {
        if (!*this) throw exception(error());
        return std::get<0>(state_);
    }
    [[nodiscard]] T value() && {
        if (!*this) throw exception(error());
        return std::get<0>(std::move(state_));
    }
    [[nodiscard]] const T& value() const& {
        if (!*this) throw exception(error());
        return std::get<0>(state_);
    }
    [[nodiscard]] T* operator->() { return &value(); }
    [[nodiscard]] const T* operator->() const { return &value(); }
    [[nodiscard]] T& operator*() & { return value(); }
    [[nodiscard]] const T& operator*() const& { return value(); }
    [[nodiscard]] const bitmill::error& error() const& { return std::get<1>(state_); }
    [[nodiscard]] bitmill::error error() && { return std::get<1>(std::move(state_)); }

private:
    std::variant<T, bitmill::error> state_;
};

template <>
class [[nodiscard]] result<void> {
public:
    result() = default;
    result(bitmill::error what) : error_(std::move(what)) {}

    [[nodiscard]] explicit operator bool() const noexcept { return !error_; }
    void value() const {
        if (error_) throw exception(*error_);
    }
    [[nodiscard]] const bitmill::error& error() const& { return *error_; }
    [[nodiscard]] bitmill::error error() && { return *std::move(error_); }

private:
    std::optional<bitmill::error> error_;
};

}  // namespace bitmill
