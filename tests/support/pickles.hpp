// Pickled models made instruction by instruction, without Python and without the library under test.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <torch_files.hpp>

namespace bitmill_test {

inline std::string doubles(const std::vector<double>& values) {
    std::string out(values.size() * sizeof(double), '\0');
    std::memcpy(out.data(), values.data(), out.size());
    return out;
}
// 0, 0.25, 0.5 ...: exact as fp16 up to 1024 of them.
inline std::string quarters(std::size_t count) {
    std::vector<double> values;
    for (std::size_t i = count; i != 0; --i) values.push_back(0.25 * static_cast<double>(i));
    return doubles(values);
}

inline std::string pickle_dtype(std::string_view type, std::string_view order = "<") {
    return pickle_name("numpy", "dtype") + pickle_text(type) + "\x89\x88\x87R" + "(K\3" + pickle_text(order) +
           "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + std::string("K\0tb", 4);
}
inline std::string pickle_bytes(std::string_view bytes) {
    return "B" + le(bytes.size(), 4) + std::string(bytes);
}
// As protocol 2 writes bytes.
inline std::string pickle_latin1(std::string_view bytes) {
    std::string text;
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x80) {
            text += c;
        } else {
            text += static_cast<char>(0xc0 | byte >> 6);
            text += static_cast<char>(0x80 | (byte & 0x3f));
        }
    }
    return pickle_name("_codecs", "encode") + pickle_text(text) + pickle_text("latin1") + "\x86R";
}
inline std::string pickle_blank_array() {
    return pickle_name("numpy._core.multiarray", "_reconstruct") + pickle_name("numpy", "ndarray") +
           std::string("K\0\x85", 3) + "C\1b\x87R";
}
inline std::string pickle_state(const std::vector<std::uint64_t>& shape, const std::string& type,
                                const std::string& content, bool column_major = false) {
    return "(K\1" + pickle_numbers(shape) + type + (column_major ? "\x88" : "\x89") + content + "tb";
}
// As protocol 2 to 4 write an array.
inline std::string pickle_array_of(const std::vector<std::uint64_t>& shape, const std::string& content,
                                   std::string_view type = "f8") {
    return pickle_blank_array() + pickle_state(shape, pickle_dtype(type), pickle_bytes(content));
}
// As protocol 5 does.
inline std::string pickle_buffer_array(const std::vector<std::uint64_t>& shape, const std::string& content,
                                       std::string_view type = "f8") {
    return pickle_name("numpy._core.numeric", "_frombuffer") + "(\x96" + le(content.size(), 8) + content +
           pickle_dtype(type) + pickle_numbers(shape) + pickle_text("C") + "tR";
}
// As joblib does; `at`: how many bytes of the file stand before it.
inline std::string pickle_joblib_array(std::uint64_t at, const std::vector<std::uint64_t>& shape,
                                       const std::string& content, std::string_view type = "f8") {
    std::string out = pickle_name("joblib.numpy_pickle", "NumpyArrayWrapper") + ")\x81}(" +
                      pickle_text("subclass") + pickle_name("numpy", "ndarray") + pickle_text("shape") +
                      pickle_numbers(shape) + pickle_text("order") + pickle_text("C") + pickle_text("dtype") +
                      pickle_dtype(type) + pickle_text("allow_mmap") + "\x88" +
                      pickle_text("numpy_array_alignment_bytes") + "K\x10ub";
    const std::uint64_t padding = 16 - (at + out.size() + 1) % 16;
    return out + le(padding, 1) + std::string(static_cast<std::size_t>(padding), '\xff') + content;
}
// {"coef_": ARRAY}
inline std::string pickle_with(const std::string& array, char protocol = 3, std::string_view key = "coef_") {
    return std::string("\x80") + protocol + "}" + pickle_text(key) + array + "s.";
}

}  // namespace bitmill_test
