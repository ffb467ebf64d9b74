// Reads tokenizer.json. The vocabulary and the merges, which are nearly all of it, go into tables of their own as they
// are parsed; the rest becomes a document.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Before json_stream-inl.hpp, which names its limits: without the library its bodies need the whole of that.
#include <bitmill/io/safetensors.hpp>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/vocabulary-inl.hpp>

namespace bitmill::detail {

// A score as the tokenizers package reads it (serde_json without float_roundtrip): the digits as an integer, times or by
// one power of ten. In the last bit that may be another number than the nearest, and where two ways to cut a word have
// equal sums the last bit says which one is taken.
inline double score_of(std::string_view text) noexcept {
    static const auto powers = [] {
        std::array<double, 309> all{};
        for (std::size_t i = 0; i < all.size(); ++i) {
            const std::string one = "1e" + std::to_string(i);
            std::from_chars(one.data(), one.data() + one.size(), all[i]);
        }
        return all;
    }();
    std::uint64_t digits = 0;
    std::int64_t exponent = 0;
    bool fraction = false, full = false;
    const bool negative = text.starts_with('-');
    for (text.remove_prefix(negative ? 1 : 0); !text.empty(); text.remove_prefix(1)) {
        const char c = text.front();
        if (c == 'e' || c == 'E') break;
        if (c == '.') {
            fraction = true;
            continue;
        }
        const auto digit = static_cast<std::uint64_t>(c - '0');
        full = full || digits > (~std::uint64_t{0} - digit) / 10;
        if (!full) digits = digits * 10 + digit;
        if (full != fraction) exponent += full ? 1 : -1;  // what is left out counts before the point only
    }
    if (!text.empty()) {
        text.remove_prefix(text.size() > 1 && text[1] == '+' ? 2 : 1);
        std::int64_t more = 0;
        std::from_chars(text.data(), text.data() + text.size(), more);
        exponent += std::clamp<std::int64_t>(more, -100000, 100000);
    }
    auto value = static_cast<double>(digits);
    for (; exponent < -308 && value != 0; exponent += 308) value /= powers[308];
    // What overflows the parser has refused.
    const auto power = static_cast<std::size_t>(std::min<std::int64_t>(std::abs(exponent), 308));
    if (value != 0) value = exponent < 0 ? value / powers[power] : value * powers[power];
    return negative ? -value : value;
}

// Two tokens that merge, in the file's order.
class merge_list {
public:
    void add(std::string_view a, std::string_view b) {
        rows_.push_back(
            {texts_.size(), static_cast<std::uint32_t>(a.size()), static_cast<std::uint32_t>(b.size())});
        texts_.append(a).append(b);
    }
    [[nodiscard]] std::size_t size() const noexcept { return rows_.size(); }
    [[nodiscard]] std::string_view first(std::size_t i) const noexcept {
        return std::string_view(texts_).substr(rows_[i].begin, rows_[i].first);
    }
    [[nodiscard]] std::string_view second(std::size_t i) const noexcept {
        return std::string_view(texts_).substr(rows_[i].begin + rows_[i].first, rows_[i].second);
    }

private:
    struct row {
        std::size_t begin;
        std::uint32_t first;
        std::uint32_t second;
    };
    std::string texts_;
    std::vector<row> rows_;
};

struct tokenizer_file {
    json document;  // without what follows
    vocabulary words;
    std::vector<double> scores;  // of Unigram, by id
    bool has_scores = false;     // the vocabulary is a list of tokens with scores
    bool has_merges = false;     // a list of them, which may be empty
    merge_list merges;
};

class tokenizer_handler : public json_handler {
public:
    using string_t = json::string_t;
    static constexpr unsigned max_depth = 24;

    explicit tokenizer_handler(const json_source& source) : json_handler(source, max_depth) {}
    [[nodiscard]] tokenizer_file take() { return std::move(file_); }

