#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include <nlohmann/json.hpp>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/safetensors_table-inl.hpp>
#include <bitmill/detail/tensor_writer-inl.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill {

namespace detail {

// With quotes. The escapes are those of the reference writer (serde_json). nullopt where it is not UTF-8.
inline std::optional<std::string> json_text(const std::string& text) {
    try {
        return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
        return std::nullopt;
    }
}

inline result<std::string> metadata_json(const safetensors_metadata& metadata, const std::string& path) {
    std::string text = "{\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
        const auto key_json = json_text(key), value_json = json_text(value);
        if (!key_json || !value_json)
            return make_error(error_code::invalid_argument, "__metadata__ '" + key + "' is not UTF-8", path);
        if (text.back() != '{') text += ',';
        text += *key_json + ':' + *value_json;
    }
    std::vector<std::string_view> keys;
    for (const auto& entry : metadata) keys.push_back(entry.first);
    std::sort(keys.begin(), keys.end());
    if (const auto twice = std::adjacent_find(keys.begin(), keys.end()); twice != keys.end())
        return make_error(error_code::invalid_argument,
                          "__metadata__ would hold '" + std::string(*twice) + "' twice", path);
    return text + '}';
}

// The order of the tensors in the file; refuses a name twice.
inline result<std::vector<std::size_t>> file_order(const std::vector<tensor_spec>& specs,
                                                   const std::string& path) {
    std::vector<std::size_t> order(specs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return specs[a].name < specs[b].name; });
    const auto twice = std::adjacent_find(order.begin(), order.end(),
                                          [&](auto a, auto b) { return specs[a].name == specs[b].name; });
    if (twice != order.end())
        return make_error(error_code::invalid_argument, "two tensors would have this name", path,
                          specs[*twice].name);
    std::sort(order.begin(), order.end(), [&](auto a, auto b) {
        return specs[a].type != specs[b].type ? specs[a].type > specs[b].type : specs[a].name < specs[b].name;
    });
    return order;
}

inline result<std::shared_ptr<const tensor_layout>> lay_out(std::vector<tensor_spec> specs,
                                                            const safetensors_metadata& metadata,
                                                            const std::string& path) {
    const auto refuse = [&](std::string message, const std::string& tensor) {
        return make_error(error_code::invalid_argument, std::move(message), path, tensor);
    };
    if (specs.size() > safetensors_max_tensors) return refuse("more than 1048576 tensors", {});
    auto order = file_order(specs, path);
    if (!order) return order.error();
    std::string text = "{";
    if (!metadata.empty()) {
        auto head = metadata_json(metadata, path);
        if (!head) return head.error();
        text = std::move(*head);
    }
    auto layout = std::make_shared<tensor_layout>();
    layout->places.resize(specs.size());
    std::uint64_t end = 0;
    for (const std::size_t index : *order) {
        const tensor_spec& spec = specs[index];
        const auto name = json_text(spec.name);
        if (!name) return refuse("the name is not UTF-8", spec.name);
        if (spec.name == "__metadata__" || spec.name.size() > safetensors_max_name_bytes)
            return refuse("no tensor can have this name", spec.name.substr(0, 64));
        if (spec.shape.size() > safetensors_max_rank) return refuse("more than 8 dimensions", spec.name);
        const tensor_size size = measure_tensor(spec.type, spec.shape);
        if (!size.problem.empty()) return refuse(size.problem, spec.name);
        const maybe_u64 next = checked_add(end, size.bytes);
        if (!next || *next > (std::uint64_t{1} << 62)) return refuse("the file would be too long", spec.name);
        if (text.size() > 1) text += ',';
        text += *name + ":{\"dtype\":\"" + std::string(facts(spec.type).name) +
                "\",\"shape\":" + shape_text(spec.shape) + ",\"data_offsets\":[" + std::to_string(end) + ',' +
                std::to_string(*next) + "]}";
        layout->places[index] = {end, size.bytes};
        end = *next;
    }
    text += '}';
    text.append((8 - text.size() % 8) % 8, ' ');
    if (text.size() > safetensors_max_header_bytes)
        return refuse("the header would be over 100000000 bytes long", {});
    for (unsigned i = 0; i < 8; ++i)
        layout->header.push_back(static_cast<char>(text.size() >> (8 * i) & 0xff));
    layout->header += text;
    for (auto& place : layout->places) place.offset += layout->header.size();
    layout->file_bytes = layout->header.size() + end;
    for (tensor_spec& spec : specs) layout->names.push_back(std::move(spec.name));
    return std::shared_ptr<const tensor_layout>(std::move(layout));
}

}  // namespace detail

BITMILL_INLINE result<safetensors_writer> safetensors_writer::create(const std::string& path,
                                                                     std::vector<tensor_spec> specs,
                                                                     const safetensors_metadata& metadata) {
    auto layout = detail::lay_out(std::move(specs), metadata, path);
    if (!layout) return layout.error();
    auto begun = begin(path, std::move(*layout));
    if (!begun) return begun.error();
    return safetensors_writer(std::move(*begun));
}

BITMILL_INLINE result<safetensors_writer> safetensors_writer::reopen(const std::string& path,
                                                                     std::vector<tensor_spec> specs,
                                                                     const safetensors_metadata& metadata) {
    auto layout = detail::lay_out(std::move(specs), metadata, path);
    if (!layout) return layout.error();
    auto begun = go_on(path, std::move(*layout));
    if (!begun) return begun.error();
    return safetensors_writer(std::move(*begun));
}

BITMILL_INLINE std::uint64_t safetensors_writer::file_bytes(const std::vector<tensor_spec>& specs,
                                                            const safetensors_metadata& metadata) {
    return detail::lay_out(specs, metadata, {}).value()->file_bytes;
}

BITMILL_INLINE std::vector<std::size_t> safetensors_writer::file_order(
    const std::vector<tensor_spec>& specs) {
    return detail::file_order(specs, {}).value();
}

BITMILL_INLINE std::string safetensors_writer::header(const std::vector<tensor_spec>& specs,
                                                      const safetensors_metadata& metadata) {
    return detail::lay_out(specs, metadata, {}).value()->header;
}

}  // namespace bitmill
