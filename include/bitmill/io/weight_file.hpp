// A file of named tensors, whatever its container.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <variant>

#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/gguf.hpp>
#include <bitmill/io/safetensors.hpp>
#include <bitmill/io/torch.hpp>

namespace bitmill {

// An open file of weights. Move-only, immutable: const calls are safe from many threads.
class weight_file {
public:
    // By the name's ending: .safetensors, .gguf, or .bin, .pt, .pth (torch.save). Errors: those of the container's own open;
    // unsupported for another ending.
    [[nodiscard]] static result<weight_file> open(input_file file);

    [[nodiscard]] const input_file& file() const noexcept;
    [[nodiscard]] std::size_t size() const noexcept;  // number of tensors
    // By offset; index < size().
    [[nodiscard]] tensor_info operator[](std::size_t index) const noexcept;
    [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;
    // The metadata, types and shapes that only GGUF has; nullptr where this is another container.
    [[nodiscard]] const gguf_file* gguf() const noexcept { return std::get_if<gguf_file>(&content_); }
    // The value of an entry of safetensors' __metadata__; nullopt where there is none.
    [[nodiscard]] std::optional<std::string_view> metadata(std::string_view key) const noexcept;
    // Bytes [offset, offset + dst.size()) of a tensor in row-major order. bad_input where the file became shorter.
    [[nodiscard]] result<void> read(const tensor_info& tensor, std::uint64_t offset,
                                    std::span<std::byte> dst) const;

    // Where it is said what lies where.
    struct range {
        std::uint64_t offset;
        std::uint64_t bytes;
    };
    [[nodiscard]] range header() const noexcept;
    // Is the file its header and then its tensors, without anything between but what fills up to GGUF's alignment?
    [[nodiscard]] bool dense() const noexcept { return !std::holds_alternative<torch_file>(content_); }

private:
    template <class Container>
    explicit weight_file(Container content) : content_(std::move(content)) {}

    std::variant<safetensors_file, torch_file, gguf_file> content_;
};

// Is this the name of a file that weight_file opens?
[[nodiscard]] bool is_weight_file_name(std::string_view name) noexcept;

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/weight_file-inl.hpp>
#endif
