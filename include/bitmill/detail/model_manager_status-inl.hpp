// Bodies of model/model_manager.hpp: what it tells of itself. Names and texts are those that clients of a quantization
// manager know; each number that is told as a text is there as a number, too.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/model_manager-inl.hpp>

namespace bitmill {
namespace detail {

// To so many parts of one, a power of ten: the quotient is the double that is nearest to its decimal digits.
inline double rounded(double value, double parts) { return std::round(value * parts) / parts; }
inline double gigabytes(std::uint64_t bytes) {
    return rounded(static_cast<double>(bytes) / (1 << 30), 100);  // as tools of Python count memory
}
inline double megabytes(std::int64_t bytes) { return rounded(static_cast<double>(bytes) / 1e6, 10); }
inline double megabytes(std::uint64_t bytes) { return megabytes(static_cast<std::int64_t>(bytes)); }
inline std::string share_text(double share) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.1f%%", 100 * share);
    return text.data();
}

inline const char* memory_band(double used, const policy_thresholds& limits) {
    return used < limits.comfortable ? "comfortable"
           : used < limits.moderate  ? "moderate"
           : used < limits.tight     ? "tight"
           : used < limits.critical  ? "critical"
                                     : "emergency";
}

inline double cache_share(const manager_status& status) {
    if (status.max_cache_bytes == 0) return 0;
    return static_cast<double>(status.current_bytes) / static_cast<double>(status.max_cache_bytes);
}

inline ordered_json decision_json(const policy_decision& decision) {
    return json_object({{"level", decision.level},
                        {"rule", decision.rule},
                        {"explanation", decision.explanation},
                        {"used_share", decision.used},
                        {"projected_share", decision.projected}});
}

inline ordered_json model_json(const managed_status& model) {
    ordered_json sizes = ordered_json::object();
    for (const auto& one : model.sizes) sizes[one.level] = megabytes(one.peak_bytes);
    return json_object({{"name", model.name},
                        {"size_mb", megabytes(model.bytes)},
                        {"access_count", model.access_count},
                        {"status", model.loading  ? "loading"
                                   : model.loaded ? "loaded"
                                                  : "not loaded"},
                        {"level", model.level},
                        {"space_id", model.space_id},
                        {"pinned", model.pinned},
                        {"in_use", model.in_use},
                        {"level_sizes_mb", std::move(sizes)},
                        {"decision", model.decision ? decision_json(*model.decision) : ordered_json()}});
}

inline ordered_json switch_json(const managed_switch& one) {
    return json_object({{"number", one.number},
                        {"unix_ms", one.unix_ms},
                        {"model", one.model},
                        {"from", one.from},
                        {"to", one.to},
                        {"rule", one.decision.rule},
                        {"explanation", one.decision.explanation},
                        {"fault", one.fault},
                        {"freed_mb", megabytes(one.freed_bytes)},
                        {"load_ms", rounded(one.load_ms, 100)}});
}

template <class List, class Convert>
ordered_json json_list(const List& list, const Convert& convert) {
    ordered_json out = ordered_json::array();
    for (const auto& one : list) out.push_back(convert(one));
    return out;
}

// Of the models that are in the cache.
inline std::vector<managed_status> loaded_of(const manager_status& status) {
    std::vector<managed_status> out;
    for (const auto& one : status.models)
        if (one.loaded || one.loading) out.push_back(one);
    return out;
}

inline std::vector<std::string> warnings_of(const manager_status& status) {
    std::vector<std::string> out;
    const double used = status.memory.used_share(), cache = cache_share(status);
    if (cache > 0.8)
        out.push_back("the cache is " + share_text(cache) + " full: clear it, or make it larger");
    if (used > status.thresholds.critical)
        out.push_back("memory in use is " + share_text(used) +
                      ": free some, or give the machine or its container more");
    return out;
}

}  // namespace detail

