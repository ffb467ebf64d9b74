// One repository: a model with its variants beside it, each a complete folder.
#pragma once

#include <string>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

struct repository_report {
    std::string source;
    std::string output;                 // the folder that holds the variants
    std::vector<mill_report> variants;  // output/int8, output/int4
    double seconds = 0;

    // One JSON object: source, output, seconds, "variants" with the level of each. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

// Writes the variants OUT/int8 and OUT/int4, then OUT/metadata.json; OUT "" is the model's own folder. options.to is
// not read; group_size is int4's, int8 has a scale for each row unless a granularity says otherwise. A variant that is
// there already, byte for byte, is not milled again, so a call that was cut off goes on with the one that is missing.
// metadata.json is the registry's record of the model: model_name, model_type, version, created_at, is_quantized,
// source, dimensions (null where config.json does not tell); it is replaced in one step when a variant was made, and
// nothing is decided by it. Errors: those of quantize, for the first variant that fails; those before it stay.
[[nodiscard]] result<repository_report> quantize_both(const std::string& model, const std::string& out,
                                                      const mill_options& options);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/variants-inl.hpp>
#endif
