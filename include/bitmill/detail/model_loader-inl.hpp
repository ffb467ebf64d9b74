// Bodies of model/model_loader.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include <bitmill/detail/model_loader_canary-inl.hpp>
#include <bitmill/detail/model_loader_sources-inl.hpp>
#include <bitmill/mill/manifest.hpp>
#include <bitmill/model/model_loader.hpp>

namespace bitmill {
namespace detail {

using steady = std::chrono::steady_clock;

inline double milliseconds_since(steady::time_point begin) {
    return std::chrono::duration<double, std::milli>(steady::now() - begin).count();
}

inline result<std::uint64_t> file_bytes_of(const level_source& source) {
    auto opened = level_finder(source.path, source.asked).find();
    if (!opened) return opened.error();
    return model_weights(std::move(opened->model), std::move(opened->stored), nullptr).file_bytes();
}

// Whether another level may do better than the one that says so.
inline bool is_fault(error_code code) { return code == error_code::io || code == error_code::bad_input; }

}  // namespace detail

struct model_loader::content {
    // What serves, whole: a request takes a copy of the pointer and looks at nothing else.
    struct serving {
        std::shared_ptr<const text_encoder> encoder;
        level_decision decision;
        const detail::level_source* source;
        // It has given an answer that was sound.
        std::shared_ptr<std::atomic<bool>> proven = std::make_shared<std::atomic<bool>>(false);
    };
    struct failure {
        std::string why;
        unsigned count = 0;
        bool stands = true;  // not while it is tried again, or serves
        detail::steady::time_point again = detail::steady::time_point::max();
        std::optional<detail::steady::time_point> served = std::nullopt;  // since
    };
    // What all levels of a model have in common.
    struct model_shape {
        std::size_t embedding_size, labels;
        friend bool operator==(const model_shape&, const model_shape&) = default;
    };

    content(std::string where, loader_options asked, detail::level_sources found)
        : path(std::move(where)), options(std::move(asked)), sources(std::move(found)) {}

    const std::string path;
    const loader_options options;
    const detail::level_sources sources;
    mutable std::mutex reading;  // guards `now` and `records`; held for an instant
    std::shared_ptr<const serving> now;
    std::deque<switch_record> records;
    std::mutex switching;  // guards what follows; one switch at a time
    std::map<std::string, failure, std::less<>> faults;
    std::vector<float> reference;  // what the original makes of options.canary
    std::optional<model_shape> shape;
    std::uint64_t attempts = 0;

    [[nodiscard]] std::shared_ptr<const serving> get() const {
        const std::lock_guard lock(reading);
        return now;
    }
    // int8 where there is none at all, so that the answer says what is missing.
    [[nodiscard]] std::string quantized_level() const {
        for (const char* level : {"int8", "int4", "int2", "fp16"})
            if (const auto* source = sources.get(level); source != nullptr && !source->cast) return level;
        return "int8";
    }
    // What a host's log throws must not stop a switch halfway.
    void log(log_level level, const std::string& line) const noexcept {
        try {
            if (options.on_log) options.on_log(level, printable(line));
        } catch (...) {
        }
    }

    // All below hold `switching`.
    [[nodiscard]] std::vector<std::string> stand_ins(const serving* current) const;
    void note_fault(const std::string& level, const error& what, bool proven);
    result<std::shared_ptr<const text_encoder>> load(const detail::level_source& source,
                                                     const serving* current, switch_record& record) const;
    result<void> prove(const detail::level_source& source, const text_encoder& encoder,
                       const serving* current, switch_record& record);
    result<std::shared_ptr<const text_encoder>> original_of(const serving* current) const;
    result<std::vector<float>> reference_of(const std::vector<std::string>& texts, const serving* current,
                                            switch_record& record);
    result<void> check_shape(const detail::level_source& source, const text_encoder& encoder);
    result<std::shared_ptr<const text_encoder>> take(const std::string& level, const std::string& requested,
                                                     const serving* current, switch_record& record);
    result<std::shared_ptr<const serving>> settle(const std::string& requested, const std::string& from,
                                                  const serving* current);
    // Once more, though it failed before.
    result<std::shared_ptr<const serving>> try_level(const std::string& level, const serving* current) {
        const std::string from = current != nullptr ? current->decision.effective : "";
        if (const auto found = faults.find(level); found != faults.end()) {
            // What serves for want of anything better is opened anew.
            if (found->second.stands && from == level) current = nullptr;
            found->second.stands = false;
        }
        return settle(level, from, current);
    }
    void finish(std::shared_ptr<const serving> next, const serving* current, switch_record record);

