// Input: a pickled model. What opens lies in bounds, reads, and mills to a file that opens again, with as many arrays.
#include <string>
#include <vector>

#include <bitmill/io/pickle_model.hpp>
#include <bitmill/mill/mill.hpp>

#include <heap_meter.hpp>
#include <mutators.hpp>
#include <pickles.hpp>
#include <temp_folder.hpp>

using fuzz::require;

namespace {

const bitmill_test::temp_folder& scratch() {
    static const bitmill_test::temp_folder folder(bitmill_test::memory_parent());
    return folder;
}

bitmill::result<bitmill::pickle_model> open(const std::string& path) {
    return bitmill::pickle_model::open(bitmill::input_file::open(path).value());
}

void mill(const std::string& path, const bitmill::pickle_model& model, bitmill::scheme_type type) {
    bitmill::mill_options options;
    options.to = type;
    options.force = true;
    options.keep_non_finite = true;
    options.weight_threshold = type == bitmill::scheme_type::f32 ? 0.5f : 0;
    const std::string out = scratch() / "milled.pkl";
    const auto report = bitmill::quantize(path, out, options);
    if (!report) {
        fuzz::check_error(report.error());
        return;
    }
    const auto milled = open(out);
    require(static_cast<bool>(milled), "a milled model opens");
    require(milled->file().size() == report->bytes, "the report knows the size");
    require(milled->file().size() <= model.file().size(), "nothing grows");
    require(milled->arrays().size() == model.arrays().size(), "as many arrays");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string path = scratch() / "input.pkl";
    fuzz::rewrite(path, fuzz::as_text(data, size));
    auto file = bitmill::input_file::open(path).value();
    const bitmill_test::heap_meter meter;
    const auto model = bitmill::pickle_model::open(std::move(file));
    require(meter.peak_bytes() <= 4 * size + (1u << 20), "opening takes at most 4 x file + 1 MiB");
    if (!model) {
        fuzz::check_error(model.error());
        require(model.error().code == bitmill::error_code::bad_input ||
                    model.error().code == bitmill::error_code::unsupported,
                "a file that is refused is bad_input or unsupported");
        require(model.error().file == path, "the error names the file");
        return 0;
    }
    require(model->end() <= size, "the pickle lies in the file");
    for (const auto& one : model->arrays()) {
        require(one.data <= one.data_end && one.data_end <= size && one.bytes <= size,
                "an array lies in the file");
        std::string elements(static_cast<std::size_t>(one.bytes), '\0');
        bitmill::pickle_array_reader reader(*model, one);
        reader.next(std::as_writable_bytes(std::span(elements))).value();
    }
    for (const auto type : {bitmill::scheme_type::int8, bitmill::scheme_type::f16, bitmill::scheme_type::f32})
        mill(path, *model, type);
    return 0;
}

// ---- mutation: of instructions -----------------------------------------------------------------------------
namespace {

std::string instruction(fuzz::random& rng) {
    using namespace bitmill_test;
    static const std::string plain[] = {"N",
                                        "(",
                                        ")",
                                        "t",
                                        "]",
                                        "}",
                                        "a",
                                        "e",
                                        "s",
                                        "u",
                                        "R",
                                        "b",
                                        ".",
                                        "0",
                                        "1",
                                        "\x85",
                                        "\x86",
                                        "\x87",
                                        "\x88",
                                        "\x89",
                                        "\x8f",
                                        "\x90",
                                        "\x91",
                                        "\x92",
                                        "\x94",
                                        "\x81",
                                        "\x93",
                                        std::string("h\0", 2),
                                        "h\1",
                                        std::string("q\0", 2),
                                        "q\1",
                                        std::string("K\0", 2),
                                        "K\1",
                                        "C\1b",
                                        "\x95" + le(8, 8)};
    switch (rng.below(8)) {
        case 0: return pickle_array_of({40}, quarters(40));
        case 1: return pickle_buffer_array({5, 8}, quarters(40));
        case 2: return pickle_joblib_array(rng.below(16), {40}, quarters(40));
        case 3:
            return pickle_blank_array() + "\x94" +
                   pickle_state({40}, pickle_dtype("f8"), pickle_latin1(quarters(40)));
        case 4: return pickle_dtype(rng.below(2) == 0 ? "f4" : "O8");
        case 5: return pickle_number(rng.below(70));
        default: return fuzz::pick(plain, rng);
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size));
    if (input.empty())
        input = bitmill_test::pickle_with(bitmill_test::pickle_array_of({1}, bitmill_test::quarters(1)));
    const auto place = [&] { return rng.below(static_cast<std::uint32_t>(input.size()) + 1); };
    switch (rng.below(6)) {
        case 0: input.erase(place(), rng.below(12)); break;
        case 1: input.insert(place(), input.substr(place(), rng.below(80))); break;
        case 2: fuzz::mutate_bytes(input); break;
        default: input.insert(place(), instruction(rng));
    }
    return fuzz::hand_back(input, data, max_size);
}
