// Models by name that share the memory of a machine: each is opened when it is asked for, at the level that memory, load
// and priority call for, and changes its level with a later request.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/model/cache.hpp>
#include <bitmill/model/model_loader.hpp>
#include <bitmill/model/policy.hpp>
#include <bitmill/model/system_memory.hpp>

namespace bitmill {

struct manager_options {
    policy_thresholds thresholds = {};
    std::uint64_t max_cache_bytes = 8'000'000'000;  // of the weights of all models
    model_options model = {};                       // of all models; its level is the manager's to choose
    std::vector<std::string> capability = {};  // of fp16, int8, int4, int2: those that may be run; empty: all
    std::uint64_t working_bytes = 64 << 20;    // what a model needs beside its weights while it runs
    // Memory is looked at once in this time; requests in between are judged by what was seen.
    std::chrono::milliseconds memory_interval{100};
    std::function<result<system_memory>()> read_memory = {};            // empty: read_system_memory()
    std::function<std::chrono::steady_clock::time_point()> clock = {};  // empty: steady_clock::now
    std::function<void(log_level, const std::string&)> on_log = {};     // as loader_options::on_log
};

struct managed_model_options {
    std::string path;            // as of model_loader::open
    std::string quantized = {};  // as loader_options::quantized
    bool pinned = false;         // stays in the cache once it was opened
    // Its vectors are in an index: a level whose vectors of `drift_texts` lie farther from those of the original, 1 -
    // cosine, is not taken. 0 to 2.
    std::optional<double> max_drift = std::nullopt;
    std::vector<std::string> drift_texts = {};
};

struct load_request {
    std::string force_quantization = {};  // this level, if it fits; "original" as well
    std::string min_quantization = {};    // no level below it
    task_priority priority = task_priority::balanced;
    // Requests at work, where the host knows better: one that runs many as one batch. Else those that hold a model.
    std::optional<unsigned> active_requests = std::nullopt;
};

// A level that was changed, or could not be.
struct managed_switch {
    std::uint64_t number = 0;  // from 1
    std::int64_t unix_ms = 0;
    std::string model;
    std::string from;              // "" when the model was opened
    std::string to;                // what serves now
    policy_decision decision;      // what was to be done, and why
    std::string fault = {};        // why it could not be; no paths: those are in the log
    std::int64_t freed_bytes = 0;  // of weights; below 0 where it takes more
    double load_ms = 0;
};

struct managed_status {
    std::string name;
    std::string path;
    bool loaded = false;
    bool loading = false;
    bool pinned = false;
    bool in_use = false;
    std::string level;     // that serves: original, fp16, int8, int4, int2; "" where it is not loaded
    std::string space_id;  // text_encoder::space_id of that level
    std::uint64_t bytes = 0;
    std::uint64_t access_count = 0;
    std::vector<level_size> sizes;  // of the levels that may be taken: measured, or else of their files
    std::optional<policy_decision> decision;  // the last
};

struct manager_status {
    std::string device = "cpu";
    unsigned active_requests = 0;
    system_memory memory;
    std::vector<std::string> capability;
    std::string recommended_level;  // of the table, for the memory in use and the load
    std::string recommended_reason;
    std::uint64_t max_cache_bytes = 0;
    std::uint64_t current_bytes = 0;
    std::uint64_t evictions = 0;
    policy_thresholds thresholds;
    std::vector<managed_status> models;  // the most recently used first, then those that are not loaded
    std::vector<managed_switch> switches;
    std::vector<std::string> warnings;  // what to do about memory or a cache that is nearly full

    // One JSON object each, numbers beside the texts that people read. GB of memory have 2^30 bytes, MB of models 10^6.
    [[nodiscard]] std::string json(int indent = 2) const;
    [[nodiscard]] std::string memory_json(int indent = 2) const;
    [[nodiscard]] std::string cache_json(int indent = 2) const;
};

// What a model of so many parameters would get, were it loaded now.
struct level_estimate {
    policy_decision decision;
    double parameters = 0;
    double bits_per_weight = 0;  // scales included
    std::uint64_t bytes = 0;

    [[nodiscard]] std::string json(int indent = 2) const;
};

class model_manager;

// A model at work: one active request, as long as this object lives. Move-only; calls are safe from many threads.
class managed_model {
public:
    managed_model(managed_model&&) noexcept;
    managed_model& operator=(managed_model&&) noexcept;
    ~managed_model();

    // Why it has its level.
    [[nodiscard]] const policy_decision& decision() const noexcept;
    // It embeds, reranks and classifies; its levels are the manager's to switch.
    [[nodiscard]] model_loader& loader() const noexcept;

private:
    friend class model_manager;
    struct content;
    explicit managed_model(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

// Every call is safe from any thread; what was handed out may outlive it.
class model_manager {
public:
    // Errors: invalid_argument for thresholds that do not rise, or levels that do not exist.
    [[nodiscard]] static result<model_manager> create(const manager_options& = {});

    model_manager(model_manager&&) noexcept;
    model_manager& operator=(model_manager&&) noexcept;
    ~model_manager();

    // Nothing is opened yet; the headers of its levels are read. Errors: invalid_argument for a name that is empty or
    // taken, or max_drift without texts; those of find_levels.
    [[nodiscard]] result<void> add_model(const std::string& name, const managed_model_options&);
    // Its levels are looked for again: there may be new ones. What is in use stays until it is let go; the next request
    // opens it anew. Errors: invalid_argument where it is not there; those of find_levels, and nothing has changed then.
    [[nodiscard]] result<void> refresh_model(const std::string& name);
    // What is in use stays until it is let go. False where it is not there.
    bool remove_model(const std::string& name);

    // The model, at the level that choose_level gives for now; one that is loaded at another level is switched before
    // this returns, unless another request is switching it. A level that cannot be had is left out for a while and the next
    // one taken, with a line of log. Errors: invalid_argument for an unknown name or level; out_of_memory where nothing
    // fits; unsupported for a forced level that cannot be had; those of opening the model.
    [[nodiscard]] result<managed_model> load_model(const std::string& name, const load_request& = {});
    // Opens it and runs a text, so that the first request finds it warm.
    [[nodiscard]] result<void> warm_model(const std::string& name, const load_request& = {});
    // False where the model is not known.
    bool pin_model(const std::string& name, bool pinned = true);
    void clear_cache();  // but for what is pinned; what is in use is freed when it is let go
    void set_max_cache_bytes(std::uint64_t bytes);
    // Errors: as of create().
    [[nodiscard]] result<void> set_thresholds(const policy_thresholds&);

    // `active_requests`: as load_request's. Errors: those of reading memory.
    [[nodiscard]] result<manager_status> get_status(std::optional<unsigned> active_requests = {}) const;
    // Errors: invalid_argument for parameters that are no positive number, out_of_memory where no level fits.
    [[nodiscard]] result<level_estimate> calculate(double parameters, const load_request& = {}) const;

private:
    friend class managed_model;
    struct content;
    explicit model_manager(std::shared_ptr<content> what) noexcept;
    std::shared_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/model_manager-inl.hpp>
#include <bitmill/detail/model_manager_status-inl.hpp>
#endif
