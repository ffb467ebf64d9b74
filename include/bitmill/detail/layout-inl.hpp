// Which tensors a coded tensor becomes in each container, and the constant bytes among them.
#pragma once

#include <cstring>

#include <nlohmann/json.hpp>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill {
namespace detail {

// A name and its numbers in the file's header: what one more tensor costs besides its bytes.
inline constexpr std::uint64_t header_entry_bytes = 100;

template <class T>
inline std::string bytes_of(const T* values, std::size_t count) {
    return {reinterpret_cast<const char*>(values), count * sizeof(T)};
}

inline output_part constant_part(std::string name, dtype type, std::vector<std::uint64_t> shape,
                                 std::string bytes) {
    output_part part{output_part::kind::constant, std::move(name), type, std::move(shape), bytes.size(), {}};
    part.constant = std::move(bytes);
    return part;
}

// compressed-tensors 0.20, pack-quantized: weight_packed I32, weight_scale, weight_shape; int-quantized (with
// activations): weight I8, weight_scale.
inline std::vector<output_part> compressed_tensors_parts(const planned_tensor& t,
                                                         const encoded_sizes& sizes) {
    const scheme& s = *t.effective;
    const std::string module = t.name.substr(0, t.name.rfind('.'));
    std::vector<output_part> parts;
    if (s.offset_binary || s.type != scheme_type::int8) {
        const std::uint64_t words = t.rows() == 0 ? 0 : sizes.codes / t.rows() / 4;
        parts.push_back({output_part::kind::codes,
                         module + ".weight_packed",
                         dtype::i32,
                         {t.rows(), words},
                         sizes.codes,
                         {}});
    } else {
        parts.push_back(
            {output_part::kind::codes, module + ".weight", dtype::i8, {t.rows(), t.cols()}, sizes.codes, {}});
    }
    std::vector<std::uint64_t> scale_shape{1};
    if (s.granularity == granularity::per_channel) scale_shape = {t.rows(), 1};
    if (s.granularity == granularity::group) scale_shape = {t.rows(), t.cols() / s.group_size};
    parts.push_back({output_part::kind::scales,
                     module + ".weight_scale",
                     s.scale_dtype,
                     std::move(scale_shape),
                     sizes.scales,
                     {}});
    if (parts.front().type == dtype::i32) {
        const std::uint64_t shape[] = {t.rows(), t.cols()};
        parts.push_back(constant_part(module + ".weight_shape", dtype::i64, {2}, bytes_of(shape, 2)));
    }
    return parts;
}

// bitmill's own: as pack-quantized, with weight_zero_point I8 [as the scales] where it is asymmetric, and
// weight_residual U8 [out, bytes of a row of weight_packed] where it lies in planes.
inline std::vector<output_part> bitmill_parts(const planned_tensor& t, const encoded_sizes& sizes) {
    std::vector<output_part> parts = compressed_tensors_parts(t, sizes);
    const std::string module = t.name.substr(0, t.name.rfind('.'));
    if (sizes.zero_points != 0)
        parts.push_back({output_part::kind::zero_points,
                         module + ".weight_zero_point",
                         dtype::i8,
                         parts[1].shape,
                         sizes.zero_points,
                         {}});
    if (sizes.residual != 0)
        parts.push_back({output_part::kind::residual,
                         module + ".weight_residual",
                         dtype::u8,
                         {t.rows(), sizes.residual / t.rows()},
                         sizes.residual,
                         {}});
    return parts;
}

// bitsandbytes decodes to f16, bf16 or f32.
inline std::string_view state_dtype(dtype source) {
    return facts(source == dtype::f64 ? dtype::f32 : source).torch;
}

// bitsandbytes 0.50: codes as [n / 2, 1], block maxima, and the quant_state as JSON bytes, spelled as Python
// spells it so that the file equals the official writer's.
inline std::vector<output_part> bitsandbytes_parts(const planned_tensor& t, const encoded_sizes& sizes) {
    const scheme& s = *t.effective;
    const std::string type = facts(s.type).name;
    std::vector<output_part> parts;
    parts.push_back({output_part::kind::codes, t.name, dtype::u8, {sizes.codes, 1}, sizes.codes, {}});
    const std::uint64_t blocks = ceil_div(t.elements, s.group_size);
    parts.push_back({output_part::kind::scales,
                     t.name + ".absmax",
                     s.double_quant ? dtype::u8 : dtype::f32,
                     {blocks},
                     sizes.scales,
                     {}});
    parts.push_back(
        constant_part(t.name + ".quant_map", dtype::f32, {16}, bytes_of(book_of(s.type).value, 16)));
    std::string state = "{\"quant_type\": \"" + type + "\", \"blocksize\": " + std::to_string(s.group_size) +
                        ", \"dtype\": \"" + std::string(state_dtype(t.source_dtype)) + "\", \"shape\": [" +
                        std::to_string(t.rows()) + ", " + std::to_string(t.cols()) + "]";
    if (s.double_quant) {
        parts.push_back({output_part::kind::nested_scales,
                         t.name + ".nested_absmax",
                         dtype::f32,
                         {sizes.nested_scales / 4},
                         sizes.nested_scales,
                         {}});
        parts.push_back(constant_part(t.name + ".nested_quant_map", dtype::f32, {256},
                                      bytes_of(dynamic_map().data(), 256)));
        state += ", \"nested_blocksize\": " + std::to_string(nested_block) +
                 ", \"nested_dtype\": \"float32\", \"nested_offset\": " +
                 nlohmann::json(static_cast<double>(t.nested_offset.value_or(0))).dump();
    }
    state += "}";
    const std::uint64_t length = state.size();
    parts.push_back(
        constant_part(t.name + ".quant_state.bitsandbytes__" + type, dtype::u8, {length}, std::move(state)));
    return parts;
}

// GGUF: rows of blocks, under the name that the weights have.
inline std::vector<output_part> gguf_parts(const planned_tensor& t, const encoded_sizes& sizes) {
    return {{output_part::kind::codes,
             t.name,
             dtype::u8,
             t.shape,
             sizes.codes,
             {},
             facts(t.effective->type).ggml->type}};
}

inline std::uint64_t total_bytes(const std::vector<output_part>& parts) {
    std::uint64_t sum = 0;
    for (const auto& part : parts) sum += part.bytes;
    return sum;
}

inline std::vector<output_part> copied(const planned_tensor& t) {
    const auto what = t.coded ? output_part::kind::codes : output_part::kind::copy;
    return {{what, t.name, t.source_dtype, t.shape, t.kept_bytes(), {}, t.coded ? std::nullopt : t.block}};
}

}  // namespace detail

