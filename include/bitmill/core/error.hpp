// What went wrong, where (file, tensor, byte offset) and what to do about it.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
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

struct error {
    static constexpr std::uint64_t no_offset = ~std::uint64_t{0};

    error_code code = error_code::ok;
    std::string message = {};  // one line: what was wrong and what to do
    std::string file = {};     // empty where no file is involved
    std::string tensor = {};   // empty where no tensor is involved
    std::uint64_t offset =
        no_offset;  // byte offset in `file`; for a value, the element's index is in `message`

    // "FILE: tensor 'T': at byte N: MESSAGE", each part only where it is known. Always one line: control
    // characters of hostile names are written as \xNN.
    [[nodiscard]] std::string text() const {
        std::string out;
        if (!file.empty()) append_printable(out, file).append(": ");
        if (!tensor.empty()) append_printable(out.append("tensor '"), tensor).append("': ");
        if (offset != no_offset) out.append("at byte ").append(std::to_string(offset)).append(": ");
        return append_printable(out, message);
    }

private:
    static std::string& append_printable(std::string& out, const std::string& text) {
        static constexpr char digits[] = "0123456789abcdef";
        for (const char c : text) {
            const auto byte = static_cast<unsigned char>(c);
            if (byte >= 0x20 && byte != 0x7f) {
                out.push_back(c);
            } else {
                out.append("\\x").append({digits[byte >> 4], digits[byte & 15]});
            }
        }
        return out;
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
    [[nodiscard]] const bitmill::error& error() const { return std::get<1>(state_); }

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
    [[nodiscard]] const bitmill::error& error() const { return *error_; }

private:
    std::optional<bitmill::error> error_;
};

}  // namespace bitmill
