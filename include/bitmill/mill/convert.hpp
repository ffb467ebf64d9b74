// The same integers in another container.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

// `gptq`: version 1 with an ordered g_idx. `awq`: layout "gemm", 4 bits. `gguf`: blocks Q4_0 and Q8_0.
enum class container : std::uint8_t {
    compressed_tensors,
    gptq,
    awq,
    gguf
};
[[nodiscard]] const char* to_text(container value) noexcept;
[[nodiscard]] result<container> container_from_text(
    std::string_view text);  // compressed-tensors, gptq, awq, gguf

struct convert_options : work_options {
    // The same model on the other side of GGUF, which says what `model` does not: into GGUF a .gguf of
    // convert_hf_to_gguf.py, whose keys, order, norms and embeddings the output takes; out of it the plain
    // Hugging Face folder. Empty for all else.
    std::string like;
};

// Writes the integers, zero points and scales of `model` (pack-quantized compressed-tensors, GPTQ, AWQ,
// AutoRound or format bitmill without planes; into GGUF also int-quantized) as `to` has them into the
// folder `out`: every weight means in F32, bit by bit, what it meant. All else is copied. A coded weight is
// held whole, twice, and the memory limit counts that. The same bytes for every thread count. Safe from
// many threads.
// GGUF: architectures llama, qwen2, qwen3, gemma2 and gemma3; `out` is then one file and ends in .gguf. A
// .gguf as `model` becomes compressed_tensors only: its Q4_0 and Q8_0 are groups of 32, and embeddings and
// head are those of `like`. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
// Errors: unsupported, naming the tensor, where one weight does not go over exactly: act-order, a short
// last group, zero points that the container cannot say, scales that F16 does not hold, blocks of GGUF that
// have minima or scales of scales, scales that are NaN or infinite (in a .gguf bad_input); invalid_argument where
// `like` is missing or another model: its keys are not those of config.json, or one row of one tensor is further
// away than both types round; else those of dequantize. On an error `out` is what it was.
[[nodiscard]] result<mill_report> convert(const std::string& model, const std::string& out, container to,
                                          const convert_options& options);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/convert-inl.hpp>
#endif
