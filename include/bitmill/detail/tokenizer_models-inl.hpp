// The model of a tokenizer.json, made of its tables.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <bitmill/detail/bpe-inl.hpp>
#include <bitmill/detail/tokenizer_file-inl.hpp>
#include <bitmill/detail/tokenizer_steps-inl.hpp>
#include <bitmill/detail/unigram-inl.hpp>
#include <bitmill/detail/wordpiece-inl.hpp>

namespace bitmill::detail {

struct tokenizer_model {
    std::string name;
    vocabulary words;
    vocabulary bytes;  // the same translated, where the text is cut into bytes
    std::variant<std::monostate, wordpiece_model, bpe_model, unigram_model> model;
};

// The parts refer to each other, so it is made in place.
class model_reader {
public:
    model_reader(tokenizer_model& out, std::string file) : out_(out), file_(std::move(file)) {}

    [[nodiscard]] result<void> read(tokenizer_file& from, bool of_bytes) {
        const json& model = step_reader::at(from.document, "model");
        std::string type = step_reader::text(model, "type");
        // Files of old leave it out.
        if (type.empty()) type = from.has_scores ? "Unigram" : from.merges.size() != 0 ? "BPE" : "WordPiece";
        if (type != "WordPiece" && type != "BPE" && type != "Unigram")
            return make_error(error_code::unsupported,
                              "model '" + shortened(type) + "' is not supported; use another tokenizer.json",
                              file_);
        if (of_bytes && type != "BPE")
            return make_error(error_code::unsupported,
                              "pre-tokenizer 'ByteLevel' with model '" + type +
                                  "' is not supported; use another tokenizer.json",
                              file_);
        if (from.has_scores != (type == "Unigram")) return bad("the vocabulary is not one of " + type);
        if (from.words.size() == 0) return bad("the vocabulary is empty");
        if (type == "BPE" && !from.has_merges) return bad("BPE has no merges");
        out_.name = type;
        out_.words = std::move(from.words);
        if (auto indexed = out_.words.index(file_); !indexed) return indexed;
        if (type == "WordPiece") return wordpiece(model);
        return type == "BPE" ? bpe(model, from.merges, of_bytes) : unigram(model, std::move(from.scores));
    }

private:
    error bad(const std::string& what) const { return bad_file(what + "; fetch the file again", file_); }

    result<void> wordpiece(const json& model) {
        const json& unknown = step_reader::at(model, "unk_token");
        if (unknown.is_null()) return bad("WordPiece has no unk_token");
        const std::string name = unknown.get<std::string>();
        const std::int32_t id = out_.words.find(name);
        if (id == vocabulary::no_id) return bad("unk_token '" + name + "' is not in the vocabulary");
        const json& prefix = step_reader::at(model, "continuing_subword_prefix");
        const json& most = step_reader::at(model, "max_input_chars_per_word");
        // Time grows with its square.
        if (!most.is_null() && (!most.is_number_unsigned() || most.get<std::uint64_t>() > 4096))
            return bad("max_input_chars_per_word must be a number up to 4096, not " + shown(most));
        out_.model.emplace<wordpiece_model>(
            out_.words, id, prefix.is_string() ? prefix.get<std::string>() : "##",
            most.is_null() ? 100 : static_cast<std::size_t>(most.get<std::uint64_t>()));
        return {};
    }

    result<void> bpe(const json& model, const merge_list& merges, bool of_bytes) {
        bpe_rules rules;
        rules.of_bytes = of_bytes;
        if (step_reader::at(model, "unk_token").is_string())
            rules.unknown = step_reader::text(model, "unk_token");
        rules.prefix = step_reader::text(model, "continuing_subword_prefix");
        rules.suffix = step_reader::text(model, "end_of_word_suffix");
        rules.fuse_unknown = step_reader::flag(model, "fuse_unk", false);
        rules.byte_fallback = step_reader::flag(model, "byte_fallback", false);
        rules.ignore_merges = step_reader::flag(model, "ignore_merges", false);
        if (const json& dropout = step_reader::at(model, "dropout");
            !dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0))
            return make_error(error_code::unsupported, "BPE with dropout is random; set \"dropout\" to null",
                              file_);
        auto table = merge_ids(merges, rules.prefix.size());
        if (!table) return std::move(table).error();
        if (of_bytes)
            if (auto translated = translate(); !translated) return translated;
        out_.model.emplace<bpe_model>(of_bytes ? out_.bytes : out_.words, std::move(*table),
                                      std::move(rules));
        return {};
    }
    result<merge_table> merge_ids(const merge_list& merges, std::size_t prefix) {
        merge_table table;
        table.reserve(merges.size());
        std::string joined;
        for (std::size_t i = 0; i < merges.size(); ++i) {
            const std::string_view a = merges.first(i);
            const std::string_view b = merges.second(i);
            joined.assign(a);
            joined.append(b.substr(std::min(prefix, b.size())));
            const std::int32_t ids[] = {out_.words.find(a), out_.words.find(b), out_.words.find(joined)};
            if (std::find(std::begin(ids), std::end(ids), vocabulary::no_id) != std::end(ids))
                return bad("merge " + std::to_string(i) + ", '" + vocabulary::shown(a) + " " +
                           vocabulary::shown(b) + "', is not of tokens of the vocabulary");
            if (!table.add(ids[0], ids[1], {static_cast<std::uint32_t>(i), ids[2]}))
                return bad("merges that were chosen to collide in a hash table");
        }
        return table;
    }
    // Tokens that no bytes stand for cannot come of a text.
    result<void> translate() {
        const byte_alphabet alphabet;
        for (std::size_t i = 0; i < out_.words.size(); ++i)
            if (const auto bytes = alphabet.bytes(out_.words.text(i)))
                out_.bytes.add(*bytes, out_.words.id(i));
        return out_.bytes.index(file_);
    }

    result<void> unigram(const json& model, std::vector<double> scores) {
        const json& unknown = step_reader::at(model, "unk_id");
        std::optional<std::int32_t> id;
        if (unknown.is_number_unsigned() && unknown.get<std::uint64_t>() < out_.words.size())
            id = static_cast<std::int32_t>(unknown.get<std::uint64_t>());
        else if (!unknown.is_null())
            return bad("unk_id is not in the vocabulary");
        std::optional<std::vector<std::int32_t>> bytes;
        if (step_reader::flag(model, "byte_fallback", false)) {
            bytes.emplace();
            for (unsigned byte = 0; byte < 256; ++byte) {
                static constexpr char digits[] = "0123456789ABCDEF";
                bytes->push_back(
                    out_.words.find(std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">"));
            }
        }
        out_.model.emplace<unigram_model>(out_.words, std::move(scores), id, std::move(bytes));
        return {};
    }

    tokenizer_model& out_;
    std::string file_;
};

}  // namespace bitmill::detail
