// Tokens that are looked for in the text before the model sees it: leftmost, of those the longest. Source:
// tokenizers/src/tokenizer/added_vocabulary.rs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/byte_trie-inl.hpp>
#include <bitmill/detail/pre_tokenizers-inl.hpp>

namespace bitmill::detail {

struct added_token {
    std::string content;
    std::int32_t id = 0;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
    bool normalized = true;
    bool special = false;
};

class added_matcher {
public:
    static constexpr std::size_t max_bytes = 1024;

    added_matcher() = default;
    // The text of a token, its index in `tokens`; `tokens` outlive the matcher.
    added_matcher(const std::vector<added_token>& tokens, std::vector<byte_trie::entry> texts)
        : tokens_(&tokens) {
        for (const auto& [text, index] : texts)
            if (!text.empty()) starts_[static_cast<unsigned char>(text[0])] = empty_ = true;
        empty_ = !empty_;
        trie_ = byte_trie(std::move(texts));
    }

    // Covers the text with pieces; positions begin at `base`.
    void find(std::string_view text, std::uint32_t base, std::vector<text_piece>& out) const {
        std::size_t last = 0;
        std::size_t blanks = 0;  // end of those that were taken along: no run of them is read twice
        const auto add = [&](std::size_t begin, std::size_t end, std::int32_t id) {
            out.push_back(
                {base + static_cast<std::uint32_t>(begin), base + static_cast<std::uint32_t>(end), id});
        };
        for (std::size_t i = empty_ ? text.size() : 0; i < text.size();) {
            if (!starts_[static_cast<unsigned char>(text[i])]) {
                ++i;
                continue;
            }
            const auto [index, length] = longest(text, i);
            if (length == 0) {
                ++i;
                continue;
            }
            const added_token& token = (*tokens_)[static_cast<std::size_t>(index)];
            std::size_t begin = i;
            std::size_t end = i + length;
            i = end;
            if (token.single_word && !stands_alone(text, begin, end)) continue;
            if (token.lstrip) begin = std::max(last, spaces_before(text, begin, last));
            if (token.rstrip)
                end = blanks = end < blanks ? blanks : text_reader(text).run(end, character::space);
            if (last < begin) add(last, begin, text_piece::no_id);
            add(begin, end, token.id);
            last = end;
        }
        if (last < text.size()) add(last, text.size(), text_piece::no_id);
    }

private:
    [[nodiscard]] std::pair<std::int32_t, std::size_t> longest(std::string_view text,
                                                               std::size_t i) const noexcept {
        std::pair<std::int32_t, std::size_t> best{0, 0};
        std::uint32_t node = byte_trie::root();
        for (std::size_t at = i; at < text.size(); ++at) {
            node = trie_.child(node, text[at]);
            if (node == byte_trie::no_node) break;
            if (trie_.value(node) != byte_trie::no_value) best = {trie_.value(node), at + 1 - i};
        }
        return best;
    }
    static std::size_t character_before(std::string_view text, std::size_t i) noexcept {
        do --i;
        while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80);
        return i;
    }
    static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) noexcept {
        const text_reader reader(text);
        const auto is_word = [&](std::size_t i) { return (reader.at(i).value & character::word) != 0; };
        return (begin == 0 || !is_word(character_before(text, begin))) &&
               (end == text.size() || !is_word(end));
    }
    // Not beyond `least`: else a text of blanks and tokens would take quadratic time.
    static std::size_t spaces_before(std::string_view text, std::size_t i, std::size_t least) noexcept {
        const text_reader reader(text);
        while (i > least) {
            const std::size_t before = character_before(text, i);
            if ((reader.at(before).value & character::space) == 0) break;
            i = before;
        }
        return i;
    }

    const std::vector<added_token>* tokens_ = nullptr;
    byte_trie trie_;
    std::array<bool, 256> starts_{};
    bool empty_ = true;
};

}  // namespace bitmill::detail
