#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <utility>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/arena-inl.hpp>
#include <bitmill/detail/gguf_layout-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/io/gguf.hpp>

namespace bitmill {

namespace detail {

// What a tensor of this type is for those who know no blocks.
inline dtype plain_dtype(ggml_type type) noexcept {
    switch (type) {
        case ggml_type::f32: return dtype::f32;
        case ggml_type::f16: return dtype::f16;
        case ggml_type::bf16: return dtype::bf16;
        case ggml_type::f64: return dtype::f64;
        case ggml_type::i8: return dtype::i8;
        case ggml_type::i16: return dtype::i16;
        case ggml_type::i32: return dtype::i32;
        case ggml_type::i64: return dtype::i64;
        default: return dtype::u8;
    }
}

inline bool has_blocks(ggml_type type) noexcept { return facts(type).block_elements > 1; }

// Types of llama.cpp that this version does not read, and numbers that once had a meaning.
inline std::string_view other_ggml_name(std::uint32_t number) noexcept {
    static constexpr std::array<std::string_view, 43> names{"",
                                                            "",
                                                            "",
                                                            "",
                                                            "Q4_2, since removed",
                                                            "Q4_3, since removed",
                                                            "",
                                                            "",
                                                            "",
                                                            "Q8_1",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "Q8_K",
                                                            "IQ2_XXS",
                                                            "IQ2_XS",
                                                            "IQ3_XXS",
                                                            "IQ1_S",
                                                            "",
                                                            "IQ3_S",
                                                            "IQ2_S",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "IQ1_M",
                                                            "",
                                                            "Q4_0_4_4, since removed",
                                                            "Q4_0_4_8, since removed",
                                                            "Q4_0_8_8, since removed",
                                                            "TQ1_0",
                                                            "TQ2_0",
                                                            "IQ4_NL_4_4, since removed",
                                                            "IQ4_NL_4_8, since removed",
                                                            "IQ4_NL_8_8, since removed",
                                                            "",
                                                            "NVFP4",
                                                            "Q1_0",
                                                            "Q2_0"};
    return number < names.size() ? names[number] : std::string_view();
}

class gguf_table {
public:
    // 32 bytes, where the smallest entry of a file has 25.
    struct row {
        std::uint64_t begin;  // from the start of the file
        std::uint64_t elements;
        std::uint32_t name;
        std::uint32_t shape;  // for blocks the shape in elements and then the one in bytes
        ggml_type type;
        std::uint8_t name_bytes;
        std::uint8_t rank;
    };
    static_assert(sizeof(row) == 32);

    [[nodiscard]] std::string_view name(const row& r) const noexcept {
        return {names.at(r.name), r.name_bytes};
    }
    [[nodiscard]] static std::uint64_t bytes(const row& r) noexcept {
        return r.elements / facts(r.type).block_elements * facts(r.type).block_bytes;
    }

    std::deque<row> rows;                // as the file lists them, which is by offset
    std::vector<std::uint32_t> by_name;  // rows' indices
    arena<char, 64 * 1024> names;
    arena<std::uint64_t, 8 * 1024> shapes;
    gguf_metadata metadata;
    std::uint64_t data_begin = 0;
    std::uint32_t alignment = gguf_default_alignment;
    std::uint32_t version = 0;
};

// One pass over the header. Each step is false where the file breaks a rule; failed() then says which.
class gguf_reader {
public:
    gguf_reader(const input_file& file, gguf_table& table) : file_(file), table_(table) {}

    [[nodiscard]] bool read() { return counts() && pairs() && tensors() && places() && order(); }
    [[nodiscard]] error failed() && { return std::move(failed_); }

private:
    static constexpr std::uint64_t header_bytes = 24;
    static constexpr std::uint64_t min_pair_bytes = 14;    // a key of one byte and a u8
    static constexpr std::uint64_t min_tensor_bytes = 25;  // a name of one byte and no dimension

