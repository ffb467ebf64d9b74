// Input: config.json, then behind a NUL the quant_state of a bitsandbytes tensor, then behind another NUL the bytes
// of a compressed-tensors weight_shape. They stand in three small models that are sound but for them: one plain, one
// of each quantized format. What is accepted can be planned, described and decoded.
#include <algorithm>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <bitmill/codec/codec.hpp>
#include <bitmill/mill/mill.hpp>
#include <bitmill/mill/plan.hpp>
#include <bitmill/mill/stored.hpp>

#include <io_files.hpp>
#include <models.hpp>
#include <mutators.hpp>

using bitmill::checkpoint;
using bitmill::scheme_type;
using fuzz::require;

namespace {

// A quantized model in which one tensor is given by the input.
class hostile_model {
public:
    hostile_model(const std::string& plain, const std::string& folder, const std::string& tensor,
                  const bitmill::mill_options& options)
        : folder_(folder), tensor_(tensor) {
        (void)bitmill::quantize(plain, folder, options).value();
        for (auto& [name, one] : bitmill_test::read_tensors(folder)) tensors_.push_back(one);
    }
    [[nodiscard]] const std::string& folder() const { return folder_; }

    // No bytes leave the tensor as it was.
    void put(std::string_view config, std::string_view bytes) const {
        auto tensors = tensors_;
        for (auto& one : tensors) {
            if (one.name != tensor_ || bytes.empty()) continue;
            const std::size_t width = bitmill::element_bytes(one.type);
            if (bytes.size() % width != 0) one.type = bitmill::dtype::u8;
            one.shape = {bytes.size() / bitmill::element_bytes(one.type)};
            one.bytes = bytes;
        }
        fuzz::rewrite(folder_ + "/config.json", config);
        fuzz::rewrite(folder_ + "/model.safetensors", bitmill_test::safetensors_of(tensors));
    }

private:
    std::string folder_, tensor_;
    std::vector<bitmill_test::made_tensor> tensors_;
};

struct models {
    bitmill_test::temp_folder temp;
    std::string plain = make_plain(temp / "plain");
    hostile_model packed{plain, temp / "packed", "bert.dense.weight_shape", options(scheme_type::int4)};
    hostile_model blocks{plain, temp / "blocks", "bert.dense.weight.quant_state.bitsandbytes__nf4",
                         options(scheme_type::nf4)};

