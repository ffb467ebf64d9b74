// A comparison as JSON and as lines for a terminal.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/compare_gate-inl.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/eval/compare.hpp>

namespace bitmill {
namespace detail {

// Whatever the host's locale. NaN and infinity as words.
[[nodiscard]] inline std::string fixed_text(double value, int digits) {
    if (std::isnan(value)) return "unknown";
    if (std::isinf(value)) return value > 0 ? "infinite" : "-infinite";
    char text[400];
    const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed, digits).ptr;
    const std::string out(text, end);
    // Not "-0.0".
    return out.front() == '-' && out.find_first_not_of("-0.") == std::string::npos ? out.substr(1) : out;
}

// "+0.3 %": of a share.
[[nodiscard]] inline std::string percent_text(double share, int digits = 1) {
    const std::string text = fixed_text(share * 100, digits);
    const bool above = text.find_first_not_of("0.") != std::string::npos && text.front() != '-';
    return std::string(above && std::isfinite(share) ? "+" : "") + text + " %";
}

[[nodiscard]] inline std::string bytes_text(std::uint64_t bytes) {
    constexpr const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1000; ++unit) value /= 1000;
    return fixed_text(value, unit == 0 ? 0 : 1) + " " + units[unit];
}

// "3.92 x smaller", "1.10 x more".
[[nodiscard]] inline std::string times_text(double original, double quantized, const char* less,
                                            const char* more) {
    if (!(original > 0) || !(quantized > 0)) return "";
    const bool is_less = quantized <= original;
    const double times = is_less ? original / quantized : quantized / original;
    return fixed_text(times, 2) + " x " + (is_less ? less : more);
}

// One line of the table of performance.
struct performance_row {
    std::string name, original, quantized, difference;
    double values[2];
};

[[nodiscard]] inline std::vector<performance_row> performance_rows(const comparison& of) {
    const auto &a = of.original, &b = of.quantized;
    std::vector<performance_row> rows;
    const auto bytes = [&](const char* name, std::uint64_t was, std::uint64_t is, const char* less,
                           const char* more) {
        const auto x = static_cast<double>(was), y = static_cast<double>(is);
        rows.push_back({name, bytes_text(was), bytes_text(is), times_text(x, y, less, more), {x, y}});
    };
    const auto number = [&](const char* name, double was, double is, int digits, const char* unit,
                            const char* less, const char* more) {
        rows.push_back({name,
                        fixed_text(was, digits) + unit,
                        fixed_text(is, digits) + unit,
                        times_text(was, is, less, more),
                        {was, is}});
    };
    bytes("weights in files", a.facts.file_bytes, b.facts.file_bytes, "smaller", "larger");
    bytes("weights in memory", a.facts.weight_bytes, b.facts.weight_bytes, "smaller", "larger");
    if (a.loaded_bytes != 0 && b.loaded_bytes != 0)
        bytes("process grew by", a.loaded_bytes, b.loaded_bytes, "less", "more");
    number("load", a.load_ms, b.load_ms, 1, " ms", "faster", "slower");
    number("latency p50", a.latency_p50_ms, b.latency_p50_ms, 2, " ms", "faster", "slower");
    number("latency p95", a.latency_p95_ms, b.latency_p95_ms, 2, " ms", "faster", "slower");
    number("tokens a second", a.tokens_per_s, b.tokens_per_s, 0, "", "slower", "faster");
    return rows;
}

[[nodiscard]] inline std::string level_text(const model_facts& facts) {
    std::string out = "level " + facts.effective;
    if (!facts.requested.empty() && facts.requested != facts.effective)
        out += " instead of " + facts.requested;
    if (!facts.reason.empty()) out += " (" + facts.reason + ")";
    return printable(out + ", activation " + (facts.dynamic_int8 ? "dynamic-int8" : "float"));
}

// What is said beside the numbers; a line each.
[[nodiscard]] inline std::vector<std::string> remarks_of(const comparison& of) {
    std::vector<std::string> out;
    const std::string texts = std::to_string(of.texts);
    if (of.reranker)
        out.push_back("logits of the same pair differ by " + fixed_text(of.logit_difference_mean, 4) +
                      " on average, " + fixed_text(of.logit_difference_max, 4) + " at most (" + texts +
                      " pairs)");
    else
        out.push_back("cosine of both vectors of a text: mean " + fixed_text(of.cosine_mean, 5) + ", least " +
                      fixed_text(of.cosine_min, 5) + " (" + texts + " texts)");
    if (of.pairs != 0) {
        out.push_back("of a query's 10 best documents " + fixed_text(of.overlap * 100, 1) +
                      " % are the same (top-k overlap)");
        out.push_back(
            "cosine of a query and its document: " + fixed_text(of.original.pair_cosine, 4) + " -> " +
            fixed_text(of.quantized.pair_cosine, 4) +
            "; no measure of quality: it rises where coarse weights move all vectors closer together");
    }
    if (of.metrics.empty())
        out.push_back(
            "quality was not measured: that takes pairs or tasks of what the model is used for; the texts "
            "were a few sentences of bitmill's own");
    return out;
}

