#pragma once

#include <bitmill/io/weight_file.hpp>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill {
namespace detail {

// Reads elements [first, first + count) of a tensor whose elements lie elsewhere than in row-major order. The file
// is read in runs along the dimension whose neighbours lie together (of a transposed matrix: down its columns).
class strided_reader {
public:
    strided_reader(const input_file& file, const tensor_info& tensor, std::byte* dst)
        : file_(file), tensor_(tensor), width_(element_bytes(tensor.type)), dst_(dst) {}

    result<void> read(std::uint64_t first, std::uint64_t count) {
        first_ = first;
        end_ = first + count;
        return slab(0, 0, tensor_.offset);
    }

private:
    // Dimensions from `rank` on, whose first element is number `element` and lies at `offset`.
    result<void> slab(std::size_t rank, std::uint64_t element, std::uint64_t offset) {
        const std::size_t left = tensor_.shape.size() - rank;
        if (left <= 2) return matrix(rank, element, offset);
        std::uint64_t below = 1;
        for (std::size_t i = rank + 1; i < tensor_.shape.size(); ++i) below *= tensor_.shape[i];
        for (std::uint64_t i = 0; i < tensor_.shape[rank]; ++i) {
            const std::uint64_t begin = element + i * below;
            if (begin + below <= first_ || begin >= end_) continue;
            if (auto done = slab(rank + 1, begin, offset + i * tensor_.strides[rank] * width_); !done)
                return done;
        }
        return {};
    }

    // The last two dimensions; one that is missing has one element.
    result<void> matrix(std::size_t rank, std::uint64_t element, std::uint64_t offset) {
        const std::size_t left = tensor_.shape.size() - rank;
        const std::uint64_t rows = left < 2 ? 1 : tensor_.shape[rank];
        const std::uint64_t cols = left < 1 ? 1 : tensor_.shape.back();
        const std::uint64_t row_step = left < 2 ? 0 : tensor_.strides[rank];
        const std::uint64_t col_step = left < 1 ? 0 : tensor_.strides.back();
        if (col_step <= row_step) {
            for (std::uint64_t row = first_ > element ? (first_ - element) / cols : 0; row < rows; ++row) {
                const std::uint64_t begin = element + row * cols;
                if (begin >= end_) break;
                const std::uint64_t from = std::max(begin, first_) - begin;
                const std::uint64_t to = std::min(begin + cols, end_) - begin;
                if (auto done = run(offset + (row * row_step + from * col_step) * width_, col_step,
                                    begin + from, 1, to - from);
                    !done)
                    return done;
            }
            return {};
        }
        for (std::uint64_t col = 0; col < cols; ++col) {
            // Rows whose element of this column is wanted.
            const std::uint64_t at = element + col;
            const std::uint64_t from = first_ > at ? ceil_div(first_ - at, cols) : 0;
            const std::uint64_t to = end_ > at ? std::min(rows, ceil_div(end_ - at, cols)) : 0;
            if (from >= to) continue;
            if (auto done = run(offset + (from * row_step + col * col_step) * width_, row_step,
                                at + from * cols, cols, to - from);
                !done)
                return done;
        }
        return {};
    }

    // `count` elements, `step` apart in the file and `spread` apart in what is read.
    result<void> run(std::uint64_t offset, std::uint64_t step, std::uint64_t element, std::uint64_t spread,
                     std::uint64_t count) {
        std::byte* to = dst_ + (element - first_) * width_;
        if (step == 1 && spread == 1)
            return file_.read_at(offset, {to, static_cast<std::size_t>(count * width_)});
        // As many elements at once as lie in one read; far apart, each is read alone.
        const std::uint64_t distance = count == 1 ? width_ : step * width_;  // a lone element has any stride
        const std::uint64_t at_once =
            distance == 0 ? count : std::max<std::uint64_t>(1, sizeof buffer_ / std::max(distance, width_));
        for (std::uint64_t i = 0; i < count; i += at_once) {
            const std::uint64_t now = std::min(at_once, count - i);
            const std::uint64_t bytes = (now - 1) * distance + width_;
            if (auto done = file_.read_at(offset + i * distance, {buffer_, static_cast<std::size_t>(bytes)});
                !done)
                return done;
            for (std::uint64_t k = 0; k < now; ++k)
                std::memcpy(to + (i + k) * spread * width_, buffer_ + k * distance, width_);
        }
        return {};
    }

