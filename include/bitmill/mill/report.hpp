// What the mill did to every tensor, and why.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/codec/metrics.hpp>
#include <bitmill/core/config.hpp>
#include <bitmill/core/dtype.hpp>

namespace bitmill {

struct tensor_report {
    std::string name;
    std::vector<std::uint64_t> shape;
    dtype source_dtype = dtype::f32;
    std::string requested;  // "int4 group 128", or "keep"
    std::string effective;  // what was done; "tied": not written, since a reader takes another tensor for it
    std::string reason;     // why effective is not what was requested, or why nothing was requested
    std::uint64_t elements = 0;
    std::uint64_t source_bytes = 0;
    std::uint64_t bytes = 0;  // with scales and all else that belongs to it
    bool measured = false;    // coded, and not a dry run: error is valid, and its zeros are counted
    error_metrics error;
    // Where it lies in two planes: the share of `bytes` of the residual, and the error without it.
    std::uint64_t residual_bytes = 0;
    std::optional<error_metrics> base_error;
};

struct mill_report {
    std::string source;
    std::string output;
    std::string requested;  // "int8 per_channel"
    std::string format;
    std::string method;
    std::string pruning;  // "target_sparsity 0.5", "" where none was asked for
    bool dry_run = false;
    bool already_milled = false;  // the output held just this, byte for byte: nothing was written or measured
    std::vector<tensor_report> tensors;  // in the order of the source's files
    std::uint64_t parameters = 0;        // elements of float tensors
    std::uint64_t source_bytes = 0;      // of weight files, as they lie
    std::uint64_t bytes = 0;             // of the new weight files, exact also in a dry run
    std::uint64_t residual_bytes = 0;    // of `bytes`: the files of the residual planes
    std::uint64_t side_bytes = 0;        // of the files that came along
    std::uint64_t resumed_bytes = 0;     // of the source's weights, that a killed run had milled already
    double seconds = 0;
    std::vector<std::string> warnings;

    // Bits per weight over what was coded (not over kept tensors), and over the whole model.
    [[nodiscard]] double coded_bits_per_weight() const;
    [[nodiscard]] double bits_per_weight() const;
    // Error over all coded tensors together.
    [[nodiscard]] error_metrics error() const;
    // The same without the residual planes: what the lower level of the folder costs.
    [[nodiscard]] error_metrics base_error() const;
    // One JSON object with the fields above, by the same names, and the ratios that follow from them; numbers that
    // are not finite (the SNR of an exact copy) are null. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/report-inl.hpp>
#endif
