// A small encoder that runs: a BERT of two layers with a head for three classes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <bitmill/core/dtype.hpp>

#include <models.hpp>

namespace bitmill_test {

inline constexpr std::size_t encoder_hidden = 48, encoder_heads = 3, encoder_inner = 80, encoder_layers = 2;
inline constexpr std::size_t encoder_vocabulary = 37, encoder_types = 2, encoder_tokens = 19,
                             encoder_labels = 3;

inline std::string encoder_config(std::size_t labels = encoder_labels) {
    const auto field = [](const char* name, std::size_t value) {
        return std::string(", \"") + name + "\": " + std::to_string(value);
    };
    return R"({"model_type": "bert", "architectures": ["BertForSequenceClassification"], "dtype": "float32",)"
           R"( "hidden_act": "gelu", "layer_norm_eps": 1e-12, "id2label": )" +
           std::string(labels == 1 ? R"({"0": "a"})" : R"({"0": "a", "1": "b", "2": "c"})") +
           field("hidden_size", encoder_hidden) + field("num_attention_heads", encoder_heads) +
           field("intermediate_size", encoder_inner) + field("num_hidden_layers", encoder_layers) +
           field("vocab_size", encoder_vocabulary) + field("type_vocab_size", encoder_types) +
           field("max_position_embeddings", encoder_tokens) + "}";
}

inline std::vector<made_tensor> encoder_tensors(std::size_t labels = encoder_labels) {
    std::vector<made_tensor> all;
    const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape,
                         spread kind = spread::gaussian) {
        all.push_back(make_tensor(name, bitmill::dtype::f32, std::move(shape), all.size() + 1, kind));
    };
    const auto add_linear = [&](const std::string& name, std::uint64_t out, std::uint64_t in) {
        add(name + ".weight", {out, in});
        add(name + ".bias", {out});
    };
    const auto add_norm = [&](const std::string& name) {
        add(name + ".LayerNorm.weight", {encoder_hidden}, spread::one_sided);
        add(name + ".LayerNorm.bias", {encoder_hidden});
    };
    add("bert.embeddings.word_embeddings.weight", {encoder_vocabulary, encoder_hidden});
    add("bert.embeddings.position_embeddings.weight", {encoder_tokens, encoder_hidden});
    add("bert.embeddings.token_type_embeddings.weight", {encoder_types, encoder_hidden});
    add_norm("bert.embeddings");
    for (std::size_t i = 0; i < encoder_layers; ++i) {
        const std::string layer = "bert.encoder.layer." + std::to_string(i) + ".";
        for (const char* part : {"query", "key", "value"})
            add_linear(layer + "attention.self." + part, encoder_hidden, encoder_hidden);
        add_linear(layer + "attention.output.dense", encoder_hidden, encoder_hidden);
        add_norm(layer + "attention.output");
        add_linear(layer + "intermediate.dense", encoder_inner, encoder_hidden);
        add_linear(layer + "output.dense", encoder_hidden, encoder_inner);
        add_norm(layer + "output");
    }
    add_linear("bert.pooler.dense", encoder_hidden, encoder_hidden);
    add_linear("classifier", labels, encoder_hidden);
    return all;
}

// labels: 3, or 1 for a reranker.
inline void put_encoder(const std::string& folder, std::size_t labels = encoder_labels) {
    put_model(folder, encoder_tensors(labels), encoder_config(labels));
}

}  // namespace bitmill_test
