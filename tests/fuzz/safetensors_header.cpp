// Input: a whole safetensors file. What opens lies in bounds, and written again it holds the same tensors.
#include <algorithm>
#include <string>
#include <vector>

#include <unistd.h>

#include <bitmill/io/safetensors.hpp>

#include <heap_meter.hpp>
#include <io_files.hpp>
#include <mutators.hpp>

using bitmill::safetensors_file;
using fuzz::require;

namespace {

const bitmill_test::temp_folder& scratch() {
    static const bitmill_test::temp_folder folder;
    return folder;
}

std::string read(const safetensors_file& file, const bitmill::tensor_info& tensor) {
    std::string bytes(static_cast<std::size_t>(tensor.bytes), '\0');
    file.file().read_at(tensor.offset, std::as_writable_bytes(std::span(bytes.data(), bytes.size()))).value();
    return bytes;
}

void check_same(const safetensors_file& a, const safetensors_file& b) {
    require(a.size() == b.size(), "the copy has as many tensors");
    require(a.metadata() == b.metadata(), "the copy has the same metadata");
    for (std::size_t i = 0; i < a.size(); ++i) {
        const auto was = a[i];
        const auto at = b.find(was.name);
        require(at.has_value(), "every tensor is in the copy");
        const auto is = b[*at];
        require(is.type == was.type &&
                    std::equal(was.shape.begin(), was.shape.end(), is.shape.begin(), is.shape.end()),
                "a tensor of the copy has the same type and shape");
        require(read(a, was) == read(b, is), "a tensor of the copy has the same bytes");
    }
}

void check_copy(const safetensors_file& file) {
    const std::string path = scratch() / "copy";
    std::vector<bitmill::tensor_spec> specs;
    for (std::size_t i = 0; i < file.size(); ++i) {
        const auto tensor = file[i];
        specs.push_back({std::string(tensor.name), tensor.type, {tensor.shape.begin(), tensor.shape.end()}});
    }
    auto writer = bitmill::safetensors_writer::create(path, specs, file.metadata());
    require(static_cast<bool>(writer), "what was read can be written");
    for (std::size_t i = 0; i < file.size(); ++i) {
        const std::string bytes = read(file, file[i]);
        writer->write(i, 0, bitmill_test::bytes_of(bytes)).value();
    }
    writer->finish().value();
    const auto copy = bitmill_test::open_safetensors(path);
    ::unlink(path.c_str());
    require(static_cast<bool>(copy), "what was written opens");
    require(copy->file().size() == writer->file_bytes(), "the writer knows its file's size");
    check_same(file, *copy);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string path = scratch() / "input";
    fuzz::rewrite(path, fuzz::as_text(data, size));
    const bitmill_test::heap_meter meter;
    const auto file = bitmill_test::open_safetensors(path);
    require(meter.peak_bytes() <= 4 * size + (1u << 20), "opening takes at most 4 x file + 1 MiB");
    if (!file) {
        fuzz::check_error(file.error());
        require(file.error().code == bitmill::error_code::bad_input && file.error().file == path,
                "a file that is refused is bad_input, and named");
        return 0;
    }
    const std::string problem = bitmill_test::walk_problem(*file);
    require(problem.empty(), problem);
    check_copy(*file);
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
namespace {

constexpr std::string_view words[] = {"__metadata__", "dtype",  "shape", "data_offsets", "a",
                                      "weight",       "format", "pt",    "F32",          "F4",
                                      "U8",           "b",      "f32",   "F31"};

std::string random_dtype(fuzz::random& rng) {
    return std::string(fuzz::pick(bitmill::dtype_table, rng).name);
}

fuzz::json random_shape(fuzz::random& rng) {
    fuzz::json shape = fuzz::json::array();
    for (std::uint32_t rank = rng.below(10); rank > 0; --rank)
        shape.push_back(rng.below(rng.below(4) == 0 ? 40 : 4));
    return shape;
}

fuzz::json* random_tensor(fuzz::json& header, fuzz::random& rng) {
    std::vector<fuzz::json*> tensors;
    for (auto& [name, entry] : header.items())
        if (name != "__metadata__" && entry.is_object()) tensors.push_back(&entry);
    return tensors.empty() ? nullptr : fuzz::pick(tensors, rng);
}

void mutate_tensor(fuzz::json& header, fuzz::json& tensor, fuzz::random& rng) {
    switch (rng.below(5)) {
        case 0: tensor["dtype"] = random_dtype(rng); return;
        case 1: tensor["shape"] = random_shape(rng); return;
        case 2:
            if (tensor["shape"].is_array()) tensor["shape"].push_back(fuzz::boundary_number(rng));
            return;
        case 3:
            tensor["data_offsets"] =
                fuzz::json::array({fuzz::boundary_number(rng), fuzz::boundary_number(rng)});
            return;
        default: tensor["data_offsets"] = (*random_tensor(header, rng))["data_offsets"];
    }
}

void mutate_header(fuzz::json& header, fuzz::random& rng) {
    const std::uint32_t kind = rng.below(8);
    fuzz::json* tensor = random_tensor(header, rng);
    if (kind < 3 && tensor != nullptr) return mutate_tensor(header, *tensor, rng);
    if (kind == 3 && header.is_object()) {
        header[fuzz::odd_string(rng, words)] = {
            {"dtype", random_dtype(rng)}, {"shape", random_shape(rng)}, {"data_offsets", {0, 0}}};
        return;
    }
    if (kind == 4 && header.is_object()) {
        auto& metadata = header["__metadata__"];
        if (metadata.is_object() || metadata.is_null())
            metadata[fuzz::odd_string(rng, words)] = fuzz::odd_string(rng, words);
        return;
    }
    fuzz::mutate_json(header, rng, words);
}

// Gives the entries the offsets that follow from their types and shapes; returns how many bytes there are.
std::uint64_t lay_out(fuzz::json& header) {
    std::uint64_t end = 0;
    if (!header.is_object()) return 0;
    for (auto& [name, entry] : header.items()) {
        if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) continue;
        const auto type = bitmill::dtype_from_name(entry["dtype"].get<std::string>());
        if (!type || !entry.contains("shape") || !entry["shape"].is_array()) continue;
        std::uint64_t bits = bitmill::facts(*type).bits;
        for (const auto& dimension : entry["shape"])
            if (dimension.is_number_unsigned())
                bits = std::min<std::uint64_t>(bits, 1u << 20) *
                       std::min<std::uint64_t>(dimension.get<std::uint64_t>(), 1u << 20);
        if (bits / 8 > 16384) continue;
        entry["data_offsets"] = {end, end + bits / 8};
        end += bits / 8;
    }
    return end;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::uint64_t length = 0;
    for (std::size_t i = 8; size >= 8 && i-- > 0;) length = length << 8 | data[i];
    if (size < 8 || length > size - 8 || rng.below(5) == 0) return LLVMFuzzerMutate(data, size, max_size);
    const std::string_view whole = fuzz::as_text(data, size);
    std::string text(whole.substr(8, static_cast<std::size_t>(length)));
    std::string bytes(whole.substr(8 + text.size()));
    auto header = fuzz::parse(text);
    if (!header || rng.below(10) == 0) {
        fuzz::mutate_bytes(text);
    } else {
        for (std::uint32_t changes = 1 + rng.below(3); changes > 0; --changes) mutate_header(*header, rng);
        if (rng.below(5) != 0) bytes.resize(static_cast<std::size_t>(lay_out(*header)), 'Z');
        text = fuzz::print(*header, rng);
    }
    const std::uint64_t told = text.size() + (rng.below(20) == 0 ? rng.below(17) - 8 : 0);
    return fuzz::hand_back(bitmill_test::little_endian(told) + text + bytes, data, max_size);
}
