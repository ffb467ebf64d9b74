// The GGUF container of llama.cpp: keys with typed values, tensors by name, then their bytes.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/core/ggml_type.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/safetensors.hpp>
#include <bitmill/io/tensor_writer.hpp>

namespace bitmill {

namespace detail {
class gguf_reader;
class gguf_table;
}  // namespace detail

// For readers and writers alike. Those of names, dimensions and alignment are llama.cpp's.
inline constexpr std::uint64_t gguf_max_header_bytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t gguf_max_string_bytes = std::uint64_t{64} << 20;
inline constexpr std::size_t gguf_max_keys = std::size_t{1} << 16;
inline constexpr std::size_t gguf_max_key_bytes = 65535;
inline constexpr std::size_t gguf_max_tensors = std::size_t{1} << 20;
inline constexpr std::size_t gguf_max_rank = 4;
inline constexpr std::size_t gguf_max_name_bytes = 63;
inline constexpr std::uint32_t gguf_default_alignment = 32;
inline constexpr std::uint32_t gguf_max_alignment = std::uint32_t{1} << 20;

// What the value of a key is; the numbers are those of files.
enum class gguf_type : std::uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};

// Bytes of one value; 0 for strings and arrays, which say it themselves.
[[nodiscard]] constexpr std::size_t value_bytes(gguf_type type) noexcept {
    constexpr std::uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[static_cast<std::size_t>(type)];
}

// The C++ type of a value: bool, the integers of <cstdint>, float, double, std::string_view.
template <class T>
[[nodiscard]] constexpr gguf_type gguf_type_of() noexcept {
    if constexpr (std::is_same_v<T, std::uint8_t>)
        return gguf_type::u8;
    else if constexpr (std::is_same_v<T, std::int8_t>)
        return gguf_type::i8;
    else if constexpr (std::is_same_v<T, std::uint16_t>)
        return gguf_type::u16;
    else if constexpr (std::is_same_v<T, std::int16_t>)
        return gguf_type::i16;
    else if constexpr (std::is_same_v<T, std::uint32_t>)
        return gguf_type::u32;
    else if constexpr (std::is_same_v<T, std::int32_t>)
        return gguf_type::i32;
    else if constexpr (std::is_same_v<T, float>)
        return gguf_type::f32;
    else if constexpr (std::is_same_v<T, bool>)
        return gguf_type::boolean;
    else if constexpr (std::is_same_v<T, std::uint64_t>)
        return gguf_type::u64;
    else if constexpr (std::is_same_v<T, std::int64_t>)
        return gguf_type::i64;
    else if constexpr (std::is_same_v<T, double>)
        return gguf_type::f64;
    else {
        static_assert(std::is_same_v<T, std::string_view>, "GGUF has no such values");
        return gguf_type::string;
    }
}

namespace detail {
// Encoded values lie at any alignment.
template <class T>
[[nodiscard]] T gguf_number(const char* at) noexcept {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}
[[nodiscard]] inline std::string_view gguf_text(const char* at) noexcept {
    return {at + 8, static_cast<std::size_t>(gguf_number<std::uint64_t>(at))};
}
}  // namespace detail

// The strings of an array, one after the other. Borrows.
class gguf_strings {
public:
    class iterator {
    public:
        using iterator_category = std::forward_iterator_tag;
        using value_type = std::string_view;
        using difference_type = std::ptrdiff_t;
        using pointer = const value_type*;
        using reference = value_type;

        iterator() = default;
        explicit iterator(const char* at) noexcept : at_(at) {}
        [[nodiscard]] std::string_view operator*() const noexcept { return detail::gguf_text(at_); }
        iterator& operator++() noexcept {
            const std::string_view here = detail::gguf_text(at_);
            at_ = here.data() + here.size();
            return *this;
        }
        iterator operator++(int) noexcept {
            const iterator before = *this;
            ++*this;
            return before;
        }
        [[nodiscard]] bool operator==(const iterator&) const noexcept = default;

    private:
        const char* at_ = nullptr;
    };

