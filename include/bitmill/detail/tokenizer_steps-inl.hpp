// From tokenizer.json's document to the steps of a tokenizer. What is unknown is refused by name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/added_tokens-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/post_processors-inl.hpp>
#include <bitmill/detail/pre_tokenizers-inl.hpp>

namespace bitmill::detail {

struct tokenizer_steps {
    std::vector<normalizer_step> normalizers;
    std::vector<pre_tokenizer_step> pre_tokenizers;
    bool of_bytes = false;  // ByteLevel is the last pre-tokenizer
    post_rules post;
    std::optional<truncation_rules> truncation;
    std::vector<added_token> added;
};

class step_reader {
public:
    explicit step_reader(std::string file) : file_(std::move(file)) {}

    result<tokenizer_steps> read(const json& document) {
        for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "model", "added_tokens"})
            if (auto bad = check_types(at(document, part))) return std::move(*bad);
        std::optional<error> failed;
        const auto next = [&](std::optional<error> what) {
            if (!failed) failed = std::move(what);
            return !failed;
        };
        if (next(normalizer(at(document, "normalizer"))) &&
            next(pre_tokenizer(at(document, "pre_tokenizer"))) &&
            next(post_processor(at(document, "post_processor"))) &&
            next(truncation(at(document, "truncation"))))
            next(added_tokens(at(document, "added_tokens")));
        if (failed) return std::move(*failed);
        return std::move(steps_);
    }

    // Members with defaults; check_types() has seen to it that they are of their type.
    static const json& at(const json& object, const char* key) {
        static const json none;
        const auto found = object.is_object() ? object.find(key) : object.end();
        return found == object.end() ? none : *found;
    }
    static bool flag(const json& object, const char* key, bool otherwise) {
        const json& value = at(object, key);
        return value.is_boolean() ? value.get<bool>() : otherwise;
    }
    static std::string text(const json& object, const char* key) {
        const json& value = at(object, key);
        return value.is_string() ? value.get<std::string>() : std::string();
    }

