// What the writers of every container share: a file whose header and places are known before its tensors are.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill {

namespace detail {
struct tensor_layout;
}

// A file of tensors that is being written. Made by create() or reopen() of a container's own writer, which
// says in what list a tensor's index counts. Move-only; write() is safe from many threads.
class tensor_writer {
public:
    [[nodiscard]] std::uint64_t file_bytes() const noexcept;  // once it is finished
    // Bytes of one tensor, and where it begins, from the start of the file.
    [[nodiscard]] std::uint64_t bytes(std::size_t index) const noexcept;
    [[nodiscard]] std::uint64_t offset(std::size_t index) const noexcept;
    // offset_in_tensor and src in bytes; invalid_argument where they pass the tensor's end.
    [[nodiscard]] result<void> write(std::size_t index, std::uint64_t offset_in_tensor,
                                     std::span<const std::byte> src);
    // Another header of the same length, in which the same tensors lie in the same places: what its metadata says may
    // only be known at the end. invalid_argument for one of another length.
    [[nodiscard]] result<void> rewrite_header(std::string_view header);
    // Counts bytes of a reopened file as written: they are there already.
    void skip(std::size_t index, std::uint64_t bytes) noexcept;
    // What was written before this call is on disk after it. Safe beside write().
    [[nodiscard]] result<void> sync();
    // fsync and close. invalid_argument, naming it, where a tensor was not written in full.
    [[nodiscard]] result<void> finish();

protected:
    using layout_ptr = std::shared_ptr<const detail::tensor_layout>;

    // The file must not exist; writes the header, and zeros wherever nothing else will be written.
    static result<tensor_writer> begin(const std::string& path, layout_ptr layout);
    // bad_input where the file has another header or size.
    static result<tensor_writer> go_on(const std::string& path, layout_ptr layout);

private:
    tensor_writer(output_file file, layout_ptr layout);

    output_file file_;
    layout_ptr layout_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> written_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/tensor_writer-inl.hpp>
#endif
