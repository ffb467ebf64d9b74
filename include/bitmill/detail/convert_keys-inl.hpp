// Whether the keys of a GGUF file and a config.json say the same of a model.
// What is written: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py; what a missing key means:
// https://github.com/ggml-org/llama.cpp/blob/master/src/llama-model.cpp, and the configuration classes of transformers.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/io/checkpoint.hpp>

namespace bitmill::detail {

// What a config.json of this model_type means where it does not say it.
struct model_family {
    std::string_view model_type, architecture;  // the latter of GGUF
    double kv_heads;                            // 0: as many as heads
    double head_dim;                            // 0: the width of the model over its heads
    double context;
    double rope_theta;
};
inline constexpr std::array<model_family, 6> model_families{{
    {"llama", "llama", 0, 0, 2048, 1e4},
    {"mistral", "llama", 8, 0, 131072, 1e4},
    {"qwen2", "qwen2", 32, 0, 32768, 1e4},
    {"qwen3", "qwen3", 32, 128, 32768, 1e4},
    {"gemma2", "gemma2", 4, 256, 8192, 1e4},
    {"gemma3_text", "gemma3", 4, 256, 131072, 1e6},
}};

template <class... T>
struct number_types {};
using gguf_numbers = number_types<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                                  std::int32_t, std::uint64_t, std::int64_t, float, double>;

// A number of any type, or an array that has the same one for every layer; NaN for what is neither.
inline double number_of(const gguf_value& value) {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    const auto read = [&]<class... T>(std::uint64_t index, number_types<T...>) {
        double out = none;
        const auto take = [&](const auto& found) {
            if (found) out = static_cast<double>(*found);
        };
        (take(value.type == gguf_type::array ? value.at<T>(index) : value.get<T>()), ...);
        return out;
    };
    const double first = read(0, gguf_numbers());
    for (std::uint64_t i = 1; i < value.count; ++i)
        if (read(i, gguf_numbers()) != first) return none;
    return first;
}

class model_keys {
public:
    model_keys(const checkpoint& hf, const checkpoint& gguf)
        : keys_(gguf.shard(0).gguf()->metadata()), gguf_path_(gguf.shard(0).file().path()),
          config_path_(hf.root() + "/config.json"),
          config_(hf.config_text().empty() ? json::object() : json::parse(hf.config_text())) {}

    // Errors: invalid_argument, naming file and key, where the two do not say the same or one does not say what the
    // other is compared with.
    result<void> check() {
        architecture_ = keys_.get<std::string_view>("general.architecture").value_or("");
        const auto type = config_.find("model_type");
        const std::string name = type != config_.end() && type->is_string() ? type->get<std::string>() : "";
        for (const auto& one : model_families)
            if (one.model_type == name) family_ = one;
        if (family_.model_type.empty())
            return error{
                .code = error_code::unsupported,
                .message =
                    "is of model_type '" + name +
                    "', of which convert does not know what config.json means; it knows llama, mistral, "
                    "qwen2, qwen3, gemma2 and gemma3_text",
                .file = config_path_};
        if (family_.architecture != architecture_)
            return other("general.architecture", "'" + architecture_ + "'", "model_type", "'" + name + "'");
        for (const auto part : {&model_keys::check_known, &model_keys::check_sizes, &model_keys::check_heads,
                                &model_keys::check_rope, &model_keys::check_attention,
                                &model_keys::check_activation, &model_keys::check_vocabulary})
            if (auto done = (this->*part)(); !done) return done;
        return {};
    }

    [[nodiscard]] std::uint64_t heads() const { return static_cast<std::uint64_t>(heads_); }
    [[nodiscard]] std::uint64_t kv_heads() const { return static_cast<std::uint64_t>(kv_heads_); }

    // Whether the head is the embeddings, whatever a tensor of its name holds.
    [[nodiscard]] bool tied() const {
        const auto found = config_.find("tie_word_embeddings");
        return found != config_.end() && found->is_boolean() ? found->get<bool>() : gemma();
    }

