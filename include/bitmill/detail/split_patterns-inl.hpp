// The regular expressions that tokenizer.json files hold, as matchers of our own: each is linear in the text, and no
// file can bring one that is not. There are few of them; any other is refused by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/unicode-inl.hpp>

namespace bitmill::detail {

// A part of a text; the parts of one text lie side by side and cover it.
struct text_part {
    std::uint32_t begin;
    std::uint32_t end;
    bool is_match;
};

// Reads characters of valid UTF-8 with their classes.
class text_reader {
public:
    explicit text_reader(std::string_view text) noexcept : text_(text), classes_(character_classes()) {}
    [[nodiscard]] std::size_t size() const noexcept { return text_.size(); }
    struct here {
        char32_t c = 0;
        std::uint32_t value = 0;  // 0 past the end
        std::size_t end = 0;
    };
    [[nodiscard]] here at(std::size_t i) const noexcept {
        if (i >= text_.size()) return {0, 0, i};
        const char32_t c = utf8_character(text_.data() + i);
        return {c, classes_[c], i + utf8_step(text_[i])};
    }
    [[nodiscard]] bool is(std::size_t i, char c) const noexcept { return i < text_.size() && text_[i] == c; }
    // End of the run, from i on, of characters that are (or are not) of these classes; at most `most` of them.
    [[nodiscard]] std::size_t run(std::size_t i, std::uint32_t mask, bool of = true,
                                  std::size_t most = ~std::size_t{0}) const noexcept {
        for (; most > 0 && i < text_.size(); --most) {
            const here now = at(i);
            if (((now.value & mask) != 0) != of) break;
            i = now.end;
        }
        return i;
    }

private:
    std::string_view text_;
    const class_table& classes_;
};

// The expressions of GPT-2 and its heirs differ in these points only.
struct gpt_style {
    bool old = false;        // GPT-2: " ?" before letters and numbers, no rule for line ends
    std::size_t digits = 1;  // of a number, at most
    bool marks = false;      // \p{M} count as letters
};

class gpt_matcher {
public:
    gpt_matcher(std::string_view text, gpt_style style) noexcept
        : text_(text), style_(style), letters_(character::letter | (style.marks ? character::mark : 0u)) {}

    // End of the match that begins at i, which is not the end of the text. There always is one.
    [[nodiscard]] std::size_t match(std::size_t i) const noexcept {
        if (text_.is(i, '\''))
            if (const std::size_t end = contraction(i); end != 0) return end;
        const auto first = text_.at(i);
        return style_.old ? match_old(i, first) : match_new(i, first);
    }

private:
    static constexpr std::uint32_t blank = character::space;

    // 's 't 're 've 'm 'll 'd; in the newer style of either case, where U+017F is an s, too. 0: none.
    [[nodiscard]] std::size_t contraction(std::size_t i) const noexcept {
        const auto letter = [&](const text_reader::here& h) -> char32_t {
            if (style_.old) return h.c;
            return h.c == 0x17f ? U's' : h.c >= 'A' && h.c <= 'Z' ? h.c + 32 : h.c;
        };
        const auto one = text_.at(i + 1);
        const char32_t a = letter(one);
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return one.end;
        const auto two = text_.at(one.end);
        const char32_t b = letter(two);
        const bool known = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
        return known ? two.end : 0;
    }

    [[nodiscard]] std::size_t match_old(std::size_t i, const text_reader::here& first) const noexcept {
        const std::size_t start = first.c == ' ' ? first.end : i;
        const auto head = text_.at(start);
        if (start < text_.size() && (head.value & blank) == 0) {
            if ((head.value & letters_) != 0) return text_.run(head.end, letters_);
            if ((head.value & character::number) != 0) return text_.run(head.end, character::number);
            return text_.run(head.end, blank | letters_ | character::number, false);
        }
        return spaces(i, text_.run(i, blank));
    }

    [[nodiscard]] std::size_t match_new(std::size_t i, const text_reader::here& first) const noexcept {
        // [^\r\n\p{L}\p{N}]?\p{L}+
        if ((first.value & character::letter) != 0) return text_.run(first.end, letters_);
        const bool number = (first.value & character::number) != 0;
        if (!number && first.c != '\r' && first.c != '\n') {
            const auto second = text_.at(first.end);
            if ((second.value & letters_) != 0) return text_.run(second.end, letters_);
            if ((first.value & letters_) != 0) return text_.run(first.end, letters_);
        }
        if (number) return text_.run(first.end, character::number, true, style_.digits - 1);
        //  ?[^\s\p{L}\p{N}]+[\r\n]*
        const std::size_t start = first.c == ' ' ? first.end : i;
        const std::uint32_t no_sign = blank | letters_ | character::number;
        if (const auto head = text_.at(start); start < text_.size() && (head.value & no_sign) == 0) {
            std::size_t end = text_.run(head.end, no_sign, false);
            while (text_.is(end, '\r') || text_.is(end, '\n')) ++end;
            return end;
        }
        // \s*[\r\n]+
        const std::size_t end = text_.run(i, blank);
        for (std::size_t line = end; line > i; --line)
            if (text_.is(line - 1, '\n') || text_.is(line - 1, '\r')) return line;
        return spaces(i, end);
    }

    // \s+(?!\S)|\s+ where [i, end) is all of the white space.
    [[nodiscard]] std::size_t spaces(std::size_t i, std::size_t end) const noexcept {
        if (end == text_.size()) return end;
        std::size_t last = i;
        for (std::size_t at = i; at < end; at = text_.at(at).end) last = at;
        return last > i ? last : end;
    }