    const input_file& file_;
    const tensor_info& tensor_;
    std::uint64_t width_;
    std::byte* dst_;
    std::uint64_t first_ = 0;
    std::uint64_t end_ = 0;
    std::byte buffer_[16384];
};

inline bool is_torch_name(std::string_view name) noexcept {
    return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
}

}  // namespace detail

BITMILL_INLINE bool is_weight_file_name(std::string_view name) noexcept {
    return name.ends_with(".safetensors") || name.ends_with(".gguf") || detail::is_torch_name(name);
}

BITMILL_INLINE result<weight_file> weight_file::open(input_file file) {
    const std::string path = file.path();
    if (path.ends_with(".safetensors")) {
        auto opened = safetensors_file::open(std::move(file));
        if (!opened) return opened.error();
        return weight_file(std::move(*opened));
    }
    if (path.ends_with(".gguf")) {
        auto opened = gguf_file::open(std::move(file));
        if (!opened) return opened.error();
        return weight_file(std::move(*opened));
    }
    if (!detail::is_torch_name(path))
        return detail::make_error(
            error_code::unsupported,
            "is neither a .safetensors or .gguf nor a .bin, .pt or .pth file, which is all "
            "that this version reads",
            path);
    auto opened = torch_file::open(std::move(file));
    if (!opened) return opened.error();
    return weight_file(std::move(*opened));
}

BITMILL_INLINE const input_file& weight_file::file() const noexcept {
    return std::visit([](const auto& one) -> const input_file& { return one.file(); }, content_);
}

BITMILL_INLINE std::size_t weight_file::size() const noexcept {
    return std::visit([](const auto& one) { return one.size(); }, content_);
}

BITMILL_INLINE tensor_info weight_file::operator[](std::size_t index) const noexcept {
    return std::visit([&](const auto& one) { return one[index]; }, content_);
}

BITMILL_INLINE std::optional<std::size_t> weight_file::find(std::string_view name) const noexcept {
    return std::visit([&](const auto& one) { return one.find(name); }, content_);
}

BITMILL_INLINE std::optional<std::string_view> weight_file::metadata(std::string_view key) const noexcept {
    if (const auto* file = std::get_if<safetensors_file>(&content_))
        for (const auto& [name, value] : file->metadata())
            if (name == key) return value;
    return std::nullopt;
}

BITMILL_INLINE weight_file::range weight_file::header() const noexcept {
    if (const auto* torch = std::get_if<torch_file>(&content_))
        return {torch->pickle_offset(), torch->pickle_bytes()};
    if (const auto* gguf = this->gguf()) return {0, std::min(gguf->data_begin(), gguf->file().size())};
    return {0, std::get<safetensors_file>(content_).data_begin()};
}

BITMILL_INLINE result<void> weight_file::read(const tensor_info& tensor, std::uint64_t offset,
                                              std::span<std::byte> dst) const {
    if (dst.empty()) return {};
    if (tensor.strides.empty()) return file().read_at(tensor.offset + offset, dst);
    // Whoever cuts a tensor into bytes may begin and end within an element.
    const std::uint64_t width = element_bytes(tensor.type);
    if (offset % width == 0 && dst.size() % width == 0)
        return detail::strided_reader(file(), tensor, dst.data()).read(offset / width, dst.size() / width);
    const std::uint64_t first = offset / width;
    const std::uint64_t end = ceil_div(offset + dst.size(), width);
    std::vector<std::byte> whole(static_cast<std::size_t>((end - first) * width));
    auto done = detail::strided_reader(file(), tensor, whole.data()).read(first, end - first);
    if (done) std::memcpy(dst.data(), whole.data() + (offset - first * width), dst.size());
    return done;
}

}  // namespace bitmill
