// Texts that C hands in, and how they are to be run.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/model/text_encoder.hpp>

#include "bitmill.h"
#include "convert.hpp"
#include "model.hpp"

namespace bitmill::capi {

inline result<std::vector<std::string_view>> views_from(const bitmill_texts* given, const char* what) {
    const auto c = read_struct(given);
    if (!c) return c.error();
    const auto data = elements_from(c->data, c->count, what);
    if (!data) return data.error();
    std::vector<std::string_view> views;
    views.reserve(data->size());
    for (std::size_t i = 0; i < data->size(); ++i) {
        const char* const text = (*data)[i];
        const std::uint64_t bytes = c->bytes == nullptr ? 0 : c->bytes[i];
        if (text == nullptr && (c->bytes == nullptr || bytes != 0))
            return invalid(std::string(what) + " holds a NULL");
        if (text == nullptr)
            views.emplace_back();
        else
            views.emplace_back(text,
                               c->bytes == nullptr ? std::strlen(text) : static_cast<std::size_t>(bytes));
    }
    return views;
}

// `hooks` must outlive what uses the options.
inline result<text_options> options_from(const bitmill_text_options* given, bitmill_hooks& hooks) {
    const auto c = read_optional(given);
    if (!c) return c.error();
    const auto read = hooks_from(c->hooks);
    if (!read) return read.error();
    hooks = *read;
    if (c->prompt != nullptr && c->prompt_name != nullptr)
        return invalid("prompt and prompt_name are both set; leave one of them out");
    text_options options;
    options.max_length = static_cast<std::size_t>(c->max_length);
    if (c->prompt != nullptr) options.prompt = c->prompt;
    if (c->prompt_name != nullptr) options.prompt_name = c->prompt_name;
    if (hooks.progress != nullptr)
        options.on_progress = [&hooks](std::size_t done, std::size_t total) {
            return hooks.progress(hooks.progress_context, done, total) == 0;
        };
    return options;
}

inline result<void> check_order(std::uint64_t* order, std::uint64_t count, std::size_t documents) {
    const auto room = elements_from(order, count, "order");
    if (!room) return room.error();
    if (room->size() == documents) return {};
    return invalid("order has room for " + std::to_string(count) + " documents, there are " +
                   std::to_string(documents));
}

// `scores` may be null.
inline void put_ranked(const std::vector<ranked_document>& ranked, std::uint64_t* order,
                       float* scores) noexcept {
    for (std::size_t i = 0; i < ranked.size(); ++i) {
        order[i] = ranked[i].index;
        if (scores != nullptr) scores[i] = ranked[i].score;
    }
}

}  // namespace bitmill::capi
