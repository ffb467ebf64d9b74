// One model = config + tensors + the files beside them, whatever the container.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/weight_file.hpp>

namespace bitmill {

namespace detail {
class weight_map;
}

struct side_file {
    std::string name;  // relative to the model's folder, '/' between parts
    std::uint64_t bytes;
};

// An open model. Move-only, immutable: const calls are safe from many threads.
class checkpoint {
public:
    // `path` is a Hugging Face folder, which holds, in the order transformers looks for them,
    // model.safetensors, or model.safetensors.index.json and its shards, or pytorch_model.bin, or
    // pytorch_model.bin.index.json and its shards, or else exactly one *.safetensors, or else exactly one
    // *.gguf; or `path` is one .safetensors, .bin, .pt, .pth or .gguf file. Opens every shard and checks that
    // index and shards say the same. bad_input names file, tensor, byte and rule; unsupported where the
    // weights are in another container, or in several GGUF files.
    [[nodiscard]] static result<checkpoint> open(const std::string& path);

    [[nodiscard]] const std::string& root() const noexcept { return root_; }  // the folder
    // config.json: one JSON object of at most 16 MiB, nested at most 64 deep; "" where there is none.
    [[nodiscard]] const std::string& config_text() const noexcept { return config_text_; }
    [[nodiscard]] bool sharded() const noexcept { return map_ != nullptr; }  // came with an index
    [[nodiscard]] std::size_t shard_count() const noexcept { return shards_.size(); }
    [[nodiscard]] const std::string& shard_name(std::size_t shard) const { return shard_names_.at(shard); }
    [[nodiscard]] const weight_file& shard(std::size_t shard) const { return shards_.at(shard); }
    // The index's "metadata" object as JSON text; "" for a single file or an index without one.
    [[nodiscard]] const std::string& index_metadata_text() const noexcept { return index_metadata_text_; }

    struct location {
        std::size_t shard;
        std::size_t tensor;  // index into shard(...)
    };
    [[nodiscard]] std::optional<location> find(std::string_view tensor_name) const noexcept;

    // What should come along into a milled copy, sorted by name: all but config.json, the weights of any
    // container, their indices, records (manifest.json, metadata.json, and of GPTQ and AWQ quantize_config.json and
    // quant_config.json), hidden files, other variants of the model and exports (onnx/, openvino/, coreml/). Folders that modules.json names
    // (sentence-transformers) come whole, with their weights.
    [[nodiscard]] const std::vector<side_file>& side_files() const noexcept { return side_files_; }
    [[nodiscard]] result<input_file> open_side(const std::string& name) const;

private:
    checkpoint() = default;
    result<void> open_folder();
    result<void> open_index(input_file index);
    result<void> open_rest();  // config.json and the side files
    result<void> check_against_map() const;

    std::string root_;
    std::string config_text_;
    std::string index_metadata_text_;
    std::vector<std::string> shard_names_;
    std::vector<weight_file> shards_;
    std::shared_ptr<const detail::weight_map> map_;
    std::vector<side_file> side_files_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/checkpoint-inl.hpp>
#endif
