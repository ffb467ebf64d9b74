// The C interface's model that changes its level while it serves.
#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/model/model_loader.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "loader.hpp"
#include "model.hpp"
#include "texts.hpp"

namespace bitmill::capi {
namespace {

result<model_loader*> loader_of(const bitmill_model_loader* loader) {
    if (loader == nullptr) return invalid("loader is NULL");
    return loader->serves;
}

result<loader_options> loader_options_from(const bitmill_loader_options& c) {
    loader_options options;
    if (c.quantized != nullptr) options.quantized = c.quantized;
    options.allow_fallback = c.no_fallback == 0;
    if (auto done = put_list(c.capability, c.capability_count, "capability", options.capability); !done)
        return done.error();
    if (auto done = put_list(c.canary, c.canary_count, "canary", options.canary); !done) return done.error();
    if (c.canary_cosine != 0) options.canary_cosine = c.canary_cosine;
    options.check_hashes = c.check_hashes != 0;
    constexpr std::uint64_t most = std::uint64_t{1} << 40;
    if (c.switch_timeout_ms > most || c.retry_after_ms > static_cast<std::int64_t>(most))
        return invalid("switch_timeout_ms and retry_after_ms may be 2^40 at most");
    options.switch_timeout = std::chrono::milliseconds(c.switch_timeout_ms);
    if (c.retry_after_ms != 0)
        options.retry_after = std::chrono::milliseconds(std::max<std::int64_t>(c.retry_after_ms, 0));
    return options;
}

bitmill_switch_record record_from(const switch_record& record) {
    bitmill_switch_record c = BITMILL_SWITCH_RECORD_INIT;
    c.fault = record.fault ? 1 : 0;
    c.number = record.number;
    c.unix_ms = record.unix_ms;
    c.load_ms = record.load_ms;
    c.canary_ms = record.canary_ms;
    c.canary_cosine = record.canary_cosine.value_or(0);
    c.weight_bytes = record.weight_bytes;
    c.planes = record.planes ? 1 : 0;
    c.has_canary = record.canary_cosine ? 1 : 0;
    put_text(c.canary_against, record.canary_against);
    put_text(c.from, record.from);
    put_text(c.requested, record.decision.requested);
    put_text(c.effective, record.decision.effective);
    put_text(c.reason, record.decision.reason);
    return c;
}

// switch_level(loader) -> result<switch_record>
template <class Switch>
bitmill_status run_switch(bitmill_model_loader* loader, bitmill_switch_record* dst, bitmill_error* error,
                          const Switch& switch_level) noexcept {
    if (usable(dst)) put_struct<bitmill_switch_record>(dst, BITMILL_SWITCH_RECORD_INIT);
    return guard(error, [&]() -> result<void> {
        const auto own = loader_of(loader);
        if (!own) return own.error();
        if (dst != nullptr)
            if (const auto checked = read_struct(dst); !checked) return checked.error();
        const auto record = switch_level(**own);
        if (!record) return record.error();
        if (dst != nullptr) put_struct(dst, record_from(*record));
        return {};
    });
}

// Converts what a run needs: run(loader, views, options).
template <class Run>
bitmill_status run_texts(bitmill_model_loader* loader, const bitmill_texts* texts,
                         const bitmill_text_options* given, bitmill_error* error, const Run& run) noexcept {
    return guard(error, [&]() -> result<void> {
        const auto own = loader_of(loader);
        if (!own) return own.error();
        const auto views = views_from(texts, "texts.data");
        if (!views) return views.error();
        bitmill_hooks hooks;
        const auto options = options_from(given, hooks);
        if (!options) return options.error();
        return run(**own, *views, *options);
    });
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::model_loader;
using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_model_loader_open(const char* path, const bitmill_loader_options* given,
                                         bitmill_model_loader** loader, bitmill_error* error) {
    if (loader != nullptr) *loader = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (loader == nullptr) return capi::invalid("loader is NULL");
        const auto c = capi::read_optional(given);
        if (!c) return c.error();
        auto options = capi::loader_options_from(*c);
        if (!options) return options.error();
        const auto open = [&](const std::string& from, const bitmill::model_options& model,
                              const bitmill_hooks& hooks) {
            options->model = model;
            options->on_log = capi::log_from(hooks);
            return model_loader::open(from, *options);
        };
        auto opened = capi::open_handle<bitmill_model_loader>(path, c->model, open);
        if (!opened) return opened.error();
        (*opened)->serves = &*(*opened)->own;
        *loader = opened->release();
        return {};
    });
}

void bitmill_model_loader_destroy(bitmill_model_loader* loader) {
    capi::handle_of<bitmill_model_loader>().reset(loader);
}

bitmill_status bitmill_model_loader_use_level(bitmill_model_loader* loader, const char* level,
                                              bitmill_switch_record* record, bitmill_error* error) {
    return capi::run_switch(loader, record, error, [&](model_loader& own) -> result<bitmill::switch_record> {
        const auto text = capi::text_from(level, "level");
        if (!text) return text.error();
        return own.use_level(*text);
    });
}

bitmill_status bitmill_model_loader_use_quantized_model(bitmill_model_loader* loader, int32_t use,
                                                        bitmill_switch_record* record, bitmill_error* error) {
    return capi::run_switch(loader, record, error,
                            [&](model_loader& own) { return own.use_quantized_model(use != 0); });
}

bitmill_status bitmill_model_loader_get_last_switch(const bitmill_model_loader* loader,
                                                    bitmill_switch_record* record, bitmill_error* error) {
    if (capi::usable(record)) capi::put_struct<bitmill_switch_record>(record, BITMILL_SWITCH_RECORD_INIT);
    return capi::guard(error, [&]() -> result<void> {
        const auto own = capi::loader_of(loader);
        if (!own) return own.error();
        if (const auto checked = capi::read_struct(record); !checked) return checked.error();
        capi::put_struct(record, capi::record_from((*own)->switches().back()));
        return {};
    });
}

bitmill_status bitmill_model_loader_get_facts(const bitmill_model_loader* loader, bitmill_model_facts* facts,
                                              bitmill_error* error) {
    if (capi::usable(facts)) capi::put_struct<bitmill_model_facts>(facts, BITMILL_MODEL_FACTS_INIT);
    return capi::guard(error, [&]() -> result<void> {
        const auto own = capi::loader_of(loader);
        if (!own) return own.error();
        if (const auto checked = capi::read_struct(facts); !checked) return checked.error();
        capi::put_struct(facts, capi::facts_from((*own)->current()->model().facts()));
        return {};
    });
}

bitmill_status bitmill_model_loader_get_size_info(const bitmill_model_loader* loader,
                                                  bitmill_model_size_info* size, bitmill_error* error) {
    if (capi::usable(size)) capi::put_struct<bitmill_model_size_info>(size, BITMILL_MODEL_SIZE_INFO_INIT);
    return capi::guard(error, [&]() -> result<void> {
        const auto own = capi::loader_of(loader);
        if (!own) return own.error();
        if (const auto checked = capi::read_struct(size); !checked) return checked.error();
        const auto info = (*own)->get_model_size_info();
        if (!info) return info.error();
        bitmill_model_size_info c = BITMILL_MODEL_SIZE_INFO_INIT;
        c.original_bytes = info->original_bytes;
        c.quantized_bytes = info->quantized_bytes;
        c.size_reduction_percent = info->size_reduction_percent;
        capi::put_struct(size, c);
        return {};
    });
}

bitmill_status bitmill_model_loader_json(const bitmill_model_loader* loader, char* dst, size_t dst_bytes,
                                         size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto own = capi::loader_of(loader);
        if (!own) return own.error();
        return capi::copy_text((*own)->json(), dst, dst_bytes, needed_bytes);
    });
}

