// Bodies of model/model_manager.hpp: models that share memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/model_manager_entry-inl.hpp>
#include <bitmill/detail/policy-inl.hpp>
#include <bitmill/model/model_manager.hpp>

namespace bitmill {

struct model_manager::content : std::enable_shared_from_this<model_manager::content> {
    using entry = std::shared_ptr<detail::managed_entry>;

    explicit content(manager_options asked)
        : options(std::move(asked)), max_cache_bytes(options.max_cache_bytes), thresholds(options.thresholds),
          cache(options.max_cache_bytes) {}

    const manager_options options;
    std::atomic<unsigned> active{0};
    std::atomic<std::uint64_t> max_cache_bytes;
    mutable std::mutex mutex;  // guards what follows, up to the cache; held for an instant
    policy_thresholds thresholds;
    std::map<std::string, entry> models;
    std::deque<managed_switch> switches;
    std::uint64_t attempts = 0, names_given = 0;
    mutable std::deque<std::pair<detail::manager_time, unsigned>> loads;  // each higher than those behind it
    mutable std::optional<system_memory> seen;
    mutable detail::manager_time seen_at{};
    model_cache<detail::loaded_model> cache;

    [[nodiscard]] detail::manager_time now() const {
        return options.clock ? options.clock() : std::chrono::steady_clock::now();
    }
    [[nodiscard]] result<system_memory> memory() const {
        const auto time = now();
        {
            const std::lock_guard lock(mutex);
            if (seen && time - seen_at < options.memory_interval) return *seen;
        }
        auto read = options.read_memory ? options.read_memory() : read_system_memory();
        if (!read) return read;
        const std::lock_guard lock(mutex);
        seen = *read;
        seen_at = time;
        return read;
    }
    // The most requests at once within the dwell time: a moment with few of them is no reason for a higher level, which the
    // next moment would take back.
    [[nodiscard]] unsigned peak_load(unsigned active_now, detail::manager_time time) const {
        const std::lock_guard lock(mutex);
        while (!loads.empty() && time - loads.front().first > thresholds.dwell) loads.pop_front();
        while (!loads.empty() && loads.back().second <= active_now) loads.pop_back();
        loads.emplace_back(time, active_now);
        return loads.front().second;
    }
    [[nodiscard]] policy_thresholds limits() const {
        const std::lock_guard lock(mutex);
        return thresholds;
    }
    [[nodiscard]] result<entry> find(const std::string& name) const {
        const std::lock_guard lock(mutex);
        const auto found = models.find(name);
        if (found != models.end()) return found->second;
        std::string names;
        for (const auto& [known, one] : models) names.append(names.empty() ? "" : ", ").append(known);
        return error{.code = error_code::invalid_argument,
                     .message = "there is no model '" + name + "'; there is " +
                                (names.empty() ? "none: add one first" : names)};
    }
    [[nodiscard]] result<entry> new_entry(const std::string& name, const managed_model_options& asked) {
        auto found = find_levels(asked.path, asked.quantized);
        if (!found) return found.error();
        const std::lock_guard lock(mutex);
        const std::string key = name + '\n' + std::to_string(++names_given);
        return std::make_shared<detail::managed_entry>(name, key, asked, std::move(*found));
    }
    void drop(detail::managed_entry& gone) {
        gone.pinned = false;
        cache.erase(gone.key);
    }
    void log(log_level level, const std::string& line) const noexcept {
        try {
            if (options.on_log) options.on_log(level, printable(line));
        } catch (...) {
        }
    }

    [[nodiscard]] result<policy_decision> decide(const detail::managed_entry& model,
                                                 const load_request& request,
                                                 const model_loader* loader) const;
    [[nodiscard]] result<policy_decision> force_original(const detail::managed_entry& model,
                                                         const policy_input& in) const;
    [[nodiscard]] loader_options loader_options_of(const detail::managed_entry& model,
                                                   const std::string& level) const;
    using handle = model_cache<detail::loaded_model>::handle;
    result<handle> open(const entry& model, const policy_decision& decision);
    result<handle> open_once(const entry& model, const policy_decision& decision);
    // Why the level could not be had; "" where it serves.
    result<std::string> switch_to(const entry& model, model_loader& loader, const policy_decision& decision);
    void settle(const entry& model, model_loader& loader, const policy_decision& decision);
    void record(const detail::managed_entry& model, managed_switch made);
    void notice(const entry& model, model_loader& loader);
    void keep_room(const entry& model, const model_loader& loader);
    result<std::pair<handle, policy_decision>> load(const entry& model, const load_request& request);
};

struct managed_model::content {
    std::shared_ptr<model_manager::content> manager;
    model_manager::content::handle model = nullptr;
    policy_decision decision = {};

