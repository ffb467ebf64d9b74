// config.json of the families of encoders, and how each names its tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/model_facts-inl.hpp>
#include <bitmill/io/checkpoint.hpp>
#include <bitmill/nn/encoder.hpp>

namespace bitmill::detail {

// Where a family keeps what, behind the model's prefix.
struct encoder_names {
    const char* layers;  // in front of a layer's number
    const char* query;
    const char* key;
    const char* value;
    const char* attention_output;
    const char* attention_norm;
    const char* intermediate;
    const char* output;
    const char* output_norm;
};
inline constexpr encoder_names bert_names{
    "encoder.layer.",       "attention.self.query",   "attention.self.key",
    "attention.self.value", "attention.output.dense", "attention.output.LayerNorm",
    "intermediate.dense",   "output.dense",           "output.LayerNorm"};
inline constexpr encoder_names distilbert_names{
    "transformer.layer.", "attention.q_lin", "attention.k_lin", "attention.v_lin",  "attention.out_lin",
    "sa_layer_norm",      "ffn.lin1",        "ffn.lin2",        "output_layer_norm"};

// What a sequence is classified by.
enum class classifier : std::uint8_t {
    pooler,          // pooler.dense and tanh, then classifier
    dense_out_proj,  // classifier.dense and tanh, then classifier.out_proj
    pre_classifier,  // pre_classifier and relu, then classifier
};

// Keys by which config.json calls the same numbers.
struct encoder_keys {
    const char* hidden_size;
    const char* layers;
    const char* heads;
    const char* intermediate_size;
    const char* activation;
};
inline constexpr encoder_keys bert_keys{"hidden_size", "num_hidden_layers", "num_attention_heads",
                                        "intermediate_size", "hidden_act"};
inline constexpr encoder_keys distilbert_keys{"dim", "n_layers", "n_heads", "hidden_dim", "activation"};

struct encoder_family {
    std::string_view model_type;
    const encoder_names& names;
    const encoder_keys& keys;
    bool counts_from_pad;  // positions are counted from pad_token_id on, over ids that are not the pad id
    std::uint64_t default_layers;
    std::uint64_t default_vocabulary;
    std::uint64_t default_types;  // 0: has no token types
    std::uint64_t default_pad;
    detail::classifier classifier;
};
inline constexpr encoder_family encoder_families[] = {
    {"bert", bert_names, bert_keys, false, 12, 30522, 2, 0, classifier::pooler},
    {"roberta", bert_names, bert_keys, true, 12, 50265, 2, 1, classifier::dense_out_proj},
    {"xlm-roberta", bert_names, bert_keys, true, 12, 30522, 2, 1, classifier::dense_out_proj},
    {"distilbert", distilbert_names, distilbert_keys, false, 6, 30522, 0, 0, classifier::pre_classifier},
};

// Of every one that transformers has, those that are the same function.
inline constexpr std::pair<std::string_view, activation_function> encoder_activations[] = {
    {"gelu", activation_function::gelu},
    {"gelu_python", activation_function::gelu},
    {"gelu_new", activation_function::gelu_tanh},
    {"gelu_fast", activation_function::gelu_tanh},
    {"gelu_pytorch_tanh", activation_function::gelu_tanh},
    {"gelu_python_tanh", activation_function::gelu_tanh},
    {"relu", activation_function::relu},
};

struct encoder_description {
    const encoder_family* family = nullptr;
    encoder_config config;
    std::size_t layers = 0;
    std::size_t intermediate_size = 0;
    std::size_t vocabulary = 0;
    std::size_t positions = 0;  // rows of the table
    std::size_t token_types = 0;
    std::size_t pad = 0;
    std::optional<std::size_t> labels;
    std::optional<bool> classifies;  // a whole sequence; where architectures are named

    [[nodiscard]] std::size_t max_tokens() const {
        return family->counts_from_pad ? positions - pad - 1 : positions;
    }
};

class encoder_config_reader {
public:
    explicit encoder_config_reader(const checkpoint& model) : path_(model.root() + "/config.json") {
        config_ = parse_config(model.config_text());
    }

    result<encoder_description> read() {
        if (config_.empty())
            return refuse("is missing: it says what the weights are; fetch it beside them",
                          error_code::unsupported);
        encoder_description out;
        if (auto known = find_family(out); !known) return known.error();
        if (auto known = refuse_what_is_not_run(out); !known) return known.error();
        const auto& keys = out.family->keys;
        std::size_t heads = 0;
        const struct {
            const char* key;
            std::uint64_t otherwise, low, high;
            std::size_t* to;
        } numbers[] = {
            {keys.hidden_size, 768, 1, 1u << 16, &out.config.hidden_size},
            {keys.layers, out.family->default_layers, 1, 1024, &out.layers},
            {keys.heads, 12, 1, 1u << 16, &heads},
            {keys.intermediate_size, 3072, 1, 1u << 20, &out.intermediate_size},
            {"vocab_size", out.family->default_vocabulary, 1, 1u << 28, &out.vocabulary},
            {"max_position_embeddings", 512, 1, 1u << 24, &out.positions},
        };
        for (const auto& one : numbers)
            if (auto done = number(one.key, one.otherwise, one.low, one.high, *one.to); !done)
                return done.error();
        if (out.family->default_types != 0)
            if (auto done = number("type_vocab_size", 2, 1, 1u << 16, out.token_types); !done)
                return done.error();
        if (auto done = read_pad(out); !done) return done.error();
        out.config.heads = heads;
        if (auto done = check_numbers(out); !done) return done.error();
        if (auto done = read_epsilon(out); !done) return done.error();
        read_labels(out);
        return out;
    }

private:
    [[nodiscard]] error refuse(std::string message, error_code code = error_code::bad_input) const {
        return {.code = code, .message = std::move(message), .file = path_};
    }
    [[nodiscard]] std::string text(const char* key, std::string otherwise) const {
        const auto found = config_.find(key);
        if (found == config_.end() || found->is_null()) return otherwise;
        return found->is_string() ? shortened(found->get<std::string>()) : shown(*found);
    }

