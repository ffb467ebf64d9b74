#include "metrics.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

namespace server {

namespace {

std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
    return {text.data(), end};
}

std::string escaped(std::string_view text, bool quotes) {
    std::string out;
    for (const char c : text) {
        if (c == '\\' || (c == '"' && quotes)) out.push_back('\\');
        c == '\n' ? out.append("\\n") : out.append(1, c);
    }
    return out;
}

std::string written(const text_pairs& labels) {
    std::string out;
    for (const auto& [name, value] : labels)
        out.append(out.empty() ? "" : ",")
            .append(name)
            .append("=\"")
            .append(escaped(value, true))
            .append("\"");
    return out;
}

void add_line(std::string& out, const std::string& name, const std::string& labels,
              const std::string& value) {
    out.append(name);
    if (!labels.empty()) out.append("{").append(labels).append("}");
    out.append(" ").append(value).append("\n");
}

void add_histogram(std::string& out, const std::string& name, const std::string& labels,
                   const histogram& from) {
    const std::string before = labels.empty() ? "" : labels + ",";
    std::uint64_t count = 0;
    for (std::size_t i = 0; i <= from.bounds().size(); ++i) {
        count += from.count(i);
        const std::string bound = i == from.bounds().size() ? "+Inf" : number(from.bounds()[i]);
        add_line(out, name + "_bucket", before + "le=\"" + bound + "\"", std::to_string(count));
    }
    add_line(out, name + "_sum", labels, number(from.sum()));
    add_line(out, name + "_count", labels, std::to_string(count));
}

}  // namespace

histogram::histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)),
      counts_(std::make_unique<std::atomic<std::uint64_t>[]>(bounds_.size() + 1)) {}

void histogram::observe(double value) noexcept {
    const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
    counts_[static_cast<std::size_t>(at)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
}

std::vector<double> latency_bounds() {
    return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
}

metrics::instrument& metrics::get(const std::string& name, const std::string& help, const char* type,
                                  const text_pairs& labels) {
    auto& group = families_[name];
    if (group.type.empty()) {
        group.help = help;
        group.type = type;
    }
    return group.instruments[written(labels)];
}

counter& metrics::get_counter(const std::string& name, const std::string& help, const text_pairs& labels) {
    const std::lock_guard lock(mutex_);
    auto& one = get(name, help, "counter", labels);
    if (!one.count) one.count = std::make_unique<counter>();
    return *one.count;
}

gauge& metrics::get_gauge(const std::string& name, const std::string& help, const text_pairs& labels) {
    const std::lock_guard lock(mutex_);
    auto& one = get(name, help, "gauge", labels);
    if (!one.level) one.level = std::make_unique<gauge>();
    return *one.level;
}

histogram& metrics::get_histogram(const std::string& name, const std::string& help,
                                  const std::vector<double>& bounds, const text_pairs& labels) {
    const std::lock_guard lock(mutex_);
    auto& one = get(name, help, "histogram", labels);
    auto& common = families_[name].bounds;
    if (common.empty()) common = bounds;
    if (!one.spread) one.spread = std::make_unique<histogram>(common);
    return *one.spread;
}

void metrics::add_gauge(const std::string& name, const std::string& help, std::function<double()> read,
                        const text_pairs& labels) {
    const std::lock_guard lock(mutex_);
    get(name, help, "gauge", labels).read = std::move(read);
}

std::string metrics::text() const {
    const std::lock_guard lock(mutex_);
    std::string out;
    for (const auto& [name, group] : families_) {
        out.append("# HELP ").append(name).append(" ").append(escaped(group.help, false)).append("\n");
        out.append("# TYPE ").append(name).append(" ").append(group.type).append("\n");
        for (const auto& [labels, one] : group.instruments) {
            if (one.count) add_line(out, name, labels, std::to_string(one.count->value()));
            if (one.read)
                add_line(out, name, labels, number(one.read()));
            else if (one.level)
                add_line(out, name, labels, number(one.level->value()));
            if (one.spread) add_histogram(out, name, labels, *one.spread);
        }
    }
    return out;
}

void http_metrics::operator()(const http_outcome& outcome) {
    // A client may invent methods, and each would be a line for ever.
    static const std::set<std::string_view> known{"GET",    "HEAD",    "POST",  "PUT",
                                                  "DELETE", "OPTIONS", "PATCH", ""};
    const std::string method(known.count(outcome.method) != 0 ? outcome.method : "other");
    const std::string route(outcome.route), status = std::to_string(outcome.status);
    in_.get_counter("bitmill_http_requests_total",
                    "Requests by route, method and status; 499: the client left.",
                    {{"route", route}, {"method", method}, {"status", status}})
        .add();
    in_.get_counter("bitmill_http_received_bytes_total", "Bytes of requests.").add(outcome.received_bytes);
    in_.get_counter("bitmill_http_sent_bytes_total", "Bytes of answers.").add(outcome.sent_bytes);
    if (route.empty())
        in_.get_counter("bitmill_http_refused_total", "Requests that reached no route, by status.",
                        {{"status", status}})
            .add();
    else
        in_.get_histogram("bitmill_http_request_seconds", "From the whole request to its answer.",
                          latency_bounds(), {{"route", route}})
            .observe(outcome.seconds);
}

}  // namespace server
