// Conditions on a comparison: "recall@10.low>=-1.5%".
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/eval/compare.hpp>

namespace bitmill::detail {

enum class gate_need {
    nothing,
    pairs,
    tasks,
    vectors,  // a model that embeds
    logits    // a reranker
};

struct gate_row {
    const char* name;
    const char* fields;  // with a blank behind each
    gate_need need;
};

inline constexpr char metric_fields[] = "low high relative original quantized ";
inline constexpr gate_row gate_table[] = {
    {"recall@10", metric_fields, gate_need::pairs},
    {"mrr@10", metric_fields, gate_need::pairs},
    {"ndcg@5", metric_fields, gate_need::tasks},
    {"map", metric_fields, gate_need::tasks},
    {"precision@5", metric_fields, gate_need::tasks},
    {"cosine", "mean min ", gate_need::vectors},
    {"logit_difference", "mean max ", gate_need::logits},
    {"overlap@10", "mean ", gate_need::pairs},
    {"size", "ratio ", gate_need::nothing},
    {"memory", "ratio ", gate_need::nothing},
    {"load", "ratio ", gate_need::nothing},
    {"latency", "ratio ", gate_need::nothing},
    {"throughput", "ratio ", gate_need::nothing},
};

[[nodiscard]] inline error refuse_gate(std::string_view text, const std::string& why,
                                       error_code code = error_code::invalid_argument) {
    return {.code = code, .message = "gate '" + shortened(std::string(text)) + "': " + why};
}

struct quality_gate {
    std::string text, name, field;
    bool at_least = false, equal = false;  // >=: both
    double bound = 0;

    [[nodiscard]] bool holds(double value) const {
        return at_least ? (equal ? value >= bound : value > bound) : (equal ? value <= bound : value < bound);
    }
};

[[nodiscard]] inline result<double> gate_number(const std::string& gate, std::string_view text) {
    const bool percent = text.ends_with('%');
    if (percent) text.remove_suffix(1);
    if (text.starts_with('+')) text.remove_prefix(1);
    double value = 0;
    const auto [stop, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed != std::errc{} || stop != text.data() + text.size() || !std::isfinite(value))
        return refuse_gate(gate,
                           "'" + shortened(std::string(text)) + "' is no number, such as -1.5% or 0.99");
    return percent ? value / 100 : value;
}

[[nodiscard]] inline result<quality_gate> gate_from_text(const std::string& given) {
    quality_gate gate;
    for (const char c : given)
        if (c != ' ') gate.text += c;
    const auto sign = gate.text.find_first_of("<>");
    if (sign == std::string::npos)
        return refuse_gate(given, "needs >=, <=, > or <, as in 'recall@10.low>=-1.5%'");
    gate.at_least = gate.text[sign] == '>';
    gate.equal = gate.text.substr(sign + 1).starts_with('=');
    const auto bound = gate_number(given, std::string_view(gate.text).substr(sign + (gate.equal ? 2 : 1)));
    if (!bound) return bound.error();
    gate.bound = *bound;
    const std::string whole = gate.text.substr(0, sign);
    if (whole.starts_with("pair_cosine"))
        return refuse_gate(given,
                           "the cosine of a query and its document is no measure of quality: coarse weights "
                           "move all vectors closer together, so that it rises; ask for recall@10.low",
                           error_code::refused);
    const auto dot = whole.rfind('.');
    gate.name = whole.substr(0, dot);
    if (dot != std::string::npos) gate.field = whole.substr(dot + 1);
    for (const auto& row : gate_table)
        if (gate.name == row.name && !gate.field.empty() &&
            std::string(" ").append(row.fields).find(" " + gate.field + " ") != std::string::npos)
            return gate;
    std::string names;
    for (const auto& one : quality_gate_names()) names.append(names.empty() ? "" : ", ").append(one);
    return refuse_gate(given, "there is no '" + shortened(whole) + "'; there are " + names);
}

// Why a gate cannot be answered; "" where it can.
[[nodiscard]] inline std::string missing_for(const quality_gate& gate, bool pairs, bool tasks,
                                             bool reranker) {
    for (const auto& row : gate_table) {
        if (gate.name != row.name) continue;
        if (row.need == gate_need::pairs && !pairs) return "was not measured; it needs pairs";
        if (row.need == gate_need::tasks && !tasks) return "was not measured; it needs tasks";
        if (row.need == gate_need::vectors && reranker)
            return "is of vectors, and these models are rerankers";
        if (row.need == gate_need::logits && !reranker) return "is of rerankers, and these models embed";
    }
    return {};
}

[[nodiscard]] inline double value_of(const metric_difference& of, std::string_view field) {
    const std::pair<std::string_view, double> fields[] = {{"low", of.low},
                                                          {"high", of.high},
                                                          {"relative", of.relative},
                                                          {"original", of.original},
                                                          {"quantized", of.quantized}};
    for (const auto& [name, value] : fields)
        if (name == field) return value;
    return std::nan("");
}

[[nodiscard]] inline double ratio_of(double quantized, double original) {
    return original == 0 ? std::nan("") : quantized / original;
}

[[nodiscard]] inline double value_of(const comparison& of, const quality_gate& gate) {
    for (const auto& metric : of.metrics)
        if (metric.name == gate.name) return value_of(metric.value, gate.field);
    const auto &a = of.original, &b = of.quantized;
    const auto bytes = [](std::uint64_t quantized, std::uint64_t original) {
        return ratio_of(static_cast<double>(quantized), static_cast<double>(original));
    };
    const std::pair<std::string_view, double> values[] = {
        {"cosine", gate.field == "min" ? of.cosine_min : of.cosine_mean},
        {"logit_difference", gate.field == "max" ? of.logit_difference_max : of.logit_difference_mean},
        {"overlap@10", of.overlap},
        {"size", bytes(b.facts.file_bytes, a.facts.file_bytes)},
        {"memory", bytes(b.facts.weight_bytes, a.facts.weight_bytes)},
        {"load", ratio_of(b.load_ms, a.load_ms)},
        {"latency", ratio_of(b.latency_p50_ms, a.latency_p50_ms)},
        {"throughput", ratio_of(b.tokens_per_s, a.tokens_per_s)}};
    for (const auto& [name, value] : values)
        if (name == gate.name) return value;
    return std::nan("");
}

}  // namespace bitmill::detail

namespace bitmill {

BITMILL_INLINE std::vector<std::string> quality_gate_names() {
    std::vector<std::string> out;
    for (const auto& row : detail::gate_table)
        for (std::string_view fields = row.fields; !fields.empty();) {
            const auto blank = fields.find(' ');
            out.push_back(std::string(row.name) + "." + std::string(fields.substr(0, blank)));
            fields.remove_prefix(blank + 1);
        }
    return out;
}

BITMILL_INLINE bool comparison::passed() const {
    return std::all_of(gates.begin(), gates.end(), [](const auto& one) { return one.passed; });
}

BITMILL_INLINE result<gate_verdict> comparison::check(const std::string& gate) const {
    return detail::guard(original.facts.path, [&]() -> result<gate_verdict> {
        const auto asked = detail::gate_from_text(gate);
        if (!asked) return asked.error();
        if (const auto missing = detail::missing_for(*asked, pairs != 0, tasks != 0, reranker);
            !missing.empty())
            return detail::refuse_gate(gate, missing);
        const double value = detail::value_of(*this, *asked);
        return gate_verdict{asked->text, value, asked->holds(value)};
    });
}

}  // namespace bitmill
