// Converted folders against what an independent writer makes of the same integers, byte for byte; what does not go over.
#include <bitmill/mill/convert.hpp>

#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <bitmill/mill/mill.hpp>

#include <foreign_folders.hpp>
#include <gguf_files.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::container;
using bitmill::dtype;
using bitmill::error_code;

namespace {

codes in_the_middle(codes c) {
    for (auto& zero : c.z) zero = 1u << (c.bits - 1);
    return c;
}

nlohmann::json quantization_of(const std::string& path) {
    return nlohmann::json::parse(
        bitmill::checkpoint::open(path).value().config_text())["quantization_config"];
}

// `path` becomes `to`; its tensors must be those of `expected`, all of them.
std::string check(const std::string& path, container to, const folder& expected) {
    const std::string out = path + "-" + bitmill::to_text(to);
    bitmill::convert_options options;
    options.threads = 2;
    const auto report = bitmill::convert(path, out, to, options);
    REQUIRE_MESSAGE(report, report.error().text());
    CHECK(report->format == bitmill::to_text(to));
    std::map<std::string, made_tensor> made = read_tensors(out);
    CHECK(made.size() == expected.parts.size());
    for (const auto& part : expected.parts) {
        CAPTURE(part.name);
        REQUIRE(made.contains(part.name));
        const made_tensor& one = made.at(part.name);
        CHECK(one.type == part.type);
        CHECK(one.shape == part.shape);
        CHECK(one.bytes == part.bytes);
    }
    std::uint64_t bytes = 0;
    for (const auto& row : report->tensors) bytes += row.bytes;
    CHECK(bytes < report->bytes);
    for (const auto& type : {std::optional<dtype>(), std::optional<dtype>(dtype::f32)}) {
        REQUIRE(bitmill::dequantize(path, out + "-before", type, options));
        REQUIRE(bitmill::dequantize(out, out + "-after", type, options));
        CHECK(read_tensors(out + "-before").at("a.weight").bytes ==
              read_tensors(out + "-after").at("a.weight").bytes);
        options.force = true;
    }
    return out;
}

void check_refusal(const folder& f, container to, const std::string& why) {
    CAPTURE(why);
    const temp_folder temp;
    put_model(temp / "model", f.parts, f.config);
    for (const bool dry_run : {true, false}) {
        bitmill::convert_options options;
        options.dry_run = dry_run;
        const auto report = bitmill::convert(temp / "model", temp / "out", to, options);
        REQUIRE_FALSE(report);
        CAPTURE(report.error().text());
        CHECK(report.error().code == error_code::unsupported);
        CHECK(report.error().tensor == "a.weight");
        CHECK(report.error().message.find(why) != std::string::npos);
    }
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
}

}  // namespace

TEST_CASE("convert: symmetric integers go round through every container") {
    for (const std::size_t group : {32u, 96u}) {
        CAPTURE(group);
        const codes c = in_the_middle(codes(48, 96, group, 4));
        const temp_folder temp{memory_parent()};
        put_model(temp / "m", symmetric(c).parts, symmetric(c).config);
        const std::string gptq_folder = check(temp / "m", container::gptq, gptq(c, false));
        const std::string awq_folder = check(gptq_folder, container::awq, awq(c));
        const std::string back = check(awq_folder, container::compressed_tensors, symmetric(c));
        check(back, container::awq, awq(c));
        const auto config = quantization_of(gptq_folder);
        CHECK(config["quant_method"] == "gptq");
        CHECK(config["bits"] == 4);
        CHECK(config["group_size"] == (group == 96 ? -1 : 32));
        CHECK(config["sym"] == true);
        CHECK(config["desc_act"] == false);
        CHECK(quantization_of(awq_folder)["version"] == "gemm");
        CHECK(quantization_of(awq_folder)["modules_to_not_convert"].is_null());
        const auto group_0 = quantization_of(back)["config_groups"]["group_0"];
        CHECK(group_0["weights"]["num_bits"] == 4);
        CHECK(group_0["weights"]["group_size"] == (group == 96 ? nlohmann::json() : nlohmann::json(32)));
        CHECK(group_0["format"] == "pack-quantized");
    }
    for (const std::size_t bits : {2u, 8u}) {
        CAPTURE(bits);
        const codes c = in_the_middle(codes(32, 64, 32, bits));
        const temp_folder temp{memory_parent()};
        put_model(temp / "m", symmetric(c).parts, symmetric(c).config);
        const std::string there = check(temp / "m", container::gptq, gptq(c, false));
        check(there, container::compressed_tensors, symmetric(c));
    }
}