private:
    using problem = std::optional<error>;
    static constexpr std::size_t max_steps = 64;  // real files have up to ten
    problem refuse(const char* what, const std::string& name) const {
        return make_error(
            error_code::unsupported,
            std::string(what) + " '" + shortened(name) + "' is not supported; use another tokenizer.json",
            file_);
    }
    problem wrong(const char* what, const std::string& name) const {
        return bad_file(
            std::string(what) + " '" + shortened(name) + "' has a wrong member; fetch the file again", file_);
    }

    // What is read as true or false, or as a text, must be that wherever it stands; the parser bounds how deep.
    problem check_types(const json& value) const {
        static constexpr std::string_view flags[] = {"clean_text",   "handle_chinese_chars",
                                                     "lowercase",    "strip_left",
                                                     "strip_right",  "individual_digits",
                                                     "invert",       "add_prefix_space",
                                                     "use_regex",    "trim_offsets",
                                                     "split",        "single_word",
                                                     "lstrip",       "rstrip",
                                                     "special",      "normalized",
                                                     "fuse_unk",     "byte_fallback",
                                                     "ignore_merges"};
        static constexpr std::string_view texts[] = {"type",
                                                     "content",
                                                     "prepend",
                                                     "precompiled_charsmap",
                                                     "replacement",
                                                     "unk_token",
                                                     "continuing_subword_prefix",
                                                     "end_of_word_suffix"};
        if (value.is_array()) {
            for (const json& one : value)
                if (auto bad = check_types(one)) return bad;
            return {};
        }
        if (!value.is_object()) return {};
        const auto is_one_of = [](const auto& names, const std::string& key) {
            return std::find(std::begin(names), std::end(names), key) != std::end(names);
        };
        for (const auto& [key, member] : value.items()) {
            if (key == "special_tokens") continue;  // its keys are tokens
            const bool wrong_flag = is_one_of(flags, key) && !member.is_boolean();
            const bool wrong_text = is_one_of(texts, key) && !member.is_string();
            if (!member.is_null() && (wrong_flag || wrong_text))
                return bad_file("\"" + shortened(key) + "\" must be " +
                                    (wrong_flag ? "true or false" : "a text") + ", not " + shown(member) +
                                    "; fetch the file again",
                                file_);
            if (auto bad = check_types(member)) return bad;
        }
        return {};
    }

    // Sequences hold steps, or again sequences; the parser bounds how deep.
    template <class Read>
    problem each(const json& list, const char* what, const Read& read) {
        if (!list.is_array()) return wrong(what, "Sequence");
        for (const json& one : list)
            if (auto failed = read(one)) return failed;
        return {};
    }

    // ---- normalizers -------------------------------------------------------------------------------------
    problem normalizer(const json& value) {
        if (value.is_null()) return {};
        const std::string type = text(value, "type");
        if (type == "Sequence")
            return each(at(value, "normalizers"), "normalizer",
                        [&](const json& one) { return normalizer(one); });
        using kind = normalizer_step::kind;
        normalizer_step step;
        if (type == "BertNormalizer") {
            step.what = kind::bert;
            bert_rules rules;
            rules.clean_text = flag(value, "clean_text", true);
            rules.handle_chinese_chars = flag(value, "handle_chinese_chars", true);
            rules.lowercase = flag(value, "lowercase", true);
            rules.strip_accents = flag(value, "strip_accents", rules.lowercase);
            step.bert = std::make_shared<const bert_normalizer>(rules);
        } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
            step.form = {.compatible = type[2] == 'K', .composed = type.back() == 'C'};
        } else if (type == "Lowercase") {
            step.what = kind::lowercase;
        } else if (type == "Strip") {
            step.what = kind::strip;
            step.left = flag(value, "strip_left", true);
            step.right = flag(value, "strip_right", true);
        } else if (type == "StripAccents") {
            step.what = kind::strip_accents;
        } else if (type == "Nmt") {
            step.what = kind::nmt;
        } else if (type == "Prepend") {
            step.what = kind::prepend;
            step.content = text(value, "prepend");
            if (step.content.empty()) return wrong("normalizer", type);
            if (step.content.size() > max_replacement_bytes) return refuse("a long text of normalizer", type);
        } else if (type == "Replace") {
            step.what = kind::replace;
            step.content = text(value, "content");
            if (step.content.size() > max_replacement_bytes) return refuse("a long text of normalizer", type);
            if (auto failed = read_pattern(at(value, "pattern"), "normalizer", type, step.pattern))
                return failed;
        } else if (type == "Precompiled") {
            step.what = kind::precompiled;
            auto map = charsmap::parse(text(value, "precompiled_charsmap"), file_);
            if (!map) return std::move(map).error();
            step.map = std::make_shared<const charsmap>(std::move(*map));
        } else {
            return refuse("normalizer", type);
        }
        if (steps_.normalizers.size() == max_steps) return refuse("more than 64 normalizers:", type);
        steps_.normalizers.push_back(std::move(step));
        return {};
    }

    problem read_pattern(const json& value, const char* what, const std::string& type,
                         std::shared_ptr<const split_pattern>& out) {
        if (const json& plain = at(value, "String"); plain.is_string()) {
            const std::string& wanted = plain.get_ref<const std::string&>();
            if (wanted.empty()) return refuse("an empty pattern of", type);
            // A search takes its length times that of the text, at the worst.
            if (wanted.size() > max_replacement_bytes) return refuse("a long pattern of", type);
            out = std::make_shared<const split_pattern>(split_pattern::of_text(plain.get<std::string>()));
            return {};
        }
        const json& regex = at(value, "Regex");
        if (!regex.is_string()) return wrong(what, type);
        const auto known = split_pattern::of_regex(regex.get_ref<const std::string&>());
        if (!known) return refuse("the regular expression", regex.get<std::string>());
        out = std::make_shared<const split_pattern>(*known);
        return {};
    }

    // ---- pre-tokenizers ----------------------------------------------------------------------------------
    problem pre_tokenizer(const json& value) {
        if (value.is_null()) return {};
        const std::string type = text(value, "type");
        if (type == "Sequence")
            return each(at(value, "pretokenizers"), "pre-tokenizer",
                        [&](const json& one) { return pre_tokenizer(one); });
        if (steps_.of_bytes) return refuse("a pre-tokenizer behind ByteLevel:", type);
        using kind = pre_tokenizer_step::kind;
        pre_tokenizer_step step;
        step.what = kind::characters;
        if (type == "BertPreTokenizer") {
            step.what = kind::bert;
        } else if (type == "WhitespaceSplit") {
            step.mask = character::space;
            step.behavior = split_behavior::removed;
        } else if (type == "Whitespace") {
            step.what = kind::words;
        } else if (type == "Punctuation") {
            step.mask = character::punctuation;
            if (!read_behavior(value, step.behavior)) return wrong("pre-tokenizer", type);
        } else if (type == "Digits") {
            step.mask = character::numeric;
            step.behavior = flag(value, "individual_digits", false) ? split_behavior::isolated
                                                                    : split_behavior::contiguous;
        } else if (type == "CharDelimiterSplit") {
            if (!read_character(value, "delimiter", step.delimiter)) return wrong("pre-tokenizer", type);
            step.behavior = split_behavior::removed;
        } else if (type == "Split") {
            step.what = kind::pattern;
            step.invert = flag(value, "invert", false);
            if (!read_behavior(value, step.behavior)) return wrong("pre-tokenizer", type);
            if (auto failed = read_pattern(at(value, "pattern"), "pre-tokenizer", type, step.pattern))
                return failed;
        } else if (type == "Metaspace") {
            if (!read_metaspace(value, step)) return wrong("pre-tokenizer", type);
        } else if (type == "ByteLevel") {
            step.what = kind::byte_level;
            step.add_prefix_space = flag(value, "add_prefix_space", true);
            if (flag(value, "use_regex", true))
                step.pattern = std::make_shared<const split_pattern>(split_pattern::of_gpt2());
            steps_.of_bytes = true;
        } else {
            return refuse("pre-tokenizer", type);
        }
        if (steps_.pre_tokenizers.size() == max_steps) return refuse("more than 64 pre-tokenizers:", type);
        steps_.pre_tokenizers.push_back(std::move(step));
        return {};
    }

    static bool read_behavior(const json& value, split_behavior& out) {
        const json& name = at(value, "behavior");
        if (name.is_null()) return true;
        static constexpr const char* names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                                "Contiguous"};
        for (std::size_t i = 0; i < std::size(names); ++i)
            if (is_text(name, names[i])) {
                out = static_cast<split_behavior>(i);
                return true;
            }
        return false;
    }
    static bool read_character(const json& value, const char* key, char32_t& out) {
        const std::string one = text(value, key);
        if (one.empty() || one.size() != utf8_step(one[0])) return false;
        out = utf8_character(one.data());
        return true;
    }
    static bool read_metaspace(const json& value, pre_tokenizer_step& step) {
        using prepend = pre_tokenizer_step::prepend;
        step.what = pre_tokenizer_step::kind::metaspace;
        char32_t mark = 0;
        if (!read_character(value, "replacement", mark)) return false;
        step.replacement = text(value, "replacement");
        step.split = flag(value, "split", true);
        const json& scheme = at(value, "prepend_scheme");
        if (scheme.is_null())
            step.scheme = flag(value, "add_prefix_space", true) ? prepend::always : prepend::never;
        else if (is_text(scheme, "always"))
            step.scheme = prepend::always;
        else if (is_text(scheme, "first"))
            step.scheme = prepend::first;
        else if (is_text(scheme, "never"))
            step.scheme = prepend::never;
        else
            return false;
        return true;
    }

    // ---- post-processors ---------------------------------------------------------------------------------
    problem post_processor(const json& value) {
        if (value.is_null()) return {};
        const std::string type = text(value, "type");
        if (type == "Sequence")
            return each(at(value, "processors"), "post-processor",
                        [&](const json& one) { return post_processor(one); });
        if (steps_.post.has_template) return refuse("a post-processor behind a template:", type);
        if (type == "TemplateProcessing") return template_of(value);
        if (type == "BertProcessing" || type == "RobertaProcessing") return pair_of(value, type);
        if (type != "ByteLevel") return refuse("post-processor", type);
        trim(value);
        return {};
    }
    void trim(const json& value) {
        if (!flag(value, "trim_offsets", true)) return;
        steps_.post.trim_offsets = true;
        steps_.post.add_prefix_space = flag(value, "add_prefix_space", true);
    }

    static bool read_id(const json& value, std::int32_t& out) {
        if (!value.is_number_unsigned() || value.get<std::uint64_t>() > 0x7fffffff) return false;
        out = static_cast<std::int32_t>(value.get<std::uint64_t>());
        return true;
    }

    problem template_of(const json& value) {
        const json& tokens = at(value, "special_tokens");
        if (!read_template(at(value, "single"), tokens, false, steps_.post.single) ||
            !read_template(at(value, "pair"), tokens, true, steps_.post.pair))
            return wrong("post-processor", "TemplateProcessing");
        steps_.post.has_template = true;
        return {};
    }
    static bool read_template(const json& list, const json& tokens, bool is_pair,
                              std::vector<template_part>& out) {
        if (!list.is_array()) return false;
        for (const json& one : list) {
            const json& sequence = at(one, "Sequence");
            const json& special = at(one, "SpecialToken");
            template_part part;
            if (!read_id(at(sequence.is_object() ? sequence : special, "type_id"), part.type)) return false;
            if (sequence.is_object()) {
                const bool is_second = is_text(at(sequence, "id"), "B");
                if (!is_second && !is_text(at(sequence, "id"), "A")) return false;
                part.what = is_second ? template_part::kind::second : template_part::kind::first;
                if (part.what == template_part::kind::second && !is_pair) return false;
                // Each text once: max_length, and memory, count on it.
                const auto same = [&](const template_part& p) { return p.what == part.what; };
                if (std::any_of(out.begin(), out.end(), same)) return false;
                out.push_back(part);
                continue;
            }
            const json& ids = at(at(tokens, text(special, "id").c_str()), "ids");
            if (!ids.is_array()) return false;
            part.what = template_part::kind::special;
            for (const json& id : ids) {
                if (!read_id(id, part.id)) return false;
                out.push_back(part);
            }
        }
        return true;
    }

    // [CLS] A [SEP] B [SEP]; RoBERTa has one more separator, and no types.
    problem pair_of(const json& value, const std::string& type) {
        const bool roberta = type == "RobertaProcessing";
        std::int32_t ends[2];
        const char* const keys[] = {"cls", "sep"};
        for (std::size_t i = 0; i < 2; ++i) {
            const json& row = at(value, keys[i]);
            if (!row.is_array() || row.size() != 2 || !read_id(row[1], ends[i]))
                return wrong("post-processor", type);
        }
        using kind = template_part::kind;
        const template_part cls{kind::special, ends[0], 0};
        const template_part sep{kind::special, ends[1], 0};
        const template_part first{kind::first, 0, 0};
        const std::int32_t other = roberta ? 0 : 1;
        steps_.post.single = {cls, first, sep};
        steps_.post.pair = {cls, first, sep};
        if (roberta) steps_.post.pair.push_back(sep);
        steps_.post.pair.push_back({kind::second, 0, other});
        steps_.post.pair.push_back({kind::special, ends[1], other});
        steps_.post.has_template = true;
        if (roberta) trim(value);
        return {};
    }

    // ---- the rest ----------------------------------------------------------------------------------------
    problem truncation(const json& value) {
        if (value.is_null()) return {};
        truncation_rules rules;
        const json& length = at(value, "max_length");
        const std::string strategy = text(value, "strategy");
        const std::string direction = text(value, "direction");
        if (!length.is_number_unsigned() ||
            !(direction.empty() || direction == "Right" || direction == "Left"))
            return wrong("truncation", strategy);
        rules.max_length = static_cast<std::size_t>(length.get<std::uint64_t>());
        rules.from_left = direction == "Left";
        if (strategy == "OnlyFirst")
            rules.strategy = truncation_strategy::only_first;
        else if (strategy == "OnlySecond")
            rules.strategy = truncation_strategy::only_second;
        else if (strategy != "LongestFirst")
            return wrong("truncation", strategy);
        steps_.truncation = rules;
        return {};
    }

    problem added_tokens(const json& value) {
        if (value.is_null()) return {};
        return each(value, "added_tokens", [&](const json& one) -> problem {
            added_token token;
            token.content = text(one, "content");
            if (!read_id(at(one, "id"), token.id)) return wrong("added_tokens", token.content);
            if (token.content.size() > added_matcher::max_bytes)
                return refuse("an added token of more than 1024 bytes:", token.content);
            token.single_word = flag(one, "single_word", false);
            token.lstrip = flag(one, "lstrip", false);
            token.rstrip = flag(one, "rstrip", false);
            token.special = flag(one, "special", false);
            token.normalized = flag(one, "normalized", !token.special);
            if (!token.content.empty()) steps_.added.push_back(std::move(token));
            return {};
        });
    }

    std::string file_;
    tokenizer_steps steps_;
};

}  // namespace bitmill::detail
