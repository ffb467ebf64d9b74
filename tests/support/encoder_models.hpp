// Small encoders of every family as folders, and what they compute in doubles.
#pragma once

#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <bitmill/model/encoder_model.hpp>

#include <encoder_reference.hpp>
#include <models.hpp>
#include <random.hpp>

namespace bitmill_test {

struct encoder_shape {
    std::string family = "bert";
    std::size_t hidden = 48;
    std::size_t heads = 3;
    std::size_t layers = 2;
    std::size_t inner = 80;
    std::size_t vocabulary = 60;
    std::size_t positions = 40;
    std::size_t types = 2;
    std::size_t pad = 0;
    std::size_t labels = 0;  // of a head that classifies; 0: none
    std::string activation = "gelu";
    std::string prefix = "";
    bool old_norms = false;
    bitmill::dtype type = bitmill::dtype::f32;

    [[nodiscard]] bool distilbert() const { return family == "distilbert"; }
    [[nodiscard]] bool from_pad() const { return family == "roberta" || family == "xlm-roberta"; }
};

inline encoder_shape shape_of(const std::string& family) {
    encoder_shape s;
    s.family = family;
    if (s.distilbert()) s.types = 0;
    if (s.from_pad()) s.types = s.pad = 1;
    return s;
}

inline std::string config_of(const encoder_shape& s) {
    const auto number = [](std::size_t value) { return std::to_string(value); };
    std::string out = "{\"model_type\": \"" + s.family + "\", \"vocab_size\": " + number(s.vocabulary) +
                      ", \"max_position_embeddings\": " + number(s.positions) +
                      ", \"pad_token_id\": " + number(s.pad);
    if (s.distilbert()) {
        out += ", \"dim\": " + number(s.hidden) + ", \"n_layers\": " + number(s.layers) +
               ", \"n_heads\": " + number(s.heads) + ", \"hidden_dim\": " + number(s.inner) +
               ", \"activation\": \"" + s.activation + "\"";
    } else {
        out += ", \"hidden_size\": " + number(s.hidden) + ", \"num_hidden_layers\": " + number(s.layers) +
               ", \"num_attention_heads\": " + number(s.heads) +
               ", \"intermediate_size\": " + number(s.inner) + ", \"hidden_act\": \"" + s.activation +
               "\", \"type_vocab_size\": " + number(s.types) + ", \"layer_norm_eps\": 1e-12";
    }
    if (s.labels != 0) {
        out += ", \"architectures\": [\"XForSequenceClassification\"], \"id2label\": {";
        for (std::size_t i = 0; i < s.labels; ++i)
            out += (i != 0 ? ", \"" : "\"") + number(i) + "\": \"LABEL_" + number(i) + "\"";
        out += "}";
    } else {
        out += ", \"architectures\": [\"XModel\"]";
    }
    return out + "}";
}

class encoder_writer {
public:
    explicit encoder_writer(const encoder_shape& s) : s_(s), rng_(s.hidden + s.inner + s.layers) {}

    std::vector<made_tensor> write() {
        const std::string base = s_.prefix + "embeddings.";
        matrix(base + "word_embeddings.weight", s_.vocabulary, s_.hidden, 1);
        matrix(base + "position_embeddings.weight", s_.positions, s_.hidden, 0.5f);
        if (s_.types != 0) matrix(base + "token_type_embeddings.weight", s_.types, s_.hidden, 0.5f);
        norm(base + "LayerNorm");
        for (std::size_t i = 0; i < s_.layers; ++i) {
            const std::string at = s_.prefix + (s_.distilbert() ? "transformer.layer." : "encoder.layer.") +
                                   std::to_string(i) + ".";
            for (const char* name : s_.distilbert() ? distil_square : bert_square)
                linear(at + name, s_.hidden, s_.hidden);
            linear(at + (s_.distilbert() ? "ffn.lin1" : "intermediate.dense"), s_.inner, s_.hidden);
            linear(at + (s_.distilbert() ? "ffn.lin2" : "output.dense"), s_.hidden, s_.inner);
            norm(at + (s_.distilbert() ? "sa_layer_norm" : "attention.output.LayerNorm"));
            norm(at + (s_.distilbert() ? "output_layer_norm" : "output.LayerNorm"));
        }
        if (s_.labels != 0) {
            linear(head_dense(s_), s_.hidden, s_.hidden);
            linear(head_out(s_), s_.labels, s_.hidden);
        }
        return std::move(out_);
    }

    static constexpr const char* bert_square[] = {"attention.self.query", "attention.self.key",
                                                  "attention.self.value", "attention.output.dense"};
    static constexpr const char* distil_square[] = {"attention.q_lin", "attention.k_lin", "attention.v_lin",
                                                    "attention.out_lin"};
    static std::string head_dense(const encoder_shape& s) {
        return s.distilbert() ? "pre_classifier"
               : s.from_pad() ? "classifier.dense"
                              : s.prefix + "pooler.dense";
    }
    static std::string head_out(const encoder_shape& s) {
        return s.from_pad() ? "classifier.out_proj" : "classifier";
    }

private:
    void put(const std::string& name, std::vector<std::uint64_t> shape, float size, float middle) {
        std::vector<float> values(static_cast<std::size_t>(
            std::accumulate(shape.begin(), shape.end(), std::uint64_t{1}, std::multiplies<>())));
        for (float& one : values) one = middle + size * rng_.normal();
        out_.push_back({name, s_.type, std::move(shape), bytes_as(s_.type, values)});
    }
    void matrix(const std::string& name, std::size_t rows, std::size_t cols, float size) {
        put(name, {rows, cols}, size, 0);
    }
    void linear(const std::string& name, std::size_t out, std::size_t in) {
        matrix(name + ".weight", out, in, 1.5f / std::sqrt(static_cast<float>(in)));
        put(name + ".bias", {out}, 0.1f, 0);
    }
    void norm(const std::string& name) {
        put(name + (s_.old_norms ? ".gamma" : ".weight"), {s_.hidden}, 0.1f, 1);
        put(name + (s_.old_norms ? ".beta" : ".bias"), {s_.hidden}, 0.1f, 0);
    }

