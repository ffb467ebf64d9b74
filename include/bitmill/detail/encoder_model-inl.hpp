#pragma once

#include <algorithm>
#include <mutex>
#include <optional>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/detail/encoder_model_config-inl.hpp>
#include <bitmill/detail/encoder_model_heads-inl.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/model_level-inl.hpp>
#include <bitmill/detail/model_weights-inl.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/model/encoder_model.hpp>

namespace bitmill {
namespace detail {

// Of work that several threads share, the error of its first part.
class first_error {
public:
    void set(std::size_t part, error what) {
        const std::lock_guard lock(mutex_);
        if (failure_ && part_ <= part) return;
        part_ = part;
        failure_ = std::move(what);
    }
    [[nodiscard]] result<void> take() {
        if (failure_) return *std::move(failure_);
        return {};
    }

private:
    std::mutex mutex_;
    std::size_t part_ = 0;
    std::optional<error> failure_;
};

// What a token becomes before the first layer.
struct token_embeddings {
    row_table words;
    row_table positions;
    std::optional<row_table> types;
    layer_norm_weights norm;
    float epsilon;
    std::optional<std::size_t> pad;  // positions are counted from behind it

    static constexpr std::size_t rows_at_once = 32;

    // The position of every token: row numbers of the table.
    [[nodiscard]] std::vector<std::size_t> positions_of(const token_batch& batch) const {
        std::vector<std::size_t> out;
        out.reserve(batch.ids.size());
        std::size_t token = 0;
        for (const std::uint32_t length : batch.lengths) {
            std::size_t next = pad ? *pad + 1 : 0;
            for (std::size_t i = 0; i < length; ++i, ++token) {
                const bool is_pad = pad && static_cast<std::size_t>(batch.ids[token]) == *pad;
                out.push_back(is_pad ? *pad : next++);
            }
        }
        return out;
    }

    result<void> read(const token_batch& batch, std::size_t hidden, float* dst, thread_team& team,
                      memory_source memory) const {
        const auto places = positions_of(batch);
        const auto& table = kernels::active().layers;
        first_error failed;
        const std::size_t count = (places.size() + rows_at_once - 1) / rows_at_once;
        team.run(count, [&](std::size_t part) {
            const fp_environment environment;
            auto done = guard({}, [&]() -> result<void> {
                element_buffer scratch(memory_or_default(memory));
                std::pmr::vector<float> room(hidden, memory_or_default(memory));
                const std::size_t end = std::min(places.size(), (part + 1) * rows_at_once);
                for (std::size_t t = part * rows_at_once; t < end; ++t) {
                    float* row = dst + t * hidden;
                    if (auto read = add(batch, t, places[t], row, room, scratch); !read) return read;
                    table.layer_norm(row, hidden, norm.weight.data(), norm.bias.data(), epsilon, row);
                }
                return {};
            });
            if (!done) failed.set(part, std::move(done).error());
        });
        return failed.take();
    }

private:
    // word + type + position: transformers' order.
    result<void> add(const token_batch& batch, std::size_t token, std::size_t position, float* dst,
                     std::pmr::vector<float>& room, element_buffer& scratch) const {
        const auto word = words.row(static_cast<std::size_t>(batch.ids[token]), dst, scratch);
        if (!word) return word.error();
        if (*word != dst) std::copy_n(*word, room.size(), dst);
        if (types) {
            const int type = batch.types.empty() ? 0 : batch.types[token];
            const auto row = types->row(static_cast<std::size_t>(type), room.data(), scratch);
            if (!row) return row.error();
            for (std::size_t i = 0; i < room.size(); ++i) dst[i] += (*row)[i];
        }
        const auto row = positions.row(position, room.data(), scratch);
        if (!row) return row.error();
        for (std::size_t i = 0; i < room.size(); ++i) dst[i] += (*row)[i];
        return {};
    }
};

// Everything of an encoder that lies in a checkpoint.
class encoder_loader {
public:
    encoder_loader(model_weights& weights, const encoder_description& model, bool as_f16,
                   memory_source memory)
        : weights_(weights), model_(model), as_f16_(as_f16), memory_(memory) {}

