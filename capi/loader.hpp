// The handle of a loader: one that was opened by itself, or a managed model's.
#pragma once

#include <optional>

#include <bitmill/model/model_loader.hpp>

#include "bitmill.h"
#include "convert.hpp"

struct bitmill_model_loader {
    bitmill_hooks hooks;
    bitmill::capi::host_memory memory;
    std::optional<bitmill::model_loader> own = std::nullopt;
    bitmill::model_loader* serves = nullptr;  // its own, or a managed model's
};
