#pragma once

#include <algorithm>
#include <numeric>
#include <utility>

#include <unistd.h>
#include <nlohmann/json.hpp>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/safetensors_table-inl.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill {

namespace detail {

struct safetensors_layout {
    struct place {
        std::uint64_t offset;  // from the start of the file
        std::uint64_t bytes;
    };
    std::vector<tensor_spec> specs;
    std::vector<place> places;  // as specs
    std::string header;         // with the length in front and the padding behind
    std::uint64_t file_bytes = 0;
};

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

inline result<std::shared_ptr<const safetensors_layout>> lay_out(std::vector<tensor_spec> specs,
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
    auto layout = std::make_shared<safetensors_layout>();
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
    layout->specs = std::move(specs);
    return std::shared_ptr<const safetensors_layout>(std::move(layout));
}

}  // namespace detail

BITMILL_INLINE safetensors_writer::safetensors_writer(
    output_file file, std::shared_ptr<const detail::safetensors_layout> layout)
    : file_(std::move(file)), layout_(std::move(layout)),
      written_(std::make_unique<std::atomic<std::uint64_t>[]>(layout_->specs.size())) {}

BITMILL_INLINE result<safetensors_writer> safetensors_writer::create(const std::string& path,
                                                                     std::vector<tensor_spec> specs,
                                                                     const safetensors_metadata& metadata) {
    auto layout = detail::lay_out(std::move(specs), metadata, path);
    if (!layout) return layout.error();
    auto file = output_file::create(path);
    if (!file) return file.error();
    const auto& header = (*layout)->header;
    auto begun = file->reserve((*layout)->file_bytes);
    if (begun) begun = file->write_at(0, std::as_bytes(std::span(header)));
    if (!begun) {
        ::unlink(path.c_str());
        return begun.error();
    }
    return safetensors_writer(std::move(*file), std::move(*layout));
}

BITMILL_INLINE result<safetensors_writer> safetensors_writer::reopen(const std::string& path,
                                                                     std::vector<tensor_spec> specs,
                                                                     const safetensors_metadata& metadata) {
    auto layout = detail::lay_out(std::move(specs), metadata, path);
    if (!layout) return layout.error();
    const auto there = input_file::open(path);
    if (!there) return there.error();
    std::string header((*layout)->header.size(), '\0');
    bool same = there->size() == (*layout)->file_bytes;
    if (same) {
        if (auto read = there->read_at(0, std::as_writable_bytes(std::span(header))); !read)
            return read.error();
        same = header == (*layout)->header;
    }
    if (!same) return detail::bad_file("is not the file that was begun here", path);
    auto file = output_file::reopen(path);
    if (!file) return file.error();
    return safetensors_writer(std::move(*file), std::move(*layout));
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

BITMILL_INLINE std::uint64_t safetensors_writer::file_bytes() const noexcept { return layout_->file_bytes; }
BITMILL_INLINE std::uint64_t safetensors_writer::bytes(std::size_t spec_index) const noexcept {
    return layout_->places[spec_index].bytes;
}
BITMILL_INLINE std::uint64_t safetensors_writer::offset(std::size_t spec_index) const noexcept {
    return layout_->places[spec_index].offset;
}

BITMILL_INLINE result<void> safetensors_writer::write(std::size_t spec_index, std::uint64_t offset_in_tensor,
                                                      std::span<const std::byte> src) {
    if (spec_index >= layout_->places.size())
        return detail::make_error(error_code::invalid_argument,
                                  "there is no tensor number " + std::to_string(spec_index), file_.path());
    const auto [offset, bytes] = layout_->places[spec_index];
    const maybe_u64 end = checked_add(offset_in_tensor, src.size());
    if (!end || *end > bytes)
        return detail::make_error(error_code::invalid_argument,
                                  "it has " + std::to_string(bytes) + " bytes; cannot write " +
                                      std::to_string(src.size()) + " from byte " +
                                      std::to_string(offset_in_tensor),
                                  file_.path(), layout_->specs[spec_index].name);
    if (auto written = file_.write_at(offset + offset_in_tensor, src); !written) {
        error failed = written.error();
        failed.tensor = layout_->specs[spec_index].name;
        return failed;
    }
    written_[spec_index].fetch_add(src.size(), std::memory_order_relaxed);
    return {};
}

BITMILL_INLINE void safetensors_writer::skip(std::size_t spec_index, std::uint64_t bytes) noexcept {
    written_[spec_index].fetch_add(bytes, std::memory_order_relaxed);
}

BITMILL_INLINE result<void> safetensors_writer::sync() { return file_.sync(); }

BITMILL_INLINE result<void> safetensors_writer::finish() {
    // A tensor that nobody wrote would be a run of zeros that looks like weights.
    for (std::size_t i = 0; i < layout_->places.size(); ++i) {
        const std::uint64_t written = written_[i].load(std::memory_order_relaxed);
        if (written != layout_->places[i].bytes)
            return detail::make_error(error_code::invalid_argument,
                                      std::to_string(written) + " of its " +
                                          std::to_string(layout_->places[i].bytes) + " bytes were written",
                                      file_.path(), layout_->specs[i].name);
    }
    return file_.finish();
}

}  // namespace bitmill
