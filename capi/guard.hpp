// What every function of the C interface ends in: the one try, errors into the caller's struct, texts into its buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include <bitmill/bitmill.hpp>

#include "bitmill.h"
#include "convert.hpp"

namespace bitmill::capi {

static_assert(static_cast<int>(error_code::ok) == BITMILL_OK &&
              static_cast<int>(error_code::invalid_argument) == BITMILL_INVALID_ARGUMENT &&
              static_cast<int>(error_code::bad_input) == BITMILL_BAD_INPUT &&
              static_cast<int>(error_code::io) == BITMILL_IO &&
              static_cast<int>(error_code::out_of_memory) == BITMILL_OUT_OF_MEMORY &&
              static_cast<int>(error_code::refused) == BITMILL_REFUSED &&
              static_cast<int>(error_code::cancelled) == BITMILL_CANCELLED &&
              static_cast<int>(error_code::unsupported) == BITMILL_UNSUPPORTED);
static_assert(static_cast<int>(log_level::info) == BITMILL_LOG_INFO &&
              static_cast<int>(log_level::warning) == BITMILL_LOG_WARNING);

// `message` is UTF-8.
inline bitmill_status store(bitmill_error* error, bitmill_status status, std::uint64_t offset,
                            std::string_view message) noexcept {
    if (error == nullptr) return status;
    std::size_t length = std::min(message.size(), sizeof error->message - 1);
    // Not in the middle of a character.
    if (length < message.size())
        while (length != 0 && (static_cast<unsigned char>(message[length]) & 0xc0) == 0x80) --length;
    error->status = status;
    error->offset = offset;
    std::memcpy(error->message, message.data(), length);
    error->message[length] = '\0';
    return status;
}

template <class Text>
bitmill_status store_text(bitmill_error* error, bitmill_status status, std::uint64_t offset,
                          const Text& text) noexcept {
    try {
        return store(error, status, offset, text());
    } catch (...) {
        return store(error, status, offset, "no memory for a longer message");
    }
}

inline bitmill_status store(bitmill_error* error, const bitmill::error& what) noexcept {
    return store_text(error, static_cast<bitmill_status>(what.code), what.offset,
                      [&] { return what.text(); });
}

// What is to be 0 after a failure is set before guard(), which also refuses an error of the wrong size.
template <class Body>
bitmill_status guard(bitmill_error* error, const Body& body) noexcept {
    if (error != nullptr && !usable(error)) return BITMILL_INVALID_ARGUMENT;
    try {
        const result<void> done = body();
        return done ? store(error, BITMILL_OK, BITMILL_NO_OFFSET, "") : store(error, done.error());
    } catch (const exception& failure) {
        return store(error, failure.error());
    } catch (const std::bad_alloc&) {
        return store(error, BITMILL_OUT_OF_MEMORY, BITMILL_NO_OFFSET, "out of memory");
    } catch (const std::exception& failure) {
        return store_text(error, BITMILL_INTERNAL, BITMILL_NO_OFFSET,
                          [&] { return printable(failure.what()); });
    } catch (...) {
        return store(error, BITMILL_INTERNAL, BITMILL_NO_OFFSET, "a hook threw an exception");
    }
}

// `text` with a NUL behind; needed_bytes is its length, and set also where dst is too small.
inline result<void> copy_text(const std::string& text, char* dst, std::size_t dst_bytes,
                              std::size_t* needed_bytes) {
    if (needed_bytes != nullptr) *needed_bytes = text.size() + 1;
    if (dst == nullptr && dst_bytes == 0) return {};
    if (dst == nullptr || dst_bytes <= text.size())
        return invalid("dst has " + std::to_string(dst == nullptr ? 0 : dst_bytes) + " bytes, needed are " +
                       std::to_string(text.size() + 1));
    std::memcpy(dst, text.c_str(), text.size() + 1);
    return {};
}

// Writes as much of `value` as the caller's struct has room for; its struct_size stays.
template <class Struct>
void put_struct(Struct* dst, Struct value) noexcept {
    value.struct_size = dst->struct_size;
    if constexpr (requires { value.reserved; }) value.reserved = dst->reserved;
    std::memcpy(dst, &value, std::min<std::size_t>(dst->struct_size, sizeof value));
}

}  // namespace bitmill::capi
