// Unicode's normal forms (UAX 15) of aligned text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <bitmill/detail/aligned_text-inl.hpp>

namespace bitmill::detail {

struct normal_form {
    bool compatible = false;
    bool composed = false;
    [[nodiscard]] std::uint32_t maybe() const noexcept {
        if (composed) return compatible ? character::maybe_nfkc : character::maybe_nfc;
        return compatible ? character::maybe_nfkd : character::maybe_nfd;
    }
};

// Decomposes, orders and composes one stretch of characters.
class form_maker {
public:
    explicit form_maker(normal_form form) noexcept : form_(form) {}

    const std::vector<edited>& make(const aligned_text& src, std::size_t begin, std::size_t end) {
        parts_.clear();
        for (std::size_t i = begin; i < end; i += utf8_step(src.bytes[i]))
            decompose(utf8_character(&src.bytes[i]));
        order();
        edits_.clear();
        if (form_.composed)
            compose();
        else
            for (const part& one : parts_) edits_.push_back({one.c, one.change});
        return edits_;
    }

private:
    struct part {
        char32_t c;
        std::int32_t change;
        unsigned rank;  // combining class
    };

    void add(char32_t c, bool is_first) {
        parts_.push_back({c, is_first ? 0 : 1, combining_class(character_classes()[c])});
    }
    void decompose(char32_t c) {
        if (c < 0x80) return add(c, true);
        if (hangul::is_syllable(c)) {
            const char32_t s = c - hangul::first;
            add(hangul::leading + s / (hangul::vowels * hangul::trailings), true);
            add(hangul::vowel + s % (hangul::vowels * hangul::trailings) / hangul::trailings, false);
            if (s % hangul::trailings != 0) add(hangul::trailing + s % hangul::trailings, false);
            return;
        }
        auto to = form_.compatible ? compatible_decompositions()[c] : mapping_table::target{};
        if (to.begin == nullptr) to = canonical_decompositions()[c];
        if (to.begin == nullptr) return add(c, true);
        for (std::size_t i = 0; i < to.count; ++i) add(to.begin[i], i == 0);
    }
    void order() {
        const auto is_starter = [](const part& p) { return p.rank == 0; };
        for (auto at = parts_.begin(); at != parts_.end();) {
            const auto marks = std::find_if_not(at, parts_.end(), is_starter);
            at = std::find_if(marks, parts_.end(), is_starter);
            std::stable_sort(marks, at, [](const part& a, const part& b) { return a.rank < b.rank; });
        }
    }
    void compose() {
        std::size_t starter = parts_.size();  // where it stands in edits_; parts_.size(): none yet
        bool has_starter = false;
        unsigned last = 0;  // class of the mark before, 0: the starter itself stands there
        for (const part& one : parts_) {
            if (has_starter && (last == 0 || last < one.rank)) {
                edited& head = edits_[starter];
                if (const char32_t made = compositions()(head.c, one.c); made != 0) {
                    head = {made, head.change + one.change - 1};
                    continue;
                }
            }
            if (one.rank == 0) {
                starter = edits_.size();
                has_starter = true;
            }
            last = one.rank;
            edits_.push_back({one.c, one.change});
        }
    }

    normal_form form_;
    std::vector<part> parts_;
    std::vector<edited> edits_;
};

// Appends [begin, end) of src in the form to dst. What cannot change is copied; a stretch of what might begins with the
// character before it, which may compose with it.
inline void append_form(const aligned_text& src, std::size_t begin, std::size_t end, normal_form form,
                        aligned_text& dst) {
    const class_table& classes = character_classes();
    const auto maybe = [&](std::size_t i) {
        return (classes[utf8_character(&src.bytes[i])] & form.maybe()) != 0;
    };
    form_maker maker(form);
    std::size_t copied = begin;
    std::size_t before = begin;  // the character in front of i
    for (std::size_t i = begin; i < end;) {
        if (static_cast<unsigned char>(src.bytes[i]) < 0x80 || !maybe(i)) {
            before = i;
            i += utf8_step(src.bytes[i]);
            continue;
        }
        const std::size_t stretch = form.composed ? before : i;
        while (i < end && static_cast<unsigned char>(src.bytes[i]) >= 0x80 && maybe(i))
            i += utf8_step(src.bytes[i]);
        dst.append(src, copied, stretch);
        dst.append_edited(src, stretch, maker.make(src, stretch, i));
        copied = before = i;
    }
    dst.append(src, copied, end);
}

}  // namespace bitmill::detail