    static std::string make_plain(const std::string& folder) {
        using bitmill::dtype;
        using bitmill_test::make_tensor;
        bitmill_test::put_model(
            folder, {make_tensor("bert.embeddings.word_embeddings.weight", dtype::f32, {8, 64}, 1),
                     make_tensor("bert.dense.weight", dtype::f32, {16, 128}, 2),
                     make_tensor("bert.dense.bias", dtype::f32, {16}, 3),
                     make_tensor("lm_head.weight", dtype::f16, {32, 64}, 4)});
        return folder;
    }
    static bitmill::mill_options options(scheme_type to) {
        bitmill::mill_options options;
        options.threads = 1;
        options.to = to;
        options.double_quant = to == scheme_type::nf4;
        return options;
    }
};

std::vector<std::byte> read(const checkpoint& model, checkpoint::location at) {
    const auto& file = model.shard(at.shard);
    std::vector<std::byte> bytes(static_cast<std::size_t>(file[at.tensor].bytes));
    file.file().read_at(file[at.tensor].offset, bytes).value();
    return bytes;
}

// Decodes from buffers that are exactly as long as the tensors of the file.
void decode(const checkpoint& model, const bitmill::stored_tensor& t) {
    if (!t.scheme) return;
    require(t.shape.size() == 2, "a coded weight is a matrix");
    auto codes = read(model, t.codes), scales = read(model, t.scales), nested = std::vector<std::byte>{};
    if (t.scheme->double_quant) nested = read(model, t.nested_scales);
    const bitmill::encoded_view view{codes.data(), scales.data(), nullptr, nested.data(), t.nested_offset};
    std::vector<float> out(static_cast<std::size_t>(t.elements));
    bitmill::decode(*t.scheme, view, static_cast<std::size_t>(t.shape[0]),
                    static_cast<std::size_t>(t.shape[1]), bitmill::dtype::f32, out.data())
        .value();
}

void check_stored(const std::string& folder) {
    const auto model = checkpoint::open(folder);
    if (!model) return fuzz::check_error(model.error());
    const auto stored = bitmill::read_stored(*model);
    if (!stored) return fuzz::check_error(stored.error());
    for (const auto& tensor : stored->tensors) decode(*model, tensor);
    bitmill::work_options options;
    options.threads = 1;
    options.dry_run = true;
    const auto report = bitmill::dequantize(folder, folder + ".out", bitmill::dtype::f32, options);
    if (!report) fuzz::check_error(report.error());
}

void check_config(const nlohmann::json& before, const nlohmann::json& after, scheme_type type) {
    require(after.is_object(), "config.json stays an object");
    for (const auto& [key, value] : before.items())
        if (key != "dtype" && key != "torch_dtype" && key != "quantization_config")
            require(after.contains(key) && after[key] == value, "the model's own settings stay");
    if (type == scheme_type::f16)
        require(after.value("dtype", "") == "float16" || after.value("torch_dtype", "") == "float16",
                "a cast model tells its dtype");
    else
        require(after.at("quantization_config").at("quant_method").is_string(), "a coded model tells how");
}

void check_plans(const std::string& folder) {
    const auto model = checkpoint::open(folder);
    if (!model) return fuzz::check_error(model.error());
    const auto before = nlohmann::json::parse(model->config_text());
    for (const auto type : {scheme_type::int8, scheme_type::int4, scheme_type::nf4, scheme_type::f16}) {
        bitmill::mill_options options;
        options.to = type;
        auto plan = bitmill::make_plan(*model, options);
        if (!plan) {
            fuzz::check_error(plan.error());
            continue;
        }
        bitmill::lay_out(*plan, false).value();
        check_config(before, nlohmann::json::parse(bitmill::config_for(*plan, model->config_text())), type);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const models all;
    const std::string_view input = fuzz::as_text(data, size);
    const std::string_view config = input.substr(0, input.find('\0'));
    const std::string_view rest = input.substr(std::min(config.size() + 1, size));
    const std::string_view state = rest.substr(0, rest.find('\0'));
    fuzz::rewrite(all.plain + "/config.json", config);
    check_plans(all.plain);
    if (config.find("quantization_config") == std::string_view::npos) return 0;
    const bool as_blocks = config.find("bitsandbytes") != std::string_view::npos;
    const hostile_model& model = as_blocks ? all.blocks : all.packed;
    model.put(config, as_blocks ? state : rest.substr(std::min(state.size() + 1, rest.size())));
    check_stored(model.folder());
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
namespace {

constexpr std::string_view words[] = {"model_type",
                                      "bert",
                                      "gpt2",
                                      "t5",
                                      "mixtral",
                                      "modernbert",
                                      "architectures",
                                      "BertForMaskedLM",
                                      "LlamaForCausalLM",
                                      "dtype",
                                      "torch_dtype",
                                      "float32",
                                      "float16",
                                      "bfloat16",
                                      "quantization_config",
                                      "quant_method",
                                      "compressed-tensors",
                                      "bitsandbytes",
                                      "gptq",
                                      "config_groups",
                                      "group_0",
                                      "weights",
                                      "num_bits",
                                      "type",
                                      "int",
                                      "float",
                                      "strategy",
                                      "group",
                                      "group_size",
                                      "symmetric",
                                      "format",
                                      "pack-quantized",
                                      "int-quantized",
                                      "targets",
                                      "ignore",
                                      "re:.*",
                                      "shape",
                                      "blocksize",
                                      "nested_offset",
                                      "nested_blocksize",
                                      "nested_dtype",
                                      "quant_type",
                                      "nf4",
                                      "fp4"};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    if (rng.below(5) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::string parts[3];
    std::string_view rest = fuzz::as_text(data, size);
    for (std::size_t i = 0; i < 3; ++i) {
        parts[i] = i == 2 ? rest : rest.substr(0, rest.find('\0'));
        rest.remove_prefix(std::min(parts[i].size() + 1, rest.size()));
    }
    const std::uint32_t which = rng.below(8);
    if (which < 5 || (parts[1].empty() && which < 7))
        parts[0] = fuzz::mutated_json(std::move(parts[0]), rng, words);
    else if (which < 7)
        parts[1] = fuzz::mutated_json(std::move(parts[1]), rng, words);
    else
        fuzz::mutate_bytes(parts[2], 8);
    std::string whole = parts[0];
    if (!parts[1].empty() || !parts[2].empty()) whole += '\0' + parts[1];
    if (!parts[2].empty()) whole += '\0' + parts[2];
    return fuzz::hand_back(whole, data, max_size);
}
