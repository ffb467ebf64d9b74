// model.safetensors.index.json: which tensor lies in which shard.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/arena-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill::detail {

// Every shard stays open, so their number is bounded like the descriptors of a process.
inline constexpr std::size_t max_shards = 4096;

class weight_map {
public:
    struct row {
        std::uint32_t name;
        std::uint32_t shard;
        std::uint16_t name_bytes;
    };

    [[nodiscard]] std::string_view name(const row& r) const noexcept {
        return {names.at(r.name), r.name_bytes};
    }
    [[nodiscard]] std::optional<std::size_t> find(std::string_view wanted) const noexcept {
        const auto found = std::lower_bound(rows.begin(), rows.end(), wanted,
                                            [&](const row& r, std::string_view n) { return name(r) < n; });
        if (found == rows.end() || name(*found) != wanted) return std::nullopt;
        return found->shard;
    }

    std::deque<row> rows;  // by name
    arena<char, 64 * 1024> names;
};

// {"metadata": {...}, "weight_map": {TENSOR: SHARD, ...}}; other fields are allowed.
class index_handler : public json_handler {
public:
    using string_t = nlohmann::json::string_t;
    index_handler(const json_source& source, weight_map& map) : json_handler(source, 16), map_(map) {}

    [[nodiscard]] bool has_map() const noexcept { return has_map_; }
    [[nodiscard]] bool has_metadata() const noexcept { return has_metadata_; }
    // File offsets of the metadata object, braces included.
    std::uint64_t metadata_begin = 0;
    std::uint64_t metadata_end = 0;
    // In the order of their names, which is the order in which shards are counted.
    [[nodiscard]] const std::map<std::string, std::uint32_t>& shards() const noexcept { return shards_; }

    bool null() { return value("null"); }
    bool boolean(bool) { return value("true or false"); }
    bool number_integer(nlohmann::json::number_integer_t) { return value("a number"); }
    bool number_unsigned(nlohmann::json::number_unsigned_t) { return value("a number"); }
    bool number_float(nlohmann::json::number_float_t, const string_t&) { return value("a number"); }
    bool binary(nlohmann::json::binary_t&) { return value("binary data"); }
    bool string(string_t& text) {
        if (at_ != place::map_value) return value("a string");
        at_ = place::map_keys;
        auto shard = shards_.find(text);
        if (shard == shards_.end()) {
            if (shards_.size() == max_shards) return fail("more than 4096 shards");
            shard = shards_.emplace(text, static_cast<std::uint32_t>(shards_.size())).first;
        }
        map_.rows.push_back(
            {map_.names.store(name_), shard->second, static_cast<std::uint16_t>(name_.size())});
        return true;
    }
    bool key(string_t& text) {
        if (at_ == place::top) {
            if (text == "weight_map") {
                at_ = place::map;
                if (std::exchange(has_map_, true)) return fail("'weight_map' stands there twice");
            } else if (text == "metadata") {
                at_ = place::metadata;
                if (std::exchange(has_metadata_, true)) return fail("'metadata' stands there twice");
            } else {
                at_ = place::skipped;
            }
        } else if (at_ == place::map_keys) {
            if (!take_tensor_name(text, map_.rows.size(), name_)) return false;
            at_ = place::map_value;
        }
        return true;
    }
    bool start_object(std::size_t) {
        if (at_ == place::start)
            at_ = place::top;
        else if (at_ == place::map)
            at_ = place::map_keys;
        else if (at_ == place::metadata && depth() == 1)
            metadata_begin = source().position() - 1;
        else if (at_ != place::skipped && at_ != place::metadata)
            return value("an object");
        return enter();
    }
    bool start_array(std::size_t) {
        if (at_ == place::skipped || (at_ == place::metadata && depth() > 1)) return enter();
        return value("an array");
    }
    bool end_object() {
        if (at_ == place::metadata && depth() == 2) metadata_end = source().position();
        return end();
    }
    bool end_array() { return end(); }

private:
    enum class place {
        start,
        top,
        map,
        map_keys,
        map_value,
        metadata,
        skipped
    };

    bool end() {
        leave();
        if (depth() == 1) at_ = place::top;
        return true;
    }
    // Any value that is not taken elsewhere: right inside metadata and unknown fields only.
    bool value(const char* found) {
        switch (at_) {
            case place::start: return fail("the index must be a JSON object");
            case place::map: return fail(std::string("weight_map must be an object, not ") + found);
            case place::map_value:
                return fail(std::string("its shard must be a file name, not ") + found, name_);
            case place::metadata:
                if (depth() == 1) return fail(std::string("metadata must be an object, not ") + found);
                return true;
            default:
                if (depth() == 1) at_ = place::top;
                return true;
        }
    }

    weight_map& map_;
    std::map<std::string, std::uint32_t> shards_;
    place at_ = place::start;
    bool has_map_ = false, has_metadata_ = false;
    std::string name_;
};

}  // namespace bitmill::detail
