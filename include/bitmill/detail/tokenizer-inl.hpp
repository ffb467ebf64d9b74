// Bodies of text/tokenizer.hpp: the way of a text through added tokens, normalizers, pre-tokenizers, model, truncation
// and post-processor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/tokenizer_models-inl.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/text/tokenizer.hpp>

namespace bitmill {

namespace detail {

// What a thread needs while it encodes; kept for the next call.
struct encode_scratch {
    std::string repaired;
    std::vector<text_piece> sections;
    std::vector<text_piece> cuts;
    aligned_text section;
    normalizer_scratch normalizer;
    pre_tokenizer_runner pre;
    std::vector<model_token> tokens;
    bpe_scratch bpe;
    unigram_scratch unigram;
    word_cache cache;
};

// Places in a text are 32 bits, after all that it may grow.
inline constexpr std::size_t max_text_bytes = std::size_t{16} << 20;

class scratch_pool {
public:
    std::unique_ptr<encode_scratch> take() {
        {
            const std::lock_guard lock(mutex_);
            if (!free_.empty()) {
                auto one = std::move(free_.back());
                free_.pop_back();
                return one;
            }
        }
        return std::make_unique<encode_scratch>();
    }
    // `bytes`: of the text. What a long one took is not kept, but for the cache.
    void give(std::unique_ptr<encode_scratch> one, std::size_t bytes) {
        if (bytes > most_kept) {
            auto fresh = std::make_unique<encode_scratch>();
            fresh->cache = std::move(one->cache);
            one = std::move(fresh);
        }
        const std::lock_guard lock(mutex_);
        free_.push_back(std::move(one));
    }

private:
    static constexpr std::size_t most_kept = std::size_t{64} << 10;
    std::mutex mutex_;
    std::vector<std::unique_ptr<encode_scratch>> free_;
};

// A token of one text, before truncation.
struct placed_token {
    std::int32_t id;
    token_span place;
    token_blanks blanks;
};

}  // namespace detail

struct tokenizer::content {
    tokenizer_facts facts;
    detail::tokenizer_model model;
    detail::tokenizer_steps steps;
    detail::vocabulary added;                  // by text and by id
    detail::added_matcher raw;                 // in the text as it is given
    detail::added_matcher normalized;          // in the normalized text
    std::vector<detail::token_blanks> blanks;  // by id, where offsets are trimmed
    mutable detail::scratch_pool pool;

