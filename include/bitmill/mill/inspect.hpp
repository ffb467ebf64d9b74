// What lies in a model folder: tensors, dtypes, schemes, sizes, shards.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {

struct shard_report {
    std::string name;
    std::uint64_t bytes = 0;
    std::uint64_t tensors = 0;  // as stored: codes and scales count apart
};

struct gguf_report {
    std::uint32_t version = 0;
    std::uint64_t alignment = 0;  // of tensors, in bytes
    std::uint64_t keys = 0;
    std::string architecture, name;  // general.architecture and general.name, "" where they are missing
};

struct inspect_report {
    std::string model;         // the folder
    std::string quant_method;  // as config.json has it; "gguf" of a GGUF file; "" for a plain checkpoint
    std::vector<shard_report> shards;  // then the files of residual planes
    std::vector<stored_tensor> tensors;
    std::optional<gguf_report> gguf;  // of a GGUF file only

    // How many tensors are stored in each way.
    [[nodiscard]] std::map<std::string, std::uint64_t> types() const;
    // One JSON object: model, quant_method, of a GGUF file gguf {version, alignment, keys, architecture, name, types
    // {TYPE: tensors}}, shards [{name, bytes, tensors}], tensors [{name, shape, dtype, stored_as, elements, bytes,
    // shard, and of a pickled model offset}]. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

// Reads headers and config.json, and no weights. Errors: those of checkpoint::open and read_stored.
[[nodiscard]] result<inspect_report> inspect(const std::string& model);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/inspect-inl.hpp>
#endif
