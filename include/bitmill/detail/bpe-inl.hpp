// Byte-pair encoding: of all neighbours that merge the pair of lowest rank first, the leftmost of equals (Sennrich et
// al., 2016; tokenizers/src/models/bpe). Of characters, or of bytes (ByteLevel). Time: n log n in the piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/unicode-inl.hpp>
#include <bitmill/detail/vocabulary-inl.hpp>

namespace bitmill::detail {

// Two tokens to the rank of their merge and the token that they become.
class merge_table {
public:
    struct merge {
        std::uint32_t rank = no_rank;
        std::int32_t id = vocabulary::no_id;
    };
    static constexpr std::uint32_t no_rank = ~std::uint32_t{0};

    void reserve(std::size_t count) {
        std::size_t slots = 16;
        while (slots < 2 * count) slots *= 2;
        slots_.assign(slots, {});
    }
    // The later of equal pairs counts. False where the pairs were chosen to collide.
    [[nodiscard]] bool add(std::int32_t a, std::int32_t b, merge made) {
        std::size_t at = home(a, b);
        for (std::size_t probes = 0; !slots_[at].ends(a, b); at = next(at))
            if (++probes > max_probes) return false;
        slots_[at] = {a, b, made};
        return true;
    }
    [[nodiscard]] merge find(std::int32_t a, std::int32_t b) const noexcept {
        std::size_t at = home(a, b);
        while (!slots_[at].ends(a, b)) at = next(at);
        return slots_[at].made;
    }

private:
    struct slot {
        std::int32_t a = vocabulary::no_id;
        std::int32_t b = vocabulary::no_id;
        merge made{};

        // The search for this pair: here it is, or would have been.
        [[nodiscard]] bool ends(std::int32_t left, std::int32_t right) const noexcept {
            return (a == left && b == right) || a == vocabulary::no_id;
        }
    };
    [[nodiscard]] std::size_t home(std::int32_t a, std::int32_t b) const noexcept {
        return hash_of(static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(b)) & (slots_.size() - 1);
    }
    [[nodiscard]] std::size_t next(std::size_t at) const noexcept { return (at + 1) & (slots_.size() - 1); }

    std::vector<slot> slots_{slot{}};
};

struct bpe_rules {
    std::optional<std::string> unknown = std::nullopt;
    std::string prefix = {};  // of a word's later characters
    std::string suffix = {};  // of its last one
    bool fuse_unknown = false;
    bool byte_fallback = false;
    bool ignore_merges = false;
    bool of_bytes = false;  // the text is cut into bytes, the vocabulary has been translated to them
};

struct bpe_scratch {
    struct symbol {
        std::int32_t id;
        std::int32_t before;  // -1: none
        std::int32_t behind;
        std::uint32_t size;  // bytes; 0: merged away
    };
    struct candidate {
        std::uint32_t rank;
        std::uint32_t at;
        std::int32_t id;
        // Of a heap whose top is the lowest.
        friend bool operator<(const candidate& a, const candidate& b) noexcept {
            return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
        }
    };
    std::vector<symbol> symbols;
    std::vector<candidate> heap;
    std::string key;
};

class bpe_model {
public:
    // `words` outlives the model.
    bpe_model(const vocabulary& words, merge_table merges, bpe_rules rules)
        : words_(words), merges_(std::move(merges)), rules_(std::move(rules)) {
        if (rules_.unknown) unknown_ = words_.find(*rules_.unknown);
        static constexpr char digits[] = "0123456789ABCDEF";
        for (std::size_t byte = 0; byte < 256; ++byte) {
            fallback_[byte] = find_byte(digits[byte >> 4], digits[byte & 15]);
            const char raw = static_cast<char>(byte);
            single_[byte] = words_.find({&raw, 1});
        }
    }

    // False: a character has no token, and the one for unknown ones is not in the vocabulary.
    [[nodiscard]] bool encode(std::string_view text, std::uint32_t begin, std::uint32_t end,
                              std::vector<model_token>& out, bpe_scratch& scratch) const {
        const std::string_view word = text.substr(begin, end - begin);
        if (rules_.ignore_merges)
            if (const std::int32_t whole = words_.find(word); whole != vocabulary::no_id) {
                out.push_back({whole, begin, end});
                return true;
            }
        scratch.symbols.clear();
        if (!cut(word, scratch)) return false;
        if (scratch.symbols.size() <= few)
            merge_few(scratch);
        else
            merge_many(scratch);
        std::uint32_t at = begin;
        for (const auto& s : scratch.symbols) {
            if (s.size == 0) continue;
            out.push_back({s.id, at, at + s.size});
            at += s.size;
        }
        return true;
    }

private:
    // Up to here looking at all pairs for the lowest costs less than a heap.
    static constexpr std::size_t few = 32;

    [[nodiscard]] std::int32_t find_byte(char high, char low) const {
        const std::array<char, 6> name{'<', '0', 'x', high, low, '>'};
        return words_.find({name.data(), name.size()});
    }

    static void add(bpe_scratch& scratch, std::int32_t id, std::size_t size) {
        const auto at = static_cast<std::int32_t>(scratch.symbols.size());
        if (at > 0) scratch.symbols.back().behind = at;
        scratch.symbols.push_back({id, at - 1, -1, static_cast<std::uint32_t>(size)});
    }