    result<void> build(std::string_view text, const std::string& file);
    result<void> index_added(const std::string& file);
    result<void> encode(std::string_view text, std::size_t enough,
                        std::vector<detail::placed_token>& out) const;
    result<token_sequence> encode(std::string_view text, const std::string_view* pair,
                                  const tokenize_options&) const;

private:
    bool add_section(std::string_view section, std::uint32_t first, detail::encode_scratch&) const;
    bool run_model(const detail::text_piece& piece, detail::encode_scratch&) const;
    detail::token_blanks blanks_at(const detail::model_token&, bool is_added,
                                   const detail::encode_scratch&) const;
};

// ---- opening -----------------------------------------------------------------------------------------------
BITMILL_INLINE result<void> tokenizer::content::index_added(const std::string& file) {
    using namespace detail;
    std::vector<byte_trie::entry> plain;
    std::vector<byte_trie::entry> through;
    std::vector<std::string> texts;  // as the normalizers leave them
    texts.reserve(steps.added.size());
    normalizer_scratch scratch;
    aligned_text text;
    for (std::size_t i = 0; i < steps.added.size(); ++i) {
        added_token& token = steps.added[i];
        if (const std::int32_t id = model.words.find(token.content); id != vocabulary::no_id) token.id = id;
        added.add(token.content, token.id);
        const auto index = static_cast<std::int32_t>(i);
        if (!token.normalized) {
            plain.emplace_back(token.content, index);
            continue;
        }
        text.clear();
        text.append_original(token.content, 0);
        if (!normalize(steps.normalizers, text, scratch) || text.size() > added_matcher::max_bytes)
            return make_error(error_code::unsupported,
                              "an added token of more than 1024 bytes; use another tokenizer.json", file);
        texts.push_back(text.bytes);
        through.emplace_back(texts.back(), index);
    }
    raw = added_matcher(steps.added, std::move(plain));
    normalized = added_matcher(steps.added, std::move(through));
    return added.index(file);
}

BITMILL_INLINE result<void> tokenizer::content::build(std::string_view text, const std::string& file) {
    using namespace detail;
    auto parsed = parse_tokenizer_file(text, file);
    if (!parsed) return std::move(parsed).error();
    auto read = step_reader(file).read(parsed->document);
    if (!read) return std::move(read).error();
    steps = std::move(*read);
    if (auto made = model_reader(model, file).read(*parsed, steps.of_bytes); !made) return made;
    if (auto indexed = index_added(file); !indexed) return indexed;
    facts.model = model.name;
    facts.vocabulary = model.words.size();
    for (std::size_t i = 0; i < added.size(); ++i)
        facts.vocabulary += model.words.find(added.text(i)) == vocabulary::no_id;
    facts.max_id = std::max(model.words.max_id(), added.max_id());
    facts.max_length = steps.truncation ? steps.truncation->max_length : 0;
    facts.added_single = steps.post.added(false);
    facts.added_pair = steps.post.added(true);
    if (steps.post.trim_offsets) {
        blanks.resize(static_cast<std::size_t>(model.words.max_id()) + 1);
        for (std::size_t i = 0; i < model.words.size(); ++i)
            blanks[static_cast<std::size_t>(model.words.id(i))] = blanks_of(model.words.text(i));
    }
    return {};
}

BITMILL_INLINE tokenizer::tokenizer(std::unique_ptr<content> what) noexcept : content_(std::move(what)) {}
BITMILL_INLINE tokenizer::tokenizer(tokenizer&&) noexcept = default;
BITMILL_INLINE tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;
BITMILL_INLINE tokenizer::~tokenizer() = default;

BITMILL_INLINE result<tokenizer> tokenizer::parse(std::string_view json, const std::string& name) {
    return detail::guard(name, [&]() -> result<tokenizer> {
        auto made = std::make_unique<content>();
        if (auto built = made->build(json, name); !built) return std::move(built).error();
        return tokenizer(std::move(made));
    });
}

BITMILL_INLINE result<tokenizer> tokenizer::open(const std::string& path) {
    return detail::guard(path, [&]() -> result<tokenizer> {
        std::error_code ignored;
        const bool is_folder = std::filesystem::is_directory(path, ignored);
        auto file = is_folder ? input_file::open_beneath(path, "tokenizer.json") : input_file::open(path);
        if (!file) return std::move(file).error();
        auto text = read_text(*file, std::uint64_t{1} << 30);
        if (!text) return std::move(text).error();
        return parse(*text, file->path());
    });
}

BITMILL_INLINE const tokenizer_facts& tokenizer::facts() const noexcept { return content_->facts; }

BITMILL_INLINE std::optional<std::int32_t> tokenizer::id_of(std::string_view token) const {
    for (const detail::vocabulary* words : {&content_->added, &content_->model.words})
        if (const std::int32_t id = words->find(token); id != detail::vocabulary::no_id) return id;
    return std::nullopt;
}

BITMILL_INLINE std::optional<std::string_view> tokenizer::token_of(std::int32_t id) const noexcept {
    const auto found = content_->added.token(id);
    return found ? found : content_->model.words.token(id);
}

// ---- encoding ----------------------------------------------------------------------------------------------
// Normalizes a part of the text that is no added token, whose first character has that number, and appends it with its
// pieces to what the pre-tokenizers get. False: it grows too far.
BITMILL_INLINE bool tokenizer::content::add_section(std::string_view section, std::uint32_t first,
                                                    detail::encode_scratch& s) const {
    s.section.clear();
    s.section.append_original(section, first);
    if (!normalize(steps.normalizers, s.section, s.normalizer)) return false;
    const auto base = static_cast<std::uint32_t>(s.pre.text.size());
    normalized.find(s.section.bytes, base, s.pre.pieces);
    if (base == 0)
        std::swap(s.pre.text, s.section);
    else
        s.pre.text.append(s.section, 0, s.section.size());
    return true;
}

// False: a character has no token.
BITMILL_INLINE bool tokenizer::content::run_model(const detail::text_piece& piece,
                                                  detail::encode_scratch& s) const {
    using namespace detail;
    const std::string_view text = s.pre.text.bytes;
    if (const auto* wordpiece = std::get_if<wordpiece_model>(&model.model)) {
        wordpiece->encode(text, piece.begin, piece.end, s.tokens);
        return true;
    }
    const std::string_view word = text.substr(piece.begin, piece.end - piece.begin);
    const bool keeps = word.size() <= word_cache::max_bytes;
    const std::uint64_t hash = keeps ? hash_of(word) : 0;
    if (keeps && s.cache.find(word, hash, piece.begin, s.tokens)) return true;
    const std::size_t before = s.tokens.size();
    const auto* bpe = std::get_if<bpe_model>(&model.model);
    if (bpe != nullptr
            ? !bpe->encode(text, piece.begin, piece.end, s.tokens, s.bpe)
            : !std::get<unigram_model>(model.model).encode(text, piece.begin, piece.end, s.tokens, s.unigram))
        return false;
    if (keeps) s.cache.keep(word, hash, piece.begin, s.tokens.data() + before, s.tokens.size() - before);
    return true;
}

BITMILL_INLINE detail::token_blanks tokenizer::content::blanks_at(const detail::model_token& token,
                                                                  bool is_added,
                                                                  const detail::encode_scratch& s) const {
    const bool as_written = is_added || std::holds_alternative<detail::unigram_model>(model.model);
    if (as_written) return detail::blanks_of(s.pre.text.view(token.begin, token.end));
    return blanks[static_cast<std::size_t>(token.id)];
}

// Stops where there are `enough` tokens.
BITMILL_INLINE result<void> tokenizer::content::encode(std::string_view text, std::size_t enough,
                                                       std::vector<detail::placed_token>& out) const {
    using namespace detail;
    if (text.size() > max_text_bytes)
        return make_error(error_code::invalid_argument, "a text of more than 16 MiB; cut it into parts", {});
    const auto grown = [] {
        return make_error(
            error_code::bad_input,
            "the normalizers make the text more than 32 times as long; use another tokenizer.json", {});
    };
    auto taken = pool.take();
    encode_scratch& s = *taken;
    if (!is_utf8(text)) {
        s.repaired = utf8_repaired(text);
        text = s.repaired;
    }
    s.sections.clear();
    raw.find(text, 0, s.sections);
    s.pre.text.clear();
    s.pre.pieces.clear();
    std::uint32_t characters = 0;
    const std::size_t most = 2 * max_grown(text.size());
    for (const text_piece& section : s.sections) {
        if (s.pre.text.size() > most) return grown();
        const std::string_view part = text.substr(section.begin, section.end - section.begin);
        if (section.id == text_piece::no_id) {
            if (!add_section(part, characters, s)) return grown();
        } else {
            const auto begin = static_cast<std::uint32_t>(s.pre.text.size());
            s.pre.text.append_original(part, characters);
            s.pre.pieces.push_back({begin, static_cast<std::uint32_t>(s.pre.text.size()), section.id});
        }
        for (const char c : part) characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }
    for (const pre_tokenizer_step& step : steps.pre_tokenizers) {
        s.pre.run(step);
        if (s.pre.text.size() > most) return grown();
    }
    out.clear();
    for (const text_piece& piece : s.pre.pieces) {
        const bool is_added = piece.id != text_piece::no_id;
        if (!is_added && out.size() >= enough) break;
        s.tokens.clear();
        if (is_added)
            s.tokens.push_back({piece.id, piece.begin, piece.end});
        else if (!run_model(piece, s))
            return make_error(
                error_code::bad_input,
                "a character has no token, and the model no unknown token; use another tokenizer.json", {});
        for (const model_token& token : s.tokens) {
            const token_span place{s.pre.text.places[token.begin].begin,
                                   s.pre.text.places[token.end - 1].end};
            out.push_back(
                {token.id, place, steps.post.trim_offsets ? blanks_at(token, is_added, s) : token_blanks{}});
        }
    }
    pool.give(std::move(taken), text.size());
    return {};
}

BITMILL_INLINE result<token_sequence> tokenizer::content::encode(std::string_view text,
                                                                 const std::string_view* pair,
                                                                 const tokenize_options& options) const {
    using namespace detail;
    const auto argument = [](std::string what) {
        return make_error(error_code::invalid_argument, std::move(what), {});
    };
    const bool has_pair = pair != nullptr;
    truncation_rules rules;
    if (options.max_length)
        rules.max_length = *options.max_length;
    else if (steps.truncation)
        rules = *steps.truncation;
    const bool cuts = options.truncate && (options.max_length || steps.truncation);
    const std::size_t added_count = options.add_special_tokens ? steps.post.added(has_pair) : 0;
    if (cuts && rules.max_length < added_count)
        return argument("max_length " + std::to_string(rules.max_length) + " is less than the " +
                        std::to_string(added_count) + " special tokens that are added; raise it");
    const std::size_t no_limit = std::numeric_limits<std::size_t>::max();
    // What is cut off at the end need not be made; but how long two texts are says where they are cut.
    const bool stops = cuts && !has_pair && !rules.from_left;
    std::vector<placed_token> parts[2];
    if (auto done = encode(text, stops ? rules.max_length : no_limit, parts[0]); !done)
        return std::move(done).error();
    if (has_pair)
        if (auto done = encode(*pair, no_limit, parts[1]); !done) return std::move(done).error();
    std::size_t counts[2] = {parts[0].size(), parts[1].size()};
    if (cuts &&
        !truncate_counts(counts[0], counts[1], has_pair, rules.max_length - added_count, rules.strategy))
        return argument("the text that is to be truncated is too short for max_length " +
                        std::to_string(rules.max_length) +
                        ", or there is none; raise it, or truncate the longest first");

    token_sequence out;
    const std::size_t total = counts[0] + counts[1] + added_count;
    out.ids.reserve(total);
    out.offsets.reserve(total);
    out.types.reserve(total);
    out.special_tokens.reserve(total);
    const auto put = [&](std::int32_t id, token_span place, std::int32_t type, bool special) {
        out.ids.push_back(id);
        out.offsets.push_back(place);
        out.types.push_back(type);
        out.special_tokens.push_back(special ? 1 : 0);
    };
    const auto put_text = [&](std::size_t which, std::int32_t type) {
        const std::size_t skipped = rules.from_left ? parts[which].size() - counts[which] : 0;
        for (std::size_t i = 0; i < counts[which]; ++i) {
            placed_token& token = parts[which][skipped + i];
            token_span place = token.place;
            if (steps.post.trim_offsets)
                trim_offset(place, i == 0, token.blanks, steps.post.add_prefix_space);
            put(token.id, place, type, false);
        }
    };
    if (!steps.post.has_template) {
        put_text(0, 0);
        if (has_pair) put_text(1, 1);
    }
    for (const template_part& part : has_pair ? steps.post.pair : steps.post.single) {
        if (part.what != template_part::kind::special)
            put_text(part.what == template_part::kind::second ? 1 : 0, part.type);
        else if (options.add_special_tokens)
            put(part.id, {}, part.type, true);
    }
    out.attention.assign(out.ids.size(), 1);
    return out;
}

BITMILL_INLINE result<token_sequence> tokenizer::encode(std::string_view text,
                                                        const tokenize_options& options) const {
    return detail::guard({}, [&] { return content_->encode(text, nullptr, options); });
}
BITMILL_INLINE result<token_sequence> tokenizer::encode(std::string_view text, std::string_view pair,
                                                        const tokenize_options& options) const {
    return detail::guard({}, [&] { return content_->encode(text, &pair, options); });
}

}  // namespace bitmill