    // What rope_freqs.weight holds, and nothing where there must be no such tensor.
    [[nodiscard]] std::vector<float> rope_factors() const {
        const json rope = rope_of(full_attention);
        if (rope_type(rope) != "llama3") return {};
        const auto value = [&](const char* key, double missing) {
            return number(rope, key).value_or(missing);
        };
        const double factor = value("factor", 8), low = value("low_freq_factor", 1),
                     high = value("high_freq_factor", 4);
        const double context = value("original_max_position_embeddings", 8192);
        std::vector<float> out;
        for (double i = 0; i < head_dim_; i += 2) {
            const double wave = 2 * std::numbers::pi * std::pow(rope_theta_, i / head_dim_);
            const double smooth = (context / wave - low) / (high - low);
            const double inner = 1 / ((1 - smooth) / factor + smooth);
            out.push_back(static_cast<float>(wave < context / high  ? 1
                                             : wave > context / low ? factor
                                                                    : inner));
        }
        return out;
    }

private:
    using maybe = std::optional<double>;
    static constexpr std::string_view full_attention = "full_attention";
    static constexpr double most = 1 << 20;  // of heads, and of columns of a head

    // nullopt where it is missing or null, NaN where it is no number.
    [[nodiscard]] static maybe number(const json& object, const char* key) {
        const auto found = object.find(key);
        if (found == object.end() || found->is_null()) return std::nullopt;
        return found->is_number() ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
    }
    [[nodiscard]] bool is_null(const char* key) const {
        return config_.contains(key) && config_[key].is_null();
    }
    [[nodiscard]] bool gemma() const { return architecture_.starts_with("gemma"); }
    [[nodiscard]] std::string full(std::string_view suffix) const {
        return (suffix.starts_with("tokenizer.") ? "" : architecture_ + ".") + std::string(suffix);
    }
    [[nodiscard]] static std::string text(const maybe& value) {
        if (!value) return "missing";
        if (std::isnan(*value)) return "no number";
        const bool whole = std::abs(*value) < 1e15 && *value == std::floor(*value);
        return whole ? std::to_string(static_cast<std::int64_t>(*value)) : json(*value).dump();
    }

    [[nodiscard]] error other(const std::string& key, const std::string& theirs, std::string_view hf_key,
                              const std::string& ours) const {
        return {.code = error_code::invalid_argument,
                .message = "is not the same model as " + config_path_ + ": key " + key + " is " + theirs +
                           ", and " + std::string(hf_key) + " there is " + ours + "; give files of one model",
                .file = gguf_path_};
    }

    // `ours`: nullopt where config.json must say it and does not. `missing`: what readers take where the file has no
    // such key; nullopt: they need it. Numbers of files are F32 where config.json has decimals.
    result<void> same(std::string_view suffix, maybe missing, std::string_view hf_key, maybe ours) const {
        const auto found = keys_.find(full(suffix));
        const maybe theirs = found ? number_of(*found) : missing;
        if (ours && theirs && static_cast<float>(*ours) == static_cast<float>(*theirs)) return {};
        return other(full(suffix), found || !theirs ? text(theirs) : "missing, so " + text(theirs), hf_key,
                     text(ours));
    }
    // A size that config.json must have.
    result<void> size(std::string_view suffix, const char* hf_key, maybe missing = {}) const {
        return same(suffix, missing, hf_key, number(config_, hf_key));
    }

    // A key that changes what readers compute, and of which config.json has no word that is known here, may be of
    // another model.
    result<void> check_known() {
        static constexpr std::string_view known[] = {
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
            "attention.layer_norm_rms_epsilon",
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "attention.value_length",
            "attn_logit_softcapping",
            "block_count",
            "context_length",
            "embedding_length",
            "expert_count",
            "expert_used_count",
            "feed_forward_length",
            "final_logit_softcapping",
            "rope.dimension_count",
            "rope.freq_base",
            "rope.freq_base_swa",
            "rope.scale_linear",
            "rope.scaling.attn_factor",
            "rope.scaling.factor",
            "rope.scaling.finetuned",
            "rope.scaling.original_context_length",
            "rope.scaling.type",
            "rope.scaling.yarn_attn_factor",
            "rope.scaling.yarn_beta_fast",
            "rope.scaling.yarn_beta_slow",
            "rope.scaling.yarn_ext_factor",
            "rope.scaling.yarn_log_multiplier",
            "vocab_size",
        };
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            const std::string_view key = keys_[i].key;
            if (!key.starts_with(architecture_ + ".")) continue;
            const std::string_view suffix = key.substr(architecture_.size() + 1);
            if (std::find(std::begin(known), std::end(known), suffix) == std::end(known))
                return error{.code = error_code::unsupported,
                             .message = "has the key " + std::string(key) +
                                        ", which convert cannot compare with config.json; take a file that "
                                        "convert_hf_to_gguf.py made of the same model",
                             .file = gguf_path_};
        }
        return {};
    }