    [[nodiscard]] bool cut(std::string_view word, bpe_scratch& scratch) const {
        const bool decorated = !rules_.prefix.empty() || !rules_.suffix.empty();
        std::size_t unknown = 0;  // bytes of the unknown token that is not added yet
        for (std::size_t i = 0; i < word.size();) {
            const std::size_t step = rules_.of_bytes ? 1 : utf8_step(word[i]);
            std::string_view part = word.substr(i, step);
            if (decorated) part = decorate(part, i == 0, i + step == word.size(), scratch.key);
            i += step;
            const std::int32_t id =
                part.size() == 1 ? single_[static_cast<unsigned char>(part[0])] : words_.find(part);
            if (id != vocabulary::no_id) {
                if (unknown != 0) add(scratch, unknown_, std::exchange(unknown, 0));
                add(scratch, id, step);
                continue;
            }
            if (rules_.byte_fallback && add_bytes(part, scratch)) continue;
            if (!rules_.unknown) continue;
            if (unknown_ == vocabulary::no_id) return false;
            if (unknown != 0 && !rules_.fuse_unknown) add(scratch, unknown_, std::exchange(unknown, 0));
            unknown += step;
        }
        if (unknown != 0) add(scratch, unknown_, unknown);
        return true;
    }
    std::string_view decorate(std::string_view part, bool first, bool last, std::string& key) const {
        key.assign(first ? std::string() : rules_.prefix);
        key.append(part);
        if (last) key.append(rules_.suffix);
        return key;
    }
    [[nodiscard]] bool add_bytes(std::string_view part, bpe_scratch& scratch) const {
        for (const char c : part)
            if (fallback_[static_cast<unsigned char>(c)] == vocabulary::no_id) return false;
        for (const char c : part) add(scratch, fallback_[static_cast<unsigned char>(c)], 1);
        return true;
    }

    void merge_few(bpe_scratch& scratch) const {
        auto& symbols = scratch.symbols;
        std::array<merge_table::merge, few> pairs;
        std::size_t count = symbols.size();
        const auto look = [&](std::size_t i) { pairs[i] = merges_.find(symbols[i].id, symbols[i + 1].id); };
        for (std::size_t i = 0; i + 1 < count; ++i) look(i);
        while (count > 1) {
            std::size_t best = 0;
            for (std::size_t i = 1; i + 1 < count; ++i)
                if (pairs[i].rank < pairs[best].rank) best = i;
            if (pairs[best].rank == merge_table::no_rank) break;
            symbols[best].id = pairs[best].id;
            symbols[best].size += symbols[best + 1].size;
            for (std::size_t i = best + 1; i + 1 < count; ++i) {
                symbols[i] = symbols[i + 1];
                pairs[i] = pairs[i + 1];
            }
            --count;
            if (best > 0) look(best - 1);
            if (best + 1 < count) look(best);
        }
        symbols.resize(count);
    }

    void merge_many(bpe_scratch& scratch) const {
        auto& symbols = scratch.symbols;
        auto& heap = scratch.heap;
        heap.clear();
        const auto candidate_at = [&](std::int32_t i) {
            const auto& left = symbols[static_cast<std::size_t>(i)];
            const auto& right = symbols[static_cast<std::size_t>(left.behind)];
            const auto made = merges_.find(left.id, right.id);
            return bpe_scratch::candidate{made.rank, static_cast<std::uint32_t>(i), made.id};
        };
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
            if (const auto c = candidate_at(static_cast<std::int32_t>(i)); c.rank != merge_table::no_rank)
                heap.push_back(c);
        std::make_heap(heap.begin(), heap.end());
        const auto push = [&](std::int32_t i) {
            const auto c = candidate_at(i);
            if (c.rank == merge_table::no_rank) return;
            heap.push_back(c);
            std::push_heap(heap.begin(), heap.end());
        };
        while (!heap.empty()) {
            std::pop_heap(heap.begin(), heap.end());
            const auto top = heap.back();
            heap.pop_back();
            auto& left = symbols[top.at];
            if (left.size == 0 || left.behind < 0) continue;
            auto& right = symbols[static_cast<std::size_t>(left.behind)];
            // What stands there now may be another pair.
            if (merges_.find(left.id, right.id).id != top.id) continue;
            left.id = top.id;
            left.size += right.size;
            left.behind = right.behind;
            right.size = 0;
            if (left.behind >= 0)
                symbols[static_cast<std::size_t>(left.behind)].before = static_cast<std::int32_t>(top.at);
            if (left.before >= 0) push(left.before);
            if (left.behind >= 0) push(static_cast<std::int32_t>(top.at));
        }
    }

    const vocabulary& words_;
    merge_table merges_;
    bpe_rules rules_;
    std::int32_t unknown_ = vocabulary::no_id;
    std::array<std::int32_t, 256> fallback_{};
    std::array<std::int32_t, 256> single_{};  // tokens of one byte
};

// ByteLevel's alphabet: each byte as a character (GPT-2's encoder.py).
class byte_alphabet {
public:
    byte_alphabet() {
        char32_t extra = 0x100;
        for (char32_t byte = 0; byte < 256; ++byte) {
            const bool itself =
                (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
            const char32_t c = itself ? byte : extra++;
            to_byte_[c] = static_cast<std::int16_t>(byte);
        }
    }
    // The bytes that a token stands for; empty where it holds any other character.
    [[nodiscard]] std::optional<std::string> bytes(std::string_view token) const {
        std::string out;
        for (std::size_t i = 0; i < token.size(); i += utf8_step(token[i])) {
            const char32_t c = utf8_character(token.data() + i);
            if (c >= to_byte_.size() || to_byte_[c] < 0) return std::nullopt;
            out.push_back(static_cast<char>(to_byte_[c]));
        }
        return out;
    }

private:
    std::array<std::int16_t, 0x144> to_byte_ = [] {
        std::array<std::int16_t, 0x144> none;
        none.fill(-1);
        return none;
    }();
};

}  // namespace bitmill::detail