    // What stands in front of the names, as the class that was saved has it.
    result<void> find_prefix() {
        std::size_t found = 0;
        for (const char* prefix : {"", "bert.", "roberta.", "distilbert.", "model."})
            if (weights_.find(std::string(prefix) + "embeddings.word_embeddings.weight") != nullptr) {
                prefix_ = prefix;
                ++found;
            }
        if (found == 1) return {};
        return error{.code = error_code::bad_input,
                     .message = found == 0
                                    ? "no tensor is called embeddings.word_embeddings.weight, with or "
                                      "without the name of the model in front; take a folder that "
                                      "transformers saved"
                                    : "embeddings.word_embeddings.weight is there more than once, with "
                                      "several names of models in front; keep one",
                     .file = weights_.model().root()};
    }
    [[nodiscard]] const std::string& prefix() const noexcept { return prefix_; }

    result<token_embeddings> embeddings() {
        const std::string base = prefix_ + "embeddings.";
        const std::size_t hidden = model_.config.hidden_size;
        const auto table = [&](const char* name, std::size_t rows) {
            return row_table::open(weights_, base + name + ".weight", rows, hidden);
        };
        auto words = table("word_embeddings", model_.vocabulary);
        if (!words) return words.error();
        auto positions = table("position_embeddings", model_.positions);
        if (!positions) return positions.error();
        std::optional<row_table> types;
        if (model_.token_types != 0) {
            auto read = table("token_type_embeddings", model_.token_types);
            if (!read) return read.error();
            types.emplace(std::move(*read));
        }
        auto norm_weights = norm(base + "LayerNorm");
        if (!norm_weights) return norm_weights.error();
        return token_embeddings{
            std::move(*words),     std::move(*positions),
            std::move(types),      std::move(*norm_weights),
            model_.config.epsilon, model_.family->counts_from_pad ? std::optional(model_.pad) : std::nullopt};
    }

    result<encoder> layers() {
        const auto& names = model_.family->names;
        const std::string base = prefix_ + names.layers;
        if (const std::string behind = base + std::to_string(model_.layers) + "." + names.query + ".weight";
            weights_.find(behind) != nullptr)
            return error{.code = error_code::bad_input,
                         .message = "is there, and config.json has only " + std::to_string(model_.layers) +
                                    " layers" + of_one_model,
                         .file = weights_.model().root() + "/config.json",
                         .tensor = behind};
        std::vector<encoder_layer> out;
        for (std::size_t i = 0; i < model_.layers; ++i) {
            auto one = layer(base + std::to_string(i) + ".");
            if (!one) return one.error();
            out.push_back(std::move(*one));
        }
        return encoder(model_.config, std::move(out), memory_);
    }

private:
    result<encoder_layer> layer(const std::string& base) {
        const auto& names = model_.family->names;
        const std::size_t hidden = model_.config.hidden_size, inner = model_.intermediate_size;
        const auto read = [&](const char* name, std::size_t out, std::size_t in) {
            return weights_.layer(base + name, out, in, as_f16_);
        };
        auto query = read(names.query, hidden, hidden);
        if (!query) return query.error();
        auto key = read(names.key, hidden, hidden);
        if (!key) return key.error();
        auto value = read(names.value, hidden, hidden);
        if (!value) return value.error();
        auto attention_output = read(names.attention_output, hidden, hidden);
        if (!attention_output) return attention_output.error();
        auto intermediate = read(names.intermediate, inner, hidden);
        if (!intermediate) return intermediate.error();
        auto output = read(names.output, hidden, inner);
        if (!output) return output.error();
        auto attention_norm = norm(base + names.attention_norm);
        if (!attention_norm) return attention_norm.error();
        auto output_norm = norm(base + names.output_norm);
        if (!output_norm) return output_norm.error();
        encoder_layer_names full{base + names.query,        base + names.key,
                                 base + names.value,        base + names.attention_output,
                                 base + names.intermediate, base + names.output};
        return encoder_layer{std::move(*query),
                             std::move(*key),
                             std::move(*value),
                             std::move(*attention_output),
                             std::move(*intermediate),
                             std::move(*output),
                             std::move(*attention_norm),
                             std::move(*output_norm),
                             std::move(full)};
    }

    // Files of the first years have the names of TensorFlow.
    result<layer_norm_weights> norm(const std::string& module) {
        const bool old =
            weights_.find(module + ".weight") == nullptr && weights_.find(module + ".gamma") != nullptr;
        auto weight = weights_.vector(module + (old ? ".gamma" : ".weight"), model_.config.hidden_size);
        if (!weight) return weight.error();
        auto bias = weights_.vector(module + (old ? ".beta" : ".bias"), model_.config.hidden_size);
        if (!bias) return bias.error();
        return layer_norm_weights{std::move(*weight), std::move(*bias)};
    }

