// Input: {"config": config.json, "tensors": {NAME: [DTYPE, SHAPE, CONTENT]}}. CONTENT is text, or numbers that are
// repeated to fill the tensor; missing: bytes of 1. The file of weights is sound; what its tensors say of each other
// need not be. What is accepted is decoded, whole and in runs, and planned anew.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/mill/plan.hpp>
#include <bitmill/mill/stored.hpp>

#include <io_files.hpp>
#include <models.hpp>
#include <mutators.hpp>

using bitmill::checkpoint;
using bitmill::dtype;
using fuzz::require;

namespace {

constexpr std::uint64_t most_bytes = 1 << 16;  // of a tensor

std::string content_of(const fuzz::json& entry, dtype type, std::size_t bytes) {
    std::string out(bytes, '\1');
    if (entry.size() < 3) return out;
    if (entry[2].is_string()) {
        out.replace(0, std::min(bytes, entry[2].get_ref<const std::string&>().size()),
                    entry[2].get_ref<const std::string&>().substr(0, bytes));
        return out;
    }
    if (!entry[2].is_array() || entry[2].empty()) return out;
    const std::size_t width = std::max<std::size_t>(1, bitmill::element_bytes(type));
    for (std::size_t at = 0; at + width <= bytes; at += width) {
        const auto& number = entry[2][at / width % entry[2].size()];
        if (!number.is_number_integer()) continue;
        const auto value = number.get<std::int64_t>();
        std::memcpy(out.data() + at, &value, std::min<std::size_t>(width, 8));
    }
    return out;
}

// "" where no file can be made of them.
std::string weights_of(const fuzz::json& tensors) {
    fuzz::json header = fuzz::json::object();
    std::string data;
    for (const auto& [name, entry] : tensors.items()) {
        if (!entry.is_array() || entry.size() < 2 || !entry[0].is_string() || !entry[1].is_array()) continue;
        const auto type = bitmill::dtype_from_name(entry[0].get<std::string>());
        if (!type) continue;
        std::uint64_t bits = bitmill::facts(*type).bits;
        for (const auto& one : entry[1]) {
            if (!one.is_number_unsigned() || one.get<std::uint64_t>() > 8 * most_bytes) return {};
            bits *= one.get<std::uint64_t>();
            if (bits > 8 * most_bytes) return {};
        }
        const std::string bytes = content_of(entry, *type, static_cast<std::size_t>(bits / 8));
        header[name] = {{"dtype", entry[0]},
                        {"shape", entry[1]},
                        {"data_offsets", {data.size(), data.size() + bytes.size()}}};
        data += bytes;
    }
    return bitmill_test::raw_safetensors(header.dump(-1, ' ', false, fuzz::json::error_handler_t::replace),
                                         data);
}

// A run decodes to what it is in the whole.
void check_values(const checkpoint& model, const bitmill::stored_model& stored,
                  const bitmill::stored_tensor& t) {
    require(t.shape.size() == 2 && t.elements == t.shape[0] * t.shape[1], "a coded weight is a matrix");
    require(t.elements <= 8 * most_bytes, "a code has a bit at least");
    if (t.elements == 0) return;
    const bitmill::detail::stored_values values(model, stored, nullptr);
    const auto read = [&](std::uint64_t first, std::uint64_t count, std::byte* to) {
        bitmill::detail::element_buffer scratch(bitmill::memory_or_default(nullptr));
        auto done = values.read(t, first, count, dtype::f32, to, scratch);
        if (!done) fuzz::check_error(done.error());
        return static_cast<bool>(done);
    };
    std::vector<std::byte> whole(static_cast<std::size_t>(t.elements) * 4);
    if (!read(0, t.elements, whole.data())) return;
    for (const std::uint64_t first : {t.elements / 3, t.elements / 2, t.elements - 1}) {
        const std::uint64_t count = std::max<std::uint64_t>(1, (t.elements - first) / 2);
        std::vector<std::byte> run(static_cast<std::size_t>(count) * 4);
        require(read(first, count, run.data()), "what decodes whole decodes in runs");
        require(std::memcmp(run.data(), whole.data() + first * 4, run.size()) == 0,
                "a run has the values that it has in the whole");
    }
}

void check_model(const std::string& folder) {
    const auto model = checkpoint::open(folder);
    if (!model) return fuzz::check_error(model.error());
    const auto stored = bitmill::read_stored(*model);
    if (!stored) return fuzz::check_error(stored.error());
    for (const auto& t : stored->tensors) {
        require(!bitmill::stored_as(t).empty(), "a tensor tells what it is");
        if (t.coded()) check_values(*model, *stored, t);
    }
    bitmill::mill_options options;
    options.to = bitmill::scheme_type::int4;
    auto plan = bitmill::make_plan(*model, options);
    if (!plan) return fuzz::check_error(plan.error());
    if (auto done = bitmill::lay_out(*plan, false); !done) return fuzz::check_error(done.error());
    (void)bitmill::config_for(*plan, model->config_text());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const bitmill_test::temp_folder temp;
    const auto input = fuzz::parse(fuzz::as_text(data, size));
    if (!input || !input->is_object() || !input->contains("config") || !input->contains("tensors") ||
        !(*input)["tensors"].is_object())
        return 0;
    const std::string weights = weights_of((*input)["tensors"]);
    if (weights.empty()) return 0;
    fuzz::rewrite(temp / "config.json",
                  (*input)["config"].dump(-1, ' ', false, fuzz::json::error_handler_t::replace));
    fuzz::rewrite(temp / "model.safetensors", weights);
    check_model(temp.path());
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
namespace {

constexpr std::string_view words[] = {"a.weight_packed",
                                      "a.weight_scale",
                                      "a.weight_shape",
                                      "a.weight_zero_point",
                                      "a.weight",
                                      "a.SCB",
                                      "a.qweight",
                                      "a.qzeros",
                                      "a.scales",
                                      "a.g_idx",
                                      "a._weight_qdata",
                                      "a._weight_scale",
                                      "a._weight_zero_point",
                                      "a.weight.absmax",
                                      "a.weight_scale_inv",
                                      "quant_method",
                                      "compressed-tensors",
                                      "bitsandbytes",
                                      "gptq",
                                      "gptq_v2",
                                      "awq",
                                      "auto-round",
                                      "torchao",
                                      "fp8",
                                      "bitmill",
                                      "packing_format",
                                      "auto_round:auto_awq",
                                      "checkpoint_format",
                                      "group_size",
                                      "num_bits",
                                      "type",
                                      "int",
                                      "float",
                                      "format",
                                      "pack-quantized",
                                      "int-quantized",
                                      "float-quantized",
                                      "block_structure",
                                      "weight_block_size",
                                      "I32",
                                      "I64",
                                      "I8",
                                      "U8",
                                      "F16",
                                      "BF16",
                                      "F32",
                                      "F8_E4M3",
                                      "float16",
                                      "dtype"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    return fuzz::hand_back(fuzz::mutated_json(std::string(fuzz::as_text(data, size)), rng, words), data,
                           max_size);
}
