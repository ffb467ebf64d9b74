// Open models in bounded memory: the least recently used makes room, but never one that is in use or pinned.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/core/error.hpp>

namespace bitmill {

struct cached_model {
    std::string name;
    std::uint64_t bytes = 0;
    std::uint64_t access_count = 0;
    bool pinned = false;
    bool loading = false;
    bool in_use = false;  // somebody holds it
};

struct cache_status {
    std::uint64_t max_bytes = 0;
    std::uint64_t current_bytes = 0;  // models that were dropped while in use count until they are let go
    std::uint64_t evictions = 0;
    std::vector<cached_model> models = {};  // the most recently used first
};

// Every call is safe from any thread. A model stays as long as its shared_ptr is held, also after clear() or this
// object's end. current_bytes never exceeds max_bytes, but for set_max_bytes() below what is in use.
template <class Model>
class model_cache {
public:
    using handle = std::shared_ptr<const Model>;
    struct opened {
        handle model;
        std::uint64_t bytes = 0;  // that it takes, at most what was announced to get()
    };

    explicit model_cache(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}
    model_cache(const model_cache&) = delete;
    model_cache& operator=(const model_cache&) = delete;

    // The model of that name, or open() -> result<opened>, which takes at most `bytes`. Calls for one name open it once and
    // share what comes of it, its error, too; other names are not held up. Errors: those of open; out_of_memory where what
    // is in use or pinned leaves no room (nothing was evicted then), or the model is larger than the whole cache, or than
    // announced.
    template <class Open>
    [[nodiscard]] result<handle> get(const std::string& name, std::uint64_t bytes, const Open& open) {
        std::unique_lock lock(mutex_);
        for (auto found = slots_.find(name); found != slots_.end(); found = slots_.find(name)) {
            const auto one = found->second;
            changed_.wait(lock, [&] { return !one->loading; });
            if (one->failure) return *one->failure;
            if (one->held == nullptr) continue;  // evicted before this thread woke up
            return use(*one);
        }
        if (auto room = make_room(bytes); !room) return room.error();
        const auto mine = std::make_shared<slot>();
        mine->bytes = bytes;
        slots_.emplace(name, mine);
        lock.unlock();
        auto made = call(name, bytes, open);
        lock.lock();
        mine->loading = false;
        changed_.notify_all();
        if (!made) {
            mine->failure.emplace(std::move(made).error());
            slots_.erase(name);
            return *mine->failure;
        }
        mine->held = std::move(*made);
        mine->bytes = mine->held->bytes;
        *resident_ += mine->bytes;
        mine->held->resident = resident_;
        return use(*mine);
    }

    // What a model takes from now on, at another level. More than before makes room first; only who holds the model may
    // ask for that, or it would make room of itself. Errors: as for get(), and nothing has changed then; invalid_argument
    // where the model is not there.
    [[nodiscard]] result<void> resize(const std::string& name, std::uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        const auto found = slots_.find(name);
        if (found == slots_.end() || found->second->loading)
            return error{.code = error_code::invalid_argument,
                         .message = "model '" + name + "' is not in the cache"};
        slot& one = *found->second;
        const std::uint64_t before = one.bytes;
        if (bytes > before)
            if (auto room = make_room(bytes - before); !room) return room;
        *resident_ += bytes;
        *resident_ -= before;
        one.bytes = one.held->bytes = bytes;
        return {};
    }

    // A pinned model is not evicted, and stays through clear(). False where it is not there.
    bool pin(const std::string& name, bool pinned = true) {
        const std::lock_guard lock(mutex_);
        const auto found = slots_.find(name);
        if (found == slots_.end()) return false;
        found->second->pinned = pinned;
        return true;
    }
    // Forgets the model, once it is open where it is just being opened. What is in use is freed when it is let go. False
    // where it is not there.
    bool erase(const std::string& name) {
        std::unique_lock lock(mutex_);
        for (;;) {
            const auto found = slots_.find(name);
            if (found == slots_.end()) return false;
            const auto one = found->second;
            if (!one->loading) {
                slots_.erase(found);
                return true;
            }
            changed_.wait(lock, [&] { return !one->loading; });
        }
    }
    // Forgets all that are not pinned or just being opened.
    void clear() {
        const std::lock_guard lock(mutex_);
        for (auto at = slots_.begin(); at != slots_.end();)
            at = at->second->pinned || at->second->loading ? std::next(at) : slots_.erase(at);
    }
    // Less than before evicts what it can.
    void set_max_bytes(std::uint64_t max_bytes) {
        const std::lock_guard lock(mutex_);
        max_bytes_ = max_bytes;
        while (current_bytes() > max_bytes_ && evict_one()) {
        }
    }

