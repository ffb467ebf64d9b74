// Quantized folders as sources: what comes out is what would come of dequantizing them first, byte for byte.
#include <bitmill/mill/mill.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/manifest.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using bitmill::mill_options;
using bitmill::scheme_type;
namespace fs = std::filesystem;

namespace {

using change = std::function<void(mill_options&)>;

mill_options to(scheme_type type, const change& set = {}) {
    mill_options options;
    options.to = type;
    options.threads = 2;
    if (set) set(options);
    return options;
}

struct named_options {
    const char* name;
    mill_options options;
};

const std::vector<named_options>& sources() {
    using bitmill::format;
    static const std::vector<named_options> all{
        {"int8", to(scheme_type::int8)},
        {"int8 per tensor",
         to(scheme_type::int8, [](auto& o) { o.granularity = bitmill::granularity::per_tensor; })},
        {"W8A8", to(scheme_type::int8, [](auto& o) { o.activation = bitmill::activation::dynamic_int8; })},
        {"int4", to(scheme_type::int4)},
        {"nf4", to(scheme_type::nf4, [](auto& o) { o.block_size = 4096; })},
        {"fp4 double_quant", to(scheme_type::fp4, [](auto& o) { o.double_quant = true; })},
        {"levels int4 and int8", to(scheme_type::int8, [](auto& o) { o.format = format::bitmill; })},
        {"int2", to(scheme_type::int2)},
    };
    return all;
}

const std::vector<named_options>& targets() {
    static const std::vector<named_options> all{
        {"int8", to(scheme_type::int8)},
        {"int4", to(scheme_type::int4)},
        {"nf4 double_quant", to(scheme_type::nf4, [](auto& o) { o.double_quant = true; })},
        {"fp16", to(scheme_type::f16)},
        {"fp32", to(scheme_type::f32)},
        {"planes", to(scheme_type::int8, [](auto& o) { o.format = bitmill::format::bitmill; })},
    };
    return all;
}

// Tensors, since their order within a file follows that of the source's.
bool same_weights(const std::string& a, const std::string& b) {
    const auto left = read_tensors(a), right = read_tensors(b);
    if (left.size() != right.size()) return false;
    return std::equal(left.begin(), left.end(), right.begin(), [](const auto& x, const auto& y) {
        return x.first == y.first && x.second.type == y.second.type && x.second.shape == y.second.shape &&
               x.second.bytes == y.second.bytes;
    });
}

struct coded_model {
    temp_folder temp{memory_parent()};
    std::string source = temp / "coded", out = temp / "out";

    explicit coded_model(const mill_options& options) {
        put_sharded_model(temp / "model", bert_tensors());
        (void)bitmill::quantize(temp / "model", source, options).value();
        fs::remove_all(temp / "model");
    }
    bitmill::mill_report mill(const mill_options& options) {
        fs::remove_all(out);
        return bitmill::quantize(source, out, options).value();
    }
};

}  // namespace

TEST_CASE("requantize: every source to every target is as if it had been dequantized first") {
    for (const auto& [from, from_options] : sources()) {
        CAPTURE(std::string(from));
        coded_model model(from_options);
        (void)bitmill::dequantize(model.source, model.temp / "plain", std::nullopt, {}).value();
        for (const auto& [name, options] : targets()) {
            CAPTURE(std::string(name));
            const auto report = model.mill(options);
            (void)bitmill::quantize(model.temp / "plain", model.temp / "two_steps", options).value();
            CHECK(same_weights(model.out, model.temp / "two_steps"));
            if (options.format == bitmill::format::bitmill)
                CHECK(same_weights(model.out + "/model-00002-of-00002.int8.safetensors",
                                   model.temp / "two_steps/model-00002-of-00002.int8.safetensors"));
            CHECK(get_file(model.out + "/config.json").find("\"quantization_config\"") ==
                  get_file(model.temp / "two_steps/config.json").find("\"quantization_config\""));
            fs::remove_all(model.temp / "two_steps");
            REQUIRE_FALSE(report.warnings.empty());
            CHECK(report.warnings[0].find("dequantized") != std::string::npos);
            const auto proof = bitmill::verify(model.source, model.out, {});
            CHECK_MESSAGE(proof, proof.error().text());
        }
    }
}

