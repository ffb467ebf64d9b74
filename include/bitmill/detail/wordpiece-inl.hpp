// WordPiece: the longest token first, from left to right (Schuster and Nakajima, 2012; tokenizers/src/models/wordpiece).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/byte_trie-inl.hpp>
#include <bitmill/detail/vocabulary-inl.hpp>

namespace bitmill::detail {

class wordpiece_model {
public:
    // `words` outlives the model.
    wordpiece_model(const vocabulary& words, std::int32_t unknown, std::string_view prefix,
                    std::size_t max_characters)
        : unknown_(unknown), max_characters_(max_characters) {
        std::vector<byte_trie::entry> entries;
        entries.reserve(words.size());
        for (std::size_t i = 0; i < words.size(); ++i) entries.emplace_back(words.text(i), words.id(i));
        trie_ = byte_trie(std::move(entries));
        inner_ = trie_.walk(prefix);
    }

    // Appends the tokens of bytes [begin, end) of the text.
    void encode(std::string_view text, std::uint32_t begin, std::uint32_t end,
                std::vector<model_token>& out) const {
        const std::size_t before = out.size();
        if (split(text, begin, end, out)) return;
        out.resize(before);
        out.push_back({unknown_, begin, end});
    }

private:
    [[nodiscard]] bool split(std::string_view text, std::uint32_t begin, std::uint32_t end,
                             std::vector<model_token>& out) const {
        if (end - begin > max_characters_) {
            std::size_t count = 0;
            for (std::uint32_t i = begin; i < end; ++i)
                count += (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
            if (count > max_characters_) return false;
        }
        for (std::uint32_t at = begin; at < end;) {
            std::uint32_t node = at == begin ? byte_trie::root() : inner_;
            model_token best{vocabulary::no_id, at, at};
            for (std::uint32_t i = at; i < end && node != byte_trie::no_node; ++i) {
                node = trie_.child(node, text[i]);
                if (node != byte_trie::no_node && trie_.value(node) != byte_trie::no_value)
                    best = {trie_.value(node), at, i + 1};
            }
            if (best.id == vocabulary::no_id) return false;
            out.push_back(best);
            at = best.end;
        }
        return true;
    }

    byte_trie trie_;
    std::uint32_t inner_ = byte_trie::no_node;  // behind the prefix of a word's later tokens
    std::int32_t unknown_;
    std::size_t max_characters_;
};

}  // namespace bitmill::detail
