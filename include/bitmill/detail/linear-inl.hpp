#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/core/fp_environment.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/nn/linear.hpp>

namespace bitmill {
namespace detail {

// The codes of one row of a weight, one a byte, as panels hold them: q + 128, q + 8, q + 2, or an index.
class row_of_codes {
public:
    row_of_codes(const scheme& s, std::size_t cols)
        : scheme_(s), cols_(cols), bits_(facts(s.type).code_book ? 4
                                         : s.planes              ? 4
                                                                 : facts(s.type).bits),
          row_bytes_(ceil_div(ceil_div(cols * bits_, 8), s.row_alignment) * s.row_alignment),
          codes_(kernels::padded_depth(cols)) {}

    [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_; }
    [[nodiscard]] const std::uint8_t* bytes(const std::byte* src, std::size_t row) const noexcept {
        return reinterpret_cast<const std::uint8_t*>(src) + row * row_bytes_;
    }

    // `row` of `src`, laid out as codes or as the residual.
    const std::uint8_t* read(const std::byte* src, std::size_t row) {
        const std::uint8_t* from = bytes(src, row);
        const unsigned per_byte = 8 / bits_;
        if (bits_ == 8) {
            const std::uint8_t flip = scheme_.offset_binary ? 0 : 0x80;
            for (std::size_t k = 0; k < cols_; ++k) codes_[k] = from[k] ^ flip;
            return codes_.data();
        }
        const bool high_first = facts(scheme_.type).code_book;
        const auto mask = static_cast<std::uint8_t>((1u << bits_) - 1);
        for (std::size_t k = 0; k < cols_; ++k) {
            const std::size_t place = high_first ? per_byte - 1 - k % per_byte : k % per_byte;
            codes_[k] = static_cast<std::uint8_t>(from[k / per_byte] >> (place * bits_)) & mask;
        }
        return codes_.data();
    }

private:
    const scheme& scheme_;
    std::size_t cols_;
    unsigned bits_;
    std::size_t row_bytes_;
    std::vector<std::uint8_t> codes_;  // behind cols they are 0
};

inline std::uint32_t four_codes(const std::uint8_t* codes) {
    std::uint32_t out;
    std::memcpy(&out, codes, 4);
    return out;
}

// Column `column` of a panel: `each` steps of four codes share 64 bytes, in `bits` bits each.
inline void put_column(const std::uint8_t* codes, std::size_t padded, std::size_t each, unsigned bits,
                       std::size_t column, std::uint8_t* panel, std::size_t panel_bytes) {
    for (std::size_t k = 0, at = 4 * column; at < panel_bytes && k < padded; k += 4 * each, at += 64) {
        std::uint32_t joined = 0;
        for (std::size_t i = 0; i < each && k + 4 * i < padded; ++i)
            joined |= four_codes(codes + k + 4 * i) << (bits * i);
        std::memcpy(panel + at, &joined, 4);
    }
}

template <class Element>
void put_elements(const std::byte* src, std::size_t rows, std::size_t cols, std::uint8_t* dst) {
    constexpr std::size_t width = sizeof(Element);
    for (std::size_t row = 0; row < rows; ++row) {
        const std::byte* from = src + row * cols * width;
        std::uint8_t* panel = dst + row / 16 * cols * 16 * width + row % 16 * width;
        for (std::size_t k = 0; k < cols; ++k) std::memcpy(panel + k * 16 * width, from + k * width, width);
    }
}

struct panel_choice {
    kernels::panel_type type;
    unsigned bits;  // of a code in 64 bytes
    float zero;
};

inline panel_choice panel_of(const scheme& s, bool both_planes) {
    using kernels::panel_type;
    if (s.planes)
        return both_planes ? panel_choice{panel_type::planes, 4, 136} : panel_choice{panel_type::u4, 4, 8};
    switch (s.type) {
        case scheme_type::int8: return {panel_type::u8, 8, 128};
        case scheme_type::int4: return {panel_type::u4, 4, 8};
        case scheme_type::int2: return {panel_type::u2, 2, 2};
        case scheme_type::f16: return {panel_type::f16, 16, 0};
        case scheme_type::bf16: return {panel_type::bf16, 16, 0};
        case scheme_type::f32: return {panel_type::f32, 32, 0};
        default: return {panel_type::book, 4, 0};
    }
}

// How many k share a scale, 0 where all do; or why it cannot be.
inline result<std::size_t> scale_group_of(const linear_source& src) {
    const scheme& s = src.scheme;
    if (is_plain(s.type) || s.granularity == granularity::per_tensor ||
        s.granularity == granularity::per_channel)
        return std::size_t{0};
    const bool book = facts(s.type).code_book;
    if (!book && s.group_size >= src.cols) return std::size_t{0};
    if (s.group_size % kernels::sum_group != 0 || (book && src.cols % s.group_size != 0))
        return error{.code = error_code::unsupported,
                     .message = "layers run scales for multiples of 32 elements of a row, not " + to_text(s) +
                                " of rows of " + std::to_string(src.cols)};
    return s.group_size;
}

inline std::size_t run_of(std::size_t scale_group) {
    if (scale_group % 128 == 0) return 128;
    return scale_group % 64 == 0 ? 64 : 32;
}

inline result<void> check_source(const linear_source& src) {
    const auto& f = facts(src.scheme.type);
    const auto invalid = [](const char* what) {
        return error{.code = error_code::invalid_argument, .message = what};
    };
    if (f.ggml != nullptr)
        return error{.code = error_code::unsupported, .message = "layers do not run blocks of GGUF"};
    if (src.rows == 0 || src.cols == 0) return invalid("a layer has no inputs or no outputs");
    if (src.codes == nullptr) return invalid("a layer's codes are null");
    if (!is_plain(src.scheme.type) && src.scales == nullptr) return invalid("a layer's scales are null");
    if (f.integer && !src.scheme.symmetric && src.zero_points == nullptr)
        return invalid("an asymmetric layer's zero points are null");
    return check_scheme(src.scheme, dtype::f32, src.rows, src.cols);
}

// [panel][group][16] of what lies [row][group]; one value for all rows where there is one tensor.
template <class Read>
auto put_scales(const linear_source& src, std::size_t groups, memory_source memory, const Read& read) {
    const bool one = src.scheme.granularity == granularity::per_tensor;
    auto made = std::make_shared<std::pmr::vector<float>>(ceil_div(src.rows, 16) * groups * 16, memory);
    auto& dst = *made;
    for (std::size_t row = 0; row < src.rows; ++row)
        for (std::size_t g = 0; g < groups; ++g)
            dst[(row / 16 * groups + g) * 16 + row % 16] = read(one ? 0 : row * groups + g);
    return made;
}

// Rows that fill no panel leave columns of it, which are 0.
inline void clear_last_panel(std::uint8_t* panels, std::size_t bytes, std::size_t rows) {
    const std::size_t panel = bytes / ceil_div(rows, 16);
    if (rows % 16 != 0) std::memset(panels + bytes - panel, 0, panel);
}

using four_words = std::uint32_t __attribute__((vector_size(16)));

// Bytes [0, bytes) of 16 rows, bytes a multiple of 16: of each row four bytes at a time, changed by `change`, in the
// lines of a panel. Squares of 4 x 4 words, so that a line is written whole: a switch of planes waits for it.
template <class Change>
void put_squares(const std::uint8_t* src, std::size_t row_bytes, std::size_t bytes, std::uint8_t* panel,
                 const Change& change) {
    const auto load = [&](const std::uint8_t* from) {
        four_words out;
        std::memcpy(&out, from, sizeof out);
        return change(out);
    };
    for (std::size_t at = 0; at < bytes; at += 16, panel += 4 * 64)
        for (std::size_t row = 0; row < 16; row += 4) {
            const std::uint8_t* from = src + row * row_bytes + at;
            const four_words a = load(from), b = load(from + row_bytes), c = load(from + 2 * row_bytes),
                             d = load(from + 3 * row_bytes);
            const four_words low_ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            const four_words low_cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            const four_words high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const four_words high_cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            const four_words lines[] = {__builtin_shufflevector(low_ab, low_cd, 0, 1, 4, 5),
                                        __builtin_shufflevector(low_ab, low_cd, 2, 3, 6, 7),
                                        __builtin_shufflevector(high_ab, high_cd, 0, 1, 4, 5),
                                        __builtin_shufflevector(high_ab, high_cd, 2, 3, 6, 7)};
            for (std::size_t i = 0; i < 4; ++i)
                std::memcpy(panel + 64 * i + 4 * row, &lines[i], sizeof lines[i]);
        }
}

// Eight codes of a row, the low half of a byte first, as put_column joins them: code i and code i + 4 share a byte.
inline four_words join_nibbles(four_words eight) {
    const auto spread = [](four_words two_bytes) {
        const four_words apart = (two_bytes | two_bytes << 8) & 0x00ff00ffu;
        return (apart | apart << 4) & 0x0f0f0f0fu;
    };
    return spread(eight & 0xffffu) | spread(eight >> 16) << 4;
}

// Rows [first, first + rows) of a weight, first a multiple of 16, `src` being the first of them. Columns behind the last
// row are 0.
inline void put_codes(const scheme& s, const std::byte* src, std::size_t first, std::size_t rows,
                      std::size_t cols, kernels::panel_type type, unsigned bits, std::uint8_t* dst) {
    row_of_codes codes(s, cols);
    const std::size_t panel = kernels::panel_bytes(type, cols);
    const std::size_t each = 8 / bits;  // codes of a byte
    const bool squares = bits == 8 || (bits == 4 && !facts(s.type).code_book);
    for (std::size_t begin = 0; begin < rows; begin += 16) {
        const std::size_t together = std::min<std::size_t>(rows - begin, 16);
        std::uint8_t* to = dst + (first + begin) / 16 * panel;
        std::size_t done = 0;  // columns
        if (squares && together == 16) {
            const std::uint8_t* from = codes.bytes(src, begin);
            const std::size_t bytes = cols / each / 16 * 16;
            if (bits == 4) {
                put_squares(from, codes.row_bytes(), bytes, to, join_nibbles);
            } else {
                const std::uint32_t flip = s.offset_binary ? 0 : 0x80808080u;
                put_squares(from, codes.row_bytes(), bytes, to, [=](four_words w) { return w ^ flip; });
            }
            done = bytes * each;
        }
        if (done == kernels::padded_depth(cols)) continue;
        const std::size_t lines = done / (4 * each) * 64;
        for (std::size_t row = 0; row < together; ++row)
            put_column(codes.read(src, begin + row) + done, kernels::padded_depth(cols) - done, each, bits,
                       row, to + lines, panel - lines);
    }
}

}  // namespace detail

BITMILL_INLINE quantized_rows::quantized_rows(memory_source memory)
    : codes_(memory_or_default(memory)), scales_(memory_or_default(memory)),
      sums_(memory_or_default(memory)) {}

BITMILL_INLINE void quantized_rows::assign(const float* x, std::size_t rows, std::size_t cols,
                                           std::size_t stride, thread_team& team) {
    const std::size_t padded = kernels::padded_depth(cols);
    const std::size_t groups = ceil_div(cols, kernels::activation_group);
    const std::size_t summed = ceil_div(cols, kernels::sum_group);
    rows_ = rows;
    cols_ = cols;
    if (codes_.size() < rows * padded) codes_.resize(rows * padded);
    if (scales_.size() < rows * groups) scales_.resize(rows * groups);
    if (sums_.size() < rows * summed) sums_.resize(rows * summed);
    const auto& table = kernels::active().layers;
    constexpr std::size_t blocks_together = 4;
    const std::size_t blocks = ceil_div(rows, kernels::row_block);
    team.run(ceil_div(blocks, blocks_together), [&](std::size_t task) {
        const fp_environment ours;
        const std::size_t end = std::min(rows, (task + 1) * blocks_together * kernels::row_block);
        for (std::size_t row = task * blocks_together * kernels::row_block; row < end;
             row += kernels::row_block)
            table.quantize_rows(x + row * stride, stride, std::min(end - row, kernels::row_block), cols,
                                codes_.data() + row * padded, scales_.data() + row * groups,
                                sums_.data() + row * summed);
    });
}

BITMILL_INLINE kernels::quantized_view quantized_rows::view() const noexcept {
    return {codes_.data(), scales_.data(), sums_.data()};
}

BITMILL_INLINE result<linear> linear::pack(const linear_source& src, const float* bias,
                                           memory_source memory) {
    if (auto checked = detail::check_source(src); !checked) return checked.error();
    const auto scale_group = detail::scale_group_of(src);
    if (!scale_group) return scale_group.error();
    const bool both = src.scheme.planes && src.residual != nullptr;
    const auto choice = detail::panel_of(src.scheme, both);
    linear out(memory_or_default(memory));
    out.in_ = src.cols;
    out.out_ = src.rows;
    out.scheme_ = src.scheme;
    out.layout_.type = choice.type;
    out.layout_.zero = choice.zero;
    out.layout_.columns = src.rows;
    out.layout_.depth = src.cols;
    out.layout_.scale_group = *scale_group;
    out.layout_.run = detail::run_of(*scale_group);
    auto made = std::make_shared<const weight_block>(
        ceil_div(src.rows, 16) * kernels::panel_bytes(choice.type, src.cols), out.memory_);
    std::uint8_t* const codes = made->data();
    detail::clear_last_panel(codes, made->size(), src.rows);
    out.codes_ = std::move(made);
    switch (choice.type) {
        case kernels::panel_type::f32:
            detail::put_elements<float>(src.codes, src.rows, src.cols, codes);
            break;
        case kernels::panel_type::f16:
        case kernels::panel_type::bf16:
            detail::put_elements<std::uint16_t>(src.codes, src.rows, src.cols, codes);
            break;
        default:
            detail::put_codes(src.scheme, src.codes, 0, src.rows, src.cols, choice.type, choice.bits, codes);
    }
    const std::size_t groups = out.layout_.scale_groups();
    if (!is_plain(src.scheme.type))
        out.scales_ =
            detail::put_scales(src, groups, out.memory_, [&](std::size_t i) { return src.scales[i]; });
    if (facts(src.scheme.type).integer && !src.scheme.symmetric) {
        const float unit = src.scheme.type == scheme_type::int2 ? 1.0f / 32 : 1.0f;
        out.zeros_ = detail::put_scales(src, groups, out.memory_, [&](std::size_t i) {
            return static_cast<float>(src.zero_points[i]) * unit + choice.zero;
        });
    }
    if (bias != nullptr) out.bias_ = std::make_shared<const floats>(bias, bias + src.rows, out.memory_);
    if (both) {
        out.layout_.type = kernels::panel_type::u4;  // until the rest is there
        if (auto done = out.add_rest(src.residual); !done) return done.error();
    }
    return out;
}

BITMILL_INLINE weight_block::weight_block(std::size_t size, memory_source memory)
    : memory_(memory), size_(size), bytes_(memory->allocate(size + line)) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_);
    data_ = static_cast<std::uint8_t*>(bytes_) + (line - address % line) % line;
}

