#include "settings.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <fstream>
#include <utility>

namespace server {
namespace {

using bitmill::error;
using bitmill::error_code;
using bitmill::result;

std::string_view trimmed(std::string_view text) {
    const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    return text;
}

bool is_name(std::string_view text) {
    const auto fits = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
    return !text.empty() && std::isdigit(static_cast<unsigned char>(text.front())) == 0 &&
           std::all_of(text.begin(), text.end(), fits);
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

class reader {
public:
    explicit reader(const variables& all) : all_(all) {}

    result<settings> read() {
        settings out;
        auto& limits = out.thresholds;
        const std::pair<const char*, double*> shares[] = {
            {"QUANTIZE_MEMORY_COMFORTABLE", &limits.comfortable},
            {"QUANTIZE_MEMORY_MODERATE", &limits.moderate},
            {"QUANTIZE_MEMORY_TIGHT", &limits.tight},
            {"QUANTIZE_MEMORY_CRITICAL", &limits.critical}};
        for (const auto& [name, to] : shares)
            if (auto done = number(name, "a share of memory from 0 to 1", *to); !done) return done.error();
        const std::pair<const char*, unsigned*> loads[] = {{"QUANTIZE_LOAD_LOW", &limits.load_low},
                                                           {"QUANTIZE_LOAD_MODERATE", &limits.load_moderate},
                                                           {"QUANTIZE_LOAD_HIGH", &limits.load_high}};
        for (const auto& [name, to] : loads)
            if (auto done = number(name, "a number of requests", *to); !done) return done.error();
        std::uint64_t megabytes = out.max_cache_bytes / 1'000'000;
        if (auto done = number("MAX_MODEL_CACHE_MB", "a number of megabytes, below 10^12", megabytes); !done)
            return done.error();
        if (megabytes > 1'000'000'000'000) return refuse("MAX_MODEL_CACHE_MB", "below 10^12");
        out.max_cache_bytes = megabytes * 1'000'000;
        if (auto done = level(out.level); !done) return done.error();
        return out;
    }

private:
    [[nodiscard]] error refuse(const std::string& name, const std::string& allowed) const {
        return {.code = error_code::invalid_argument,
                .message = name + " is '" + all_.at(name) + "'; it must be " + allowed};
    }

    template <class Number>
    result<void> number(const char* name, const char* allowed, Number& to) const {
        const auto found = all_.find(name);
        if (found == all_.end() || found->second.empty()) return {};
        const auto& text = found->second;
        const auto done = std::from_chars(text.data(), text.data() + text.size(), to);
        if (done.ec == std::errc() && done.ptr == text.data() + text.size()) return {};
        return refuse(name, allowed);
    }

    // Off where either says so.
    result<void> level(std::string& to) const {
        const auto value_of = [&](const char* name) {
            const auto found = all_.find(name);
            return found == all_.end() ? std::string() : lower(found->second);
        };
        const std::string use = value_of("USE_QUANTIZATION"), config = value_of("QUANTIZATION_CONFIG");
        static constexpr std::array<const char*, 4> yes{"true", "1", "yes", "on"},
            no{"false", "0", "no", "off"};
        const bool off = std::find(no.begin(), no.end(), use) != no.end();
        if (!use.empty() && !off && std::find(yes.begin(), yes.end(), use) == yes.end())
            return refuse("USE_QUANTIZATION", "true or false");
        static constexpr std::array<const char*, 6> levels{"int8", "int4", "int2", "fp16", "auto", "none"};
        if (!config.empty() && std::find(levels.begin(), levels.end(), config) == levels.end())
            return refuse("QUANTIZATION_CONFIG", "int8, int4, int2, fp16, auto or none");
        to = off || config == "none" ? "original" : config.empty() ? "int8" : config;
        return {};
    }

    const variables& all_;
};

}  // namespace

result<variables> read_env_file(const std::string& path) {
    std::ifstream file(path);
    if (!file) return error{.code = error_code::io, .message = "cannot be read", .file = path};
    variables out;
    std::string line;
    for (std::size_t number = 1; std::getline(file, line); ++number) {
        std::string_view text = trimmed(line);
        if (text.empty() || text.front() == '#') continue;
        if (text.starts_with("export ")) text = trimmed(text.substr(7));
        const auto middle = text.find('=');
        const auto name = trimmed(text.substr(0, middle));
        if (middle == std::string_view::npos || !is_name(name))
            return error{.code = error_code::bad_input,
                         .message = "line " + std::to_string(number) + " is no NAME=VALUE",
                         .file = path};
        auto value = trimmed(text.substr(middle + 1));
        const char quote = value.empty() ? '\0' : value.front();
        if (quote == '"' || quote == '\'') {
            const auto end = value.find(quote, 1);
            if (end == std::string_view::npos)
                return error{.code = error_code::bad_input,
                             .message = "line " + std::to_string(number) + " has no closing " + quote,
                             .file = path};
            value = value.substr(1, end - 1);
        } else if (const auto comment = value.find(" #"); comment != std::string_view::npos) {
            value = trimmed(value.substr(0, comment));
        }
        out[std::string(name)] = std::string(value);
    }
    return out;
}

result<settings> settings_from(const variables& all) { return reader(all).read(); }

}  // namespace server
