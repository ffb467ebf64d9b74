// Codes as other quantizers lay them out, decoded row by row: (code - zero point) * scale in f32, rounded once.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// Where the nibbles of a word of AWQ's go: nibble j holds column awq_order[j] of eight.
inline constexpr std::array<unsigned, 8> awq_order{0, 2, 4, 6, 1, 3, 5, 7};

// e4m3fn: no infinities, 0x7f and 0xff are NaN.
inline float f32_from_e4m3(std::uint8_t byte) {
    const std::uint32_t sign = static_cast<std::uint32_t>(byte & 0x80u) << 24;
    const std::uint32_t exponent = (byte >> 3) & 15u;
    const std::uint32_t mantissa = byte & 7u;
    if ((byte & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
    if (exponent == 0) return (sign != 0 ? -1.0f : 1.0f) * static_cast<float>(mantissa) * 0x1p-9f;
    return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

// Rows [first, first + count) of one tensor. Sizes were checked when the folder was read; the order of the groups is
// checked again, since a file can change.
class foreign_rows {
public:
    foreign_rows(const checkpoint& model, const stored_tensor& t, std::uint64_t first, std::uint64_t count)
        : model_(model), t_(t), f_(*t.foreign), first_(first), count_(count), cols_(t.shape[1]),
          groups_(f_.groups(cols_)), pack_(32 / f_.bits) {}

    // Bytes of what decode() of `count` rows needs besides `dst`, wherever they begin.
    [[nodiscard]] static std::uint64_t room(const stored_tensor& t, std::uint64_t count, dtype type) {
        const std::uint64_t cols = t.shape[1], groups = t.foreign->groups(cols);
        return aligned(raw_bytes(t, count)) + aligned(cols * 4) + 2 * aligned(count * groups * 4) +
               (type == dtype::f32 ? 0 : count * cols * 4);
    }

    result<void> decode(dtype type, std::byte* room, std::byte* dst) {
        raw_ = room;
        auto* order = reinterpret_cast<std::int32_t*>(raw_ + aligned(raw_bytes(t_, count_)));
        auto* scales = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(order) + aligned(cols_ * 4));
        auto* zeros = scales + aligned(count_ * groups_ * 4) / 4;
        auto* values =
            type == dtype::f32 ? reinterpret_cast<float*>(dst) : zeros + aligned(count_ * groups_ * 4) / 4;
        if (auto done = read_codes(values); !done) return done;
        if (auto done = read_scales(scales); !done) return done;
        if (auto done = read_zeros(zeros); !done) return done;
        if (auto done = read_order(order); !done) return done;
        for (std::uint64_t r = 0; r < count_; ++r) {
            float* row = values + r * cols_;
            const float* scale = scales + r * groups_;
            const float* zero = zeros + r * groups_;
            for (std::uint64_t c = 0; c < cols_; ++c) {
                const auto g = static_cast<std::size_t>(order[c]);
                row[c] = (row[c] - zero[g]) * scale[g] * f_.factor;
            }
        }
        if (type != dtype::f32) cast({dtype::f32, values, 1, count_ * cols_}, type, dst);
        return {};
    }

private:
    using code_order = foreign_codes::order;
    using zero_points = foreign_codes::zero_points;

    static std::uint64_t aligned(std::uint64_t bytes) { return ceil_div(bytes, 16) * 16; }

    // Words that hold codes of rows [first_, first_ + count_) along a packed `out`.
    [[nodiscard]] std::uint64_t words_along_out() const {
        return ceil_div(first_ + count_, pack_) - first_ / pack_;
    }
    // Of the codes, of the scales or of the zero points, whichever are longest.
    [[nodiscard]] static std::uint64_t raw_bytes(const stored_tensor& t, std::uint64_t count) {
        const std::uint64_t cols = t.shape[1], pack = 32 / t.foreign->bits;
        const std::uint64_t groups = t.foreign->groups(cols);
        const std::uint64_t along_out = count / pack + 2;  // words, wherever the rows begin
        std::uint64_t codes = count * ceil_div(cols, pack) * 4;
        if (t.foreign->codes == code_order::bytes) codes = count * cols;
        if (t.foreign->codes == code_order::awq) codes = cols * along_out * 4;
        return std::max({codes, count * groups * 4, along_out * groups * 4});
    }

    // `rows` runs of `bytes` bytes, `stride` bytes apart.
    result<void> fetch(checkpoint::location at, std::uint64_t offset, std::uint64_t stride,
                       std::uint64_t rows, std::uint64_t bytes) {
        const auto& file = model_.shard(at.shard);
        const tensor_info info = file[at.tensor];
        if (stride == bytes) {
            bytes *= rows;
            rows = 1;
        }
        for (std::uint64_t r = 0; r < rows; ++r) {
            auto done =
                file.read(info, offset + r * stride, {raw_ + r * bytes, static_cast<std::size_t>(bytes)});
            if (done) continue;
            error what = done.error();
            what.tensor = std::string(info.name);
            return what;
        }
        return {};
    }
    [[nodiscard]] std::uint32_t word(std::uint64_t index) const {
        std::uint32_t value;
        std::memcpy(&value, raw_ + index * 4, 4);
        return value;
    }
    [[nodiscard]] std::uint32_t field(std::uint32_t word, std::uint64_t index) const {
        return (word >> (index * f_.bits)) & ((1u << f_.bits) - 1);
    }

    result<void> read_codes(float* values) {
        const std::uint64_t out = t_.shape[0];
        switch (f_.codes) {
            case code_order::bytes:
                if (auto done = fetch(t_.codes, first_ * cols_, 1, 1, count_ * cols_); !done) return done;
                for (std::uint64_t i = 0; i < count_ * cols_; ++i) {
                    const auto byte = static_cast<std::uint8_t>(raw_[i]);
                    values[i] =
                        f_.e4m3 ? f32_from_e4m3(byte) : static_cast<float>(static_cast<std::int8_t>(byte));
                }
                return {};
            case code_order::packed_rows: {
                const std::uint64_t words = ceil_div(cols_, pack_);
                if (auto done = fetch(t_.codes, first_ * words * 4, words * 4, count_, words * 4); !done)
                    return done;
                for (std::uint64_t r = 0; r < count_; ++r)
                    for (std::uint64_t c = 0; c < cols_; ++c)
                        values[r * cols_ + c] =
                            static_cast<float>(field(word(r * words + c / pack_), c % pack_));
                return {};
            }
            case code_order::gptq: {
                const std::uint64_t words = cols_ / pack_;
                if (auto done = fetch(t_.codes, first_ * 4, out * 4, words, count_ * 4); !done) return done;
                for (std::uint64_t w = 0; w < words; ++w)
                    for (std::uint64_t r = 0; r < count_; ++r)
                        for (std::uint64_t k = 0; k < pack_; ++k)
                            values[r * cols_ + w * pack_ + k] =
                                static_cast<float>(field(word(w * count_ + r), k));
                return {};
            }
            case code_order::awq: break;
        }
        const std::uint64_t words = words_along_out();
        if (auto done = fetch(t_.codes, first_ / 8 * 4, out / 8 * 4, cols_, words * 4); !done) return done;
        for (std::uint64_t r = 0; r < count_; ++r)
            for (std::uint64_t c = 0; c < cols_; ++c)
                values[r * cols_ + c] = static_cast<float>(
                    field(word(c * words + (first_ + r) / 8 - first_ / 8), awq_nibble((first_ + r) % 8)));
        return {};
    }
    [[nodiscard]] static std::uint64_t awq_nibble(std::uint64_t column) {
        return column % 2 * 4 + column / 2;  // the inverse of awq_order
    }

    // scales[row][group] and zeros[row][group], whatever their order in the file.
    result<void> read_scales(float* scales) {
        const dtype type = model_.shard(t_.scales.shard)[t_.scales.tensor].type;
        const std::uint64_t width = element_bytes(type);
        if (f_.by_group) {
            if (auto done = fetch(t_.scales, first_ * width, t_.shape[0] * width, groups_, count_ * width);
                !done)
                return done;
        } else {
            const std::uint64_t first = first_ / f_.row_block;
            const std::uint64_t end = ceil_div(first_ + count_, f_.row_block);
            if (auto done = fetch(t_.scales, first * groups_ * width, 1, 1, (end - first) * groups_ * width);
                !done)
                return done;
        }
        for (std::uint64_t r = 0; r < count_; ++r)
            for (std::uint64_t g = 0; g < groups_; ++g)
                scales[r * groups_ + g] = scale_at(type, raw_index(r, g));
        return {};
    }
    [[nodiscard]] std::uint64_t raw_index(std::uint64_t r, std::uint64_t g) const {
        if (f_.by_group) return g * count_ + r;
        return ((first_ + r) / f_.row_block - first_ / f_.row_block) * groups_ + g;
    }
    [[nodiscard]] float scale_at(dtype type, std::uint64_t index) const {
        if (type == dtype::f32) return std::bit_cast<float>(word(index));
        std::uint16_t half;
        std::memcpy(&half, raw_ + index * 2, 2);
        return type == dtype::f16 ? f32_from_f16(half) : f32_from_bf16(half);
    }

    result<void> read_zeros(float* zeros) {
        const auto fixed = static_cast<float>(f_.codes == code_order::bytes ? 0 : 1 << (f_.bits - 1));
        std::fill_n(zeros, count_ * groups_, fixed);
        const std::uint64_t out_words = words_along_out(), first_word = first_ / pack_;
        switch (f_.zeros) {
            case zero_points::none: return {};
            case zero_points::bytes: {
                const std::uint64_t first = first_ / f_.row_block;
                const std::uint64_t end = ceil_div(first_ + count_, f_.row_block);
                if (auto done = fetch(t_.zero_points, first * groups_, 1, 1, (end - first) * groups_); !done)
                    return done;
                break;
            }
            case zero_points::packed_out:
                if (auto done =
                        fetch(t_.zero_points, first_word * groups_ * 4, 1, 1, out_words * groups_ * 4);
                    !done)
                    return done;
                break;
            case zero_points::gptq_v1:
            case zero_points::gptq_v2:
            case zero_points::awq:
                if (auto done = fetch(t_.zero_points, first_word * 4, t_.shape[0] / pack_ * 4, groups_,
                                      out_words * 4);
                    !done)
                    return done;
                break;
        }
        for (std::uint64_t r = 0; r < count_; ++r)
            for (std::uint64_t g = 0; g < groups_; ++g) zeros[r * groups_ + g] = zero_at(r, g, out_words);
        return {};
    }
    [[nodiscard]] float zero_at(std::uint64_t r, std::uint64_t g, std::uint64_t out_words) const {
        if (f_.zeros == zero_points::bytes)
            return static_cast<float>(static_cast<std::int8_t>(raw_[raw_index(r, g)]));
        const std::uint64_t at = (first_ + r) / pack_ - first_ / pack_, k = (first_ + r) % pack_;
        if (f_.zeros == zero_points::packed_out) return static_cast<float>(field(word(at * groups_ + g), k));
        const std::uint32_t stored = word(g * out_words + at);
        if (f_.zeros == zero_points::awq) return static_cast<float>(field(stored, awq_nibble(k)));
        if (f_.zeros == zero_points::gptq_v2) return static_cast<float>(field(stored, k));
        // Readers of v1 add 1 to every field in one addition of words, which may carry.
        const std::uint32_t ones = f_.bits == 8 ? 0x01010101u : f_.bits == 4 ? 0x11111111u : 0x55555555u;
        const auto sum = static_cast<std::uint32_t>((std::uint64_t{stored} + ones) & 0xffffffffu);
        return static_cast<float>(field(sum, k));
    }

    // The group of each column.
    result<void> read_order(std::int32_t* order) {
        if (!f_.g_idx) {
            for (std::uint64_t c = 0; c < cols_; ++c) order[c] = static_cast<std::int32_t>(c / f_.col_block);
            return {};
        }
        const auto& file = model_.shard(f_.g_idx->shard);
        const tensor_info info = file[f_.g_idx->tensor];
        auto done =
            file.read(info, 0, {reinterpret_cast<std::byte*>(order), static_cast<std::size_t>(cols_ * 4)});
        if (!done) return done;
        const auto wrong = std::find_if(order, order + cols_, [&](std::int32_t g) {
            return g < 0 || static_cast<std::uint64_t>(g) >= groups_;
        });
        if (wrong == order + cols_) return {};
        return error{.code = error_code::bad_input,
                     .message = "names group " + std::to_string(*wrong) + " of " + std::to_string(groups_),
                     .file = file.file().path(),
                     .tensor = std::string(info.name),
                     .offset = info.offset + static_cast<std::uint64_t>(wrong - order) * 4};
    }

    const checkpoint& model_;
    const stored_tensor& t_;
    const foreign_codes& f_;
    std::uint64_t first_, count_, cols_, groups_, pack_;
    std::byte* raw_ = nullptr;
};

}  // namespace bitmill::detail