    model_weights& weights_;
    const encoder_description& model_;
    bool as_f16_;
    memory_source memory_;
    std::string prefix_;
};

}  // namespace detail

// A copy at another level shares what does not depend on the level, and the panels of both.
struct encoder_model::content {
    model_facts facts;
    std::shared_ptr<const detail::model_weights> weights;
    std::shared_ptr<const detail::token_embeddings> embeddings;
    encoder layers;
    detail::sentence_head sentence;
    std::optional<detail::classification_head> classes;
    memory_source memory;
    std::shared_ptr<thread_team> team;
    layer_observer observer = {};

    static result<std::unique_ptr<content>> open(const std::string& path, const model_options& options);
    [[nodiscard]] result<std::unique_ptr<content>> at_level(const std::string& level) const;

    [[nodiscard]] static error refuse(std::string message) {
        return {.code = error_code::invalid_argument, .message = std::move(message)};
    }

    result<void> check(const token_batch& batch, std::size_t expected, std::span<float> dst) const;

    // dst: [batch.ids.size(), hidden_size].
    result<void> run(const token_batch& batch, float* dst) {
        auto read = embeddings->read(batch, facts.hidden_size, dst, *team, memory);
        if (!read) return read;
        layers.run(dst, batch.lengths, *team, {.dynamic_int8 = facts.dynamic_int8, .observe = observer});
        return {};
    }

