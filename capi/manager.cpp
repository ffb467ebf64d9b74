// The C interface's models that share memory.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <bitmill/model/model_manager.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "loader.hpp"
#include "model.hpp"
#include "policy.hpp"

namespace bitmill::capi {
namespace {

// What the host lends: of a manager and of all that it handed out, whichever lives longest.
struct lent {
    bitmill_hooks hooks;
    host_memory memory;
    void* machine_context;
    bitmill_status (*read_memory)(void*, bitmill_system_memory*);
    std::int64_t (*clock_ms)(void*);
};

}  // namespace
}  // namespace bitmill::capi

struct bitmill_manager {
    bitmill::capi::host_memory memory;
    std::shared_ptr<const void> host;
    std::optional<bitmill::model_manager> own = std::nullopt;
};

struct bitmill_managed_model {
    bitmill::capi::host_memory memory;
    std::shared_ptr<const void> host;
    std::optional<bitmill::managed_model> own = std::nullopt;
    bitmill_model_loader loader = {};
};

namespace bitmill::capi {
namespace {

result<system_memory> ask_memory(const lent& host) {
    bitmill_system_memory c = BITMILL_SYSTEM_MEMORY_INIT;
    const bitmill_status status = host.read_memory(host.machine_context, &c);
    if (status != BITMILL_OK)
        return error{.code = status > BITMILL_OK && status < BITMILL_INTERNAL
                                 ? static_cast<error_code>(status)
                                 : error_code::io,
                     .message = "the host's read_memory returned " + std::to_string(status)};
    if (c.available_bytes > c.total_bytes)
        return error{.code = error_code::bad_input,
                     .message = "the host's read_memory says that of " + std::to_string(c.total_bytes) +
                                " bytes " + std::to_string(c.available_bytes) + " are available"};
    system_memory out;
    out.total_bytes = c.total_bytes;
    out.available_bytes = c.available_bytes;
    out.process_bytes = c.process_bytes;
    out.limit.assign(c.limit, ::strnlen(c.limit, sizeof c.limit));
    return out;
}

std::chrono::steady_clock::time_point ask_time(const lent& host) {
    const std::int64_t ms = std::clamp(host.clock_ms(host.machine_context), -most_ms, most_ms);
    return std::chrono::steady_clock::time_point(std::chrono::milliseconds(ms));
}

result<manager_options> manager_options_from(const bitmill_manager_options& c,
                                             const bitmill_model_options& model) {
    manager_options options;
    const auto limits = thresholds_from(c.thresholds);
    if (!limits) return limits.error();
    options.thresholds = *limits;
    const auto how = model_options_from(model);
    if (!how) return how.error();
    options.model = *how;
    if (auto done = put_list(c.capability, c.capability_count, "capability", options.capability); !done)
        return done.error();
    if (c.max_cache_bytes != 0) options.max_cache_bytes = c.max_cache_bytes;
    if (c.working_bytes != 0) options.working_bytes = c.working_bytes;
    const auto interval =
        milliseconds_from(c.memory_interval_ms, options.memory_interval, "memory_interval_ms");
    if (!interval) return interval.error();
    options.memory_interval = *interval;
    return options;
}

result<managed_model_options> managed_options_from(const bitmill_managed_model_options* given) {
    const auto c = read_optional(given);
    if (!c) return c.error();
    managed_model_options options;
    if (c->quantized != nullptr) options.quantized = c->quantized;
    options.pinned = c->pinned != 0;
    if (auto done = put_list(c->drift_texts, c->drift_texts_count, "drift_texts", options.drift_texts); !done)
        return done.error();
    if (c->has_max_drift != 0) options.max_drift = c->max_drift;
    return options;
}

result<load_request> request_from(const bitmill_load_request* given) {
    const auto c = read_optional(given);
    if (!c) return c.error();
    load_request request;
    if (c->force_quantization != nullptr) request.force_quantization = c->force_quantization;
    if (c->min_quantization != nullptr) request.min_quantization = c->min_quantization;
    if (auto done = put_named(c->priority, task_priority_from_text, request.priority); !done)
        return done.error();
    if (c->has_active_requests != 0) request.active_requests = c->active_requests;
    return request;
}

// work(manager) -> result<void>
template <class Handle, class Work>
bitmill_status with_manager(Handle* manager, bitmill_error* error, const Work& work) noexcept {
    return guard(error, [&]() -> result<void> {
        if (manager == nullptr) return invalid("manager is NULL");
        return work(*manager->own);
    });
}

// work(manager, name) -> result<void>
template <class Handle, class Work>
bitmill_status with_model(Handle* manager, const char* name, bitmill_error* error,
                          const Work& work) noexcept {
    return with_manager(manager, error, [&](auto& own) -> result<void> {
        const auto text = text_from(name, "name");
        if (!text) return text.error();
        return work(own, *text);
    });
}

result<void> there(bool found, const std::string& name) {
    if (found) return {};
    return invalid("there is no model '" + name + "'");
}

// text(status) -> std::string
template <class Text>
bitmill_status put_status(const bitmill_manager* manager, char* dst, std::size_t dst_bytes,
                          std::size_t* needed_bytes, bitmill_error* error, const Text& text) noexcept {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return with_manager(manager, error, [&](const model_manager& own) -> result<void> {
        const auto status = own.get_status();
        if (!status) return status.error();
        return copy_text(text(*status), dst, dst_bytes, needed_bytes);
    });
}

bitmill_manager_status status_from(const manager_status& status) {
    bitmill_manager_status c = BITMILL_MANAGER_STATUS_INIT;
    c.active_requests = status.active_requests;
    c.total_bytes = status.memory.total_bytes;
    c.available_bytes = status.memory.available_bytes;
    c.process_bytes = status.memory.process_bytes;
    c.max_cache_bytes = status.max_cache_bytes;
    c.current_bytes = status.current_bytes;
    c.evictions = status.evictions;
    c.models = status.models.size();
    c.loaded = static_cast<std::uint64_t>(std::count_if(status.models.begin(), status.models.end(),
                                                        [](const auto& one) { return one.loaded; }));
    put_text(c.recommended_level, status.recommended_level);
    put_text(c.recommended_reason, status.recommended_reason);
    return c;
}

bitmill_managed_status status_from(const managed_status& model) {
    bitmill_managed_status c = BITMILL_MANAGED_STATUS_INIT;
    c.loaded = model.loaded ? 1 : 0;
    c.loading = model.loading ? 1 : 0;
    c.pinned = model.pinned ? 1 : 0;
    c.in_use = model.in_use ? 1 : 0;
    c.bytes = model.bytes;
    c.access_count = model.access_count;
    put_text(c.level, model.level);
    put_text(c.space_id, model.space_id);
    return c;
}

bitmill_level_estimate estimate_from(const level_estimate& estimate) {
    bitmill_level_estimate c = BITMILL_LEVEL_ESTIMATE_INIT;
    c.parameters = estimate.parameters;
    c.bits_per_weight = estimate.bits_per_weight;
    c.bytes = estimate.bytes;
    c.used = estimate.decision.used;
    c.projected = estimate.decision.projected;
    put_text(c.level, estimate.decision.level);
    put_text(c.rule, estimate.decision.rule);
    put_text(c.explanation, estimate.decision.explanation);
    return c;
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::model_manager;
using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_manager_create(const bitmill_manager_options* given, bitmill_manager** manager,
                                      bitmill_error* error) {
    if (manager != nullptr) *manager = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (manager == nullptr) return capi::invalid("manager is NULL");
        const auto c = capi::read_optional(given);
        if (!c) return c.error();
        const auto model = capi::read_optional(c->model);
        if (!model) return model.error();
        const auto hooks = capi::hooks_from(model->hooks);
        if (!hooks) return hooks.error();
        auto options = capi::manager_options_from(*c, *model);
        if (!options) return options.error();
        const auto host = std::make_shared<capi::lent>(
            capi::lent{*hooks, capi::host_memory(*hooks), c->machine_context, c->read_memory, c->clock_ms});
        capi::put_host(host->hooks, host->memory, options->model);
        options->on_log = capi::log_from(host->hooks);
        // The manager that calls them is gone before what they look at.
        const capi::lent* const lender = host.get();
        if (host->read_memory != nullptr)
            options->read_memory = [lender] { return capi::ask_memory(*lender); };
        if (host->clock_ms != nullptr) options->clock = [lender] { return capi::ask_time(*lender); };
        auto made = capi::new_handle<bitmill_manager>(host->memory, host);
        auto created = model_manager::create(*options);
        if (!created) return created.error();
        made->own = std::move(*created);
        *manager = made.release();
        return {};
    });
}

void bitmill_manager_destroy(bitmill_manager* manager) { capi::handle_of<bitmill_manager>().reset(manager); }

bitmill_status bitmill_manager_add_model(bitmill_manager* manager, const char* name, const char* path,
                                         const bitmill_managed_model_options* given, bitmill_error* error) {
    return capi::with_model(manager, name, error, [&](model_manager& own, const auto& text) -> result<void> {
        const auto from = capi::text_from(path, "path");
        if (!from) return from.error();
        auto options = capi::managed_options_from(given);
        if (!options) return options.error();
        options->path = *from;
        return own.add_model(text, *options);
    });
}

bitmill_status bitmill_manager_refresh_model(bitmill_manager* manager, const char* name,
                                             bitmill_error* error) {
    return capi::with_model(manager, name, error,
                            [](model_manager& own, const auto& text) { return own.refresh_model(text); });
}

bitmill_status bitmill_manager_remove_model(bitmill_manager* manager, const char* name,
                                            bitmill_error* error) {
    return capi::with_model(manager, name, error, [](model_manager& own, const auto& text) {
        return capi::there(own.remove_model(text), text);
    });
}

bitmill_status bitmill_manager_pin_model(bitmill_manager* manager, const char* name, int32_t pinned,
                                         bitmill_error* error) {
    return capi::with_model(manager, name, error, [&](model_manager& own, const auto& text) {
        return capi::there(own.pin_model(text, pinned != 0), text);
    });
}

bitmill_status bitmill_manager_warm_model(bitmill_manager* manager, const char* name,
                                          const bitmill_load_request* request, bitmill_error* error) {
    return capi::with_model(manager, name, error, [&](model_manager& own, const auto& text) -> result<void> {
        const auto asked = capi::request_from(request);
        if (!asked) return asked.error();
        return own.warm_model(text, *asked);
    });
}

bitmill_status bitmill_manager_load_model(bitmill_manager* manager, const char* name,
                                          const bitmill_load_request* request, bitmill_managed_model** model,
                                          bitmill_error* error) {
    if (model != nullptr) *model = nullptr;
    return capi::with_model(manager, name, error, [&](model_manager& own, const auto& text) -> result<void> {
        if (model == nullptr) return capi::invalid("model is NULL");
        const auto asked = capi::request_from(request);
        if (!asked) return asked.error();
        // Its memory is taken first: afterwards it could fail, and the model would be loaded for nothing.
        auto made = capi::new_handle<bitmill_managed_model>(manager->memory, manager->host);
        auto loaded = own.load_model(text, *asked);
        if (!loaded) return loaded.error();
        made->own = std::move(*loaded);
        made->loader.serves = &made->own->loader();
        *model = made.release();
        return {};
    });
}

void bitmill_managed_model_destroy(bitmill_managed_model* model) {
    capi::handle_of<bitmill_managed_model>().reset(model);
}

bitmill_model_loader* bitmill_managed_model_loader(const bitmill_managed_model* model) {
    // A loader is safe from many threads, whoever holds the model.
    return model == nullptr ? nullptr : const_cast<bitmill_model_loader*>(&model->loader);
}

bitmill_status bitmill_managed_model_get_decision(const bitmill_managed_model* model,
                                                  bitmill_policy_decision* decision, bitmill_error* error) {
    if (capi::usable(decision))
        capi::put_struct<bitmill_policy_decision>(decision, BITMILL_POLICY_DECISION_INIT);
    return capi::guard(error, [&]() -> result<void> {
        if (model == nullptr) return capi::invalid("model is NULL");
        if (const auto checked = capi::read_struct(decision); !checked) return checked.error();
        capi::put_struct(decision, capi::decision_from(model->own->decision()));
        return {};
    });
}

bitmill_status bitmill_manager_clear_cache(bitmill_manager* manager, bitmill_error* error) {
    return capi::with_manager(manager, error, [](model_manager& own) -> result<void> {
        own.clear_cache();
        return {};
    });
}

bitmill_status bitmill_manager_set_max_cache_bytes(bitmill_manager* manager, uint64_t bytes,
                                                   bitmill_error* error) {
    return capi::with_manager(manager, error, [&](model_manager& own) -> result<void> {
        own.set_max_cache_bytes(bytes);
        return {};
    });
}

bitmill_status bitmill_manager_set_thresholds(bitmill_manager* manager,
                                              const bitmill_policy_thresholds* thresholds,
                                              bitmill_error* error) {
    return capi::with_manager(manager, error, [&](model_manager& own) -> result<void> {
        const auto limits = capi::thresholds_from(thresholds);
        if (!limits) return limits.error();
        return own.set_thresholds(*limits);
    });
}

bitmill_status bitmill_manager_get_status(const bitmill_manager* manager, bitmill_manager_status* dst,
                                          bitmill_error* error) {
    if (capi::usable(dst)) capi::put_struct<bitmill_manager_status>(dst, BITMILL_MANAGER_STATUS_INIT);
    return capi::with_manager(manager, error, [&](const model_manager& own) -> result<void> {
        if (const auto checked = capi::read_struct(dst); !checked) return checked.error();
        const auto status = own.get_status();
        if (!status) return status.error();
        capi::put_struct(dst, capi::status_from(*status));
        return {};
    });
}

bitmill_status bitmill_manager_get_model(const bitmill_manager* manager, const char* name,
                                         bitmill_managed_status* dst, bitmill_error* error) {
    if (capi::usable(dst)) capi::put_struct<bitmill_managed_status>(dst, BITMILL_MANAGED_STATUS_INIT);
    const auto find = [&](const model_manager& own, const auto& text) -> result<void> {
        if (const auto checked = capi::read_struct(dst); !checked) return checked.error();
        const auto status = own.get_status();
        if (!status) return status.error();
        const auto found = std::find_if(status->models.begin(), status->models.end(),
                                        [&](const auto& one) { return one.name == text; });
        if (found == status->models.end()) return capi::there(false, text);
        capi::put_struct(dst, capi::status_from(*found));
        return {};
    };
    return capi::with_model(manager, name, error, find);
}

bitmill_status bitmill_manager_status_json(const bitmill_manager* manager, char* dst, size_t dst_bytes,
                                           size_t* needed_bytes, bitmill_error* error) {
    return capi::put_status(manager, dst, dst_bytes, needed_bytes, error,
                            [](const auto& status) { return status.json(); });
}

bitmill_status bitmill_manager_memory_json(const bitmill_manager* manager, char* dst, size_t dst_bytes,
                                           size_t* needed_bytes, bitmill_error* error) {
    return capi::put_status(manager, dst, dst_bytes, needed_bytes, error,
                            [](const auto& status) { return status.memory_json(); });
}

bitmill_status bitmill_manager_cache_json(const bitmill_manager* manager, char* dst, size_t dst_bytes,
                                          size_t* needed_bytes, bitmill_error* error) {
    return capi::put_status(manager, dst, dst_bytes, needed_bytes, error,
                            [](const auto& status) { return status.cache_json(); });
}

bitmill_status bitmill_manager_calculate(const bitmill_manager* manager, double parameters,
                                         const bitmill_load_request* request, bitmill_level_estimate* dst,
                                         bitmill_error* error) {
    if (capi::usable(dst)) capi::put_struct<bitmill_level_estimate>(dst, BITMILL_LEVEL_ESTIMATE_INIT);
    return capi::with_manager(manager, error, [&](const model_manager& own) -> result<void> {
        const auto asked = capi::request_from(request);
        if (!asked) return asked.error();
        if (const auto checked = capi::read_struct(dst); !checked) return checked.error();
        const auto estimate = own.calculate(parameters, *asked);
        if (!estimate) return estimate.error();
        capi::put_struct(dst, capi::estimate_from(*estimate));
        return {};
    });
}

bitmill_status bitmill_manager_calculate_json(const bitmill_manager* manager, double parameters,
                                              const bitmill_load_request* request, char* dst,
                                              size_t dst_bytes, size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::with_manager(manager, error, [&](const model_manager& own) -> result<void> {
        const auto asked = capi::request_from(request);
        if (!asked) return asked.error();
        const auto estimate = own.calculate(parameters, *asked);
        if (!estimate) return estimate.error();
        return capi::copy_text(estimate->json(), dst, dst_bytes, needed_bytes);
    });
}
