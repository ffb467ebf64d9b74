// Matrices as blocks of GGUF and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/detail/float_source-inl.hpp>

namespace bitmill::detail {

// From here on a decoded matrix will not be found in a cache anyway: writing past them spares the read of every
// line that is about to be overwritten.
inline constexpr std::size_t stream_bytes = std::size_t{8} << 20;

inline error refuse(std::string message, error_code code = error_code::invalid_argument) {
    return {.code = code, .message = std::move(message)};
}

// What llama.cpp takes where a row is no multiple of 256.
inline scheme_type ggml_fallback(scheme_type type) {
    switch (type) {
        case scheme_type::q2_k:
        case scheme_type::q3_k: return scheme_type::q4_0;
        case scheme_type::q4_k: return scheme_type::q5_0;
        case scheme_type::q5_k: return scheme_type::q5_1;
        case scheme_type::iq4_xs: return scheme_type::iq4_nl;
        default: return scheme_type::q8_0;
    }
}

inline result<void> check_ggml(const scheme& s, std::uint64_t cols) {
    const auto& type = facts(s.type);
    const std::uint64_t block = type.ggml->block_elements;
    if (s.granularity != granularity::group || s.group_size != block)
        return refuse(std::string(type.name) + " has groups of " + std::to_string(block) +
                      " and no other granularity or group_size");
    if (cols % block == 0) return {};
    const char* other = cols % 32 != 0 ? "fp16" : facts(ggml_fallback(s.type)).name;
    return refuse(std::string(type.name) + " has blocks of " + std::to_string(block) +
                  ", which do not fill a row of " + std::to_string(cols) + "; " + other + " fits");
}

// Calls body(first element, blocks, their place) for runs of blocks that fit a cache.
template <class Body>
[[nodiscard]] result<void> walk_ggml(const ggml_facts& type, std::size_t elements, const Body& body) {
    for (std::size_t start = 0; start < elements; start += chunk_elements) {
        const std::size_t count = std::min(chunk_elements, elements - start);
        const std::size_t first = start / type.block_elements;
        if (auto done = body(start, count / type.block_elements, first * type.block_bytes); !done)
            return done;
    }
    return {};
}

inline result<error_metrics> encode_ggml(const scheme& s, const weight_view& view, encoded_view& dst,
                                         const encode_options& options) {
    const auto& table = kernels::active();
    const ggml_facts& type = *facts(s.type).ggml;
    const memory_source memory = memory_or_default(options.memory);
    float_source source(view, pruning_of(options), memory);
    float_source original(view, {}, memory);  // pruning is part of the error
    std::pmr::vector<float> decoded(options.measure ? chunk_elements : 0, memory);
    error_metrics metrics;
    const bool search = options.method == method::mse;
    auto done = walk_ggml(
        type, source.elements(),
        [&](std::size_t start, std::size_t blocks, std::size_t place) -> result<void> {
            const std::size_t count = blocks * type.block_elements;
            auto* to = reinterpret_cast<std::uint8_t*>(dst.codes + place);
            const std::size_t good =
                table.encode_ggml(source.read(start, count), blocks, type.type, search, to);
            if (good != blocks)
                return source.not_finite(start + good * type.block_elements, type.block_elements);
            if (!options.measure) return {};
            table.decode_ggml(to, blocks, type.type, decoded.data(), false);
            add_measured(metrics, options, true, {}, original.read(start, count), decoded.data(), count);
            return {};
        });
    if (!done) return done.error();
    return metrics;
}

inline result<void> decode_ggml(const scheme& s, const encoded_view& src, const matrix_view& dst,
                                memory_source memory) {
    const auto& table = kernels::active();
    const ggml_facts& type = *facts(s.type).ggml;
    float_sink sink(dst, memory);
    const bool stream = sink.direct() && dst.rows * dst.cols * sizeof(float) >= stream_bytes;
    return walk_ggml(type, dst.rows * dst.cols,
                     [&](std::size_t start, std::size_t blocks, std::size_t place) -> result<void> {
                         const std::size_t count = blocks * type.block_elements;
                         table.decode_ggml(reinterpret_cast<const std::uint8_t*>(src.codes + place), blocks,
                                           type.type, sink.room(start, count), stream);
                         sink.put(start, count);
                         return {};
                     });
}

}  // namespace bitmill::detail
