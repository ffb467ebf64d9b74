// The pre-tokenizers of tokenizer.json: each cuts the pieces of a text into smaller ones. Source of their rules:
// tokenizers/src/pre_tokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/normalizers-inl.hpp>

namespace bitmill::detail {

// A part of a text that the model gets alone, or that is a token already.
struct text_piece {
    static constexpr std::int32_t no_id = -1;
    std::uint32_t begin;
    std::uint32_t end;
    std::int32_t id = no_id;
};

// What becomes of the parts that match.
enum class split_behavior : std::uint8_t {
    removed,
    isolated,
    merged_with_previous,
    merged_with_next,
    contiguous,
};

struct pre_tokenizer_step {
    enum class kind : std::uint8_t {
        bert,        // at white space, and around punctuation
        characters,  // at characters of `mask`, or at `delimiter`
        words,       // runs of \w, runs of what is neither that nor white space
        pattern,
        metaspace,
        byte_level,  // the cutting; the bytes themselves are the model's business
    };
    enum class prepend : std::uint8_t {
        never,
        first,
        always,
    };
    kind what = kind::bert;
    split_behavior behavior = split_behavior::isolated;
    std::uint32_t mask = 0;
    char32_t delimiter = 0;
    bool invert = false;
    std::shared_ptr<const split_pattern> pattern{};
    std::string replacement{};  // metaspace
    prepend scheme = prepend::always;
    bool split = true;
    bool add_prefix_space = false;
};

class pre_tokenizer_runner {
public:
    aligned_text text;
    std::vector<text_piece> pieces;

    void run(const pre_tokenizer_step& step) {
        using kind = pre_tokenizer_step::kind;
        if (step.what == kind::metaspace || (step.what == kind::byte_level && step.add_prefix_space))
            rewrite(step);
        if (step.what == kind::metaspace || (step.what == kind::byte_level && step.pattern == nullptr))
            return;
        made_.clear();
        for (const text_piece& piece : pieces) {
            if (piece.id != text_piece::no_id) {
                made_.push_back(piece);
                continue;
            }
            switch (step.what) {
                case kind::bert: cut_bert(piece); break;
                case kind::characters: cut_characters(piece, step); break;
                case kind::words: cut_words(piece); break;
                default: cut_pattern(piece, step); break;
            }
        }
        std::swap(pieces, made_);
    }

private:
    void add(std::uint32_t begin, std::uint32_t end) {
        if (begin != end) made_.push_back({begin, end});
    }

    void cut_bert(const text_piece& piece) {
        const class_table& classes = character_classes();
        std::uint32_t last = piece.begin;
        for (std::uint32_t i = piece.begin; i < piece.end;) {
            const char lead = text.bytes[i];
            const std::uint32_t value =
                classes[static_cast<unsigned char>(lead) < 0x80 ? static_cast<char32_t>(lead)
                                                                : utf8_character(&text.bytes[i])];
            const std::uint32_t end = i + static_cast<std::uint32_t>(utf8_step(lead));
            if ((value & (character::space | character::punctuation)) != 0) {
                add(last, i);
                if ((value & character::space) == 0) add(i, end);
                last = end;
            }
            i = end;
        }
        add(last, piece.end);
    }

    void cut_words(const text_piece& piece) {
        const text_reader reader(std::string_view(text.bytes).substr(0, piece.end));
        for (std::size_t i = piece.begin; i < piece.end;) {
            const std::uint32_t value = reader.at(i).value;
            const std::size_t begin = i;
            if ((value & character::word) != 0)
                i = reader.run(i, character::word);
            else
                i = reader.run(i, character::word | character::space, false);
            if (i == begin)
                i = reader.at(i).end;  // white space
            else
                add(static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(i));
        }
    }

    // Each character that belongs is a match of its own.
    void cut_characters(const text_piece& piece, const pre_tokenizer_step& step) {
        const text_reader reader(std::string_view(text.bytes).substr(0, piece.end));
        parts_.clear();
        std::uint32_t last = piece.begin;
        for (std::uint32_t i = piece.begin; i < piece.end;) {
            const auto now = reader.at(i);
            const auto end = static_cast<std::uint32_t>(now.end);
            if (step.mask != 0 ? (now.value & step.mask) != 0 : now.c == step.delimiter) {
                if (last != i) parts_.push_back({last, i, false});
                parts_.push_back({i, end, true});
                last = end;
            }
            i = end;
        }
        if (last != piece.end) parts_.push_back({last, piece.end, false});
        apply(step.behavior);
    }

