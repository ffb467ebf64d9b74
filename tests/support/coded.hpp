// One encoded matrix whose parts lie between guard bytes, and a decoder of our own that unpacks it bit by bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>

#include <weights.hpp>

namespace bitmill_test {

// std::string's buffer is not aligned for f64, nor a vector of chars by contract.
class aligned_bytes {
public:
    explicit aligned_bytes(const std::string& bytes) : words_(bytes.size() / 8 + 1) {
        if (!bytes.empty()) std::memcpy(words_.data(), bytes.data(), bytes.size());
    }
    [[nodiscard]] const void* data() const { return words_.data(); }

private:
    std::vector<std::uint64_t> words_;
};

class guarded {
public:
    explicit guarded(std::uint64_t bytes)
        : bytes_(static_cast<std::size_t>(bytes)), store_(bytes_ + 2 * guard, mark) {}
    [[nodiscard]] std::byte* data() { return store_.data() + guard; }
    [[nodiscard]] std::size_t size() const { return bytes_; }
    [[nodiscard]] bool intact() const {
        const auto is_mark = [](std::byte b) { return b == mark; };
        return std::all_of(store_.begin(), store_.begin() + guard, is_mark) &&
               std::all_of(store_.end() - guard, store_.end(), is_mark);
    }
    [[nodiscard]] std::string text() { return {reinterpret_cast<const char*>(data()), bytes_}; }

private:
    static constexpr std::ptrdiff_t guard = 64;  // also keeps the alignment that operator new gives
    static constexpr std::byte mark{0xa5};
    std::size_t bytes_;
    std::vector<std::byte> store_;
};

struct coded_matrix {
    bitmill::scheme scheme;
    std::size_t rows;
    std::size_t cols;
    guarded codes, scales, zero_points, nested_scales, residual;
    bitmill::encoded_view view{};
    bitmill::error_metrics metrics{};

    coded_matrix(const bitmill::scheme& s, std::size_t r, std::size_t c, const bitmill::encoded_sizes& sizes)
        : scheme(s), rows(r), cols(c), codes(sizes.codes), scales(sizes.scales),
          zero_points(sizes.zero_points), nested_scales(sizes.nested_scales), residual(sizes.residual) {
        view = {codes.data(), scales.data(), zero_points.data(), nested_scales.data(), 0, residual.data()};
    }
    coded_matrix(const coded_matrix&) = delete;
    coded_matrix& operator=(const coded_matrix&) = delete;

    [[nodiscard]] bool intact() const {
        return codes.intact() && scales.intact() && zero_points.intact() && nested_scales.intact() &&
               residual.intact();
    }
    [[nodiscard]] std::string all_bytes() {
        return codes.text() + scales.text() + zero_points.text() + nested_scales.text() + residual.text();
    }
    // Bytes of the decoded matrix; "guard" where decode wrote beyond it.
    [[nodiscard]] std::string decoded(bitmill::dtype type) {
        guarded out(rows * cols * bitmill::element_bytes(type));
        bitmill::decode(scheme, view, rows, cols, type, out.data()).value();
        return out.intact() ? out.text() : "guard";
    }