    [[nodiscard]] cache_status status() const {
        const std::lock_guard lock(mutex_);
        cache_status out{.max_bytes = max_bytes_, .current_bytes = current_bytes(), .evictions = evictions_};
        std::vector<std::pair<std::uint64_t, cached_model>> all;
        for (const auto& [name, one] : slots_)
            all.emplace_back(one->used, cached_model{name, one->bytes, one->access_count, one->pinned,
                                                     one->loading, one->held.use_count() > 1});
        std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
        for (auto& [used, one] : all) out.models.push_back(std::move(one));
        return out;
    }

private:
    // Its bytes count until the model is gone: a shared_ptr is empty before that, and others would take its room.
    struct holder {
        handle model;
        std::uint64_t bytes;
        std::shared_ptr<std::atomic<std::uint64_t>> resident = nullptr;  // once it counts
        holder(handle what, std::uint64_t size) : model(std::move(what)), bytes(size) {}
        holder(const holder&) = delete;
        holder& operator=(const holder&) = delete;
        ~holder() {
            model.reset();
            if (resident) *resident -= bytes;
        }
    };
    struct slot {
        std::shared_ptr<holder> held = nullptr;
        std::uint64_t bytes = 0;  // while it is opened those that were announced
        std::uint64_t access_count = 0;
        std::uint64_t used = 0;
        bool pinned = false;
        bool loading = true;
        std::optional<error> failure = std::nullopt;
    };
    using slots = std::map<std::string, std::shared_ptr<slot>>;

    handle use(slot& one) {
        ++one.access_count;
        one.used = ++clock_;
        return handle(one.held, one.held->model.get());
    }

    // What is thrown must not leave a slot that is opened for ever.
    template <class Open>
    static result<std::shared_ptr<holder>> call(const std::string& name, std::uint64_t bytes,
                                                const Open& open) {
        try {
            auto made = open();
            if (!made) return made.error();
            if (made->bytes > bytes)
                return error{.code = error_code::out_of_memory,
                             .message = "model '" + name + "' takes " + std::to_string(made->bytes) +
                                        " bytes, and was to take " + std::to_string(bytes)};
            return std::make_shared<holder>(std::move(made->model), made->bytes);
        } catch (const exception& failure) {
            return failure.error();
        } catch (const std::bad_alloc&) {
            return error{.code = error_code::out_of_memory, .message = "out of memory"};
        } catch (const std::exception& failure) {
            return error{.code = error_code::bad_input, .message = failure.what()};
        }
    }

    [[nodiscard]] std::uint64_t current_bytes() const {
        std::uint64_t sum = *resident_;
        for (const auto& [name, one] : slots_) sum += one->loading ? one->bytes : 0;
        return sum;
    }

    // Only the cache holds it, and under the lock nobody can take it.
    [[nodiscard]] static bool may_go(const slot& one) {
        return !one.pinned && !one.loading && one.held.use_count() == 1;
    }

    // Freed under the lock, so that nobody takes its room before.
    bool evict_one() {
        auto oldest = slots_.end();
        for (auto at = slots_.begin(); at != slots_.end(); ++at)
            if (may_go(*at->second) && (oldest == slots_.end() || at->second->used < oldest->second->used))
                oldest = at;
        if (oldest == slots_.end()) return false;
        oldest->second->held.reset();
        slots_.erase(oldest);
        ++evictions_;
        return true;
    }

    result<void> make_room(std::uint64_t bytes) {
        std::uint64_t held = current_bytes();
        for (const auto& [name, one] : slots_) held -= may_go(*one) ? one->bytes : 0;
        if (bytes > max_bytes_ || held > max_bytes_ - bytes)
            return error{.code = error_code::out_of_memory,
                         .message = "a model of " + std::to_string(bytes) +
                                    " bytes does not fit into a cache of " + std::to_string(max_bytes_) +
                                    ", of which " + std::to_string(held) +
                                    " are in use or pinned; make it larger, or take a lower level"};
        while (current_bytes() > max_bytes_ - bytes && evict_one()) {
        }
        return {};
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::uint64_t max_bytes_;
    std::uint64_t clock_ = 0;
    std::uint64_t evictions_ = 0;
    std::shared_ptr<std::atomic<std::uint64_t>> resident_ = std::make_shared<std::atomic<std::uint64_t>>(0);
    slots slots_;
};

}  // namespace bitmill