    bool fail(std::string message, std::uint64_t offset, std::string_view tensor = {},
              error_code code = error_code::bad_input) {
        failed_ = make_error(code, std::move(message), file_.path(), std::string(tensor), offset);
        return false;
    }
    bool cut_short(std::uint64_t offset) {
        return fail("the header goes on behind the file's end at byte " + std::to_string(file_.size()) +
                        "; it was cut short, fetch it again",
                    offset);
    }

    // Makes the next `bytes` bytes be in the window, which keeps all from base_ on.
    bool fetch(std::uint64_t bytes) {
        if (bytes > file_.size() - at_) return cut_short(at_);
        const std::uint64_t end = at_ + bytes;
        if (end > gguf_max_header_bytes)
            return fail("its header is over 256 MiB long, which is none of a model", at_);
        if (end - base_ <= window_bytes_) return true;
        // Doubled at most, and never past the file's end: what is taken stays below twice the file.
        const std::uint64_t wanted =
            std::min(file_.size() - base_, std::max({end - base_, 2 * window_bytes_, std::uint64_t{65536}}));
        auto grown = std::make_unique_for_overwrite<char[]>(static_cast<std::size_t>(wanted));
        if (window_bytes_ != 0)
            std::memcpy(grown.get(), window_.get(), static_cast<std::size_t>(window_bytes_));
        const std::span<char> rest(grown.get() + window_bytes_,
                                   static_cast<std::size_t>(wanted - window_bytes_));
        if (auto got = file_.read_at(base_ + window_bytes_, std::as_writable_bytes(rest)); !got) {
            failed_ = std::move(got).error();
            return false;
        }
        window_ = std::move(grown);
        window_bytes_ = wanted;
        return true;
    }
    [[nodiscard]] const char* here() const noexcept { return window_.get() + (at_ - base_); }
    void forget_window() noexcept {
        window_.reset();
        window_bytes_ = 0;
        base_ = at_;
    }

    bool skip(std::uint64_t bytes) {
        if (!fetch(bytes)) return false;
        at_ += bytes;
        return true;
    }
    template <class T>
    bool number(T& value) {
        if (!fetch(sizeof value)) return false;
        value = gguf_number<T>(here());
        at_ += sizeof value;
        return true;
    }
    // `text` lives until the next fetch.
    bool string(std::uint64_t limit, const char* what, std::string_view& text) {
        const std::uint64_t begin = at_;
        std::uint64_t bytes = 0;
        if (!number(bytes)) return false;
        if (bytes > limit)
            return fail(std::string(what) + " would be " + std::to_string(bytes) + " bytes long (at most " +
                            std::to_string(limit) + ")",
                        begin);
        if (!fetch(bytes)) return false;
        text = {here(), static_cast<std::size_t>(bytes)};
        at_ += bytes;
        return true;
    }

    bool counts() {
        if (file_.size() < header_bytes)
            return fail(
                "has " + std::to_string(file_.size()) + " bytes, too few for a GGUF file; fetch it again", 0);
        std::uint32_t magic = 0;
        if (!number(magic)) return false;
        if (magic != 0x46554747) return fail("does not begin with 'GGUF': this is not a GGUF file", 0);
        if (!number(table_.version) || !number(tensor_count_) || !number(pair_count_)) return false;
        if (const std::uint32_t v = table_.version; v != 2 && v != 3) {
            if (v != 0 && v % 65536 == 0)
                return fail("its numbers are big-endian; convert it on a usual machine", 4, {},
                            error_code::unsupported);
            return fail("is of GGUF version " + std::to_string(v) +
                            "; this version reads 2 and 3, which "
                            "llama.cpp has written since August 2023",
                        4, {}, v == 0 ? error_code::bad_input : error_code::unsupported);
        }
        const auto possible = [&](std::uint64_t count, std::uint64_t limit, std::uint64_t each,
                                  const char* what, std::uint64_t offset) {
            if (count > limit)
                return fail("says that it holds " + std::to_string(count) + what + " (at most " +
                                std::to_string(limit) + ")",
                            offset);
            if (count > (file_.size() - header_bytes) / each)
                return fail("says that it holds " + std::to_string(count) + what + ", for which its " +
                                std::to_string(file_.size()) +
                                " bytes are too few; it was cut short, fetch it again",
                            offset);
            return true;
        };
        return possible(tensor_count_, gguf_max_tensors, min_tensor_bytes, " tensors", 8) &&
               possible(pair_count_, gguf_max_keys, min_pair_bytes, " keys", 16);
    }

