// The normalizers of tokenizer.json: each makes a text of another. Source of their rules: tokenizers/src/normalizers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/charsmap-inl.hpp>
#include <bitmill/detail/normal_forms-inl.hpp>
#include <bitmill/detail/split_patterns-inl.hpp>

namespace bitmill::detail {

struct bert_rules {
    bool clean_text = true;
    bool handle_chinese_chars = true;
    bool strip_accents = true;
    bool lowercase = true;
};

inline bool is_chinese(char32_t c) noexcept {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) ||
           (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

inline void append_lowered(char32_t c, std::uint32_t value, token_span place, aligned_text& dst) {
    if ((value & character::lowers) == 0) return dst.append(c, place);
    if (c < 0x80) return dst.append(c + 32, place);
    const auto to = lower_cases()[c];
    for (std::size_t i = 0; i < to.count; ++i) dst.append(to.begin[i], place);
}

// All steps of BertNormalizer in one pass: none looks further than one character with the marks that follow it.
class bert_normalizer {
public:
    explicit bert_normalizer(bert_rules rules) : rules_(rules) {
        for (std::size_t i = 0; i < ascii_.size(); ++i) {
            const std::uint32_t value = character_classes()[static_cast<char32_t>(i)];
            char to = static_cast<char>(i);
            if (rules_.clean_text && dropped(static_cast<char32_t>(i), value))
                to = '\0', drops_[i] = true;
            else if (rules_.clean_text && (value & character::space) != 0)
                to = ' ';
            else if (rules_.lowercase && (value & character::lowers) != 0)
                to = static_cast<char>(i + 32);
            ascii_[i] = to;
        }
    }

    void apply(const aligned_text& src, aligned_text& dst, aligned_text& scratch) const {
        form_maker maker({.compatible = false, .composed = false});
        for (std::size_t i = 0; i < src.size();) {
            const auto byte = static_cast<unsigned char>(src.bytes[i]);
            if (byte < 0x80) {
                if (!drops_[byte]) {
                    dst.bytes.push_back(ascii_[byte]);
                    dst.places.push_back(src.places[i]);
                }
                ++i;
                continue;
            }
            i = apply_wide(src, i, maker, dst, scratch);
        }
    }

private:
    static bool dropped(char32_t c, std::uint32_t value) noexcept {
        return c == 0 || c == 0xfffd || (value & character::other) != 0;
    }

    // A character beyond ASCII, with all that its marks could be ordered with.
    std::size_t apply_wide(const aligned_text& src, std::size_t i, form_maker& maker, aligned_text& dst,
                           aligned_text& scratch) const {
        const class_table& classes = character_classes();
        const char32_t c = utf8_character(&src.bytes[i]);
        const std::uint32_t value = classes[c];
        const std::size_t end = i + utf8_step(src.bytes[i]);
        if (!rules_.strip_accents || (value & character::maybe_nfd) == 0) {
            if (rules_.clean_text && dropped(c, value)) return end;
            if (rules_.clean_text && (value & character::space) != 0) {
                dst.append(U' ', src.places[i]);
                return end;
            }
            const bool apart = rules_.handle_chinese_chars && is_chinese(c);
            if (apart) dst.append(U' ', src.places[i]);
            if (!rules_.strip_accents || (value & character::mark_nonspacing) == 0)
                finish(c, value, src.places[i], dst);
            if (apart) dst.append(U' ', src.places[i]);
            return end;
        }
        return apply_stretch(src, i, maker, dst, scratch);
    }

    void finish(char32_t c, std::uint32_t value, token_span place, aligned_text& dst) const {
        if (rules_.lowercase)
            append_lowered(c, value, place, dst);
        else
            dst.append(c, place);
    }

    // Characters in a row that decompose or are marks; those that are dropped stand in no one's way.
    std::size_t apply_stretch(const aligned_text& src, std::size_t i, form_maker& maker, aligned_text& dst,
                              aligned_text& scratch) const {
        const class_table& classes = character_classes();
        scratch.clear();
        for (; i < src.size(); i += utf8_step(src.bytes[i])) {
            const char32_t c = utf8_character(&src.bytes[i]);
            const std::uint32_t value = classes[c];
            if (rules_.clean_text && dropped(c, value)) continue;
            if (c < 0x80 || (value & character::maybe_nfd) == 0) break;
            const bool apart = rules_.handle_chinese_chars && is_chinese(c);
            if (apart) scratch.append(U' ', src.places[i]);
            scratch.append(c, src.places[i]);
            if (apart) scratch.append(U' ', src.places[i]);
        }
        const std::size_t begin = dst.size();
        dst.append_edited(scratch, 0, maker.make(scratch, 0, scratch.size()));
        // Without accents, in lower case; through the scratch text, since the length may change.
        scratch.clear();
        scratch.append(dst, begin, dst.size());
        dst.bytes.resize(begin);
        dst.places.resize(begin);
        for (std::size_t at = 0; at < scratch.size(); at += utf8_step(scratch.bytes[at])) {
            const char32_t c = utf8_character(&scratch.bytes[at]);
            const std::uint32_t value = classes[c];
            if ((value & character::mark_nonspacing) == 0) finish(c, value, scratch.places[at], dst);
        }
        return i;
    }

    bert_rules rules_;
    std::array<char, 128> ascii_{};
    std::array<bool, 128> drops_{};
};

// One normalizer of the file. apply() appends to dst what becomes of src.
struct normalizer_step {
    enum class kind : std::uint8_t {
        bert,
        form,
        lowercase,
        strip,
        strip_accents,
        replace,
        prepend,
        precompiled,
        nmt,
    };
    kind what = kind::form;
    normal_form form{};
    bool left = true;   // strip
    bool right = true;  // strip
    std::string content{};
    std::shared_ptr<const split_pattern> pattern{};
    std::shared_ptr<const bert_normalizer> bert{};
    std::shared_ptr<const charsmap> map{};
};

struct normalizer_scratch {
    aligned_text other;
    aligned_text stretch;
    std::vector<edited> edits;
    std::vector<text_part> parts;
};

class normalizer_runner {
public:
    normalizer_runner(const aligned_text& src, normalizer_scratch& scratch, aligned_text& dst) noexcept
        : src_(src), scratch_(scratch), dst_(dst) {}

    void run(const normalizer_step& step) {
        using kind = normalizer_step::kind;
        dst_.clear();
        switch (step.what) {
            case kind::bert: return step.bert->apply(src_, dst_, scratch_.stretch);
            case kind::form: return append_form(src_, 0, src_.size(), step.form, dst_);
            case kind::lowercase:
                return each([&](char32_t c, std::uint32_t value, token_span place) {
                    append_lowered(c, value, place, dst_);
                });
            case kind::strip: return strip(step.left, step.right);
            case kind::strip_accents:
                return each([&](char32_t c, std::uint32_t value, token_span place) {
                    if ((value & character::combining_mark) == 0) dst_.append(c, place);
                });
            case kind::replace: return replace(*step.pattern, step.content);
            case kind::prepend:
                if (!src_.empty()) {
                    dst_.append(step.content, src_.places[0]);
                    dst_.append(src_, 0, src_.size());
                }
                return;
            case kind::precompiled:
                if (step.map->edit(src_.bytes, scratch_.edits))
                    return dst_.append_edited(src_, 0, scratch_.edits);
                return dst_.append(src_, 0, src_.size());
            case kind::nmt: return nmt();
        }
    }

private:
    template <class Visit>
    void each(const Visit& visit) {
        const class_table& classes = character_classes();
        for (std::size_t i = 0; i < src_.size(); i += utf8_step(src_.bytes[i])) {
            const char32_t c = utf8_character(&src_.bytes[i]);
            visit(c, classes[c], src_.places[i]);
        }
    }

    void strip(bool left, bool right) {
        const class_table& classes = character_classes();
        std::size_t begin = left ? text_reader(src_.bytes).run(0, character::space) : 0;
        std::size_t end = src_.size();
        while (right && end > begin) {
            std::size_t at = end - 1;
            while ((static_cast<unsigned char>(src_.bytes[at]) & 0xc0) == 0x80) --at;
            if ((classes[utf8_character(&src_.bytes[at])] & character::space) == 0) break;
            end = at;
        }
        dst_.append(src_, begin, end);
    }

    // What is put in has the place of the last character that it replaces.
    void replace(const split_pattern& pattern, const std::string& content) {
        pattern.find(src_.bytes, 0, scratch_.parts);
        for (const text_part& part : scratch_.parts) {
            if (part.is_match)
                dst_.append(content, src_.places[part.end - 1]);
            else
                dst_.append(src_, part.begin, part.end);
        }
    }

    void nmt() {
        each([&](char32_t c, std::uint32_t, token_span place) {
            if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
                c == 0x9f)
                return;
            const bool blank = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                               (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                               c == 0xfeff || c == 0xfffd;
            dst_.append(blank ? U' ' : c, place);
        });
    }

    const aligned_text& src_;
    normalizer_scratch& scratch_;
    aligned_text& dst_;
};

// Of a text, whatever a file says: what replaces a character, and how far all steps together may make it grow. Real files
// stay far below: U+FDFA becomes 11 times its bytes.
inline constexpr std::size_t max_replacement_bytes = 64;
[[nodiscard]] constexpr std::size_t max_grown(std::size_t bytes) noexcept { return 32 * bytes + 4096; }

// The whole chain, in place. False: the text grows too far.
[[nodiscard]] inline bool normalize(const std::vector<normalizer_step>& steps, aligned_text& text,
                                    normalizer_scratch& scratch) {
    const std::size_t most = max_grown(text.size());
    for (const normalizer_step& step : steps) {
        normalizer_runner(text, scratch, scratch.other).run(step);
        std::swap(text, scratch.other);
        if (text.size() > most) return false;
    }
    return true;
}

}  // namespace bitmill::detail