    text_reader text_;
    gpt_style style_;
    std::uint32_t letters_;
};

// A pattern of Split or Replace.
class split_pattern {
public:
    // A text that is looked for as it is.
    static split_pattern of_text(std::string text) {
        split_pattern made(kind::literal);
        made.text_ = std::move(text);
        return made;
    }
    // Empty: not one of those that are known.
    static std::optional<split_pattern> of_regex(std::string_view regex) {
        struct row {
            std::string_view regex;
            gpt_style style;
        };
        static constexpr std::size_t many = ~std::size_t{0};
        static constexpr row known[] = {
            {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
             {true, many, false}},
            {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
             {false, 1, false}},
            {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
             {false, 3, false}},
            {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
             {false, 1, true}},
        };
        for (const row& one : known)
            if (one.regex == regex) {
                split_pattern made(kind::gpt);
                made.style_ = one.style;
                return made;
            }
        return run_of(regex);
    }
    static split_pattern of_gpt2() {
        return *of_regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
    }

    // All parts of the text; positions begin at `base`.
    void find(std::string_view text, std::uint32_t base, std::vector<text_part>& parts) const {
        parts.clear();
        if (kind_ == kind::gpt)
            find_gpt(text, base, parts);
        else
            find_sparse(text, base, parts);
    }

private:
    enum class kind : std::uint8_t {
        literal,
        gpt,
        run,
    };
    explicit split_pattern(kind what) noexcept : kind_(what) {}

    // A class or one plain character, with +, {n}, {n,}, {n,m} or nothing behind it.
    static std::optional<split_pattern> run_of(std::string_view regex) {
        split_pattern made(kind::run);
        const auto take = [&](std::string_view head) {
            const bool has = regex.starts_with(head);
            if (has) regex.remove_prefix(head.size());
            return has;
        };
        if (take("\\s"))
            made.mask_ = character::space;
        else if (take("\\p{N}"))
            made.mask_ = character::number;
        else if (take("\\p{L}"))
            made.mask_ = character::letter;
        else if (!regex.empty() &&
                 std::string_view("\\^$.|?*+()[]{}").find(regex[0]) == std::string_view::npos) {
            made.text_ = regex.substr(0, utf8_step(regex[0]));
            regex.remove_prefix(made.text_.size());
        } else {
            return std::nullopt;
        }
        if (regex.empty()) return made;
        const auto number = [&](std::size_t& out) {
            const std::size_t before = regex.size();
            for (out = 0; !regex.empty() && regex[0] >= '0' && regex[0] <= '9' && out < 1000;
                 regex.remove_prefix(1))
                out = out * 10 + static_cast<std::size_t>(regex[0] - '0');
            return regex.size() != before;
        };
        if (take("+")) {
            made.most_ = ~std::size_t{0};
        } else if (take("{")) {
            if (!number(made.least_) || made.least_ == 0) return std::nullopt;
            made.most_ = made.least_;
            if (take(",") && !number(made.most_)) made.most_ = ~std::size_t{0};
            if (!take("}") || made.most_ < made.least_) return std::nullopt;
        }
        return regex.empty() ? std::optional(made) : std::nullopt;
    }

    void find_gpt(std::string_view text, std::uint32_t base, std::vector<text_part>& parts) const {
        const gpt_matcher matcher(text, style_);
        for (std::size_t i = 0; i < text.size();) {
            const std::size_t end = matcher.match(i);
            parts.push_back(
                {base + static_cast<std::uint32_t>(i), base + static_cast<std::uint32_t>(end), true});
            i = end;
        }
    }

    // Matches with text between them.
    void find_sparse(std::string_view text, std::uint32_t base, std::vector<text_part>& parts) const {
        std::size_t last = 0;
        const auto add = [&](std::size_t begin, std::size_t end, bool is_match) {
            if (begin != end)
                parts.push_back({base + static_cast<std::uint32_t>(begin),
                                 base + static_cast<std::uint32_t>(end), is_match});
        };
        const auto found = [&](std::size_t begin, std::size_t end) {
            add(last, begin, false);
            add(begin, end, true);
            last = end;
        };
        if (kind_ == kind::literal) {
            for (std::size_t at = text.find(text_); at != std::string_view::npos; at = text.find(text_, last))
                found(at, at + text_.size());
        } else {
            find_runs(text, found);
        }
        add(last, text.size(), false);
    }

    template <class Found>
    void find_runs(std::string_view text, const Found& found) const {
        const text_reader reader(text);
        const auto belongs = [&](std::size_t i) {
            return mask_ != 0 ? (reader.at(i).value & mask_) != 0 : text.substr(i, text_.size()) == text_;
        };
        for (std::size_t i = 0; i < text.size();) {
            std::size_t end = i;
            std::size_t count = 0;
            for (; count < most_ && end < text.size() && belongs(end); ++count) end += utf8_step(text[end]);
            if (count >= least_) found(i, end);
            i = count == 0 ? i + utf8_step(text[i]) : end;
        }
    }

    kind kind_;
    gpt_style style_{};
    std::string text_{};  // of a literal; of a run of one character
    std::uint32_t mask_ = 0;
    std::size_t least_ = 1;
    std::size_t most_ = 1;
};

}  // namespace bitmill::detail