    bool pairs() {
        gguf_metadata& metadata = table_.metadata;
        forget_window();
        for (std::uint64_t i = 0; i < pair_count_; ++i) {
            metadata.begins_.push_back(static_cast<std::uint32_t>(at_ - header_bytes));
            if (!pair()) return false;
        }
        metadata.bytes_.assign(window_.get(), static_cast<std::size_t>(at_ - header_bytes));
        forget_window();
        auto& order = metadata.by_key_;
        order.resize(metadata.size());
        std::iota(order.begin(), order.end(), 0u);
        const auto key = [&](std::uint32_t index) { return metadata.key(index); };
        std::sort(order.begin(), order.end(),
                  [&](auto a, auto b) { return key(a) != key(b) ? key(a) < key(b) : a < b; });
        const auto twice =
            std::adjacent_find(order.begin(), order.end(), [&](auto a, auto b) { return key(a) == key(b); });
        if (twice != order.end())
            return fail("the key '" + std::string(key(*twice).substr(0, 200)) + "' stands there twice",
                        header_bytes + metadata.begins_[*(twice + 1)]);
        return alignment();
    }

    bool pair() {
        const std::uint64_t begin = at_;
        std::string_view key;
        if (!string(gguf_max_key_bytes, "a key", key)) return false;
        if (key.empty()) return fail("a key is empty", begin);
        if (!is_utf8(key)) return fail("the key '" + printable(key.substr(0, 200)) + "' is not UTF-8", begin);
        const std::uint64_t type_at = at_;
        std::uint32_t type = 0;
        if (!number(type)) return false;
        if (type == static_cast<std::uint32_t>(gguf_type::array)) return array(begin);
        return known(type, begin, type_at) && value(static_cast<gguf_type>(type), 1);
    }
    bool array(std::uint64_t begin) {
        const std::uint64_t type_at = at_;
        std::uint32_t element = 0;
        std::uint64_t count = 0;
        if (!number(element) || !number(count)) return false;
        if (element == static_cast<std::uint32_t>(gguf_type::array))
            return fail("the value of " + key_at(begin) + " is an array of arrays, which no model needs",
                        type_at, {}, error_code::unsupported);
        return known(element, begin, type_at) && value(static_cast<gguf_type>(element), count);
    }
    bool known(std::uint32_t type, std::uint64_t begin, std::uint64_t offset) {
        if (type <= static_cast<std::uint32_t>(gguf_type::f64)) return true;
        return fail("the value of " + key_at(begin) + " is of type " + std::to_string(type) +
                        ", which GGUF has not (0 to 12)",
                    offset);
    }
    bool value(gguf_type type, std::uint64_t count) {
        if (type != gguf_type::string) {
            const maybe_u64 bytes = checked_mul(count, value_bytes(type));
            return bytes ? skip(*bytes) : cut_short(at_);
        }
        if (count > (file_.size() - at_) / 8) return cut_short(at_);
        std::string_view text;
        for (std::uint64_t i = 0; i < count; ++i)
            if (!string(gguf_max_string_bytes, "a string", text)) return false;
        return true;
    }
    // Of a pair whose key has been read.
    [[nodiscard]] std::string key_at(std::uint64_t begin) const {
        return "'" + std::string(gguf_text(window_.get() + (begin - base_)).substr(0, 200)) + "'";
    }

