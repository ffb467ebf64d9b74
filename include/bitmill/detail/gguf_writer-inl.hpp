#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include <bitmill/detail/gguf_layout-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/detail/tensor_writer-inl.hpp>
#include <bitmill/io/gguf.hpp>

namespace bitmill {

namespace detail {

template <class T>
void append_number(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline result<void> check_specs(const std::vector<gguf_spec>& specs, const std::string& path) {
    const auto refuse = [&](std::string message, const std::string& tensor) {
        return make_error(error_code::invalid_argument, std::move(message), path, tensor);
    };
    if (specs.size() > gguf_max_tensors) return refuse("more than 1048576 tensors", {});
    std::vector<const std::string*> names;
    for (const gguf_spec& spec : specs) {
        names.push_back(&spec.name);
        if (spec.name.empty() || spec.name.size() > gguf_max_name_bytes || !is_utf8(spec.name) ||
            spec.name.find('\0') != std::string::npos)
            return refuse("a name must be UTF-8 of 1 to 63 bytes, none of them 0", spec.name.substr(0, 64));
        if (spec.shape.size() > gguf_max_rank) return refuse("more than 4 dimensions", spec.name);
    }
    std::sort(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a < *b; });
    const auto twice =
        std::adjacent_find(names.begin(), names.end(), [](const auto* a, const auto* b) { return *a == *b; });
    if (twice != names.end()) return refuse("two tensors would have this name", **twice);
    return {};
}

inline result<std::shared_ptr<const tensor_layout>> lay_out(const std::vector<gguf_spec>& specs,
                                                            const gguf_metadata& metadata,
                                                            const std::string& path) {
    const auto refuse = [&](std::string message, const std::string& tensor = {}) {
        return make_error(error_code::invalid_argument, std::move(message), path, tensor);
    };
    if (auto checked = check_specs(specs, path); !checked) return checked.error();
    std::uint32_t alignment = gguf_default_alignment;
    if (const auto key = metadata.find("general.alignment")) {
        const auto value = key->get<std::uint32_t>();
        if (!value || !is_alignment(*value))
            return refuse("general.alignment must be a u32 power of two of at most 1048576");
        alignment = *value;
    }
    auto layout = std::make_shared<tensor_layout>();
    std::string& header = layout->header;
    header = "GGUF";
    append_number(header, std::uint32_t{3});
    append_number(header, std::uint64_t{specs.size()});
    append_number(header, std::uint64_t{metadata.size()});
    header += metadata.bytes();
    std::uint64_t end = 0;
    for (const gguf_spec& spec : specs) {
        const gguf_size size = measure(facts(spec.type), spec.shape);
        if (!size.problem.empty()) return refuse(size.problem, spec.name);
        append_number(header, std::uint64_t{spec.name.size()});
        header += spec.name;
        append_number(header, static_cast<std::uint32_t>(spec.shape.size()));
        for (std::size_t d = spec.shape.size(); d != 0; --d) append_number(header, spec.shape[d - 1]);
        append_number(header, spec.type);
        append_number(header, end);
        layout->names.push_back(spec.name);
        layout->places.push_back({end, size.bytes});
        const maybe_u64 next = checked_add(end, size.bytes);
        if (!next || *next > (std::uint64_t{1} << 62)) return refuse("the file would be too long", spec.name);
        end = *align_up(*next, alignment);
    }
    if (header.size() > gguf_max_header_bytes) return refuse("the header would be over 256 MiB long");
    header.resize(static_cast<std::size_t>(*align_up(header.size(), alignment)), '\0');
    for (auto& place : layout->places) place.offset += header.size();
    layout->file_bytes = header.size() + end;
    return std::shared_ptr<const tensor_layout>(std::move(layout));
}

}  // namespace detail

BITMILL_INLINE result<gguf_writer> gguf_writer::create(const std::string& path,
                                                       const std::vector<gguf_spec>& specs,
                                                       const gguf_metadata& metadata) {
    auto layout = detail::lay_out(specs, metadata, path);
    if (!layout) return layout.error();
    auto begun = begin(path, std::move(*layout));
    if (!begun) return begun.error();
    return gguf_writer(std::move(*begun));
}

BITMILL_INLINE result<gguf_writer> gguf_writer::reopen(const std::string& path,
                                                       const std::vector<gguf_spec>& specs,
                                                       const gguf_metadata& metadata) {
    auto layout = detail::lay_out(specs, metadata, path);
    if (!layout) return layout.error();
    auto begun = go_on(path, std::move(*layout));
    if (!begun) return begun.error();
    return gguf_writer(std::move(*begun));
}

BITMILL_INLINE std::uint64_t gguf_writer::file_bytes(const std::vector<gguf_spec>& specs,
                                                     const gguf_metadata& metadata) {
    return detail::lay_out(specs, metadata, {}).value()->file_bytes;
}

BITMILL_INLINE std::vector<std::size_t> gguf_writer::file_order(const std::vector<gguf_spec>& specs) {
    detail::check_specs(specs, {}).value();
    std::vector<std::size_t> order(specs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    return order;
}

BITMILL_INLINE std::string gguf_writer::header(const std::vector<gguf_spec>& specs,
                                               const gguf_metadata& metadata) {
    return detail::lay_out(specs, metadata, {}).value()->header;
}

}  // namespace bitmill