BITMILL_INLINE std::size_t linear::bytes() const noexcept {
    std::size_t sum = panel_bytes() * (has_rest() ? 2 : 1);
    for (const auto* one : {&scales_, &zeros_, &bias_}) sum += *one ? (*one)->size() * sizeof(float) : 0;
    return sum;
}

BITMILL_INLINE bool linear::integer() const noexcept { return kernels::facts(layout_.type).integer; }

BITMILL_INLINE scheme_type linear::type() const noexcept {
    return scheme_.planes && !has_rest() ? scheme_type::int4 : scheme_.type;
}

// By powers of two, so that there and back are the same bits.
BITMILL_INLINE std::shared_ptr<const linear::floats> linear::scaled(float factor) const {
    auto made = std::make_shared<floats>(*scales_, memory_);
    for (auto& scale : *made) scale *= factor;
    return made;
}

BITMILL_INLINE void linear::drop_rest() {
    if (!has_rest()) return;
    scales_ = scaled(16);
    rest_ = nullptr;
    layout_.type = kernels::panel_type::u4;
    layout_.zero = 8;
}

BITMILL_INLINE result<void> linear::add_rest(const std::byte* residual) {
    if (scheme_.planes && residual == nullptr)
        return error{.code = error_code::invalid_argument, .message = "a layer's residual is null"};
    return add_rest(scheme_, [&](std::uint64_t offset, std::size_t bytes, std::byte* dst) -> result<void> {
        std::memcpy(dst, residual + offset, bytes);
        return {};
    });
}

