#include "cli.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

namespace cli {
namespace {

struct bench_flags {
    model_flags model;
    std::string length = "128";
    std::size_t batch = 16;
    std::size_t rounds = 0;  // 0: three seconds of them
    bool json = false;
};

struct length_range {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
};

// "128" or "8:128".
std::optional<length_range> range_from_text(const std::string& text) {
    length_range out;
    const char* begin = text.c_str();
    const char* end = begin + text.size();
    auto [stop, failed] = std::from_chars(begin, end, out.low);
    if (failed != std::errc{}) return std::nullopt;
    out.high = out.low;
    if (stop != end) {
        if (*stop != ':') return std::nullopt;
        const auto second = std::from_chars(stop + 1, end, out.high);
        if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
    }
    if (out.low == 0 || out.high < out.low) return std::nullopt;
    return out;
}

// The same ids in every run, the lengths spread evenly over the range.
struct bench_batch {
    std::vector<std::int32_t> ids;
    std::vector<std::uint32_t> lengths;

    bench_batch(std::size_t batch, length_range range, std::size_t vocabulary) {
        std::size_t tokens = 0;
        for (std::size_t i = 0; i < batch; ++i) {
            const std::size_t steps = std::max<std::size_t>(batch - 1, 1);
            lengths.push_back(range.low + static_cast<std::uint32_t>((range.high - range.low) * i / steps));
            tokens += lengths.back();
        }
        std::uint64_t state = 1;
        for (std::size_t i = 0; i < tokens; ++i) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            ids.push_back(static_cast<std::int32_t>((state >> 33) % vocabulary));
        }
    }
};

// The most that this process has had in memory.
std::uint64_t peak_memory() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
    return 0;
}

template <class Body>
double seconds_of(const Body& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct bench_report {
    bitmill::model_facts model;
    bench_batch batch;
    length_range range;
    double load_ms;
    std::vector<double> rounds_ms;  // ascending

    [[nodiscard]] double quantile(double share) const {
        const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(rounds_ms.size())));
        return rounds_ms[std::max<std::size_t>(rank, 1) - 1];
    }
    [[nodiscard]] double tokens_per_s() const {
        return static_cast<double>(batch.ids.size()) / quantile(0.5) * 1000;
    }
    void print_json() const;
    void print() const;
};

void bench_report::print_json() const {
    const nlohmann::ordered_json out{{"model", model.path},
                                     {"model_type", model.model_type},
                                     {"requested", model.requested},
                                     {"effective", model.effective},
                                     {"reason", model.reason},
                                     {"activation", model.dynamic_int8 ? "dynamic-int8" : "float"},
                                     {"isa", bitmill::isa()},
                                     {"threads", model.threads},
                                     {"batch", batch.lengths.size()},
                                     {"min_length", range.low},
                                     {"max_length", range.high},
                                     {"tokens", batch.ids.size()},
                                     {"rounds", rounds_ms.size()},
                                     {"load_ms", load_ms},
                                     {"median_ms", quantile(0.5)},
                                     {"p95_ms", quantile(0.95)},
                                     {"tokens_per_s", tokens_per_s()},
                                     {"weight_bytes", model.weight_bytes},
                                     {"file_bytes", model.file_bytes},
                                     {"peak_memory_bytes", peak_memory()},
                                     {"warnings", model.warnings}};
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
}

void bench_report::print() const {
    std::printf("%s: %s, %zu layers, hidden size %zu\n", printable(model.path).c_str(),
                model.model_type.c_str(), model.layers, model.hidden_size);
    std::printf("  level %s%s%s%s, activation %s; %s, %u thread%s\n", model.effective.c_str(),
                model.requested.empty() || model.requested == model.effective ? "" : " instead of ",
                model.requested == model.effective ? "" : model.requested.c_str(),
                model.reason.empty() ? "" : printable(" (" + model.reason + ")").c_str(),
                model.dynamic_int8 ? "dynamic-int8" : "float", bitmill::isa().c_str(), model.threads,
                model.threads == 1 ? "" : "s");
    std::printf("  load        %10.1f ms\n", load_ms);
    std::printf("  median      %10.2f ms   %zu sequences of %u", quantile(0.5), batch.lengths.size(),
                range.low);
    if (range.high != range.low) std::printf(" to %u", range.high);
    std::printf(" tokens, %zu rounds\n", rounds_ms.size());
    std::printf("  p95         %10.2f ms\n", quantile(0.95));
    std::printf("  throughput  %10.0f tokens/s\n", tokens_per_s());
    std::printf("  weights     %s in memory, %s in files\n", size_text(model.weight_bytes).c_str(),
                size_text(model.file_bytes).c_str());
    std::printf("  peak memory %s\n", size_text(peak_memory()).c_str());
}

int run(const bench_flags& flags) {
    const auto range = range_from_text(flags.length);
    if (!range)
        return fail(usage("--length is a number of tokens, or two as MIN:MAX, not '" + flags.length + "'"),
                    flags.json);
    if (flags.batch == 0 || flags.batch > 65536) return fail(usage("--batch is 1 to 65536"), flags.json);
    const auto options = flags.model.read();
    if (!options) return fail(options.error(), flags.json);
    std::optional<bitmill::encoder_model> model;
    std::optional<bitmill::error> failed;
    const double load = seconds_of([&] {
        auto opened = bitmill::encoder_model::open(flags.model.model, *options);
        if (opened) model.emplace(std::move(*opened));
        if (!opened) failed = opened.error();
    });
    if (failed) return fail(*failed, flags.json);
    const auto& facts = model->facts();
    if (range->high > facts.max_tokens)
        return fail(usage("--length is " + flags.length + ", this model takes sequences of 1 to " +
                          std::to_string(facts.max_tokens) + " tokens"),
                    flags.json);
    show_warnings(facts);

    bench_report report{facts, bench_batch(flags.batch, *range, facts.vocabulary), *range, load * 1000, {}};
    const bitmill::token_batch batch{report.batch.ids, {}, report.batch.lengths};
    std::vector<float> states(report.batch.ids.size() * facts.hidden_size);
    const auto round = [&] {
        return seconds_of([&] {
            if (auto done = model->hidden(batch, states); !done) failed = done.error();
        });
    };
    (void)round();
    const double warm = failed ? 0 : round();
    if (failed) return fail(*failed, flags.json);
    const double wanted = std::clamp(std::ceil(3 / warm), 3.0, 1000.0);
    const std::size_t rounds = flags.rounds != 0 ? flags.rounds : static_cast<std::size_t>(wanted);
    for (std::size_t i = 0; i < rounds && !failed; ++i) report.rounds_ms.push_back(round() * 1000);
    if (failed) return fail(*failed, flags.json);
    std::sort(report.rounds_ms.begin(), report.rounds_ms.end());
    if (flags.json) report.print_json();
    if (!flags.json) report.print();
    return 0;
}

}  // namespace

void add_bench(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<bench_flags>();
    auto& verb = *app.add_subcommand("bench", "how fast a model runs: time, tokens a second, memory");
    flags->model.add_to(verb);
    verb.add_option("--batch", flags->batch, "sequences")->check(not_negative())->capture_default_str();
    verb.add_option("--length", flags->length, "tokens of a sequence: L, or MIN:MAX to spread them evenly")
        ->capture_default_str();
    verb.add_option("--rounds", flags->rounds, "default: as many as take 3 seconds")->check(not_negative());
    verb.add_flag("--json", flags->json, "as JSON");
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
