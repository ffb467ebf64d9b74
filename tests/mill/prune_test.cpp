// Pruning before coding. The truth: the same model pruned by a stable sort (or a comparison) of our own, then milled
// without an option, has the same weights, byte for byte.
#include <bitmill/mill/mill.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/mill/manifest.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::mill_options;
using bitmill::scheme_type;

namespace {

mill_options level(scheme_type to, bool double_quant = false) {
    mill_options options;
    options.to = to;
    options.double_quant = double_quant;
    options.threads = 2;
    return options;
}

struct named_options {
    const char* name;
    mill_options options;
};
std::vector<named_options> variants() {
    std::vector<named_options> out{
        {"int8", level(scheme_type::int8)},        {"int8 one scale", level(scheme_type::int8)},
        {"int8 planes", level(scheme_type::int8)}, {"int4", level(scheme_type::int4)},
        {"int2", level(scheme_type::int2)},        {"nf4 double", level(scheme_type::nf4, true)},
        {"fp4", level(scheme_type::fp4)},          {"fp16", level(scheme_type::f16)},
        {"bf16", level(scheme_type::bf16)},        {"fp32", level(scheme_type::f32)}};
    out[1].options.granularity = bitmill::granularity::per_tensor;
    out[2].options.format = bitmill::format::bitmill;
    return out;
}

// Gaussian weights of every float type, and tensors whose magnitudes are few: many ties at every share.
std::vector<made_tensor> tensors_with_ties() {
    auto tensors = bert_tensors();
    const std::string layer = "encoder.layer.1.";
    tensors.push_back(make_tensor(layer + "ramp.weight", dtype::f32, {300, 512}, 21, spread::ramp));
    tensors.push_back(make_tensor(layer + "constant.weight", dtype::bf16, {700, 512}, 22, spread::constant));
    tensors.push_back(make_tensor(layer + "sparse.weight", dtype::f16, {96, 128}, 23, spread::sparse));
    tensors.push_back(make_tensor(layer + "zero.weight", dtype::f32, {64, 128}, 24));
    std::fill(tensors.back().bytes.begin(), tensors.back().bytes.end(), '\0');
    tensors.push_back(make_tensor(layer + "experts_bias", dtype::f32, {8, 128}, 25));
    return tensors;
}

// Zeroes what an option asks for: `relative` of the largest, or the `sparsity` smallest, of equals the first.
void prune(made_tensor& t, double relative, double sparsity) {
    const std::size_t width = bitmill::element_bytes(t.type), count = t.bytes.size() / width;
    std::vector<double> sizes = values_of(t.type, t.bytes.data(), count);
    for (double& x : sizes) x = std::fabs(x);
    const double largest = count == 0 ? 0 : *std::max_element(sizes.begin(), sizes.end());
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return sizes[a] < sizes[b]; });
    const auto wanted = static_cast<std::size_t>(std::ceil(sparsity * static_cast<double>(count)));
    for (std::size_t rank = 0; rank < count; ++rank)
        if (rank < wanted || sizes[order[rank]] < relative * largest)
            std::memset(t.bytes.data() + order[rank] * width, 0, width);
}

std::string weights_of(const std::string& folder) {
    std::string all;
    for (const auto& [name, bytes] : read_folder(folder))
        if (name.ends_with(".safetensors")) all += name + bytes;
    return all;
}

std::uint64_t zeros_in(const made_tensor& t) {
    const std::size_t count = t.bytes.size() / bitmill::element_bytes(t.type);
    const auto values = values_of(t.type, t.bytes.data(), count);
    return static_cast<std::uint64_t>(std::count(values.begin(), values.end(), 0.0));
}

}  // namespace

TEST_CASE("prune: as if the model had been pruned before, in every scheme and from every dtype [EXACT]") {
    const temp_folder temp;
    const auto tensors = tensors_with_ties();
    put_model(temp / "model", tensors);
    for (const auto& [name, options] : variants()) {
        for (const auto& [relative, sparsity] : {std::pair{0.1, 0.0}, std::pair{0.0, 0.55}}) {
            CAPTURE(std::string(name));
            CAPTURE(sparsity);
            mill_options how = options;
            how.prune_relative = relative;
            how.target_sparsity = sparsity;
            const auto report = bitmill::quantize(temp / "model", temp / "out", how);
            REQUIRE_MESSAGE(report, report.error().text());
            auto pruned = tensors;
            std::size_t touched = 0;
            for (std::size_t i = 0; i < pruned.size(); ++i) {
                const auto& row = report->tensors[i];
                REQUIRE(row.name == pruned[i].name);
                const bool matrix = row.shape.size() >= 2 && !row.name.ends_with("bias");
                if (row.effective == "keep" || !matrix) continue;
                prune(pruned[i], relative, sparsity);
                ++touched;
            }
            CHECK(touched >= 7);
            put_model(temp / "pruned", pruned);
            const auto expected = bitmill::quantize(temp / "pruned", temp / "expected", options);
            REQUIRE_MESSAGE(expected, expected.error().text());
            CHECK((weights_of(temp / "out") == weights_of(temp / "expected")));
            CHECK(bitmill::verify(temp / "model", temp / "out"));
            for (const char* folder : {"out", "expected", "pruned"})
                std::filesystem::remove_all(temp / folder);
        }
    }
}