TEST_CASE("convert: zero points go over between GPTQ and AWQ") {
    const codes c(48, 96, 32, 4);
    const temp_folder temp{memory_parent()};
    put_model(temp / "v2", gptq(c, true, false).parts, gptq(c, true, false).config);
    check(temp / "v2", container::gptq, gptq(c, false));
    const std::string there = check(temp / "v2", container::awq, awq(c));
    const std::string back = check(there, container::gptq, gptq(c, false));
    CHECK(quantization_of(back)["sym"] == false);
    put_model(temp / "ct", asymmetric(c, true).parts, asymmetric(c, true).config);
    check(temp / "ct", container::awq, awq(c));
    // 32 bits of which 16 hold all go over.
    folder wide = symmetric(in_the_middle(c));
    wide.part("a.weight_scale") = {"a.weight_scale", dtype::f32, {48, 3}, raw(c.s)};
    put_model(temp / "wide", wide.parts, wide.config);
    const bitmill::convert_options options;
    REQUIRE(bitmill::convert(temp / "wide", temp / "narrow", container::gptq, options));
    const auto made = read_tensors(temp / "narrow"), meant = [&] {
        std::map<std::string, made_tensor> all;
        for (const auto& part : gptq(in_the_middle(c), false).parts) all[part.name] = part;
        return all;
    }();
    for (const auto& [name, one] : made) CHECK(one.bytes == meant.at(name).bytes);
}

TEST_CASE("convert: what does not go over exactly is refused, and nothing is written") {
    const codes c(48, 96, 32, 4), middle = in_the_middle(c);
    check_refusal(gptq(c, false), container::compressed_tensors, "it has zero points");
    check_refusal(awq(c), container::compressed_tensors, "it has zero points");
    check_refusal(gptq(codes(48, 96, 32, 4, true), false), container::awq, "act-order");
    check_refusal(gptq(in_the_middle(codes(48, 96, 64, 4)), false), container::awq, "short");
    check_refusal(symmetric(in_the_middle(codes(48, 96, 32, 8))), container::awq, "4 bits only");
    check_refusal(symmetric(in_the_middle(codes(20, 96, 32, 4))), container::gptq, "20 rows");
    check_refusal(symmetric(in_the_middle(codes(24, 60, 60, 4))), container::gptq, "rows of 60");
    check_refusal(torchao(codes(48, 96, 32, 8)), container::gptq, "a code in a byte");
    codes zero = c;
    zero.z[7] = 0;
    check_refusal(gptq(zero, true), container::gptq, "a zero point is 0");
    folder fine = symmetric(middle);
    std::vector<float> scales(c.s.begin(), c.s.end());
    scales[5] = 0.1f;
    fine.part("a.weight_scale") = {"a.weight_scale", dtype::f32, {48, 3}, raw(scales)};
    check_refusal(fine, container::gptq, "F16 does not hold");
    folder two = gptq(middle, false);
    for (made_tensor part : gptq(in_the_middle(codes(48, 96, 48, 4)), false).parts) {
        if (part.name == "a.bias") continue;
        part.name[0] = '0';
        two.parts.insert(two.parts.begin(), std::move(part));
    }
    two.config.replace(two.config.find("\"group_size\": 32, "), 18, "");
    check_refusal(two, container::awq, "one group size");
}

TEST_CASE("convert: plain models and W8A8 are no sources") {
    const temp_folder temp;
    const auto convert = [&](const folder& f) {
        put_model(temp / "model", f.parts, f.config);
        const auto report = bitmill::convert(temp / "model", temp / "out", container::gptq, {});
        REQUIRE_FALSE(report);
        return report.error();
    };
    const codes c = in_the_middle(codes(48, 96, 32, 4));
    const auto plain = convert({{make_tensor("a.weight", dtype::f16, {8, 8}, 1)}, "{}"});
    CHECK(plain.code == error_code::invalid_argument);
    CHECK(plain.message.find("no quantized weights") != std::string::npos);
    folder both = symmetric(c);
    both.config.replace(both.config.find("\"targets\""), 0, R"("input_activations": {"num_bits": 8}, )");
    const auto activations = convert(both);
    CHECK(activations.code == error_code::unsupported);
    CHECK(activations.file.ends_with("config.json"));
    CHECK_FALSE(bitmill::container_from_text("onnx"));
}

namespace {

// Q4_0 and Q8_0, as ggml-common.h lays them out.
std::string blocks_of(const codes& c) {
    std::string bytes;
    for (std::size_t r = 0; r < c.out; ++r)
        for (std::size_t b = 0; b < c.in / 32; ++b) {
            const std::uint32_t* q = c.q.data() + r * c.in + b * 32;
            const std::uint16_t scale = bitmill::f16_from_f32(c.s[r * c.groups + b * 32 / c.group]);
            bytes.append(reinterpret_cast<const char*>(&scale), 2);
            for (std::size_t k = 0; k < (c.bits == 8 ? 32 : 16); ++k)
                bytes.push_back(static_cast<char>(c.bits == 8 ? q[k] - 128 : q[k] | q[k + 16] << 4));
        }
    return bytes;
}

constexpr const char* up_proj = "model.layers.0.mlp.up_proj";
constexpr const char* sizes =
    R"({"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 2, )";

