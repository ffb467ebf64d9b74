// The C interface's comparisons.
#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include <bitmill/eval/compare.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "model.hpp"

struct bitmill_comparison {
    bitmill_hooks hooks;
    bitmill::capi::host_memory memory;
    bitmill::comparison content = {};
};

namespace bitmill::capi {
namespace {

// `hooks` and `memory` must outlive what uses the options.
result<compare_options> options_from(const bitmill_compare_options& c, const bitmill_hooks& hooks,
                                     host_memory& memory) {
    compare_options options;
    if (c.level != nullptr) options.quantized.level = c.level;
    if (auto done = put_named(c.activation, activation_from_text, options.quantized.activation); !done)
        return done.error();
    for (model_options* one : {&options.original, &options.quantized}) {
        one->threads = c.threads;
        put_host(hooks, memory, *one);
    }
    if (c.pairs != nullptr) options.pairs = c.pairs;
    if (c.tasks != nullptr) options.tasks = c.tasks;
    if (auto done = put_list(c.gates, c.gates_count, "gates", options.gates); !done) return done.error();
    if (c.rounds != 0) options.rounds = static_cast<std::size_t>(c.rounds);
    if (c.bootstrap_rounds != 0) options.bootstrap.rounds = static_cast<std::size_t>(c.bootstrap_rounds);
    if (c.seed != 0) options.bootstrap.seed = c.seed;
    if (hooks.progress != nullptr)
        options.on_progress = [&hooks](std::size_t done, std::size_t total) {
            return hooks.progress(hooks.progress_context, done, total) == 0;
        };
    return options;
}

result<const comparison*> content_of(const bitmill_comparison* of) {
    if (of == nullptr) return invalid("comparison is NULL");
    return &of->content;
}

template <class Text>
bitmill_status put_account(const bitmill_comparison* of, const Text& text, char* dst, std::size_t dst_bytes,
                           std::size_t* needed_bytes, bitmill_error* error) noexcept {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return guard(error, [&]() -> result<void> {
        const auto content = content_of(of);
        if (!content) return content.error();
        return copy_text(text(**content), dst, dst_bytes, needed_bytes);
    });
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::comparison;
using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_compare_model_performance(const char* original, const char* quantized,
                                                 const bitmill_compare_options* given,
                                                 bitmill_comparison** comparison, bitmill_error* error) {
    if (comparison != nullptr) *comparison = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (comparison == nullptr) return capi::invalid("comparison is NULL");
        const auto from = capi::text_from(original, "original");
        if (!from) return from.error();
        const auto to = capi::text_from(quantized, "quantized");
        if (!to) return to.error();
        const auto c = capi::read_optional(given);
        if (!c) return c.error();
        const auto hooks = capi::hooks_from(c->hooks);
        if (!hooks) return hooks.error();
        // Its memory is taken before the work: afterwards it could fail, and the work would be done for nothing.
        capi::host_memory memory(*hooks);
        using handle = capi::handle_of<bitmill_comparison>;
        void* const place = memory.allocate(sizeof(bitmill_comparison), alignof(bitmill_comparison));
        handle made(new (place) bitmill_comparison{*hooks, memory});
        const auto options = capi::options_from(*c, made->hooks, made->memory);
        if (!options) return options.error();
        auto done = bitmill::compare_model_performance(*from, *to, *options);
        if (!done) return done.error();
        made->content = std::move(*done);
        *comparison = made.release();
        return {};
    });
}

void bitmill_comparison_destroy(bitmill_comparison* comparison) {
    capi::handle_of<bitmill_comparison>().reset(comparison);
}

bitmill_status bitmill_comparison_json(const bitmill_comparison* of, char* dst, size_t dst_bytes,
                                       size_t* needed_bytes, bitmill_error* error) {
    const auto text = [](const comparison& one) { return one.json(); };
    return capi::put_account(of, text, dst, dst_bytes, needed_bytes, error);
}

bitmill_status bitmill_comparison_table(const bitmill_comparison* of, char* dst, size_t dst_bytes,
                                        size_t* needed_bytes, bitmill_error* error) {
    const auto text = [](const comparison& one) { return one.table(); };
    return capi::put_account(of, text, dst, dst_bytes, needed_bytes, error);
}

bitmill_status bitmill_comparison_html(const bitmill_comparison* of, char* dst, size_t dst_bytes,
                                       size_t* needed_bytes, bitmill_error* error) {
    const auto text = [](const comparison& one) { return one.html(); };
    return capi::put_account(of, text, dst, dst_bytes, needed_bytes, error);
}

bitmill_status bitmill_comparison_metric(const bitmill_comparison* of, const char* name, bitmill_metric* dst,
                                         bitmill_error* error) {
    const bitmill_metric nothing = BITMILL_METRIC_INIT;
    if (capi::usable(dst)) capi::put_struct(dst, nothing);
    return capi::guard(error, [&]() -> result<void> {
        const auto read = capi::read_struct(dst);
        if (!read) return read.error();
        const auto content = capi::content_of(of);
        if (!content) return content.error();
        const auto wanted = capi::text_from(name, "name");
        if (!wanted) return wanted.error();
        for (const auto& [metric, value] : (*content)->metrics)
            if (metric == *wanted) {
                capi::put_struct(dst, {0, 0, value.original, value.quantized, value.relative, value.low,
                                       value.high, std::uint64_t{value.n}});
                return {};
            }
        return capi::invalid("there is no metric '" + *wanted + "' in this comparison");
    });
}

bitmill_status bitmill_comparison_gate(const bitmill_comparison* of, const char* gate, int32_t* holds,
                                       double* value, bitmill_error* error) {
    if (holds != nullptr) *holds = 0;
    if (value != nullptr) *value = 0;
    return capi::guard(error, [&]() -> result<void> {
        if (holds == nullptr) return capi::invalid("holds is NULL");
        const auto content = capi::content_of(of);
        if (!content) return content.error();
        const auto asked = capi::text_from(gate, "gate");
        if (!asked) return asked.error();
        const auto verdict = (*content)->check(*asked);
        if (!verdict) return verdict.error();
        *holds = verdict->passed ? 1 : 0;
        if (value != nullptr) *value = verdict->value;
        return {};
    });
}