    // A level whose time has come is tried again, by one of the requests.
    void try_again() {
        const auto current = get();
        if (current->decision.requested == current->decision.effective) return;
        const std::unique_lock lock(switching, std::try_to_lock);
        if (!lock) return;
        const auto found = faults.find(current->decision.requested);
        if (current != get() || found == faults.end() || detail::steady::now() < found->second.again) return;
        (void)try_level(current->decision.requested, current.get());
    }

    // `failed` gave no result. What serves instead.
    result<std::shared_ptr<const serving>> fail_over(const std::shared_ptr<const serving>& failed,
                                                     const error& what) {
        const std::lock_guard lock(switching);
        if (auto current = get(); current != failed) return current;  // another request was first
        const std::string& level = failed->decision.effective;
        // Nothing else could be had a moment ago: not told again with every request.
        if (const auto found = faults.find(level);
            found != faults.end() && found->second.stands && detail::steady::now() < found->second.again)
            return what;
        note_fault(level, what, *failed->proven);
        return settle(failed->decision.requested, failed->decision.effective, nullptr);
    }

    // run(encoder) -> result; sound(result): are its numbers numbers?
    template <class Run, class Sound>
    auto serve(const Run& run, const Sound& sound) -> decltype(run(std::declval<const text_encoder&>())) {
        return detail::guard(path, [&] { return serve_once(run, sound); });
    }
    template <class Run, class Sound>
    auto serve_once(const Run& run, const Sound& sound)
        -> decltype(run(std::declval<const text_encoder&>())) {
        try_again();
        auto current = get();
        // Every level may fail once.
        for (std::size_t tries = 0;; ++tries) {
            auto out = run(*current->encoder);
            error what;
            if (!out)
                what = out.error();
            else if (current->decision.effective == "original" || sound(out)) {
                current->proven->store(true, std::memory_order_relaxed);
                return out;
            } else
                what = error{.code = error_code::bad_input,
                             .message = "its output holds NaN or infinity",
                             .file = current->source->path};
            const bool more = options.allow_fallback && tries < sources.levels().size();
            if (!detail::is_fault(what.code) || !more) return what;
            auto next = fail_over(current, what);
            if (!next) return what;
            current = std::move(*next);
        }
    }
};

BITMILL_INLINE std::vector<std::string> model_loader::content::stand_ins(const serving* current) const {
    std::vector<std::string> out;
    const auto add = [&](const std::string& level) {
        const auto fault = faults.find(level);
        const bool sound =
            fault == faults.end() || !fault->second.stands || detail::steady::now() >= fault->second.again;
        if (sound && std::find(out.begin(), out.end(), level) == out.end()) out.push_back(level);
    };
    if (current != nullptr) add(current->decision.effective);
    for (const auto& level : sources.levels())
        if (!sources.get(level)->cast) add(level);  // a cast is no better than what it is made of
    for (const auto& level : sources.levels()) add(level);
    return out;
}

BITMILL_INLINE void model_loader::content::note_fault(const std::string& level, const error& what,
                                                      bool proven) {
    auto& it = faults[level];
    const auto time = detail::steady::now();
    // A year is long enough, and 64 of them are a time that the clock can name.
    const auto after = std::min(options.retry_after, std::chrono::milliseconds(std::chrono::hours(24 * 365)));
    // One that served well for long enough begins anew; one that is loaded and gives NaN does not.
    if (proven && it.served && time - *it.served > after) it.count = 0;
    it.served.reset();
    it.why = what.text();
    it.stands = true;
    it.again = detail::steady::time_point::max();
    if (after.count() > 0) it.again = time + after * (1u << std::min(it.count, 6u));
    ++it.count;
}

BITMILL_INLINE result<std::shared_ptr<const text_encoder>> model_loader::content::load(
    const detail::level_source& source, const serving* current, switch_record& record) const {
    const auto begin = detail::steady::now();
    const auto took = [&] { record.load_ms = detail::milliseconds_since(begin); };
    if (options.check_hashes && source.level != "original") {
        const auto manifest = detail::is_there(source.path + "/" + detail::manifest_name);
        if (!manifest) return manifest.error();
        work_options work;
        work.threads = options.model.threads;
        work.run = options.model.run;
        work.memory = options.model.memory;
        if (*manifest)
            if (const auto sound = validate(source.path, work); !sound) return sound.error();
    }
    if (current != nullptr && current->source->path == source.path) {
        auto other = current->encoder->at_level(source.level);
        took();
        record.planes = static_cast<bool>(other);
        if (other) return std::make_shared<const text_encoder>(std::move(*other));
    }
    model_options asked = options.model;
    asked.level = source.asked;
    auto opened = current != nullptr ? text_encoder::open(source.path, asked, *current->encoder)
                                     : text_encoder::open(source.path, asked);
    took();
    if (!opened) return opened.error();
    return std::make_shared<const text_encoder>(std::move(*opened));
}

// Null where the model has none.
BITMILL_INLINE result<std::shared_ptr<const text_encoder>> model_loader::content::original_of(
    const serving* current) const {
    if (current != nullptr && current->decision.effective == "original") return current->encoder;
    const auto* original = sources.get("original");
    if (original == nullptr) return std::shared_ptr<const text_encoder>();
    model_options asked = options.model;
    asked.level = original->asked;
    auto opened = current != nullptr ? text_encoder::open(original->path, asked, *current->encoder)
                                     : text_encoder::open(original->path, asked);
    if (!opened) return opened.error();
    return std::make_shared<const text_encoder>(std::move(*opened));
}

// Where there is no original that can be opened: of what serves; empty where nothing does.
BITMILL_INLINE result<std::vector<float>> model_loader::content::reference_of(
    const std::vector<std::string>& texts, const serving* current, switch_record& record) {
    const bool given = &texts == &options.canary;
    record.canary_against = "original";
    if (given && !reference.empty()) return reference;
    const auto original = original_of(current);
    if (original && *original != nullptr) {
        auto out = detail::canary_outputs(**original, texts);
        if (out && given) reference = *out;
        return out;
    }
    record.canary_against = current != nullptr ? current->decision.effective : "";
    if (current == nullptr) return std::vector<float>();
    return detail::canary_outputs(*current->encoder, texts);
}

// A folder of another model may be sound in itself. The first that serves says what they all are.
BITMILL_INLINE result<void> model_loader::content::check_shape(const detail::level_source& source,
                                                               const text_encoder& encoder) {
    const auto& facts = encoder.model().facts();
    const model_shape its{facts.embedding_size, facts.labels};
    if (!shape) shape = its;
    if (its == *shape) return {};
    return error{.code = error_code::bad_input,
                 .message = "is of another model: it has vectors of " + std::to_string(its.embedding_size) +
                            " and " + std::to_string(its.labels) +
                            " labels, the level that served first of " +
                            std::to_string(shape->embedding_size) + " and " + std::to_string(shape->labels),
                 .file = source.path};
}

BITMILL_INLINE result<void> model_loader::content::prove(const detail::level_source& source,
                                                         const text_encoder& encoder, const serving* current,
                                                         switch_record& record) {
    if (source.level == "original") return {};
    auto stored = options.canary.empty() ? detail::read_canary(source.path, options.canary_cosine)
                                         : result<std::optional<detail::canary>>(std::nullopt);
    if (!stored) return stored.error();
    const auto& texts = *stored ? (*stored)->texts : options.canary;
    if (texts.empty()) return {};
    const auto begin = detail::steady::now();
    const auto refuse = [&](const std::string& why) {
        return error{.code = error_code::refused, .message = "the canary: " + why, .file = source.path};
    };
    const bool written = *stored && !(*stored)->reference.empty();
    auto expected =
        written ? result<std::vector<float>>((*stored)->reference) : reference_of(texts, current, record);
    if (written) record.canary_against = detail::canary_name;
    if (!expected) return expected.error();
    const auto outputs = detail::canary_outputs(encoder, texts);
    record.canary_ms = detail::milliseconds_since(begin);
    if (!outputs) return outputs.error();
    if (!detail::all_finite(*outputs)) return refuse("its output holds NaN or infinity");
    if (expected->empty()) return {};
    if (expected->size() != outputs->size())
        return refuse(record.canary_against + " has " + std::to_string(expected->size()) +
                      " outputs for it, the level gives " + std::to_string(outputs->size()));
    record.canary_cosine = detail::cosine_of(*expected, *outputs);
    const double least = *stored ? (*stored)->cosine : options.canary_cosine;
    if (*record.canary_cosine >= least) return {};
    return refuse("cosine " + std::to_string(*record.canary_cosine) + " to " + record.canary_against +
                  ", and " + std::to_string(least) + " was asked for");
}

BITMILL_INLINE result<std::shared_ptr<const text_encoder>> model_loader::content::take(
    const std::string& level, const std::string& requested, const serving* current, switch_record& record) {
    const auto& source = *sources.get(level);
    auto encoder = load(source, current, record);
    if (!encoder) return encoder;
    if (auto same = check_shape(source, **encoder); !same) return same.error();
    if (auto sound = prove(source, **encoder, current, record); !sound) return sound.error();
    const double all = record.load_ms + record.canary_ms;
    const auto most = options.switch_timeout.count();
    // What stands in is better late than never.
    if (level == requested && level != "original" && most != 0 && all > static_cast<double>(most))
        return error{.code = error_code::refused,
                     .message = "timeout: to switch took " + std::to_string(static_cast<long long>(all)) +
                                " ms, and may take " + std::to_string(most),
                     .file = source.path};
    return encoder;
}

// Until one serves: what was asked for, or what stands in for it.
BITMILL_INLINE result<std::shared_ptr<const model_loader::content::serving>> model_loader::content::settle(
    const std::string& requested, const std::string& from, const serving* current) {
    switch_record record;
    record.from = from;
    std::optional<error> first;
    for (std::vector<std::string> tried;;) {
        auto available = stand_ins(current);
        std::erase_if(available, [&](const auto& level) {
            return std::find(tried.begin(), tried.end(), level) != tried.end();
        });
        const bool may_fall_back = options.allow_fallback && (options.fall_back_at_open || get() != nullptr);
        auto decided = resolve(requested, available, options.capability, may_fall_back);
        const auto fault = faults.find(requested);
        record.fault = fault != faults.end() && fault->second.stands;
        if (!decided) {
            error what = first ? *first : decided.error();
            if (what.file.empty()) what.file = path;
            record.decision = {requested, from, what.text()};  // what served goes on
            finish(nullptr, current, std::move(record));
            return what;
        }
        if (record.fault) decided->reason = fault->second.why;
        std::shared_ptr<const serving> next;
        if (current != nullptr && decided->effective == current->decision.effective) {
            next = std::make_shared<const serving>(serving{current->encoder, *decided, current->source});
        } else {
            auto encoder =
                detail::guard(path, [&] { return take(decided->effective, requested, current, record); });
            if (!encoder) {
                note_fault(decided->effective, encoder.error(), false);
                tried.push_back(decided->effective);
                if (!first) first = encoder.error();
                continue;
            }
            next = std::make_shared<const serving>(
                serving{std::move(*encoder), *decided, sources.get(decided->effective)});
        }
        if (const auto found = faults.find(decided->effective); found != faults.end()) {
            found->second.stands = false;
            found->second.served = detail::steady::now();
        }
        record.decision = std::move(*decided);
        finish(next, current, std::move(record));
        return next;
    }
}

BITMILL_INLINE void model_loader::content::finish(std::shared_ptr<const serving> next, const serving* current,
                                                  switch_record record) {
    using namespace std::chrono;
    record.number = ++attempts;
    record.unix_ms = duration_cast<std::chrono::milliseconds>(system_clock::now().time_since_epoch()).count();
    const auto& decision = record.decision;
    const auto& served = next ? next->encoder : current != nullptr ? current->encoder : nullptr;
    if (served) record.weight_bytes = served->model().facts().weight_bytes;
    const bool none = decision.effective.empty() || decision.effective == decision.requested;
    if (!decision.reason.empty())
        log(log_level::warning, "level " + decision.requested + " does not serve, " +
                                    (none ? "and none stands in for it" : decision.effective + " does") +
                                    ": " + decision.reason);
    else
        log(log_level::info, "level " + decision.effective + " serves");
    std::shared_ptr<const serving> old;
    const std::lock_guard lock(reading);
    if (next) old = std::exchange(now, std::move(next));  // freed behind the lock
    records.push_back(std::move(record));
    if (records.size() > 256) records.pop_front();
}

BITMILL_INLINE model_loader::model_loader(std::unique_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE model_loader::model_loader(model_loader&&) noexcept = default;
BITMILL_INLINE model_loader& model_loader::operator=(model_loader&&) noexcept = default;
BITMILL_INLINE model_loader::~model_loader() = default;

BITMILL_INLINE result<model_loader> model_loader::open(const std::string& path,
                                                       const loader_options& options) {
    return detail::guard(path, [&]() -> result<model_loader> {
        std::string level = options.model.level;
        if (!level.empty())
            if (auto known = detail::check_level(level, path); !known) return known.error();
        for (const auto& one : options.capability)
            if (auto known = detail::check_level(one, path); !known) return known.error();
        if (!(std::abs(options.canary_cosine) <= 1))
            return error{.code = error_code::invalid_argument,
                         .message = "canary_cosine must be from -1 to 1"};
        auto sources = detail::level_sources::find(path, options.quantized);
        if (!sources) return sources.error();
        if (level.empty()) level = sources->levels().front();
        auto made = std::make_unique<content>(path, options, std::move(*sources));
        const auto& given = options.quantized;
        if (const auto& all = made->sources.levels();
            !given.empty() && std::none_of(all.begin(), all.end(), [&](const auto& one) {
                return made->sources.get(one)->path == given;
            }))
            made->log(log_level::warning, given + " is not used: its level is there without it");
        if (auto served = made->settle(level, "", nullptr); !served) return served.error();
        return model_loader(std::move(made));
    });
}

BITMILL_INLINE result<std::vector<found_level>> find_levels(const std::string& path,
                                                            const std::string& quantized) {
    return detail::guard(path, [&]() -> result<std::vector<found_level>> {
        const auto sources = detail::level_sources::find(path, quantized);
        if (!sources) return sources.error();
        std::vector<found_level> out;
        for (const auto& level : sources->levels()) {
            const auto& source = *sources->get(level);
            const auto bytes = detail::file_bytes_of(source);
            out.push_back({level, source.path, source.cast, bytes ? *bytes : 0,
                           bytes ? std::string() : bytes.error().text()});
        }
        return out;
    });
}

BITMILL_INLINE result<switch_record> model_loader::use_level(const std::string& level) {
    content& it = *content_;
    return detail::guard(it.path, [&]() -> result<switch_record> {
        if (auto known = detail::check_level(level, it.path); !known) return known.error();
        const std::lock_guard lock(it.switching);
        const auto current = it.get();
        const auto served = it.try_level(level, current.get());
        if (!served) return served.error();
        const std::lock_guard also(it.reading);
        return it.records.back();  // only who holds `switching` adds one
    });
}

BITMILL_INLINE result<switch_record> model_loader::use_quantized_model(bool use) {
    return use_level(use ? content_->quantized_level() : "original");
}

BITMILL_INLINE level_decision model_loader::decision() const { return content_->get()->decision; }
BITMILL_INLINE std::vector<std::string> model_loader::levels() const { return content_->sources.levels(); }
BITMILL_INLINE std::shared_ptr<const text_encoder> model_loader::current() const {
    return content_->get()->encoder;
}
BITMILL_INLINE std::vector<switch_record> model_loader::switches() const {
    const std::lock_guard lock(content_->reading);
    return {content_->records.begin(), content_->records.end()};
}

BITMILL_INLINE result<model_size_info> model_loader::get_model_size_info() const {
    const content& it = *content_;
    return detail::guard(it.path, [&]() -> result<model_size_info> {
        const auto bytes_of = [&](const std::string& level) -> result<std::uint64_t> {
            const auto* source = it.sources.get(level);
            return source == nullptr ? result<std::uint64_t>(0) : detail::file_bytes_of(*source);
        };
        const auto original = bytes_of("original");
        if (!original) return original.error();
        const auto quantized = bytes_of(it.quantized_level());
        if (!quantized) return quantized.error();
        model_size_info out{*original, *quantized, 0};
        if (*original != 0 && *quantized != 0)
            out.size_reduction_percent =
                100 * (1 - static_cast<double>(*quantized) / static_cast<double>(*original));
        return out;
    });
}

BITMILL_INLINE std::string model_loader::json(int indent) const {
    using detail::json_object;
    using detail::ordered_json;
    const content& it = *content_;
    const auto now = it.get();
    ordered_json levels = ordered_json::array(), all = ordered_json::array();
    for (const auto& level : it.sources.levels())
        levels.push_back(json_object({{"level", level}, {"path", it.sources.get(level)->path}}));
    for (const auto& one : switches())
        all.push_back(json_object(
            {{"number", one.number},
             {"unix_ms", one.unix_ms},
             {"from", one.from},
             {"requested", one.decision.requested},
             {"effective", one.decision.effective},
             {"reason", one.decision.reason},
             {"fault", one.fault},
             {"planes", one.planes},
             {"load_ms", one.load_ms},
             {"canary_ms", one.canary_ms},
             {"canary_cosine", one.canary_cosine ? ordered_json(*one.canary_cosine) : ordered_json()},
             {"canary_against", one.canary_against},
             {"weight_bytes", one.weight_bytes}}));
    const auto size = get_model_size_info();
    ordered_json sizes;
    if (size)
        sizes = json_object({{"original_bytes", size->original_bytes},
                             {"quantized_bytes", size->quantized_bytes},
                             {"size_reduction_percent", size->size_reduction_percent}});
    return json_object({{"path", it.path},
                        {"requested", now->decision.requested},
                        {"effective", now->decision.effective},
                        {"reason", now->decision.reason},
                        {"levels", std::move(levels)},
                        {"size", std::move(sizes)},
                        {"switches", std::move(all)}})
        .dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

BITMILL_INLINE result<void> model_loader::embed(std::span<const std::string_view> texts, std::span<float> dst,
                                                const text_options& options) {
    return content_->serve([&](const text_encoder& encoder) { return encoder.embed(texts, dst, options); },
                           [&](const auto&) { return detail::all_finite(dst); });
}

BITMILL_INLINE result<void> model_loader::classify(std::span<const std::string_view> texts,
                                                   std::span<float> dst, const text_options& options) {
    return content_->serve([&](const text_encoder& encoder) { return encoder.classify(texts, dst, options); },
                           [&](const auto&) { return detail::all_finite(dst); });
}

BITMILL_INLINE result<void> model_loader::classify(std::span<const std::string_view> first,
                                                   std::span<const std::string_view> second,
                                                   std::span<float> dst, const text_options& options) {
    return content_->serve(
        [&](const text_encoder& encoder) { return encoder.classify(first, second, dst, options); },
        [&](const auto&) { return detail::all_finite(dst); });
}

BITMILL_INLINE result<std::vector<ranked_document>> model_loader::rerank(
    std::string_view query, std::span<const std::string_view> documents, const text_options& options) {
    return content_->serve(
        [&](const text_encoder& encoder) { return encoder.rerank(query, documents, options); },
        [](const auto& ranked) {
            return std::all_of(ranked->begin(), ranked->end(),
                               [](const auto& one) { return std::isfinite(one.logit); });
        });
}

BITMILL_INLINE result<void> model_loader::store_canary(const std::string& level,
                                                       std::span<const std::string> texts) {
    content& it = *content_;
    return detail::guard(it.path, [&]() -> result<void> {
        const auto refuse = [&](std::string message) {
            return error{
                .code = error_code::invalid_argument, .message = std::move(message), .file = it.path};
        };
        if (auto known = detail::check_level(level, it.path); !known) return known;
        const auto* source = it.sources.get(level);
        std::error_code failed;
        if (source == nullptr || level == "original" || !std::filesystem::is_directory(source->path, failed))
            return refuse("level " + level + " has no folder for a canary");
        if (texts.empty()) return refuse("a canary has a text or more");
        const std::lock_guard lock(it.switching);
        detail::canary made{{texts.begin(), texts.end()}, it.options.canary_cosine, {}};
        const auto original = it.original_of(it.get().get());
        if (!original) return original.error();
        if (*original == nullptr) return refuse("has no original to say what is right");
        auto outputs = detail::canary_outputs(**original, made.texts);
        if (!outputs) return outputs.error();
        made.reference = std::move(*outputs);
        const std::string text = detail::canary_text(made);
        if (text.size() > detail::canary_most_bytes)
            return refuse("a canary of " + std::to_string(texts.size()) + " texts takes " +
                          std::to_string(text.size()) + " bytes, and may take " +
                          std::to_string(detail::canary_most_bytes) + "; give fewer");
        return replace_file(source->path + "/" + detail::canary_name, text);
    });
}

}  // namespace bitmill