    explicit content(std::shared_ptr<model_manager::content> owner) : manager(std::move(owner)) {
        ++manager->active;
    }
    content(const content&) = delete;
    content& operator=(const content&) = delete;
    ~content() {
        model.reset();
        --manager->active;
    }
};

// What it should have now. `loader` is null where it is not open.
BITMILL_INLINE result<policy_decision> model_manager::content::decide(const detail::managed_entry& model,
                                                                      const load_request& request,
                                                                      const model_loader* loader) const {
    const auto seen_now = memory();
    if (!seen_now) return seen_now.error();
    policy_input in;
    in.total_bytes = seen_now->total_bytes;
    in.other_bytes = seen_now->used_bytes();
    const auto time = now();
    const unsigned active_now = request.active_requests.value_or(active);
    in.active_requests = peak_load(active_now, time);
    in.priority = request.priority;
    in.force = request.force_quantization;
    in.floor = request.min_quantization;
    in.capability = options.capability;
    if (loader != nullptr) {
        in.other_bytes -= std::min(in.other_bytes, detail::weight_bytes_of(*loader));
        in.current = loader->decision().effective;
        if (in.current == "original") in.current.clear();  // it stands in for one that could not be had
        in.since_switch = std::chrono::duration_cast<std::chrono::milliseconds>(time - model.switched());
    }
    if (in.force == "original") return force_original(model, in);
    const auto sizes = model.sizes(time);
    if (sizes.empty())
        return error{.code = error_code::bad_input,
                     .message = "none of its levels can be read: " + model.unreadable(),
                     .file = model.options.path};
    const std::uint64_t most = max_cache_bytes;
    // Larger than the cache: only where every level is, and then it is not kept.
    const bool any =
        std::any_of(sizes.begin(), sizes.end(), [&](const auto& one) { return one.peak_bytes <= most; });
    for (const auto& one : sizes)
        if (!any || one.peak_bytes <= most)
            in.sizes.push_back({one.level, one.peak_bytes + options.working_bytes});
    auto out = choose_level(in, limits());
    if (out && in.active_requests > active_now)
        out->explanation += "; now " + std::to_string(active_now) + ", the most of the last " +
                            std::to_string(limits().dwell.count() / 1000) + " s counts";
    return out;
}

// Which is no level of the policy's: as wide as the model came.
BITMILL_INLINE result<policy_decision> model_manager::content::force_original(
    const detail::managed_entry& model, const policy_input& in) const {
    const auto bytes = model.bytes_of("original");
    const auto refuse = [&](const std::string& why, error_code code) {
        return error{
            .code = code, .message = "level original is forced, and " + why, .file = model.options.path};
    };
    if (!bytes) return refuse("there is none that can be read", error_code::unsupported);
    const std::uint64_t peak = *bytes + options.working_bytes;
    const std::uint64_t left = in.total_bytes - std::min(in.total_bytes, in.other_bytes);
    if (peak > left)
        return refuse("takes " + std::to_string(peak) + " bytes, and there are " + std::to_string(left) +
                          " left; free memory, or allow a lower level",
                      error_code::out_of_memory);
    policy_decision out;
    out.level = "original";
    out.rule = "force";
    out.used = static_cast<double>(in.other_bytes) / static_cast<double>(in.total_bytes);
    out.projected = static_cast<double>(in.other_bytes + peak) / static_cast<double>(in.total_bytes);
    out.explanation = "original (force): memory in use with it " + detail::percent(out.projected);
    return out;
}

BITMILL_INLINE loader_options model_manager::content::loader_options_of(const detail::managed_entry& model,
                                                                        const std::string& level) const {
    loader_options out;
    out.model = options.model;
    out.model.level = level;
    out.quantized = model.options.quantized;
    out.fall_back_at_open = false;                   // to what fits is decided here
    out.retry_after = std::chrono::milliseconds(0);  // when to try again is decided here
    if (model.options.max_drift) {
        out.canary = model.options.drift_texts;
        out.canary_cosine = 1 - *model.options.max_drift;
    }
    return out;
}

// Tells what the loader's last switch made of the decision.
BITMILL_INLINE void model_manager::content::settle(const entry& model, model_loader& loader,
                                                   const policy_decision& decision) {
    const auto done = loader.switches().back();
    const auto encoder = loader.current();
    const std::uint64_t after = encoder->model().facts().weight_bytes;
    managed_switch made;
    made.unix_ms = done.unix_ms;
    made.model = model->name;
    made.from = done.from;
    made.to = done.decision.effective;
    made.decision = decision;
    if (made.to != decision.level) made.fault = done.decision.reason;
    const std::uint64_t served = model->note_served(encoder), before = made.from.empty() ? 0 : served;
    made.freed_bytes = static_cast<std::int64_t>(before) - static_cast<std::int64_t>(after);
    made.load_ms = done.load_ms;
    const auto time = now();
    model->measure(made.to, after);
    if (made.to != made.from) model->note_switch(time);
    if (!made.fault.empty()) {
        const auto& drift = model->options.max_drift;
        const bool too_far = drift && done.canary_cosine && *done.canary_cosine < 1 - *drift;
        model->note_fault(decision.level, time, too_far);
    }
    record(*model, std::move(made));
}

BITMILL_INLINE void model_manager::content::record(const detail::managed_entry& model, managed_switch made) {
    const std::string what = "model " + made.model + ": ";
    const std::string bytes = std::to_string(std::abs(made.freed_bytes));
    if (made.fault.empty())
        log(log_level::info, what + (made.from.empty() ? "" : made.from + " -> ") + made.to + ", " + bytes +
                                 " bytes" +
                                 (made.from.empty()      ? ""
                                  : made.freed_bytes < 0 ? " more"
                                                         : " freed") +
                                 "; " + made.decision.explanation);
    else
        log(log_level::warning, what + made.decision.level + " cannot be had, " +
                                    (made.to.empty() ? "the next is tried" : made.to + " serves") + ": " +
                                    made.fault);
    made.fault = model.without_paths(std::move(made.fault));
    made.decision.explanation = model.without_paths(std::move(made.decision.explanation));
    const std::lock_guard lock(mutex);
    seen.reset();  // other memory is in use now
    made.number = ++attempts;
    switches.push_back(std::move(made));
    if (switches.size() > 256) switches.pop_front();
}

// A level that failed while it ran gave way to another one.
BITMILL_INLINE void model_manager::content::notice(const entry& model, model_loader& loader) {
    const std::unique_lock lock(model->switching, std::try_to_lock);
    const auto now_serves = loader.decision();
    if (!lock || now_serves.requested == now_serves.effective || model->serves(loader.current())) return;
    policy_decision decision;
    decision.level = now_serves.requested;
    decision.rule = "fault";
    decision.explanation = now_serves.reason;
    settle(model, loader, decision);
    keep_room(model, loader);
}

// What takes more than the cache has left serves those who hold it; the next request opens it anew, smaller.
BITMILL_INLINE void model_manager::content::keep_room(const entry& model, const model_loader& loader) {
    const auto room = cache.resize(model->key, detail::weight_bytes_of(loader));
    if (room || room.error().code != error_code::out_of_memory) return;
    log(log_level::warning, "model " + model->name + " is not kept: " + room.error().text());
    cache.erase(model->key);
}

BITMILL_INLINE result<model_manager::content::handle> model_manager::content::open_once(
    const entry& model, const policy_decision& decision) {
    auto opened = model_loader::open(model->options.path, loader_options_of(*model, decision.level));
    if (!opened) return opened.error();
    auto loader = std::make_unique<model_loader>(std::move(*opened));
    settle(model, *loader, decision);
    handle out = std::make_shared<const detail::loaded_model>(detail::loaded_model{std::move(loader)});
    model->note_opened(out);
    return out;
}

BITMILL_INLINE result<model_manager::content::handle> model_manager::content::open(
    const entry& model, const policy_decision& decision) {
    const std::uint64_t announced = model->bytes_of(decision.level).value_or(0);
    if (announced > max_cache_bytes) {
        if (auto alive = model->opened()) return alive;
        log(log_level::warning, "model " + model->name + " takes " + std::to_string(announced) +
                                    " bytes, more than the whole cache: it is opened and not kept");
        return open_once(model, decision);
    }
    const auto opener = [&]() -> result<model_cache<detail::loaded_model>::opened> {
        // Dropped from the cache and still in use: not opened a second time.
        auto made = model->opened();
        if (made == nullptr) {
            auto opened = open_once(model, decision);
            if (!opened) return opened.error();
            made = std::move(*opened);
        }
        // What was announced came of the files; the truth is told below.
        return model_cache<detail::loaded_model>::opened{
            made, std::min(announced, detail::weight_bytes_of(*made->loader))};
    };
    auto got = cache.get(model->key, announced, opener);
    if (!got) return got;
    keep_room(model, *(*got)->loader);
    if (model->pinned) cache.pin(model->key);
    return got;
}

BITMILL_INLINE result<std::string> model_manager::content::switch_to(const entry& model, model_loader& loader,
                                                                     const policy_decision& decision) {
    const std::string from = loader.decision().effective;
    if (from == decision.level) return std::string();  // another request was first
    const std::uint64_t before = detail::weight_bytes_of(loader);
    const std::uint64_t wanted = model->bytes_of(decision.level).value_or(before);
    if (wanted > before)
        if (auto room = cache.resize(model->key, wanted);
            !room && room.error().code == error_code::out_of_memory) {
            model->note_no_room(decision.level, now());
            log(log_level::warning,
                "model " + model->name + " stays at " + from + ": " + room.error().text());
            return room.error().text();
        }
    const auto done = loader.use_level(decision.level);
    if (!done) return done.error();
    settle(model, loader, decision);
    keep_room(model, loader);
    if (done->decision.effective == decision.level) return std::string();
    return done->decision.reason;
}

BITMILL_INLINE result<std::pair<model_manager::content::handle, policy_decision>>
model_manager::content::load(const entry& model, const load_request& request) {
    const bool must = !request.force_quantization.empty() || !request.min_quantization.empty();
    // Every level may fail once.
    for (std::size_t tries = 0;; ++tries) {
        const handle held = model->opened();
        if (held) notice(model, *held->loader);
        auto decision = decide(*model, request, held ? held->loader.get() : nullptr);
        if (!decision) return decision.error();
        const bool last = tries == detail::policy_levels.size() || decision->rule == "force";
        auto got = open(model, *decision);
        if (!got && (last || got.error().code == error_code::cancelled)) return got.error();
        if (!got) {
            if (got.error().code == error_code::out_of_memory)
                model->note_no_room(decision->level, now());
            else
                model->note_fault(decision->level, now(), false);
            managed_switch failed;
            failed.unix_ms = detail::unix_milliseconds();
            failed.model = model->name;
            failed.decision = std::move(*decision);
            failed.fault = got.error().text();
            record(*model, std::move(failed));
            continue;
        }
        model_loader& loader = *(*got)->loader;
        // Another request may just be switching it: then it serves as it is, unless that is not allowed.
        std::unique_lock lock(model->switching, std::defer_lock);
        if (loader.decision().effective != decision->level &&
            (must ? (lock.lock(), true) : lock.try_lock())) {
            const auto fault = switch_to(model, loader, *decision);
            if (!fault) return fault.error();
            if (!fault->empty() && decision->rule == "force")
                return error{.code = error_code::unsupported,
                             .message = "level " + decision->level +
                                        " is forced and cannot be had: " + model->without_paths(*fault),
                             .file = model->options.path};
            if (!fault->empty() && !last) continue;
        }
        model->note_decision(*decision);
        return std::pair{std::move(*got), std::move(*decision)};
    }
}

BITMILL_INLINE managed_model::managed_model(std::unique_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE managed_model::managed_model(managed_model&&) noexcept = default;
BITMILL_INLINE managed_model& managed_model::operator=(managed_model&&) noexcept = default;
BITMILL_INLINE managed_model::~managed_model() = default;
BITMILL_INLINE const policy_decision& managed_model::decision() const noexcept { return content_->decision; }
BITMILL_INLINE model_loader& managed_model::loader() const noexcept { return *content_->model->loader; }

BITMILL_INLINE model_manager::model_manager(std::shared_ptr<content> what) noexcept
    : content_(std::move(what)) {}
BITMILL_INLINE model_manager::model_manager(model_manager&&) noexcept = default;
BITMILL_INLINE model_manager& model_manager::operator=(model_manager&&) noexcept = default;
BITMILL_INLINE model_manager::~model_manager() = default;

BITMILL_INLINE result<model_manager> model_manager::create(const manager_options& options) {
    return detail::guard("", [&]() -> result<model_manager> {
        model_manager out(std::make_shared<content>(options));
        if (auto sound = out.set_thresholds(options.thresholds); !sound) return sound.error();
        return out;
    });
}

BITMILL_INLINE result<void> model_manager::set_thresholds(const policy_thresholds& thresholds) {
    policy_input any;
    any.total_bytes = 1;
    any.capability = content_->options.capability;
    if (const auto sound = choose_level(any, thresholds); !sound) return sound.error();
    const std::lock_guard lock(content_->mutex);
    content_->thresholds = thresholds;
    return {};
}

BITMILL_INLINE result<void> model_manager::add_model(const std::string& name,
                                                     const managed_model_options& options) {
    const auto refuse = [&](const std::string& why) {
        return error{.code = error_code::invalid_argument, .message = "model '" + name + "': " + why};
    };
    return detail::guard(options.path, [&]() -> result<void> {
        if (name.empty()) return refuse("a model needs a name");
        if (options.max_drift) {
            if (!(*options.max_drift >= 0 && *options.max_drift <= 2))
                return refuse("max_drift must be from 0 to 2");
            if (options.drift_texts.empty()) return refuse("max_drift is measured on drift_texts; give some");
        }
        const auto made = content_->new_entry(name, options);
        if (!made) return made.error();
        const std::lock_guard lock(content_->mutex);
        if (!content_->models.emplace(name, *made).second) return refuse("is there already; remove it first");
        return {};
    });
}

BITMILL_INLINE result<void> model_manager::refresh_model(const std::string& name) {
    return detail::guard(name, [&]() -> result<void> {
        auto old = content_->find(name);
        if (!old) return old.error();
        const auto made = content_->new_entry(name, (*old)->options);
        if (!made) return made.error();
        (*made)->pinned = (*old)->pinned.load();
        {
            const std::lock_guard lock(content_->mutex);
            const auto found = content_->models.find(name);
            if (found == content_->models.end() || found->second != *old) return {};  // another was first
            found->second = *made;
        }
        content_->drop(**old);
        return {};
    });
}

BITMILL_INLINE bool model_manager::remove_model(const std::string& name) {
    content::entry gone;
    {
        const std::lock_guard lock(content_->mutex);
        const auto found = content_->models.find(name);
        if (found == content_->models.end()) return false;
        gone = std::move(found->second);
        content_->models.erase(found);
    }
    content_->drop(*gone);
    return true;
}

BITMILL_INLINE result<managed_model> model_manager::load_model(const std::string& name,
                                                               const load_request& request) {
    return detail::guard(name, [&]() -> result<managed_model> {
        const auto model = content_->find(name);
        if (!model) return model.error();
        auto lease = std::make_unique<managed_model::content>(content_);
        auto loaded = content_->load(*model, request);
        if (!loaded) return loaded.error();
        lease->model = std::move(loaded->first);
        lease->decision = std::move(loaded->second);
        return managed_model(std::move(lease));
    });
}

BITMILL_INLINE result<void> model_manager::warm_model(const std::string& name, const load_request& request) {
    const auto model = load_model(name, request);
    if (!model) return model.error();
    std::vector<float> dst(model->loader().current()->model().facts().embedding_size);
    static constexpr std::string_view text[] = {"warm"};
    return model->loader().embed(text, dst);
}

BITMILL_INLINE bool model_manager::pin_model(const std::string& name, bool pinned) {
    const auto model = content_->find(name);
    if (!model) return false;
    (*model)->pinned = pinned;
    content_->cache.pin((*model)->key, pinned);  // where it is not open, it is pinned once it is
    return true;
}

BITMILL_INLINE void model_manager::clear_cache() { content_->cache.clear(); }

BITMILL_INLINE void model_manager::set_max_cache_bytes(std::uint64_t bytes) {
    content_->max_cache_bytes = bytes;
    content_->cache.set_max_bytes(bytes);
}

}  // namespace bitmill