    bool alignment() {
        const auto found = table_.metadata.find("general.alignment");
        if (!found) return true;
        const auto value = found->get<std::uint32_t>();
        const auto offset =
            header_bytes + static_cast<std::uint64_t>(found->pair.data() - table_.metadata.bytes_.data());
        if (!value || !is_alignment(*value))
            return fail("general.alignment must be a u32 power of two of at most 1048576", offset);
        table_.alignment = *value;
        return true;
    }

    bool tensors() {
        for (std::uint64_t i = 0; i < tensor_count_; ++i)
            if (!tensor()) return false;
        return true;
    }
    bool tensor() {
        const std::uint64_t entry = at_;
        std::string_view text;
        if (!string(gguf_max_name_bytes, "a tensor's name", text)) return false;
        const std::string name(text);
        if (name.empty() || !is_utf8(name) || name.find('\0') != std::string::npos)
            return fail("a tensor's name must be UTF-8 of 1 to 63 bytes, none of them 0", entry, name);
        std::uint32_t rank = 0;
        const std::uint64_t rank_at = at_;
        if (!number(rank)) return false;
        if (rank > gguf_max_rank)
            return fail("has " + std::to_string(rank) + " dimensions (at most 4)", rank_at, name);
        std::array<std::uint64_t, 2 * gguf_max_rank> shape{};
        for (std::uint32_t d = rank; d != 0; --d)
            if (!number(shape[d - 1])) return false;
        std::uint32_t type = 0;
        std::uint64_t offset = 0;
        const std::uint64_t type_at = at_;
        if (!number(type)) return false;
        const std::uint64_t offset_at = at_;
        if (!number(offset)) return false;
        const ggml_facts* row = find_ggml_facts(type);
        if (row == nullptr) {
            const std::string_view other = other_ggml_name(type);
            return fail("is of type " + std::to_string(type) +
                            (other.empty() ? std::string() : " (" + std::string(other) + ")") +
                            ", which this version does not read; make the file anew from the original",
                        type_at, name, error_code::unsupported);
        }
        const gguf_size size = measure(*row, {shape.data(), rank});
        if (!size.problem.empty()) return fail(size.problem, rank_at, name);
        if (offset != expected_)
            return fail("begins at " + std::to_string(offset) +
                            " of the data, but the tensors before it end at " + std::to_string(expected_) +
                            (offset > expected_ ? " (a hole)" : " (an overlap)") + "; write the file anew",
                        offset_at, name);
        const maybe_u64 end = checked_add(expected_, size.bytes);
        const maybe_u64 next = end ? align_up(*end, table_.alignment) : std::nullopt;
        if (!next) return fail("ends where 64 bits cannot count", offset_at, name);
        add(*row, name, {shape.data(), rank}, size.elements);
        expected_ = *next;
        return true;
    }
    void add(const ggml_facts& row, std::string_view name, std::span<std::uint64_t> shape,
             std::uint64_t elements) {
        const std::size_t rank = shape.size();
        std::array<std::uint64_t, 2 * gguf_max_rank> both{};
        std::copy(shape.begin(), shape.end(), both.begin());
        std::size_t numbers = rank;
        if (has_blocks(row.type)) {
            std::copy(shape.begin(), shape.end(), both.begin() + static_cast<std::ptrdiff_t>(rank));
            numbers = 2 * rank;
            both[numbers - 1] = both[numbers - 1] / row.block_elements * row.block_bytes;
        }
        table_.rows.push_back({expected_, elements, table_.names.store(name),
                               table_.shapes.store({both.data(), numbers}), row.type,
                               static_cast<std::uint8_t>(name.size()), static_cast<std::uint8_t>(rank)});
    }