    gguf_strings() = default;
    gguf_strings(std::string_view encoded, std::uint64_t count) noexcept : encoded_(encoded), count_(count) {}
    [[nodiscard]] iterator begin() const noexcept { return iterator(encoded_.data()); }
    [[nodiscard]] iterator end() const noexcept { return iterator(encoded_.data() + encoded_.size()); }
    [[nodiscard]] std::uint64_t size() const noexcept { return count_; }

private:
    std::string_view encoded_;
    std::uint64_t count_ = 0;
};

// One key and its value, as they stand in a file. Borrows from the metadata.
struct gguf_value {
    std::string_view key;  // UTF-8, not empty
    gguf_type type;
    gguf_type element;    // of an array; else as type
    std::uint64_t count;  // of an array's elements; else 1
    std::string_view
        encoded;  // the value, or the elements: numbers little-endian; strings a u64 length and bytes
    std::string_view pair;  // key, type and value

    // nullopt where the value is of another type: types are never cast. A string need not be UTF-8.
    template <class T>
    [[nodiscard]] std::optional<T> get() const noexcept {
        if (type != gguf_type_of<T>()) return std::nullopt;
        return read<T>(0);
    }
    // Element `index` of an array of T, which is no string; nullopt past the end and where the array is of
    // another type.
    template <class T>
    [[nodiscard]] std::optional<T> at(std::uint64_t index) const noexcept {
        static_assert(!std::is_same_v<T, std::string_view>,
                      "the strings of an array have no index: see strings()");
        if (type != gguf_type::array || element != gguf_type_of<T>() || index >= count) return std::nullopt;
        return read<T>(static_cast<std::size_t>(index) * value_bytes(element));
    }
    // None where the value is no array of strings.
    [[nodiscard]] gguf_strings strings() const noexcept {
        const bool has = type == gguf_type::array && element == gguf_type::string;
        return has ? gguf_strings(encoded, count) : gguf_strings();
    }

private:
    template <class T>
    [[nodiscard]] T read(std::size_t at) const noexcept {
        if constexpr (std::is_same_v<T, std::string_view>)
            return detail::gguf_text(encoded.data());
        else if constexpr (std::is_same_v<T, bool>)
            return encoded[at] != 0;
        else
            return detail::gguf_number<T>(encoded.data() + at);
    }
};

// Keys with their values, in the order of the file. A value type: a copy of an open file's metadata can be
// changed and given to gguf_writer, and what is not changed stays byte for byte. const calls are safe from
// many threads.
class gguf_metadata {
public:
    [[nodiscard]] std::size_t size() const noexcept { return begins_.size(); }
    [[nodiscard]] gguf_value operator[](std::size_t index) const noexcept;  // index < size()
    [[nodiscard]] std::optional<gguf_value> find(std::string_view key) const noexcept;
    // nullopt where there is no such key or its value is of another type.
    template <class T>
    [[nodiscard]] std::optional<T> get(std::string_view key) const noexcept {
        const auto found = find(key);
        return found ? found->template get<T>() : std::nullopt;
    }
    // All pairs, one behind the other.
    [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }

    // Replaces the value of a key where it stands, or puts the key behind all others. invalid_argument for a
    // key that is empty, not UTF-8 or over 65535 bytes long, one key too many, or a string of over 64 MiB.
    template <class T>
    [[nodiscard]] result<void> set(std::string_view key, T value) {
        if constexpr (std::is_convertible_v<T, std::string_view>)
            return set_string(key, value);
        else
            return put(key, gguf_type_of<T>(), {reinterpret_cast<const char*>(&value), sizeof value});
    }

private:
    friend class detail::gguf_reader;
    [[nodiscard]] result<void> set_string(std::string_view key, std::string_view value);
    [[nodiscard]] result<void> put(std::string_view key, gguf_type type, std::string_view encoded);
    [[nodiscard]] std::string_view key(std::size_t index) const noexcept {
        return detail::gguf_text(bytes_.data() + begins_[index]);
    }
    // Where the key stands in by_key_, or would.
    [[nodiscard]] std::vector<std::uint32_t>::const_iterator place(std::string_view key) const noexcept;

