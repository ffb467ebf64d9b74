// The values of coded tensors: any run of their elements, decoded.
#pragma once

#include <algorithm>
#include <cstring>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/detail/foreign_values-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// const calls are safe from many threads, each with a scratch of its own.
class stored_values {
public:
    stored_values(const checkpoint& model, const stored_model& stored, memory_source memory)
        : model_(model), stored_(stored), memory_(memory) {}

    // Elements that are decoded together: runs of whole granules cost nothing else.
    [[nodiscard]] static std::uint64_t granule(const stored_tensor& t) {
        if (t.foreign) return t.shape[1];
        const scheme& s = *t.scheme;
        const std::uint64_t elements =
            facts(s.type).integer ? t.shape[1] : s.group_size * (s.double_quant ? nested_block : 1);
        return std::max<std::uint64_t>(elements, 1);
    }

    // Decoded bytes of a tile. Of a row of words along `out` a tile wants a short run, and each costs a pread: with
    // four times the rows those of four AWQ matrices of 4096 x 4096 took 0.4 s instead of 1.6.
    [[nodiscard]] static std::uint64_t tile_bytes_of(const stored_tensor& t) {
        return t.foreign && t.foreign->by_group ? 4 * tile_bytes : tile_bytes;
    }

    // The most that read() takes for a run of `count` elements, besides its destination.
    [[nodiscard]] static std::uint64_t scratch_bytes(const stored_tensor& t, std::uint64_t count,
                                                     dtype type) {
        const std::uint64_t g = granule(t);
        const std::uint64_t covering = std::min((ceil_div(count, g) + 1) * g, t.elements);
        return room_for(t, 0, covering, type) + covering * element_bytes(type) + 12 * g;
    }

    // Elements [first, first + count) in row-major order; `dst` is aligned to `type`. Errors: those of reading.
    result<void> read(const stored_tensor& t, std::uint64_t first, std::uint64_t count, dtype type,
                      std::byte* dst, element_buffer& scratch) const {
        const std::uint64_t g = granule(t);
        const std::uint64_t begin = first / g * g;
        const std::uint64_t end = std::min(ceil_div(first + count, g) * g, t.elements);
        const std::uint64_t width = element_bytes(type);
        const bool whole = begin == first && end == first + count;
        const std::uint64_t coded = room_for(t, begin, end - begin, type);
        std::byte* room = grow(scratch, coded + (whole ? 0 : (end - begin) * width));
        std::byte* to = whole ? dst : room + coded;
        auto done = t.foreign ? foreign_rows(model_, t, begin / g, (end - begin) / g).decode(type, room, to)
                              : decode_granules(t, parts(t, begin, end - begin), end - begin, type, room, to);
        if (!done) return done;
        if (!whole) std::memcpy(dst, to + (first - begin) * width, static_cast<std::size_t>(count * width));
        return {};
    }

private:
    // Where a run of granules lies in the stored tensors.
    struct parts_of_run {
        encoded_sizes before;
        encoded_sizes sizes;
        // Each begins at a multiple of 16: scales are read as floats.
        static std::uint64_t aligned(std::uint64_t bytes) { return ceil_div(bytes, 16) * 16; }
        [[nodiscard]] std::uint64_t third() const {
            return sizes.nested_scales + sizes.zero_points + sizes.residual;  // no scheme has two of them
        }
        [[nodiscard]] std::uint64_t room() const {
            return aligned(sizes.codes) + aligned(sizes.scales) + aligned(third());
        }
    };

    [[nodiscard]] static std::uint64_t room_for(const stored_tensor& t, std::uint64_t first,
                                                std::uint64_t count, dtype type) {
        return t.foreign ? foreign_rows::room(t, count / t.shape[1], type) : parts(t, first, count).room();
    }

    [[nodiscard]] static parts_of_run parts(const stored_tensor& t, std::uint64_t first,
                                            std::uint64_t count) {
        const scheme& s = *t.scheme;
        const bool rows = facts(s.type).integer;
        const auto sizes_of = [&](std::uint64_t elements) {
            return rows ? encode_bound(s, t.shape[1] == 0 ? 0 : elements / t.shape[1], t.shape[1]).value()
                        : encode_bound(s, 1, elements).value();
        };
        parts_of_run out{sizes_of(first), sizes_of(count)};
        if (s.granularity == granularity::per_tensor) out.before.scales = out.before.zero_points = 0;
        return out;
    }

    result<void> decode_granules(const stored_tensor& t, const parts_of_run& part, std::uint64_t count,
                                 dtype type, std::byte* room, std::byte* dst) const {
        const scheme& s = *t.scheme;
        const auto& [before, sizes] = part;
        std::byte* scales = room + part.aligned(sizes.codes);
        std::byte* third = scales + part.aligned(sizes.scales);
        const encoded_view coded{room, scales, third, third, t.nested_offset, third};
        if (auto done = fetch(t.codes, before.codes, coded.codes, sizes.codes); !done) return done;
        if (auto done = fetch(t.scales, before.scales, scales, sizes.scales); !done) return done;
        if (s.double_quant)
            if (auto done = fetch(t.nested_scales, before.nested_scales, third, sizes.nested_scales); !done)
                return done;
        if (!s.symmetric)
            if (auto done = fetch(t.zero_points, before.zero_points, third, sizes.zero_points); !done)
                return done;
        if (s.planes)
            if (auto done = fetch(stored_.residual_of(t), t.residual, before.residual, third, sizes.residual);
                !done)
                return done;
        const bool rows = facts(s.type).integer;
        const std::size_t cols = static_cast<std::size_t>(rows ? t.shape[1] : count);
        return decode(s, coded, matrix_view{type, dst, cols == 0 ? 0 : count / cols, cols}, memory_);
    }

    result<void> fetch(checkpoint::location at, std::uint64_t offset, std::byte* to,
                       std::uint64_t count) const {
        return fetch(model_.shard(at.shard), at, offset, to, count);
    }
    static result<void> fetch(const weight_file& file, checkpoint::location at, std::uint64_t offset,
                              std::byte* to, std::uint64_t count) {
        auto done = file.read(file[at.tensor], offset, {to, static_cast<std::size_t>(count)});
        if (done) return {};
        error what = done.error();
        what.tensor = std::string(file[at.tensor].name);
        return what;
    }

    const checkpoint& model_;
    const stored_model& stored_;
    memory_source memory_;
};

}  // namespace bitmill::detail
