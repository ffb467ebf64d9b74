// Linear layers on two threads: every shape, batch and scheme of bench/compare/layers.py; beside them what the machine
// can do at best: multiply-adds that touch registers only, and reading memory. items_per_second counts operations (two
// for a multiply-add), bytes_per_second bytes of weights. Layers of one row run from memory, not from a cache: each
// call takes the next of as many layers as are 8 times the last cache.
//
// BITMILL_FORCE_ISA and BITMILL_BENCH_THREADS are read.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include <benchmark/benchmark.h>

#include <bitmill/bitmill.hpp>
#include <bitmill/nn/linear.hpp>

#include "peak.hpp"
#include "random.hpp"

namespace {

using bitmill::granularity;
using bitmill::scheme_type;

struct kind {
    const char* name;
    bitmill::scheme scheme;
    bool dynamic_int8;
};

std::vector<kind> kinds() {
    const auto integers = [](scheme_type type, std::size_t group, bool planes) {
        bitmill::scheme s;
        s.type = type;
        s.granularity = group == 0 ? granularity::per_channel : granularity::group;
        s.group_size = group;
        s.planes = planes;
        if (planes) s.scale_dtype = bitmill::dtype::f16;
        return s;
    };
    bitmill::scheme floats, nf4;
    floats.type = scheme_type::f32;
    nf4.type = scheme_type::nf4;
    nf4.granularity = granularity::block;
    nf4.group_size = 64;
    std::vector<kind> all;
    for (const bool dynamic : {true, false}) {
        all.push_back({"int8", integers(scheme_type::int8, 0, false), dynamic});
        all.push_back({"int4", integers(scheme_type::int4, 128, false), dynamic});
        all.push_back({"planes", integers(scheme_type::int8, 128, true), dynamic});
    }
    all.push_back({"nf4", nf4, false});
    all.push_back({"f32", floats, false});
    return all;
}

struct shape {
    std::size_t in, out;
};
constexpr shape shapes[] = {{768, 768}, {768, 3072}, {3072, 768}, {4096, 4096}};
constexpr std::size_t batches[] = {1, 16, 128, 2048};

unsigned thread_count() {
    const char* given = std::getenv("BITMILL_BENCH_THREADS");
    return given == nullptr ? 2 : static_cast<unsigned>(std::max(1, std::atoi(given)));
}

std::vector<float> normal_floats(std::size_t count, float size) {
    std::vector<float> out(count);
    constexpr std::size_t piece = 1 << 16;
    bitmill::run_parallel(thread_count(), (count + piece - 1) / piece, [&](std::size_t i) {
        test::random rng(i);
        for (std::size_t k = i * piece; k < std::min(count, (i + 1) * piece); ++k)
            out[k] = rng.normal() * size;
    });
    return out;
}

// f16 or f32.
float scale_at(const std::byte* at, std::size_t width) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, at, width);
    return width == 2 ? bitmill::f32_from_f16(static_cast<std::uint16_t>(bits)) : std::bit_cast<float>(bits);
}

// A weight as it lies in a file, from which any number of layers is packed.
class weight {
public:
    weight(const bitmill::scheme& s, shape size) : scheme_(s), size_(size) {
        const auto floats = normal_floats(size.in * size.out, 0.05f);
        const auto bytes = bitmill::encode_bound(s, size.out, size.in).value();
        codes_.resize(static_cast<std::size_t>(bytes.codes));
        std::vector<std::byte> scales(static_cast<std::size_t>(bytes.scales));
        residual_.resize(static_cast<std::size_t>(bytes.residual));
        bitmill::encoded_view dst{codes_.data(),
                                  scales.data(),
                                  nullptr,
                                  nullptr,
                                  0,
                                  residual_.empty() ? nullptr : residual_.data()};
        const bitmill::weight_view src{bitmill::dtype::f32, floats.data(), size.out, size.in};
        (void)bitmill::encode(s, src, dst).value();
        const auto width = bitmill::element_bytes(s.scale_dtype);
        scales_.resize(scales.size() / width);
        for (std::size_t i = 0; i < scales_.size(); ++i)
            scales_[i] = scale_at(scales.data() + i * width, width);
    }
    [[nodiscard]] bitmill::linear pack() const {
        bitmill::linear_source source;
        source.scheme = scheme_;
        source.rows = size_.out;
        source.cols = size_.in;
        source.codes = codes_.data();
        source.scales = scales_.data();
        source.residual = residual_.empty() ? nullptr : residual_.data();
        return bitmill::linear::pack(source, bias_.data()).value();
    }

private:
    bitmill::scheme scheme_;
    shape size_;
    std::vector<std::byte> codes_, residual_;
    std::vector<float> scales_;
    std::vector<float> bias_ = std::vector<float>(size_.out, 0.5f);
};