TEST_CASE("requantize: the report says what a tensor was") {
    coded_model model(to(scheme_type::int4));
    const auto report = model.mill(to(scheme_type::nf4, [](auto& o) { o.exclude = {"key"}; }));
    std::size_t coded = 0;
    for (const auto& row : report.tensors) {
        CAPTURE(row.name);
        if (row.reason.find("decoded from compressed-tensors int4 ") == std::string::npos) continue;
        ++coded;
        CHECK(row.source_bytes < row.elements);
        const bool excluded = row.name.find("key") != std::string::npos;
        CHECK(row.effective == (excluded ? "fp16" : "nf4 block 64"));
        CHECK(row.bytes == (excluded ? row.elements * 2 : row.bytes));
        CHECK(row.measured == !excluded);
        if (excluded) CHECK(row.reason.find("excluded") == 0);
    }
    CHECK(coded == 6);
}

TEST_CASE("requantize: threads, a second call and the tail of a journal change nothing") {
    for (const auto& [from, from_options] : sources()) {
        CAPTURE(std::string(from));
        coded_model model(from_options);
        auto options = to(scheme_type::int4, [](auto& o) { o.exclude = {"value"}; });
        (void)model.mill(options);
        const auto before = read_folder(model.out);
        CHECK(bitmill::quantize(model.source, model.out, options).value().already_milled);
        for (const unsigned threads : {1u, 5u}) {
            options.threads = threads;
            (void)model.mill(options);
            CHECK(read_folder(model.out) == before);
        }
    }
}

TEST_CASE("requantize: a source whose codes, scales or residual changed is told") {
    for (const auto& [from, from_options] : sources()) {
        CAPTURE(std::string(from));
        coded_model model(from_options);
        const auto options = to(scheme_type::int4);
        (void)model.mill(options);
        for (const auto& [name, bytes] : read_folder(model.source)) {
            if (!name.ends_with(".safetensors")) continue;
            CAPTURE(name);
            std::string changed = bytes;
            changed.back() ^= 1;
            put_file(model.source + "/" + name, changed);
            const auto proof = bitmill::verify(model.source, model.out, {});
            REQUIRE_FALSE(proof);
            // The last byte of nf4's files is that of a JSON text.
            CHECK((proof.error().code == error_code::refused || proof.error().code == error_code::bad_input));
            const auto again = bitmill::quantize(model.source, model.out, options);
            CHECK_FALSE(again);
            put_file(model.source + "/" + name, bytes);
        }
        CHECK(bitmill::quantize(model.source, model.out, options).value().already_milled);
    }
}

TEST_CASE("requantize: without the residual planes the source is another one") {
    coded_model model(to(scheme_type::int8, [](auto& o) { o.format = bitmill::format::bitmill; }));
    const auto options = to(scheme_type::int4);
    (void)model.mill(options);
    for (const char* shard : {"1", "2"})
        fs::remove(model.source + "/model-0000" + shard + "-of-00002.int8.safetensors");
    CHECK(bitmill::verify(model.source, model.out, {}).error().code == error_code::refused);
    CHECK(bitmill::quantize(model.source, model.out, options).error().code == error_code::invalid_argument);
}

TEST_CASE("requantize: scales of NaN are bad input that names the tensor, or kept") {
    const temp_folder temp;
    put_model(temp / "model", {make_tensor("a.weight", bitmill::dtype::f32, {64, 128}, 1),
                               make_tensor("b.weight", bitmill::dtype::f32, {64, 128}, 2)});
    (void)bitmill::quantize(temp / "model", temp / "coded", to(scheme_type::int8)).value();
    std::vector<made_tensor> parts;
    for (auto& [name, t] : read_tensors(temp / "coded")) {
        if (name == "b.weight_scale") std::fill(t.bytes.begin() + 8, t.bytes.begin() + 12, '\xff');
        parts.push_back(t);
    }
    put_model(temp / "spoiled", parts, get_file(temp / "coded/config.json"));
    for (const auto& [name, wish] : targets()) {
        CAPTURE(std::string(name));
        auto options = wish;
        const auto refused = bitmill::quantize(temp / "spoiled", temp / "out", options);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == error_code::bad_input);
        CHECK(refused.error().tensor == "b.weight");
        CHECK(refused.error().message.find("element 256") != std::string::npos);
        options.keep_non_finite = true;
        const auto kept = bitmill::quantize(temp / "spoiled", temp / "out", options);
        REQUIRE_MESSAGE(kept, kept.error().text());
        CHECK(kept->tensors[1].effective == "fp32");
        CHECK(bitmill::verify(temp / "spoiled", temp / "out", {}));
        fs::remove_all(temp / "out");
    }
}
