// Layers of an encoder against the same in doubles, and the same bits for every way to run them.
#include <bitmill/nn/encoder.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/codec/codec.hpp>
#include <bitmill/kernels/dispatch.hpp>

#include <encoder_reference.hpp>
#include <random.hpp>

using namespace bitmill_test;
using bitmill::activation_function;
using bitmill::scheme_type;

namespace {

struct sizes {
    std::size_t hidden = 48;
    std::size_t heads = 3;
    std::size_t inner = 80;
    std::size_t layers = 2;
};

std::vector<float> normals(std::size_t count, test::random& rng, float size, float middle = 0) {
    std::vector<float> out(count);
    for (float& one : out) one = middle + size * rng.normal();
    return out;
}

// A layer of the scheme, and the same in doubles with what the codes decode to.
struct both {
    bitmill::linear fast;
    reference_linear truth;
};

both make_linear(std::size_t out, std::size_t in, bitmill::scheme scheme, test::random& rng) {
    std::vector<float> weight = normals(out * in, rng, 1.5f / std::sqrt(static_cast<float>(in)));
    const std::vector<float> bias = normals(out, rng, 0.1f);
    bitmill::linear_source source{.scheme = scheme, .rows = out, .cols = in};
    std::vector<std::byte> codes;
    std::vector<float> scales;
    if (scheme.type != scheme_type::f32) {
        const auto bound = bitmill::encode_bound(scheme, out, in).value();
        codes.resize(bound.codes);
        scales.resize(bound.scales / sizeof(float));
        bitmill::encoded_view view{codes.data(), reinterpret_cast<std::byte*>(scales.data())};
        (void)bitmill::encode(scheme, {bitmill::dtype::f32, weight.data(), out, in}, view).value();
        bitmill::decode(scheme, view, out, in, bitmill::dtype::f32, weight.data()).value();
        source.codes = codes.data();
        source.scales = scales.data();
    } else {
        source.codes = reinterpret_cast<const std::byte*>(weight.data());
    }
    return {bitmill::linear::pack(source, bias.data()).value(),
            {out, in, reals(weight.begin(), weight.end()), reals(bias.begin(), bias.end())}};
}

struct pair_of_encoders {
    bitmill::encoder fast;
    std::vector<reference_layer> truth;
    std::size_t heads;
    std::string activation;

    [[nodiscard]] std::size_t hidden() const { return fast.config().hidden_size; }
    // All sequences, one after the other.
    [[nodiscard]] reals expect(const std::vector<float>& x, const std::vector<std::uint32_t>& lengths) const {
        reals out;
        std::size_t at = 0;
        for (const std::size_t length : lengths) {
            const std::size_t end = at + length * hidden();
            reals one(x.begin() + static_cast<std::ptrdiff_t>(at),
                      x.begin() + static_cast<std::ptrdiff_t>(end));
            for (const auto& layer : truth) one = layer(one, heads, activation);
            out.insert(out.end(), one.begin(), one.end());
            at = end;
        }
        return out;
    }
};

pair_of_encoders make_pair(const sizes& s, bitmill::scheme scheme = {.type = scheme_type::f32},
                           activation_function activation = activation_function::gelu,
                           const std::string& name = "gelu") {
    test::random rng(s.hidden * 31 + s.inner);
    std::vector<bitmill::encoder_layer> layers;
    std::vector<reference_layer> truth;
    for (std::size_t i = 0; i < s.layers; ++i) {
        auto query = make_linear(s.hidden, s.hidden, scheme, rng);
        auto key = make_linear(s.hidden, s.hidden, scheme, rng);
        auto value = make_linear(s.hidden, s.hidden, scheme, rng);
        auto attention_output = make_linear(s.hidden, s.hidden, scheme, rng);
        auto intermediate = make_linear(s.inner, s.hidden, scheme, rng);
        auto output = make_linear(s.hidden, s.inner, scheme, rng);
        std::vector<float> norms[4];
        for (std::size_t n = 0; n < 4; ++n) norms[n] = normals(s.hidden, rng, 0.1f, n % 2 == 0 ? 1.0f : 0.0f);
        const std::string at = "layer." + std::to_string(i) + ".";
        const auto wide = [](const std::vector<float>& v) { return reals(v.begin(), v.end()); };
        truth.push_back({query.truth,
                         key.truth,
                         value.truth,
                         attention_output.truth,
                         intermediate.truth,
                         output.truth,
                         {wide(norms[0]), wide(norms[1])},
                         {wide(norms[2]), wide(norms[3])}});
        layers.push_back({std::move(query.fast),
                          std::move(key.fast),
                          std::move(value.fast),
                          std::move(attention_output.fast),
                          std::move(intermediate.fast),
                          std::move(output.fast),
                          {norms[0], norms[1]},
                          {norms[2], norms[3]},
                          {at + "q", at + "k", at + "v", at + "o", at + "up", at + "down"}});
    }
    return {bitmill::encoder({s.hidden, s.heads, activation, 1e-12f}, std::move(layers)), std::move(truth),
            s.heads, name};
}

std::vector<float> inputs(std::size_t hidden, const std::vector<std::uint32_t>& lengths) {
    test::random rng(7);
    return normals(hidden * std::accumulate(lengths.begin(), lengths.end(), std::size_t{0}), rng, 1);
}

std::vector<float> run(const bitmill::encoder& model, std::vector<float> x,
                       const std::vector<std::uint32_t>& lengths, unsigned threads = 1,
                       const bitmill::encoder_options& options = {}) {
    bitmill::thread_team team(threads);
    model.run(x.data(), lengths, team, options);
    return x;
}

const bitmill::scheme int8_rows{.type = scheme_type::int8};

}  // namespace