TEST_CASE("prune: a share of zeros is reached exactly, whatever ties there are [EXACT]") {
    const temp_folder temp;
    const auto tensors = tensors_with_ties();
    put_model(temp / "model", tensors);
    for (const double share : {1e-6, 0.001, 0.3, 0.5, 0.9, 0.999}) {
        CAPTURE(share);
        mill_options how = level(scheme_type::f32);
        how.target_sparsity = share;
        const auto report = bitmill::quantize(temp / "model", temp / "out", how).value();
        const auto after = read_tensors(temp / "out");
        std::uint64_t before_all = 0, after_all = 0;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const auto& row = report.tensors[i];
            CAPTURE(row.name);
            if (row.effective == "keep") {
                CHECK((after.at(row.name).bytes == tensors[i].bytes));
                continue;
            }
            const std::uint64_t before = zeros_in(tensors[i]);
            const auto least =
                static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(row.elements)));
            CHECK(zeros_in(after.at(row.name)) == std::max(before, least));
            CHECK(row.error.zeros_before() == before);
            CHECK(row.error.zeros_after() == std::max(before, least));
            before_all += before;
            after_all += std::max(before, least);
        }
        const auto json = nlohmann::json::parse(report.json());
        CHECK(json.at("zeros_before") == before_all);
        CHECK(json.at("zeros_after") == after_all);
        CHECK(json.at("pruning").get<std::string>().starts_with("target_sparsity "));
        std::filesystem::remove_all(temp / "out");
    }
}

TEST_CASE("prune: the zeros of the report are those that decode, in every scheme [EXACT]") {
    const temp_folder temp;
    put_model(temp / "model", tensors_with_ties());
    for (const auto& [name, options] : variants()) {
        CAPTURE(std::string(name));
        mill_options how = options;
        how.weight_threshold = std::string(name) == "int8 planes" ? 0.0f : 0.01f;
        const auto report = bitmill::quantize(temp / "model", temp / "out", how).value();
        REQUIRE(bitmill::dequantize(temp / "out", temp / "plain", dtype::f32, {}));
        const auto decoded = read_tensors(temp / "plain");
        std::uint64_t counted = 0;
        for (const auto& row : report.tensors) {
            if (!row.measured) continue;
            CAPTURE(row.name);
            CHECK(row.error.zeros_after() == zeros_in(decoded.at(row.name)));
            counted += row.error.zeros_after();
        }
        CHECK(counted > 0);
        CHECK(report.error().zeros_after() == counted);
        std::filesystem::remove_all(temp / "out");
        std::filesystem::remove_all(temp / "plain");
    }
}

TEST_CASE("prune: neither threads nor memory change a byte, and the second call finds it milled [EXACT]") {
    const temp_folder temp;
    put_sharded_model(temp / "model", tensors_with_ties());
    for (const auto to : {scheme_type::int4, scheme_type::bf16}) {
        mill_options how = level(to);
        how.target_sparsity = 0.37;
        std::string first;
        for (const unsigned threads : {1u, 2u, 5u}) {
            how.threads = threads;
            how.memory_limit = (threads == 5 ? std::uint64_t{2} : std::uint64_t{64}) << 20;
            std::uint64_t last = 0, total = 1;
            how.on_progress = [&](const bitmill::progress& now) {
                CHECK(now.done_bytes >= last);
                last = now.done_bytes;
                total = now.total_bytes;
                return true;
            };
            const auto report = bitmill::quantize(temp / "model", temp / "out", how);
            REQUIRE_MESSAGE(report, report.error().text());
            CHECK(last == total);
            if (first.empty()) first = weights_of(temp / "out");
            CHECK((weights_of(temp / "out") == first));
            how.on_progress = nullptr;  // to see whether it is milled takes passes of its own
            CHECK(bitmill::quantize(temp / "model", temp / "out", how).value().already_milled);
            std::filesystem::remove_all(temp / "out");
        }
    }
}

TEST_CASE("prune: NaN and infinity are refused or kept as ever, and never become 0") {
    const temp_folder temp;
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        for (const bool nearly_all : {false, true}) {
            std::vector<made_tensor> tensors{make_tensor("a.weight", dtype::f32, {64, 128}, 1),
                                             make_tensor("b.weight", dtype::f32, {64, 128}, 2)};
            for (std::size_t i = 1000; i < (nearly_all ? 8000u : 1001u); ++i)
                std::memcpy(tensors[1].bytes.data() + i * 4, &bad, 4);
            put_model(temp / "model", tensors);
            for (const auto to : {scheme_type::int8, scheme_type::f32, scheme_type::f16}) {
                for (const auto& [relative, sparsity] : {std::pair{0.1, 0.0}, std::pair{0.0, 0.5}}) {
                    mill_options how = level(to);
                    how.prune_relative = relative;
                    how.target_sparsity = sparsity;
                    const auto refused = bitmill::quantize(temp / "model", temp / "out", how);
                    REQUIRE_FALSE(refused);
                    CHECK(refused.error().tensor == "b.weight");
                    CHECK(refused.error().message.find("element 1000") != std::string::npos);
                    how.keep_non_finite = true;
                    const auto report = bitmill::quantize(temp / "model", temp / "out", how).value();
                    CHECK(report.tensors[1].effective == "keep");
                    CHECK((read_tensors(temp / "out").at("b.weight").bytes == tensors[1].bytes));
                    CHECK(report.tensors[0].error.zeros_after() > (sparsity > 0 ? 4095u : 100u));
                    std::filesystem::remove_all(temp / "out");
                }
            }
        }
    }
}