    // Calls finish(sequences, their tokens' last states) for runs of sequences whose activations fit in memory.
    template <class Finish>
    result<void> run_in_parts(const token_batch& batch, const Finish& finish) {
        for (const detail::sequence_run& part : detail::cut_sequences(batch.lengths)) {
            const token_batch sequences{
                batch.ids.subspan(part.first_token, part.tokens),
                batch.types.empty() ? batch.types : batch.types.subspan(part.first_token, part.tokens),
                batch.lengths.subspan(part.first, part.count)};
            const detail::row_buffer states(part.tokens, facts.hidden_size, memory);
            if (auto done = run(sequences, states.data()); !done) return done;
            finish(part, states.data());
        }
        return {};
    }
};

BITMILL_INLINE result<void> encoder_model::content::check(const token_batch& batch, std::size_t expected,
                                                          std::span<float> dst) const {
    const auto at = [](std::size_t index) { return " at token " + std::to_string(index); };
    std::uint64_t tokens = 0;
    for (std::size_t i = 0; i < batch.lengths.size(); ++i) {
        const std::uint32_t length = batch.lengths[i];
        if (length == 0) return refuse("sequence " + std::to_string(i) + " is empty");
        if (length > facts.max_tokens)
            return refuse("sequence " + std::to_string(i) + " has " + std::to_string(length) +
                          " tokens, the model runs up to " + std::to_string(facts.max_tokens));
        tokens += length;
    }
    if (tokens != batch.ids.size())
        return refuse("the lengths add up to " + std::to_string(tokens) + " tokens, and there are " +
                      std::to_string(batch.ids.size()) + " ids");
    if (!batch.types.empty() && batch.types.size() != batch.ids.size())
        return refuse("there are " + std::to_string(batch.types.size()) + " token types for " +
                      std::to_string(batch.ids.size()) + " ids");
    for (std::size_t i = 0; i < batch.ids.size(); ++i)
        if (batch.ids[i] < 0 || static_cast<std::size_t>(batch.ids[i]) >= facts.vocabulary)
            return refuse("id " + std::to_string(batch.ids[i]) + at(i) + " is none of the model's " +
                          std::to_string(facts.vocabulary));
    // A model without token types is given the 0 of a single segment by tokenizers that know no better.
    const std::size_t types = std::max<std::size_t>(facts.token_types, 1);
    for (std::size_t i = 0; i < batch.types.size(); ++i)
        if (batch.types[i] < 0 || static_cast<std::size_t>(batch.types[i]) >= types)
            return refuse("token type " + std::to_string(batch.types[i]) + at(i) +
                          " is none of the model's " + std::to_string(types));
    if (dst.size() != expected)
        return refuse("there is room for " + std::to_string(dst.size()) + " floats, the result has " +
                      std::to_string(expected));
    return {};
}

BITMILL_INLINE result<std::unique_ptr<encoder_model::content>> encoder_model::content::open(
    const std::string& path, const model_options& options) {
    auto level = detail::level_finder(path, options.level).find();
    if (!level) {
        // The model may lie in a folder that modules.json names; that says more than that it is not here.
        if (const auto here = detail::is_there(path + "/config.json"); here && *here) return level.error();
        const auto said = detail::sentence_head_reader(path, 0).read();
        return said && said->missing ? *said->missing : level.error();
    }
    const auto model = detail::encoder_config_reader(level->model).read();
    if (!model) return model.error();
    const std::string root = level->model.root();
    auto sentence = detail::sentence_head_reader(root, model->config.hidden_size).read();
    if (!sentence) return sentence.error();
    auto weights = std::make_unique<detail::model_weights>(std::move(level->model), std::move(level->stored),
                                                           options.memory);
    detail::encoder_loader loader(*weights, *model, level->as_f16, options.memory);
    if (auto found = loader.find_prefix(); !found) return found.error();
    auto embeddings = loader.embeddings();
    if (!embeddings) return embeddings.error();
    auto layers = loader.layers();
    if (!layers) return layers.error();
    auto classes = detail::classification_head::open(*weights, loader.prefix(), *model, level->as_f16);
    if (!classes) return classes.error();

    model_facts facts;
    facts.path = root;
    facts.model_type = model->family->model_type;
    facts.requested = options.level;
    facts.effective = level->effective;
    facts.reason = level->reason;
    facts.hidden_size = facts.embedding_size = model->config.hidden_size;
    facts.layers = model->layers;
    facts.heads = model->config.heads;
    facts.vocabulary = model->vocabulary;
    facts.token_types = model->token_types;
    facts.max_tokens = model->max_tokens();
    facts.labels = *classes ? (*classes)->out.out() : 0;
    facts.pooling = sentence->pooling;
    facts.normalize = sentence->normalize;
    facts.include_prompt = sentence->include_prompt;
    facts.file_bytes = weights->file_bytes();
    facts.weight_bytes = weights->loaded_bytes();
    facts.warnings = weights->warnings();
    if (sentence->missing) facts.warnings.push_back(sentence->missing->text());
    if (options.activation == activation::dynamic_int8) {
        const auto any = [](const auto&... linears) { return (linears.integer() || ...); };
        facts.dynamic_int8 = *classes && any((*classes)->dense, (*classes)->out);
        for (const auto& layer : layers->layers())
            facts.dynamic_int8 =
                facts.dynamic_int8 || any(layer.query, layer.key, layer.value, layer.attention_output,
                                          layer.intermediate, layer.output);
        if (!facts.dynamic_int8)
            facts.warnings.push_back(
                "activation dynamic-int8 is for layers of integers, of which this "
                "level has none: it runs with floats");
    }
    auto team = std::make_shared<thread_team>(options.threads, options.run);
    facts.threads = team->threads();
    auto shared = std::make_shared<const detail::token_embeddings>(std::move(*embeddings));
    return std::unique_ptr<content>(new content{std::move(facts), std::move(weights), std::move(shared),
                                                std::move(*layers), std::move(*sentence), std::move(*classes),
                                                options.memory, std::move(team)});
}

BITMILL_INLINE encoder_model::encoder_model(std::unique_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE encoder_model::encoder_model(encoder_model&&) noexcept = default;
BITMILL_INLINE encoder_model& encoder_model::operator=(encoder_model&&) noexcept = default;
BITMILL_INLINE encoder_model::~encoder_model() = default;

BITMILL_INLINE result<encoder_model> encoder_model::open(const std::string& path,
                                                         const model_options& options) {
    return detail::guard(path, [&]() -> result<encoder_model> {
        auto made = content::open(path, options);
        if (!made) return made.error();
        return encoder_model(std::move(*made));
    });
}

BITMILL_INLINE result<encoder_model> encoder_model::at_level(const std::string& level) const {
    return detail::guard(content_->facts.path, [&]() -> result<encoder_model> {
        auto made = content_->at_level(level);
        if (!made) return made.error();
        return encoder_model(std::move(*made));
    });
}

BITMILL_INLINE const model_facts& encoder_model::facts() const noexcept { return content_->facts; }

BITMILL_INLINE result<digest> encoder_model::fingerprint() const {
    constexpr std::uint64_t piece = 4096, beginning = std::uint64_t{1} << 16, pieces = 64;
    const content& it = *content_;
    return detail::guard(it.facts.path, [&]() -> result<digest> {
        sha256 all;
        all.update(it.facts.effective + (it.facts.dynamic_int8 ? " dynamic-int8 " : " ") +
                   to_text(it.facts.pooling) + (it.facts.normalize ? " normalized" : "") +
                   (it.facts.include_prompt ? "" : " without prompt"));
        std::vector<std::byte> room(beginning);
        const checkpoint& model = it.weights->model();
        for (std::size_t i = 0; i < model.shard_count(); ++i) {
            const input_file& file = model.shard(i).file();
            all.update('\n' + std::to_string(file.size()) + '\n');
            const auto add = [&](std::uint64_t from, std::uint64_t bytes) {
                const auto dst =
                    std::span(room).first(static_cast<std::size_t>(std::min(bytes, file.size() - from)));
                auto done = file.read_at(from, dst);
                if (done) all.update(dst);
                return done;
            };
            if (auto done = add(0, beginning); !done) return done.error();
            const std::uint64_t step = std::max(file.size() / pieces, piece);
            for (std::uint64_t from = step; from < file.size(); from += step)
                if (auto done = add(from, piece); !done) return done.error();
            if (auto done = add(file.size() - std::min(file.size(), piece), piece); !done)
                return done.error();
        }
        return all.finish();
    });
}

BITMILL_INLINE void encoder_model::observe(layer_observer observer) {
    content_->observer = std::move(observer);
}

BITMILL_INLINE result<void> encoder_model::hidden(const token_batch& batch, std::span<float> dst) const {
    const fp_environment environment;
    content& it = *content_;
    return detail::guard(it.facts.path, [&]() -> result<void> {
        auto sound = it.check(batch, batch.ids.size() * it.facts.hidden_size, dst);
        return sound ? it.run(batch, dst.data()) : sound;
    });
}

BITMILL_INLINE result<void> encoder_model::embed(const token_batch& batch, std::span<float> dst) const {
    const fp_environment environment;
    content& it = *content_;
    return detail::guard(it.facts.path, [&]() -> result<void> {
        if (it.sentence.missing) return *it.sentence.missing;
        const std::size_t hidden = it.facts.hidden_size;
        if (auto sound = it.check(batch, batch.lengths.size() * hidden, dst); !sound) return sound;
        return it.run_in_parts(batch, [&](const detail::sequence_run& part, const float* states) {
            std::vector<std::size_t> first(part.count, 0);
            for (std::size_t i = 1; i < part.count; ++i)
                first[i] = first[i - 1] + batch.lengths[part.first + i - 1];
            it.team->run(part.count, [&](std::size_t i) {
                const fp_environment same;
                detail::pool_sequence(it.sentence, states + first[i] * hidden, batch.lengths[part.first + i],
                                      hidden, dst.data() + (part.first + i) * hidden);
            });
        });
    });
}

BITMILL_INLINE result<void> encoder_model::logits(const token_batch& batch, std::span<float> dst) const {
    const fp_environment environment;
    content& it = *content_;
    return detail::guard(it.facts.path, [&]() -> result<void> {
        if (!it.classes)
            return error{
                .code = error_code::unsupported,
                .message = "this model has no head that classifies a sequence; embed() and hidden() run",
                .file = it.facts.path};
        const std::size_t hidden = it.facts.hidden_size, labels = it.facts.labels;
        if (auto sound = it.check(batch, batch.lengths.size() * labels, dst); !sound) return sound;
        return it.run_in_parts(batch, [&](const detail::sequence_run& part, const float* states) {
            const detail::row_buffer first(part.count, hidden, it.memory);
            std::size_t token = 0;
            for (std::size_t i = 0; i < part.count; ++i) {
                std::copy_n(states + token * hidden, hidden, first.data() + i * hidden);
                token += batch.lengths[part.first + i];
            }
            it.classes->run(first.data(), part.count, dst.data() + part.first * labels, *it.team,
                            {.dynamic_int8 = it.facts.dynamic_int8, .observe = it.observer}, it.memory);
        });
    });
}

BITMILL_INLINE const char* to_text(pooling value) noexcept {
    static constexpr const char* names[] = {"mean", "cls", "max", "last"};
    return names[static_cast<std::size_t>(value)];
}

}  // namespace bitmill
