// Bodies of model/text_encoder.hpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/model_level-inl.hpp>
#include <bitmill/detail/text_encoder_config-inl.hpp>
#include <bitmill/kernels/layer_reference.hpp>
#include <bitmill/model/text_encoder.hpp>

namespace bitmill {

namespace detail {

// The folder of the model, or, of a variant (MODEL/int8) without texts of its own, the one above.
inline result<std::string> folder_of_tokenizer(const std::string& root) {
    const std::string name =
        std::filesystem::path(root + "/").lexically_normal().parent_path().filename().string();
    const bool is_variant =
        std::find(std::begin(model_levels), std::end(model_levels), name) != std::end(model_levels);
    for (const std::string& folder : {root, root + "/.."}) {
        if (folder != root && !is_variant) break;
        const auto there = is_there(folder + "/tokenizer.json");
        if (!there) return there.error();
        if (*there) return folder;
    }
    return error{.code = error_code::bad_input,
                 .message =
                     "has no tokenizer.json; put it there (transformers writes it with "
                     "tokenizer.save_pretrained), or give token ids to encoder_model",
                 .file = root};
}

// Sequences that run in one call.
struct token_room {
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> types;
    std::vector<std::uint32_t> lengths;

    void add(const token_sequence& one, bool with_types) {
        ids.insert(ids.end(), one.ids.begin(), one.ids.end());
        if (with_types) types.insert(types.end(), one.types.begin(), one.types.end());
        lengths.push_back(static_cast<std::uint32_t>(one.ids.size()));
    }
    void clear() {
        ids.clear();
        types.clear();
        lengths.clear();
    }
    [[nodiscard]] token_batch batch() const { return {ids, types, lengths}; }
};

inline float sigmoid(float x) {
    const float e = kernels::reference::exp(x < 0 ? x : -x);
    return x < 0 ? e / (1 + e) : 1 / (1 + e);
}

inline void softmax(std::span<float> x) {
    const float most = *std::max_element(x.begin(), x.end());
    float sum = 0;
    for (float& one : x) sum += one = kernels::reference::exp(one - most);
    for (float& one : x) one /= sum;
}

}  // namespace detail

struct text_encoder::content {
    encoder_model model;
    std::shared_ptr<const bitmill::tokenizer> words;
    text_facts facts;
    bool has_types;
    digest words_digest;  // of tokenizer.json

    // `like` may be null.
    static result<std::unique_ptr<content>> open(const std::string& path, const model_options& options,
                                                 const content* like);

    [[nodiscard]] static error refuse(std::string message, error_code code = error_code::invalid_argument) {
        return {.code = code, .message = std::move(message)};
    }

    [[nodiscard]] result<std::string> prompt_of(const text_options& options) const {
        if (options.prompt) return *options.prompt;
        const std::string& name = options.prompt_name.empty() ? facts.default_prompt : options.prompt_name;
        if (name.empty()) return std::string();
        std::string names;
        for (const auto& [key, text] : facts.prompts) {
            if (key == name) return text;
            names.append(names.empty() ? "" : ", ").append(key);
        }
        // Every model of sentence-transformers has these two.
        if (name == "query" || name == "document") return std::string();
        return refuse("the model has no prompt '" + name + "'; it has " + (names.empty() ? "none" : names));
    }

    // Takes texts token by token to `run`, so many at a time that they keep all threads busy and memory bounded.
    // encode(i): the tokens of text i. run(first, batch): of texts from `first` on.
    template <class Encode, class Run>
    result<void> in_batches(std::size_t count, const text_options& options, const Encode& encode,
                            const Run& run) const {
        constexpr std::size_t enough = 8192;  // tokens
        const std::size_t most = model.facts().max_tokens;
        if (options.max_length > most)
            return refuse("max_length is " + std::to_string(options.max_length) + ", the model runs up to " +
                          std::to_string(most) + " tokens");
        const tokenize_options lengths{.max_length =
                                           options.max_length == 0 ? facts.max_length : options.max_length};
        detail::token_room room;
        std::size_t first = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const auto tokens = encode(i, lengths);
            if (!tokens) return tokens.error();
            if (tokens->ids.empty())
                return refuse("text " + std::to_string(i) + " has no tokens; give one that is not empty");
            room.add(*tokens, has_types);
            if (room.ids.size() < enough && i + 1 < count) continue;
            if (auto done = run(first, room.batch()); !done) return done;
            first = i + 1;
            room.clear();
            if (options.on_progress && !options.on_progress(first, count))
                return error{.code = error_code::cancelled, .message = "cancelled"};
        }
        return {};
    }