TEST_CASE("an encoder computes what its formulas say: odd sizes, ragged batches") {
    // SHARE(1e-5): f32 sums of up to 300 products, twice.
    const struct {
        sizes shape;
        std::vector<std::uint32_t> lengths;
    } table[] = {
        {{}, {1}},
        {{}, {5, 1, 16, 17, 2}},
        {{24, 1, 24, 1}, {31, 33}},
        {{7, 7, 3, 2}, {4, 9}},
        {{130, 2, 259, 1}, {15, 3}},
        {{64, 8, 300, 3}, {40}},
    };
    for (const auto& [shape, lengths] : table) {
        CAPTURE(shape.hidden);
        CAPTURE(lengths.size());
        const auto pair = make_pair(shape);
        const auto x = inputs(shape.hidden, lengths);
        CHECK(difference(run(pair.fast, x, lengths), pair.expect(x, lengths)) < 1e-5);
    }
}

TEST_CASE("a long sequence is cut into blocks of queries") {
    const auto pair = make_pair({16, 2, 16, 1});
    const std::vector<std::uint32_t> lengths{700, 3};
    const auto x = inputs(16, lengths);
    CHECK(difference(run(pair.fast, x, lengths, 3), pair.expect(x, lengths)) < 1e-5);
}

TEST_CASE("every activation of the feed-forward") {
    const std::pair<activation_function, const char*> table[] = {
        {activation_function::gelu, "gelu"},
        {activation_function::gelu_tanh, "gelu_tanh"},
        {activation_function::relu, "relu"}};
    for (const auto& [function, name] : table) {
        CAPTURE(name);
        const auto pair = make_pair({}, {.type = scheme_type::f32}, function, name);
        const auto x = inputs(48, {9});
        CHECK(difference(run(pair.fast, x, {9}), pair.expect(x, {9})) < 1e-5);
    }
}

TEST_CASE("layers of integers: with floats exact to rounding, with 8-bit inputs to their SNR") {
    const auto pair = make_pair({}, int8_rows);
    const std::vector<std::uint32_t> lengths{12, 5};
    const auto x = inputs(48, lengths);
    const reals truth = pair.expect(x, lengths);
    CHECK(difference(run(pair.fast, x, lengths), truth) < 1e-5);
    // SNR(30): a group of 128 in 8 bits has about 40 dB, and two layers of six linears follow each other.
    const auto coded = run(pair.fast, x, lengths, 1, {.dynamic_int8 = true});
    CHECK(snr_db(coded, truth) > 30);
    CHECK(coded != run(pair.fast, x, lengths));
}

