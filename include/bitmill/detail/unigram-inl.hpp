// Unigram: of all ways to cut a piece the one with the highest sum of scores, by Viterbi (Kudo, 2018;
// tokenizers/src/models/unigram). Time: length of the piece times the longest token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/byte_trie-inl.hpp>
#include <bitmill/detail/unicode-inl.hpp>
#include <bitmill/detail/vocabulary-inl.hpp>

namespace bitmill::detail {

struct unigram_scratch {
    struct node {
        double score;
        std::uint32_t from;  // none: not reached
        std::int32_t id;
    };
    static constexpr std::uint32_t none = ~std::uint32_t{0};
    std::vector<node> nodes;
    std::vector<model_token> path;
};

class unigram_model {
public:
    // scores: by id, which are the rows of `words`.
    unigram_model(const vocabulary& words, std::vector<double> scores, std::optional<std::int32_t> unknown,
                  std::optional<std::vector<std::int32_t>> bytes)
        : scores_(std::move(scores)), unknown_(unknown.value_or(vocabulary::no_id)),
          bytes_(std::move(bytes)) {
        std::vector<byte_trie::entry> entries;
        entries.reserve(words.size());
        double lowest = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < words.size(); ++i) {
            entries.emplace_back(words.text(i), words.id(i));
            lowest = std::min(lowest, scores_[i]);
        }
        unknown_score_ = lowest - 10.0;
        trie_ = byte_trie(std::move(entries));
    }

    // False: a character has no token, and there is none for unknown ones.
    [[nodiscard]] bool encode(std::string_view text, std::uint32_t begin, std::uint32_t end,
                              std::vector<model_token>& out, unigram_scratch& scratch) const {
        if (!search(text.substr(begin, end - begin), scratch.nodes)) return false;
        // From the end; unknown ones in a row are one.
        auto& path = scratch.path;
        path.clear();
        bool joins = false;
        for (std::uint32_t at = end - begin; at > 0;) {
            const node& here = scratch.nodes[at];
            const bool is_unknown = here.id == unknown_;
            if (is_unknown && joins)
                path.back().begin = begin + here.from;
            else
                path.push_back({here.id, begin + here.from, begin + at});
            joins = is_unknown;
            at = here.from;
        }
        for (auto token = path.rbegin(); token != path.rend(); ++token) {
            if (token->id == unknown_)
                add_unknown(text, *token, out);
            else
                out.push_back(*token);
        }
        return true;
    }

private:
    using node = unigram_scratch::node;

    [[nodiscard]] bool search(std::string_view piece, std::vector<node>& nodes) const {
        nodes.assign(piece.size() + 1, {0.0, unigram_scratch::none, 0});
        for (std::size_t at = 0; at < piece.size();) {
            const std::size_t step = utf8_step(piece[at]);
            const double here = nodes[at].score;
            const auto reach = [&](std::size_t end, double score, std::int32_t id) {
                node& to = nodes[end];
                if (to.from != unigram_scratch::none && !(score > to.score)) return;
                to = {score, static_cast<std::uint32_t>(at), id};
            };
            bool has_single = false;
            std::uint32_t trie_node = byte_trie::root();
            for (std::size_t i = at; i < piece.size(); ++i) {
                trie_node = trie_.child(trie_node, piece[i]);
                if (trie_node == byte_trie::no_node) break;
                const std::int32_t id = trie_.value(trie_node);
                if (id == byte_trie::no_value) continue;
                reach(i + 1, scores_[static_cast<std::size_t>(id)] + here, id);
                has_single = has_single || i + 1 - at == step;
            }
            if (!has_single) {
                if (unknown_ == vocabulary::no_id && (nodes[at + step].from == unigram_scratch::none ||
                                                      unknown_score_ + here > nodes[at + step].score))
                    return false;
                reach(at + step, unknown_score_ + here, unknown_);
            }
            at += step;
        }
        return true;
    }

    // It may be a token as a whole, or may be given by its bytes.
    void add_unknown(std::string_view text, const model_token& token, std::vector<model_token>& out) const {
        const std::string_view part = text.substr(token.begin, token.end - token.begin);
        const std::uint32_t whole = trie_.walk(part);
        if (whole != byte_trie::no_node && trie_.value(whole) != byte_trie::no_value) {
            out.push_back({trie_.value(whole), token.begin, token.end});
        } else if (bytes_ && all_bytes_known(part)) {
            for (const char c : part)
                out.push_back({(*bytes_)[static_cast<unsigned char>(c)], token.begin, token.end});
        } else {
            out.push_back({unknown_, token.begin, token.end});
        }
    }
    [[nodiscard]] bool all_bytes_known(std::string_view part) const noexcept {
        for (const char c : part)
            if ((*bytes_)[static_cast<unsigned char>(c)] == vocabulary::no_id) return false;
        return true;
    }

    byte_trie trie_;
    std::vector<double> scores_;
    double unknown_score_ = 0;
    std::int32_t unknown_;
    std::optional<std::vector<std::int32_t>> bytes_;  // tokens of the 256 bytes
};

}  // namespace bitmill::detail