    void cut_pattern(const text_piece& piece, const pre_tokenizer_step& step) {
        step.pattern->find(text.view(piece.begin, piece.end), piece.begin, parts_);
        if (step.invert)
            for (text_part& part : parts_) part.is_match = !part.is_match;
        apply(step.behavior);
    }

    void apply(split_behavior behavior) {
        bool before = false;
        switch (behavior) {
            case split_behavior::removed:
                for (const text_part& part : parts_)
                    if (!part.is_match) add(part.begin, part.end);
                return;
            case split_behavior::isolated:
                for (const text_part& part : parts_) add(part.begin, part.end);
                return;
            case split_behavior::merged_with_previous:
            case split_behavior::contiguous: {
                const std::size_t first = made_.size();
                for (const text_part& part : parts_) {
                    const bool merges = behavior == split_behavior::contiguous ? part.is_match == before
                                                                               : part.is_match && !before;
                    if (merges && made_.size() != first)
                        made_.back().end = part.end;
                    else
                        add(part.begin, part.end);
                    before = part.is_match;
                }
                return;
            }
            case split_behavior::merged_with_next: return apply_to_next();
        }
    }
    void apply_to_next() {
        const std::size_t first = made_.size();
        bool behind = false;
        for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) {
            if (part->is_match && !behind && made_.size() != first)
                made_.back().begin = part->begin;
            else
                add(part->begin, part->end);
            behind = part->is_match;
        }
        std::reverse(made_.begin() + static_cast<std::ptrdiff_t>(first), made_.end());
    }

    // Metaspace, and the space that ByteLevel puts in front: both change the text.
    void rewrite(const pre_tokenizer_step& step) {
        other_.clear();
        made_.clear();
        for (const text_piece& piece : pieces) {
            const auto begin = static_cast<std::uint32_t>(other_.size());
            if (piece.id != text_piece::no_id) {
                other_.append(text, piece.begin, piece.end);
                made_.push_back({begin, static_cast<std::uint32_t>(other_.size()), piece.id});
            } else if (step.what == pre_tokenizer_step::kind::metaspace) {
                add_metaspaced(piece, step);
            } else {
                if (text.bytes[piece.begin] != ' ') other_.append(U' ', text.places[piece.begin]);
                other_.append(text, piece.begin, piece.end);
                add(begin, static_cast<std::uint32_t>(other_.size()));
            }
        }
        std::swap(text, other_);
        std::swap(pieces, made_);
    }

    void add_metaspaced(const text_piece& piece, const pre_tokenizer_step& step) {
        using prepend = pre_tokenizer_step::prepend;
        const std::string_view mark = step.replacement;
        const auto here = [&] { return static_cast<std::uint32_t>(other_.size()); };
        const auto marked = [&](std::uint32_t i) { return text.view(i, piece.end).starts_with(mark); };
        std::uint32_t last = here();
        const bool wanted = step.scheme == prepend::always ||
                            (step.scheme == prepend::first && text.places[piece.begin].begin == 0);
        if (wanted && text.bytes[piece.begin] != ' ' && !marked(piece.begin))
            other_.append(mark, text.places[piece.begin]);
        for (std::uint32_t i = piece.begin; i < piece.end;) {
            const std::uint32_t end = i + static_cast<std::uint32_t>(utf8_step(text.bytes[i]));
            const bool blank = text.bytes[i] == ' ';
            if (step.split && (blank || (text.bytes[i] == mark[0] && marked(i)))) {
                add(last, here());
                last = here();
            }
            if (blank)
                other_.append(mark, text.places[i]);
            else
                other_.append(text, i, end);
            i = end;
        }
        add(last, here());
    }

    aligned_text other_;
    std::vector<text_piece> made_;
    std::vector<text_part> parts_;
};

}  // namespace bitmill::detail