BITMILL_INLINE result<manager_status> model_manager::get_status(
    std::optional<unsigned> active_requests) const {
    return detail::guard("", [&]() -> result<manager_status> {
        const content& it = *content_;
        const auto memory = it.memory();
        if (!memory) return memory.error();
        manager_status out;
        out.active_requests = active_requests.value_or(it.active);
        out.memory = *memory;
        out.capability = it.options.capability;
        if (out.capability.empty())
            out.capability.assign(detail::policy_levels.begin(), detail::policy_levels.end());
        const auto cached = it.cache.status();
        out.max_cache_bytes = cached.max_bytes;
        out.current_bytes = cached.current_bytes;
        out.evictions = cached.evictions;
        std::vector<content::entry> entries;
        {
            const std::lock_guard lock(it.mutex);
            out.thresholds = it.thresholds;
            out.switches.assign(it.switches.begin(), it.switches.end());
            for (const auto& [name, one] : it.models) entries.push_back(one);
        }
        policy_input now;
        now.total_bytes = memory->total_bytes;
        now.other_bytes = memory->used_bytes();
        now.active_requests = out.active_requests;
        now.capability = it.options.capability;
        if (const auto decision = choose_level(now, out.thresholds)) {
            out.recommended_level = decision->level;
            out.recommended_reason = decision->explanation;
        }
        const auto place = [&](const content::entry& one) {
            return static_cast<std::size_t>(
                std::find_if(cached.models.begin(), cached.models.end(),
                             [&](const auto& known) { return known.name == one->key; }) -
                cached.models.begin());
        };
        std::stable_sort(entries.begin(), entries.end(),
                         [&](const auto& a, const auto& b) { return place(a) < place(b); });
        for (const auto& one : entries) {
            managed_status model;
            model.name = one->name;
            model.path = one->options.path;
            model.pinned = one->pinned;
            model.sizes = one->sizes(it.now());
            model.decision = one->decision();
            if (const std::size_t at = place(one); at < cached.models.size()) {
                const auto& known = cached.models[at];
                model.loaded = !known.loading;
                model.loading = known.loading;
                model.in_use = known.in_use;
                model.bytes = known.bytes;
                model.access_count = known.access_count;
                if (const auto open = one->opened()) {
                    model.level = open->loader->decision().effective;
                    model.space_id = one->space_id();
                }
            }
            out.models.push_back(std::move(model));
        }
        out.warnings = detail::warnings_of(out);
        return out;
    });
}

BITMILL_INLINE std::string manager_status::json(int indent) const {
    using namespace detail;
    ordered_json levels = ordered_json::object();
    for (const auto* level : policy_levels)
        levels[level] = std::find(capability.begin(), capability.end(), level) != capability.end();
    return dumped(
        json_object({{"device", device},
                     {"active_requests", active_requests},
                     {"memory", json_object({{"total_gb", gigabytes(memory.total_bytes)},
                                             {"available_gb", gigabytes(memory.available_bytes)},
                                             {"used_percent", share_text(memory.used_share())},
                                             {"used_share", memory.used_share()},
                                             {"process_gb", gigabytes(memory.process_bytes)},
                                             {"status", memory_band(memory.used_share(), thresholds)},
                                             {"limit", memory.limit}})},
                     {"capabilities", std::move(levels)},
                     {"recommended_level", recommended_level},
                     {"recommended_reason", recommended_reason},
                     {"current_models", json_list(loaded_of(*this), model_json)},
                     {"models", json_list(models, model_json)},
                     {"thresholds", json_object({{"comfortable", thresholds.comfortable},
                                                 {"moderate", thresholds.moderate},
                                                 {"tight", thresholds.tight},
                                                 {"critical", thresholds.critical},
                                                 {"load_low", thresholds.load_low},
                                                 {"load_moderate", thresholds.load_moderate},
                                                 {"load_high", thresholds.load_high}})},
                     {"switches", json_list(switches, switch_json)},
                     {"warnings", warnings}}),
        indent);
}

