#pragma once

#include <bitmill/io/tensor_writer.hpp>

#include <utility>
#include <vector>

#include <unistd.h>

#include <bitmill/core/checked.hpp>
#include <bitmill/detail/io_error-inl.hpp>

namespace bitmill {

namespace detail {

struct tensor_layout {
    struct place {
        std::uint64_t offset;  // from the start of the file
        std::uint64_t bytes;
    };
    std::vector<std::string> names;
    std::vector<place> places;  // as names
    std::string header;         // all that stands in front of the first tensor
    std::uint64_t file_bytes = 0;
};

}  // namespace detail

BITMILL_INLINE tensor_writer::tensor_writer(output_file file, layout_ptr layout)
    : file_(std::move(file)), layout_(std::move(layout)),
      written_(std::make_unique<std::atomic<std::uint64_t>[]>(layout_->places.size())) {}

BITMILL_INLINE result<tensor_writer> tensor_writer::begin(const std::string& path, layout_ptr layout) {
    auto file = output_file::create(path);
    if (!file) return file.error();
    auto begun = file->reserve(layout->file_bytes);
    if (begun) begun = file->write_at(0, std::as_bytes(std::span(layout->header)));
    if (!begun) {
        ::unlink(path.c_str());
        return begun.error();
    }
    return tensor_writer(std::move(*file), std::move(layout));
}

BITMILL_INLINE result<tensor_writer> tensor_writer::go_on(const std::string& path, layout_ptr layout) {
    const auto there = input_file::open(path);
    if (!there) return there.error();
    std::string header(layout->header.size(), '\0');
    bool same = there->size() == layout->file_bytes;
    if (same) {
        if (auto read = there->read_at(0, std::as_writable_bytes(std::span(header))); !read)
            return read.error();
        same = header == layout->header;
    }
    if (!same) return detail::bad_file("is not the file that was begun here", path);
    auto file = output_file::reopen(path);
    if (!file) return file.error();
    return tensor_writer(std::move(*file), std::move(layout));
}

BITMILL_INLINE std::uint64_t tensor_writer::file_bytes() const noexcept { return layout_->file_bytes; }
BITMILL_INLINE std::uint64_t tensor_writer::bytes(std::size_t index) const noexcept {
    return layout_->places[index].bytes;
}
BITMILL_INLINE std::uint64_t tensor_writer::offset(std::size_t index) const noexcept {
    return layout_->places[index].offset;
}

BITMILL_INLINE result<void> tensor_writer::write(std::size_t index, std::uint64_t offset_in_tensor,
                                                 std::span<const std::byte> src) {
    if (index >= layout_->places.size())
        return detail::make_error(error_code::invalid_argument,
                                  "there is no tensor number " + std::to_string(index), file_.path());
    const auto [offset, bytes] = layout_->places[index];
    const maybe_u64 end = checked_add(offset_in_tensor, src.size());
    if (!end || *end > bytes)
        return detail::make_error(error_code::invalid_argument,
                                  "it has " + std::to_string(bytes) + " bytes; cannot write " +
                                      std::to_string(src.size()) + " from byte " +
                                      std::to_string(offset_in_tensor),
                                  file_.path(), layout_->names[index]);
    if (auto written = file_.write_at(offset + offset_in_tensor, src); !written) {
        error failed = written.error();
        failed.tensor = layout_->names[index];
        return failed;
    }
    written_[index].fetch_add(src.size(), std::memory_order_relaxed);
    return {};
}

BITMILL_INLINE result<void> tensor_writer::rewrite_header(std::string_view header) {
    if (header.size() != layout_->header.size())
        return detail::make_error(error_code::invalid_argument,
                                  "its header has " + std::to_string(layout_->header.size()) +
                                      " bytes, another cannot have " + std::to_string(header.size()),
                                  file_.path());
    return file_.write_at(0, std::as_bytes(std::span(header)));
}

BITMILL_INLINE void tensor_writer::skip(std::size_t index, std::uint64_t bytes) noexcept {
    written_[index].fetch_add(bytes, std::memory_order_relaxed);
}

BITMILL_INLINE result<void> tensor_writer::sync() { return file_.sync(); }

BITMILL_INLINE result<void> tensor_writer::finish() {
    // A tensor that nobody wrote would be a run of zeros that looks like weights.
    for (std::size_t i = 0; i < layout_->places.size(); ++i) {
        const std::uint64_t written = written_[i].load(std::memory_order_relaxed);
        if (written != layout_->places[i].bytes)
            return detail::make_error(error_code::invalid_argument,
                                      std::to_string(written) + " of its " +
                                          std::to_string(layout_->places[i].bytes) + " bytes were written",
                                      file_.path(), layout_->names[i]);
    }
    return file_.finish();
}

}  // namespace bitmill
