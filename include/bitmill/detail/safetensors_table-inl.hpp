// The parsed header of one safetensors file, and the SAX handler that fills it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/core/dtype.hpp>
#include <bitmill/detail/arena-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill::detail {

// Bits of a tensor as the specification multiplies them: dimension by dimension, then by the width of one
// element. Refuses where a step wraps, also where a later dimension is 0: the reference reader does too.
inline maybe_u64 tensor_elements(std::span<const std::uint64_t> shape) noexcept {
    std::uint64_t elements = 1;
    for (const std::uint64_t dimension : shape) {
        const maybe_u64 product = checked_mul(elements, dimension);
        if (!product) return std::nullopt;
        elements = *product;
    }
    return elements;
}

inline std::string shape_text(std::span<const std::uint64_t> shape) {
    std::string text = "[";
    for (const std::uint64_t dimension : shape)
        text += (text.size() > 1 ? "," : "") + std::to_string(dimension);
    return text + "]";
}

// Elements and bytes of a tensor; on an error the message alone is set.
struct tensor_size {
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
    std::string problem;
};

inline tensor_size measure_tensor(dtype type, std::span<const std::uint64_t> shape) {
    tensor_size size;
    const maybe_u64 elements = tensor_elements(shape);
    const maybe_u64 bits = elements ? checked_mul(*elements, facts(type).bits) : std::nullopt;
    if (!bits) {
        size.problem = "shape " + shape_text(shape) + " has more elements than 64 bits can count";
    } else if (*bits % 8 != 0) {
        size.problem = std::to_string(*elements) + " elements of " + std::string(facts(type).name) +
                       " do not fill whole bytes";
    } else {
        size.elements = *elements;
        size.bytes = *bits / 8;
    }
    return size;
}

class safetensors_table {
public:
    // 32 bytes, so that the smallest entry of a header (about 50 bytes) costs less here than there.
    struct row {
        std::uint64_t begin;  // relative to data_begin
        std::uint64_t elements;
        std::uint32_t name;
        std::uint32_t shape;
        std::uint16_t name_bytes;
        dtype type;
        std::uint8_t rank;
    };
    static_assert(sizeof(row) == 32);

    [[nodiscard]] std::string_view name(const row& r) const noexcept {
        return {names.at(r.name), r.name_bytes};
    }
    [[nodiscard]] std::span<const std::uint64_t> shape(const row& r) const noexcept {
        return {shapes.at(r.shape), r.rank};
    }
    [[nodiscard]] static std::uint64_t bytes(const row& r) noexcept {
        return r.elements / 8 * facts(r.type).bits + r.elements % 8 * facts(r.type).bits / 8;
    }

    std::deque<row> rows;                // by offset
    std::vector<std::uint32_t> by_name;  // rows' indices
    arena<char, 64 * 1024> names;
    arena<std::uint64_t, 8 * 1024> shapes;
    safetensors_metadata metadata;
    std::uint64_t data_begin = 0;
};

// {"__metadata__": {string: string}, NAME: {"dtype": D, "shape": [...], "data_offsets": [begin, end]}, ...}
class safetensors_handler : public json_handler {
public:
    using string_t = nlohmann::json::string_t;

    safetensors_handler(const json_source& source, safetensors_table& table, std::uint64_t file_bytes)
        // A metadata entry costs 64 bytes here and 64 while it is parsed, so files of tiny entries only are
        // limited to what their size pays for.
        : json_handler(source, 16), table_(table), max_metadata_(1024 + file_bytes / 64) {}

    // Moves the metadata to its place; call after a good parse.
    void finish() {
        table_.metadata.reserve(metadata_.size());
        std::move(metadata_.begin(), metadata_.end(), std::back_inserter(table_.metadata));
        metadata_.clear();
    }
    [[nodiscard]] std::string duplicate_metadata_key() const {
        std::vector<const std::string*> keys(metadata_.size());
        std::transform(metadata_.begin(), metadata_.end(), keys.begin(),
                       [](const auto& e) { return &e.first; });
        std::sort(keys.begin(), keys.end(), [](const auto* a, const auto* b) { return *a < *b; });
        const auto twice = std::adjacent_find(keys.begin(), keys.end(),
                                              [](const auto* a, const auto* b) { return *a == *b; });
        return twice == keys.end() ? std::string() : "'" + (*twice)->substr(0, 200) + "'";
    }

