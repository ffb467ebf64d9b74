// The C interface's registry of the models of a folder.
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include <bitmill/model/registry.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "model.hpp"
#include "report.hpp"

struct bitmill_registry {
    bitmill::capi::host_memory memory;
    bitmill_hooks hooks;
    std::optional<bitmill::model_registry> own = std::nullopt;
};

namespace bitmill::capi {
namespace {

// In nanoseconds it is still a number, until 2255.
std::chrono::system_clock::time_point time_from(std::int64_t unix_us) {
    constexpr std::int64_t most = (std::int64_t{1} << 53) - 1;
    return std::chrono::system_clock::time_point(
        std::chrono::microseconds(std::clamp(unix_us, std::int64_t{0}, most)));
}

// work(registry) -> result<void>
template <class Handle, class Work>
bitmill_status with_registry(Handle* registry, bitmill_error* error, const Work& work) noexcept {
    return guard(error, [&]() -> result<void> {
        if (registry == nullptr) return invalid("registry is NULL");
        return work(*registry->own);
    });
}

// text(registry) -> result<std::string>
template <class Handle, class Text>
bitmill_status put_account(Handle* registry, char* dst, std::size_t dst_bytes, std::size_t* needed_bytes,
                           bitmill_error* error, const Text& text) noexcept {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return with_registry(registry, error, [&](auto& own) -> result<void> {
        const result<std::string> account = text(own);
        if (!account) return account.error();
        return copy_text(*account, dst, dst_bytes, needed_bytes);
    });
}

// Without options: the registry's.
result<mill_options> quantize_options_from(const bitmill_mill_options* given, const bitmill_mill_options& c) {
    if (given == nullptr) return model_registry::default_options();
    if (c.to != nullptr && c.to == both)
        return invalid("to \"both\" makes two variants; ask for one level after the other");
    return mill_options_from(c);
}

bitmill_quantize_outcome outcome_from(const quantize_outcome& outcome) {
    bitmill_quantize_outcome c = BITMILL_QUANTIZE_OUTCOME_INIT;
    c.is_quantized = outcome.is_quantized ? 1 : 0;
    c.already_quantized = outcome.already_quantized ? 1 : 0;
    c.did_work = outcome.did_work ? 1 : 0;
    put_text(c.level, outcome.level);
    put_text(c.job_id, outcome.job_id);
    put_text(c.model_name, outcome.model_name);
    put_text(c.message, outcome.message);
    return c;
}

// `dst` may be null.
result<report_content> quantize(model_registry& registry, const std::string& name, mill_options& options,
                                const bitmill_hooks& hooks, bitmill_quantize_outcome* dst) {
    host_memory memory;
    put_hooks(hooks, memory, options);
    auto outcome = registry.quantize(name, options);
    if (!outcome.is_quantized) return error{.code = outcome.code, .message = std::move(outcome.message)};
    if (dst != nullptr) put_struct(dst, outcome_from(outcome));
    return report_content(std::move(outcome));
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::model_registry;
using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_registry_open(const char* root, const bitmill_registry_options* given,
                                     bitmill_registry** registry, bitmill_error* error) {
    if (registry != nullptr) *registry = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (registry == nullptr) return capi::invalid("registry is NULL");
        const auto from = capi::text_from(root, "root");
        if (!from) return from.error();
        const auto c = capi::read_optional(given);
        if (!c) return c.error();
        const auto hooks = capi::hooks_from(c->hooks);
        if (!hooks) return hooks.error();
        auto made = capi::new_handle<bitmill_registry>(capi::host_memory(*hooks), *hooks);
        bitmill::registry_options options;
        options.on_log = capi::log_from(made->hooks);
        if (c->unix_us != nullptr)
            options.now = [clock = c->unix_us, context = c->clock_context] {
                return capi::time_from(clock(context));
            };
        auto opened = model_registry::open(*from, options);
        if (!opened) return opened.error();
        made->own = std::move(*opened);
        *registry = made.release();
        return {};
    });
}

void bitmill_registry_destroy(bitmill_registry* registry) {
    capi::handle_of<bitmill_registry>().reset(registry);
}

bitmill_status bitmill_registry_register_model(bitmill_registry* registry, const char* type,
                                               const char* model_name, bitmill_error* error) {
    return capi::with_registry(registry, error, [&](model_registry& own) -> result<void> {
        const auto key = capi::text_from(type, "type");
        if (!key) return key.error();
        const auto name = capi::text_from(model_name, "model_name");
        if (!name) return name.error();
        return own.register_model(*key, *name);
    });
}

bitmill_status bitmill_registry_path(const bitmill_registry* registry, const char* type_or_name, char* dst,
                                     size_t dst_bytes, size_t* needed_bytes, bitmill_error* error) {
    const auto path = [&](const model_registry& own) -> result<std::string> {
        const auto name = capi::text_from(type_or_name, "type_or_name");
        if (!name) return name.error();
        return own.path_of(*name);
    };
    return capi::put_account(registry, dst, dst_bytes, needed_bytes, error, path);
}

bitmill_status bitmill_registry_find_json(bitmill_registry* registry, const char* type_or_name, char* dst,
                                          size_t dst_bytes, size_t* needed_bytes, bitmill_error* error) {
    const auto find = [&](model_registry& own) -> result<std::string> {
        const auto name = capi::text_from(type_or_name, "type_or_name");
        if (!name) return name.error();
        const auto found = own.find(*name);
        if (!found) return found.error();
        return found->json();
    };
    return capi::put_account(registry, dst, dst_bytes, needed_bytes, error, find);
}

bitmill_status bitmill_registry_list_json(bitmill_registry* registry, char* dst, size_t dst_bytes,
                                          size_t* needed_bytes, bitmill_error* error) {
    const auto list = [](model_registry& own) -> result<std::string> {
        const auto all = own.list();
        if (!all) return all.error();
        return all->json();
    };
    return capi::put_account(registry, dst, dst_bytes, needed_bytes, error, list);
}

bitmill_status bitmill_registry_quantize(bitmill_registry* registry, const char* type_or_name,
                                         const bitmill_mill_options* given, bitmill_quantize_outcome* outcome,
                                         bitmill_report** report, bitmill_error* error) {
    if (report != nullptr) *report = nullptr;
    if (capi::usable(outcome))
        capi::put_struct<bitmill_quantize_outcome>(outcome, BITMILL_QUANTIZE_OUTCOME_INIT);
    return capi::with_registry(registry, error, [&](model_registry& own) -> result<void> {
        const auto name = capi::text_from(type_or_name, "type_or_name");
        if (!name) return name.error();
        if (const auto checked = capi::read_optional(outcome); !checked) return checked.error();
        const auto c = capi::read_optional(given);
        if (!c) return c.error();
        auto options = capi::quantize_options_from(given, *c);
        if (!options) return options.error();
        return capi::run_reported(c->hooks, report, [&](const bitmill_hooks& hooks) {
            return capi::quantize(own, *name, *options, hooks, outcome);
        });
    });
}

bitmill_status bitmill_registry_get_job(const bitmill_registry* registry, uint64_t index,
                                        bitmill_quantize_job* dst, bitmill_error* error) {
    if (capi::usable(dst)) capi::put_struct<bitmill_quantize_job>(dst, BITMILL_QUANTIZE_JOB_INIT);
    return capi::with_registry(registry, error, [&](const model_registry& own) -> result<void> {
        if (const auto checked = capi::read_struct(dst); !checked) return checked.error();
        const auto jobs = own.jobs();
        if (index >= jobs.size())
            return capi::invalid("there is no job " + std::to_string(index) + ", of " +
                                 std::to_string(jobs.size()));
        const bitmill::quantize_job& job = jobs[static_cast<std::size_t>(index)];
        bitmill_quantize_job c = BITMILL_QUANTIZE_JOB_INIT;
        c.done_bytes = job.now.done_bytes;
        c.total_bytes = job.now.total_bytes;
        capi::put_text(c.id, job.id);
        capi::put_text(c.level, job.level);
        capi::put_text(c.model_name, job.model_name);
        capi::put_struct(dst, c);
        return {};
    });
}

bitmill_status bitmill_registry_set_active(bitmill_registry* registry, const char* type, int32_t active,
                                           const char* level, bitmill_error* error) {
    return capi::with_registry(registry, error, [&](model_registry& own) -> result<void> {
        const auto key = capi::text_from(type, "type");
        if (!key) return key.error();
        return own.set_active(*key, active != 0, level == nullptr ? "" : level);
    });
}

bitmill_status bitmill_registry_active_json(const bitmill_registry* registry, char* dst, size_t dst_bytes,
                                            size_t* needed_bytes, bitmill_error* error) {
    const auto active = [](const model_registry& own) -> result<std::string> { return own.active().json(); };
    return capi::put_account(registry, dst, dst_bytes, needed_bytes, error, active);
}
