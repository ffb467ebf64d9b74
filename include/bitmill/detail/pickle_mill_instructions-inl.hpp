// Instructions of a pickle, as bytes of the file. https://docs.python.org/3/library/pickletools.html
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include <bitmill/core/dtype.hpp>

namespace bitmill::detail {

inline std::string pickle_le(std::uint64_t value, unsigned width) {
    std::string out;
    for (unsigned i = 0; i < width; ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
    return out;
}
inline std::string pickle_text(std::string_view text) {
    return "X" + pickle_le(text.size(), 4) + std::string(text);
}
inline std::string pickle_bytes_head(std::uint64_t count) {
    if (count <= 0xff) return "C" + pickle_le(count, 1);
    return count <= 0xffffffff ? "B" + pickle_le(count, 4) : "\x8e" + pickle_le(count, 8);
}
inline std::string pickle_float(double value) {
    std::string out = pickle_le(std::bit_cast<std::uint64_t>(value), 8);
    std::reverse(out.begin(), out.end());
    return "G" + out;
}
inline std::string pickle_integer(std::uint64_t value) {
    return value <= INT32_MAX ? "J" + pickle_le(value, 4) : "\x8a\x09" + pickle_le(value, 9);
}
inline std::string numpy_name(std::string_view name) { return "cnumpy\n" + std::string(name) + "\n"; }
inline const char* numpy_dtype(dtype type) {
    return type == dtype::f64 ? "<f8" : type == dtype::f32 ? "<f4" : type == dtype::f16 ? "<f2" : "|i1";
}

}  // namespace bitmill::detail