    result<void> check_sizes() {
        for (const auto& [suffix, key] :
             {std::pair{"block_count", "num_hidden_layers"}, std::pair{"embedding_length", "hidden_size"},
              std::pair{"feed_forward_length", "intermediate_size"}})
            if (auto done = size(suffix, key); !done) return done;
        if (auto done = same("context_length", {}, "max_position_embeddings",
                             number(config_, "max_position_embeddings").value_or(family_.context));
            !done)
            return done;
        if (auto done = same("expert_count", 0, "num_local_experts",
                             number(config_, "num_local_experts").value_or(0));
            !done)
            return done;
        return same("attention.layer_norm_rms_epsilon", {}, "rms_norm_eps",
                    number(config_, "rms_norm_eps").value_or(1e-6));
    }

    result<void> check_heads() {
        if (auto done = size("attention.head_count", "num_attention_heads"); !done) return done;
        heads_ = number(config_, "num_attention_heads").value_or(0);
        const bool as_heads = family_.kv_heads == 0 || is_null("num_key_value_heads");
        kv_heads_ = number(config_, "num_key_value_heads").value_or(as_heads ? heads_ : family_.kv_heads);
        if (auto done = same("attention.head_count_kv", heads_, "num_key_value_heads", kv_heads_); !done)
            return done;
        if (!(heads_ >= 1 && heads_ <= most && kv_heads_ >= 1 && kv_heads_ <= heads_))
            return other(full("attention.head_count"), text(heads_), "num_key_value_heads", text(kv_heads_));
        const double spread = std::floor(number(config_, "hidden_size").value_or(0) / heads_);
        const bool spreads = family_.head_dim == 0 || is_null("head_dim");
        head_dim_ = number(config_, "head_dim").value_or(spreads ? spread : family_.head_dim);
        if (!(head_dim_ >= 1 && head_dim_ <= most))
            return other(full("attention.key_length"), "compared", "head_dim", text(head_dim_));
        for (const char* suffix : {"attention.key_length", "attention.value_length"})
            if (auto done = same(suffix, spread, "head_dim", head_dim_); !done) return done;
        const auto key_length = keys_.find(full("attention.key_length"));
        const maybe part = number(rope_of(full_attention), "partial_rotary_factor");
        return same("rope.dimension_count", key_length ? number_of(*key_length) : spread, "head_dim",
                    head_dim_ * (part ? *part : number(config_, "partial_rotary_factor").value_or(1)));
    }

    // transformers 5 has all in rope_parameters, by kind of layer where there are two; before it rope_theta,
    // rope_local_base_freq and rope_scaling stood beside each other.
    [[nodiscard]] json rope_of(std::string_view layers) const {
        for (const char* key : {"rope_parameters", "rope_scaling"}) {
            const auto found = config_.find(key);
            if (found == config_.end() || !found->is_object()) continue;
            const auto own = found->find(std::string(layers));
            if (own != found->end() && own->is_object()) return *own;
            return layers == full_attention ? *found : json::object();
        }
        return json::object();
    }
    [[nodiscard]] static std::string rope_type(const json& rope) {
        for (const char* key : {"rope_type", "type"})
            if (const auto found = rope.find(key); found != rope.end() && found->is_string())
                return found->get<std::string>();
        return "default";
    }

    result<void> check_rope() {
        const json rope = rope_of(full_attention);
        const auto theta_of = [&](const json& object, const char* key, double missing) {
            const maybe own = number(object, "rope_theta");
            return own ? *own : number(config_, key).value_or(missing);
        };
        rope_theta_ = theta_of(rope, "rope_theta", family_.rope_theta);
        if (auto done = same("rope.freq_base", 1e4, "rope_theta", rope_theta_); !done) return done;
        if (architecture_ == "gemma3") {
            const double theta = theta_of(rope_of("sliding_attention"), "rope_local_base_freq", 1e4);
            if (auto done = same("rope.freq_base_swa", 1e4, "rope_local_base_freq", theta); !done)
                return done;
        }
        return check_rope_scaling(rope);
    }

