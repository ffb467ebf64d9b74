// The logical tensors of a checkpoint, plain or quantized: several stored tensors (codes, scales ...) are one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/io/checkpoint.hpp>

namespace bitmill {

// Codes that lie as other quantizers put them, which no scheme says: integers of 2, 4 or 8 bits or e4m3 floats.
// Element (row, col) is (code - zero point) * scale of group (row / row_block, col / col_block or g_idx[col]).
struct foreign_codes {
    enum class order : std::uint8_t {
        bytes,        // [out, in], one in a byte: I8 or e4m3
        packed_rows,  // [out, words]: along in, low bits first, each row filled to a word
        gptq,         // [in / n, out] words of n codes of one column of the file, low bits first
        awq,          // [in, out / 8] words of 8 codes in the order 0 2 4 6 1 3 5 7
    };
    enum class zero_points : std::uint8_t {
        none,        // 0, of packed codes the middle of the range
        bytes,       // I8, as the scales lie
        packed_out,  // [words along out, groups], as packed_rows
        gptq_v1,     // [groups, words along out], less 1
        gptq_v2,     // [groups, words along out]
        awq,         // [groups, out / 8], as the codes
    };
    order codes = order::bytes;
    zero_points zeros = zero_points::none;
    unsigned bits = 8;
    bool e4m3 = false;
    bool by_group = false;        // scales are [groups, out] rather than [out, groups]
    std::uint64_t row_block = 1;  // rows that share their scales
    std::uint64_t col_block = 1;  // columns that share a scale, where there is no g_idx
    std::optional<checkpoint::location> g_idx;
    std::uint64_t g_idx_groups = 0;
    float factor = 1;  // behind the scale
    std::string text;  // "int4 group 128 asymmetric", "fp8 per_channel"

    [[nodiscard]] std::uint64_t groups(std::uint64_t cols) const {
        return g_idx ? g_idx_groups : ceil_div(cols, col_block);
    }
};

struct stored_tensor {
    std::string name;                  // of the weight: "encoder.layer.0.output.dense.weight"
    std::vector<std::uint64_t> shape;  // of the weight, whatever its codes' shape is
    dtype type = dtype::f32;           // that it had, or has where it is not coded
    // At most one of the two; none: stored as it is.
    std::optional<bitmill::scheme> scheme;
    std::optional<foreign_codes> foreign;
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;              // of all stored tensors that belong to it
    std::optional<std::uint64_t> offset;  // of its elements in the file; pickled models only

    checkpoint::location codes{};
    checkpoint::location scales{};         // coded tensors only
    checkpoint::location nested_scales{};  // double_quant only
    checkpoint::location zero_points{};    // asymmetric only
    checkpoint::location residual{};       // planes only: shard counts in stored_model::residuals
    float nested_offset = 0;

    [[nodiscard]] bool coded() const { return scheme || foreign; }
};

// "int4 group 128", "Q4_K", or the dtype of a tensor that is not coded.
[[nodiscard]] inline std::string stored_as(const stored_tensor& t) {
    if (t.scheme && facts(t.scheme->type).ggml != nullptr)
        return std::string(facts(t.scheme->type).ggml->name);
    return t.scheme ? to_text(*t.scheme) : t.foreign ? t.foreign->text : std::string(facts(t.type).name);
}

struct stored_model {
    std::string quant_method;  // as config.json has it; "gguf" of a GGUF file; "" for a plain checkpoint
    std::vector<stored_tensor> tensors;
    // Format bitmill: the residual planes beside each shard, where they are there and wanted.
    std::vector<std::optional<weight_file>> residuals;

    [[nodiscard]] const weight_file& residual_of(const stored_tensor& t) const {
        return *residuals.at(t.residual.shard);
    }
};

// Reads compressed-tensors (pack-, int-, naive- and float-quantized: integers of 8, 4 and 2 bits, e4m3), bitsandbytes
// (nf4, fp4, int8), GPTQ (8, 4 and 2 bits, v1 and v2), AWQ (gemm), AutoRound in the layout of either, torchao (Int8,
// Float8 and IntxUnpackedToInt8 tensors), the FP8 of transformers, bitmill and GGUF. `level`: of a bitmill folder that
// has several; unset: the highest whose files are there.
// A folder of GPTQ without quantization_config is read by its quantize_config.json.
// Errors: bad_input where the tensors of a weight do not fit together, lie there and nothing says how to read them, or
// stand beside the plain weight (names file and tensor), unsupported for another quantization method or a config that
// says more than the codes of weights (kv_cache_scheme, transform_config, output_activations, sparsity_config),
// invalid_argument for a level that the folder has not.
[[nodiscard]] result<stored_model> read_stored(const checkpoint& model,
                                               std::optional<scheme_type> level = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/stored-inl.hpp>
#endif
