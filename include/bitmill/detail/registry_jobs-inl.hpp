// One job where many ask for the same: the threads of a process wait for the one that does it, processes for the lock on
// the folder of unfinished work.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/model/registry.hpp>

namespace bitmill::detail {

// The level that a scheme is of; "" for what is none.
inline std::string level_of_scheme(scheme_type type) {
    const scheme_facts& of = facts(type);
    if (of.ggml != nullptr || of.bits > 16) return {};
    return of.bits == 16 ? "fp16" : "int" + std::to_string(of.bits);
}

inline void add_stamp(std::string& text, const std::string& name, const file_stamp& stamp) {
    text += name + '/';
    for (const auto number : {stamp.inode, stamp.bytes}) text += std::to_string(number) + ' ';
    for (const auto number : {stamp.modified_ns, stamp.changed_ns}) text += std::to_string(number) + ' ';
}

// The stamps of all files below a folder; "" where they cannot be had, as while it is swapped.
inline std::string stamps_of(const std::string& folder) {
    const auto entries = list_folder(folder);
    if (!entries) return {};
    std::string out = "/";
    for (const auto& entry : *entries) {
        const std::string path = folder + "/" + entry.name;
        if (entry.type == std::filesystem::file_type::directory) {
            const std::string inside = stamps_of(path);
            if (inside.empty()) return {};
            out += entry.name + inside;
            continue;
        }
        const auto file = input_file::open(path);
        const auto stamp = file ? file->stamp() : result<file_stamp>(file.error());
        if (!stamp) return {};
        add_stamp(out, entry.name, *stamp);
    }
    return out;
}

// A model that is to become a level, opened.
struct level_request {
    std::string model_name;
    std::string level;
    std::string path;  // of the model
    std::string out;
    checkpoint model;
    mill_options options;  // with force false
    bool force;
    std::string key = {};    // of the journal: what the work is
    std::string sides = {};  // stamps of the files that come along, which the key does not hold

    [[nodiscard]] std::string id() const { return key.substr(0, 16); }
};

inline result<level_request> open_request(const std::string& name, const std::string& level,
                                          const std::string& path, checkpoint model,
                                          const mill_options& options) {
    level_request out{name, level, path, path + "/" + level, std::move(model), options, options.force};
    out.options.force = false;
    const auto plan = make_plan(out.model, out.options);
    if (!plan) return plan.error();
    auto key = journal_key(out.model, source_files(out.model, plan->source), out.options);
    if (!key) return key.error();
    out.key = std::move(*key);
    for (const auto& side : out.model.side_files()) {
        const auto file = out.model.open_side(side.name);
        const auto stamp = file ? file->stamp() : result<file_stamp>(file.error());
        if (!stamp) return stamp.error();
        add_stamp(out.sides, side.name, *stamp);
    }
    return out;
}

class level_jobs {
public:
    struct answer {
        std::shared_ptr<const mill_report> report;
        bool already;
        bool did_work = false;
        bool looked = false;  // at the folder, and took nobody's word
    };

    result<answer> get(const level_request& asked) {
        std::unique_lock lock(mutex_);
        if (auto proven = find_proof(asked, lock)) return answer{std::move(proven), true};
        for (auto at = running_.find(asked.out); at != running_.end(); at = running_.find(asked.out)) {
            const auto other = at->second;
            if (auto waited = wait_for(*other, asked.options, lock); !waited) return waited.error();
            if (other->outcome && other->key == asked.key && other->force == asked.force) {
                auto shared = *other->outcome;
                if (shared) shared->did_work = shared->looked = false;
                return shared;
            }
        }
        const auto mine = std::make_shared<job>();
        mine->key = asked.key;
        mine->force = asked.force;
        mine->shown = {asked.id(), asked.model_name, asked.level, {}};
        running_.emplace(asked.out, mine);
        lock.unlock();
        const ending end{*this, asked.out, *mine};
        auto done = guard(asked.path, [&] { return work(asked, *mine); });
        // Without one those who wait begin anew: it was not they who cancelled. They read it when the job has ended.
        if (done || done.error().code != error_code::cancelled) mine->outcome.emplace(done);
        return done;
    }

    [[nodiscard]] std::vector<quantize_job> running() const {
        const std::lock_guard lock(mutex_);
        std::vector<quantize_job> out;
        for (const auto& [path, one] : running_) out.push_back(one->shown);
        return out;
    }

private:
    struct job {
        std::string key;
        bool force = false;
        quantize_job shown = {};
        unsigned waiting = 0;
        bool ended = false;
        std::optional<result<answer>> outcome = std::nullopt;
    };
    // What was once compared byte for byte, while no file's stamp changes.
    struct proof {
        std::string key, sides, variant;
        std::shared_ptr<const mill_report> report;
    };
    struct ending {
        level_jobs& jobs;
        const std::string& out;
        job& mine;
        ~ending() {
            {
                const std::lock_guard lock(jobs.mutex_);
                mine.ended = true;
                jobs.running_.erase(out);
            }
            jobs.changed_.notify_all();
        }
    };