    // --- our own reading of the parts -------------------------------------------------------------------
    [[nodiscard]] std::size_t group() const {
        return scheme.granularity == bitmill::granularity::per_channel ? cols
               : scheme.granularity == bitmill::granularity::per_tensor
                   ? std::max<std::size_t>(rows * cols, 1)
                   : scheme.group_size;
    }
    // Of a code_at(): with planes a 16th of what is stored.
    [[nodiscard]] float scale_at(std::size_t index) {
        const auto stored = static_cast<float>(values_of(
            scheme.scale_dtype, scales.data() + index * bitmill::element_bytes(scheme.scale_dtype), 1)[0]);
        return scheme.planes ? stored / 16 : stored;
    }
    [[nodiscard]] float zero_at(std::size_t index) {
        if (scheme.symmetric) return 0;
        const auto stored = static_cast<float>(static_cast<std::int8_t>(zero_points.data()[index]));
        return scheme.type == bitmill::scheme_type::int2 ? stored / 32 : stored;
    }
    [[nodiscard]] int lowest_code() const { return -(1 << (bitmill::facts(scheme.type).bits - 1)); }
    // The signed code of an element.
    [[nodiscard]] int code_at(std::size_t row, std::size_t col) {
        const std::size_t bits = scheme.planes ? 4 : bitmill::facts(scheme.type).bits;
        std::size_t row_bytes = (cols * bits + 7) / 8;
        row_bytes = (row_bytes + scheme.row_alignment - 1) / scheme.row_alignment * scheme.row_alignment;
        const std::size_t at = row * row_bytes + col * bits / 8;
        const auto byte = static_cast<int>(codes.data()[at]);
        const auto nibble = [&](int both) { return (col % 2 == 0 ? both & 15 : both >> 4) - 8; };
        if (scheme.planes) return 16 * nibble(byte) + nibble(static_cast<int>(residual.data()[at]));
        if (bits == 4) return nibble(byte);
        if (bits == 2) return (byte >> 2 * (col % 4) & 3) - 2;
        return scheme.offset_binary ? byte - 128 : byte < 128 ? byte : byte - 256;
    }
    [[nodiscard]] unsigned book_code_at(std::size_t index) {
        const auto byte = static_cast<unsigned>(codes.data()[index / 2]);
        return index % 2 == 0 ? byte >> 4 : byte & 15;
    }
    [[nodiscard]] float absmax_at(std::size_t block) {
        float value = 0;
        if (!scheme.double_quant) {
            std::memcpy(&value, scales.data() + block * 4, 4);
            return value;
        }
        std::memcpy(&value, nested_scales.data() + block / 256 * 4, 4);
        const float share = bitmill::dynamic_map()[static_cast<std::size_t>(scales.data()[block])] * value;
        return share + view.nested_offset;
    }
};

inline bitmill::weight_view view_of(bitmill::dtype type, const aligned_bytes& data, std::size_t rows,
                                    std::size_t cols) {
    return {type, data.data(), rows, cols};
}

// --- the schemes that the tests walk over ---------------------------------------------------------------
struct coding {
    bitmill::scheme scheme;
    bitmill::method method = bitmill::method::absmax;
};

inline std::vector<coding> codings_for(std::size_t cols) {
    using bitmill::dtype;
    using bitmill::granularity;
    using bitmill::method;
    using bitmill::scheme_type;
    std::vector<coding> out;
    for (const auto type : {scheme_type::f32, scheme_type::f16, scheme_type::bf16})
        out.push_back({{.type = type}});
    unsigned turn = 0;
    for (const auto type : {scheme_type::int8, scheme_type::int4, scheme_type::int2}) {
        for (const bool symmetric : {true, false}) {
            for (const auto how : {method::absmax, method::mse}) {
                for (const std::size_t group :
                     {std::size_t{0}, std::size_t{1}, std::size_t{32}, std::size_t{128}, cols}) {
                    bitmill::scheme s{.type = type, .symmetric = symmetric};
                    if (group > 1 && (cols == 0 || cols % group != 0)) continue;
                    s.granularity = group == 0   ? granularity::per_tensor
                                    : group == 1 ? granularity::per_channel
                                                 : granularity::group;
                    if (group > 1) s.group_size = group;
                    if (group == 0 && how == method::mse) continue;
                    constexpr dtype types[] = {dtype::f32, dtype::f16, dtype::bf16};
                    s.scale_dtype = types[turn % 3];
                    s.offset_binary = turn % 2 == 0;
                    s.row_alignment = turn % 4 < 2 ? 4 : 1;
                    ++turn;
                    out.push_back({s, how});
                }
            }
        }
    }
    for (const auto how : {method::absmax, method::mse})
        for (const std::size_t group : {std::size_t{1}, std::size_t{32}, std::size_t{128}, cols}) {
            if (group == 0 || (group > 1 && (cols == 0 || cols % group != 0))) continue;
            out.push_back({{.type = scheme_type::int8,
                            .granularity = group == 1 ? granularity::per_channel : granularity::group,
                            .group_size = group == 1 ? 0 : group,
                            .scale_dtype = group == 32 ? dtype::bf16 : dtype::f16,
                            .row_alignment = group == 128 ? 4u : 1u,
                            .planes = true},
                           how});
        }
    for (const auto type : {scheme_type::nf4, scheme_type::fp4})
        for (const std::size_t block : {std::size_t{32}, std::size_t{64}, std::size_t{4096}})
            for (const bool nested : {false, true})
                out.push_back({{.type = type,
                                .granularity = granularity::block,
                                .group_size = block,
                                .double_quant = nested}});
    for (const auto& row : bitmill::scheme_table)
        if (row.ggml != nullptr && row.encodes && cols % row.ggml->block_elements == 0)
            for (const auto how : {method::absmax, method::mse})
                out.push_back({bitmill::ggml_scheme(row.type), how});
    return out;
}

}  // namespace bitmill_test
