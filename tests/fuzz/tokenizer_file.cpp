// Input: a tokenizer.json, then behind a NUL a text, and perhaps behind another a second one. What opens encodes any
// text: ids are of the vocabulary, offsets lie in the text, all parts are of one length.
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/text/tokenizer.hpp>

#include <heap_meter.hpp>
#include <mutators.hpp>

#include "fuzz.hpp"

using fuzz::require;

namespace {

constexpr const char* name = "tokenizer.json";

// Characters, as the tokenizer counts them where the text is not UTF-8: never more than bytes.
void check(const bitmill::tokenizer& tokenizer, const bitmill::token_sequence& tokens, std::size_t most) {
    const std::size_t count = tokens.ids.size();
    require(tokens.offsets.size() == count && tokens.types.size() == count &&
                tokens.attention.size() == count && tokens.special_tokens.size() == count,
            "all parts have one length");
    for (std::size_t i = 0; i < count; ++i) {
        require(tokens.offsets[i].begin <= tokens.offsets[i].end, "an offset begins before its end");
        require(tokens.offsets[i].end <= most, "an offset ends in the text");
        require(tokens.special_tokens[i] == 1 || tokenizer.token_of(tokens.ids[i]).has_value(),
                "an id is of the vocabulary");
    }
}

void encode(const bitmill::tokenizer& tokenizer, std::string_view text, std::string_view pair) {
    for (const bitmill::tokenize_options& options :
         {bitmill::tokenize_options{},
          bitmill::tokenize_options{.add_special_tokens = false, .truncate = false},
          bitmill::tokenize_options{.max_length = 7}}) {
        const auto one = tokenizer.encode(text, options);
        const auto two = tokenizer.encode(text, pair, options);
        for (const auto* tokens : {&one, &two}) {
            if (*tokens) {
                check(tokenizer, tokens->value(), std::max(text.size(), pair.size()));
                require(!options.max_length || tokens->value().ids.size() <= *options.max_length,
                        "max_length holds");
            } else {
                require(!tokens->error().message.empty(), "an error has a reason");
            }
        }
        const auto again = tokenizer.encode(text, options);
        require(one.operator bool() == again.operator bool() && (!one || one->ids == again->ids),
                "the same text gives the same ids");
    }
}

constexpr std::string_view words[] = {"normalizer",
                                      "pre_tokenizer",
                                      "post_processor",
                                      "model",
                                      "added_tokens",
                                      "truncation",
                                      "type",
                                      "Sequence",
                                      "normalizers",
                                      "pretokenizers",
                                      "processors",
                                      "BertNormalizer",
                                      "BertPreTokenizer",
                                      "NFC",
                                      "NFD",
                                      "NFKC",
                                      "NFKD",
                                      "Lowercase",
                                      "Strip",
                                      "StripAccents",
                                      "Replace",
                                      "Prepend",
                                      "Precompiled",
                                      "Nmt",
                                      "precompiled_charsmap",
                                      "pattern",
                                      "String",
                                      "Regex",
                                      "content",
                                      "Whitespace",
                                      "WhitespaceSplit",
                                      "Punctuation",
                                      "Digits",
                                      "CharDelimiterSplit",
                                      "Split",
                                      "Metaspace",
                                      "ByteLevel",
                                      "behavior",
                                      "Isolated",
                                      "Removed",
                                      "MergedWithPrevious",
                                      "MergedWithNext",
                                      "Contiguous",
                                      "invert",
                                      "replacement",
                                      "split",
                                      "prepend_scheme",
                                      "first",
                                      "always",
                                      "never",
                                      "\u2581",
                                      " ",
                                      " {2,}",
                                      "\\s+",
                                      "\\p{N}{1,3}",
                                      "add_prefix_space",
                                      "trim_offsets",
                                      "use_regex",
                                      "TemplateProcessing",
                                      "BertProcessing",
                                      "RobertaProcessing",
                                      "single",
                                      "pair",
                                      "special_tokens",
                                      "SpecialToken",
                                      "id",
                                      "ids",
                                      "type_id",
                                      "A",
                                      "B",
                                      "sep",
                                      "cls",
                                      "WordPiece",
                                      "BPE",
                                      "Unigram",
                                      "vocab",
                                      "merges",
                                      "unk_token",
                                      "unk_id",
                                      "byte_fallback",
                                      "fuse_unk",
                                      "ignore_merges",
                                      "continuing_subword_prefix",
                                      "end_of_word_suffix",
                                      "max_input_chars_per_word",
                                      "##",
                                      "a",
                                      "b",
                                      "ab",
                                      "lstrip",
                                      "rstrip",
                                      "single_word",
                                      "normalized",
                                      "max_length",
                                      "strategy",
                                      "LongestFirst",
                                      "OnlyFirst",
                                      "OnlySecond",
                                      "direction",
                                      "Left"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input = fuzz::as_text(data, size);
    const std::size_t first = std::min(input.find('\0'), size);
    const std::string_view rest = input.substr(std::min(first + 1, size));
    const std::size_t second = std::min(rest.find('\0'), rest.size());
    const bitmill_test::heap_meter meter;
    const auto tokenizer = bitmill::tokenizer::parse(input.substr(0, first), name);
    // Tables by id have 2^20 places however small the file is; double arrays and documents take up to 64 bytes a byte.
    require(meter.peak_bytes() <= 64 * size + (std::size_t{16} << 20),
            "opening takes at most 64 x file + 16 MiB");
    if (!tokenizer) {
        fuzz::check_error(tokenizer.error());
        require(tokenizer.error().code == bitmill::error_code::bad_input ||
                    tokenizer.error().code == bitmill::error_code::unsupported,
                "a file that is refused is bad_input or unsupported");
        return 0;
    }
    encode(*tokenizer, rest.substr(0, second), rest.substr(std::min(second + 1, rest.size())));
    return 0;
}

// ---- mutation: of the file's tree, or of the texts ---------------------------------------------------------------
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size));
    const std::size_t end = std::min(input.find('\0'), input.size());
    std::string file = input.substr(0, end);
    std::string texts = input.substr(end);
    if (texts.empty()) texts.push_back('\0');
    if (rng.below(3) != 0)
        file = fuzz::mutated_json(std::move(file), rng, words);
    else
        fuzz::mutate_bytes(texts);
    return fuzz::hand_back(file + texts, data, max_size);
}
