#pragma once

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/stored_bitsandbytes-inl.hpp>
#include <bitmill/detail/stored_gptq-inl.hpp>
#include <bitmill/detail/stored_integers-inl.hpp>
#include <bitmill/detail/stored_native-inl.hpp>
#include <bitmill/detail/stored_torchao-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {
namespace detail {

// What a folder says of how its model is quantized: nothing and "" of a plain one.
struct quantization {
    json config;
    std::string method;
    std::string path;  // of the file that says it
};

// The first tensor that can only be codes, since what they are decoded with stands beside it.
inline std::optional<checkpoint::location> find_codes(const checkpoint& model) {
    static constexpr std::pair<std::string_view, std::string_view> table[] = {
        {".qweight", ".qzeros"},
        {".qweight", ".scales"},
        {".weight_packed", ".weight_scale"},
        {".weight", ".weight_scale"},
        {".weight", ".weight_scale_inv"},
        {".weight", ".SCB"},
        {".weight", ".weight.absmax"},
        {"._weight_qdata", "._weight_scale"},
    };
    for (std::size_t shard = 0; shard < model.shard_count(); ++shard)
        for (std::size_t i = 0; i < model.shard(shard).size(); ++i) {
            const tensor_info tensor = model.shard(shard)[i];
            if (facts(tensor.type).weight) continue;
            for (const auto& [codes, partner] : table) {
                if (!tensor.name.ends_with(codes)) continue;
                const std::string module(tensor.name.substr(0, tensor.name.size() - codes.size()));
                if (model.find(module + std::string(partner))) return checkpoint::location{shard, i};
            }
        }
    return std::nullopt;
}

// Older AutoGPTQ writes this file, and nothing into config.json. Null where it is not there.
inline result<json> read_quantize_config(const checkpoint& model, const std::string& path) {
    const auto there = is_there(path);
    if (!there) return there.error();
    if (!*there) return json();
    const auto file = input_file::open_beneath(model.root(), "quantize_config.json");
    if (!file) return file.error();
    const auto text = read_text(*file, std::uint64_t{1} << 20);
    if (!text) return text.error();
    if (auto checked = check_json(*text, 64, false, path); !checked) return checked.error();
    json config = json::parse(*text);
    if (!config.contains("bits")) return json();
    if (!config.contains("quant_method")) config["quant_method"] = "gptq";
    return config;
}

// Errors: bad_input for codes of which nothing says how they are read.
inline result<quantization> quantization_of(const checkpoint& model) {
    const auto named = [](json config, std::string path) {
        const auto method = config.is_object() ? config.find("quant_method") : config.end();
        const bool is_named = config.is_object() && method != config.end() && method->is_string();
        std::string name = is_named ? method->get<std::string>() : "unknown";
        return quantization{std::move(config), std::move(name), std::move(path)};
    };
    if (!model.config_text().empty()) {
        const auto config = json::parse(model.config_text());
        const auto found = config.find("quantization_config");
        if (found != config.end() && !found->is_null()) return named(*found, model.root() + "/config.json");
    }
    const auto codes = find_codes(model);
    if (!codes) return quantization{};
    const std::string path = model.root() + "/quantize_config.json";
    auto older = read_quantize_config(model, path);
    if (!older) return older.error();
    if (!older->is_null()) return named(std::move(*older), path);
    const auto& file = model.shard(codes->shard);
    return error{.code = error_code::bad_input,
                 .message =
                     "holds the codes of a quantized weight, and nothing says how to read them: "
                     "config.json beside it must have the quantization_config that they were made with",
                 .file = file.file().path(),
                 .tensor = std::string(file[codes->tensor].name)};
}

// A GGUF file says all of itself, whatever a config.json beside it says of other weights.
inline stored_model blocks_of(const gguf_file& file) {
    stored_model out;
    out.quant_method = "gguf";
    for (std::size_t i = 0; i < file.size(); ++i) {
        const tensor_info tensor = file[i];
        stored_tensor stored;
        stored.name = tensor.name;
        stored.shape.assign(file.shape(i).begin(), file.shape(i).end());
        if (tensor.block) stored.scheme = ggml_scheme(*scheme_type_of(*tensor.block));
        stored.type = tensor.block ? dtype::f32 : tensor.type;
        stored.elements = tensor.elements;
        if (tensor.block)
            stored.elements =
                tensor.bytes / facts(*tensor.block).block_bytes * facts(*tensor.block).block_elements;
        stored.bytes = tensor.bytes;
        stored.codes = {0, i};
        out.tensors.push_back(std::move(stored));
    }
    return out;
}

// What a config says of other codes than those of weights, or of what is done to values beside decoding them: without
// it the weights are another model. "" where it says no such thing.
inline std::string more_than_weights(const json& config) {
    const auto says = [](const json& object, const char* key) {
        const auto found = object.find(key);
        return found != object.end() && !found->is_null() && !(found->is_object() && found->empty());
    };
    if (!config.is_object()) return {};
    if (says(config, "kv_cache_scheme")) return "kv_cache_scheme";
    if (says(config, "transform_config")) {
        const json& transform = config["transform_config"];
        const bool none = transform.is_object() && transform.size() == 1 &&
                          transform.contains("config_groups") && !says(transform, "config_groups");
        if (!none) return "transform_config";
    }
    if (says(config, "sparsity_config")) {
        const json& sparsity = config["sparsity_config"];
        if (!sparsity.is_object() || !sparsity.contains("format") || !is_text(sparsity["format"], "dense"))
            return "sparsity_config";
    }
    const auto groups = config.find("config_groups");
    if (groups != config.end() && groups->is_object())
        for (const auto& group : *groups)
            if (group.is_object() && says(group, "output_activations")) return "output_activations";
    return {};
}

inline result<stored_model> find_stored(const checkpoint& model, std::optional<scheme_type> level) {
    if (const gguf_file* gguf = model.shard(0).gguf(); gguf != nullptr && !level) return blocks_of(*gguf);
    stored_collector found(model);
    const auto said = quantization_of(model);
    if (!said) return said.error();
    const auto& [config, method, path] = *said;
    if (const std::string more = more_than_weights(config); !more.empty())
        return error{
            .code = error_code::unsupported,
            .message = "its quantization_config has a " + more +
                       ", which says more than the codes of weights do and which this version does not read; "
                       "quantize the plain model",
            .file = path};
    found.config_path = path;
    found.out.quant_method = method;
    native_levels levels(found, level);
    const bool native = method == "bitmill";
    if (level && !native)
        return error{.code = error_code::invalid_argument,
                     .message = "a level can be chosen of a bitmill folder, which this is not",
                     .file = model.root()};
    integer_reader integers(found, native ? &levels : nullptr);
    gptq_reader gptq(found);
    bitsandbytes_reader blocks(found);
    torchao_reader torchao(found);
    using location = checkpoint::location;
    const auto read_with = [&](auto& reader) {
        return found.each([&](const tensor_info& info, location at) { return reader.read(info, at); });
    };
    result<void> done;
    if (method == "compressed-tensors") {
        if (done = integers.read_config(config); done) done = read_with(integers);
    } else if (native) {
        if (done = levels.open(config); done) done = read_with(integers);
    } else if (method == "fp8") {
        integers.read_blocks(config.value("weight_block_size", json()));
        found.code_types = {dtype::f8_e4m3};
        done = read_with(integers);
    } else if (method == "gptq" || method == "awq" || method == "auto-round") {
        if (done = gptq.read_config(config); done) done = read_with(gptq);
    } else if (method == "bitsandbytes") {
        blocks.read_config(config);
        done = read_with(blocks);
    } else if (method == "torchao") {
        done = read_with(torchao);
    } else if (!method.empty()) {
        return error{
            .code = error_code::unsupported,
            .message = "quantization method '" + method +
                       "' is not read by this version; it reads compressed-tensors, bitsandbytes, gptq, awq, "
                       "auto-round, torchao, fp8 and bitmill",
            .file = path};
    }
    if (!done) return done.error();
    done = found.each([&](const tensor_info& info, location at) { return found.read_plain(info, at); });
    if (done && native) done = levels.check();
    if (!done) return done.error();
    return std::move(found.out);
}

// `base`, which was read at level int4, with the residual planes that lie beside it now.
inline result<stored_model> find_both_planes(const checkpoint& model, const stored_model& base) {
    const auto said = quantization_of(model);
    if (!said) return said.error();
    stored_collector found(model);
    found.out.quant_method = base.quant_method;
    found.out.tensors = base.tensors;
    native_levels levels(found, scheme_type::int8);
    if (auto done = levels.open(said->config); !done) return done.error();
    for (auto& one : found.out.tensors)
        if (one.scheme)
            if (auto done = levels.add_plane(one, one.name); !done) return done.error();
    if (auto done = levels.check(); !done) return done.error();
    return std::move(found.out);
}

}  // namespace detail

BITMILL_INLINE result<stored_model> read_stored(const checkpoint& model, std::optional<scheme_type> level) {
    return detail::guard(model.root(),
                         [&]() -> result<stored_model> { return detail::find_stored(model, level); });
}

}  // namespace bitmill