BITMILL_INLINE result<void> linear::add_rest(const scheme& both, const byte_reader& read,
                                             std::shared_ptr<std::uint8_t> room) {
    linear_source source;
    source.scheme = both;
    source.cols = in_;
    const auto group = detail::scale_group_of(source);
    const bool is_base =
        layout_.type == kernels::panel_type::u4 || layout_.type == kernels::panel_type::planes;
    if (!both.planes || !is_base || zeros_ || !group || *group != layout_.scale_group)
        return error{
            .code = error_code::invalid_argument,
            .message = "a layer of " + to_text(scheme_) + " has no residual plane of " + to_text(both)};
    constexpr std::size_t most_bytes = std::size_t{256} << 10;
    const std::size_t row_bytes = detail::row_of_codes(both, in_).row_bytes();
    const std::size_t together = std::max<std::size_t>(most_bytes / row_bytes / 16, 1) * 16;
    if (!room) {
        const auto own = std::make_shared<const weight_block>(panel_bytes(), memory_);
        room = std::shared_ptr<std::uint8_t>(own, own->data());
    }
    detail::clear_last_panel(room.get(), panel_bytes(), out_);
    std::byte* const read_rows = thread_team::scratch(std::min(together, out_) * row_bytes);
    for (std::size_t row = 0; row < out_; row += together) {
        const std::size_t rows = std::min(together, out_ - row);
        if (auto done = read(std::uint64_t{row} * row_bytes, rows * row_bytes, read_rows); !done) return done;
        detail::put_codes(both, read_rows, row, rows, in_, kernels::panel_type::u4, 4, room.get());
    }
    if (!has_rest()) scales_ = scaled(1.0f / 16);
    rest_ = std::move(room);
    scheme_ = both;
    layout_.type = kernels::panel_type::planes;
    layout_.zero = 136;
    return {};
}

