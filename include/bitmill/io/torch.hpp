// Files of torch.save (torch 1.6 and later): a zip file with a pickle that says which tensor lies where in it.
// https://github.com/pytorch/pytorch/blob/main/docs/source/notes/serialization.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/safetensors.hpp>

namespace bitmill {

namespace detail {
class torch_table;
}

// An open file of torch.save that holds a state dict: names to tensors, at the top or below "state_dict", "model" or
// "module"; numbers, texts and None beside the tensors are passed over. The pickle is interpreted, never run: only the
// names that a state dict needs are known (OrderedDict, the rebuilding of a dense tensor, storages, dtypes), anything
// else is refused. Tensors that share their bytes (tied weights) stand there with the same offset. Move-only,
// immutable: const calls are safe from many threads.
class torch_file {
public:
    // No tensor byte is touched. bad_input names byte and rule, unsupported what this version does not read (the
    // format before torch 1.6, sparse or quantized tensors, big-endian files). Memory: at most 4 x file size + 1 MiB.
    [[nodiscard]] static result<torch_file> open(input_file file);

    [[nodiscard]] const input_file& file() const noexcept { return file_; }
    [[nodiscard]] std::size_t size() const noexcept;  // number of tensors
    // By offset, then by name; index < size(). strides are set where the elements do not lie in row-major order.
    [[nodiscard]] tensor_info operator[](std::size_t index) const noexcept;
    [[nodiscard]] std::optional<std::size_t> find(std::string_view name) const noexcept;
    // Where the pickle lies in the file.
    [[nodiscard]] std::uint64_t pickle_offset() const noexcept;
    [[nodiscard]] std::uint64_t pickle_bytes() const noexcept;

private:
    torch_file(input_file file, std::shared_ptr<const detail::torch_table> table) noexcept;

    input_file file_;
    std::shared_ptr<const detail::torch_table> table_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/torch-inl.hpp>
#endif
