// The variables by which services of this kind are set up, from the environment or from .env files.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include <bitmill/bitmill.hpp>

namespace server {

using variables = std::map<std::string, std::string>;

// NAME=VALUE a line; '#' begins a comment; quotes around a value are taken off, `export` in front of a name is left out.
// Errors: bad_input names file and line; io.
[[nodiscard]] bitmill::result<variables> read_env_file(const std::string& path);

struct settings {
    // Of USE_QUANTIZATION and QUANTIZATION_CONFIG: int8 (the default), int4, fp16, auto (the manager's choice), or original
    // where either says off.
    std::string level = "int8";
    std::uint64_t max_cache_bytes = 8'000'000'000;  // MAX_MODEL_CACHE_MB, of 10^6 bytes
    // QUANTIZE_MEMORY_COMFORTABLE, _MODERATE, _TIGHT, _CRITICAL; QUANTIZE_LOAD_LOW, _MODERATE, _HIGH.
    bitmill::policy_thresholds thresholds = {};
};

// Errors: invalid_argument names the variable and what it may be.
[[nodiscard]] bitmill::result<settings> settings_from(const variables& all);

}  // namespace server
