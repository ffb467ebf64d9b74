// manifest.json, which the mill leaves in every folder it writes: what was made of which source, with which request,
// and the hash of every byte. From it a folder can be checked alone (validate) or derived anew (verify).
#pragma once

#include <cstdint>
#include <string>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>

namespace bitmill {

struct verify_report {
    std::string source;  // "" for validate
    std::string model;
    std::string manifest_sha256;
    std::uint64_t files = 0;
    std::uint64_t tensors = 0;  // of the source
    std::uint64_t bytes = 0;    // of the files whose hashes were compared
    // Format bitmill: files of residual planes that the manifest lists and that are all gone, which leaves level int4.
    std::uint64_t residuals_missing = 0;
    double seconds = 0;

    // One JSON object with the fields above. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

// Whether every file that the manifest lists, and the manifest itself, is byte for byte what the mill wrote. Files
// that it does not list (another variant, a README put beside it) are not looked at; those of the residual planes may
// be missing, all together.
// Errors: refused (names the file, and the tensor where one is meant), io where there is no manifest, bad_input where
// it was never one, unsupported for a manifest of a later version. options: threads, memory_limit, run, memory,
// on_progress.
[[nodiscard]] result<verify_report> validate(const std::string& model, const work_options& options = {});

// Mills `source` once more as the manifest says, writing nothing, and compares every hash; then validates `model`.
// Errors: those of validate; refused where the source is not the one that was milled, or would give other bytes.
[[nodiscard]] result<verify_report> verify(const std::string& source, const std::string& model,
                                           const work_options& options = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/verify-inl.hpp>
#endif
