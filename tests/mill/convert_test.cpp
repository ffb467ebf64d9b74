// Converted folders against what an independent writer makes of the same integers, byte for byte; what does not go over.
#include <bitmill/mill/convert.hpp>

#include <cstring>
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

folder renamed(folder f) {
    std::erase_if(f.parts, [](const auto& t) { return t.name == "a.bias"; });
    for (auto& part : f.parts) part.name.replace(0, 1, "model.layers.0.mlp.up_proj");
    return f;
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
                      {{"model.layers.0.mlp.up_proj.weight", dtype::f32, {48, 96}, raw(c.values())}},
                      R"({"model_type": "llama", "dtype": "float16"})");
            put_file(temp / "like.gguf", gguf_of({gguf_pair("general.architecture", 8, gguf_string("qwen2"))},
                                                 {{"blk.0.ffn_up.weight", {96, 48}, 0, 0}}, raw(c.values())));
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
