// GGUF files made byte by byte, without the library under test.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/io/gguf.hpp>

#include <io_files.hpp>

namespace bitmill_test {

inline std::string le4(std::uint64_t value) { return little_endian(value).substr(0, 4); }
inline std::string gguf_string(std::string_view text) {
    return little_endian(text.size()) + std::string(text);
}

// A pair whose value is given as it lies in the file.
inline std::string gguf_pair(std::string_view key, std::uint32_t type, const std::string& value) {
    return gguf_string(key) + le4(type) + value;
}
inline std::string gguf_array(std::uint32_t element, std::uint64_t count, const std::string& values) {
    return le4(element) + little_endian(count) + values;
}
inline std::string gguf_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return le4(bits);
}

struct gguf_tensor {
    std::string name;
    std::vector<std::uint64_t> dims;  // as the file has them: the contiguous one first
    std::uint32_t type;
    std::uint64_t offset;
};
inline std::string gguf_entry(const gguf_tensor& t) {
    std::string entry = gguf_string(t.name) + le4(t.dims.size());
    for (const auto dimension : t.dims) entry += little_endian(dimension);
    return entry + le4(t.type) + little_endian(t.offset);
}

inline std::string gguf_head(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) {
    return "GGUF" + le4(version) + little_endian(tensors) + little_endian(pairs);
}
inline std::string gguf_of(const std::vector<std::string>& pairs, const std::vector<gguf_tensor>& tensors,
                           std::string_view data, std::uint32_t version = 3, std::size_t alignment = 32) {
    std::string file = gguf_head(tensors.size(), pairs.size(), version);
    for (const auto& pair : pairs) file += pair;
    for (const auto& tensor : tensors) file += gguf_entry(tensor);
    file.append((alignment - file.size() % alignment) % alignment, '\0');
    return file.append(data);
}

// One key of each type.
inline std::vector<std::string> gguf_every_pair() {
    return {gguf_pair("general.architecture", 8, gguf_string("llama")),
            gguf_pair("u8", 0, "\xfe"),
            gguf_pair("i8", 1, "\xfe"),
            gguf_pair("u16", 2, "\xfe\xff"),
            gguf_pair("i16", 3, "\xfe\xff"),
            gguf_pair("u32", 4, le4(0xfffffffe)),
            gguf_pair("i32", 5, le4(0xfffffffe)),
            gguf_pair("f32", 6, gguf_bits(-1.5f)),
            gguf_pair("yes", 7, "\1"),
            gguf_pair("u64", 10, little_endian(~std::uint64_t{1})),
            gguf_pair("i64", 11, little_endian(~std::uint64_t{1})),
            gguf_pair("f64", 12, little_endian(0x3ff8000000000000)),
            gguf_pair("empty", 8, gguf_string("")),
            gguf_pair("tokens", 9,
                      gguf_array(8, 3, gguf_string("a") + gguf_string("") + gguf_string("\xe2\x96\x81z"))),
            gguf_pair("scores", 9, gguf_array(6, 2, gguf_bits(0.25f) + gguf_bits(-3.f))),
            gguf_pair("none", 9, gguf_array(4, 0, ""))};
}

// F32 [2, 3], Q8_0 [2, 32], a lone F16, and Q4_K [256] whose last padding is missing.
inline std::string gguf_small() {
    std::string data;
    for (int i = 0; i < 320; ++i) data.push_back(static_cast<char>(i * 37 + 11));
    return gguf_of(
        gguf_every_pair(),
        {{"a.weight", {3, 2}, 0, 0}, {"b.weight", {32, 2}, 8, 32}, {"c", {}, 1, 128}, {"d", {256}, 12, 160}},
        std::string_view(data).substr(0, 304));
}

inline bitmill::result<bitmill::gguf_file> open_gguf(const std::string& path) {
    auto file = bitmill::input_file::open(path);
    if (!file) return file.error();
    return bitmill::gguf_file::open(std::move(*file));
}

// "" where all that an open file says of itself can be read and lies within it; else what is wrong.
inline std::string gguf_problem(const bitmill::gguf_file& file) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < file.metadata().size(); ++i) {
        const auto value = file.metadata()[i];
        const auto found = file.metadata().find(value.key);
        if (!found || found->pair.data() != value.pair.data()) return "a key is not found";
        if (value.pair.data() != file.metadata().bytes().data() + bytes) return "a gap between pairs";
        bytes += value.pair.size();
        std::uint64_t count = 0;
        for (const auto text : value.strings()) {
            if (text.data() + text.size() > value.pair.data() + value.pair.size())
                return "a string is outside";
            ++count;
        }
        if (count != value.strings().size()) return "strings";
        const auto type = value.element;
        const std::uint64_t expected = value.count * value_bytes(type);
        if (type != bitmill::gguf_type::string && value.encoded.size() != expected) return "a value's size";
    }
    if (bytes != file.metadata().bytes().size()) return "bytes behind the last pair";
    std::uint64_t end = file.data_begin();
    for (std::size_t i = 0; i < file.size(); ++i) {
        const auto t = file[i];
        if (t.offset < end || t.offset % file.alignment() != 0 || t.offset - end >= file.alignment())
            return std::string(t.name) + " does not follow the one before";
        end = t.offset + t.bytes;
        if (end < t.offset || end > file.file().size()) return std::string(t.name) + " is outside";
        if (file.find(t.name) != i) return std::string(t.name) + " is not found";
        std::uint64_t elements = 1, logical = 1;
        for (const auto dimension : t.shape) elements *= dimension;
        for (const auto dimension : file.shape(i)) logical *= dimension;
        if (elements != t.elements || elements * bitmill::element_bytes(t.type) != t.bytes)
            return std::string(t.name) + " has another size than its shape";
        const auto& row = bitmill::facts(file.type(i));
        if (logical / row.block_elements * row.block_bytes != t.bytes)
            return std::string(t.name) + ": blocks";
        std::vector<std::byte> data(static_cast<std::size_t>(t.bytes));
        if (!file.file().read_at(t.offset, data)) return std::string(t.name) + " cannot be read";
    }
    return {};
}

}  // namespace bitmill_test
