// Text to token ids, by a model's tokenizer.json. Ids, offsets and masks are those of the tokenizers package (0.23).
// Models: WordPiece, BPE (of characters, of bytes, with fallback to bytes), Unigram. An unknown or unsupported part of
// the file is an error that names it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>

namespace bitmill {

// Characters (Unicode code points, not bytes) [begin, end) of the text that was given.
struct token_span {
    std::uint32_t begin = 0;
    std::uint32_t end = 0;
    friend bool operator==(const token_span&, const token_span&) = default;
};

// One sequence, or two as one. All five have one element a token. Nothing is padded.
struct token_sequence {
    std::vector<std::int32_t> ids;
    std::vector<token_span> offsets;      // of the first or the second text; 0, 0 for what the model adds
    std::vector<std::int32_t> types;      // 0, or 1 for a second text where the model tells them apart
    std::vector<std::uint8_t> attention;  // 1: a token, never padding
    std::vector<std::uint8_t> special_tokens;  // 1: added around the text, as [CLS]
};

struct tokenize_options {
    bool add_special_tokens = true;
    // Tokens at most, those that are added included; of two texts the longer one is cut, at its end. Empty: the file's own
    // truncation, if any, by its strategy.
    std::optional<std::size_t> max_length = std::nullopt;
    bool truncate = true;  // false: whatever the file says
};

struct tokenizer_facts {
    std::string model;           // WordPiece, BPE, Unigram
    std::size_t vocabulary = 0;  // tokens, added ones included
    std::int32_t max_id = 0;
    std::size_t max_length = 0;    // of the file's truncation; 0: none
    std::size_t added_single = 0;  // special tokens around one text
    std::size_t added_pair = 0;    // and around two
};

// Move-only. All const functions are safe from many threads; each thread that encodes at the same time takes scratch of
// its own, about 2 MiB, and while it runs 20 to 200 bytes for a byte of its text, the most where each byte is a token.
class tokenizer {
public:
    // A tokenizer.json, or a folder that holds one. Errors: io; bad_input for a file that is not what it should be;
    // unsupported names a normalizer, pre-tokenizer, pattern, model or post-processor that this version has not.
    // Memory: a few times the file.
    [[nodiscard]] static result<tokenizer> open(const std::string& path);
    // The same of text; errors name `name` as the file.
    [[nodiscard]] static result<tokenizer> parse(std::string_view json,
                                                 const std::string& name = "tokenizer.json");

    tokenizer(tokenizer&&) noexcept;
    tokenizer& operator=(tokenizer&&) noexcept;
    ~tokenizer();

    [[nodiscard]] const tokenizer_facts& facts() const noexcept;
    // Of added tokens, too.
    [[nodiscard]] std::optional<std::int32_t> id_of(std::string_view token) const;
    // As it stands in the vocabulary, "##ing" or "\u0120the"; valid as long as the tokenizer. Empty: no such id.
    [[nodiscard]] std::optional<std::string_view> token_of(std::int32_t id) const noexcept;

    // Text is UTF-8; each maximal part that is not counts as one U+FFFD, as Python's errors="replace" has it. Time grows
    // with the length of the text times that of the longest token. Errors: invalid_argument for a text of more than
    // 16 MiB, for max_length below what is added, and where a truncation strategy cannot be met; bad_input where a
    // character has no token and the model no unknown token.
    [[nodiscard]] result<token_sequence> encode(std::string_view text, const tokenize_options& = {}) const;
    [[nodiscard]] result<token_sequence> encode(std::string_view text, std::string_view pair,
                                                const tokenize_options& = {}) const;

private:
    struct content;
    explicit tokenizer(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/tokenizer-inl.hpp>
#endif
