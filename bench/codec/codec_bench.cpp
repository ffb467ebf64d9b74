// Encoding and decoding 256 MiB of f32 on two threads, beside memcpy and memset of the same run.
// Destinations are touched before the clock starts. bytes_per_second counts the f32 side.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include <bitmill/bitmill.hpp>

#include "random.hpp"

namespace {

constexpr std::size_t rows = 16384;
constexpr std::size_t cols = 4096;
constexpr std::size_t tile_rows = 1024;  // 16 MiB, as one call of a host that decodes a layer
constexpr unsigned threads = 2;

struct buffers {
    std::vector<float> weights = std::vector<float>(rows * cols);
    std::vector<float> decoded = std::vector<float>(rows * cols, 1.0f);
    std::vector<std::byte> codes = std::vector<std::byte>(rows * cols, std::byte{1});
    std::vector<std::byte> scales = std::vector<std::byte>(rows * cols / 8, std::byte{1});
    std::vector<std::byte> zeros = std::vector<std::byte>(rows * cols / 32, std::byte{1});

    buffers() {
        bitmill::run_parallel(threads, rows, [this](std::size_t row) {
            test::random rng(row);
            for (std::size_t c = 0; c < cols; ++c) weights[row * cols + c] = rng.normal() * 0.05f;
        });
    }
};

buffers& shared() {
    static buffers all;
    return all;
}

void run_tiles(benchmark::State& state, const std::function<void(std::size_t row)>& tile) {
    for (auto _ : state) {
        bitmill::run_parallel(threads, rows / tile_rows, [&](std::size_t i) { tile(i * tile_rows); });
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                            static_cast<std::int64_t>(rows * cols * 4));
}

bitmill::encoded_view view_at(const bitmill::scheme& s, std::size_t row) {
    auto& all = shared();
    const auto before = bitmill::encode_bound(s, row, cols).value();
    return {all.codes.data() + before.codes, all.scales.data() + before.scales,
            all.zeros.data() + before.zero_points, nullptr, 0};
}

void encode(benchmark::State& state, const bitmill::scheme& s, bitmill::method method, bool measure) {
    run_tiles(state, [&](std::size_t row) {
        auto dst = view_at(s, row);
        const bitmill::weight_view src{bitmill::dtype::f32, shared().weights.data() + row * cols, tile_rows,
                                       cols};
        bitmill::encode_options options;
        options.method = method;
        options.measure = measure;
        benchmark::DoNotOptimize(bitmill::encode(s, src, dst, options).value());
    });
}

void decode(benchmark::State& state, const bitmill::scheme& s) {
    {
        bitmill::run_parallel(threads, rows / tile_rows, [&](std::size_t i) {
            auto dst = view_at(s, i * tile_rows);
            const bitmill::weight_view src{bitmill::dtype::f32,
                                           shared().weights.data() + i * tile_rows * cols, tile_rows, cols};
            (void)bitmill::encode(s, src, dst).value();
        });
    }
    run_tiles(state, [&](std::size_t row) {
        bitmill::decode(s, view_at(s, row), tile_rows, cols, bitmill::dtype::f32,
                        shared().decoded.data() + row * cols)
            .value();
    });
}

bitmill::scheme int_scheme(bitmill::scheme_type type, std::size_t group, bool symmetric = true) {
    bitmill::scheme s;
    s.type = type;
    s.granularity = group == 0 ? bitmill::granularity::per_channel : bitmill::granularity::group;
    s.group_size = group;
    s.symmetric = symmetric;
    return s;
}

bitmill::scheme book_scheme(bitmill::scheme_type type) {
    bitmill::scheme s;
    s.type = type;
    s.granularity = bitmill::granularity::block;
    s.group_size = 64;
    return s;
}

void memory_copy(benchmark::State& state) {
    run_tiles(state, [](std::size_t row) {
        std::memcpy(shared().decoded.data() + row * cols, shared().weights.data() + row * cols,
                    tile_rows * cols * 4);
    });
}

void memory_set(benchmark::State& state) {
    run_tiles(state, [](std::size_t row) {
        std::memset(shared().decoded.data() + row * cols, 0, tile_rows * cols * 4);
    });
}

void add(const char* name, std::function<void(benchmark::State&)> body) {
    benchmark::RegisterBenchmark(name, [body](benchmark::State& state) { body(state); })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
    using bitmill::method;
    using bitmill::scheme_type;
    const auto int8_channel = int_scheme(scheme_type::int8, 0);
    const auto int8_group = int_scheme(scheme_type::int8, 128);
    const auto int4_group = int_scheme(scheme_type::int4, 128);
    const auto int2_group = int_scheme(scheme_type::int2, 32, false);
    const auto nf4 = book_scheme(scheme_type::nf4);
    if (const char* forced = std::getenv("BITMILL_FORCE_ISA")) bitmill::set_isa(forced).value();
    shared();  // filled before any clock starts
    add("memcpy", memory_copy);
    add("memset", memory_set);
    for (const bool measure : {false, true}) {
        const std::string tail = measure ? "/measured" : "";
        add(("encode/int8_channel" + tail).c_str(),
            [=](auto& s) { encode(s, int8_channel, method::absmax, measure); });
        add(("encode/int8_group128" + tail).c_str(),
            [=](auto& s) { encode(s, int8_group, method::absmax, measure); });
        add(("encode/int4_group128" + tail).c_str(),
            [=](auto& s) { encode(s, int4_group, method::absmax, measure); });
        add(("encode/nf4_block64" + tail).c_str(), [=](auto& s) { encode(s, nf4, method::absmax, measure); });
        add(("encode/int4_group128_mse" + tail).c_str(),
            [=](auto& s) { encode(s, int4_group, method::mse, measure); });
        add(("encode/int2_group32_mse" + tail).c_str(),
            [=](auto& s) { encode(s, int2_group, method::mse, measure); });
    }
    add("decode/int8_channel", [=](auto& s) { decode(s, int8_channel); });
    add("decode/int8_group128", [=](auto& s) { decode(s, int8_group); });
    add("decode/int4_group128", [=](auto& s) { decode(s, int4_group); });
    add("decode/int2_group32", [=](auto& s) { decode(s, int2_group); });
    add("decode/nf4_block64", [=](auto& s) { decode(s, nf4); });
    benchmark::AddCustomContext("bitmill_isa", bitmill::isa());
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
