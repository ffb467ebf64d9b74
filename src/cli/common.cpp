#include "cli.hpp"

#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <csignal>
#include <cstdio>

#include <unistd.h>

#include <nlohmann/json.hpp>

namespace cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// The first signal asks the work to stop and clean up; a second one ends the program at once.
void on_signal(int number) {
    if (interrupted != 0) {
        std::signal(number, SIG_DFL);
        std::raise(number);
    }
    interrupted = 1;
}

void handle_signals(void (*handler)(int)) {
    struct sigaction act = {};
    act.sa_handler = handler;
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &act, nullptr);
}

void draw(double share, const std::string& done) {
    constexpr int width = 30;
    const int filled = static_cast<int>(share * width);
    std::fprintf(stderr, "\r[%-*s] %3d %%  %s", width,
                 std::string(static_cast<std::size_t>(filled), '=').c_str(), static_cast<int>(share * 100),
                 done.c_str());
    std::fflush(stderr);
}

struct exit_row {
    bitmill::error_code code;
    int status;
    const char* name;
};

double percent(std::uint64_t part, std::uint64_t whole) {
    return 100 * static_cast<double>(part) / static_cast<double>(whole);
}

constexpr exit_row exit_table[] = {
    {bitmill::error_code::ok, 0, "ok"},
    {bitmill::error_code::invalid_argument, 2, "invalid_argument"},
    {bitmill::error_code::bad_input, 3, "bad_input"},
    {bitmill::error_code::io, 4, "io"},
    {bitmill::error_code::out_of_memory, 5, "out_of_memory"},
    {bitmill::error_code::refused, 6, "refused"},
    {bitmill::error_code::cancelled, 130, "cancelled"},
    {bitmill::error_code::unsupported, 2, "unsupported"},
};

}  // namespace

