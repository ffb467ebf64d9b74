// A folder of models at once, by three settings: bit depth, pruning threshold, range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

// What became of one model of a batch.
struct batch_row {
    std::string name;  // of the folder, or of the file without its ending
    std::string source;
    std::string output;                 // "" where it failed
    std::optional<mill_report> report;  // of its tensors; empty where it failed
    bitmill::error failure;             // why

    // Of the weight files; 0 where it failed or was 0 bytes long. Never negative: what would grow stays as it was, but
    // for headers.
    [[nodiscard]] double file_size_reduction_percent() const;
};

struct batch_report {
    std::string source;
    std::string output;
    std::vector<batch_row> models;  // by name
    double seconds = 0;

    [[nodiscard]] std::size_t failed() const;
    // Over the models that succeeded.
    [[nodiscard]] std::uint64_t source_bytes() const;
    [[nodiscard]] std::uint64_t bytes() const;
    [[nodiscard]] double overall_size_reduction_percent() const;
    // {"models": {NAME: {status, source, output, original_size_bytes, quantized_size_bytes,
    // file_size_reduction_percent, ... or error}}, "summary": {...}}. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

// bit_depth 8: int8, one scale a tensor (Q8_0 in a .gguf); 16: fp16; 32: copied and pruned. Weights below
// weight_threshold in magnitude become 0, but those of pickled models, where it is `quantize` that prunes.
// use_dynamic_quantization: a scale from each tensor's own range; false: one range for the whole model.
// Immutable; calls are safe from many threads.
class model_quantizer {
public:
    // Whatever else is asked of every model; the calls bring their own work_options. It is checked model by model.
    explicit model_quantizer(mill_options options) : options_(std::move(options)) {}

    // Errors: invalid_argument.
    [[nodiscard]] static result<model_quantizer> create(int bit_depth = 8, float weight_threshold = 0.001f,
                                                        bool use_dynamic_quantization = true);

    // One model folder, weight file or pickled model. output "": quantized/NAME beside the model, whose folder is made.
    // A .gguf file and a pickled model become files of their own names there. `work`: threads, memory, progress, log,
    // force, dry_run. Errors: those of quantize.
    [[nodiscard]] result<mill_report> quantize_model_file(const std::string& model,
                                                          const std::string& output = {},
                                                          const work_options& work = {}) const;

    // Every model that lies in `model_dir`: folders with weights, weight files, pickled models. Each becomes
    // output_dir/NAME, and one that fails does not stop the others. `names`: only these (all where it is empty).
    // output_dir "": model_dir/quantized. Errors: io and invalid_argument where nothing could be begun, cancelled.
    [[nodiscard]] result<batch_report> batch_quantize_models(const std::string& model_dir,
                                                             const std::string& output_dir = {},
                                                             const std::vector<std::string>& names = {},
                                                             const work_options& work = {}) const;

private:
    mill_options options_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/model_quantizer-inl.hpp>
#endif