    bool null() {
        if (at_ == place::skipped || at_ == place::metadata) return after_value();
        return unexpected("null");
    }
    bool boolean(bool) { return at_ == place::skipped ? after_value() : unexpected("true or false"); }
    // Only numbers with a sign: also -0, which the reference refuses.
    bool number_integer(nlohmann::json::number_integer_t) {
        return at_ == place::skipped ? after_value() : unexpected("a negative number");
    }
    bool number_float(nlohmann::json::number_float_t, const string_t&) {
        return at_ == place::skipped ? after_value() : unexpected("a fraction, or a number above 2^64 - 1");
    }
    bool number_unsigned(nlohmann::json::number_unsigned_t value) {
        if (at_ == place::skipped) return after_value();
        if (at_ == place::shape_items) {
            if (rank_ == safetensors_max_rank) return fail("a shape of more than 8 dimensions", name_);
            shape_[rank_++] = value;
            return true;
        }
        if (at_ == place::offset_items) {
            if (offset_count_ == 2) return fail("data_offsets must hold two numbers, not more", name_);
            offsets_[offset_count_++] = value;
            return true;
        }
        return unexpected("a number");
    }
    bool string(string_t& value) {
        if (at_ == place::skipped) return after_value();
        if (at_ == place::metadata_value) {
            metadata_.emplace_back(std::move(name_), value);
            at_ = place::metadata_keys;
            return true;
        }
        if (at_ != place::type) return unexpected("a string");
        type_ = dtype_from_name(value);
        if (!type_) return fail("'" + value.substr(0, 40) + "' is not a dtype of the format", name_);
        return after_value();
    }
    bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }

    bool key(string_t& value) {
        switch (at_) {
            case place::top: return top_key(value);
            case place::metadata_keys:
                if (metadata_.size() == max_metadata_)
                    return fail("more __metadata__ entries than its size allows");
                name_ = value;
                at_ = place::metadata_value;
                return true;
            case place::entry: return entry_key(value);
            default: return true;  // inside a skipped value
        }
    }

    bool start_object(std::size_t) {
        if (!enter()) return false;
        switch (at_) {
            case place::start: at_ = place::top; return true;
            case place::metadata: at_ = place::metadata_keys; return true;
            case place::tensor: at_ = place::entry; return true;
            case place::skipped: return true;
            default: return unexpected("an object");
        }
    }
    bool end_object() {
        leave();
        if (at_ == place::skipped) return after_value();
        if (at_ == place::metadata_keys)
            at_ = place::top;
        else if (at_ == place::entry)
            return end_entry();
        return true;
    }
    bool start_array(std::size_t) {
        if (!enter()) return false;
        switch (at_) {
            case place::shape: at_ = place::shape_items; return true;
            case place::offsets: at_ = place::offset_items; return true;
            case place::skipped: return true;
            default: return unexpected("an array");
        }
    }
    bool end_array() {
        leave();
        if (at_ == place::offset_items && offset_count_ != 2)
            return fail("data_offsets must hold two numbers", name_);
        return after_value();
    }

private:
    enum class place {
        start,
        top,
        metadata,
        metadata_keys,
        metadata_value,
        tensor,
        entry,
        type,
        shape,
        shape_items,
        offsets,
        offset_items,
        skipped,
    };

    // A field of an entry is done, or one part of a skipped value.
    bool after_value() {
        if (at_ == place::metadata)
            at_ = place::top;  // "__metadata__": null
        else if (at_ != place::skipped || depth() == 2)
            at_ = place::entry;
        return true;
    }

    bool unexpected(const char* found) {
        switch (at_) {
            case place::start: return fail("the header must be a JSON object");
            case place::metadata: return fail(std::string("__metadata__ must be an object, not ") + found);
            case place::metadata_value:
                return fail("__metadata__ may hold only strings, but '" + name_.substr(0, 200) + "' is " +
                            found);
            case place::tensor: return fail(std::string("its entry must be an object, not ") + found, name_);
            case place::type: return fail(std::string("dtype must be a string, not ") + found, name_);
            case place::shape:
            case place::shape_items:
                return fail(std::string("shape must be an array of whole numbers from 0, not ") + found,
                            name_);
            default:
                return fail(std::string("data_offsets must be two whole numbers from 0, not ") + found,
                            name_);
        }
    }

    bool top_key(const string_t& value) {
        if (value == "__metadata__") {
            if (std::exchange(has_metadata_, true)) return fail("__metadata__ stands there twice");
            at_ = place::metadata;
            return true;
        }
        if (!take_tensor_name(value, table_.rows.size(), name_)) return false;
        has_shape_ = has_offsets_ = false;
        type_.reset();
        rank_ = offset_count_ = 0;
        has_type_ = false;
        at_ = place::tensor;
        return true;
    }

    bool entry_key(const string_t& value) {
        bool* seen = nullptr;
        if (value == "dtype")
            at_ = place::type, seen = &has_type_;
        else if (value == "shape")
            at_ = place::shape, seen = &has_shape_;
        else if (value == "data_offsets")
            at_ = place::offsets, seen = &has_offsets_;
        else
            at_ = place::skipped;  // unknown fields are allowed
        if (seen != nullptr && std::exchange(*seen, true))
            return fail("'" + value + "' stands there twice", name_);
        return true;
    }

    bool end_entry() {
        at_ = place::top;
        if (!has_type_) return fail("has no dtype", name_);
        if (!has_shape_) return fail("has no shape", name_);
        if (!has_offsets_) return fail("has no data_offsets", name_);
        const auto [begin, end] = offsets_;
        if (begin > end)
            return fail(
                "data_offsets [" + std::to_string(begin) + "," + std::to_string(end) + "] run backwards",
                name_);
        const std::span<const std::uint64_t> shape(shape_.data(), rank_);
        const tensor_size size = measure_tensor(*type_, shape);
        if (!size.problem.empty()) return fail(size.problem, name_);
        if (size.bytes != end - begin)
            return fail("shape " + shape_text(shape) + " of " + std::string(facts(*type_).name) + " takes " +
                            std::to_string(size.bytes) + " bytes, but data_offsets span " +
                            std::to_string(end - begin),
                        name_);
        table_.rows.push_back({begin, size.elements, table_.names.store(name_), table_.shapes.store(shape),
                               static_cast<std::uint16_t>(name_.size()), *type_,
                               static_cast<std::uint8_t>(rank_)});
        return true;
    }

    safetensors_table& table_;
    std::size_t max_metadata_;
    std::deque<std::pair<std::string, std::string>> metadata_;
    place at_ = place::start;
    bool has_metadata_ = false;
    std::string name_;  // of the current tensor or metadata entry
    bool has_type_ = false, has_shape_ = false, has_offsets_ = false;
    std::optional<dtype> type_;
    std::array<std::uint64_t, safetensors_max_rank> shape_{};
    std::array<std::uint64_t, 2> offsets_{};
    std::size_t rank_ = 0, offset_count_ = 0;
};

}  // namespace bitmill::detail
