// The C interface's text: tokenizers, and encoders that take texts.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/model/text_encoder.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "guard.hpp"
#include "model.hpp"
#include "texts.hpp"

struct bitmill_tokenizer {
    std::optional<bitmill::tokenizer> own = std::nullopt;
    const bitmill::tokenizer* words = nullptr;  // its own, or a text encoder's
};

struct bitmill_text_encoder {
    bitmill_hooks hooks;
    bitmill::capi::host_memory memory;
    std::optional<bitmill::text_encoder> own = std::nullopt;
    bitmill_model model = {};
    bitmill_tokenizer tokenizer = {};
};

namespace bitmill::capi {
namespace {

result<const text_encoder*> encoder_of(const bitmill_text_encoder* encoder) {
    if (encoder == nullptr) return invalid("encoder is NULL");
    return &*encoder->own;
}

result<const tokenizer*> words_of(const bitmill_tokenizer* tokenizer) {
    if (tokenizer == nullptr) return invalid("tokenizer is NULL");
    return tokenizer->words;
}

// Checks what embed and classify share, and calls the method.
using run_method = result<void> (text_encoder::*)(std::span<const std::string_view>, std::span<float>,
                                                  const text_options&) const;
bitmill_status run_texts(const bitmill_text_encoder* encoder, run_method run, const bitmill_texts* texts,
                         const bitmill_text_options* given, float* dst, std::uint64_t dst_count,
                         bitmill_error* error) noexcept {
    return guard(error, [&]() -> result<void> {
        const auto model = encoder_of(encoder);
        if (!model) return model.error();
        const auto views = views_from(texts, "texts.data");
        if (!views) return views.error();
        bitmill_hooks hooks;
        const auto options = options_from(given, hooks);
        if (!options) return options.error();
        const auto room = elements_from(dst, dst_count, "dst");
        if (!room) return room.error();
        return ((*model)->*run)(*views, *room, *options);
    });
}

template <class Element, class Values>
void put_elements(Element* dst, const Values& values) {
    if (dst != nullptr) std::copy(values.begin(), values.end(), dst);
}

// As many tokens as there are, or none.
result<void> put_sequence(const token_sequence& tokens, const bitmill_token_sequence& c,
                          bitmill_token_sequence* dst) {
    const std::size_t count = tokens.ids.size();
    dst->count = count;
    if (c.ids == nullptr && c.types == nullptr && c.begins == nullptr && c.ends == nullptr &&
        c.special_tokens == nullptr)
        return {};
    if (c.capacity < count)
        return invalid("there is room for " + std::to_string(c.capacity) + " tokens, the text has " +
                       std::to_string(count));
    put_elements(c.ids, tokens.ids);
    put_elements(c.types, tokens.types);
    put_elements(c.special_tokens, tokens.special_tokens);
    for (std::size_t i = 0; i < count; ++i) {
        if (c.begins != nullptr) c.begins[i] = tokens.offsets[i].begin;
        if (c.ends != nullptr) c.ends[i] = tokens.offsets[i].end;
    }
    return {};
}

}  // namespace
}  // namespace bitmill::capi

using bitmill::result;
using bitmill::text_encoder;
namespace capi = bitmill::capi;

bitmill_status bitmill_tokenizer_open(const char* path, bitmill_tokenizer** tokenizer, bitmill_error* error) {
    if (tokenizer != nullptr) *tokenizer = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (tokenizer == nullptr) return capi::invalid("tokenizer is NULL");
        const auto from = capi::text_from(path, "path");
        if (!from) return from.error();
        auto opened = bitmill::tokenizer::open(*from);
        if (!opened) return opened.error();
        auto made = std::make_unique<bitmill_tokenizer>();
        made->own = std::move(*opened);
        made->words = &*made->own;
        *tokenizer = made.release();
        return {};
    });
}

void bitmill_tokenizer_destroy(bitmill_tokenizer* tokenizer) { delete tokenizer; }

bitmill_status bitmill_tokenizer_encode(const bitmill_tokenizer* tokenizer, const bitmill_texts* text,
                                        const bitmill_tokenize_options* given, bitmill_token_sequence* dst,
                                        bitmill_error* error) {
    if (capi::usable(dst)) dst->count = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto c = capi::read_struct(dst);
        if (!c) return c.error();
        const auto words = capi::words_of(tokenizer);
        if (!words) return words.error();
        const auto views = capi::views_from(text, "text.data");
        if (!views) return views.error();
        if (views->empty() || views->size() > 2)
            return capi::invalid("text.count is " + std::to_string(views->size()) +
                                 "; 1 is a text, 2 a pair");
        const auto how = capi::read_optional(given);
        if (!how) return how.error();
        bitmill::tokenize_options options;
        options.add_special_tokens = how->no_special_tokens == 0;
        options.truncate = how->no_truncation == 0;
        if (how->max_length != 0) options.max_length = static_cast<std::size_t>(how->max_length);
        const auto tokens = views->size() == 1 ? (*words)->encode(views->front(), options)
                                               : (*words)->encode(views->front(), views->back(), options);
        if (!tokens) return tokens.error();
        return capi::put_sequence(*tokens, *c, dst);
    });
}