    const encoder_shape& s_;
    test::random rng_;
    std::vector<made_tensor> out_;
};

inline std::vector<made_tensor> tensors_of(const encoder_shape& s) { return encoder_writer(s).write(); }
inline void put_encoder(const std::string& folder, const encoder_shape& s) {
    put_model(folder, tensors_of(s), config_of(s));
}

// The same model in doubles, from the tensors of a plain folder.
class reference_encoder {
public:
    reference_encoder(const encoder_shape& s, std::map<std::string, made_tensor> tensors)
        : s_(s), tensors_(std::move(tensors)) {
        for (std::size_t i = 0; i < s.layers; ++i) {
            const bool distil = s.distilbert();
            const std::string at =
                s.prefix + (distil ? "transformer.layer." : "encoder.layer.") + std::to_string(i) + ".";
            const auto& square = distil ? encoder_writer::distil_square : encoder_writer::bert_square;
            layers_.push_back({linear(at + square[0]), linear(at + square[1]), linear(at + square[2]),
                               linear(at + square[3]),
                               linear(at + (distil ? "ffn.lin1" : "intermediate.dense")),
                               linear(at + (distil ? "ffn.lin2" : "output.dense")),
                               norm(at + (distil ? "sa_layer_norm" : "attention.output.LayerNorm")),
                               norm(at + (distil ? "output_layer_norm" : "output.LayerNorm"))});
        }
    }

    // One sequence: the last layer's output, [tokens, hidden].
    [[nodiscard]] reals hidden(const std::vector<std::int32_t>& ids,
                               const std::vector<std::int32_t>& types = {}) const {
        const std::string base = s_.prefix + "embeddings.";
        reals x;
        std::size_t next = s_.from_pad() ? s_.pad + 1 : 0;
        for (std::size_t t = 0; t < ids.size(); ++t) {
            const bool is_pad = s_.from_pad() && ids[t] == static_cast<std::int32_t>(s_.pad);
            reals one = plus(row(base + "word_embeddings.weight", static_cast<std::size_t>(ids[t])),
                             row(base + "position_embeddings.weight", is_pad ? s_.pad : next));
            if (!is_pad) ++next;
            if (s_.types != 0)
                one = plus(one, row(base + "token_type_embeddings.weight",
                                    types.empty() ? 0 : static_cast<std::size_t>(types[t])));
            x.insert(x.end(), one.begin(), one.end());
        }
        x = norm(base + "LayerNorm")(x);
        for (const auto& layer : layers_) x = layer(x, s_.heads, s_.activation);
        return x;
    }
    [[nodiscard]] reals logits(const std::vector<std::int32_t>& ids) const {
        reals x = hidden(ids);
        x.resize(s_.hidden);
        const auto dense = linear(encoder_writer::head_dense(s_));
        return linear(encoder_writer::head_out(s_))(activated(s_.distilbert() ? "relu" : "tanh", dense(x)));
    }

private:
    [[nodiscard]] reals values(const std::string& name) const {
        const auto& t = tensors_.at(name);
        return values_of(t.type, t.bytes.data(), t.bytes.size() / bitmill::element_bytes(t.type));
    }
    [[nodiscard]] reals row(const std::string& name, std::size_t index) const {
        const auto& t = tensors_.at(name);
        const std::size_t bytes = s_.hidden * bitmill::element_bytes(t.type);
        return values_of(t.type, t.bytes.data() + index * bytes, s_.hidden);
    }
    [[nodiscard]] reference_linear linear(const std::string& name) const {
        const auto& shape = tensors_.at(name + ".weight").shape;
        return {static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]),
                values(name + ".weight"), values(name + ".bias")};
    }
    [[nodiscard]] reference_norm norm(const std::string& name) const {
        return {values(name + (s_.old_norms ? ".gamma" : ".weight")),
                values(name + (s_.old_norms ? ".beta" : ".bias"))};
    }

    encoder_shape s_;
    std::map<std::string, made_tensor> tensors_;
    std::vector<reference_layer> layers_;
};

// Sequences of ids, put together as a batch.
struct sentences {
    std::vector<std::int32_t> ids;
    std::vector<std::uint32_t> lengths;

    explicit sentences(const std::vector<std::vector<std::int32_t>>& all) {
        for (const auto& one : all) {
            ids.insert(ids.end(), one.begin(), one.end());
            lengths.push_back(static_cast<std::uint32_t>(one.size()));
        }
    }
    [[nodiscard]] bitmill::token_batch batch() const { return {ids, {}, lengths}; }
};

inline std::vector<float> hidden_of(const bitmill::encoder_model& model, const sentences& batch) {
    std::vector<float> out(batch.ids.size() * model.facts().hidden_size);
    model.hidden(batch.batch(), out).value();
    return out;
}
inline std::vector<float> embed_of(const bitmill::encoder_model& model, const sentences& batch) {
    std::vector<float> out(batch.lengths.size() * model.facts().embedding_size);
    model.embed(batch.batch(), out).value();
    return out;
}
inline std::vector<float> logits_of(const bitmill::encoder_model& model, const sentences& batch) {
    std::vector<float> out(batch.lengths.size() * model.facts().labels);
    model.logits(batch.batch(), out).value();
    return out;
}

}  // namespace bitmill_test
