// The C interface's models that run.
#include <string>
#include <string_view>

#include <bitmill/model/encoder_model.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "model.hpp"

namespace bitmill::capi {
namespace {

result<const encoder_model*> encoder_of(const bitmill_model* model) {
    if (model == nullptr) return invalid("model is NULL");
    return model->encoder;
}

result<token_batch> batch_from(const bitmill_tokens* given) {
    const auto c = read_struct(given);
    if (!c) return c.error();
    const auto ids = elements_from(c->ids, c->ids_count, "tokens.ids");
    if (!ids) return ids.error();
    const auto lengths = elements_from(c->lengths, c->lengths_count, "tokens.lengths");
    if (!lengths) return lengths.error();
    return token_batch{*ids, {c->types, c->types == nullptr ? 0 : ids->size()}, *lengths};
}

using run_method = result<void> (encoder_model::*)(const token_batch&, std::span<float>) const;

bitmill_status run_model(const bitmill_model* model, run_method run, const bitmill_tokens* tokens, float* dst,
                         std::uint64_t dst_count, bitmill_error* error) noexcept {
    return guard(error, [&]() -> result<void> {
        const auto encoder = encoder_of(model);
        if (!encoder) return encoder.error();
        const auto batch = batch_from(tokens);
        if (!batch) return batch.error();
        const auto room = elements_from(dst, dst_count, "dst");
        if (!room) return room.error();
        return ((*encoder)->*run)(*batch, *room);
    });
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::encoder_model;
using bitmill::result;
namespace capi = bitmill::capi;

bitmill_status bitmill_model_open(const char* path, const bitmill_model_options* options,
                                  bitmill_model** model, bitmill_error* error) {
    if (model != nullptr) *model = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (model == nullptr) return capi::invalid("model is NULL");
        auto opened = capi::open_handle<bitmill_model>(path, options);
        if (!opened) return opened.error();
        (*opened)->encoder = &*(*opened)->own;
        *model = opened->release();
        return {};
    });
}

void bitmill_model_destroy(bitmill_model* model) { capi::handle_of<bitmill_model>().reset(model); }

bitmill_status bitmill_model_get_facts(const bitmill_model* model, bitmill_model_facts* facts,
                                       bitmill_error* error) {
    if (capi::usable(facts)) capi::put_struct<bitmill_model_facts>(facts, BITMILL_MODEL_FACTS_INIT);
    return capi::guard(error, [&]() -> result<void> {
        const auto encoder = capi::encoder_of(model);
        if (!encoder) return encoder.error();
        if (const auto checked = capi::read_struct(facts); !checked) return checked.error();
        capi::put_struct(facts, capi::facts_from((*encoder)->facts()));
        return {};
    });
}

bitmill_status bitmill_model_json(const bitmill_model* model, char* dst, size_t dst_bytes,
                                  size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto encoder = capi::encoder_of(model);
        if (!encoder) return encoder.error();
        return capi::copy_text((*encoder)->facts().json(), dst, dst_bytes, needed_bytes);
    });
}

bitmill_status bitmill_model_embed(const bitmill_model* model, const bitmill_tokens* tokens, float* dst,
                                   uint64_t dst_count, bitmill_error* error) {
    return capi::run_model(model, &encoder_model::embed, tokens, dst, dst_count, error);
}

bitmill_status bitmill_model_hidden(const bitmill_model* model, const bitmill_tokens* tokens, float* dst,
                                    uint64_t dst_count, bitmill_error* error) {
    return capi::run_model(model, &encoder_model::hidden, tokens, dst, dst_count, error);
}

bitmill_status bitmill_model_logits(const bitmill_model* model, const bitmill_tokens* tokens, float* dst,
                                    uint64_t dst_count, bitmill_error* error) {
    return capi::run_model(model, &encoder_model::logits, tokens, dst, dst_count, error);
}

bitmill_status bitmill_model_observe(bitmill_model* model, bitmill_layer_observer observer, void* context,
                                     bitmill_error* error) {
    return capi::guard(error, [&]() -> result<void> {
        if (const auto encoder = capi::encoder_of(model); !encoder) return encoder.error();
        bitmill::layer_observer call;
        if (observer != nullptr)
            call = [observer, context](std::string_view layer, const float* x, std::size_t rows,
                                       std::size_t cols) {
                observer(context, std::string(layer).c_str(), x, rows, cols);
            };
        model->own->observe(std::move(call));
        return {};
    });
}