folder renamed(folder f) {
    std::erase_if(f.parts, [](const auto& t) { return t.name == "a.bias"; });
    for (auto& part : f.parts) part.name.replace(0, 1, up_proj);
    f.config.replace(0, 1, sizes);
    return f;
}

std::vector<std::string> pairs_of_model(std::uint64_t heads = 2) {
    return {gguf_pair("general.architecture", 8, gguf_string("llama")),
            gguf_pair("llama.block_count", 4, le4(1)),
            gguf_pair("llama.context_length", 10, little_endian(2048)),
            gguf_pair("llama.embedding_length", 5, le4(96)),
            gguf_pair("llama.feed_forward_length", 9, gguf_array(4, 1, le4(48))),
            gguf_pair("llama.attention.head_count", 4, le4(heads)),
            gguf_pair("llama.attention.layer_norm_rms_epsilon", 6, gguf_bits(1e-6f)),
            gguf_pair("tokenizer.ggml.tokens", 9, gguf_array(8, 2, gguf_string("a") + gguf_string("b")))};
}

std::string file_of(const std::vector<std::string>& pairs, const std::vector<float>& values) {
    return gguf_of(pairs, {{"blk.0.ffn_up.weight", {96, 48}, 0, 0}}, raw(values));
}

}  // namespace

TEST_CASE("convert: Q4_0 and Q8_0 of GGUF and back") {
    for (const std::size_t bits : {4u, 8u}) {
        for (const std::size_t group : {32u, 96u}) {
            CAPTURE(bits);
            CAPTURE(group);
            const codes c = in_the_middle(codes(48, 96, group, bits));
            const folder coded = renamed(symmetric(c));
            const temp_folder temp{memory_parent()};
            put_model(temp / "m", coded.parts, coded.config);
            put_model(temp / "plain",
                      {{std::string(up_proj) + ".weight", dtype::f32, {48, 96}, raw(c.values())}},
                      std::string(sizes) + R"("model_type": "llama", "dtype": "float16"})");
            put_file(temp / "like.gguf", file_of(pairs_of_model(), c.values()));
            bitmill::convert_options options;
            options.threads = 2;
            options.like = temp / "like.gguf";
            auto done = bitmill::convert(temp / "m", temp / "out.gguf", container::gguf, options);
            REQUIRE_MESSAGE(done, done.error().text());
            const std::string file = get_file(temp / "out.gguf"), blocks = blocks_of(c);
            CHECK(file.size() == done->bytes);
            CHECK(file.substr(file.size() - blocks.size()) == blocks);
            const auto made = bitmill::checkpoint::open(temp / "out.gguf");
            REQUIRE(made);
            CHECK(made->shard(0).gguf()->metadata().get<std::uint32_t>("general.file_type") ==
                  (bits == 8 ? 7 : 2));
            options.like = temp / "plain";
            done = bitmill::convert(temp / "out.gguf", temp / "back", container::compressed_tensors, options);
            REQUIRE_MESSAGE(done, done.error().text());
            const auto back = read_tensors(temp / "back");
            CHECK(back.size() == 3);
            for (const auto& part : coded.parts) {
                CAPTURE(part.name);
                if (group == 32 || part.name.ends_with("packed"))
                    CHECK(back.at(part.name).bytes == part.bytes);
            }
            options.like.clear();
            CHECK(bitmill::convert(temp / "out.gguf", temp / "other", container::awq, options).error().code ==
                  error_code::unsupported);
            CHECK(bitmill::convert(temp / "m", temp / "other.gguf", container::gguf, options).error().code ==
                  error_code::invalid_argument);
        }
    }
}

