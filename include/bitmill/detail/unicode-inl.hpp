// What a character is and what it becomes, in constant time; and UTF-8 in and out.
// Tables of our own instead of a Unicode library: ids must not change with the library that happens to be installed,
// and the package whose ids are the truth mixes several versions of Unicode.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/unicode_classes-inl.hpp>
#include <bitmill/detail/unicode_compatibility-inl.hpp>
#include <bitmill/detail/unicode_mappings-inl.hpp>

namespace bitmill::detail {

// ---- UTF-8 -----------------------------------------------------------------------------------------------
// Length of the valid character that begins with this byte.
[[nodiscard]] constexpr std::size_t utf8_step(char lead) noexcept {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// Of valid UTF-8.
[[nodiscard]] constexpr char32_t utf8_character(const char* text) noexcept {
    const auto byte = [&](std::size_t i) {
        return static_cast<char32_t>(static_cast<unsigned char>(text[i]));
    };
    switch (utf8_step(*text)) {
        case 1: return byte(0);
        case 2: return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
        case 3: return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
        default:
            return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
    }
}

struct utf8_bytes {
    std::array<char, 4> bytes{};
    std::size_t size = 0;
    explicit constexpr utf8_bytes(char32_t c) noexcept {
        const auto tail = [&](unsigned shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3f)); };
        if (c < 0x80)
            bytes = {static_cast<char>(c)}, size = 1;
        else if (c < 0x800)
            bytes = {static_cast<char>(0xc0 | c >> 6), tail(0)}, size = 2;
        else if (c < 0x10000)
            bytes = {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)}, size = 3;
        else
            bytes = {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)}, size = 4;
    }
    [[nodiscard]] constexpr std::string_view view() const noexcept { return {bytes.data(), size}; }
};

inline void append_utf8(std::string& out, char32_t c) { out.append(utf8_bytes(c).view()); }

// Bytes at the front that are no character: the longest beginning of one, at least one byte (Unicode 3.9, "maximal
// subpart"), which one U+FFFD replaces.
[[nodiscard]] constexpr std::size_t utf8_broken_length(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0xc2 || lead > 0xf4 || text.size() < 2) return 1;
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (lead < 0xe0 || byte(1) < low || byte(1) > high) return 1;
    if (lead < 0xf0 || text.size() < 3 || (byte(2) & 0xc0) != 0x80) return 2;
    return 3;
}

// Replaces what is not UTF-8 as Python's errors="replace" does.
inline std::string utf8_repaired(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        if (length == 0) {
            append_utf8(out, 0xfffd);
            text.remove_prefix(utf8_broken_length(text));
            continue;
        }
        out.append(text.substr(0, length));
        text.remove_prefix(length);
    }
    return out;
}

// ---- classes ---------------------------------------------------------------------------------------------
struct character {
    static constexpr std::uint32_t space = 1u << 0;
    static constexpr std::uint32_t letter = 1u << 1;
    static constexpr std::uint32_t number = 1u << 2;
    static constexpr std::uint32_t other = 1u << 3;  // control, format, unassigned, private
    static constexpr std::uint32_t mark_nonspacing = 1u << 4;
    static constexpr std::uint32_t punctuation = 1u << 5;
    static constexpr std::uint32_t word = 1u << 6;
    static constexpr std::uint32_t combining_mark = 1u << 7;
    static constexpr std::uint32_t numeric = 1u << 8;
    static constexpr std::uint32_t mark = 1u << 9;
    // A text without any such character is in that form already.
    static constexpr std::uint32_t maybe_nfd = 1u << 10;
    static constexpr std::uint32_t maybe_nfc = 1u << 11;
    static constexpr std::uint32_t maybe_nfkd = 1u << 12;
    static constexpr std::uint32_t maybe_nfkc = 1u << 13;
    static constexpr std::uint32_t lowers = 1u << 14;
    static constexpr std::uint32_t joins = 1u << 15;  // Extended_Pictographic
};

[[nodiscard]] constexpr unsigned combining_class(std::uint32_t value) noexcept { return value >> 20; }
[[nodiscard]] constexpr unsigned grapheme_break(std::uint32_t value) noexcept { return (value >> 16) & 15; }

// Two steps: block of 128 characters, character in the block; equal blocks are stored once.
class class_table {
public:
    class_table() {
        std::map<std::array<std::uint32_t, block_size>, std::uint16_t> known;
        std::array<std::uint32_t, block_size> block{};
        std::size_t point = 0;
        for (std::size_t run = 0; run < std::size(unicode_class_runs); run += 2) {
            const std::uint32_t value = unicode_class_values[unicode_class_runs[run + 1]];
            for (std::uint32_t i = 0; i < unicode_class_runs[run]; ++i, ++point) {
                block[point % block_size] = value;
                if (point % block_size != block_size - 1) continue;
                const auto [place, is_new] = known.emplace(block, static_cast<std::uint16_t>(known.size()));
                if (is_new) values_.insert(values_.end(), block.begin(), block.end());
                blocks_[point / block_size] = place->second;
            }
        }
    }
    [[nodiscard]] std::uint32_t operator[](char32_t c) const noexcept {
        return values_[blocks_[c / block_size] * block_size + c % block_size];
    }

private:
    static constexpr std::size_t block_size = 128;
    std::array<std::uint16_t, 0x110000 / block_size> blocks_{};
    std::vector<std::uint32_t> values_;
};