class runner {
public:
    runner(std::size_t rows, shape size, bool dynamic_int8)
        : rows_(rows), size_(size), dynamic_(dynamic_int8), x_(normal_floats(rows * size.in, 1)),
          y_(rows * size.out, 0.0f) {}
    void run(const bitmill::linear& layer, bitmill::thread_team& team) {
        if (dynamic_) {
            codes_.assign(x_.data(), rows_, size_.in, size_.in, team);
            layer.run(codes_, y_.data(), 0, team);
        } else {
            layer.run(x_.data(), rows_, size_.in, y_.data(), 0, team);
        }
        benchmark::ClobberMemory();
    }

private:
    std::size_t rows_;
    shape size_;
    bool dynamic_;
    std::vector<float> x_, y_;
    bitmill::quantized_rows codes_;
};

std::size_t last_cache() {
    const long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? static_cast<std::size_t>(bytes) : std::size_t{32} << 20;
}

void count(benchmark::State& state, double operations, double bytes) {
    const auto times = static_cast<double>(state.iterations());
    state.SetItemsProcessed(static_cast<std::int64_t>(times * operations));
    state.SetBytesProcessed(static_cast<std::int64_t>(times * bytes));
}

// Layers of one kind and shape, as many as `bytes` need; those that were asked for last stay, since a benchmark's body
// runs several times.
const std::vector<bitmill::linear>& prepare(const kind& k, shape size, std::size_t bytes) {
    static std::string last;
    static std::vector<bitmill::linear> layers;
    const std::string name =
        k.name + std::to_string(size.in) + "x" + std::to_string(size.out) + "x" + std::to_string(bytes);
    if (name == last) return layers;
    layers.clear();
    const weight source(k.scheme, size);
    std::size_t packed = 0;
    do {
        layers.push_back(source.pack());
        packed += layers.back().bytes();
    } while (packed < bytes);
    last = name;
    return layers;
}

void run_layers(benchmark::State& state, const kind& k, shape size, std::size_t rows, std::size_t bytes) {
    const auto& layers = prepare(k, size, bytes);
    bitmill::thread_team team(thread_count());
    runner work(rows, size, k.dynamic_int8);
    for (const auto& layer : layers) work.run(layer, team);  // the first call allocates
    std::size_t next = 0;
    for (auto _ : state) {
        work.run(layers[next], team);
        next = next + 1 == layers.size() ? 0 : next + 1;
    }
    count(state, 2.0 * static_cast<double>(rows * size.in * size.out),
          static_cast<double>(layers[0].bytes()));
}

void read_memory(benchmark::State& state) {
    const std::size_t words = 8 * last_cache() / sizeof(std::uint64_t);
    const std::vector<std::uint64_t> memory(words, 1);
    bitmill::thread_team team(thread_count());
    // Pieces that follow each other in memory, as the panels of a layer do.
    constexpr std::size_t piece = 1 << 20;  // 1 << 17 gave a tenth less
    for (auto _ : state)
        team.run((words + piece - 1) / piece, [&](std::size_t i) {
            const auto part = std::span(memory).subspan(i * piece, std::min(piece, words - i * piece));
            benchmark::DoNotOptimize(bench::sum(part));
        });
    state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                            static_cast<std::int64_t>(words * 8));
}

void multiply_registers(benchmark::State& state, const bench::peak& one) {
    constexpr std::size_t rounds = 1 << 20;
    const unsigned threads = thread_count();
    bitmill::thread_team team(threads);
    for (auto _ : state) team.run(threads, [&](std::size_t) { one.run(rounds); });
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * threads *
                            static_cast<std::int64_t>(rounds * one.operations));
}

void add(const std::string& name, std::function<void(benchmark::State&)> body) {
    benchmark::RegisterBenchmark(name.c_str(), [body](benchmark::State& state) { body(state); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
    if (const char* forced = std::getenv("BITMILL_FORCE_ISA")) bitmill::set_isa(forced).value();
    for (const auto& one : bench::peaks(bitmill::isa()))
        add(std::string("peak/") + one.name, [one](auto& state) { multiply_registers(state, one); });
    add("read", read_memory);
    for (const auto& k : kinds()) {
        const std::string name = std::string(k.name) + (k.dynamic_int8 ? "_dynamic" : "");
        for (const auto& size : shapes) {
            const std::string where = name + "/" + std::to_string(size.in) + "x" + std::to_string(size.out);
            for (const auto rows : batches)
                add("layer/" + where + "/" + std::to_string(rows),
                    [=](auto& state) { run_layers(state, k, size, rows, 0); });
            add("memory/" + where, [=](auto& state) { run_layers(state, k, size, 1, 8 * last_cache()); });
        }
    }
    benchmark::AddCustomContext("bitmill_isa", bitmill::isa());
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