    bool places() {
        forget_window();
        table_.data_begin = *align_up(at_, table_.alignment);  // at_ is at most 256 MiB
        for (auto& row : table_.rows) {
            const maybe_u64 begin = checked_add(table_.data_begin, row.begin);
            const maybe_u64 end = begin ? checked_add(*begin, gguf_table::bytes(row)) : std::nullopt;
            if (!end || *end > file_.size())
                return fail("ends behind the file's end at byte " + std::to_string(file_.size()) +
                                "; it was cut short, fetch it again",
                            begin.value_or(error::no_offset), table_.name(row));
            row.begin = *begin;
        }
        return true;
    }

    bool order() {
        auto& order = table_.by_name;
        order.resize(table_.rows.size());
        std::iota(order.begin(), order.end(), 0u);
        const auto name = [&](std::uint32_t index) { return table_.name(table_.rows[index]); };
        std::sort(order.begin(), order.end(), [&](auto a, auto b) { return name(a) < name(b); });
        const auto twice = std::adjacent_find(order.begin(), order.end(),
                                              [&](auto a, auto b) { return name(a) == name(b); });
        if (twice == order.end()) return true;
        return fail("the name stands there twice; write the file anew", table_.rows[*twice].begin,
                    name(*twice));
    }

    const input_file& file_;
    gguf_table& table_;
    std::unique_ptr<char[]> window_;  // bytes [base_, base_ + window_bytes_) of the file
    std::uint64_t window_bytes_ = 0;
    std::uint64_t base_ = 0;
    std::uint64_t at_ = 0;
    std::uint64_t tensor_count_ = 0;
    std::uint64_t pair_count_ = 0;
    std::uint64_t expected_ = 0;  // where the next tensor must begin, in the data
    error failed_;
};

}  // namespace detail

BITMILL_INLINE gguf_file::gguf_file(input_file file, std::shared_ptr<const detail::gguf_table> table) noexcept
    : file_(std::move(file)), table_(std::move(table)) {}

BITMILL_INLINE result<gguf_file> gguf_file::open(input_file file) {
    auto table = std::make_shared<detail::gguf_table>();
    if (detail::gguf_reader reader(file, *table); !reader.read()) return std::move(reader).failed();
    return gguf_file(std::move(file), std::move(table));
}

BITMILL_INLINE std::uint32_t gguf_file::version() const noexcept { return table_->version; }
BITMILL_INLINE const gguf_metadata& gguf_file::metadata() const noexcept { return table_->metadata; }
BITMILL_INLINE std::uint64_t gguf_file::alignment() const noexcept { return table_->alignment; }
BITMILL_INLINE std::uint64_t gguf_file::data_begin() const noexcept { return table_->data_begin; }
BITMILL_INLINE std::size_t gguf_file::size() const noexcept { return table_->rows.size(); }

BITMILL_INLINE tensor_info gguf_file::operator[](std::size_t index) const noexcept {
    const auto& row = table_->rows[index];
    const std::uint64_t* shape = table_->shapes.at(row.shape);
    const std::uint64_t bytes = detail::gguf_table::bytes(row);
    tensor_info info{table_->name(row), detail::plain_dtype(row.type), {shape, row.rank}, row.begin, bytes,
                     row.elements};
    if (detail::has_blocks(row.type)) {
        info.shape = {shape + row.rank, row.rank};
        info.elements = bytes;
        info.block = row.type;
    }
    return info;
}

BITMILL_INLINE ggml_type gguf_file::type(std::size_t index) const noexcept {
    return table_->rows[index].type;
}

BITMILL_INLINE std::span<const std::uint64_t> gguf_file::shape(std::size_t index) const noexcept {
    const auto& row = table_->rows[index];
    return {table_->shapes.at(row.shape), row.rank};
}

BITMILL_INLINE std::optional<std::size_t> gguf_file::find(std::string_view name) const noexcept {
    const auto& order = table_->by_name;
    const auto found = std::lower_bound(
        order.begin(), order.end(), name,
        [&](std::uint32_t index, std::string_view n) { return table_->name(table_->rows[index]) < n; });
    if (found == order.end() || table_->name(table_->rows[*found]) != name) return std::nullopt;
    return *found;
}

}  // namespace bitmill
