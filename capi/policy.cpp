// The C interface's policy: levels that there are, memory that there is, and which level that makes.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/model/model_loader.hpp>
#include <bitmill/model/policy.hpp>
#include <bitmill/model/system_memory.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "model.hpp"
#include "policy.hpp"

struct bitmill_found_levels {
    std::vector<bitmill::found_level> content;
};

namespace bitmill::capi {
namespace {

result<policy_input> input_from(const bitmill_policy_input& c) {
    policy_input input;
    input.total_bytes = c.total_bytes;
    input.other_bytes = c.other_bytes;
    input.active_requests = c.active_requests;
    if (auto done = put_named(c.priority, task_priority_from_text, input.priority); !done)
        return done.error();
    std::vector<std::string> levels;
    if (auto done = put_list(c.levels, c.levels_count, "levels", levels); !done) return done.error();
    if (c.peak_bytes == nullptr && !levels.empty()) return invalid("peak_bytes is NULL");
    for (std::size_t i = 0; i < levels.size(); ++i)
        input.sizes.push_back({std::move(levels[i]), c.peak_bytes[i]});
    if (auto done = put_list(c.capability, c.capability_count, "capability", input.capability); !done)
        return done.error();
    if (c.force != nullptr) input.force = c.force;
    if (c.floor != nullptr) input.floor = c.floor;
    if (c.current != nullptr) input.current = c.current;
    input.since_switch =
        std::chrono::milliseconds(std::min(c.since_switch_ms, static_cast<std::uint64_t>(most_ms)));
    return input;
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_find_levels(const char* path, const char* quantized, bitmill_found_levels** levels,
                                   bitmill_error* error) {
    if (levels != nullptr) *levels = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (levels == nullptr) return capi::invalid("levels is NULL");
        const auto from = capi::text_from(path, "path");
        if (!from) return from.error();
        auto found = bitmill::find_levels(*from, quantized == nullptr ? "" : quantized);
        if (!found) return found.error();
        auto made = std::make_unique<bitmill_found_levels>();
        made->content = std::move(*found);
        *levels = made.release();
        return {};
    });
}

void bitmill_found_levels_destroy(bitmill_found_levels* levels) { delete levels; }

uint64_t bitmill_found_levels_count(const bitmill_found_levels* levels) {
    return levels == nullptr ? 0 : levels->content.size();
}

bitmill_status bitmill_found_levels_get(const bitmill_found_levels* levels, uint64_t index,
                                        bitmill_found_level* level, bitmill_error* error) {
    if (capi::usable(level)) capi::put_struct<bitmill_found_level>(level, BITMILL_FOUND_LEVEL_INIT);
    return capi::guard(error, [&]() -> result<void> {
        if (levels == nullptr) return capi::invalid("levels is NULL");
        if (const auto checked = capi::read_struct(level); !checked) return checked.error();
        if (index >= levels->content.size())
            return capi::invalid("there is no level " + std::to_string(index) + ", of " +
                                 std::to_string(levels->content.size()));
        const bitmill::found_level& one = levels->content[static_cast<std::size_t>(index)];
        capi::put_struct(level, {0, one.cast ? 1 : 0, one.file_bytes, one.level.c_str(), one.path.c_str(),
                                 one.fault.c_str()});
        return {};
    });
}

bitmill_status bitmill_choose_level(const bitmill_policy_input* input,
                                    const bitmill_policy_thresholds* thresholds,
                                    bitmill_policy_decision* decision, bitmill_error* error) {
    if (capi::usable(decision))
        capi::put_struct<bitmill_policy_decision>(decision, BITMILL_POLICY_DECISION_INIT);
    return capi::guard(error, [&]() -> result<void> {
        const auto c = capi::read_struct(input);
        if (!c) return c.error();
        const auto asked = capi::input_from(*c);
        if (!asked) return asked.error();
        const auto limits = capi::thresholds_from(thresholds);
        if (!limits) return limits.error();
        if (const auto checked = capi::read_struct(decision); !checked) return checked.error();
        const auto chosen = bitmill::choose_level(*asked, *limits);
        if (!chosen) return chosen.error();
        capi::put_struct(decision, capi::decision_from(*chosen));
        return {};
    });
}

bitmill_status bitmill_read_system_memory(bitmill_system_memory* memory, bitmill_error* error) {
    if (capi::usable(memory)) capi::put_struct<bitmill_system_memory>(memory, BITMILL_SYSTEM_MEMORY_INIT);
    return capi::guard(error, [&]() -> result<void> {
        if (const auto checked = capi::read_struct(memory); !checked) return checked.error();
        const auto read = bitmill::read_system_memory();
        if (!read) return read.error();
        bitmill_system_memory c = BITMILL_SYSTEM_MEMORY_INIT;
        c.total_bytes = read->total_bytes;
        c.available_bytes = read->available_bytes;
        c.process_bytes = read->process_bytes;
        capi::put_text(c.limit, read->limit);
        capi::put_struct(memory, c);
        return {};
    });
}
