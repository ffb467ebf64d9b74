// Lines of text to ids, offsets and masks, one thread: for each file of BITMILL_BENCH_TOKENIZERS (paths with ':' between
// them) the lines of BITMILL_BENCH_TEXT. bytes_per_second counts UTF-8. bench/compare/tokenizer_speed.py sets both.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <bitmill/text/tokenizer.hpp>

int main(int argc, char** argv) {
    const char* paths = std::getenv("BITMILL_BENCH_TOKENIZERS");
    const char* text = std::getenv("BITMILL_BENCH_TEXT");
    std::vector<std::string> lines;
    std::int64_t bytes = 0;
    if (text != nullptr) {
        std::ifstream file(text, std::ios::binary);
        for (std::string line; std::getline(file, line); lines.push_back(line))
            bytes += static_cast<std::int64_t>(line.size());
    }
    std::stringstream all(paths == nullptr ? "" : paths);
    for (std::string path; std::getline(all, path, ':');)
        benchmark::RegisterBenchmark(path.c_str(), [path, &lines, bytes](benchmark::State& state) {
            for (auto _ : state) {
                // A new one each time: it would know all words of the text by the second pass.
                state.PauseTiming();
                const auto tokenizer = bitmill::tokenizer::open(path).value();
                state.ResumeTiming();
                for (const auto& line : lines)
                    benchmark::DoNotOptimize(tokenizer.encode(line, {.truncate = false}).value());
            }
            state.SetBytesProcessed(state.iterations() * bytes);
        })->UseRealTime();
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
