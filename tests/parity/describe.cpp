// For test_differential.py and test_gguf.py, which ask about thousands of files: reads a path a line, answers with a
// line of JSON, {"error": TEXT} or {"metadata": {...}, "tensors": {NAME: [DTYPE, SHAPE, BYTES IN HEX]}}. Of a .gguf file
// {"keys": {KEY: [TYPES, SHA-256 OF THE PAIR]}, "tensors": {NAME: [TYPE, SHAPE, OFFSET, SHA-256]}}; a path behind a tab
// gets a copy, by gguf_writer.
#include <algorithm>
#include <iostream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/core/sha256.hpp>
#include <bitmill/io/gguf.hpp>
#include <bitmill/io/safetensors.hpp>

namespace {

std::string hex(const std::vector<std::byte>& bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string out;
    for (const std::byte one : bytes) {
        out.push_back(digits[std::to_integer<unsigned>(one) >> 4]);
        out.push_back(digits[std::to_integer<unsigned>(one) & 15]);
    }
    return out;
}

nlohmann::json describe(const std::string& path) {
    auto opened = bitmill::input_file::open(path);
    if (!opened) return {{"error", opened.error().text()}};
    const auto file = bitmill::safetensors_file::open(std::move(*opened));
    if (!file) return {{"error", file.error().text()}};
    auto tensors = nlohmann::json::object();
    for (std::size_t i = 0; i < file->size(); ++i) {
        const auto tensor = (*file)[i];
        std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes));
        file->file().read_at(tensor.offset, bytes).value();
        tensors[std::string(tensor.name)] = {bitmill::facts(tensor.type).name, tensor.shape, hex(bytes)};
    }
    return {{"metadata", std::map(file->metadata().begin(), file->metadata().end())},
            {"tensors", std::move(tensors)}};
}

nlohmann::json describe_gguf(const std::string& path, const std::string& copy) {
    auto opened = bitmill::input_file::open(path);
    if (!opened) return {{"error", opened.error().text()}};
    const auto file = bitmill::gguf_file::open(std::move(*opened));
    if (!file) return {{"error", file.error().text()}};
    auto keys = nlohmann::json::object(), tensors = nlohmann::json::object();
    for (std::size_t i = 0; i < file->metadata().size(); ++i) {
        const auto value = file->metadata()[i];
        std::vector<std::uint32_t> types{static_cast<std::uint32_t>(value.type)};
        if (value.type == bitmill::gguf_type::array && value.count > 0)
            types.push_back(static_cast<std::uint32_t>(value.element));
        keys[std::string(value.key)] = {types, bitmill::hex_text(bitmill::sha256::of(value.pair))};
    }
    std::vector<bitmill::gguf_spec> specs;
    for (std::size_t i = 0; i < file->size(); ++i)
        specs.push_back(
            {std::string((*file)[i].name), file->type(i), {file->shape(i).begin(), file->shape(i).end()}});
    std::optional<bitmill::gguf_writer> writer;
    if (!copy.empty()) writer = bitmill::gguf_writer::create(copy, specs, file->metadata()).value();
    for (std::size_t i = 0; i < file->size(); ++i) {
        const auto tensor = (*file)[i];
        std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes));
        file->file().read_at(tensor.offset, bytes).value();
        if (writer) writer->write(i, 0, bytes).value();
        tensors[specs[i].name] = {bitmill::facts(specs[i].type).name, specs[i].shape, tensor.offset,
                                  bitmill::hex_text(bitmill::sha256::of(std::span<const std::byte>(bytes)))};
    }
    if (writer) writer->finish().value();
    return {{"keys", std::move(keys)}, {"tensors", std::move(tensors)}};
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        const std::string path = line.substr(0, line.find('\t'));
        const std::string copy = line.substr(std::min(line.size(), path.size() + 1));
        const auto told = path.ends_with(".gguf") ? describe_gguf(path, copy) : describe(path);
        std::cout << told.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) << std::endl;
    }
}
