#pragma once

#include <cstring>
#include <limits>
#include <string>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/core/fp_environment.hpp>
#include <bitmill/detail/float_source-inl.hpp>
#include <bitmill/detail/ggml_codec-inl.hpp>
#include <bitmill/kernels/scale_rule.hpp>

namespace bitmill {
namespace detail {

inline kernels::scale_type scale_type_of(dtype type) {
    return type == dtype::f16    ? kernels::scale_type::f16
           : type == dtype::bf16 ? kernels::scale_type::bf16
                                 : kernels::scale_type::f32;
}

// Elements that share one scale, within a row.
inline std::size_t group_of(const scheme& s, std::size_t cols) {
    return s.granularity == granularity::group ? s.group_size : cols;
}

// Bits of a code as it lies in `codes`.
inline unsigned code_bits(const scheme& s) { return s.planes ? 4 : facts(s.type).bits; }

inline maybe_u64 row_bytes(const scheme& s, std::uint64_t cols) {
    const auto bits = checked_mul(cols, code_bits(s));
    if (!bits) return std::nullopt;
    return checked_mul(ceil_div(ceil_div(*bits, 8), s.row_alignment), s.row_alignment);
}

inline float load_scale(const std::byte* scales, dtype type, std::size_t index) {
    if (type == dtype::f32) {
        float value;
        std::memcpy(&value, scales + index * 4, 4);
        return value;
    }
    std::uint16_t half;
    std::memcpy(&half, scales + index * 2, 2);
    return type == dtype::f16 ? f32_from_f16(half) : f32_from_bf16(half);
}

inline void store_zero(float zero, std::byte* zeros, unsigned bits, std::size_t index) {
    zeros[index] =
        static_cast<std::byte>(static_cast<std::int8_t>(zero * kernels::int_limits(bits).zero_steps));
}

inline float load_zero(const std::byte* zeros, unsigned bits, std::size_t index) {
    return static_cast<float>(static_cast<std::int8_t>(zeros[index])) / kernels::int_limits(bits).zero_steps;
}

inline void store_scale(float value, std::byte* scales, dtype type, std::size_t index) {
    if (type == dtype::f32) {
        std::memcpy(scales + index * 4, &value, 4);
        return;
    }
    const std::uint16_t half = type == dtype::f16 ? f16_from_f32(value) : bf16_from_f32(value);
    std::memcpy(scales + index * 2, &half, 2);
}

// Whole rows, `scales_per_row` scales each; the same walk serves encoding and decoding.
struct row_walk {
    std::size_t rows_at_once;
    std::size_t groups_per_row;
    kernels::int_layout layout;  // of rows_at_once rows
    std::size_t bytes_per_row;