bitmill_status bitmill_text_encoder_open(const char* path, const bitmill_model_options* options,
                                         bitmill_text_encoder** encoder, bitmill_error* error) {
    if (encoder != nullptr) *encoder = nullptr;
    return capi::guard(error, [&]() -> result<void> {
        if (encoder == nullptr) return capi::invalid("encoder is NULL");
        auto opened = capi::open_handle<bitmill_text_encoder>(path, options);
        if (!opened) return opened.error();
        bitmill_text_encoder& made = **opened;
        made.model.encoder = &made.own->model();
        made.tokenizer.words = &made.own->tokenizer();
        *encoder = opened->release();
        return {};
    });
}

void bitmill_text_encoder_destroy(bitmill_text_encoder* encoder) {
    capi::handle_of<bitmill_text_encoder>().reset(encoder);
}

const bitmill_model* bitmill_text_encoder_model(const bitmill_text_encoder* encoder) {
    return encoder == nullptr ? nullptr : &encoder->model;
}

const bitmill_tokenizer* bitmill_text_encoder_tokenizer(const bitmill_text_encoder* encoder) {
    return encoder == nullptr ? nullptr : &encoder->tokenizer;
}

bitmill_status bitmill_text_encoder_json(const bitmill_text_encoder* encoder, char* dst, size_t dst_bytes,
                                         size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto model = capi::encoder_of(encoder);
        if (!model) return model.error();
        return capi::copy_text((*model)->facts().json(), dst, dst_bytes, needed_bytes);
    });
}

bitmill_status bitmill_text_encoder_space_id(const bitmill_text_encoder* encoder, char* dst, size_t dst_bytes,
                                             size_t* needed_bytes, bitmill_error* error) {
    if (needed_bytes != nullptr) *needed_bytes = 0;
    return capi::guard(error, [&]() -> result<void> {
        const auto model = capi::encoder_of(encoder);
        if (!model) return model.error();
        const auto id = (*model)->space_id();
        if (!id) return id.error();
        return capi::copy_text(*id, dst, dst_bytes, needed_bytes);
    });
}

bitmill_status bitmill_text_encoder_embed(const bitmill_text_encoder* encoder, const bitmill_texts* texts,
                                          const bitmill_text_options* options, float* dst, uint64_t dst_count,
                                          bitmill_error* error) {
    return capi::run_texts(encoder, &text_encoder::embed, texts, options, dst, dst_count, error);
}

bitmill_status bitmill_text_encoder_classify(const bitmill_text_encoder* encoder, const bitmill_texts* texts,
                                             const bitmill_text_options* options, float* dst,
                                             uint64_t dst_count, bitmill_error* error) {
    return capi::run_texts(encoder, &text_encoder::classify, texts, options, dst, dst_count, error);
}

bitmill_status bitmill_text_encoder_pair_logits(const bitmill_text_encoder* encoder,
                                                const bitmill_texts* first, const bitmill_texts* second,
                                                const bitmill_text_options* given, float* dst,
                                                uint64_t dst_count, bitmill_error* error) {
    return capi::guard(error, [&]() -> result<void> {
        const auto model = capi::encoder_of(encoder);
        if (!model) return model.error();
        const auto left = capi::views_from(first, "first.data");
        if (!left) return left.error();
        const auto right = capi::views_from(second, "second.data");
        if (!right) return right.error();
        bitmill_hooks hooks;
        const auto options = capi::options_from(given, hooks);
        if (!options) return options.error();
        const auto room = capi::elements_from(dst, dst_count, "dst");
        if (!room) return room.error();
        return (*model)->pair_logits(*left, *right, *room, *options);
    });
}

bitmill_status bitmill_text_encoder_rerank(const bitmill_text_encoder* encoder, const char* query,
                                           const bitmill_texts* documents, const bitmill_text_options* given,
                                           uint64_t* order, float* scores, uint64_t dst_count,
                                           bitmill_error* error) {
    return capi::guard(error, [&]() -> result<void> {
        const auto model = capi::encoder_of(encoder);
        if (!model) return model.error();
        if (query == nullptr) return capi::invalid("query is NULL");
        const auto views = capi::views_from(documents, "documents.data");
        if (!views) return views.error();
        bitmill_hooks hooks;
        const auto options = capi::options_from(given, hooks);
        if (!options) return options.error();
        if (auto room = capi::check_order(order, dst_count, views->size()); !room) return room;
        const auto ranked = (*model)->rerank(query, *views, *options);
        if (!ranked) return ranked.error();
        capi::put_ranked(*ranked, order, scores);
        return {};
    });
}
