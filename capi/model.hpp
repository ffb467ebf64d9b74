// Handles of what runs: each lies in the host's memory, and what it uses while it lives comes before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
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

// A handle whose `own` is opened with the options.
template <class Handle>
result<handle_of<Handle>> open_handle(const char* path, const bitmill_model_options* given) {
    const auto from = text_from(path, "path");
    if (!from) return from.error();
    const auto c = read_optional(given);
    if (!c) return c.error();
    const auto hooks = hooks_from(c->hooks);
    if (!hooks) return hooks.error();
    model_options options;
    options.threads = c->threads;
    if (c->level != nullptr) options.level = c->level;
    if (auto done = put_named(c->activation, activation_from_text, options.activation); !done)
        return done.error();
    host_memory memory(*hooks);
    handle_of<Handle> handle(new (memory.allocate(sizeof(Handle), alignof(Handle))) Handle{*hooks, memory});
    put_host(handle->hooks, handle->memory, options);
    auto opened = decltype(handle->own)::value_type::open(*from, options);
    if (!opened) return opened.error();
    handle->own = std::move(opened).value();
    return handle;
}

template <class Element>
result<std::span<Element>> elements_from(Element* data, std::uint64_t count, const char* what) {
    if (data == nullptr && count != 0) return invalid(std::string(what) + " is NULL");
    if (count > PTRDIFF_MAX / sizeof(Element))
        return invalid(std::string(what) + " cannot have " + std::to_string(count) + " elements");
    return std::span<Element>(data, static_cast<std::size_t>(count));
}

}  // namespace bitmill::capi
