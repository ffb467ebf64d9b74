// For test_differential.py, which asks about thousands of files: reads a path a line, answers with a line of JSON,
// {"error": TEXT} or {"metadata": {...}, "tensors": {NAME: [DTYPE, SHAPE, BYTES IN HEX]}}.
#include <cstdio>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

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

}  // namespace

int main() {
    for (std::string path; std::getline(std::cin, path);)
        std::cout << describe(path).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)
                  << std::endl;
}
