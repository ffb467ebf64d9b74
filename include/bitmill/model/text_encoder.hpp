// An encoder with its tokenizer: text to sentence embeddings, to the scores of a reranker, to classes. What a text
// becomes is what sentence-transformers makes of it: its prompts, its lengths, its pooling.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/model/encoder_model.hpp>
#include <bitmill/text/tokenizer.hpp>

namespace bitmill {

struct text_options {
    // Tokens of a sequence at most, special ones included; longer ones are cut. 0: text_facts::max_length.
    std::size_t max_length = 0;
    // Put in front of every text: as it stands ("query: "), or by its name in config_sentence_transformers.json. Neither:
    // the file's default prompt, mostly none. Not of pairs.
    std::optional<std::string> prompt = std::nullopt;
    std::string prompt_name = {};
    // Called on the caller's thread; false cancels.
    std::function<bool(std::size_t done, std::size_t total)> on_progress = {};
};

struct text_facts {
    std::size_t max_length = 0;                                // tokens of a sequence, special ones included
    std::vector<std::pair<std::string, std::string>> prompts;  // name, text
    std::string default_prompt;                                // its name; "" for none
    std::vector<std::string> labels;                           // of classify()
    bool several_labels = false;  // apply at once: each has a probability of its own
    bool regression = false;      // its logits are no logits of classes

    [[nodiscard]] std::string json(int indent = 2) const;
};

struct ranked_document {
    std::size_t index;  // among the documents that were given
    float logit;
    float score;  // its sigmoid, 0 to 1
};

// Move-only. All const functions are safe from many threads. Errors of all: what encoder_model and tokenizer refuse;
// invalid_argument for a max_length below the special tokens or above what the model runs, or an unknown prompt_name;
// cancelled.
class text_encoder {
public:
    // A folder with a model and its tokenizer.json (which may also lie one above a variant). Errors: those of
    // encoder_model::open and tokenizer::open; bad_input where the tokenizer gives ids that the model has not.
    [[nodiscard]] static result<text_encoder> open(const std::string& path, const model_options& = {});
    // The tokenizer is that of `like` where both files have the same bytes, as those of a model's variants do: to read
    // MiniLM's takes as long as to load its weights.
    [[nodiscard]] static result<text_encoder> open(const std::string& path, const model_options&,
                                                   const text_encoder& like);

    text_encoder(text_encoder&&) noexcept;
    text_encoder& operator=(text_encoder&&) noexcept;
    ~text_encoder();

    // As encoder_model::at_level; both share the tokenizer.
    [[nodiscard]] result<text_encoder> at_level(const std::string& level) const;

    [[nodiscard]] const encoder_model& model() const noexcept;
    [[nodiscard]] const bitmill::tokenizer& tokenizer() const noexcept;
    [[nodiscard]] const text_facts& facts() const noexcept;

    // dst: [texts.size(), embedding_size].
    [[nodiscard]] result<void> embed(std::span<const std::string_view> texts, std::span<float> dst,
                                     const text_options& = {}) const;
    // Of a model with one label: the documents by falling score, equal ones in their order. unsupported for other models.
    [[nodiscard]] result<std::vector<ranked_document>> rerank(std::string_view query,
                                                              std::span<const std::string_view> documents,
                                                              const text_options& = {}) const;
    // dst: [texts.size(), labels], probabilities that add up to 1 for each text; with several_labels, or of a single
    // label, each by itself. unsupported where the model has no head for it, or one of regression.
    [[nodiscard]] result<void> classify(std::span<const std::string_view> texts, std::span<float> dst,
                                        const text_options& = {}) const;
    // The same of pairs (first[i], second[i]). dst: [first.size(), labels].
    [[nodiscard]] result<void> classify(std::span<const std::string_view> first,
                                        std::span<const std::string_view> second, std::span<float> dst,
                                        const text_options& = {}) const;
    // The logits of pairs (first[i], second[i]). dst: [first.size(), labels].
    [[nodiscard]] result<void> pair_logits(std::span<const std::string_view> first,
                                           std::span<const std::string_view> second, std::span<float> dst,
                                           const text_options& = {}) const;

    // The space that its vectors of embed() lie in, without a prompt of the caller's: those of one space_id may be compared
    // with each other and kept in one index. 64 hexadecimal digits, of encoder_model::fingerprint, tokenizer.json, the
    // default prompt and length. Errors: io.
    [[nodiscard]] result<std::string> space_id() const;

    // As encoder_model::observe: not while a call runs.
    void observe(layer_observer observer);

private:
    struct content;
    explicit text_encoder(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/text_encoder-inl.hpp>
#endif
