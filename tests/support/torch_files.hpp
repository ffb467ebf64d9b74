// Files of torch.save made byte by byte, without torch and without the library under test.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/io/torch.hpp>

#include <io_files.hpp>

namespace bitmill_test {

inline std::string le(std::uint64_t value, unsigned width) { return little_endian(value).substr(0, width); }

// Entries are stored; their bytes begin at multiples of 64, as torch.save lays them out.
inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries) {
    std::string file, directory;
    for (const auto& [name, bytes] : entries) {
        const std::size_t local = file.size();
        const std::size_t padding = (64 - (local + 30 + name.size()) % 64) % 64;
        const std::string sizes = le(0, 4) + le(bytes.size(), 4) + le(bytes.size(), 4);
        file += "PK\3\4" + le(20, 2) + le(0, 2) + le(0, 2) + le(0, 4) + sizes + le(name.size(), 2) +
                le(padding, 2) + name + std::string(padding, 'p') + bytes;
        directory += "PK\1\2" + le(20, 2) + le(20, 2) + le(0, 2) + le(0, 2) + le(0, 4) + sizes +
                     le(name.size(), 2) + le(0, 2) + le(0, 2) + le(0, 2) + le(0, 2) + le(0, 4) +
                     le(local, 4) + name;
    }
    const std::string counts = le(entries.size(), 2) + le(entries.size(), 2);
    return file + directory + "PK\5\6" + le(0, 4) + counts + le(directory.size(), 4) + le(file.size(), 4) +
           le(0, 2);
}

// ---- pickles of protocol 2 ---------------------------------------------------------------------------------

inline std::string pickle_text(std::string_view text) { return "X" + le(text.size(), 4) + std::string(text); }
inline std::string pickle_number(std::uint64_t value) {
    return value < 0x7fffffff ? "J" + le(value, 4) : "\x8a\x08" + le(value, 8);
}
inline std::string pickle_numbers(const std::vector<std::uint64_t>& values) {
    std::string out = "(";
    for (const auto one : values) out += pickle_number(one);
    return out + "t";
}
inline std::string pickle_name(std::string_view module, std::string_view name) {
    return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}

struct torch_tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::vector<std::uint64_t> strides;
    std::uint64_t first = 0;     // element of the storage
    std::string storage = "0";   // its key
    std::uint64_t numel = 64;    // of the storage
    std::string type = "Float";  // Storage
};

inline std::string pickle_storage(const torch_tensor& t) {
    return "(" + pickle_text("storage") + pickle_name("torch", t.type + "Storage") + pickle_text(t.storage) +
           pickle_text("cpu") + pickle_number(t.numel) + "tQ";
}

// The tensor as torch rebuilds it: a call with storage, first element, shape, strides, requires_grad, hooks.
inline std::string pickle_tensor(const torch_tensor& t) {
    return pickle_name("torch._utils", "_rebuild_tensor_v2") + "(" + pickle_storage(t) +
           pickle_number(t.first) + pickle_numbers(t.shape) + pickle_numbers(t.strides) + "\x89" +
           pickle_name("collections", "OrderedDict") + ")RtR";
}

inline std::string pickle_items(const std::vector<torch_tensor>& tensors) {
    std::string out = "(";
    for (const auto& t : tensors) out += pickle_text(t.name) + pickle_tensor(t);
    return out + "u";
}

inline std::string state_pickle(const std::vector<torch_tensor>& tensors) {
    return "\x80\x02" + pickle_name("collections", "OrderedDict") + ")R" + pickle_items(tensors) + ".";
}

// What lies around a pickle: storage "0" with the bytes 0, 1, 2 ... (256 of them), "1" with 16, "2" empty.
inline std::string torch_file_of(std::string_view pickle, const std::string& byteorder = "little") {
    std::string bytes;
    for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
    return zip_of({{"m/data.pkl", std::string(pickle)},
                   {"m/byteorder", byteorder},
                   {"m/data/0", bytes},
                   {"m/data/1", bytes.substr(0, 16)},
                   {"m/data/2", ""},
                   {"m/version", "3\n"}});
}

inline bitmill::result<bitmill::torch_file> open_torch(const std::string& path) {
    auto file = bitmill::input_file::open(path);
    if (!file) return file.error();
    return bitmill::torch_file::open(std::move(*file));
}

}  // namespace bitmill_test
