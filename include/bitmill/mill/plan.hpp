// What will become of every tensor, decided before a byte is written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/io/checkpoint.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {

// What a tensor is, judged by its name and shape: a checkpoint does not say which matrices are nn.Linear.
enum class tensor_role : std::uint8_t {
    linear,     // a Linear's weight
    head,       // the output head: a Linear that is kept unless an include asks for it
    embedding,  // a table that is looked up, not multiplied
    conv1d,     // GPT-2's transposed Linear, which readers do not quantize
    router,     // picks experts: small, and readers expect it in float
    other,      // biases, norms, tensors of other ranks, non-floats
};
[[nodiscard]] tensor_role role_of(std::string_view name, std::size_t rank, dtype type,
                                  std::string_view model_type);

// One tensor of the output that belongs to a tensor of the source.
struct output_part {
    enum class kind : std::uint8_t {
        copy,
        codes,
        scales,
        nested_scales,
        zero_points,
        residual,  // lies in a file of its own
        constant
    };
    kind what = kind::copy;
    std::string name;
    dtype type = dtype::u8;
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes = 0;
    std::string constant{};            // the bytes of kind::constant
    std::optional<ggml_type> block{};  // format gguf, where it lies in blocks: then the shape counts elements
};

struct planned_tensor {
    std::string name;
    checkpoint::location source{};    // of the codes, where it is coded
    dtype source_dtype = dtype::f32;  // coded: what its codes are decoded to before anything else
    std::vector<std::uint64_t> shape;
    std::uint64_t elements = 0;
    std::uint64_t source_bytes = 0;  // as stored, with scales and all
    std::optional<stored_tensor> coded;
    std::optional<ggml_type> block;  // of a GGUF file's tensor that lies in blocks
    tensor_role role = tensor_role::other;

    std::optional<scheme> requested;  // empty: keep
    std::optional<scheme> effective;  // empty: copied as it is; a coded one decoded
    bitmill::method method = bitmill::method::absmax;
    std::string reason;
    std::string tied_to;  // the tensor whose bytes these are, and whom a reader ties again: not written

    bool prunes = false;     // a pruning option holds for it
    bitmill::pruning prune;  // with indices of the whole tensor; found by scanning

    // Found by scanning, where the scheme needs it.
    std::optional<value_range> range;
    std::optional<float> nested_offset;

    std::vector<output_part> parts;  // filled by lay_out

    // Rows x cols as the codec sees the tensor: [out, in] for a matrix, one row for anything else.
    // (In GGUF a stack of matrices is one matrix of all their rows.)
    [[nodiscard]] std::uint64_t cols() const {
        const bool matrix = shape.size() == 2 || (effective && facts(effective->type).ggml != nullptr);
        return matrix && !shape.empty() ? shape.back() : elements;
    }
    [[nodiscard]] std::uint64_t rows() const {
        return shape.size() == 2 ? shape[0] : cols() == 0 ? 1 : elements / cols();
    }
    // Where nothing is coded: another container holds no codes of the source's.
    [[nodiscard]] std::uint64_t kept_bytes() const {
        return coded ? elements * element_bytes(source_dtype) : source_bytes;
    }
};

struct mill_plan {
    bitmill::format format = format::plain;
    bitmill::activation activation = activation::floating;
    scheme base;  // what the options ask of a Linear
    bitmill::method method = bitmill::method::absmax;
    std::string model_type;  // from config.json, "" where there is none
    std::vector<std::string> architectures;
    bool ties_embeddings = false;         // a reader makes the output head of the input embedding
    std::vector<planned_tensor> tensors;  // shard by shard, in file order
    stored_model source;                  // without its tensors, which are those above
    std::vector<std::string> warnings;
};

// Errors: invalid_argument and unsupported for options that do not go together or that no reader of the format
// could load (the message names what can); those of read_stored. A model that is quantized already is planned from what its
// codes are decoded to.
[[nodiscard]] result<mill_plan> make_plan(const checkpoint& model, const mill_options& options);

// Keeps the tensor as it is. With strict that is an error instead.
[[nodiscard]] result<void> keep(planned_tensor& tensor, std::string reason, bool strict);

// The format's tensors for what was decided; keeps a tensor that would not shrink.
[[nodiscard]] result<void> lay_out(mill_plan& plan, bool strict);

// config.json of the output.
[[nodiscard]] std::string config_for(const mill_plan& plan, const std::string& source_config);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/plan-inl.hpp>
#endif