    result<void> find_family(encoder_description& out) const {
        const std::string type = text("model_type", "");
        std::string names;
        for (const auto& family : encoder_families) {
            if (family.model_type == type) out.family = &family;
            names.append(names.empty() ? "" : ", ").append(family.model_type);
        }
        if (out.family != nullptr) return {};
        return refuse("model_type '" + type + "' is not run by this version; it runs " + names,
                      error_code::unsupported);
    }

    // Settings under which transformers computes something else.
    result<void> refuse_what_is_not_run(encoder_description& out) const {
        for (const char* key : {"is_decoder", "add_cross_attention", "is_encoder_decoder"})
            if (const auto found = config_.find(key);
                found != config_.end() && !found->is_null() && *found != false)
                return refuse(std::string(key) + " is " + shown(*found) + ": this version runs encoders",
                              error_code::unsupported);
        if (const std::string kind = text("position_embedding_type", "absolute"); kind != "absolute")
            return refuse(
                "position_embedding_type '" + kind + "' is not run by this version; it runs absolute",
                error_code::unsupported);
        if (const auto pruned = config_.find("pruned_heads");
            pruned != config_.end() && !pruned->is_null() && !pruned->empty())
            return refuse("pruned_heads: layers of different widths are not run by this version",
                          error_code::unsupported);
        if (const auto size = config_.find("embedding_size"); size != config_.end() && !size->is_null())
            if (const auto hidden = config_.find(out.family->keys.hidden_size);
                hidden == config_.end() || *hidden != *size)
                return refuse("embedding_size " + shown(*size) + " differs from " +
                                  out.family->keys.hidden_size + ", which is not run by this version",
                              error_code::unsupported);
        const std::string activation = text(out.family->keys.activation, "gelu");
        std::string names;
        for (const auto& [name, function] : encoder_activations) {
            if (name == activation) {
                out.config.activation = function;
                return {};
            }
            names.append(names.empty() ? "" : ", ").append(name);
        }
        return refuse(std::string(out.family->keys.activation) + " '" + activation +
                          "' is not run by this version; it runs " + names,
                      error_code::unsupported);
    }

    // A number that is not there is what transformers takes for it.
    result<void> number(const char* key, std::uint64_t otherwise, std::uint64_t low, std::uint64_t high,
                        std::size_t& to) const {
        const auto found = config_.find(key);
        const bool absent = found == config_.end() || found->is_null();
        const std::string range = std::to_string(low) + " to " + std::to_string(high);
        if (!absent && !found->is_number_unsigned())
            return refuse(std::string(key) + " must be a whole number of " + range + ", not " +
                          shown(*found));
        const std::uint64_t value = absent ? otherwise : found->get<std::uint64_t>();
        if (value < low || value > high)
            return refuse(std::string(key) + " is " + std::to_string(value) + ", it must be " + range);
        to = static_cast<std::size_t>(value);
        return {};
    }

    // BERT and DistilBERT only tell an embedding by it that training left alone: null and -1 are as good.
    result<void> read_pad(encoder_description& out) const {
        if (!out.family->counts_from_pad) return {};
        if (const auto found = config_.find("pad_token_id"); found != config_.end() && found->is_null())
            return refuse("pad_token_id is null, and positions are counted from it: write the tokenizer's");
        return number("pad_token_id", out.family->default_pad, 0, 1u << 28, out.pad);
    }

    result<void> check_numbers(const encoder_description& out) const {
        const auto& [hidden, heads, activation, epsilon] = out.config;
        if (hidden % heads != 0)
            return refuse(std::to_string(heads) + " heads do not divide a hidden size of " +
                          std::to_string(hidden) + "; fetch it again");
        if (hidden / heads > 512)
            return refuse("a head of " + std::to_string(hidden / heads) +
                              " columns is not run by this version; it runs up to 512",
                          error_code::unsupported);
        if (out.family->counts_from_pad && out.positions < out.pad + 2)
            return refuse("max_position_embeddings " + std::to_string(out.positions) +
                          " leaves no position behind pad_token_id " + std::to_string(out.pad) +
                          "; fetch it again");
        return {};
    }

    result<void> read_epsilon(encoder_description& out) const {
        if (out.family->default_types == 0) return {};  // DistilBERT's is 1e-12 whatever its config says
        const auto found = config_.find("layer_norm_eps");
        if (found == config_.end() || found->is_null()) return {};
        const double value = found->is_number() ? found->get<double>() : -1;
        out.config.epsilon = static_cast<float>(value);
        if (value < 1 && out.config.epsilon > 0) return {};
        return refuse("layer_norm_eps must be above 0 and below 1, not " + shown(*found));
    }

    void read_labels(encoder_description& out) const {
        constexpr std::string_view ending = "ForSequenceClassification";
        if (const auto list = config_.find("architectures"); list != config_.end() && list->is_array())
            out.classifies = std::any_of(list->begin(), list->end(), [&](const auto& one) {
                return one.is_string() && one.template get<std::string>().ends_with(ending);
            });
        if (const auto names = config_.find("id2label"); names != config_.end() && names->is_object())
            out.labels = names->size();
        else if (const auto count = config_.find("num_labels");
                 count != config_.end() && count->is_number_unsigned())
            out.labels = count->get<std::size_t>();
    }

    ordered_json config_;
    std::string path_;
};

}  // namespace bitmill::detail
