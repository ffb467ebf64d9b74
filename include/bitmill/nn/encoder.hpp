// A Transformer encoder of the BERT family over packed sequences: no pad token is ever computed.
// Devlin et al. 2018 (BERT), Liu et al. 2019 (RoBERTa), Conneau et al. 2019 (XLM-R), Sanh et al. 2019 (DistilBERT).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/thread_team.hpp>
#include <bitmill/nn/linear.hpp>

namespace bitmill {

// Sequences one after the other. `ids` holds the sum of `lengths`; `types` (token type, BERT's segments) as many, or
// is empty: all 0.
struct token_batch {
    std::span<const std::int32_t> ids;
    std::span<const std::int32_t> types;
    std::span<const std::uint32_t> lengths;
};

struct layer_norm_weights {
    std::vector<float> weight;
    std::vector<float> bias;
};

// For an observer: what a checkpoint calls them, without ".weight".
struct encoder_layer_names {
    std::string query, key, value, attention_output;
    std::string intermediate, output;
};

// Post-norm: x = norm(x + attention(x)); x = norm(x + ffn(x)).
struct encoder_layer {
    linear query, key, value, attention_output;
    linear intermediate, output;  // intermediate with the config's activation
    layer_norm_weights attention_norm, output_norm;
    encoder_layer_names names = {};
};

// What a linear layer is given, for statistics: `rows` x `cols` floats at x, there during the call only. `layer` is the
// name of its weight in the checkpoint without ".weight", such as "encoder.layer.3.attention.self.query". A layer sees
// each row of a call once and in order, in pieces of any size, since not all of a batch is in memory at once. Called on
// the thread that runs the model.
using layer_observer =
    std::function<void(std::string_view layer, const float* x, std::size_t rows, std::size_t cols)>;

struct encoder_options {
    // Inputs of integer layers in 8 bits, one scale for 128 elements; else floats.
    bool dynamic_int8 = false;
    layer_observer observe = {};
};

struct encoder_config {
    std::size_t hidden_size = 0;
    std::size_t heads = 0;
    activation_function activation = activation_function::gelu;
    float epsilon = 1e-12f;
};

// Immutable but for the layers' planes; copies share their layers' panels. run() is safe from many threads.
class encoder {
public:
    encoder(encoder_config config, std::vector<encoder_layer> layers, memory_source memory = nullptr);

    [[nodiscard]] const encoder_config& config() const noexcept { return config_; }
    [[nodiscard]] std::span<encoder_layer> layers() noexcept { return layers_; }
    [[nodiscard]] std::span<const encoder_layer> layers() const noexcept { return layers_; }

    // x: [tokens, hidden_size], embeddings in, the last layer's output out. `lengths` add up to the tokens.
    void run(float* x, std::span<const std::uint32_t> lengths, thread_team& team,
             const encoder_options& = {}) const;

private:
    encoder_config config_;
    std::vector<encoder_layer> layers_;
    memory_source memory_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/encoder-inl.hpp>
#endif