TEST_CASE("convert: keys, rows and tensors of another model") {
    const codes c = in_the_middle(codes(48, 96, 32, 4));
    const folder coded = renamed(symmetric(c));
    const temp_folder temp{memory_parent()};
    put_model(temp / "m", coded.parts, coded.config);
    const auto error_of = [&](const std::string& file) {
        bitmill::convert_options options;
        options.like = temp / "like.gguf";
        options.dry_run = true;
        put_file(options.like, file);
        const auto done = bitmill::convert(temp / "m", {}, container::gguf, options);
        return done ? std::string() : done.error().text();
    };
    const auto pairs = pairs_of_model();
    CHECK(error_of(file_of(pairs, c.values())) == "");
    CHECK(error_of(file_of(pairs_of_model(3), c.values())).find("head_count is 3") != std::string::npos);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        CAPTURE(i);
        auto fewer = pairs;
        fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
        const std::string error = error_of(file_of(fewer, c.values()));
        CHECK(error.find(i == 0 ? "of architecture ''" : "is missing") != std::string::npos);
        CHECK(error.find("like.gguf") != std::string::npos);
    }
    for (const std::size_t row : {0u, 24u, 47u}) {
        CAPTURE(row);
        for (const float factor : {-1.f, 0.f, 2.f, std::numeric_limits<float>::quiet_NaN()}) {
            auto values = c.values();
            for (std::size_t i = 0; i < 96; ++i) values[row * 96 + i] *= factor;
            const std::string error = error_of(file_of(pairs, values));
            CHECK(error.find("see row " + std::to_string(row)) != std::string::npos);
            CHECK(error.find(up_proj) != std::string::npos);
        }
    }
    const std::string more =
        gguf_of(pairs, {{"blk.0.ffn_up.weight", {96, 48}, 0, 0}, {"b", {1}, 0, 48 * 96 * 4}},
                raw(c.values()) + std::string(4, '\0'));
    CHECK(error_of(more).find("no counterpart") != std::string::npos);
    folder bias = coded;
    bias.parts.push_back(make_tensor(std::string(up_proj) + ".bias", dtype::f16, {48}, 1));
    put_model(temp / "m", bias.parts, bias.config);
    CHECK(error_of(file_of(pairs, c.values())).find("no tensor for it") != std::string::npos);
}

TEST_CASE("convert: scales that are no numbers") {
    const codes c = in_the_middle(codes(48, 96, 32, 4));
    for (const float scale :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        const std::string why = std::string("row 1, group 2 is ") + (scale != scale ? "NaN" : "infinite");
        for (const dtype type : {dtype::f32, dtype::f16}) {
            std::vector<float> wide(c.s.begin(), c.s.end());
            wide[5] = scale;
            std::vector<std::uint16_t> halves;
            for (const float one : wide) halves.push_back(bitmill::f16_from_f32(one));
            folder f = symmetric(c);
            f.part("a.weight_scale") = {
                "a.weight_scale", type, {48, 3}, type == dtype::f32 ? raw(wide) : raw(halves)};
            for (const container to : {container::gptq, container::awq, container::compressed_tensors})
                check_refusal(f, to, why);
        }
    }
}

TEST_CASE("convert, dequantize, quantize: a folder that holds more than one model's weights") {
    const codes c = in_the_middle(codes(48, 96, 32, 4));
    const temp_folder temp{memory_parent()};
    const auto errors_of = [&](const folder& f) {
        put_model(temp / "m", f.parts, f.config);
        bitmill::mill_options to;
        to.to = bitmill::scheme_type::int8;
        const auto converted = bitmill::convert(temp / "m", temp / "1", container::gptq, {});
        const auto decoded = bitmill::dequantize(temp / "m", temp / "2", std::nullopt, {});
        const auto milled = bitmill::quantize(temp / "m", temp / "3", to);
        std::vector<bitmill::error> errors;
        if (!converted) errors.push_back(converted.error());
        if (!decoded) errors.push_back(decoded.error());
        if (!milled) errors.push_back(milled.error());
        return errors;
    };
    const auto check_all = [&](const folder& f, error_code code, const std::string& why) {
        CAPTURE(why);
        const auto errors = errors_of(f);
        CHECK(errors.size() == 3);
        for (const auto& one : errors) {
            CHECK(one.code == code);
            CHECK(one.message.find(why) != std::string::npos);
        }
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"m"});
    };
    folder twice = symmetric(c);
    twice.parts.push_back({"a.weight", dtype::f32, {48, 96}, raw(c.values())});
    check_all(twice, error_code::bad_input, "stored coded, too");
    const auto with = [&](const std::string& before, const std::string& text) {
        folder f = symmetric(c);
        f.config.replace(f.config.find(before), 0, text);
        return f;
    };
    check_all(with("\"config_groups\"", R"("kv_cache_scheme": {"num_bits": 8}, )"), error_code::unsupported,
              "kv_cache_scheme");
    check_all(with("\"config_groups\"", R"("transform_config": {"config_groups": {"u": {}}}, )"),
              error_code::unsupported, "transform_config");
    check_all(with("\"config_groups\"", R"("sparsity_config": {"format": "sparse-bitmask"}, )"),
              error_code::unsupported, "sparsity_config");
    check_all(with("\"targets\"", R"("output_activations": {"num_bits": 8}, )"), error_code::unsupported,
              "output_activations");
    CHECK(
        errors_of(
            with(
                "\"config_groups\"",
                R"("kv_cache_scheme": null, "transform_config": {}, "sparsity_config": {"format": "dense"}, )"))
            .empty());
}