TEST_CASE("bits do not depend on threads, batch, order or instruction set") {
    const std::string before = bitmill::isa();
    for (const bool dynamic : {false, true}) {
        CAPTURE(dynamic);
        const auto pair = make_pair({64, 4, 150, 2}, int8_rows);
        const std::vector<std::uint32_t> lengths{3, 40, 1, 257, 18};
        const auto x = inputs(64, lengths);
        const auto truth = run(pair.fast, x, lengths, 1, {.dynamic_int8 = dynamic});
        for (const unsigned threads : {2u, 3u, 7u})
            CHECK(run(pair.fast, x, lengths, threads, {.dynamic_int8 = dynamic}) == truth);
        for (const auto& name : bitmill::isa_available()) {
            CAPTURE(name);
            bitmill::set_isa(name).value();
            CHECK(run(pair.fast, x, lengths, 2, {.dynamic_int8 = dynamic}) == truth);
        }
        bitmill::set_isa(before).value();
        // Alone, last to first.
        auto end = x.end();
        auto expected = truth.end();
        for (auto length = lengths.rbegin(); length != lengths.rend(); ++length) {
            const auto count = static_cast<std::ptrdiff_t>(*length * 64);
            const std::vector<float> one(end - count, end);
            CHECK(run(pair.fast, one, {*length}, 2, {.dynamic_int8 = dynamic}) ==
                  std::vector<float>(expected - count, expected));
            end -= count;
            expected -= count;
        }
    }
}

TEST_CASE("a batch of more tokens than are done at once gives the same bits") {
    const auto pair = make_pair({8, 1, 8, 1});
    const std::vector<std::uint32_t> lengths{1500, 700, 3000, 10};
    const auto x = inputs(8, lengths);
    const auto whole = run(pair.fast, x, lengths, 2);
    std::size_t at = 0;
    for (const auto length : lengths) {
        const auto from = static_cast<std::ptrdiff_t>(at * 8);
        const auto to = static_cast<std::ptrdiff_t>((at + length) * 8);
        CHECK(run(pair.fast, {x.begin() + from, x.begin() + to}, {length}) ==
              std::vector<float>(whole.begin() + from, whole.begin() + to));
        at += length;
    }
}

TEST_CASE("an observer is given every layer's input, and changes nothing") {
    const auto pair = make_pair({48, 3, 80, 1}, int8_rows);
    const std::vector<std::uint32_t> lengths{6, 2};
    const auto x = inputs(48, lengths);
    std::vector<std::string> seen;
    std::vector<float> first;
    bitmill::encoder_options options{.dynamic_int8 = true, .observe = {}};
    const auto truth = run(pair.fast, x, lengths, 2, options);
    options.observe = [&](std::string_view layer, const float* data, std::size_t rows, std::size_t cols) {
        seen.push_back(std::string(layer) + " " + std::to_string(rows) + "x" + std::to_string(cols));
        if (first.empty()) first.assign(data, data + rows * cols);
    };
    CHECK(run(pair.fast, x, lengths, 2, options) == truth);
    CHECK(first == x);
    CHECK(seen == std::vector<std::string>{"layer.0.q 8x48", "layer.0.k 8x48", "layer.0.v 8x48",
                                           "layer.0.o 8x48", "layer.0.up 8x48", "layer.0.down 8x80"});
}

TEST_CASE("an observer is given every row of a large batch once and in order") {
    const auto pair = make_pair({8, 2, 12, 2});
    const std::vector<std::uint32_t> lengths{500, 1700, 3};
    const auto x = inputs(8, lengths);
    std::map<std::string, std::vector<float>> seen;
    bitmill::encoder_options options;
    options.observe = [&](std::string_view layer, const float* data, std::size_t rows, std::size_t cols) {
        auto& all = seen[std::string(layer)];
        all.insert(all.end(), data, data + rows * cols);
    };
    (void)run(pair.fast, x, lengths, 2, options);
    CHECK(seen.size() == 12);
    for (const char* name : {"layer.0.q", "layer.0.k", "layer.0.v"}) CHECK(seen[name] == x);
    for (const auto& [name, all] : seen) {
        CAPTURE(name);
        CHECK(all.size() == std::size_t{2203} * (name.ends_with("down") ? 12 : 8));
    }
    const auto whole = seen["layer.1.down"];
    seen.clear();
    (void)run(pair.fast, {x.begin() + 2200 * 8, x.end()}, {3}, 1, options);
    CHECK(seen["layer.1.down"] == std::vector<float>(whole.end() - 3 * 12, whole.end()));
}

TEST_CASE("an encoder given nothing does nothing") {
    const auto pair = make_pair({});
    CHECK(run(pair.fast, {}, {}).empty());
}