bitmill_status bitmill_model_loader_space_id(const bitmill_model_loader* loader, char* dst, size_t dst_bytes,
                                             size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto own = capi::loader_of(loader);
        if (!own) return own.error();
        const auto id = (*own)->current()->space_id();
        if (!id) return id.error();
        return capi::copy_text(*id, dst, dst_bytes, needed_bytes);
    });
}

bitmill_status bitmill_model_loader_embed(bitmill_model_loader* loader, const bitmill_texts* texts,
                                          const bitmill_text_options* options, float* dst, uint64_t dst_count,
                                          bitmill_error* error) {
    return capi::run_texts(loader, texts, options, error,
                           [&](model_loader& own, const auto& views, const auto& how) -> result<void> {
                               const auto room = capi::elements_from(dst, dst_count, "dst");
                               if (!room) return room.error();
                               return own.embed(views, *room, how);
                           });
}

bitmill_status bitmill_model_loader_classify(bitmill_model_loader* loader, const bitmill_texts* texts,
                                             const bitmill_text_options* options, float* dst,
                                             uint64_t dst_count, bitmill_error* error) {
    return capi::run_texts(loader, texts, options, error,
                           [&](model_loader& own, const auto& views, const auto& how) -> result<void> {
                               const auto room = capi::elements_from(dst, dst_count, "dst");
                               if (!room) return room.error();
                               return own.classify(views, *room, how);
                           });
}

bitmill_status bitmill_model_loader_rerank(bitmill_model_loader* loader, const char* query,
                                           const bitmill_texts* documents,
                                           const bitmill_text_options* options, uint64_t* order,
                                           float* scores, uint64_t dst_count, bitmill_error* error) {
    return capi::run_texts(loader, documents, options, error,
                           [&](model_loader& own, const auto& views, const auto& how) -> result<void> {
                               if (query == nullptr) return capi::invalid("query is NULL");
                               if (auto room = capi::check_order(order, dst_count, views.size()); !room)
                                   return room;
                               const auto ranked = own.rerank(query, views, how);
                               if (!ranked) return ranked.error();
                               capi::put_ranked(*ranked, order, scores);
                               return {};
                           });
}

bitmill_status bitmill_model_loader_store_canary(bitmill_model_loader* loader, const char* level,
                                                 const bitmill_texts* texts, bitmill_error* error) {
    return capi::run_texts(loader, texts, nullptr, error,
                           [&](model_loader& own, const auto& views, const auto&) -> result<void> {
                               const auto text = capi::text_from(level, "level");
                               if (!text) return text.error();
                               const std::vector<std::string> own_texts(views.begin(), views.end());
                               return own.store_canary(*text, own_texts);
                           });
}
