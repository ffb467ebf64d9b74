// A comparison as one page of HTML with plots in SVG.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/detail/compare_report-inl.hpp>
#include <bitmill/eval/compare.hpp>

namespace bitmill {
namespace detail {

// Names come from files: nothing of them may become markup, or a character that HTML forbids.
[[nodiscard]] inline std::string html_text(std::string_view text) {
    std::string out;
    for (const char c : printable(text)) {
        if (c == '&')
            out += "&amp;";
        else if (c == '<')
            out += "&lt;";
        else if (c == '>')
            out += "&gt;";
        else if (c == '"')
            out += "&quot;";
        else if (c == '\'')
            out += "&#39;";
        else
            out += c;
    }
    return out;
}

inline constexpr char page_style[] = R"(
:root { color-scheme: light dark; --ink: #1c2024; --faint: #5f6b76; --line: #d5dade; --paper: #ffffff; --was: #8795a1; --is: #1769aa; --bad: #b3261e; --good: #1b7f3b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --faint: #9aa6b1; --line: #39424a; --paper: #15191c; --was: #74818d; --is: #5aa9e6; --bad: #ff8a80; --good: #7bd88f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
p.path, td.name { overflow-wrap: anywhere; }
.faint { color: var(--faint); } .good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.was { fill: var(--was); } .is { fill: var(--is); } .axis { stroke: var(--faint); }
)";

struct plot_bar {
    std::string label, text;
    double value;
    const char* kind;  // class: was, is
};

// Bars from the left, the longest as wide as there is room; what is infinite is as long.
[[nodiscard]] inline std::string bars_svg(const std::string& title, const std::vector<plot_bar>& bars) {
    constexpr int label_width = 330, room = 430, height = 20, width = 860;
    double most = 0;
    for (const auto& one : bars)
        if (std::isfinite(one.value)) most = std::max(most, one.value);
    std::string out = "<svg role=\"img\" viewBox=\"0 0 " + std::to_string(width) + " " +
                      std::to_string(height * static_cast<int>(bars.size()) + 8) + "\"><title>" +
                      html_text(title) + "</title>\n";
    int y = 4;
    for (const auto& one : bars) {
        const double share = one.value == std::numeric_limits<double>::infinity() ? 1
                             : !std::isfinite(one.value)                          ? 0
                             : most > 0 ? std::clamp(one.value / most, 0.0, 1.0)
                                        : 0;
        const std::string middle = std::to_string(y + 14);
        out += "<text x=\"" + std::to_string(label_width - 8) + "\" y=\"" + middle +
               "\" text-anchor=\"end\">" + html_text(one.label) + "</text><rect class=\"" + one.kind +
               "\" x=\"" + std::to_string(label_width) + "\" y=\"" + std::to_string(y + 3) + "\" width=\"" +
               fixed_text(share * room, 1) + "\" height=\"" + std::to_string(height - 6) + "\"/><text x=\"" +
               fixed_text(label_width + share * room + 6, 1) + "\" y=\"" + middle + "\">" +
               html_text(one.text) + "</text>\n";
        y += height;
    }
    return out + "</svg>\n";
}

// The end of a long name says more: "...layer.3.output.dense".
[[nodiscard]] inline std::string short_name(const std::string& name) {
    constexpr std::size_t most = 44;
    const std::string clean = printable(name);
    if (clean.size() <= most) return clean;
    std::size_t begin = clean.size() - most;
    while (begin < clean.size() && (static_cast<unsigned char>(clean[begin]) & 0xc0) == 0x80) ++begin;
    return "..." + clean.substr(begin);
}

// Each interval around the line of no change.
[[nodiscard]] inline std::string intervals_svg(const std::vector<ranking_metric>& metrics) {
    constexpr double left = 130, room = 560, height = 26;
    double reach = 0.005;
    for (const auto& [name, value] : metrics)
        for (const double one : {value.low, value.high})
            if (std::isfinite(one)) reach = std::max(reach, std::fabs(one));
    const auto x = [&](double share) {
        return fixed_text(left + room / 2 * (1 + std::clamp(share / reach, -1.0, 1.0)), 1);
    };
    const double bottom = height * static_cast<double>(metrics.size()) + 6;
    std::string out =
        "<svg role=\"img\" viewBox=\"0 0 860 " + fixed_text(bottom, 0) +
        "\"><title>Relative difference with its 95 % interval</title>\n<line class=\"axis\" x1=\"" + x(0) +
        "\" x2=\"" + x(0) + "\" y1=\"0\" y2=\"" + fixed_text(bottom, 0) + "\"/>\n";
    double y = height / 2 + 3;
    for (const auto& [name, value] : metrics) {
        const std::string at = fixed_text(y, 1);
        out += "<text x=\"0\" y=\"" + fixed_text(y + 4, 1) + "\">" + html_text(name) +
               "</text><line class=\"axis\" x1=\"" + x(value.low) + "\" x2=\"" + x(value.high) + "\" y1=\"" +
               at + "\" y2=\"" + at + "\"/><circle class=\"is\" r=\"5\" cx=\"" + x(value.relative) +
               "\" cy=\"" + at + "\"/><text x=\"705\" y=\"" + fixed_text(y + 4, 1) + "\">" +
               percent_text(value.low, 2) + " to " + percent_text(value.high, 2) + "</text>\n";
        y += height;
    }
    return out + "</svg>\n";
}

[[nodiscard]] inline std::string row_html(const std::vector<std::string>& cells, const char* tag = "td") {
    std::string out = "<tr>";
    for (const auto& one : cells) out += "<" + std::string(tag) + ">" + html_text(one) + "</" + tag + ">";
    return out + "</tr>\n";
}

[[nodiscard]] inline std::string performance_html(const comparison& of) {
    const auto rows = performance_rows(of);
    std::string out = "<h2>Size, time, memory</h2>\n<div class=\"scroll\"><table>\n" +
                      row_html({"", "original", "quantized", "difference"}, "th");
    for (const auto& row : rows) out += row_html({row.name, row.original, row.quantized, row.difference});
    out += "</table></div>\n";
    for (const auto& row : rows)
        out += bars_svg(row.name, {{row.name + ", original", row.original, row.values[0], "was"},
                                   {"quantized", row.quantized, row.values[1], "is"}});
    return out;
}

[[nodiscard]] inline std::string quality_html(const comparison& of) {
    std::string out = "<h2>Quality</h2>\n";
    if (!of.metrics.empty()) {
        out += "<div class=\"scroll\"><table>\n" +
               row_html({"metric", "original", "quantized", "difference", "95 % interval", "n"}, "th");
        for (const auto& [name, value] : of.metrics)
            out += row_html({name, fixed_text(value.original, 4), fixed_text(value.quantized, 4),
                             percent_text(value.relative),
                             percent_text(value.low, 2) + " to " + percent_text(value.high, 2),
                             std::to_string(value.n)});
        out += "</table></div>\n" + intervals_svg(of.metrics) +
               "<p class=\"faint\">Intervals: " + std::to_string(of.bootstrap_rounds) +
               " rounds of a paired bootstrap over the queries.</p>\n";
    }
    for (const auto& one : remarks_of(of)) out += "<p>" + html_text(one) + "</p>\n";
    if (!of.gates.empty()) out += "<div class=\"scroll\"><table>\n" + row_html({"gate", "value", ""}, "th");
    for (const auto& one : of.gates)
        out += "<tr><td class=\"name\">" + html_text(one.text) + "</td><td>" + fixed_text(one.value, 5) +
               "</td><td class=\"" + (one.passed ? "good\">passed" : "bad\">refused") + "</td></tr>\n";
    return of.gates.empty() ? out : out + "</table></div>\n";
}

[[nodiscard]] inline std::string layers_html(const comparison& of) {
    if (of.layers.empty()) return {};
    std::vector<plot_bar> bars;
    for (const auto& one : of.layers)
        bars.push_back({short_name(one.layer),
                        one.snr_db == std::numeric_limits<double>::infinity()
                            ? "the same"
                            : fixed_text(one.snr_db, 1) + " dB",
                        one.snr_db, "is"});
    return "<h2>Error by layer</h2>\n<p class=\"faint\">Signal to noise of what each layer is given, against "
           "the "
           "original; more is nearer. Query, key and value share an input.</p>\n" +
           bars_svg("Signal to noise by layer", bars);
}

}  // namespace detail

BITMILL_INLINE std::string comparison::html() const {
    using detail::html_text;
    std::string out =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
        html_text("bitmill compare: " + quantized.facts.path) + "</title><style>" + detail::page_style +
        "</style></head><body>\n<h1>What " + html_text(quantized.facts.effective) + " costs and saves</h1>\n";
    for (const auto& [what, side] :
         {std::pair{"Original: ", &original}, std::pair{"Quantized: ", &quantized}})
        out += "<p class=\"path\">" + std::string(what) + html_text(side->facts.path) +
               "<br/><span class=\"faint\">" + html_text(detail::level_text(side->facts)) + "</span></p>\n";
    return out + detail::quality_html(*this) + detail::performance_html(*this) + detail::layers_html(*this) +
           "</body></html>\n";
}

}  // namespace bitmill
