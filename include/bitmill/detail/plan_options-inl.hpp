// What is asked for, read and checked: regular expressions, overrides, and which options go with which container.
#pragma once

#include <algorithm>
#include <charconv>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/detail/plan_gguf-inl.hpp>
#include <bitmill/mill/options.hpp>

namespace bitmill::detail {

inline error usage(std::string message, error_code code = error_code::invalid_argument) {
    return {.code = code, .message = std::move(message)};
}

class pattern_list {
public:
    static result<pattern_list> compile(const std::vector<std::string>& patterns, const char* option) {
        pattern_list out;
        for (const auto& text : patterns) {
            // std::regex compiles by recursion.
            if (text.size() > 1000) return usage(std::string(option) + ": a pattern may have 1000 bytes");
            try {
                out.patterns_.emplace_back(text, syntax);
            } catch (const std::regex_error& bad) {
                return usage(std::string(option) + " '" + text +
                             "' is not a regular expression: " + bad.what());
            }
        }
        return out;
    }
    [[nodiscard]] bool empty() const { return patterns_.empty(); }
    [[nodiscard]] bool match(const std::string& name) const {
        return std::any_of(patterns_.begin(), patterns_.end(),
                           [&](const std::regex& one) { return std::regex_search(name, one); });
    }

private:
    // libstdc++ can match without backtracking, so that no pattern takes exponential time; it then refuses
    // back-references.
#if defined(__GLIBCXX__)
    static constexpr auto syntax = std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
    static constexpr auto syntax = std::regex::ECMAScript;
#endif
    std::vector<std::regex> patterns_;
};

struct override_rule {
    pattern_list pattern;
    std::optional<scheme> to;  // empty: keep
};

inline format container_of(const mill_options& options) {
    return options.format != format::automatic ? options.format
           : facts(options.to).ggml != nullptr ? format::gguf
           : options.to == scheme_type::int2   ? format::bitmill
           : facts(options.to).integer         ? format::compressed_tensors
           : facts(options.to).code_book       ? format::bitsandbytes
                                               : format::plain;
}

// Where few levels must do, and where one scale serves two, a search pays.
inline method default_method(const scheme& s) {
    const bool eight_bits = s.type == scheme_type::int8 || s.type == scheme_type::q8_0;
    return s.planes || (codes_rows(s.type) && !eight_bits) ? method::mse : method::absmax;
}

inline scheme base_scheme(const mill_options& options) {
    const bool native = container_of(options) == format::bitmill;
    if (container_of(options) == format::gguf) {
        const scheme_type type = gguf_type_of(options.to);
        if (facts(type).ggml != nullptr) return ggml_scheme(type);
    }
    scheme s;
    s.type = options.to;
    s.symmetric =
        options.symmetric && options.to != scheme_type::int2;  // four levels need a zero of their own
    if (facts(s.type).code_book) {
        s.granularity = granularity::block;
        s.group_size = options.block_size;
        s.double_quant = options.double_quant;
    } else if (facts(s.type).integer) {
        const bool by_default_groups = options.to != scheme_type::int8 || native;
        s.granularity =
            options.granularity.value_or(by_default_groups ? granularity::group : granularity::per_channel);
        s.group_size = s.granularity != granularity::group ? 0
                       : options.group_size != 0           ? options.group_size
                       : options.to == scheme_type::int2   ? 32
                                                           : 128;
        if (native) s.scale_dtype = dtype::f16;
        // Two levels in one: the default of int8, where the codes allow it.
        s.planes = native && options.to == scheme_type::int8 &&
                   (options.levels.empty() ? s.symmetric && s.granularity != granularity::per_tensor
                                           : options.levels.size() == 2);
    }
    return s;
}

// "keep", or TYPE with ":N" (group_size or block_size), ":per_channel" or ":per_tensor" behind it.
inline result<std::optional<scheme>> scheme_from_text(std::string_view text, const mill_options& options) {
    if (text == "keep") return std::optional<scheme>{};
    const auto colon = text.find(':');
    auto choice = level_from_text(text.substr(0, colon));
    if (!choice) return choice.error();
    mill_options wanted = options;
    wanted.format = container_of(options);
    if (choice->type != options.to) wanted.granularity.reset();
    wanted.to = choice->type;
    if (colon != std::string_view::npos) {
        const std::string_view detail = text.substr(colon + 1);
        std::size_t size = 0;
        const auto [end, code] = std::from_chars(detail.data(), detail.data() + detail.size(), size);
        if (detail == "per_channel") {
            wanted.granularity = granularity::per_channel;
        } else if (detail == "per_tensor") {
            wanted.granularity = granularity::per_tensor;
        } else if (code == std::errc{} && end == detail.data() + detail.size() && size > 0) {
            wanted.granularity = granularity::group;
            wanted.group_size = wanted.block_size = size;
        } else {
            return usage("'" + std::string(detail) + "' in override scheme '" + std::string(text) +
                         "' is neither a size nor per_channel nor per_tensor");
        }
    }
    return std::optional<scheme>(base_scheme(wanted));
}

inline result<std::vector<override_rule>> read_overrides(const mill_options& options) {
    std::vector<override_rule> rules;
    for (const auto& text : options.override) {
        const auto equals = text.rfind('=');
        if (equals == std::string::npos) return usage("override '" + text + "' is not of the form RE=SCHEME");
        auto pattern = pattern_list::compile({text.substr(0, equals)}, "override");
        if (!pattern) return pattern.error();
        auto to = scheme_from_text(std::string_view(text).substr(equals + 1), options);
        if (!to) return to.error();
        rules.push_back({std::move(pattern).value(), *to});
    }
    return rules;
}

// All that can be chosen of a type of GGUF is the type.
inline result<void> check_gguf_options(const scheme& s, const mill_options& options) {
    const std::string name = facts(s.type).name;
    if (!facts(s.type).encodes) return usage(name + " is read and not written", error_code::unsupported);
    if (options.granularity)
        return usage("per_tensor, per_channel and group_size go with int8 and int4 of other formats; " +
                     name + " has blocks of its own");
    if (options.block_size != mill_options().block_size) return usage("block_size goes with nf4 and fp4");
    if (options.double_quant) return usage("double_quant goes with nf4 and fp4");
    if (!options.symmetric && !gguf_has_minimum(s.type))
        return usage(name + " is symmetric; asymmetric are q4_1, q5_1, q4_k and q5_k");
    if (options.activation == activation::dynamic_int8)
        return usage("activation dynamic-int8 goes with int8 weights in compressed-tensors");
    return {};
}

// Names, order and keys of a .gguf are llama.cpp's, and stay.
inline result<void> check_source(bool is_gguf, format container) {
    if (is_gguf && container != format::gguf)
        return usage(std::string("a .gguf becomes a .gguf: readers of ") + to_text(container) +
                         " do not know its names; give the model that it was made from",
                     error_code::unsupported);
    if (!is_gguf && container == format::gguf)
        return usage(
            "format gguf needs a .gguf model: make one of this with llama.cpp's convert_hf_to_gguf.py, "
            "then quantize that",
            error_code::unsupported);
    if (container == format::pickle)
        return usage("format pickle is what a .pkl, .pickle or .joblib file becomes, and stays",
                     error_code::unsupported);
    return {};
}

// What a container's readers can load. One place decides; the message names what can hold the request.
inline result<void> check_container(format container, const scheme& s, const mill_options& options) {
    const auto& type = facts(s.type);
    // Sizes that no row could have; whether they divide a row is settled tensor by tensor.
    if (auto sound = check_scheme(s, dtype::f32, 1, 0); !sound) return sound;
    if (is_plain(s.type)) return {};
    if (container == format::gguf && type.ggml == nullptr)
        return usage(std::string("gguf holds its own types, fp16, bf16 and fp32; ") + type.name + " needs " +
                     (type.integer ? "compressed-tensors or bitmill" : "bitsandbytes"));
    if (container != format::gguf && type.ggml != nullptr)
        return usage(std::string(type.name) + " needs format gguf, which a .gguf model becomes");
    if (type.ggml != nullptr) return check_gguf_options(s, options);
    if (container == format::bitmill && type.code_book)
        return usage(std::string("bitmill holds integer codes; ") + type.name + " needs bitsandbytes");
    if (container != format::bitmill && s.type == scheme_type::int2)
        return usage("int2 needs format bitmill");
    if (container == format::plain)
        return usage(std::string("plain holds fp32, fp16 and bf16; ") + type.name + " needs " +
                     (type.integer ? "compressed-tensors" : "bitsandbytes"));
    if (container == format::compressed_tensors && !type.integer)
        return usage(std::string("compressed-tensors holds int8 and int4; ") + type.name +
                     " needs bitsandbytes");
    if (container == format::bitsandbytes && !type.code_book)
        return usage(std::string("bitsandbytes holds nf4 and fp4 here; ") + type.name +
                     " needs compressed-tensors");
    if (!s.symmetric && container != format::bitmill)
        return usage(
            "asymmetric is refused: readers of compressed-tensors 0.20 cannot load zero points, and "
            "bitsandbytes has none. Format bitmill holds them",
            error_code::unsupported);
    if (options.group_size != 0 && options.granularity && *options.granularity != granularity::group)
        return usage("group_size goes with granularity group");
    if (options.block_size != mill_options().block_size && !type.code_book)
        return usage(std::string("block_size goes with nf4 and fp4, not with ") + type.name);
    if (options.activation == activation::dynamic_int8 &&
        (s.type != scheme_type::int8 || container == format::bitmill))
        return usage("activation dynamic-int8 goes with int8 weights in compressed-tensors");
    return {};
}

inline result<void> check_levels(const mill_options& options, format container, const scheme& base) {
    if (options.levels.empty()) return {};
    if (container != format::bitmill) return usage("levels are those of format bitmill");
    const auto holds = [&](scheme_type type) {
        return std::count(options.levels.begin(), options.levels.end(), type) == 1;
    };
    const bool alone = options.levels.size() == 1 && holds(options.to);
    const bool both = base.planes && holds(scheme_type::int8) && holds(scheme_type::int4);
    if (alone || both) return {};
    return usage(std::string("levels: ") + facts(options.to).name + " has " + facts(options.to).name +
                 (options.to == scheme_type::int8 ? " or int8,int4" : " only"));
}

inline bool asks_to_prune(const mill_options& options) {
    return options.weight_threshold > 0 || options.prune_relative > 0 || options.target_sparsity > 0;
}

inline result<void> check_pruning(const mill_options& options) {
    if (!(options.weight_threshold >= 0 && options.weight_threshold <= 3.4e38f))
        return usage("weight_threshold must be a number of 0 or more");
    if (!(options.prune_relative >= 0 && options.prune_relative <= 1))
        return usage("prune_relative is a share of a tensor's largest weight: 0 to 1");
    if (!(options.target_sparsity >= 0 && options.target_sparsity < 1))
        return usage("target_sparsity is a share of a tensor's weights: 0 or more, and less than 1");
    if ((options.weight_threshold > 0) + (options.prune_relative > 0) + (options.target_sparsity > 0) > 1)
        return usage("choose one of weight_threshold, prune_relative and target_sparsity");
    return {};
}

inline std::string pruning_text(const mill_options& options) {
    const auto text = [](const char* name, auto value) {
        char digits[32];  // the shortest that reads back as the same number
        const auto end = std::to_chars(std::begin(digits), std::end(digits), value).ptr;
        return std::string(name) + " " + std::string(digits, end);
    };
    if (options.weight_threshold > 0) return text("weight_threshold", options.weight_threshold);
    if (options.prune_relative > 0) return text("prune_relative", options.prune_relative);
    return options.target_sparsity > 0 ? text("target_sparsity", options.target_sparsity) : std::string();
}

inline result<void> check_options(const mill_options& options, format container, const scheme& base,
                                  method chosen) {
    const auto& type = facts(options.to);
    if (options.embeddings == embeddings::int8 && container != format::bitmill && container != format::gguf)
        return usage(
            "embeddings int8 is refused: transformers cannot load a packed embedding; format bitmill holds "
            "it. "
            "fp16 and keep work",
            error_code::unsupported);
    if (container == format::bitmill && !type.integer)
        return usage(std::string("bitmill holds integer levels; ") + type.name + " needs " +
                     (type.code_book ? "bitsandbytes" : "plain"));
    if (auto sound = check_levels(options, container, base); !sound) return sound;
    if (auto sound = check_pruning(options); !sound) return sound;
    if (options.double_quant && !type.code_book) return usage("double_quant goes with nf4 and fp4");
    if (options.granularity && !type.integer)
        return usage(std::string("per_tensor, per_channel and group_size go with int8 and int4; ") +
                     type.name + (type.code_book ? " has block_size" : " has no scales"));
    if (options.activation == activation::dynamic_int8 && options.to != scheme_type::int8)
        return usage("activation dynamic-int8 goes with int8");
    if (chosen == method::mse && !codes_rows(base.type))
        return usage("method mse is for integers and the types of GGUF");
    if (chosen == method::mse && base.granularity == granularity::per_tensor)
        return usage("method mse needs per_channel or a group_size; per_tensor has absmax");
    return check_container(container, base, options);
}

}  // namespace bitmill::detail