    static error cancelled() { return {.code = error_code::cancelled, .message = "cancelled"}; }
    static bool goes_on(const mill_options& options, const progress& now) noexcept {
        try {
            return !options.on_progress || options.on_progress(now);
        } catch (...) {
            return false;
        }
    }

    [[nodiscard]] std::shared_ptr<const mill_report> find_proof(const level_request& asked,
                                                                std::unique_lock<std::mutex>& lock) const {
        const auto found = proofs_.find(asked.out);
        if (asked.force || found == proofs_.end()) return nullptr;
        const proof known = found->second;
        if (known.key != asked.key || known.sides != asked.sides) return nullptr;
        lock.unlock();
        const bool same = known.variant == stamps_of(asked.out);
        lock.lock();
        return same ? known.report : nullptr;
    }

    // Until the other job has ended; false where the host gives up.
    result<void> wait_for(job& other, const mill_options& options, std::unique_lock<std::mutex>& lock) {
        ++other.waiting;
        bool go = true;
        while (go && !other.ended) {
            changed_.wait_for(lock, std::chrono::milliseconds(50));
            const progress now = other.shown.now;
            lock.unlock();
            go = goes_on(options, now);
            lock.lock();
        }
        --other.waiting;
        return go ? result<void>{} : cancelled();
    }

    // The report where the level is there already. `seen`: the state of the variant in which it was last looked at.
    result<std::optional<answer>> look(const level_request& asked, const mill_options& options,
                                       std::string& seen) {
        std::error_code failed;  // a link is not followed: create() refuses it
        const bool is_folder = std::filesystem::symlink_status(asked.out, failed).type() ==
                               std::filesystem::file_type::directory;
        const std::string variant = asked.force || !is_folder ? "" : stamps_of(asked.out);
        if (variant.empty() || variant == seen) return std::optional<answer>();
        seen = variant;
        auto found = find_milled(asked.model, asked.path, asked.out, options);
        if (!found) return found.error();
        if (!*found) return std::optional<answer>();
        return std::optional(answer{keep(asked, variant, std::move(**found)), true, false, true});
    }

    std::shared_ptr<const mill_report> keep(const level_request& asked, std::string variant,
                                            mill_report report) {
        auto kept = std::make_shared<const mill_report>(std::move(report));
        const std::lock_guard lock(mutex_);
        proofs_[asked.out] = {asked.key, asked.sides, std::move(variant), kept};
        return kept;
    }

    // A variant that bitmill did not write is not ours to delete.
    static result<void> check_place(const level_request& asked) {
        const auto there = is_there(asked.out);
        if (!there) return there.error();
        if (!*there || asked.force) return {};
        const auto entries = list_folder(asked.out);
        if (!entries) return entries.error();
        const bool ours =
            entries->empty() || std::any_of(entries->begin(), entries->end(),
                                            [](const auto& e) { return e.name == manifest_name; });
        if (ours) return {};
        return error{
            .code = error_code::invalid_argument,
            .message =
                "holds no manifest.json, so bitmill did not write it; move it away or replace it with force",
            .file = asked.out};
    }

    result<answer> work(const level_request& asked, job& mine) {
        using std::chrono::milliseconds;
        mill_options options = asked.options;
        options.on_progress = [&](const progress& now) {
            {
                const std::lock_guard lock(mutex_);
                mine.shown.now = now;
            }
            return goes_on(asked.options, now);
        };
        std::string seen;
        int failures = 0;
        for (milliseconds pause(5);; pause = std::min(pause * 2, milliseconds(200))) {
            // Another process may be swapping the folder at this moment: what is wrong then is no error yet.
            const auto early = look(asked, options, seen);
            const auto gives_up = [](const error& what) {
                return what.code == error_code::cancelled || what.code == error_code::out_of_memory;
            };
            if (!early && gives_up(early.error())) return early.error();
            if (early && *early) return **early;
            if (!early) seen.clear();
            auto folder = atomic_folder::create(asked.out, asked.model.root(), true,
                                                options.resume ? asked.key : std::string());
            if (folder) return finish(asked, options, *folder, seen, mine);
            if (!is_busy(folder.error()) && ++failures == 3) return folder.error();
            if (!goes_on(options, {})) return cancelled();
            std::this_thread::sleep_for(pause);
        }
    }

    // With the lock: what is there now stays until this call ends.
    result<answer> finish(const level_request& asked, const mill_options& options, atomic_folder& folder,
                          std::string& seen, job& mine) {
        const auto there = look(asked, options, seen);
        if (!there) return there.error();
        if (*there) return **there;
        if (auto ours = check_place(asked); !ours) return ours.error();
        auto made = mill_model(asked.model, asked.path, asked.out, options, &folder);
        if (!made) {
            // A call that waits goes on where this one was cancelled.
            const std::lock_guard lock(mutex_);
            if (made.error().code == error_code::cancelled && mine.waiting != 0) folder.keep_partial();
            return made.error();
        }
        log_report(options, made->report);
        return answer{keep(asked, stamps_of(asked.out), std::move(made->report)), false, true, true};
    }

    mutable std::mutex mutex_;  // of all that follows
    std::condition_variable changed_;
    std::map<std::string, std::shared_ptr<job>> running_;  // by output
    std::map<std::string, proof> proofs_;
};

}  // namespace bitmill::detail
