#pragma once

#include <algorithm>
#include <array>
#include <string>

#include <bitmill/mill/options.hpp>

namespace bitmill {
namespace detail {

inline constexpr std::array format_names{
    "automatic", "plain", "compressed-tensors", "bitsandbytes", "bitmill", "gguf", "pickle"};

template <class Value>
struct option_name {
    const char* name;
    Value value;
};

inline constexpr std::array level_names{
    option_name<level_choice>{"int8", {scheme_type::int8}},
    option_name<level_choice>{"int4", {scheme_type::int4}},
    option_name<level_choice>{"int2", {scheme_type::int2}},
    option_name<level_choice>{"nf4", {scheme_type::nf4}},
    option_name<level_choice>{"fp4", {scheme_type::fp4}},
    option_name<level_choice>{"fp16", {scheme_type::f16}},
    option_name<level_choice>{"bf16", {scheme_type::bf16}},
    option_name<level_choice>{"fp32", {scheme_type::f32}},
    option_name<level_choice>{"q8_0", {scheme_type::q8_0}},
    option_name<level_choice>{"q4_0", {scheme_type::q4_0}},
    option_name<level_choice>{"q4_1", {scheme_type::q4_1}},
    option_name<level_choice>{"q5_0", {scheme_type::q5_0}},
    option_name<level_choice>{"q5_1", {scheme_type::q5_1}},
    option_name<level_choice>{"q2_k", {scheme_type::q2_k}},
    option_name<level_choice>{"q3_k", {scheme_type::q3_k}},
    option_name<level_choice>{"q4_k", {scheme_type::q4_k}},
    option_name<level_choice>{"q5_k", {scheme_type::q5_k}},
    option_name<level_choice>{"q6_k", {scheme_type::q6_k}},
    option_name<level_choice>{"iq4_nl", {scheme_type::iq4_nl}},
    option_name<level_choice>{"iq4_xs", {scheme_type::iq4_xs}},
    option_name<level_choice>{"mxfp4", {scheme_type::mxfp4}},
    option_name<level_choice>{"int8_weight_only", {scheme_type::int8}},
    option_name<level_choice>{"int4_weight_only", {scheme_type::int4}},
    option_name<level_choice>{"int8_dynamic", {scheme_type::int8, activation::dynamic_int8}},
};
inline constexpr std::array granularity_names{
    option_name<granularity>{"per_tensor", granularity::per_tensor},
    option_name<granularity>{"per_channel", granularity::per_channel},
    option_name<granularity>{"group", granularity::group}};
inline constexpr std::array method_names{option_name<method>{"absmax", method::absmax},
                                         option_name<method>{"mse", method::mse}};
inline constexpr std::array activation_names{
    option_name<activation>{"float", activation::floating},
    option_name<activation>{"dynamic-int8", activation::dynamic_int8}};
inline constexpr std::array embeddings_names{option_name<embeddings>{"keep", embeddings::keep},
                                             option_name<embeddings>{"fp16", embeddings::fp16},
                                             option_name<embeddings>{"int8", embeddings::int8}};
inline constexpr std::array float_dtype_names{
    option_name<dtype>{"f32", dtype::f32},     option_name<dtype>{"f16", dtype::f16},
    option_name<dtype>{"bf16", dtype::bf16},   option_name<dtype>{"float32", dtype::f32},
    option_name<dtype>{"float16", dtype::f16}, option_name<dtype>{"bfloat16", dtype::bf16}};

template <class Value, std::size_t Count>
const char* name_of_value(const std::array<option_name<Value>, Count>& names, Value value) {
    for (const auto& one : names)
        if (one.value == value) return one.name;
    return "";
}

// A name of the table, or an error that lists them: "there is no WHAT 'TEXT'; this version knows ...".
template <class Value, std::size_t Count>
result<Value> value_of_name(const std::array<option_name<Value>, Count>& names, std::string_view text,
                            const char* what) {
    std::string known;
    for (const auto& one : names) {
        if (text == one.name) return one.value;
        known.append(known.empty() ? "" : ", ").append(one.name);
    }
    return error{.code = error_code::invalid_argument,
                 .message = std::string("there is no ") + what + " '" + std::string(text) +
                            "'; this version knows " + known};
}

}  // namespace detail

BITMILL_INLINE result<granularity> granularity_from_text(std::string_view text) {
    return detail::value_of_name(detail::granularity_names, text, "granularity");
}

BITMILL_INLINE result<method> method_from_text(std::string_view text) {
    return detail::value_of_name(detail::method_names, text, "method");
}

BITMILL_INLINE result<activation> activation_from_text(std::string_view text) {
    return detail::value_of_name(detail::activation_names, text, "activation");
}

BITMILL_INLINE result<embeddings> embeddings_from_text(std::string_view text) {
    return detail::value_of_name(detail::embeddings_names, text, "embeddings setting");
}

BITMILL_INLINE result<dtype> float_dtype_from_text(std::string_view text) {
    return detail::value_of_name(detail::float_dtype_names, text, "dtype");
}

BITMILL_INLINE const char* to_text(format value) noexcept {
    return detail::format_names[static_cast<std::size_t>(value)];
}

BITMILL_INLINE result<format> format_from_text(std::string_view text) {
    for (std::size_t i = 1; i < detail::format_names.size(); ++i)
        if (text == detail::format_names[i]) return static_cast<format>(i);
    return error{
        .code = error_code::invalid_argument,
        .message = "there is no format '" + std::string(text) +
                   "'; this version writes plain, compressed-tensors, bitsandbytes, bitmill, gguf and "
                   "pickle"};
}

BITMILL_INLINE result<level_choice> level_from_text(std::string_view text) {
    return detail::value_of_name(detail::level_names, text, "level");
}

BITMILL_INLINE result<std::vector<scheme_type>> levels_from_text(std::string_view text) {
    std::vector<scheme_type> levels;
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const auto level = level_from_text(text.substr(begin, end - begin));
        if (!level) return level.error();
        levels.push_back(level->type);
        begin = end + 1;
    }
    return levels;
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
