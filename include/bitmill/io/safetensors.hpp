// The safetensors container: u64 header length, JSON header, tensor bytes without a gap.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/dtype.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/ggml_type.hpp>
#include <bitmill/detail/safetensors_limits-inl.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/tensor_writer.hpp>

namespace bitmill {

namespace detail {
class safetensors_table;
}  // namespace detail

// One tensor of an open file. Borrows from the file object.
struct tensor_info {
    std::string_view name;  // UTF-8; may hold anything, also control characters
    dtype type;
    std::span<const std::uint64_t> shape;  // empty for a scalar
    std::uint64_t offset;                  // of the first byte, from the start of the file; any alignment
    std::uint64_t bytes;                   // offset + bytes <= file size
    std::uint64_t elements;                // product of the shape
    // In elements, one a dimension; empty where the elements lie in row-major order without gaps, as they always do
    // in safetensors. Then `offset` is that of the first element, and the others are reached by these steps.
    std::span<const std::uint64_t> strides{};
    // Set where `type` is U8 because the bytes are blocks of this type, as only GGUF has them; then `shape` counts
    // bytes along its last dimension.
    std::optional<ggml_type> block{};
};

// An open safetensors file whose header holds every rule of the format. Move-only, immutable: const calls
// are safe from many threads.
class safetensors_file {
public:
    // Reads and checks the header; no tensor byte is touched. bad_input names tensor, byte and rule.
    // Memory: at most 4 x file size + 1 MiB, whatever the bytes.
    [[nodiscard]] static result<safetensors_file> open(input_file file);

    [[nodiscard]] const input_file& file() const noexcept { return file_; }
    [[nodiscard]] std::uint64_t data_begin() const noexcept;  // 8 + header length, in bytes
    [[nodiscard]] std::size_t size() const noexcept;          // number of tensors
    // In the order of their offsets; index < size().
    [[nodiscard]] tensor_info operator[](std::size_t index) const noexcept;
    [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;
    [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& metadata() const noexcept;

private:
    safetensors_file(input_file file, std::shared_ptr<const detail::safetensors_table> table) noexcept;

    input_file file_;
    std::shared_ptr<const detail::safetensors_table> table_;
};

struct tensor_spec {
    std::string name;
    dtype type;
    std::vector<std::uint64_t> shape;
    std::optional<ggml_type> block{};  // GGUF only: where it lies in blocks; then the shape counts elements
};

using safetensors_metadata = std::vector<std::pair<std::string, std::string>>;

// Writes one file whose header equals, byte for byte, what the reference writer makes of the same tensors:
// sorted by dtype (descending, in the order of core/dtype.hpp), then by name; compact JSON; __metadata__
// first; padded with spaces to a multiple of 8. A tensor's index is its place in the list given to create().
class safetensors_writer : public tensor_writer {
public:
    // Creates `path` (it must not exist) and writes the header. invalid_argument for specs that no reader
    // takes: a name twice, not UTF-8 or too long, too many dimensions, a size that does not fit.
    [[nodiscard]] static result<safetensors_writer> create(const std::string& path,
                                                           std::vector<tensor_spec> specs,
                                                           const safetensors_metadata& metadata = {
                                                               {"format", "pt"}});
    // Opens what create() of the same specs left at `path`, to write it further. bad_input where the file has
    // another header or size.
    [[nodiscard]] static result<safetensors_writer> reopen(const std::string& path,
                                                           std::vector<tensor_spec> specs,
                                                           const safetensors_metadata& metadata = {
                                                               {"format", "pt"}});
    // The exact size of the file that create() and finish() would leave. Throws exception where create()
    // would return invalid_argument.
    [[nodiscard]] static std::uint64_t file_bytes(const std::vector<tensor_spec>& specs,
                                                  const safetensors_metadata& metadata = {{"format", "pt"}});

    // In which order create() lays the tensors out: indices into specs. Throws as file_bytes does.
    [[nodiscard]] static std::vector<std::size_t> file_order(const std::vector<tensor_spec>& specs);
    // What would stand in front of the tensors: length, header and padding. Throws as file_bytes does.
    [[nodiscard]] static std::string header(const std::vector<tensor_spec>& specs,
                                            const safetensors_metadata& metadata = {{"format", "pt"}});

    using tensor_writer::file_bytes;

private:
    explicit safetensors_writer(tensor_writer begun) noexcept : tensor_writer(std::move(begun)) {}
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/safetensors-inl.hpp>
#endif
