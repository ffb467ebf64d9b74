#pragma once

#include <array>
#include <string>

#include <bitmill/mill/options.hpp>

namespace bitmill {
namespace detail {

inline constexpr std::array format_names{"automatic", "plain", "compressed-tensors", "bitsandbytes"};

struct level_name {
    const char* name;
    level_choice choice;
};

inline constexpr std::array level_names{
    level_name{"int8", {scheme_type::int8}},
    level_name{"int4", {scheme_type::int4}},
    level_name{"nf4", {scheme_type::nf4}},
    level_name{"fp4", {scheme_type::fp4}},
    level_name{"fp16", {scheme_type::f16}},
    level_name{"bf16", {scheme_type::bf16}},
    level_name{"fp32", {scheme_type::f32}},
    level_name{"int8_weight_only", {scheme_type::int8}},
    level_name{"int4_weight_only", {scheme_type::int4}},
    level_name{"int8_dynamic", {scheme_type::int8, activation::dynamic_int8}},
};

template <class Names, class Name>
inline std::string list_names(const Names& names, const Name& name_of) {
    std::string out;
    for (const auto& one : names) out.append(out.empty() ? "" : ", ").append(name_of(one));
    return out;
}

}  // namespace detail

BITMILL_INLINE const char* to_text(format value) noexcept {
    return detail::format_names[static_cast<std::size_t>(value)];
}

BITMILL_INLINE result<format> format_from_text(std::string_view text) {
    for (std::size_t i = 1; i < detail::format_names.size(); ++i)
        if (text == detail::format_names[i]) return static_cast<format>(i);
    error what{.code = error_code::invalid_argument,
               .message = "there is no format '" + std::string(text) +
                          "'; this version writes plain, "
                          "compressed-tensors and bitsandbytes"};
    if (text == "bitmill" || text == "gguf" || text == "pickle") {
        what.code = error_code::unsupported;
        what.message =
            "format " + std::string(text) +
            " is not written by this version; it writes plain, compressed-tensors and bitsandbytes";
    }
    return what;
}

BITMILL_INLINE result<level_choice> level_from_text(std::string_view text) {
    for (const auto& one : detail::level_names)
        if (text == one.name) return one.choice;
    return error{
        .code = error_code::invalid_argument,
        .message = "there is no level '" + std::string(text) + "'; this version knows " +
                   detail::list_names(detail::level_names, [](const auto& one) { return one.name; })};
}

BITMILL_INLINE result<mill_options> options_from_bit_depth(int bit_depth, float weight_threshold,
                                                           bool use_dynamic_quantization) {
    mill_options options;
    options.weight_threshold = weight_threshold;
    options.dynamic_range = use_dynamic_quantization;
    switch (bit_depth) {
        case 8:
            options.to = scheme_type::int8;
            options.granularity = granularity::per_tensor;
            return options;
        case 16: options.to = scheme_type::f16; return options;
        case 32: options.to = scheme_type::f32; return options;
        default: break;
    }
    return error{.code = error_code::invalid_argument,
                 .message = "bit_depth is 8, 16 or 32, not " + std::to_string(bit_depth)};
}

}  // namespace bitmill
