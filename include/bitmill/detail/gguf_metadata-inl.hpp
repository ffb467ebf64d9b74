#pragma once

#include <algorithm>
#include <utility>

#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/io/gguf.hpp>

namespace bitmill {

BITMILL_INLINE gguf_value gguf_metadata::operator[](std::size_t index) const noexcept {
    const std::size_t begin = begins_[index];
    const std::size_t end = index + 1 < begins_.size() ? begins_[index + 1] : bytes_.size();
    gguf_value value{};
    value.pair = std::string_view(bytes_).substr(begin, end - begin);
    value.key = key(index);
    value.encoded = value.pair.substr(8 + value.key.size() + 4);
    value.type = value.element =
        static_cast<gguf_type>(detail::gguf_number<std::uint32_t>(value.encoded.data() - 4));
    value.count = 1;
    if (value.type == gguf_type::array) {
        value.element = static_cast<gguf_type>(detail::gguf_number<std::uint32_t>(value.encoded.data()));
        value.count = detail::gguf_number<std::uint64_t>(value.encoded.data() + 4);
        value.encoded.remove_prefix(12);
    }
    return value;
}

BITMILL_INLINE std::vector<std::uint32_t>::const_iterator gguf_metadata::place(
    std::string_view wanted) const noexcept {
    return std::lower_bound(by_key_.begin(), by_key_.end(), wanted,
                            [&](std::uint32_t index, std::string_view k) { return key(index) < k; });
}

BITMILL_INLINE std::optional<gguf_value> gguf_metadata::find(std::string_view wanted) const noexcept {
    const auto found = place(wanted);
    if (found == by_key_.end() || key(*found) != wanted) return std::nullopt;
    return (*this)[*found];
}

BITMILL_INLINE result<void> gguf_metadata::set_string(std::string_view key, std::string_view value) {
    if (value.size() > gguf_max_string_bytes)
        return detail::make_error(error_code::invalid_argument, "a GGUF string has at most 64 MiB", {});
    std::string encoded(8, '\0');
    const std::uint64_t bytes = value.size();
    std::memcpy(encoded.data(), &bytes, sizeof bytes);
    return put(key, gguf_type::string, encoded.append(value));
}

BITMILL_INLINE result<void> gguf_metadata::put(std::string_view wanted, gguf_type type,
                                               std::string_view encoded) {
    const auto refuse = [](std::string message) {
        return detail::make_error(error_code::invalid_argument, std::move(message), {});
    };
    if (wanted.empty() || wanted.size() > gguf_max_key_bytes || !is_utf8(wanted))
        return refuse("a GGUF key is UTF-8 of 1 to 65535 bytes");
    std::string pair(8, '\0');
    const std::uint64_t key_bytes = wanted.size();
    std::memcpy(pair.data(), &key_bytes, sizeof key_bytes);
    pair.append(wanted).append(reinterpret_cast<const char*>(&type), sizeof type).append(encoded);
    if (pair.size() > gguf_max_header_bytes - bytes_.size())
        return refuse("GGUF metadata has at most 256 MiB");

    const auto found = place(wanted);
    if (found == by_key_.end() || key(*found) != wanted) {
        if (size() == gguf_max_keys) return refuse("a GGUF file has at most 65536 keys");
        by_key_.insert(found, static_cast<std::uint32_t>(size()));
        begins_.push_back(static_cast<std::uint32_t>(bytes_.size()));
        bytes_ += pair;
        return {};
    }
    const std::size_t index = *found;
    const std::size_t old = (*this)[index].pair.size();
    bytes_.replace(begins_[index], old, pair);
    for (std::size_t i = index + 1; i < begins_.size(); ++i)
        begins_[i] = static_cast<std::uint32_t>(begins_[i] - old + pair.size());
    return {};
}

}  // namespace bitmill