    [[nodiscard]] error no_head() const {
        return {.code = error_code::unsupported,
                .message = "this model has no head that classifies a sequence; embed() runs",
                .file = model.facts().path};
    }
    [[nodiscard]] result<void> check_classes() const {
        if (model.facts().labels == 0) return no_head();
        if (!facts.regression) return {};
        return error{.code = error_code::unsupported,
                     .message =
                         "problem_type is regression: its outputs are no probabilities; "
                         "encoder_model::logits() gives them",
                     .file = model.facts().path + "/config.json"};
    }
    // Of logits, [texts, labels].
    void to_probabilities(std::span<float> logits) const {
        const fp_environment environment;
        const std::size_t labels = model.facts().labels;
        const bool each = labels == 1 || facts.several_labels;
        for (std::size_t i = 0; i < logits.size(); i += labels)
            if (each)
                for (float& one : logits.subspan(i, labels)) one = detail::sigmoid(one);
            else
                detail::softmax(logits.subspan(i, labels));
    }
    [[nodiscard]] static result<void> check_room(std::size_t given, std::size_t wanted) {
        if (given == wanted) return {};
        return refuse("there is room for " + std::to_string(given) + " floats, the result has " +
                      std::to_string(wanted));
    }

    // The tokens of single texts, prompts in front.
    template <class Run>
    result<void> run_texts(std::span<const std::string_view> texts, const text_options& options,
                           const Run& run) const {
        const auto prompt = prompt_of(options);
        if (!prompt) return prompt.error();
        std::string whole;
        const auto encode = [&](std::size_t i, const tokenize_options& lengths) {
            if (prompt->empty()) return words->encode(texts[i], lengths);
            whole.assign(*prompt).append(texts[i]);
            return words->encode(whole, lengths);
        };
        return in_batches(texts.size(), options, encode, run);
    }
};

BITMILL_INLINE result<std::unique_ptr<text_encoder::content>> text_encoder::content::open(
    const std::string& path, const model_options& options, const content* like) {
    auto model = encoder_model::open(path, options);
    if (!model) return model.error();
    const std::string& root = model->facts().path;
    const auto folder = detail::folder_of_tokenizer(root);
    if (!folder) return folder.error();
    const auto file = input_file::open(*folder + "/tokenizer.json");
    if (!file) return file.error();
    const auto text = read_text(*file, std::uint64_t{1} << 30);
    if (!text) return text.error();
    const digest bytes = sha256::of(*text);
    std::shared_ptr<const bitmill::tokenizer> words;
    if (like != nullptr && like->words_digest == bytes) {
        words = like->words;
    } else {
        auto parsed = bitmill::tokenizer::parse(*text, file->path());
        if (!parsed) return parsed.error();
        words = std::make_shared<const bitmill::tokenizer>(std::move(*parsed));
    }
    const auto& ids = words->facts();
    if (ids.max_id < 0 || static_cast<std::size_t>(ids.max_id) >= model->facts().vocabulary)
        return error{.code = error_code::bad_input,
                     .message = "gives ids up to " + std::to_string(ids.max_id) + ", the model has " +
                                std::to_string(model->facts().vocabulary) +
                                " embeddings; fetch the tokenizer and the weights of one model again",
                     .file = *folder + "/tokenizer.json"};
    detail::text_config_reader reader(root, *folder);
    auto facts = reader.read(model->facts());
    if (!facts) return facts.error();
    if (reader.lowers()) {
        const auto high = words->encode("ABC"), low = words->encode("abc");
        if (!high || !low || high->ids != low->ids)
            return error{.code = error_code::unsupported,
                         .message =
                             "do_lower_case is set for a tokenizer that tells capitals from small letters, "
                             "which is not run by this version",
                         .file = *folder + "/sentence_bert_config.json"};
    }
    const bool has_types = model->facts().token_types > 1;
    return std::unique_ptr<content>(new content{std::move(*model), std::move(words), std::move(*facts),
                                                reader.has_types() && has_types, bytes});
}

BITMILL_INLINE std::string text_facts::json(int indent) const {
    detail::ordered_json named = detail::ordered_json::object();
    for (const auto& [name, text] : prompts) named[name] = text;
    return detail::json_object({{"max_length", max_length},
                                {"prompts", std::move(named)},
                                {"default_prompt", default_prompt},
                                {"labels", labels},
                                {"several_labels", several_labels},
                                {"regression", regression}})
        .dump(indent, ' ', false, detail::ordered_json::error_handler_t::replace);
}

BITMILL_INLINE text_encoder::text_encoder(std::unique_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE text_encoder::text_encoder(text_encoder&&) noexcept = default;
BITMILL_INLINE text_encoder& text_encoder::operator=(text_encoder&&) noexcept = default;
BITMILL_INLINE text_encoder::~text_encoder() = default;

BITMILL_INLINE result<text_encoder> text_encoder::open(const std::string& path,
                                                       const model_options& options) {
    return detail::guard(path, [&]() -> result<text_encoder> {
        auto made = content::open(path, options, nullptr);
        if (!made) return made.error();
        return text_encoder(std::move(*made));
    });
}

BITMILL_INLINE result<text_encoder> text_encoder::open(const std::string& path, const model_options& options,
                                                       const text_encoder& like) {
    return detail::guard(path, [&]() -> result<text_encoder> {
        auto made = content::open(path, options, like.content_.get());
        if (!made) return made.error();
        return text_encoder(std::move(*made));
    });
}

BITMILL_INLINE result<text_encoder> text_encoder::at_level(const std::string& level) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<text_encoder> {
        auto model = it.model.at_level(level);
        if (!model) return model.error();
        return text_encoder(std::unique_ptr<content>(
            new content{std::move(*model), it.words, it.facts, it.has_types, it.words_digest}));
    });
}

