// A service that mills a model: progress, a log, the tensors that lost most, errors, Ctrl-C.
//
//     host_application MODEL OUT [LEVEL]        LEVEL: int8 (default), int4, nf4, fp4, fp16, bf16
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include <bitmill/bitmill.hpp>

namespace {

volatile std::sig_atomic_t interrupted = 0;  // all that a signal handler may touch

// Called after every tile of half a megabyte, one call at a time: no lock needed.
bool on_progress(const bitmill::progress& now) {
    const auto percent = now.total_bytes == 0 ? 100 : now.done_bytes * 100 / now.total_bytes;
    std::fprintf(stderr, "%3d %%\r", static_cast<int>(percent));
    return interrupted == 0;  // false: stop, delete what was written, return error_code::cancelled
}

void on_log(bitmill::log_level level, const std::string& line) {
    std::fprintf(stderr, "%s: %s\n", level == bitmill::log_level::warning ? "warning" : "info", line.c_str());
}

// The report has a row for every tensor; `measured` ones were coded, the others are as they were.
void show_worst(const bitmill::mill_report& report) {
    std::vector<bitmill::tensor_report> rows;
    for (const auto& one : report.tensors)
        if (one.measured) rows.push_back(one);
    const auto shown = std::min<std::size_t>(rows.size(), 5);
    std::partial_sort(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(shown), rows.end(),
                      [](const auto& a, const auto& b) { return a.error.snr_db() < b.error.snr_db(); });
    std::printf("%8s  %8s  %s\n", "SNR dB", "cosine", "what lost most");
    for (std::size_t i = 0; i < shown; ++i)
        std::printf("%8.2f  %8.6f  %s\n", rows[i].error.snr_db(), rows[i].error.cosine(),
                    rows[i].name.c_str());
}

// text() names file, tensor and byte, and what to do. A service maps the code to its own: 404, 507 ...
int fail(const bitmill::error& error) {
    std::fprintf(stderr, "host_application: %s\n", error.text().c_str());
    return error.code == bitmill::error_code::cancelled ? 130 : static_cast<int>(error.code);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return fail({bitmill::error_code::invalid_argument, "give MODEL OUT [LEVEL]"});
    std::signal(SIGINT, [](int) { interrupted = 1; });

    const auto level = bitmill::level_from_text(argc > 3 ? argv[3] : "int8");
    if (!level) return fail(level.error());
    bitmill::mill_options options;
    options.to = level->type;
    options.activation = level->activation;

    // Plan first: exact sizes, no weight read. Here a service would ask whether they fit its disk.
    options.dry_run = true;
    const auto plan = bitmill::quantize(argv[1], "", options);
    if (!plan) return fail(plan.error());
    std::printf("%zu tensors, %llu bytes -> %llu\n", plan->tensors.size(),
                static_cast<unsigned long long>(plan->source_bytes),
                static_cast<unsigned long long>(plan->bytes));

    // OUT appears whole or not at all, whatever happens here.
    options.dry_run = false;
    options.on_progress = on_progress;
    options.on_log = on_log;
    const auto report = bitmill::quantize(argv[1], argv[2], options);
    if (!report) return fail(report.error());
    if (report->already_milled) {
        std::printf("%s is milled already\n", report->output.c_str());
        return 0;
    }
    std::printf("wrote %s: %s %s, %.2f bits a weight, SNR %.2f dB\n", report->output.c_str(),
                report->format.c_str(), report->requested.c_str(), report->bits_per_weight(),
                report->error().snr_db());
    show_worst(*report);
    return 0;
}