// Made on first use, 2 ms; 250 KiB.
inline const class_table& character_classes() {
    static const class_table table;
    return table;
}

// ---- mappings --------------------------------------------------------------------------------------------
class mapping_table {
public:
    template <std::size_t Count>
    explicit mapping_table(const std::uint32_t (&packed)[Count]) : packed_(packed) {
        char32_t from = 0;
        for (std::size_t at = 0; at < Count; at += 2 + (packed[at + 1] >> 1)) {
            from += packed[at];
            rows_.push_back({from, static_cast<std::uint32_t>(at + 1)});
        }
    }
    struct target {
        const std::uint32_t* begin = nullptr;  // null: no such mapping
        std::size_t count = 0;
        bool composes = false;
    };
    [[nodiscard]] target operator[](char32_t c) const noexcept {
        const auto found = std::lower_bound(rows_.begin(), rows_.end(), c,
                                            [](const row& r, char32_t key) { return r.from < key; });
        return found == rows_.end() || found->from != c ? target{} : at(*found);
    }
    template <class Visit>
    void each(const Visit& visit) const {
        for (const row& one : rows_) visit(one.from, at(one));
    }

private:
    struct row {
        char32_t from;
        std::uint32_t at;
    };
    [[nodiscard]] target at(const row& one) const noexcept {
        const std::uint32_t head = packed_[one.at];
        return {packed_ + one.at + 1, head >> 1, (head & 1) != 0};
    }
    const std::uint32_t* packed_;
    std::vector<row> rows_;
};

inline const mapping_table& canonical_decompositions() {
    static const mapping_table table(unicode_canonical);
    return table;
}
inline const mapping_table& compatible_decompositions() {
    static const mapping_table table(unicode_compatible);
    return table;
}
inline const mapping_table& lower_cases() {
    static const mapping_table table(unicode_lower);
    return table;
}

// Unicode 3.12: Hangul syllables are computed.
struct hangul {
    static constexpr char32_t first = 0xac00, leading = 0x1100, vowel = 0x1161, trailing = 0x11a7;
    static constexpr char32_t leadings = 19, vowels = 21, trailings = 28,
                              count = leadings * vowels * trailings;

    [[nodiscard]] static constexpr bool is_leading(char32_t c) noexcept {
        return c >= leading && c < leading + leadings;
    }
    [[nodiscard]] static constexpr bool is_vowel(char32_t c) noexcept {
        return c >= vowel && c < vowel + vowels;
    }
    // The first place stands for none.
    [[nodiscard]] static constexpr bool is_trailing(char32_t c) noexcept {
        return c > trailing && c < trailing + trailings;
    }
    [[nodiscard]] static constexpr bool is_syllable(char32_t c) noexcept {
        return c >= first && c < first + count;
    }
};

// Which two characters make one.
class composition_table {
public:
    composition_table() {
        // A full decomposition without its last character is that of the first of the two.
        std::map<std::u32string, char32_t> whole;
        const auto text = [](const mapping_table::target& t) {
            return std::u32string(t.begin, t.begin + t.count);
        };
        canonical_decompositions().each([&](char32_t c, const mapping_table::target& to) {
            if (to.composes) whole.emplace(text(to), c);
        });
        for (const auto& [parts, c] : whole) {
            const std::u32string head = parts.substr(0, parts.size() - 1);
            const auto found = whole.find(head);
            const char32_t first = head.size() == 1 ? head[0] : found == whole.end() ? 0 : found->second;
            if (first != 0) pairs_.emplace_back(std::uint64_t{first} << 32 | parts.back(), c);
        }
        std::sort(pairs_.begin(), pairs_.end());
    }
    // 0 where they stay two.
    [[nodiscard]] char32_t operator()(char32_t a, char32_t b) const noexcept {
        using h = hangul;
        if (h::is_leading(a) && h::is_vowel(b))
            return h::first + ((a - h::leading) * h::vowels + (b - h::vowel)) * h::trailings;
        if (h::is_syllable(a) && (a - h::first) % h::trailings == 0 && h::is_trailing(b))
            return a + (b - h::trailing);
        const std::uint64_t key = std::uint64_t{a} << 32 | b;
        const auto found = std::lower_bound(pairs_.begin(), pairs_.end(), std::pair{key, char32_t{0}});
        return found == pairs_.end() || found->first != key ? 0 : found->second;
    }

private:
    std::vector<std::pair<std::uint64_t, char32_t>> pairs_;
};

inline const composition_table& compositions() {
    static const composition_table table;
    return table;
}

}  // namespace bitmill::detail
