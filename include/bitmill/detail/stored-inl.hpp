#pragma once

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/stored_bitsandbytes-inl.hpp>
#include <bitmill/detail/stored_gptq-inl.hpp>
#include <bitmill/detail/stored_integers-inl.hpp>
#include <bitmill/detail/stored_native-inl.hpp>
#include <bitmill/detail/stored_torchao-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {
namespace detail {

// config.json's quantization_config and its quant_method; null and "" of a plain model.
inline std::pair<json, std::string> quantization_of(const checkpoint& model) {
    if (model.config_text().empty()) return {};
    const auto config = json::parse(model.config_text());
    const auto found = config.find("quantization_config");
    if (found == config.end() || found->is_null()) return {};
    const auto method = found->is_object() ? found->find("quant_method") : found->end();
    const bool named = found->is_object() && method != found->end() && method->is_string();
    return {*found, named ? method->get<std::string>() : "unknown"};
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

inline result<stored_model> find_stored(const checkpoint& model, std::optional<scheme_type> level) {
    if (const gguf_file* gguf = model.shard(0).gguf(); gguf != nullptr && !level) return blocks_of(*gguf);
    stored_collector found(model);
    const auto [config, method] = quantization_of(model);
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
        done = read_with(integers);
    } else if (method == "gptq" || method == "awq" || method == "auto-round") {
        if (done = gptq.read_config(config); done) done = read_with(gptq);
    } else if (method == "bitsandbytes") {
        done = read_with(blocks);
    } else if (method == "torchao") {
        done = read_with(torchao);
    } else if (!method.empty()) {
        return error{
            .code = error_code::unsupported,
            .message = "quantization method '" + method +
                       "' is not read by this version; it reads compressed-tensors, bitsandbytes, gptq, awq, "
                       "auto-round, torchao, fp8 and bitmill",
            .file = model.root() + "/config.json"};
    }
    if (!done) return done.error();
    done = found.each([&](const tensor_info& info, location at) { return found.read_plain(info, at); });
    if (done && native) done = levels.check();
    if (!done) return done.error();
    return std::move(found.out);
}

}  // namespace detail

BITMILL_INLINE result<stored_model> read_stored(const checkpoint& model, std::optional<scheme_type> level) {
    return detail::guard(model.root(),
                         [&]() -> result<stored_model> { return detail::find_stored(model, level); });
}

}  // namespace bitmill
