// Files made byte by byte, without the library under test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/io/safetensors.hpp>

namespace bitmill_test {

// Also makes the folders above it; replaces what was there.
inline void put_file(const std::string& path, std::string_view bytes) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

inline std::string get_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string little_endian(std::uint64_t value) {
    std::string bytes;
    for (unsigned i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i) & 0xff));
    return bytes;
}

inline std::string raw_safetensors(std::string_view header, std::string_view data = {}) {
    return little_endian(header.size()) + std::string(header) + std::string(data);
}

// A file with one U8 tensor of `bytes` bytes for each name.
inline std::string small_safetensors(const std::vector<std::string>& names, std::size_t bytes = 2) {
    std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
    for (const auto& name : names) {
        header += ",\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(bytes) +
                  "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                  std::to_string(data.size() + bytes) + "]}";
        data.append(bytes, static_cast<char>('a' + data.size() % 26));
    }
    return raw_safetensors(header + "}", data);
}

inline bitmill::result<bitmill::safetensors_file> open_safetensors(const std::string& path) {
    auto file = bitmill::input_file::open(path);
    if (!file) return file.error();
    return bitmill::safetensors_file::open(std::move(*file));
}

inline std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// "" where every tensor lies within the file, touches the next one, is found by its name and can be read;
// else what is wrong.
inline std::string walk_problem(const bitmill::safetensors_file& file) {
    std::uint64_t expected = file.data_begin();
    for (std::size_t i = 0; i < file.size(); ++i) {
        const auto tensor = file[i];
        if (tensor.offset != expected) return "a gap before " + std::string(tensor.name);
        expected += tensor.bytes;
        if (expected < tensor.bytes || expected > file.file().size()) return "past the end";
        std::uint64_t elements = 1;
        for (const auto dimension : tensor.shape) elements *= dimension;
        if (elements != tensor.elements) return "elements";
        if (elements * bitmill::facts(tensor.type).bits != tensor.bytes * 8) return "bytes";
        if (file.find(tensor.name) != i) return "find";
        std::vector<std::byte> data(tensor.bytes);
        if (!file.file().read_at(tensor.offset, data)) return "read";
    }
    return expected == file.file().size() ? "" : "bytes left over";
}

// Seeds of the hostile-file tests: every feature of the format once at least.
inline std::vector<std::pair<std::string, std::string>> safetensors_seeds() {
    std::vector<std::pair<std::string, std::string>> seeds;
    const auto add = [&](const std::string& name, std::string_view header, std::size_t data_bytes) {
        std::string data;
        for (std::size_t i = 0; i < data_bytes; ++i) data.push_back(static_cast<char>(i * 37 + 11));
        seeds.emplace_back(name, raw_safetensors(header, data));
    };
    add("two",
        R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}})",
        19);
    add("empty", "{}", 0);
    add("scalar", R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}})", 8);
    add("zero size",
        R"({"z":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"y":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
        1);
    add("metadata",
        R"({"__metadata__":{"format":"pt","note":"a\"b\\c"},"a":{"dtype":"I16","shape":[5],"data_offsets":[0,10]}})",
        10);
    add("null metadata", R"({"__metadata__":null,"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8);
    add("padded", R"( {"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}     )", 6);
    add("extra fields",
        R"({"a":{"dtype":"U8","x":{"y":[1,-2.5e3,{"z":null}]},"shape":[2],"data_offsets":[0,2],"w":true}})",
        2);
    add("reversed order",
        R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
        8);
    add("unaligned",
        R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})",
        9);
    add("names",
        R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u00e9\u4e2d\ud83d\ude00":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
        2);
    add("8 dimensions", R"({"a":{"dtype":"U8","shape":[1,2,1,2,1,1,1,3],"data_offsets":[0,12]}})", 12);
    for (const auto& row : bitmill::dtype_table) {  // 22 more: 8 elements fill whole bytes in every type
        const auto bytes = std::to_string(row.bits);
        add(std::string(row.name),
            R"({"t":{"dtype":")" + std::string(row.name) + R"(","shape":[2,4],"data_offsets":[0,)" + bytes +
                "]}}",
            row.bits);
    }
    std::string many = "{";
    for (int i = 0; i < 40; ++i)
        many += (i ? "," : "") + std::string("\"layer.") + std::to_string(i) +
                R"(.weight":{"dtype":"F16","shape":[10],"data_offsets":[)" + std::to_string(i * 20) + "," +
                std::to_string(i * 20 + 20) + "]}";
    add("forty tensors", many + "}", 800);
    return seeds;
}

}  // namespace bitmill_test