BITMILL_INLINE kernels::panels linear::view() const noexcept {
    kernels::panels w = layout_;
    w.codes = codes_->data();
    w.rest = rest_.get();
    w.scales = scales_ ? scales_->data() : nullptr;
    w.zeros = zeros_ ? zeros_->data() : nullptr;
    w.book = layout_.type == kernels::panel_type::book ? &book_of(scheme_.type) : nullptr;
    return w;
}

BITMILL_INLINE void linear::run(kernels::linear_call call, bool integer, thread_team& team) const {
    const kernels::panels w = view();
    call.weights = &w;
    call.bias = bias_ ? bias_->data() : nullptr;
    const auto& table = kernels::active().layers;
    const auto kernel = integer ? table.linear_int : table.linear_float;
    const std::size_t panels = ceil_div(out_, kernels::panel_columns);
    // Even pieces: 128 rows are not 120 and 8.
    const std::size_t row_tasks = ceil_div(call.rows, kernels::rows_together(in_));
    const std::size_t rows_each =
        ceil_div(ceil_div(call.rows, row_tasks), kernels::row_block) * kernels::row_block;
    // Four pieces a thread even out cores of unlike speed; pairs of panels stay together.
    const std::size_t wanted = team.threads() == 1 ? 1 : ceil_div(std::size_t{4} * team.threads(), row_tasks);
    const std::size_t panels_each =
        ceil_div(ceil_div(panels, std::min<std::size_t>(wanted, ceil_div(panels, 2))), 2) * 2;
    const std::size_t panel_tasks = ceil_div(panels, panels_each);
    team.run(row_tasks * panel_tasks, [&](std::size_t task) {
        const fp_environment ours;
        kernels::linear_call mine = call;
        mine.row_begin = task / panel_tasks * rows_each;
        mine.row_end = std::min(call.rows, mine.row_begin + rows_each);
        mine.panel_begin = task % panel_tasks * panels_each;
        mine.panel_end = std::min(panels, mine.panel_begin + panels_each);
        mine.scratch = thread_team::scratch(kernels::linear_scratch_bytes(in_));
        kernel(mine);
    });
}