int fail(const bitmill::error& what, bool json) {
    const auto& row = exit_table[static_cast<std::size_t>(what.code)];
    std::fprintf(stderr, "bitmill: %s\n", what.text().c_str());
    if (json) {
        nlohmann::ordered_json out{{"code", row.name}, {"message", what.message}};
        if (!what.file.empty()) out["file"] = what.file;
        if (!what.tensor.empty()) out["tensor"] = what.tensor;
        if (what.offset != bitmill::error::no_offset) out["offset"] = what.offset;
        const nlohmann::ordered_json whole{{"error", std::move(out)}};
        std::printf("%s\n",
                    whole.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    }
    return row.status;
}

int exit_status(const bitmill::error& what) { return exit_table[static_cast<std::size_t>(what.code)].status; }

void work_flags::add_to(CLI::App& verb, bitmill::work_options& options, const char* what, const char* meaning,
                        const char* to) {
    verb.add_option(what, model, meaning)->required();
    verb.add_option("-o,--output", output, to);
    verb.add_option("--memory-limit", options.memory_limit,
                    "cap on working memory (RSS stays below it + 64M)")
        ->check(not_negative())
        ->transform(CLI::AsSizeValue(false))
        ->default_str("256M");
    verb.add_option("--threads", options.threads, "default: one per core")->check(thread_count());
    verb.add_option("--device", device, "auto, cpu; cuda is refused by this version")->capture_default_str();
    verb.add_flag("--dry-run", options.dry_run, "plan and show exact sizes, write nothing");
    verb.add_flag("--force", options.force, "replace an output that exists");
    verb.add_flag("--json", json, "report as JSON on stdout");
}

int work_flags::check(bool needs_output) const {
    if (device == "cuda")
        return fail({.code = bitmill::error_code::unsupported,
                     .message = "device cuda: this version mills on the CPU; use --device cpu or auto"},
                    json);
    if (device != "auto" && device != "cpu")
        return fail({.code = bitmill::error_code::invalid_argument,
                     .message = "there is no device '" + device + "': auto, cpu, cuda"},
                    json);
    if (output.empty() && needs_output)
        return fail({.code = bitmill::error_code::invalid_argument, .message = "--output (-o) is required"},
                    json);
    return 0;
}

session::session() : bar_(isatty(STDERR_FILENO) != 0) { handle_signals(on_signal); }

session::session(bitmill::work_options& options) : session() {
    options.on_progress = [this](const bitmill::progress& now) {
        return show(now.total_bytes == 0
                        ? 1
                        : static_cast<double>(now.done_bytes) / static_cast<double>(now.total_bytes),
                    size_text(now.done_bytes));
    };
}

bool session::show(double share, const std::string& done) const {
    if (bar_) draw(share, done);
    return interrupted == 0;
}

session::~session() {
    if (bar_) std::fprintf(stderr, "\r\033[K");
    handle_signals(SIG_DFL);
}

CLI::Option* add_pruning(CLI::App& verb, bitmill::mill_options& options) {
    auto* threshold = verb.add_option("--weight-threshold", options.weight_threshold,
                                      "weights below it in magnitude become 0; of matrices, never of biases "
                                      "and norms")
                          ->check(not_negative());
    auto* relative = verb.add_option("--prune-relative", options.prune_relative,
                                     "weights below this share of their tensor's largest magnitude become 0")
                         ->check(not_negative());
    auto* sparsity = verb.add_option("--target-sparsity", options.target_sparsity,
                                     "this share of each tensor's weights, the smallest, becomes 0")
                         ->check(not_negative());
    relative->excludes(threshold);
    sparsity->excludes(threshold)->excludes(relative);
    return threshold;
}

CLI::Validator not_negative() {
    return {[](std::string& text) {
                return text.empty() || text.front() == '-' ? "'" + text + "' must be a number of 0 or more"
                                                           : std::string();
            },
            ""};
}

CLI::Validator thread_count() {
    return {[](std::string& text) {
                unsigned count = 0;
                const char* const end = text.data() + text.size();
                const auto [stop, failed] = std::from_chars(text.data(), end, count);
                return failed == std::errc{} && stop == end && count <= bitmill::max_threads
                           ? std::string()
                           : "'" + text + "' must be a number of 0 to " +
                                 std::to_string(bitmill::max_threads);
            },
            ""};
}

std::string size_text(std::uint64_t bytes) {
    char text[32];
    if (bytes < 1000) {
        std::snprintf(text, sizeof text, "%" PRIu64 " B", bytes);
        return text;
    }
    static constexpr const char* units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    double value = static_cast<double>(bytes) / 1000;
    std::size_t unit = 0;
    while (value >= 1000 && unit + 1 < std::size(units)) {
        value /= 1000;
        ++unit;
    }
    std::snprintf(text, sizeof text, "%.1f %s", value, units[unit]);
    return text;
}

std::string shape_text(const std::vector<std::uint64_t>& shape) {
    std::string out = "[";
    for (const auto one : shape) out.append(out.size() == 1 ? "" : ", ").append(std::to_string(one));
    return out + "]";
}

std::string printable(const std::string& text) {
    bitmill::error carrier;
    carrier.message = text;
    return carrier.text();
}

void model_flags::add_to(CLI::App& verb) {
    verb.add_option("MODEL", model, "a Hugging Face folder of an encoder")->required();
    verb.add_option("--level", options.level, "original, fp16, int8, int4, int2; default: as it lies there");
    verb.add_option("--activation", activation, "of integer layers: float, dynamic-int8")
        ->capture_default_str();
    verb.add_option("--threads", options.threads, "default: one per core")->check(thread_count());
}

bitmill::result<bitmill::model_options> model_flags::read() const {
    const auto found = bitmill::activation_from_text(activation);
    if (!found) return found.error();
    bitmill::model_options out = options;
    out.activation = *found;
    return out;
}

void show_warnings(const bitmill::mill_report& report) {
    for (const auto& warning : report.warnings)
        std::fprintf(stderr, "bitmill: warning: %s\n", warning.c_str());
}

void show_warnings(const bitmill::model_facts& facts) {
    for (const auto& warning : facts.warnings)
        std::fprintf(stderr, "bitmill: warning: %s\n", printable(warning).c_str());
}

void show(const bitmill::mill_report& report, bool json, bool rows) {
    show_warnings(report);
    if (json) {
        std::printf("%s\n", report.json().c_str());
        return;
    }
    std::size_t widest = 6;
    std::size_t coded = 0;
    for (const auto& one : report.tensors) {
        widest = std::max(widest, std::min<std::size_t>(printable(one.name).size(), 64));
        if (one.effective != "keep" && one.effective != "tied") ++coded;
    }
    if (rows) {
        std::printf("%-*s  %-16s  %-5s  %-24s %10s  %8s  %7s  %s\n", static_cast<int>(widest), "tensor",
                    "shape", "from", "to", "size", "SNR dB", "zeros %", "reason");
        for (const auto& one : report.tensors) {
            char snr[16] = "";
            char zeros[16] = "";
            if (one.measured) std::snprintf(snr, sizeof snr, "%.1f", one.error.snr_db());
            if (one.measured && one.elements != 0)
                std::snprintf(zeros, sizeof zeros, "%.2f", percent(one.error.zeros_after(), one.elements));
            std::printf("%-*s  %-16s  %-5s  %-24s %10s  %8s  %7s  %s\n", static_cast<int>(widest),
                        printable(one.name).c_str(), shape_text(one.shape).c_str(),
                        std::string(bitmill::facts(one.source_dtype).name).c_str(), one.effective.c_str(),
                        size_text(one.bytes).c_str(), snr, zeros, one.reason.c_str());
        }
        std::printf("\n");
    }
    std::printf("%s -> %s%s\n", printable(report.source).c_str(),
                report.output.empty() ? "(no output)" : printable(report.output).c_str(),
                report.dry_run ? " (dry run, nothing written)"
                : report.already_milled
                    ? " (milled already: every byte agrees with source and manifest, nothing written)"
                    : "");
    std::printf("  %s, %s%s%s; %zu of %zu tensors\n", report.requested.c_str(), report.format.c_str(),
                report.method.empty() ? "" : ", ", report.method.c_str(), coded, report.tensors.size());
    std::printf(
        "  weights %s -> %s (%.2f x smaller than the source, %.2f x than f32)\n",
        size_text(report.source_bytes).c_str(), size_text(report.bytes).c_str(),
        report.bytes == 0 ? 0 : static_cast<double>(report.source_bytes) / static_cast<double>(report.bytes),
        report.bytes == 0 ? 0
                          : 4 * static_cast<double>(report.parameters) / static_cast<double>(report.bytes));
    std::printf("  bits per weight, scales included: %.2f of what changed, %.2f of the whole\n",
                report.coded_bits_per_weight(), report.bits_per_weight());
    if (report.resumed_bytes != 0)
        std::printf("  resumed: %s of the weights were done\n", size_text(report.resumed_bytes).c_str());
    const bitmill::error_metrics error = report.error();
    if (error.elements() != 0)
        std::printf("  error: SNR %.2f dB, cosine %.6f, mse %.3g, largest %.3g\n", error.snr_db(),
                    error.cosine(), error.mse(), error.max_abs());
    if (!report.pruning.empty() && error.elements() != 0)
        std::printf(
            "  pruned (%s): zeros %.2f %% -> %.2f %% of what changed; stored like any weight, they save no "
            "bytes\n",
            report.pruning.c_str(), percent(error.zeros_before(), error.elements()),
            percent(error.zeros_after(), error.elements()));
    if (report.residual_bytes != 0 && error.elements() != 0) {
        const bitmill::error_metrics base = report.base_error();
        std::printf(
            "  level int8: %s, SNR %.2f dB; level int4 (without the residual file): %s, SNR %.2f dB\n",
            size_text(report.bytes).c_str(), error.snr_db(),
            size_text(report.bytes - report.residual_bytes).c_str(), base.snr_db());
    }
    if (report.already_milled) std::printf("  %.2f s\n", report.seconds);
    if (!report.dry_run && !report.already_milled)
        std::printf("  %.2f s, %.2f GB/s of source\n", report.seconds,
                    report.seconds > 0 ? static_cast<double>(report.source_bytes) / report.seconds / 1e9 : 0);
}

}  // namespace cli
