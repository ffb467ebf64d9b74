// The tokens of a model: text to id by hash, id to text by table; one block of memory for all texts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/hash-inl.hpp>
#include <bitmill/detail/io_error-inl.hpp>
#include <bitmill/text/tokenizer.hpp>

namespace bitmill::detail {

class vocabulary {
public:
    static constexpr std::int32_t no_id = -1;
    static constexpr std::size_t max_token_bytes = 65536;

    // Ids lie below 2^20 plus 16 a token, so that the table by id is bounded by the file.
    void add(std::string_view token, std::int32_t id) {
        rows_.push_back({texts_.size(), static_cast<std::uint32_t>(token.size()), id});
        texts_.append(token);
    }
    [[nodiscard]] std::size_t size() const noexcept { return rows_.size(); }
    [[nodiscard]] std::string_view text(std::size_t index) const noexcept {
        return std::string_view(texts_).substr(rows_[index].begin, rows_[index].size);
    }
    [[nodiscard]] std::int32_t id(std::size_t index) const noexcept { return rows_[index].id; }
    [[nodiscard]] std::int32_t max_id() const noexcept {
        return static_cast<std::int32_t>(by_id_.size()) - 1;
    }

    // After the last add(), before the first look-up.
    [[nodiscard]] result<void> index(const std::string& file) {
        const std::size_t most = (std::size_t{1} << 20) + 16 * rows_.size();
        std::int32_t highest = -1;
        for (const row& one : rows_) {
            if (one.id < 0 || static_cast<std::size_t>(one.id) >= most)
                return bad_file("a token with the id " + std::to_string(one.id) + ", where " +
                                    std::to_string(rows_.size()) + " tokens are; fetch the file again",
                                file);
            highest = std::max(highest, one.id);
        }
        by_id_.assign(static_cast<std::size_t>(highest + 1), no_row);
        std::size_t slots = 16;
        while (slots < 2 * rows_.size()) slots *= 2;
        slots_.assign(slots, no_row);
        for (std::size_t i = 0; i < rows_.size(); ++i) {
            std::size_t slot = hash_of(text(i)) & (slots - 1);
            for (std::size_t probes = 0; slots_[slot] != no_row; slot = (slot + 1) & (slots - 1)) {
                if (++probes > max_probes)
                    return bad_file("a vocabulary whose tokens were chosen to collide in a hash table", file);
                if (text(slots_[slot]) == text(i))
                    return bad_file("the token '" + shown(text(i)) + "' stands twice in the vocabulary",
                                    file);
            }
            slots_[slot] = static_cast<std::uint32_t>(i);
            by_id_[static_cast<std::size_t>(rows_[i].id)] = static_cast<std::uint32_t>(i);
        }
        return {};
    }

    // no_id where there is no such token.
    [[nodiscard]] std::int32_t find(std::string_view token) const noexcept {
        if (slots_.empty()) return no_id;
        for (std::size_t slot = hash_of(token) & (slots_.size() - 1); slots_[slot] != no_row;
             slot = (slot + 1) & (slots_.size() - 1))
            if (text(slots_[slot]) == token) return rows_[slots_[slot]].id;
        return no_id;
    }
    [[nodiscard]] std::optional<std::string_view> token(std::int32_t id) const noexcept {
        if (id < 0 || static_cast<std::size_t>(id) >= by_id_.size() ||
            by_id_[static_cast<std::size_t>(id)] == no_row)
            return std::nullopt;
        return text(by_id_[static_cast<std::size_t>(id)]);
    }

    static std::string shown(std::string_view token) {
        return std::string(token.substr(0, 100)) + (token.size() > 100 ? "..." : "");
    }

private:
    static constexpr std::uint32_t no_row = ~std::uint32_t{0};
    struct row {
        std::size_t begin;
        std::uint32_t size;
        std::int32_t id;
    };
    std::string texts_;
    std::vector<row> rows_;
    std::vector<std::uint32_t> slots_;
    std::vector<std::uint32_t> by_id_;
};

// What a model makes of a piece: bytes [begin, end) of the text.
struct model_token {
    std::int32_t id;
    std::uint32_t begin;
    std::uint32_t end;
};

// Words that were seen, with their tokens. Each word has one place; a later one takes it. 2 MiB, whatever the text.
class word_cache {
public:
    static constexpr std::size_t max_bytes = 32;
    static constexpr std::size_t max_tokens = 12;
    static constexpr std::size_t places = std::size_t{1} << 14;

    // Appends the tokens of the word, which lies at `begin` in the text. False: not known.
    bool find(std::string_view word, std::uint64_t hash, std::uint32_t begin,
              std::vector<model_token>& out) const {
        if (entries_.empty() || word.size() > max_bytes) return false;
        const entry& e = entries_[hash & (places - 1)];
        if (e.size != word.size() || std::memcmp(e.text, word.data(), word.size()) != 0) return false;
        const std::size_t before = out.size();
        out.resize(before + e.count);
        for (std::size_t i = 0; i < e.count; ++i)
            out[before + i] = {e.ids[i], begin + e.begins[i], begin + e.ends[i]};
        return true;
    }
    void keep(std::string_view word, std::uint64_t hash, std::uint32_t begin, const model_token* tokens,
              std::size_t count) {
        if (word.size() > max_bytes || count > max_tokens) return;
        if (entries_.empty()) entries_.resize(places);
        entry& e = entries_[hash & (places - 1)];
        e.size = static_cast<std::uint8_t>(word.size());
        e.count = static_cast<std::uint8_t>(count);
        std::memcpy(e.text, word.data(), word.size());
        for (std::size_t i = 0; i < count; ++i) {
            e.ids[i] = tokens[i].id;
            e.begins[i] = static_cast<std::uint8_t>(tokens[i].begin - begin);
            e.ends[i] = static_cast<std::uint8_t>(tokens[i].end - begin);
        }
    }

private:
    struct entry {
        std::uint8_t size = 0;  // 0: empty
        std::uint8_t count = 0;
        std::uint8_t begins[max_tokens];
        std::uint8_t ends[max_tokens];
        char text[max_bytes];
        std::int32_t ids[max_tokens];
    };
    std::vector<entry> entries_;
};

}  // namespace bitmill::detail