BITMILL_INLINE std::string manager_status::memory_json(int indent) const {
    using namespace detail;
    return dumped(json_object({{"total_gb", gigabytes(memory.total_bytes)},
                               {"available_gb", gigabytes(memory.available_bytes)},
                               {"used_gb", gigabytes(memory.used_bytes())},
                               {"percent_used", rounded(100 * memory.used_share(), 10)},
                               {"used_percent", share_text(memory.used_share())},
                               {"process_memory_gb", gigabytes(memory.process_bytes)},
                               {"status", memory_band(memory.used_share(), thresholds)},
                               {"warnings", warnings}}),
                  indent);
}

BITMILL_INLINE std::string manager_status::cache_json(int indent) const {
    using namespace detail;
    const auto loaded = loaded_of(*this);
    return dumped(json_object({{"current_size_mb", megabytes(current_bytes)},
                               {"max_size_mb", megabytes(max_cache_bytes)},
                               {"utilization", share_text(cache_share(*this))},
                               {"utilization_share", cache_share(*this)},
                               {"models_cached", loaded.size()},
                               {"evictions", evictions},
                               {"models", json_list(loaded, model_json)}}),
                  indent);
}

BITMILL_INLINE result<level_estimate> model_manager::calculate(double parameters,
                                                               const load_request& request) const {
    // Bits of a weight, its share of the scales included, and gigabytes that a model of 7 billion needs beside its weights:
    // 14 and 16, 7 and 9, 3.5 and 5, 1.75 and 3.
    struct row {
        const char* level;
        double bits, beside;
    };
    static constexpr row rows[] = {
        {"fp16", 16, 2}, {"int8", 8, 2}, {"int4", 4.125, 1.5}, {"int2", 2.125, 1.25}};
    // 2^60 bytes are more than any machine has, and a number that 64 bits hold.
    if (!(parameters > 0 && parameters <= 1e17))
        return error{.code = error_code::invalid_argument,
                     .message = "the number of parameters must be above 0, and not above 10^17"};
    return detail::guard("", [&]() -> result<level_estimate> {
        const auto memory = content_->memory();
        if (!memory) return memory.error();
        policy_input in;
        in.total_bytes = memory->total_bytes;
        in.other_bytes = memory->used_bytes();
        in.active_requests = request.active_requests.value_or(content_->active);
        in.priority = request.priority;
        in.force = request.force_quantization;
        in.floor = request.min_quantization;
        in.capability = content_->options.capability;
        for (const auto& [level, bits, beside] : rows)
            in.sizes.push_back(
                {level, static_cast<std::uint64_t>(parameters * bits / 8 + parameters / 7 * beside)});
        auto decision = choose_level(in, content_->limits());
        if (!decision) return decision.error();
        level_estimate out;
        out.parameters = parameters;
        for (const auto& [level, bits, beside] : rows)
            if (decision->level == level) out.bits_per_weight = bits;
        out.bytes = static_cast<std::uint64_t>(parameters * out.bits_per_weight / 8);
        out.decision = std::move(*decision);
        return out;
    });
}

BITMILL_INLINE std::string level_estimate::json(int indent) const {
    using namespace detail;
    const std::string& level = decision.level;
    const int bits = level == "fp16" ? 16 : level == "int8" ? 8 : level == "int4" ? 4 : 2;
    ordered_json config = ordered_json::object();
    if (bits == 16) config["torch_dtype"] = "float16";
    if (bits == 8) config["load_in_8bit"] = true;
    if (bits == 4) {
        config["load_in_4bit"] = true;
        config["bnb_4bit_compute_dtype"] = "float16";
        config["bnb_4bit_quant_type"] = "nf4";
    }
    return dumped(json_object({{"level", level},
                               {"precision", std::to_string(bits) + "-bit"},
                               {"compression_ratio", std::to_string(32 / bits) + ".0x"},
                               {"compression_vs_fp32", rounded(32 / bits_per_weight, 100)},
                               {"compression_vs_fp16", rounded(16 / bits_per_weight, 100)},
                               {"baseline_dtype", "float32"},
                               {"bits_per_weight", bits_per_weight},
                               {"estimated_memory_gb", rounded(static_cast<double>(bytes) / 1e9, 100)},
                               {"config", std::move(config)},
                               {"rule", decision.rule},
                               {"explanation", decision.explanation}}),
                  indent);
}

}  // namespace bitmill
