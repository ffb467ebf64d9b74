// Input: a first byte, then a whole file of torch.save (0), or a pickle for one with three storages (else). What opens
// lies in bounds and reads, whole and in pieces, the same.
#include <algorithm>
#include <string>
#include <vector>

#include <bitmill/io/weight_file.hpp>

#include <heap_meter.hpp>
#include <mutators.hpp>
#include <torch_files.hpp>

using fuzz::require;

namespace {

const bitmill_test::temp_folder& scratch() {
    static const bitmill_test::temp_folder folder;
    return folder;
}

std::string read(const bitmill::weight_file& file, const bitmill::tensor_info& t, std::uint64_t offset,
                 std::uint64_t bytes) {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    file.read(t, offset, std::as_writable_bytes(std::span(text.data(), text.size()))).value();
    return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const std::string path = scratch() / "input.bin";
    const std::string_view input = fuzz::as_text(data + 1, size - 1);
    const std::string bytes = data[0] == 0 ? std::string(input) : bitmill_test::torch_file_of(input);
    fuzz::rewrite(path, bytes);
    const bitmill_test::heap_meter meter;
    const auto file = bitmill::weight_file::open(bitmill::input_file::open(path).value());
    require(meter.peak_bytes() <= 4 * bytes.size() + (1u << 20), "opening takes at most 4 x file + 1 MiB");
    if (!file) {
        fuzz::check_error(file.error());
        require(file.error().code == bitmill::error_code::bad_input ||
                    file.error().code == bitmill::error_code::unsupported,
                "a file that is refused is bad_input or unsupported");
        require(file.error().file == path, "the error names the file");
        return 0;
    }
    for (std::size_t i = 0; i < file->size(); ++i) {
        const auto t = (*file)[i];
        require(file->find(t.name) == i, "every tensor is found by its name");
        require(i == 0 || (*file)[i - 1].offset <= t.offset, "tensors stand in the order of their offsets");
        require(t.bytes <= std::max<std::uint64_t>(file->file().size(), 1u << 20), "a tensor has its bytes");
        const std::string whole = read(*file, t, 0, t.bytes);
        const std::uint64_t cut = t.bytes * (data[0] % 16) / 16;
        require(read(*file, t, 0, cut) + read(*file, t, cut, t.bytes - cut) == whole,
                "pieces make the whole");
    }
    return 0;
}

// ---- mutation: of the instructions of a pickle -------------------------------------------------------------
namespace {

std::string odd_number(fuzz::random& rng) {
    const fuzz::json value = fuzz::boundary_number(rng);
    return bitmill_test::pickle_number(value.is_number_integer() ? value.get<std::uint64_t>() : 3);
}

std::string instruction(fuzz::random& rng) {
    using namespace bitmill_test;
    static const std::string plain[] = {"N",       "(",
                                        ")",       "t",
                                        "]",       "}",
                                        "a",       "e",
                                        "s",       "u",
                                        "R",       "b",
                                        "Q",       ".",
                                        "\x85",    "\x86",
                                        "\x87",    "\x88",
                                        "\x89",    "\x8f",
                                        "\x94",    "\x81",
                                        "\x93",    std::string("h\0", 2),
                                        "h\1",     std::string("q\0", 2),
                                        "q\1",     "\x80\x02",
                                        "\x80\x04"};
    static const char* const texts[] = {
        "storage",      "0",           "1",          "2", "cpu",          "w",
        "model",        "state_dict",  "torch",      "",  "FloatStorage", "_rebuild_tensor_v2",
        "torch._utils", "collections", "OrderedDict"};
    switch (rng.below(8)) {
        case 0: return pickle_text(fuzz::pick(texts, rng));
        case 1: return odd_number(rng);
        case 2: return pickle_number(rng.below(70));
        case 3: {
            static const char* const names[][2] = {{"collections", "OrderedDict"},
                                                   {"torch._utils", "_rebuild_tensor_v2"},
                                                   {"torch._utils", "_rebuild_tensor_v3"},
                                                   {"torch._utils", "_rebuild_parameter"},
                                                   {"torch", "HalfStorage"},
                                                   {"torch.storage", "UntypedStorage"},
                                                   {"torch", "float8_e4m3fn"},
                                                   {"torch", "Size"},
                                                   {"torch", "device"},
                                                   {"os", "system"}};
            const auto& one = fuzz::pick(names, rng);
            return pickle_name(one[0], one[1]);
        }
        case 4: {
            torch_tensor t{"t" + std::to_string(rng.below(4)), {}, {}, rng.below(8)};
            static const char* const types[] = {"Float", "Half", "BFloat16", "Double",
                                                "Char",  "Long", "Bool"};
            t.type = fuzz::pick(types, rng);
            t.storage = std::to_string(rng.below(3));
            t.numel = t.storage == "2" ? 0 : t.storage == "1" ? 4 : 64;
            for (std::uint32_t rank = rng.below(4); rank > 0; --rank) {
                t.shape.push_back(rng.below(6));
                t.strides.push_back(rng.below(8));
            }
            return pickle_text(t.name) + pickle_tensor(t) + (rng.below(2) == 0 ? "s" : "");
        }
        default: return fuzz::pick(plain, rng);
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size));
    if (input.empty()) input = "\1" + bitmill_test::state_pickle({{"w", {2}, {1}}});
    if (input[0] == 0 || rng.below(4) == 0) {
        fuzz::mutate_bytes(input);
        return fuzz::hand_back(input, data, max_size);
    }
    const auto place = [&] { return 1 + rng.below(static_cast<std::uint32_t>(input.size())); };
    switch (rng.below(5)) {
        case 0: input.erase(std::min<std::size_t>(place(), input.size()), rng.below(12)); break;
        case 1:
            input.insert(std::min<std::size_t>(place(), input.size()),
                         input.substr(place() % input.size(), rng.below(80)));
            break;
        default: input.insert(std::min<std::size_t>(place(), input.size()), instruction(rng));
    }
    return fuzz::hand_back(input, data, max_size);
}
