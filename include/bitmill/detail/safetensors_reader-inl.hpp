#pragma once

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/safetensors_table-inl.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill {

namespace detail {

// The bytes behind the header must belong to exactly one tensor each, from the first to the last: no hole in
// which something else could hide, no overlap.
inline result<void> check_coverage(const safetensors_table& table, const input_file& file) {
    std::uint64_t expected = 0;
    for (const auto& row : table.rows) {
        if (row.begin != expected) {
            const std::string tensor(table.name(row));
            const bool hole = row.begin > expected;
            return make_error(error_code::bad_input,
                              "data_offsets begin at " + std::to_string(row.begin) +
                                  ", but the tensors before it end at " + std::to_string(expected) +
                                  (hole ? " (a hole)" : " (an overlap)") + "; write the file anew",
                              file.path(), tensor,
                              checked_add(table.data_begin, row.begin).value_or(error::no_offset));
        }
        expected += table.bytes(row);  // begin + bytes = data_offsets[1], a u64
    }
    const std::uint64_t there = file.size() - table.data_begin;
    if (expected == there) return {};
    if (expected > there) {
        const auto cut = std::find_if(table.rows.begin(), table.rows.end(),
                                      [&](const auto& row) { return row.begin + table.bytes(row) > there; });
        return make_error(error_code::bad_input,
                          "the header describes " + std::to_string(expected) +
                              " bytes of tensors, but the file holds " + std::to_string(there) +
                              "; it was cut short, fetch it again",
                          file.path(), std::string(table.name(*cut)), file.size());
    }
    return make_error(error_code::bad_input,
                      std::to_string(there - expected) +
                          " bytes follow the last tensor, which the format forbids; "
                          "write the file anew",
                      file.path(), {}, table.data_begin + expected);
}

inline result<void> sort_and_check(safetensors_table& table, const input_file& file) {
    std::sort(table.rows.begin(), table.rows.end(), [&](const auto& a, const auto& b) {
        // Empty tensors share their offset with the next one and come before it.
        const std::uint64_t a_bytes = table.bytes(a), b_bytes = table.bytes(b);
        if (a.begin != b.begin) return a.begin < b.begin;
        if (a_bytes != b_bytes) return a_bytes < b_bytes;
        return table.name(a) < table.name(b);
    });
    const auto name_of = [&](std::uint32_t index) { return table.name(table.rows[index]); };
    table.by_name.resize(table.rows.size());
    std::iota(table.by_name.begin(), table.by_name.end(), 0u);
    std::sort(table.by_name.begin(), table.by_name.end(),
              [&](auto a, auto b) { return name_of(a) < name_of(b); });
    const auto twice = std::adjacent_find(table.by_name.begin(), table.by_name.end(),
                                          [&](auto a, auto b) { return name_of(a) == name_of(b); });
    if (twice != table.by_name.end())
        return make_error(error_code::bad_input, "the name stands twice in the header; write the file anew",
                          file.path(), std::string(name_of(*twice)));
    return check_coverage(table, file);
}

}  // namespace detail

BITMILL_INLINE safetensors_file::safetensors_file(
    input_file file, std::shared_ptr<const detail::safetensors_table> table) noexcept
    : file_(std::move(file)), table_(std::move(table)) {}

BITMILL_INLINE result<safetensors_file> safetensors_file::open(input_file file) {
    const auto refuse = [&](std::string message, std::uint64_t offset) {
        return detail::make_error(error_code::bad_input, std::move(message), file.path(), {}, offset);
    };
    if (file.size() < 8)
        return refuse(
            "has " + std::to_string(file.size()) + " bytes, too few for a safetensors file; fetch it again",
            0);
    std::array<std::byte, 8> prefix{};
    if (auto read = file.read_at(0, prefix); !read) return read.error();
    std::uint64_t header_bytes = 0;
    for (std::size_t i = 0; i < 8; ++i) header_bytes |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
    if (header_bytes > safetensors_max_header_bytes)
        return refuse("its header would be " + std::to_string(header_bytes) +
                          " bytes long (at most 100000000): this is not a safetensors file",
                      0);
    if (header_bytes > file.size() - 8)
        return refuse("its header would end at byte " + std::to_string(header_bytes + 8) +
                          ", but the file ends at " + std::to_string(file.size()) +
                          "; it was cut short, fetch it again",
                      0);
    if (header_bytes == 0) return refuse("its header is empty; this is not a safetensors file", 0);

    auto table = std::make_shared<detail::safetensors_table>();
    table->data_begin = 8 + header_bytes;
    {
        detail::json_source source(file, 8, header_bytes);
        detail::safetensors_handler handler(source, *table, file.size());
        if (auto parsed = detail::parse_json(source, handler, file.path()); !parsed) return parsed.error();
        if (const std::string key = handler.duplicate_metadata_key(); !key.empty())
            return refuse("__metadata__ holds " + key + " twice; write the file anew", 8);
        handler.finish();
    }
    if (auto checked = detail::sort_and_check(*table, file); !checked) return checked.error();
    return safetensors_file(std::move(file), std::move(table));
}

BITMILL_INLINE std::uint64_t safetensors_file::data_begin() const noexcept { return table_->data_begin; }
BITMILL_INLINE std::size_t safetensors_file::size() const noexcept { return table_->rows.size(); }

BITMILL_INLINE tensor_info safetensors_file::operator[](std::size_t index) const noexcept {
    const auto& row = table_->rows[index];
    return {table_->name(row),  row.type,    table_->shape(row), table_->data_begin + row.begin,
            table_->bytes(row), row.elements};
}

BITMILL_INLINE std::optional<std::size_t> safetensors_file::find(std::string_view name) const noexcept {
    const auto& order = table_->by_name;
    const auto found = std::lower_bound(
        order.begin(), order.end(), name,
        [&](std::uint32_t index, std::string_view n) { return table_->name(table_->rows[index]) < n; });
    if (found == order.end() || table_->name(table_->rows[*found]) != name) return std::nullopt;
    return *found;
}

BITMILL_INLINE const safetensors_metadata& safetensors_file::metadata() const noexcept {
    return table_->metadata;
}

}  // namespace bitmill