    std::string bytes_;
    std::vector<std::uint32_t> begins_;  // of the pairs in bytes_
    std::vector<std::uint32_t> by_key_;  // indices into begins_
};

// An open GGUF file of version 2 or 3 whose header holds every rule of the format, as llama.cpp has them.
// Move-only, immutable: const calls are safe from many threads.
class gguf_file {
public:
    // Reads and checks the header; no tensor byte is touched. bad_input names tensor or key, byte and rule;
    // unsupported what this version does not read (big-endian files, other versions, unknown tensor types,
    // arrays in arrays). Memory: at most 4 x file size + 1 MiB, whatever the bytes.
    [[nodiscard]] static result<gguf_file> open(input_file file);

    [[nodiscard]] const input_file& file() const noexcept { return file_; }
    [[nodiscard]] std::uint32_t version() const noexcept;
    [[nodiscard]] const gguf_metadata& metadata() const noexcept;
    [[nodiscard]] std::uint64_t alignment() const noexcept;   // of tensors, in bytes
    [[nodiscard]] std::uint64_t data_begin() const noexcept;  // where the first tensor begins
    [[nodiscard]] std::size_t size() const noexcept;          // number of tensors
    // In the order of the file, which is that of the offsets; index < size(). Tensors of blocks are U8 with
    // the bytes of a row as the last dimension. Shapes are as PyTorch has them: the last dimension is the
    // contiguous one.
    [[nodiscard]] tensor_info operator[](std::size_t index) const noexcept;
    [[nodiscard]] ggml_type type(std::size_t index) const noexcept;
    // In elements, also where the type has blocks.
    [[nodiscard]] std::span<const std::uint64_t> shape(std::size_t index) const noexcept;
    [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;

private:
    gguf_file(input_file file, std::shared_ptr<const detail::gguf_table> table) noexcept;

    input_file file_;
    std::shared_ptr<const detail::gguf_table> table_;
};

struct gguf_spec {
    std::string name;
    ggml_type type;
    std::vector<std::uint64_t>
        shape;  // in elements; the last dimension, a multiple of the type's block, is contiguous
};

// Writes a file of version 3: the metadata as given, tensors in the order of the list given to create(), in
// which a tensor's index is its place; each begins at a multiple of general.alignment (32 where that key is
// missing), and the bytes between them are 0.
class gguf_writer : public tensor_writer {
public:
    // Creates `path` (it must not exist) and writes the header. invalid_argument for specs that no reader
    // takes: a name twice, empty, not UTF-8 or over 63 bytes, more than 4 dimensions, rows that are not whole
    // blocks, a size that does not fit; and for a general.alignment that is not a u32 power of two of at most
    // 1 MiB.
    [[nodiscard]] static result<gguf_writer> create(const std::string& path,
                                                    const std::vector<gguf_spec>& specs,
                                                    const gguf_metadata& metadata);
    // Opens what create() of the same specs and metadata left at `path`, to write it further. bad_input where
    // the file has another header or size.
    [[nodiscard]] static result<gguf_writer> reopen(const std::string& path,
                                                    const std::vector<gguf_spec>& specs,
                                                    const gguf_metadata& metadata);
    // The exact size of the file that create() and finish() would leave. Throws exception where create()
    // would return invalid_argument.
    [[nodiscard]] static std::uint64_t file_bytes(const std::vector<gguf_spec>& specs,
                                                  const gguf_metadata& metadata);
    // In which order create() lays the tensors out, as indices into specs: their own. Throws as file_bytes
    // does.
    [[nodiscard]] static std::vector<std::size_t> file_order(const std::vector<gguf_spec>& specs);
    // What would stand in front of the tensors, padding included. Throws as file_bytes does.
    [[nodiscard]] static std::string header(const std::vector<gguf_spec>& specs,
                                            const gguf_metadata& metadata);

    using tensor_writer::file_bytes;

private:
    explicit gguf_writer(tensor_writer begun) noexcept : tensor_writer(std::move(begun)) {}
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/gguf-inl.hpp>
#endif