namespace detail {

inline kernels::linear_call linear_call_of(const linear_options& options, float* dst, std::size_t dst_stride,
                                           std::size_t out) {
    kernels::linear_call call;
    call.dst = dst;
    call.dst_stride = dst_stride == 0 ? out : dst_stride;
    call.activation = options.activation;
    call.residual = options.residual;
    call.residual_stride = options.residual_stride == 0 ? out : options.residual_stride;
    return call;
}

}  // namespace detail

BITMILL_INLINE void linear::run(const float* x, std::size_t rows, std::size_t x_stride, float* dst,
                                std::size_t dst_stride, thread_team& team,
                                const linear_options& options) const {
    auto call = detail::linear_call_of(options, dst, dst_stride, out_);
    // So many rows are packed at once, for all threads, that the copy stays small.
    constexpr std::size_t most_bytes = std::size_t{8} << 20;
    const std::size_t together =
        std::max(kernels::rows_together(in_),
                 most_bytes / (sizeof(float) * in_) / kernels::row_block * kernels::row_block);
    const auto& table = kernels::active().layers;
    for (std::size_t begin = 0; begin < rows; begin += together) {
        call.rows = std::min(rows - begin, together);
        const thread_team::borrowed room(call.rows * in_ * sizeof(float));
        auto* packed = reinterpret_cast<float*>(room.data());
        const float* from = x + begin * x_stride;
        team.run(ceil_div(call.rows, kernels::row_block), [&](std::size_t block) {
            const std::size_t row = block * kernels::row_block;
            table.pack_rows(from + row * x_stride, x_stride, std::min(call.rows - row, kernels::row_block),
                            in_, packed + row * in_);
        });
        call.x = packed;
        run(call, false, team);
        call.dst += call.rows * call.dst_stride;
        if (call.residual != nullptr) call.residual += call.rows * call.residual_stride;
    }
}

BITMILL_INLINE void linear::run(const quantized_rows& x, float* dst, std::size_t dst_stride,
                                thread_team& team, const linear_options& options) const {
    const auto refuse = [](std::string message) {
        throw exception(error{.code = error_code::invalid_argument, .message = std::move(message)});
    };
    if (!integer()) refuse("a layer of " + to_text(scheme_) + " takes no inputs in 8 bits; run it on floats");
    if (x.rows() != 0 && x.cols() != in_)
        refuse("rows of " + std::to_string(x.cols()) + " columns are given to a layer of " +
               std::to_string(in_) + " inputs");
    auto call = detail::linear_call_of(options, dst, dst_stride, out_);
    call.rows = x.rows();
    call.quantized = x.view();
    if (call.rows != 0) run(call, true, team);
}

}  // namespace bitmill
