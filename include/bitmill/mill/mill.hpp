// The main job: a model folder in, a smaller one out that the ecosystem loads; and back.
#pragma once

#include <optional>
#include <string>

#include <bitmill/core/dtype.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

// Mills `model` (a Hugging Face folder or one file of weights) into the folder `out`, which appears whole or not at
// all; a .gguf into that file alone where `out` ends in .gguf. The same bytes for every instruction set, thread count
// and memory limit.
// Errors: bad_input (names file, tensor, offset), invalid_argument, unsupported, io, out_of_memory (the memory
// limit is smaller than one tile), cancelled. On an error `out` is what it was and nothing is left beside it; only
// an error whose message holds "the new folder is in place" comes after the swap. What a killed call left beside
// `out` the next one with the same source and options goes on with; any other deletes it.
//
// A pickled model (.pkl, .pickle, .joblib) becomes the file `out`, which pickle.load or joblib.load reads as before, with
// numpy alone: int8 and fp16 arrays are restored to their dtype by calls of numpy.multiply and numpy.array. Float arrays
// are coded but for class labels, search trees and what would not shrink; the rest is what it was, and nothing of the
// pickle is ever run. int8 becomes fp16 for vectors (but coef_), for numbers of one sign and under 20 dB of SNR; fp16
// under 50 dB stays. Pruned by weight_threshold only. Working memory: 4 MiB beside what pickle_model takes.
[[nodiscard]] result<mill_report> quantize(const std::string& model, const std::string& out,
                                           const mill_options& options);

// A plain checkpoint back from any quantized one that read_stored reads; a .gguf becomes a .gguf.
// `type`: f32, f16 or bf16 for every float tensor; unset: each tensor in the dtype it had before (from bitmill: coded
// ones in that of config.json). `level`: which one of a bitmill folder; unset: the highest that is there.
[[nodiscard]] result<mill_report> dequantize(const std::string& model, const std::string& out,
                                             std::optional<dtype> type, const work_options& options,
                                             std::optional<scheme_type> level = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/dequantize-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#endif