    row_walk(const scheme& s, std::size_t cols) {
        const std::size_t group = group_of(s, cols);
        groups_per_row = cols / group;
        bytes_per_row = static_cast<std::size_t>(*row_bytes(s, cols));
        rows_at_once = std::max<std::size_t>(1, chunk_elements / cols);
        layout.group = group;
        layout.groups = groups_per_row * rows_at_once;
        layout.stride = groups_per_row == 1 ? bytes_per_row : group * code_bits(s) / 8;
        layout.flip = s.offset_binary ? 0 : 0x80;
    }
    [[nodiscard]] kernels::int_layout for_rows(std::size_t rows) const {
        kernels::int_layout part = layout;
        part.groups = rows * groups_per_row;
        return part;
    }
};

inline result<error_metrics> encode_integers(const scheme& s, const weight_view& view, encoded_view& dst,
                                             const encode_options& options) {
    const auto& table = kernels::active();
    const row_walk walk(s, view.cols);
    const unsigned bits = code_bits(s);
    const kernels::int_rule rule{bits, s.symmetric, options.method == method::mse,
                                 scale_type_of(s.scale_dtype), s.planes};
    const memory_source memory = memory_or_default(options.memory);
    float_source source(view, pruning_of(options), memory);
    float_source original(view, {}, memory);  // pruning is part of the error
    std::pmr::vector<float> scales(walk.layout.groups, memory);
    std::pmr::vector<float> zeros(walk.layout.groups, memory);
    std::pmr::vector<float> decoded(memory);
    error_metrics metrics;
    error_metrics base_metrics;

    const bool one_scale = s.granularity == granularity::per_tensor;
    if (one_scale) {
        auto range =
            options.range ? result<value_range>(*options.range) : find_range(view, pruning_of(options));
        if (!range) return range.error();
        const kernels::int_limits limits(bits);
        float zero = 0;
        const float scale =
            s.symmetric ? kernels::symmetric_scale(std::max(range->high, -range->low), limits, rule.scale)
                        : kernels::asymmetric_scale(range->low, range->high, limits, rule.scale, &zero);
        std::fill(scales.begin(), scales.end(), scale);
        std::fill(zeros.begin(), zeros.end(), zero);
        store_scale(scale, dst.scales, s.scale_dtype, 0);
        if (!s.symmetric) store_zero(zero, dst.zero_points, bits, 0);
    }
    for (std::size_t row = 0; row < view.rows; row += walk.rows_at_once) {
        const std::size_t rows = std::min(walk.rows_at_once, view.rows - row);
        const std::size_t count = rows * view.cols;
        const kernels::int_layout layout = walk.for_rows(rows);
        const float* src = source.read(row * view.cols, count);
        if (one_scale && options.range) {
            value_range part;
            if (!table.extremes(src, count, &part.low, &part.high))
                return source.not_finite(row * view.cols, count);
        }
        if (!one_scale) {
            const std::size_t chosen = table.choose_int(src, layout, rule, scales.data(), zeros.data());
            if (chosen != layout.groups)
                return source.not_finite(row * view.cols + chosen * layout.group, layout.group);
            const std::size_t first = row * walk.groups_per_row;
            for (std::size_t g = 0; g < layout.groups; ++g) {
                store_scale(scales[g], dst.scales, s.scale_dtype, first + g);
                if (!s.symmetric) store_zero(zeros[g], dst.zero_points, bits, first + g);
            }
        }
        const std::size_t begin = row * walk.bytes_per_row;
        auto* codes = reinterpret_cast<std::uint8_t*>(dst.codes + begin);
        auto* rest = s.planes ? reinterpret_cast<std::uint8_t*>(dst.residual + begin) : nullptr;
        if (walk.bytes_per_row * 8 != view.cols * bits) {
            std::memset(codes, 0, rows * walk.bytes_per_row);
            if (s.planes) std::memset(rest, 0, rows * walk.bytes_per_row);
        }
        kernels::sums sums;
        kernels::sums base_sums;
        if (s.planes)
            table.encode_planes(src, layout, scales.data(), codes, rest, options.measure ? &sums : nullptr,
                                options.measure ? &base_sums : nullptr);
        else
            table.encode_int(src, layout, bits, scales.data(), zeros.data(), codes,
                             options.measure ? &sums : nullptr);
        if (!options.measure) continue;
        const bool anew = must_measure_anew(options, sums) || !std::isfinite(base_sums.err2);
        if (!anew && !options.count_zeros) {
            metrics.add(sums, count);
            base_metrics.add(base_sums, count);
            continue;
        }
        decoded.resize(count);
        const float* from = original.read(row * view.cols, count);
        table.decode_int(codes, layout, bits, scales.data(), zeros.data(), decoded.data(), false);
        if (s.planes) {
            add_measured(base_metrics, options, anew, base_sums, from, decoded.data(), count);
            table.decode_planes(codes, rest, layout, scales.data(), decoded.data(), false);
        }
        add_measured(metrics, options, anew, sums, from, decoded.data(), count);
    }
    if (options.base_error != nullptr) *options.base_error = base_metrics;
    return metrics;
}

inline result<void> decode_integers(const scheme& s, const encoded_view& src, const matrix_view& dst,
                                    memory_source memory) {
    const auto& table = kernels::active();
    const row_walk walk(s, dst.cols);
    const unsigned bits = code_bits(s);
    std::pmr::vector<float> scales(walk.layout.groups, memory);
    std::pmr::vector<float> zeros(walk.layout.groups, 0.0f, memory);
    float_sink sink(dst, memory);
    const bool one_scale = s.granularity == granularity::per_tensor;
    const bool stream = sink.direct() && dst.rows * dst.cols * sizeof(float) >= stream_bytes;
    for (std::size_t row = 0; row < dst.rows; row += walk.rows_at_once) {
        const std::size_t now = std::min(walk.rows_at_once, dst.rows - row);
        const kernels::int_layout layout = walk.for_rows(now);
        for (std::size_t g = 0; g < layout.groups; ++g) {
            const std::size_t index = one_scale ? 0 : row * walk.groups_per_row + g;
            scales[g] = load_scale(src.scales, s.scale_dtype, index);
            if (!s.symmetric) zeros[g] = load_zero(src.zero_points, bits, index);
        }
        const std::size_t begin = row * walk.bytes_per_row;
        const auto* codes = reinterpret_cast<const std::uint8_t*>(src.codes + begin);
        float* room = sink.room(row * dst.cols, now * dst.cols);
        if (s.planes && src.residual != nullptr)
            table.decode_planes(codes, reinterpret_cast<const std::uint8_t*>(src.residual + begin), layout,
                                scales.data(), room, stream);
        else
            table.decode_int(codes, layout, bits, scales.data(), zeros.data(), room, stream);
        sink.put(row * dst.cols, now * dst.cols);
    }
    return {};
}

inline result<error_metrics> encode_blocks(const scheme& s, const weight_view& view, encoded_view& dst,
                                           const encode_options& options) {
    const auto& table = kernels::active();
    const auto& book = book_of(s.type);
    const memory_source memory = memory_or_default(options.memory);
    float_source source(view, pruning_of(options), memory);
    float_source original(view, {}, memory);  // pruning is part of the error
    const std::size_t total = source.elements();
    const std::size_t blocks = static_cast<std::size_t>(ceil_div(total, s.group_size));
    std::pmr::vector<float> own(s.double_quant ? blocks : chunk_elements / s.group_size, memory);
    std::pmr::vector<float> decoded(memory);
    error_metrics metrics;

    const auto chunks = [&](const auto& body) -> result<void> {
        for (std::size_t start = 0; start < total; start += chunk_elements) {
            const std::size_t count = std::min(chunk_elements, total - start);
            float* absmax = own.data() + (s.double_quant ? start / s.group_size : 0);
            if (auto done = body(start, count, absmax); !done) return done;
        }
        return {};
    };
    const auto choose = [&](std::size_t start, std::size_t count, float* absmax) -> result<void> {
        const std::size_t found = table.absmax_blocks(source.read(start, count), count, s.group_size, absmax);
        if (found == ceil_div(count, s.group_size)) return {};
        const std::size_t bad = found * s.group_size;
        return source.not_finite(start + bad, std::min(s.group_size, count - bad));
    };
    const auto code = [&](std::size_t start, std::size_t count, const float* effective) {
        const float* src = source.read(start, count);
        auto* codes = reinterpret_cast<std::uint8_t*>(dst.codes + start / 2);
        kernels::sums sums;
        table.encode_book(src, count, s.group_size, effective, book, codes,
                          options.measure ? &sums : nullptr);
        if (!options.measure) return;
        const bool anew = must_measure_anew(options, sums);
        if (!anew && !options.count_zeros) return metrics.add(sums, count);
        decoded.resize(count);
        table.decode_book(codes, count, s.group_size, effective, book, decoded.data(), false);
        add_measured(metrics, options, anew, sums, original.read(start, count), decoded.data(), count);
    };
    if (!s.double_quant) {
        auto done = chunks([&](std::size_t start, std::size_t count, float* absmax) -> result<void> {
            if (auto chosen = choose(start, count, absmax); !chosen) return chosen;
            std::memcpy(dst.scales + start / s.group_size * 4, absmax, ceil_div(count, s.group_size) * 4);
            code(start, count, absmax);
            return {};
        });
        if (!done) return done.error();
        return metrics;
    }
    // The codes are rounded against the exact absmax, as bitsandbytes does; the 8-bit absmax is what the
    // decoder multiplies with, so the error is measured on it.
    if (auto done = chunks(choose); !done) return done.error();
    double sum = 0;
    for (const float one : own) sum += static_cast<double>(one);
    dst.nested_offset = options.nested_offset
                            ? *options.nested_offset
                            : static_cast<float>(blocks == 0 ? 0 : sum / static_cast<double>(blocks));
    std::pmr::vector<float> nested(static_cast<std::size_t>(ceil_div(blocks, nested_block)), memory);
    auto* scale_codes = reinterpret_cast<std::uint8_t*>(dst.scales);
    encode_nested(own, dst.nested_offset, scale_codes, nested.data());
    std::memcpy(dst.nested_scales, nested.data(), nested.size() * sizeof(float));
    std::pmr::vector<float> effective(blocks, memory);
    decode_nested({scale_codes, blocks}, nested.data(), dst.nested_offset, effective.data());
    const bool measured = options.measure;
    auto done = chunks([&](std::size_t start, std::size_t count, const float* absmax) -> result<void> {
        const float* src = source.read(start, count);
        auto* codes = reinterpret_cast<std::uint8_t*>(dst.codes + start / 2);
        table.encode_book(src, count, s.group_size, absmax, book, codes, nullptr);
        if (!measured) return {};
        decoded.resize(count);
        table.decode_book(codes, count, s.group_size, effective.data() + start / s.group_size, book,
                          decoded.data(), false);
        add_measured(metrics, options, true, {}, original.read(start, count), decoded.data(), count);
        return {};
    });
    if (!done) return done.error();
    return metrics;
}

inline result<void> decode_blocks(const scheme& s, const encoded_view& src, const matrix_view& dst,
                                  memory_source memory) {
    const auto& table = kernels::active();
    std::pmr::vector<float> absmax(chunk_elements / s.group_size + 1, memory);
    float_sink sink(dst, memory);
    const std::size_t total = dst.rows * dst.cols;
    const bool stream = sink.direct() && total * sizeof(float) >= stream_bytes;
    for (std::size_t start = 0; start < total; start += chunk_elements) {
        const std::size_t count = std::min(chunk_elements, total - start);
        const std::size_t first = start / s.group_size;
        const std::size_t blocks = static_cast<std::size_t>(ceil_div(count, s.group_size));
        if (s.double_quant) {
            for (std::size_t b = 0; b < blocks; ++b) {
                const auto code = static_cast<std::uint8_t>(src.scales[first + b]);
                const float nested = load_scale(src.nested_scales, dtype::f32, (first + b) / nested_block);
                decode_nested({&code, 1}, &nested, src.nested_offset, &absmax[b]);
            }
        } else {
            std::memcpy(absmax.data(), src.scales + first * 4, blocks * 4);
        }
        table.decode_book(reinterpret_cast<const std::uint8_t*>(src.codes + start / 2), count, s.group_size,
                          absmax.data(), book_of(s.type), sink.room(start, count), stream);
        sink.put(start, count);
    }
    return {};
}

inline result<error_metrics> encode_plain(const scheme& s, const weight_view& view, encoded_view& dst,
                                          const encode_options& options) {
    const dtype to = facts(s.type).plain;
    if (const auto obstacle = find_cast_obstacle(view, to)) {
        error what =
            refuse((obstacle->not_finite ? "NaN or an infinity at element " : "overflow at element ") +
                       std::to_string(obstacle->index),
                   error_code::bad_input);
        what.offset = obstacle->index;
        return what;
    }
    error_metrics metrics;
    const memory_source memory = memory_or_default(options.memory);
    float_source source(view, pruning_of(options), memory);
    float_source original(view, {}, memory);  // pruning is part of the error
    std::pmr::vector<float> back(chunk_elements, memory);
    for (std::size_t start = 0; start < source.elements(); start += chunk_elements) {
        const std::size_t count = std::min(chunk_elements, source.elements() - start);
        std::byte* to_bytes = dst.codes + start * element_bytes(to);
        cast({view.type, original.read_raw(start, count), 1, count}, to, to_bytes);
        const float* src = source.read(start, count);
        if (options.weight_threshold > 0)
            for (std::size_t i = 0; i < count; ++i)
                if (src[i] == 0) std::memset(to_bytes + i * element_bytes(to), 0, element_bytes(to));
        if (!options.measure) continue;
        cast({to, to_bytes, 1, count}, dtype::f32, back.data());
        add_measured(metrics, options, true, {}, original.read(start, count), back.data(), count);
    }
    return metrics;
}

inline void decode_plain(dtype from, const encoded_view& src, const matrix_view& dst, memory_source memory) {
    const std::size_t total = dst.rows * dst.cols;
    if (dst.dense()) return cast({from, src.codes, 1, total}, dst.type, dst.data);
    float_sink sink(dst, memory);
    for (std::size_t start = 0; start < total; start += chunk_elements) {
        const std::size_t count = std::min(chunk_elements, total - start);
        cast({from, src.codes + start * element_bytes(from), 1, count}, dtype::f32, sink.room(start, count));
        sink.put(start, count);
    }
}

// Rounds once: through f32 to odd, which keeps enough bits for the second rounding to be right.
inline void narrow_f64(const double* src, std::size_t count, dtype to, void* dst) {
    for (std::size_t i = 0; i < count; ++i) {
        if (to == dtype::f32) static_cast<float*>(dst)[i] = static_cast<float>(src[i]);
        if (to == dtype::f16) static_cast<std::uint16_t*>(dst)[i] = f16_from_f32(f32_from_f64_to_odd(src[i]));
        if (to == dtype::bf16)
            static_cast<std::uint16_t*>(dst)[i] = bf16_from_f32(f32_from_f64_to_odd(src[i]));
    }
}

}  // namespace detail

BITMILL_INLINE result<void> check_scheme(const scheme& s, dtype source, std::uint64_t rows,
                                         std::uint64_t cols) {
    using detail::refuse;
    const auto& type = facts(s.type);
    if (!facts(source).weight)
        return refuse("only F32, F16, BF16 and F64 can be milled, not " + std::string(facts(source).name));
    if (!checked_mul(rows, cols) || *checked_mul(rows, cols) > std::numeric_limits<std::size_t>::max() / 16)
        return refuse("the matrix has more elements than memory has bytes");
    if (s.planes && (s.type != scheme_type::int8 || !s.symmetric ||
                     s.granularity == granularity::per_tensor || s.scale_dtype == dtype::f32))
        return refuse("planes are for symmetric int8 per channel or group, with F16 or BF16 scales");
    if (type.ggml != nullptr) return detail::check_ggml(s, cols);
    if (is_plain(s.type)) return {};
    if (type.code_book) {
        const std::size_t n = s.group_size;
        if (s.granularity != granularity::block || n < 32 || n > 4096 || (n & (n - 1)) != 0)
            return refuse(std::string(type.name) + " needs a block_size of 32, 64, 128 ... 4096");
        return {};
    }
    if (s.granularity == granularity::block)
        return refuse(std::string(type.name) + " takes groups along a row, not blocks");
    if (s.scale_dtype != dtype::f32 && s.scale_dtype != dtype::f16 && s.scale_dtype != dtype::bf16)
        return refuse("scales are F32, F16 or BF16");
    if (s.row_alignment == 0) return refuse("row_alignment is at least 1");
    if (s.granularity == granularity::group) {
        if (s.group_size == 0 || (s.group_size % 8 != 0 && s.group_size != cols))
            return refuse("group_size must be a multiple of 8");
        if (cols % s.group_size != 0)
            return refuse("group_size " + std::to_string(s.group_size) + " does not divide a row of " +
                          std::to_string(cols));
        if (cols != s.group_size && s.group_size * detail::code_bits(s) / 8 % s.row_alignment != 0)
            return refuse("a group's codes must fill a multiple of row_alignment");
    }
    return {};
}

BITMILL_INLINE result<encoded_sizes> encode_bound(const scheme& s, std::uint64_t rows, std::uint64_t cols) {
    if (auto checked = check_scheme(s, dtype::f32, rows, cols); !checked) return checked.error();
    const auto& type = facts(s.type);
    const std::uint64_t count = rows * cols;
    encoded_sizes sizes;
    if (type.ggml != nullptr) {
        const auto codes = checked_mul(count / type.ggml->block_elements, type.ggml->block_bytes);
        if (!codes) return detail::refuse("the codes do not fit 64-bit sizes");
        sizes.codes = *codes;
        return sizes;
    }
    if (type.code_book) {
        const std::uint64_t blocks = ceil_div(count, s.group_size);
        sizes.codes = ceil_div(count, 2);
        sizes.scales = s.double_quant ? blocks : blocks * 4;
        sizes.nested_scales = s.double_quant ? ceil_div(blocks, nested_block) * 4 : 0;
        return sizes;
    }
    if (!type.integer) {
        sizes.codes = count * (type.bits / 8);
        return sizes;
    }
    const auto row = detail::row_bytes(s, cols);
    const auto codes = row ? checked_mul(*row, rows) : std::nullopt;
    if (!codes) return detail::refuse("the codes do not fit 64-bit sizes");
    sizes.codes = *codes;
    const std::uint64_t per_row = s.granularity == granularity::group ? cols / s.group_size
                                  : cols == 0                         ? 0
                                                                      : 1;
    const std::uint64_t scales = s.granularity == granularity::per_tensor ? 1 : rows * per_row;
    sizes.scales = scales * element_bytes(s.scale_dtype);
    sizes.zero_points = s.symmetric ? 0 : scales;
    sizes.residual = s.planes ? sizes.codes : 0;
    return sizes;
}

BITMILL_INLINE result<error_metrics> encode(const scheme& s, const weight_view& src, encoded_view& dst,
                                            const encode_options& options) {
    const fp_environment environment;
    if (auto checked = check_scheme(s, src.type, src.rows, src.cols); !checked) return checked.error();
    if (auto checked = detail::check_strides(src); !checked) return checked.error();
    const auto& type = facts(s.type);
    if (!type.encodes)
        return detail::refuse(
            std::string(type.name) + " is read, not written; q4_0 has blocks of 32, q4_k of 256",
            error_code::unsupported);
    if (options.method == method::mse && !codes_rows(s.type))
        return detail::refuse(std::string("method mse is for integers and GGUF's blocks; ") + type.name +
                              " has absmax");
    if (options.method == method::mse && s.granularity == granularity::per_tensor)
        return detail::refuse("method mse needs per_channel or a group_size; per_tensor has absmax");
    if (!(options.weight_threshold >= 0)) return detail::refuse("weight_threshold must be 0 or more");
    constexpr float most = std::numeric_limits<float>::max();
    if (type.integer && s.granularity == granularity::per_tensor && options.range) {
        const auto [low, high] = *options.range;
        if (!(low <= 0 && low >= -most && high >= 0 && high <= most))
            return detail::refuse("a range must be finite and hold 0");
    }
    if (type.code_book && s.double_quant && options.nested_offset)
        if (!(*options.nested_offset >= 0 && *options.nested_offset <= most))
            return detail::refuse("nested_offset, a mean of magnitudes, must be finite and not negative");
    if (options.base_error != nullptr) *options.base_error = {};
    if (src.rows == 0 || src.cols == 0) {
        // One scale of nothing: what the bound promises is written all the same.
        const auto sizes = encode_bound(s, src.rows, src.cols).value();
        if (sizes.scales != 0) std::memset(dst.scales, 0, static_cast<std::size_t>(sizes.scales));
        if (sizes.zero_points != 0)
            std::memset(dst.zero_points, 0, static_cast<std::size_t>(sizes.zero_points));
        return error_metrics{};
    }
    if (type.ggml != nullptr) return detail::encode_ggml(s, src, dst, options);
    if (type.integer) return detail::encode_integers(s, src, dst, options);
    if (type.code_book) return detail::encode_blocks(s, src, dst, options);
    return detail::encode_plain(s, src, dst, options);
}

BITMILL_INLINE result<void> decode(const scheme& s, const encoded_view& src, const matrix_view& dst,
                                   memory_source memory) {
    const fp_environment environment;
    if (auto checked = check_scheme(s, dst.type, dst.rows, dst.cols); !checked) return checked.error();
    if (auto checked = detail::check_strides(dst); !checked) return checked.error();
    if (dst.rows == 0 || dst.cols == 0) return {};
    memory = memory_or_default(memory);
    if (facts(s.type).ggml != nullptr) return detail::decode_ggml(s, src, dst, memory);
    if (facts(s.type).integer) return detail::decode_integers(s, src, dst, memory);
    if (facts(s.type).code_book) return detail::decode_blocks(s, src, dst, memory);
    detail::decode_plain(facts(s.type).plain, src, dst, memory);
    return {};
}

BITMILL_INLINE void cast(const weight_view& src, dtype to, void* dst) {
    const fp_environment environment;
    detail::check_strides(src).value();
    const auto& table = kernels::active();
    const std::size_t count = src.rows * src.cols;
    if (src.type == to && src.dense()) {
        std::memcpy(dst, src.data, count * element_bytes(to));
        return;
    }
    detail::float_source source(src);
    for (std::size_t start = 0; start < count; start += detail::chunk_elements) {
        const std::size_t now = std::min(detail::chunk_elements, count - start);
        if (src.type == to || src.type == dtype::f64) {
            const void* raw = source.read_raw(start, now);
            auto* part = static_cast<std::byte*>(dst) + start * element_bytes(to);
            if (src.type == to) std::memcpy(part, raw, now * element_bytes(to));
            if (src.type != to) detail::narrow_f64(static_cast<const double*>(raw), now, to, part);
            continue;
        }
        const float* from = source.read(start, now);
        if (to == dtype::f32) std::memcpy(static_cast<float*>(dst) + start, from, now * 4);
        if (to == dtype::f16) table.narrow_f16(from, now, static_cast<std::uint16_t*>(dst) + start);
        if (to == dtype::bf16) table.narrow_bf16(from, now, static_cast<std::uint16_t*>(dst) + start);
        if (to == dtype::f64) std::copy_n(from, now, static_cast<double*>(dst) + start);
    }
}

BITMILL_INLINE result<value_range> find_range(const weight_view& src, const pruning& prune) {
    const fp_environment environment;
    if (auto checked = detail::check_strides(src); !checked) return checked.error();
    detail::float_source source(src, prune);
    value_range range;
    for (std::size_t start = 0; start < source.elements(); start += detail::chunk_elements) {
        const std::size_t count = std::min(detail::chunk_elements, source.elements() - start);
        value_range part;
        if (!kernels::active().extremes(source.read(start, count), count, &part.low, &part.high))
            return source.not_finite(start, count);
        range.include(part);
    }
    return range;
}

BITMILL_INLINE result<double> sum_absmax(const weight_view& src, std::size_t block_size,
                                         const pruning& prune) {
    const fp_environment environment;
    scheme blocks_of;
    blocks_of.type = scheme_type::nf4;
    blocks_of.granularity = granularity::block;
    blocks_of.group_size = block_size;
    if (auto sound = check_scheme(blocks_of, src.type, src.rows, src.cols); !sound) return sound.error();
    if (auto sound = detail::check_strides(src); !sound) return sound.error();
    detail::float_source source(src, prune);
    std::vector<float> absmax(detail::chunk_elements / block_size + 1);
    double sum = 0;
    for (std::size_t start = 0; start < source.elements(); start += detail::chunk_elements) {
        const std::size_t count = std::min(detail::chunk_elements, source.elements() - start);
        const std::size_t blocks = static_cast<std::size_t>(ceil_div(count, block_size));
        if (kernels::active().absmax_blocks(source.read(start, count), count, block_size, absmax.data()) !=
            blocks)
            return source.not_finite(start, count);
        for (std::size_t b = 0; b < blocks; ++b) sum += static_cast<double>(absmax[b]);
    }
    return sum;
}

BITMILL_INLINE std::optional<cast_obstacle> find_cast_obstacle(const weight_view& src, dtype to) {
    const fp_environment environment;
    detail::check_strides(src).value();
    // The first magnitude that rounds to infinity.
    const double limit = to == dtype::f16 ? 65520.0 : to == dtype::bf16 ? 0x1.ffp127 : 0x1.ffffffp127;
    detail::float_source source(src);
    for (std::size_t start = 0; start < source.elements(); start += detail::chunk_elements) {
        const std::size_t count = std::min(detail::chunk_elements, source.elements() - start);
        value_range part;
        const bool finite =
            kernels::active().extremes(source.read(start, count), count, &part.low, &part.high);
        if (finite && static_cast<double>(std::max(part.high, -part.low)) < limit) continue;
        for (std::size_t i = start; i < start + count; ++i) {
            const double value = src.type == dtype::f64 ? *static_cast<const double*>(source.read_raw(i, 1))
                                                        : static_cast<double>(*source.read(i, 1));
            if (!std::isfinite(value)) return cast_obstacle{i, true};
            if (std::fabs(value) >= limit) return cast_obstacle{i, false};
        }
    }
    return std::nullopt;
}

}  // namespace bitmill
