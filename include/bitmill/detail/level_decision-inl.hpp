#pragma once

#include <algorithm>
#include <string>

#include <bitmill/model/level_decision.hpp>

namespace bitmill {

BITMILL_INLINE result<level_decision> resolve(std::string_view requested,
                                              std::span<const std::string> available,
                                              std::span<const std::string> capability, bool allow_fallback) {
    const auto in = [](std::span<const std::string> levels, std::string_view level) {
        return std::find(levels.begin(), levels.end(), level) != levels.end();
    };
    const auto may_run = [&](std::string_view level) { return capability.empty() || in(capability, level); };
    const bool there = in(available, requested);
    level_decision out{.requested = std::string(requested), .effective = {}, .reason = {}};
    if (there && may_run(requested)) {
        out.effective = out.requested;
        return out;
    }
    out.reason = out.requested + (there ? " may not be run here" : " is not there");
    const auto stand_in =
        std::find_if(available.begin(), available.end(), [&](const auto& level) { return may_run(level); });
    if (!allow_fallback || stand_in == available.end())
        return error{.code = there ? error_code::unsupported : error_code::invalid_argument,
                     .message = "level " + out.reason +
                                (allow_fallback ? ", and no level stands in for it"
                                                : "; allow a fallback, or ask for another level")};
    out.effective = *stand_in;
    return out;
}

}  // namespace bitmill
