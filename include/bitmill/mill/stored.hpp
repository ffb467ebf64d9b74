// The logical tensors of a checkpoint, plain or quantized: several stored tensors (codes, scales ...) are one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/io/checkpoint.hpp>

namespace bitmill {

struct stored_tensor {
    std::string name;                       // of the weight: "encoder.layer.0.output.dense.weight"
    std::vector<std::uint64_t> shape;       // of the weight, whatever its codes' shape is
    dtype type = dtype::f32;                // that it had, or has where it is not coded
    std::optional<bitmill::scheme> scheme;  // empty: stored as it is
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;  // of all stored tensors that belong to it

    checkpoint::location codes{};
    checkpoint::location scales{};         // coded tensors only
    checkpoint::location nested_scales{};  // double_quant only
    checkpoint::location zero_points{};    // asymmetric only
    checkpoint::location residual{};       // planes only: shard counts in stored_model::residuals
    float nested_offset = 0;
};

struct stored_model {
    std::string quant_method;  // as config.json has it; "gguf" of a GGUF file; "" for a plain checkpoint
    std::vector<stored_tensor> tensors;
    // Format bitmill: the residual planes beside each shard, where they are there and wanted.
    std::vector<std::optional<weight_file>> residuals;

    [[nodiscard]] const weight_file& residual_of(const stored_tensor& t) const {
        return *residuals.at(t.residual.shard);
    }
};

// Reads compressed-tensors (pack-quantized and int-quantized, symmetric, 8 and 4 bits), bitsandbytes (nf4, fp4),
// bitmill and GGUF. `level`: of a bitmill folder that has several; unset: the highest whose files are there.
// Errors: bad_input where the tensors of a weight do not fit together (names file and tensor), unsupported for
// another quantization method, invalid_argument for a level that the folder has not.
[[nodiscard]] result<stored_model> read_stored(const checkpoint& model,
                                               std::optional<scheme_type> level = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/stored-inl.hpp>
#endif
