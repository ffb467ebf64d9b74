// Input: a whole GGUF file. What opens lies in bounds, is written the same way, and keeps all other keys
// where one is changed.
#include <algorithm>
#include <string>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/io/weight_file.hpp>

#include <gguf_files.hpp>
#include <heap_meter.hpp>
#include <mutators.hpp>

using fuzz::require;

namespace {

const bitmill_test::temp_folder& scratch() {
    static const bitmill_test::temp_folder folder;
    return folder;
}

std::vector<bitmill::gguf_spec> specs_of(const bitmill::gguf_file& file) {
    std::vector<bitmill::gguf_spec> specs;
    for (std::size_t i = 0; i < file.size(); ++i)
        specs.push_back(
            {std::string(file[i].name), file.type(i), {file.shape(i).begin(), file.shape(i).end()}});
    return specs;
}

// The header that the writer makes is the file's, but for the version and the padding.
void check_writer(const bitmill::gguf_file& file, std::string_view bytes) {
    const auto specs = specs_of(file);
    const std::string header = bitmill::gguf_writer::header(specs, file.metadata());
    std::size_t end = 24 + file.metadata().bytes().size();
    for (const auto& spec : specs) end += 8 + spec.name.size() + 4 + 8 * spec.shape.size() + 4 + 8;
    require(header.size() == file.data_begin(), "the writer's data begin where the file's do");
    require(std::string_view(header).substr(8, end - 8) == bytes.substr(8, end - 8),
            "the writer's header is the file's");
    if (file.size() == 0) return;
    const auto last = file[file.size() - 1];
    const std::uint64_t size = bitmill::gguf_writer::file_bytes(specs, file.metadata());
    require(size >= last.offset + last.bytes && size - last.offset - last.bytes < file.alignment(),
            "the writer's file ends with the padding of the last tensor");
}

void check_set(const bitmill::gguf_file& file) {
    auto keys = file.metadata();
    const bool there = keys.find("general.file_type").has_value();
    const std::size_t before = keys.size();
    if (before == bitmill::gguf_max_keys) return;
    keys.set("general.file_type", std::uint32_t{7}).value();
    require(keys.size() == before + (there ? 0 : 1), "a key is replaced or appended");
    require(keys.get<std::uint32_t>("general.file_type") == 7, "a key that was set has its value");
    for (std::size_t i = 0; i < before; ++i) {
        const auto was = file.metadata()[i];
        require(was.key == "general.file_type" || keys[i].pair == was.pair,
                "the other keys stay as they were");
        require(keys.find(was.key)->pair.data() == keys[i].pair.data(), "every key is found");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string path = scratch() / "input.gguf";
    const std::string_view bytes = fuzz::as_text(data, size);
    fuzz::rewrite(path, bytes);
    const bitmill_test::heap_meter meter;
    const auto file = bitmill::weight_file::open(bitmill::input_file::open(path).value());
    require(meter.peak_bytes() <= 4 * size + (1u << 20), "opening takes at most 4 x file + 1 MiB");
    if (!file) {
        fuzz::check_error(file.error());
        require(file.error().code == bitmill::error_code::bad_input ||
                    file.error().code == bitmill::error_code::unsupported,
                "a file that is refused is bad_input or unsupported");
        require(file.error().file == path, "the error names the file");
        return 0;
    }
    require(file->gguf() != nullptr, "a .gguf file is GGUF");
    const std::string problem = bitmill_test::gguf_problem(*file->gguf());
    require(problem.empty(), problem);
    check_writer(*file->gguf(), bytes);
    check_set(*file->gguf());
    return 0;
}

// ---- mutation: of keys and tensors, with counts and offsets made right again most of the time
// --------------
namespace {

using namespace bitmill_test;

std::uint64_t odd_number(fuzz::random& rng) {
    const fuzz::json value = fuzz::boundary_number(rng);
    return value.is_number_integer() ? value.get<std::uint64_t>() : rng.below(300);
}

std::string odd_text(fuzz::random& rng) {
    static constexpr std::string_view words[] = {"general.alignment",
                                                 "general.file_type",
                                                 "split.count",
                                                 "a.weight",
                                                 "blk.0.attn_q.weight",
                                                 "tokenizer.ggml.tokens",
                                                 "t"};
    return fuzz::odd_string(rng, words);
}

std::string odd_pair(fuzz::random& rng) {
    const auto type = rng.below(14);
    if (type == 4 && rng.below(2) == 0)
        return gguf_pair("general.alignment", 4, le4(std::uint64_t{1} << rng.below(34)));
    static constexpr std::uint32_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8, 0};
    std::string value(rng.below(20) == 0 ? rng.below(20) : widths[type], 'v');
    if (type == 8) value = gguf_string(odd_text(rng));
    if (type == 9) {
        const auto element = rng.below(11) == 0 ? rng.below(14) : rng.below(9);
        std::string values(rng.below(12) * 8, '\0');
        const std::uint64_t count = element < 9 && element != 8 ? values.size() / 8 : rng.below(4);
        if (element == 8)
            for (std::uint64_t i = 0; i < count; ++i) values = gguf_string(odd_text(rng)) + values;
        value = gguf_array(element, rng.below(6) == 0 ? odd_number(rng) : count, values);
    }
    return gguf_pair(odd_text(rng) + (rng.below(2) == 0 ? std::to_string(rng.below(9)) : ""), type, value);
}

gguf_tensor odd_tensor(fuzz::random& rng) {
    const auto& row = fuzz::pick(bitmill::ggml_table, rng);
    gguf_tensor t{odd_text(rng) + std::to_string(rng.below(9)), {}, static_cast<std::uint32_t>(row.type), 0};
    for (std::uint32_t rank = rng.below(6); rank > 0; --rank)
        t.dims.push_back(rng.below(12) == 0 ? odd_number(rng) : rng.below(4));
    if (!t.dims.empty() && rng.below(12) != 0)
        t.dims[0] = bitmill::checked_mul(t.dims[0], row.block_elements).value_or(t.dims[0]);
    if (rng.below(12) == 0)
        t.type = rng.below(2) == 0 ? rng.below(64) : static_cast<std::uint32_t>(odd_number(rng));
    return t;
}

// The file's tensors and pairs with one change or two.
std::string changed(const bitmill::gguf_file& file, fuzz::random& rng) {
    std::vector<std::string> pairs;
    for (std::size_t i = 0; i < file.metadata().size(); ++i) pairs.emplace_back(file.metadata()[i].pair);
    std::vector<gguf_tensor> tensors;
    for (const auto& spec : specs_of(file)) {
        tensors.push_back({spec.name, spec.shape, static_cast<std::uint32_t>(spec.type), 0});
        std::reverse(tensors.back().dims.begin(), tensors.back().dims.end());
    }
    const auto place = [&](const auto& list) {
        return rng.below(static_cast<std::uint32_t>(list.size()) + 1);
    };
    for (std::uint32_t changes = 1 + rng.below(3); changes > 0; --changes) {
        switch (rng.below(6)) {
            case 0: pairs.insert(pairs.begin() + place(pairs), odd_pair(rng)); break;
            case 1:
                if (!pairs.empty())
                    pairs.erase(pairs.begin() + place(pairs) % static_cast<std::ptrdiff_t>(pairs.size()));
                break;
            case 2:
                if (!pairs.empty()) fuzz::pick(pairs, rng) = odd_pair(rng);
                break;
            case 3:
                if (!tensors.empty()) fuzz::pick(tensors, rng) = odd_tensor(rng);
                break;
            case 4:
                if (!tensors.empty())
                    tensors.erase(tensors.begin() +
                                  place(tensors) % static_cast<std::ptrdiff_t>(tensors.size()));
                break;
            default: tensors.insert(tensors.begin() + place(tensors), odd_tensor(rng));
        }
    }
    std::uint64_t end = 0;
    for (auto& t : tensors) {
        t.offset = rng.below(20) == 0 ? odd_number(rng) : end;
        const auto* row = bitmill::find_ggml_facts(t.type);
        std::uint64_t bytes = row == nullptr ? 1 : row->block_bytes;
        for (std::size_t d = 0; d < t.dims.size(); ++d)
            bytes = bitmill::checked_mul(
                        bytes, d == 0 && row != nullptr ? t.dims[0] / row->block_elements : t.dims[d])
                        .value_or(4096);
        if (bytes > 8192) continue;  // a lie, then
        end = (end + bytes + file.alignment() - 1) / file.alignment() * file.alignment();
    }
    end = std::min<std::uint64_t>(end, 65536);
    return gguf_of(pairs, tensors,
                   std::string(static_cast<std::size_t>(rng.below(10) == 0 ? rng.below(64) : end), 'd'),
                   rng.below(30) == 0 ? rng.below(5) : 3, static_cast<std::size_t>(file.alignment()));
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size));
    if (input.empty()) input = gguf_small();
    if (rng.below(3) != 0) {
        const std::string path = scratch() / "mutated.gguf";
        fuzz::rewrite(path, input);
        if (const auto file = open_gguf(path)) return fuzz::hand_back(changed(*file, rng), data, max_size);
    }
    fuzz::mutate_bytes(input);
    return fuzz::hand_back(input, data, max_size);
}
