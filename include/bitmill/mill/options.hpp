// What the caller asks of the mill. Names and defaults are those of the command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/parallel.hpp>

namespace bitmill {

// Container and conventions of the output. `automatic`: plain for fp32, fp16 and bf16, compressed_tensors for
// int8 and int4, bitsandbytes for nf4 and fp4, bitmill for int2. `bitmill` is our own: int8 lies in it as two planes,
// so that one folder holds the levels int8 and int4, and embeddings are coded, too. `gguf` is what a .gguf file becomes,
// whose names and keys stay, `pickle` what a pickled model becomes; `automatic` takes them for such sources.
enum class format : std::uint8_t {
    automatic,
    plain,
    compressed_tensors,
    bitsandbytes,
    bitmill,
    gguf,
    pickle
};
[[nodiscard]] const char* to_text(format value) noexcept;
[[nodiscard]] result<format> format_from_text(std::string_view text);
[[nodiscard]] result<granularity> granularity_from_text(
    std::string_view text);                                            // per_tensor, per_channel, group
[[nodiscard]] result<method> method_from_text(std::string_view text);  // absmax, mse

// What a reader does with the inputs of a milled Linear. dynamic_int8 writes W8A8 (int-quantized).
enum class activation : std::uint8_t {
    floating,
    dynamic_int8
};
[[nodiscard]] result<activation> activation_from_text(std::string_view text);  // float, dynamic-int8

enum class embeddings : std::uint8_t {
    keep,
    fp16,
    int8
};
[[nodiscard]] result<embeddings> embeddings_from_text(std::string_view text);  // keep, fp16, int8

// "int8", "int4", "nf4", "fp4", "fp16", "bf16", "fp32", and the names of torchao's pipeline:
// int8_weight_only, int4_weight_only, int8_dynamic (which also sets the activation).
struct level_choice {
    scheme_type type;
    bitmill::activation activation = activation::floating;
};
[[nodiscard]] result<level_choice> level_from_text(std::string_view text);

// Levels of a bitmill folder, such as "int8,int4".
[[nodiscard]] result<std::vector<scheme_type>> levels_from_text(std::string_view text);

// For dequantize: f32, f16, bf16; torch's names (float32 ...) too.
[[nodiscard]] result<dtype> float_dtype_from_text(std::string_view text);

struct progress {
    std::uint64_t done_bytes = 0;  // of the source
    std::uint64_t total_bytes = 0;
};

enum class log_level : std::uint8_t {
    info = 1,
    warning = 2
};

// What quantize and dequantize share.
struct work_options {
    // Cap on working memory, in bytes: whole-process RSS stays below it + 64 MiB. It bounds how many tiles are
    // in flight and changes no byte of the output.
    std::uint64_t memory_limit = std::uint64_t{256} << 20;
    unsigned threads = 0;            // 0: one per core
    parallel_for run;                // the host's own threads; empty: ours
    memory_source memory = nullptr;  // the host's own memory for tiles and scratch
    bool force = false;              // replace an output that exists
    bool dry_run = false;            // plan and report exact sizes, write nothing
    // Called after every tile, from any thread, one call at a time. Returning false cancels. Work of several passes
    // (is it milled already? the first variant, the second) counts each from 0.
    std::function<bool(const progress&)> on_progress;
    // What a person would want to know, one line of UTF-8 at a time, from the calling thread: what begins and ends
    // (info), each tensor that does not become what was asked for (info), each warning of the report.
    std::function<void(log_level, const std::string&)> on_log;
};

struct mill_options : work_options {
    scheme_type to = scheme_type::int8;
    bitmill::format format = format::automatic;
    std::optional<bitmill::granularity> granularity;  // per_tensor, per_channel, group; unset: by level
    std::size_t group_size = 0;                       // with granularity group
    std::size_t block_size = 64;                      // nf4, fp4
    bool double_quant = false;
    bool symmetric = true;
    std::optional<bitmill::method> method;  // unset: mse for int4, int2 and planes, else absmax
    bitmill::activation activation = activation::floating;
    std::optional<bitmill::embeddings> embeddings;  // unset: int8 in format bitmill, else keep
    std::vector<scheme_type> levels;   // format bitmill: unset: int8 and int4 for int8, else `to` alone
    std::vector<std::string> include;  // ECMAScript regular expressions, searched in tensor names
    std::vector<std::string> exclude;
    std::vector<std::string> override;  // "RE=SCHEME", SCHEME as in scheme_from_text; the last wins
    bool strict = false;                // a deviation from the request is an error
    // Pruning before coding, of the milled tensors that have two dimensions or more and are no biases; at most one of
    // the three is not 0. Compared as f32.
    float weight_threshold = 0;  // |w| below it becomes 0
    double prune_relative = 0;   // |w| below this share of the tensor's largest |w| becomes 0; 0 to 1
    double target_sparsity =
        0;  // of n weights the ceil(n * this) smallest |w| become 0, of equals the first ones; below 1
    // per_tensor only: false takes one range for the whole model instead of each tensor's own.
    bool dynamic_range = true;
    bool keep_non_finite = false;  // keep tensors with NaN or Inf instead of refusing the model
    // Go on where a killed run with the same source and options stopped; off: what it left is deleted, and neither
    // can this one be resumed.
    bool resume = true;
    // Of the source, after which what was written is brought to disk and noted: what a kill costs at most.
    std::uint64_t journal_bytes = std::uint64_t{256} << 20;
};

// The three settings of the ModelQuantizer in Python: bit_depth 8 = int8 per tensor, 16 = fp16, 32 = copy and prune only;
// use_dynamic_quantization false = one range for the whole model. Errors: invalid_argument.
[[nodiscard]] result<mill_options> options_from_bit_depth(int bit_depth, float weight_threshold = 0.001f,
                                                          bool use_dynamic_quantization = true);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/options-inl.hpp>
#endif