BITMILL_INLINE const encoder_model& text_encoder::model() const noexcept { return content_->model; }
BITMILL_INLINE const bitmill::tokenizer& text_encoder::tokenizer() const noexcept { return *content_->words; }
BITMILL_INLINE const text_facts& text_encoder::facts() const noexcept { return content_->facts; }

BITMILL_INLINE result<std::string> text_encoder::space_id() const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<std::string> {
        const auto of_model = it.model.fingerprint();
        if (!of_model) return of_model.error();
        const auto prompt = it.prompt_of({});
        if (!prompt) return prompt.error();
        sha256 all;
        all.update(std::as_bytes(std::span(*of_model))).update(std::as_bytes(std::span(it.words_digest)));
        all.update(std::to_string(it.facts.max_length) + '\n' + *prompt);
        return hex_text(all.finish());
    });
}

BITMILL_INLINE void text_encoder::observe(layer_observer observer) {
    content_->model.observe(std::move(observer));
}

BITMILL_INLINE result<void> text_encoder::embed(std::span<const std::string_view> texts, std::span<float> dst,
                                                const text_options& options) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<void> {
        const std::size_t size = it.model.facts().embedding_size;
        const auto prompt = it.prompt_of(options);
        if (!prompt) return prompt.error();
        if (!prompt->empty() && !it.model.facts().include_prompt)
            return error{.code = error_code::unsupported,
                         .message =
                             "include_prompt is false: a mean that leaves the prompt out is not run by this "
                             "version; embed without a prompt",
                         .file = it.model.facts().path + "/1_Pooling/config.json"};
        if (auto sound = content::check_room(dst.size(), texts.size() * size); !sound) return sound;
        return it.run_texts(texts, options, [&](std::size_t first, const token_batch& batch) {
            return it.model.embed(batch, dst.subspan(first * size, batch.lengths.size() * size));
        });
    });
}

BITMILL_INLINE result<void> text_encoder::classify(std::span<const std::string_view> texts,
                                                   std::span<float> dst, const text_options& options) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<void> {
        const std::size_t labels = it.model.facts().labels;
        if (auto sound = it.check_classes(); !sound) return sound;
        if (auto sound = content::check_room(dst.size(), texts.size() * labels); !sound) return sound;
        return it.run_texts(texts, options, [&](std::size_t first, const token_batch& batch) -> result<void> {
            const auto out = dst.subspan(first * labels, batch.lengths.size() * labels);
            if (auto done = it.model.logits(batch, out); !done) return done;
            it.to_probabilities(out);
            return {};
        });
    });
}

BITMILL_INLINE result<void> text_encoder::classify(std::span<const std::string_view> first,
                                                   std::span<const std::string_view> second,
                                                   std::span<float> dst, const text_options& options) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<void> {
        if (auto sound = it.check_classes(); !sound) return sound;
        if (auto done = pair_logits(first, second, dst, options); !done) return done;
        it.to_probabilities(dst);
        return {};
    });
}

BITMILL_INLINE result<void> text_encoder::pair_logits(std::span<const std::string_view> first,
                                                      std::span<const std::string_view> second,
                                                      std::span<float> dst,
                                                      const text_options& options) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<void> {
        const std::size_t labels = it.model.facts().labels;
        if (labels == 0) return it.no_head();
        if (first.size() != second.size())
            return content::refuse(std::to_string(first.size()) + " first texts and " +
                                   std::to_string(second.size()) + " second ones are no pairs");
        if (auto sound = content::check_room(dst.size(), first.size() * labels); !sound) return sound;
        const auto encode = [&](std::size_t i, const tokenize_options& lengths) {
            return it.words->encode(first[i], second[i], lengths);
        };
        return it.in_batches(first.size(), options, encode, [&](std::size_t at, const token_batch& batch) {
            return it.model.logits(batch, dst.subspan(at * labels, batch.lengths.size() * labels));
        });
    });
}

BITMILL_INLINE result<std::vector<ranked_document>> text_encoder::rerank(
    std::string_view query, std::span<const std::string_view> documents, const text_options& options) const {
    const content& it = *content_;
    return detail::guard(it.model.facts().path, [&]() -> result<std::vector<ranked_document>> {
        if (it.model.facts().labels != 1)
            return error{.code = error_code::unsupported,
                         .message = "a reranker has one label, this model has " +
                                    std::to_string(it.model.facts().labels),
                         .file = it.model.facts().path};
        const std::vector<std::string_view> first(documents.size(), query);
        std::vector<float> logits(documents.size());
        if (auto done = pair_logits(first, documents, logits, options); !done) return done.error();
        const fp_environment environment;
        std::vector<ranked_document> out;
        for (std::size_t i = 0; i < logits.size(); ++i)
            out.push_back({i, logits[i], detail::sigmoid(logits[i])});
        std::stable_sort(out.begin(), out.end(),
                         [](const auto& a, const auto& b) { return a.logit > b.logit; });
        return out;
    });
}

}  // namespace bitmill
