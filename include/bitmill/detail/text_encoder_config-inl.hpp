// What the files beside a model say of its text: lengths, prompts, labels. sentence-transformers 6 (base/model.py,
// base/modules/transformer.py), transformers (tokenizer_config.json, id2label).
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <bitmill/detail/encoder_model_heads-inl.hpp>
#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/model/text_encoder.hpp>

namespace bitmill::detail {

class text_config_reader {
public:
    // `texts`: the folder with tokenizer.json.
    text_config_reader(std::string root, std::string texts)
        : root_(std::move(root)), texts_(std::move(texts)) {}

    result<text_facts> read(const model_facts& model) {
        out_.max_length = tokenizer_length_ = model.max_tokens;
        for (const auto step : {&text_config_reader::read_tokenizer_config, &text_config_reader::read_lengths,
                                &text_config_reader::read_prompts})
            if (auto done = (this->*step)(); !done) return done.error();
        if (auto done = read_labels(model.labels); !done) return done.error();
        return std::move(out_);
    }
    // A tokenizer that keeps capitals would need them taken away first.
    [[nodiscard]] bool lowers() const noexcept { return lowers_; }
    // Whether the model is given token types: not where model_input_names leaves them out.
    [[nodiscard]] bool has_types() const noexcept { return has_types_; }

private:
    result<json> side_file(const std::string& name) const { return read_side_json(texts_, name, false); }

    error refuse(const std::string& name, std::string message,
                 error_code code = error_code::bad_input) const {
        return {.code = code, .message = std::move(message), .file = texts_ + "/" + name};
    }

    // Some write 1e30 for no limit, which no integer holds.
    static std::size_t length_of(const json& config, const char* key, std::size_t otherwise) {
        const auto found = config.is_object() ? config.find(key) : config.end();
        if (found == config.end() || !found->is_number()) return otherwise;
        const double length = found->get<double>();
        return length >= 1 && length < static_cast<double>(otherwise) ? static_cast<std::size_t>(length)
                                                                      : otherwise;
    }

    result<void> read_tokenizer_config() {
        const std::string name = "tokenizer_config.json";
        const auto config = side_file(name);
        if (!config) return config.error();
        if (!config->is_object()) return {};
        if (const auto side = config->find("truncation_side");
            side != config->end() && is_text(*side, "left"))
            return refuse(name,
                          "truncation_side \"left\" is not run by this version; it cuts texts on the right",
                          error_code::unsupported);
        if (const auto names = config->find("model_input_names"); names != config->end() && names->is_array())
            has_types_ = std::any_of(names->begin(), names->end(),
                                     [](const json& one) { return is_text(one, "token_type_ids"); });
        tokenizer_length_ = length_of(*config, "model_max_length", out_.max_length);
        return {};
    }

    // What sentence-transformers was told comes before the tokenizer's own.
    result<void> read_lengths() {
        std::size_t length = tokenizer_length_;
        for (const char* kind : {"bert", "roberta", "distilbert", "xlm-roberta", "xlnet"}) {
            const std::string name = "sentence_" + std::string(kind) + "_config.json";
            const auto config = side_file(name);
            if (!config) return config.error();
            if (!config->is_object()) continue;
            // What they change is not run here, or comes from other files.
            for (const char* key :
                 {"model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args",
                  "tokenizer_kwargs", "processor_kwargs", "processing_kwargs"})
                if (const auto given = config->find(key); given != config->end() && !given->empty())
                    return refuse(name, std::string(key) + " is not run by this version: " + shown(*given),
                                  error_code::unsupported);
            if (const auto given = config->find("max_seq_length");
                given != config->end() && !given->is_null()) {
                if (!given->is_number_unsigned() || *given == 0)
                    return refuse(name, "max_seq_length must be a number of tokens, not " + shown(*given));
                length = length_of(*config, "max_seq_length", out_.max_length);
            }
            if (const auto lower = config->find("do_lower_case"); lower != config->end()) {
                if (!lower->is_boolean())
                    return refuse(name, "do_lower_case must be true or false, not " + shown(*lower));
                lowers_ = lower->get<bool>();
            }
            break;
        }
        out_.max_length = std::min(out_.max_length, length);
        return {};
    }

    result<void> read_prompts() {
        const std::string name = "config_sentence_transformers.json";
        const auto config = side_file(name);
        if (!config) return config.error();
        if (!config->is_object()) return {};
        if (const auto size = config->find("truncate_dim"); size != config->end() && !size->is_null())
            return refuse(name, "truncate_dim is not run by this version: " + shown(*size),
                          error_code::unsupported);
        const auto prompts = config->find("prompts");
        if (prompts != config->end() && !prompts->is_object() && !prompts->is_null())
            return refuse(name, "prompts must be an object, not " + shown(*prompts));
        if (prompts != config->end() && prompts->is_object())
            for (const auto& [key, text] : prompts->items()) {
                if (!text.is_string() && !text.is_null())
                    return refuse(name,
                                  "the prompt " + shown(json(key)) + " must be a text, not " + shown(text));
                out_.prompts.emplace_back(key, text.is_string() ? text.get<std::string>() : std::string());
            }
        if (const auto chosen = config->find("default_prompt_name");
            chosen != config->end() && !chosen->is_null()) {
            out_.default_prompt = chosen->is_string() ? chosen->get<std::string>() : shown(*chosen);
            const auto is_it = [&](const auto& one) { return one.first == out_.default_prompt; };
            if (std::none_of(out_.prompts.begin(), out_.prompts.end(), is_it))
                return refuse(
                    name, "default_prompt_name " + shown(*chosen) + " is none of its prompts; add it there");
        }
        return {};
    }

    // {"0": "negative", ...}, as many as the head has; LABEL_0 and so on where it does not say.
    result<void> read_labels(std::size_t count) {
        const auto config = read_side_json(root_, "config.json", false);
        if (!config) return config.error();
        for (std::size_t i = 0; i < count; ++i) out_.labels.push_back("LABEL_" + std::to_string(i));
        if (!config->is_object()) return {};
        if (const auto names = config->find("id2label"); names != config->end() && names->is_object())
            for (std::size_t i = 0; i < count; ++i)
                if (const auto name = names->find(std::to_string(i));
                    name != names->end() && name->is_string())
                    out_.labels[i] = name->get<std::string>();
        if (const auto kind = config->find("problem_type"); kind != config->end()) {
            out_.several_labels = is_text(*kind, "multi_label_classification");
            out_.regression = is_text(*kind, "regression");
        }
        return {};
    }

    std::string root_, texts_;
    std::size_t tokenizer_length_ = 0;
    bool lowers_ = false;
    bool has_types_ = true;
    text_facts out_;
};

}  // namespace bitmill::detail