    bool null() { return mode_ == mode::document ? put(json()) : misplaced(); }
    bool boolean(bool value) { return mode_ == mode::document ? put(json(value)) : misplaced(); }
    bool number_integer(std::int64_t value) { return number(json(value), static_cast<double>(value)); }
    bool number_unsigned(std::uint64_t value) {
        if (mode_ == mode::words && depth() == 3) {
            if (value > 0x7fffffff) return fail("the id of a token is too large; fetch the file again");
            file_.words.add(key_, static_cast<std::int32_t>(value));
            return true;
        }
        return number(json(value), static_cast<double>(value));
    }
    bool number_float(double value, const string_t& text) {
        return number(json(value), mode_ == mode::scores ? score_of(text) : value);
    }
    bool string(string_t& value) {
        if (mode_ == mode::document) return put(json(value));
        if (mode_ == mode::scores && depth() == 4 && fields_ == 0) {
            ++fields_;
            return keep(value, key_);
        }
        if (mode_ == mode::merges && depth() == 3) return add_merge_line(value);
        if (mode_ == mode::merges && depth() == 4 && fields_ < 2) return keep(value, pair_[fields_++]);
        return misplaced();
    }
    bool binary(nlohmann::json::binary_t&) { return misplaced(); }
    bool key(string_t& value) {
        if (mode_ != mode::document) return keep(value, key_);
        if (open_.back()->contains(value))
            return fail("the key '" + vocabulary::shown(value) + "' stands twice");
        if (depth() == 1) section_ = value;
        key_ = value;
        return true;
    }
    bool start_object(std::size_t) {
        if (mode_ == mode::document && is_table("vocab")) return begin(mode::words);
        if (mode_ != mode::document) return misplaced();
        return enter() && open(json::object());
    }
    bool start_array(std::size_t) {
        if (mode_ == mode::document) {
            if (depth() == 0) return fail("must be a JSON object");
            if (is_table("vocab")) return begin(mode::scores);
            if (is_table("merges")) return begin(mode::merges);
            return enter() && open(json::array());
        }
        if (mode_ == mode::words || depth() != 3) return misplaced();
        fields_ = 0;
        return enter();
    }
    bool end_object() {
        if (mode_ == mode::document)
            open_.pop_back();
        else
            mode_ = mode::document;
        leave();
        return true;
    }
    bool end_array() {
        if (mode_ == mode::document) {
            open_.pop_back();
        } else if (depth() == 3) {
            mode_ = mode::document;
        } else {
            if (fields_ != 2) return misplaced();
            if (mode_ == mode::merges) file_.merges.add(pair_[0], pair_[1]);
        }
        leave();
        return true;
    }

private:
    enum class mode : std::uint8_t {
        document,
        words,   // {"token": id}
        scores,  // [["token", score]]
        merges,  // ["a b"] or [["a", "b"]]
    };

    bool misplaced() {
        return fail(
            "the vocabulary or the merges of the model are not as they should be; fetch the file again");
    }
    [[nodiscard]] bool is_table(std::string_view name) const {
        return depth() == 2 && section_ == "model" && key_ == name;
    }
    bool begin(mode what) {
        if (what != mode::merges && (file_.words.size() != 0 || file_.has_scores)) return misplaced();
        if (what == mode::merges && file_.has_merges) return misplaced();
        file_.has_merges = file_.has_merges || what == mode::merges;
        file_.has_scores = file_.has_scores || what == mode::scores;
        mode_ = what;
        return enter();
    }
    bool keep(const std::string& value, std::string& where) {
        if (value.size() > vocabulary::max_token_bytes) return fail("a token of more than 65536 bytes");
        where = value;
        return true;
    }
    bool number(json value, double score) {
        if (mode_ == mode::document) return put(std::move(value));
        if (mode_ != mode::scores || depth() != 4 || fields_ != 1) return misplaced();
        ++fields_;
        file_.words.add(key_, static_cast<std::int32_t>(file_.scores.size()));
        file_.scores.push_back(score);
        return true;
    }
    bool add_merge_line(const std::string& line) {
        if (line.starts_with("#version")) return true;
        const std::size_t gap = line.find(' ');
        if (gap == std::string::npos || line.find(' ', gap + 1) != std::string::npos ||
            line.size() > vocabulary::max_token_bytes)
            return misplaced();
        file_.merges.add(std::string_view(line).substr(0, gap), std::string_view(line).substr(gap + 1));
        return true;
    }

    bool put(json value) { return place(std::move(value)) != nullptr; }
    bool open(json value) {
        open_.push_back(place(std::move(value)));
        return true;
    }
    json* place(json value) {
        if (open_.empty()) {
            file_.document = std::move(value);
            return &file_.document;
        }
        json& parent = *open_.back();
        if (parent.is_object()) return &(parent[key_] = std::move(value));
        parent.push_back(std::move(value));
        return &parent.back();
    }

    tokenizer_file file_;
    std::vector<json*> open_;
    std::string section_;
    std::string key_;
    std::string pair_[2];
    std::size_t fields_ = 0;
    mode mode_ = mode::document;
};

inline result<tokenizer_file> parse_tokenizer_file(std::string_view text, const std::string& file) {
    json_source source(text);
    source.allow_long_strings();
    tokenizer_handler handler(source);
    if (auto parsed = parse_json(source, handler, file); !parsed) return std::move(parsed).error();
    return handler.take();
}

}  // namespace bitmill::detail