[[nodiscard]] inline std::string padded(const std::string& text, std::size_t width, bool left = false) {
    // By characters, not by bytes.
    const auto length = static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
    const std::string blanks(width > length ? width - length : 0, ' ');
    return left ? text + blanks : blanks + text;
}

[[nodiscard]] inline ordered_json side_json(const compared_model& of) {
    const model_facts& facts = of.facts;
    return json_object({{"path", facts.path},
                        {"model_type", facts.model_type},
                        {"requested", facts.requested},
                        {"effective", facts.effective},
                        {"reason", facts.reason},
                        {"dynamic_int8", facts.dynamic_int8},
                        {"threads", facts.threads},
                        {"file_bytes", facts.file_bytes},
                        {"weight_bytes", facts.weight_bytes},
                        {"loaded_bytes", of.loaded_bytes},
                        {"load_ms", of.load_ms},
                        {"latency_p50_ms", of.latency_p50_ms},
                        {"latency_p95_ms", of.latency_p95_ms},
                        {"tokens_per_s", of.tokens_per_s},
                        {"pair_cosine", of.pair_cosine},
                        {"warnings", facts.warnings}});
}

[[nodiscard]] inline ordered_json metrics_json(const comparison& of) {
    ordered_json out = ordered_json::object();
    for (const auto& [name, value] : of.metrics)
        out[name] = json_object({{"original", value.original},
                                 {"quantized", value.quantized},
                                 {"difference", percent_text(value.relative)},
                                 {"relative", value.relative},
                                 {"low", value.low},
                                 {"high", value.high},
                                 {"n", value.n}});
    return out;
}

}  // namespace detail

BITMILL_INLINE std::string comparison::json(int indent) const {
    using detail::ordered_json;
    ordered_json layer_rows = ordered_json::array(), gate_rows = ordered_json::array();
    for (const auto& one : layers)
        layer_rows.push_back(detail::json_object({{"layer", one.layer}, {"snr_db", one.snr_db}}));
    for (const auto& one : gates)
        gate_rows.push_back(
            detail::json_object({{"gate", one.text}, {"value", one.value}, {"passed", one.passed}}));
    ordered_json out = detail::json_object({{"original", detail::side_json(original)},
                                            {"quantized", detail::side_json(quantized)},
                                            {"reranker", reranker},
                                            {"pairs", pairs},
                                            {"tasks", tasks},
                                            {"texts", texts}});
    if (reranker) {
        out["logit_difference"] =
            detail::json_object({{"mean", logit_difference_mean}, {"max", logit_difference_max}});
    } else {
        out["cosine"] = detail::json_object({{"mean", cosine_mean}, {"min", cosine_min}});
    }
    if (pairs != 0) out["overlap@10"] = overlap;
    out["bootstrap_rounds"] = bootstrap_rounds;
    out["metrics"] = detail::metrics_json(*this);
    out["layers"] = std::move(layer_rows);
    out["gates"] = std::move(gate_rows);
    out["passed"] = passed();
    return out.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

BITMILL_INLINE std::string comparison::table() const {
    using detail::padded;
    std::string out;
    for (const auto& [what, side] : {std::pair{"original ", &original}, std::pair{"quantized", &quantized}})
        out += std::string(what) + "  " + printable(side->facts.path) + "\n           " +
               detail::level_text(side->facts) + "\n";
    out += "\n" + padded("", 18, true) + padded("original", 12) + padded("quantized", 12) + "\n";
    for (const auto& row : detail::performance_rows(*this))
        out += padded(row.name, 18, true) + padded(row.original, 12) + padded(row.quantized, 12) + "   " +
               row.difference + "\n";
    if (!metrics.empty()) {
        out += "\n" + padded("metric", 18, true) + padded("original", 12) + padded("quantized", 12) +
               padded("difference", 12) + padded("95 % interval", 24) + padded("n", 7) + "\n";
        for (const auto& [name, value] : metrics)
            out += padded(name, 18, true) + padded(detail::fixed_text(value.original, 4), 12) +
                   padded(detail::fixed_text(value.quantized, 4), 12) +
                   padded(detail::percent_text(value.relative), 12) +
                   padded("[" + detail::percent_text(value.low, 2) + ", " +
                              detail::percent_text(value.high, 2) + "]",
                          24) +
                   padded(std::to_string(value.n), 7) + "\n";
    }
    out += "\n";
    for (const auto& one : detail::remarks_of(*this)) out += one + "\n";
    const auto worst = std::min_element(layers.begin(), layers.end(),
                                        [](const auto& a, const auto& b) { return a.snr_db < b.snr_db; });
    if (worst != layers.end())
        out += "farthest from the original: what " + printable(worst->layer) + " is given, SNR " +
               detail::fixed_text(worst->snr_db, 1) + " dB\n";
    for (const auto& one : gates)
        out += std::string(one.passed ? "passed   " : "REFUSED  ") + printable(one.text) + ": " +
               detail::fixed_text(one.value, 5) + "\n";
    return out;
}

}  // namespace bitmill