    // A file that says no type means linear, by a factor that old files say as scale_linear; by 1 that is none.
    result<void> check_rope_scaling(const json& rope) const {
        const std::string type = rope_type(rope);
        const maybe factor = number(rope, "factor");
        const bool none = type == "default" || type == "llama3" || (type == "linear" && factor == 1);
        const std::string ours = none ? "none" : type == "su" ? "longrope" : type;
        const auto said = keys_.get<std::string_view>(full("rope.scaling.type"));
        const auto own = keys_.find(full("rope.scaling.factor")), old = keys_.find(full("rope.scale_linear"));
        const double by = own ? number_of(*own) : old ? number_of(*old) : 1;
        const std::string_view read = said.value_or("linear");
        const std::string theirs(read == "linear" && (by == 1 || by == 0) ? "none" : read);
        if (theirs != ours)
            return other(
                full("rope.scaling.type"),
                (said ? "'" : "missing, so '") + theirs + "'" + (theirs == "linear" ? " by " + text(by) : ""),
                "rope_scaling", "'" + type + "'");
        if (auto done = same("rope.scaling.attn_factor", 1, "rope_scaling", 1); !done) return done;
        if (ours != "none")
            if (auto done = same(own || !old ? "rope.scaling.factor" : "rope.scale_linear", 1,
                                 "rope_scaling.factor", ours == "longrope" ? maybe(1) : factor);
                !done)
                return done;
        const bool yarn = type == "yarn";
        if (!yarn) return {};
        const double context = number(config_, "max_position_embeddings").value_or(family_.context);
        if (auto done = same("rope.scaling.original_context_length", context,
                             "rope_scaling.original_max_position_embeddings",
                             number(rope, "original_max_position_embeddings").value_or(context));
            !done)
            return done;
        const maybe attention = number(rope, "attention_factor");
        if (auto done = same("rope.scaling.yarn_attn_factor", 1, "rope_scaling.attention_factor",
                             attention ? attention : number(rope, "attn_factor").value_or(1));
            !done)
            return done;
        if (auto done = same("rope.scaling.yarn_beta_fast", 32, "rope_scaling.beta_fast",
                             number(rope, "beta_fast").value_or(32));
            !done)
            return done;
        return same("rope.scaling.yarn_beta_slow", 1, "rope_scaling.beta_slow",
                    number(rope, "beta_slow").value_or(1));
    }

    // Soft caps (0: none) and the window of layers that see only so far. Files of other families than Gemma say
    // nothing of windows.
    result<void> check_attention() {
        const bool caps = architecture_ == "gemma2";
        for (const auto& [suffix, key, usual] :
             {std::tuple{"attn_logit_softcapping", "attn_logit_softcapping", 50.0},
              std::tuple{"final_logit_softcapping", "final_logit_softcapping", 30.0}}) {
            const double missing = caps ? usual : 0;
            const double ours = number(config_, key).value_or(is_null(key) ? 0 : missing);
            if (auto done = same(suffix, missing, key, ours); !done) return done;
        }
        constexpr std::string_view window = "attention.sliding_window";
        if (!gemma() && !keys_.find(full(window))) return {};
        const auto used = config_.find("use_sliding_window");
        const bool unused = architecture_.starts_with("qwen") && (used == config_.end() || *used != true);
        const double usual = gemma() || family_.model_type == "mistral" ? 4096 : 0;
        const double ours = number(config_, "sliding_window").value_or(is_null("sliding_window") ? 0 : usual);
        return same(window, caps ? maybe(4096) : std::nullopt, "sliding_window", unused ? 0 : ours);
    }

    // Readers of GGUF know one activation for each architecture.
    result<void> check_activation() {
        const char* key = gemma() ? "hidden_activation" : "hidden_act";
        const std::string_view built_in = gemma() ? "gelu_pytorch_tanh" : "silu";
        const auto found = config_.find(key);
        if (found == config_.end() || found->is_null() || *found == built_in) return {};
        return other("general.architecture", "'" + architecture_ + "', so " + std::string(built_in), key,
                     shown(*found));
    }

    result<void> check_vocabulary() {
        if (keys_.find(full("vocab_size")))
            if (auto done = size("vocab_size", "vocab_size"); !done) return done;
        const auto tokens = keys_.find("tokenizer.ggml.tokens");
        const maybe ours = number(config_, "vocab_size");
        const maybe theirs = tokens ? maybe(static_cast<double>(tokens->strings().size())) : std::nullopt;
        if (ours && theirs && *ours == *theirs) return {};
        return other("tokenizer.ggml.tokens", theirs ? text(theirs) + " tokens" : "missing", "vocab_size",
                     text(ours));
    }

    const gguf_metadata& keys_;
    std::string gguf_path_, config_path_;
    json config_;
    std::string architecture_;
    model_family family_{};
    double heads_ = 0, kv_heads_ = 0, head_dim_ = 0, rope_theta_ = 0;
};

}  // namespace bitmill::detail
