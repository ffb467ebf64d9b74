// One model of a manager: where it is, what its levels take, and what became of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/detail/policy-inl.hpp>
#include <bitmill/model/model_manager.hpp>

namespace bitmill::detail {

using manager_time = std::chrono::steady_clock::time_point;

[[nodiscard]] inline std::int64_t unix_milliseconds() {
    using namespace std::chrono;
    return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

// What the cache holds: a loader has a state of its own, which a const pointer to this leaves alone.
struct loaded_model {
    std::unique_ptr<model_loader> loader;
};

inline std::uint64_t weight_bytes_of(const model_loader& loader) {
    return loader.current()->model().facts().weight_bytes;
}

// One model: where it is, what its levels take, and what became of them.
class managed_entry {
public:
    managed_entry(std::string called, std::string in_cache, managed_model_options asked,
                  std::vector<found_level> found)
        : name(std::move(called)), key(std::move(in_cache)), options(std::move(asked)),
          pinned(options.pinned), levels_(std::move(found)) {}

    const std::string name;
    const std::string key;  // another one where the name is given anew
    const managed_model_options options;
    std::atomic<bool> pinned;
    std::mutex switching;  // one at a time; whoever holds it may take `mutex`, not the other way round

    // Levels that may be chosen now, with the memory that their weights take. Those that failed are left out for a while;
    // where that leaves none they are tried again.
    [[nodiscard]] std::vector<level_size> sizes(manager_time now) const {
        const std::lock_guard lock(mutex_);
        std::vector<level_size> sound, all;
        for (const auto& one : levels_) {
            if (!one.fault.empty() || one.level == "original") continue;
            all.push_back({one.level, weights_of(one)});
            const auto failed = faults_.find(one.level);
            if (failed == faults_.end() || now >= failed->second.again) sound.push_back(all.back());
        }
        return sound.empty() ? all : sound;
    }
    // nullopt where there is no such level, or it cannot be read.
    [[nodiscard]] std::optional<std::uint64_t> bytes_of(const std::string& level) const {
        const std::lock_guard lock(mutex_);
        for (const auto& one : levels_)
            if (one.level == level && one.fault.empty()) return weights_of(one);
        return std::nullopt;
    }
    // Of the first level that cannot be read.
    [[nodiscard]] std::string unreadable() const {
        for (const auto& one : levels_)
            if (!one.fault.empty()) return one.fault;
        return {};
    }

    // Records are shown to whoever may ask, and where a model lies is the host's alone: its name stands for it.
    [[nodiscard]] std::string without_paths(std::string text) const {
        for (const auto* path : {&options.quantized, &options.path})
            for (auto at = text.find(*path); !path->empty() && at != std::string::npos;
                 at = text.find(*path, at + name.size()))
                text.replace(at, path->size(), name);
        return text;
    }

    void measure(const std::string& level, std::uint64_t bytes) {
        const std::lock_guard lock(mutex_);
        measured_[level] = bytes;
    }
    // for_good: it will not do better another time.
    void note_fault(const std::string& level, manager_time now, bool for_good) {
        const std::lock_guard lock(mutex_);
        auto& one = faults_[level];
        one.again = for_good ? manager_time::max() : now + first_pause * (1u << std::min(one.count, 6u));
        ++one.count;
    }
    // The cache has no room for it now, nor for what is above it.
    void note_no_room(const std::string& level, manager_time now) {
        const std::lock_guard lock(mutex_);
        for (const auto* above : policy_levels) {
            auto& again = faults_[above].again;
            again = std::max(again, now + first_pause);
            if (level == above) return;
        }
    }
    void note_switch(manager_time now) {
        const std::lock_guard lock(mutex_);
        switched_ = now;
    }
    void note_decision(const policy_decision& decision) {
        const std::lock_guard lock(mutex_);
        decision_ = decision;
    }
    // Returns the bytes of the weights that served before.
    std::uint64_t note_served(const std::shared_ptr<const text_encoder>& encoder) {
        const std::uint64_t bytes = encoder->model().facts().weight_bytes;
        auto space = encoder->space_id();
        const std::lock_guard lock(mutex_);
        served_ = encoder;
        space_id_ = space ? std::move(*space) : std::string();
        return std::exchange(served_bytes_, bytes);
    }
    [[nodiscard]] bool serves(const std::shared_ptr<const text_encoder>& encoder) const {
        const std::lock_guard lock(mutex_);
        return !served_.owner_before(encoder) && !encoder.owner_before(served_);
    }
    void note_opened(const std::shared_ptr<const loaded_model>& opened) {
        const std::lock_guard lock(mutex_);
        opened_ = opened;
    }

    // Null where nobody has it open.
    [[nodiscard]] std::shared_ptr<const loaded_model> opened() const {
        const std::lock_guard lock(mutex_);
        return opened_.lock();
    }
    [[nodiscard]] std::string space_id() const {
        const std::lock_guard lock(mutex_);
        return space_id_;
    }
    [[nodiscard]] manager_time switched() const {
        const std::lock_guard lock(mutex_);
        return switched_;
    }
    [[nodiscard]] std::optional<policy_decision> decision() const {
        const std::lock_guard lock(mutex_);
        return decision_;
    }

private:
    // Measured, or else by its files. A cast halves what most models have, 32 bits.
    [[nodiscard]] std::uint64_t weights_of(const found_level& one) const {
        const auto measured = measured_.find(one.level);
        if (measured != measured_.end()) return measured->second;
        return one.cast ? one.file_bytes / 2 : one.file_bytes;
    }

    static constexpr std::chrono::seconds first_pause{60};
    struct fault {
        manager_time again{};
        unsigned count = 0;
    };

    const std::vector<found_level> levels_;
    mutable std::mutex mutex_;  // guards what follows; held for an instant
    std::map<std::string, std::uint64_t> measured_;
    std::map<std::string, fault> faults_;
    manager_time switched_{};
    std::optional<policy_decision> decision_;
    std::weak_ptr<const loaded_model> opened_;
    std::weak_ptr<const text_encoder> served_;
    std::uint64_t served_bytes_ = 0;
    std::string space_id_;
};

}  // namespace bitmill::detail