BITMILL_INLINE result<void> lay_out(mill_plan& plan, bool strict) {
    for (auto& t : plan.tensors) {
        if (!t.tied_to.empty()) continue;
        if (!t.effective) {
            t.parts = detail::copied(t);
            continue;
        }
        const scheme& s = *t.effective;
        const auto& type = facts(s.type);
        auto sizes = encode_bound(s, t.rows(), t.cols());
        if (!sizes) {
            error what = sizes.error();
            what.tensor = t.name;
            return what;
        }
        if (is_plain(s.type)) {
            t.parts = {{output_part::kind::codes, t.name, type.plain, t.shape, sizes->codes, {}}};
            continue;
        }
        t.parts = type.ggml != nullptr             ? detail::gguf_parts(t, *sizes)
                  : plan.format == format::bitmill ? detail::bitmill_parts(t, *sizes)
                  : type.integer                   ? detail::compressed_tensors_parts(t, *sizes)
                                                   : detail::bitsandbytes_parts(t, *sizes);
        const std::uint64_t bytes =
            detail::total_bytes(t.parts) + detail::header_entry_bytes * (t.parts.size() - 1);
        if (bytes < t.kept_bytes()) continue;
        const std::string reason = "would not shrink: " + std::to_string(t.kept_bytes()) + " bytes to " +
                                   std::to_string(bytes) + " with scales and header";
        if (auto kept = keep(t, reason, strict); !kept) return kept;
        t.parts = detail::copied(t);
    }
    return {};
}

}  // namespace bitmill
