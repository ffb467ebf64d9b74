// Handles of what runs: each lies in the host's memory, and what it uses while it lives comes before it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <bitmill/model/encoder_model.hpp>

#include "bitmill.h"
#include "convert.hpp"

struct bitmill_model {
    bitmill_hooks hooks;
    bitmill::capi::host_memory memory;
    std::optional<bitmill::encoder_model> own = std::nullopt;
    const bitmill::encoder_model* encoder = nullptr;  // its own, or a text encoder's
};

namespace bitmill::capi {

template <class Handle>
struct handle_deleter {
    void operator()(Handle* handle) const noexcept {
        host_memory memory = handle->memory;
        handle->~Handle();
        memory.deallocate(handle, sizeof(Handle), alignof(Handle));
    }
};
template <class Handle>
using handle_of = std::unique_ptr<Handle, handle_deleter<Handle>>;

// Into an array of a struct that is 0 everywhere.
template <std::size_t Size>
void put_text(char (&dst)[Size], std::string_view text) noexcept {
    std::size_t bytes = std::min(text.size(), Size - 1);
    // Whole characters: UTF-8 goes on with bytes of 10xxxxxx.
    while (bytes < text.size() && bytes != 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80)
        --bytes;
    std::memcpy(dst, text.data(), bytes);
}

inline bitmill_model_facts facts_from(const model_facts& facts) noexcept {
    bitmill_model_facts c = BITMILL_MODEL_FACTS_INIT;
    c.dynamic_int8 = facts.dynamic_int8 ? 1 : 0;
    c.embedding_size = facts.embedding_size;
    c.hidden_size = facts.hidden_size;
    c.labels = facts.labels;
    c.layers = facts.layers;
    c.heads = facts.heads;
    c.vocabulary = facts.vocabulary;
    c.token_types = facts.token_types;
    c.max_tokens = facts.max_tokens;
    c.file_bytes = facts.file_bytes;
    c.weight_bytes = facts.weight_bytes;
    put_text(c.model_type, facts.model_type);
    put_text(c.requested, facts.requested);
    put_text(c.effective, facts.effective);
    put_text(c.pooling, to_text(facts.pooling));
    c.normalize = facts.normalize ? 1 : 0;
    return c;
}

// But for the host's memory and threads.
inline result<model_options> model_options_from(const bitmill_model_options& c) {
    model_options options;
    options.threads = c.threads;
    if (c.level != nullptr) options.level = c.level;
    if (auto done = put_named(c.activation, activation_from_text, options.activation); !done)
        return done.error();
    return options;
}

// In the host's memory: Handle{memory, rest...}.
template <class Handle, class... Rest>
handle_of<Handle> new_handle(host_memory memory, Rest&&... rest) {
    void* const place = memory.allocate(sizeof(Handle), alignof(Handle));
    return handle_of<Handle>(new (place) Handle{memory, std::forward<Rest>(rest)...});
}

// A handle whose `own` is what open(path, options, hooks) gives; the hooks are those of the handle.
template <class Handle, class Open>
result<handle_of<Handle>> open_handle(const char* path, const bitmill_model_options* given,
                                      const Open& open) {
    const auto from = text_from(path, "path");
    if (!from) return from.error();
    const auto c = read_optional(given);
    if (!c) return c.error();
    const auto hooks = hooks_from(c->hooks);
    if (!hooks) return hooks.error();
    auto options = model_options_from(*c);
    if (!options) return options.error();
    host_memory memory(*hooks);
    handle_of<Handle> handle(new (memory.allocate(sizeof(Handle), alignof(Handle))) Handle{*hooks, memory});
    put_host(handle->hooks, handle->memory, *options);
    auto opened = open(*from, *options, handle->hooks);
    if (!opened) return opened.error();
    handle->own = std::move(opened).value();
    return handle;
}

// One that `Handle::own` opens by itself.
template <class Handle>
result<handle_of<Handle>> open_handle(const char* path, const bitmill_model_options* given) {
    return open_handle<Handle>(
        path, given, [](const std::string& from, const model_options& options, const bitmill_hooks&) {
            return decltype(Handle::own)::value_type::open(from, options);
        });
}

template <class Element>
result<std::span<Element>> elements_from(Element* data, std::uint64_t count, const char* what) {
    if (data == nullptr && count != 0) return invalid(std::string(what) + " is NULL");
    if (count > PTRDIFF_MAX / sizeof(Element))
        return invalid(std::string(what) + " cannot have " + std::to_string(count) + " elements");
    return std::span<Element>(data, static_cast<std::size_t>(count));
}

}  // namespace bitmill::capi
