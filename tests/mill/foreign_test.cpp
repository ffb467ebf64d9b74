// Others' quantized folders: their values against the formulas, written out here element by element, and folders whose
// tensors do not fit together.
#include <bitmill/mill/mill.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/core/half.hpp>
#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/manifest.hpp>

#include <foreign_folders.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::scheme_type;
namespace fs = std::filesystem;

namespace {

std::vector<float> read_weight(const std::string& path, dtype type) {
    const auto tensors = read_tensors(path);
    REQUIRE(tensors.contains("a.weight"));
    const made_tensor& t = tensors.at("a.weight");
    REQUIRE(t.type == type);
    std::vector<float> out;
    for (const double value :
         values_of(t.type, t.bytes.data(), t.bytes.size() / bitmill::element_bytes(type)))
        out.push_back(static_cast<float>(value));
    return out;
}

std::size_t differing(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    std::size_t count = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        count += std::bit_cast<std::uint32_t>(a[i] + 0.0f) != std::bit_cast<std::uint32_t>(b[i] + 0.0f);
    return count;
}

// Both dtypes, what inspect says, and that the mill takes it as a source.
void check(const folder& f, const std::vector<float>& expected, const std::string& stored_as) {
    const temp_folder temp{memory_parent()};
    put_model(temp / "model", f.parts, f.config);
    const auto seen = bitmill::inspect(temp / "model");
    REQUIRE_MESSAGE(seen, seen.error().text());
    const auto weight = std::find_if(seen->tensors.begin(), seen->tensors.end(),
                                     [](const auto& t) { return t.name == "a.weight"; });
    REQUIRE(weight != seen->tensors.end());
    CHECK(bitmill::stored_as(*weight) == stored_as);
    CHECK(weight->elements == expected.size());
    std::uint64_t bytes = 0, all = 0;
    for (const auto& t : seen->tensors) bytes += t.bytes;
    for (const auto& t : f.parts) all += t.bytes.size();
    CHECK(bytes == all);
    bitmill::work_options work;
    work.threads = 3;
    const auto wide = bitmill::dequantize(temp / "model", temp / "f32", dtype::f32, work);
    REQUIRE_MESSAGE(wide, wide.error().text());
    CHECK(differing(read_weight(temp / "f32", dtype::f32), expected) == 0);
    REQUIRE(bitmill::dequantize(temp / "model", temp / "f16", std::nullopt, work));
    std::vector<float> halves;
    for (const float one : expected) halves.push_back(bitmill::f32_from_f16(bitmill::f16_from_f32(one)));
    CHECK(differing(read_weight(temp / "f16", dtype::f16), halves) == 0);
    for (const auto to : {scheme_type::int4, scheme_type::nf4, scheme_type::f16}) {
        bitmill::mill_options options;
        options.to = to;
        REQUIRE(bitmill::quantize(temp / "model", temp / "one", options));
        REQUIRE(bitmill::quantize(temp / "f16", temp / "two", options));
        const auto one = read_tensors(temp / "one"), two = read_tensors(temp / "two");
        REQUIRE(one.size() == two.size());
        for (const auto& [name, t] : one) CHECK(t.bytes == two.at(name).bytes);
        CHECK(bitmill::verify(temp / "model", temp / "one", {}));
        fs::remove_all(temp / "one");
        fs::remove_all(temp / "two");
    }
}

struct attack {
    const char* name;
    std::function<void(folder&)> spoil;
};

void check_attacks(const folder& sound, const std::vector<attack>& attacks) {
    for (const auto& one : attacks) {
        CAPTURE(std::string(one.name));
        folder f = sound;
        one.spoil(f);
        const temp_folder temp;
        put_model(temp / "model", f.parts, f.config);
        const auto stored = bitmill::read_stored(bitmill::checkpoint::open(temp / "model").value());
        REQUIRE_FALSE(stored);
        CAPTURE(stored.error().text());
        CHECK(
            (stored.error().code == error_code::bad_input || stored.error().code == error_code::unsupported));
        CHECK(stored.error().file.find("model.safetensors") != std::string::npos);
        CHECK(stored.error().tensor.find("a.") == 0);
        CHECK_FALSE(bitmill::quantize(temp / "model", temp / "out", {}));
        CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
    }
}

// Missing, of another dtype, transposed, one row longer or shorter, flat, empty: whatever a tensor may be.
std::vector<attack> attacks_on(const std::string& name) {
    const auto reshape = [name](folder& f, std::vector<std::uint64_t> shape) {
        made_tensor& t = f.part(name);
        t = make_tensor(name, t.type, std::move(shape), 7);
    };
    return {
        {"missing", [=](folder& f) { std::erase_if(f.parts, [&](auto& t) { return t.name == name; }); }},
        {"of booleans",
         [=](folder& f) { f.part(name) = make_tensor(name, dtype::boolean, f.part(name).shape, 1); }},
        {"of I64", [=](folder& f) { f.part(name) = make_tensor(name, dtype::i64, f.part(name).shape, 1); }},
        {"a row longer",
         [=](folder& f) {
             auto shape = f.part(name).shape;
             shape[0] += 1;
             reshape(f, shape);
         }},
        {"a column longer",
         [=](folder& f) {
             auto shape = f.part(name).shape;
             shape.back() += 1;
             reshape(f, shape);
         }},
        {"of rank 3", [=](folder& f) { f.part(name).shape.insert(f.part(name).shape.begin(), 1); }},
        {"no rows",
         [=](folder& f) {
             auto shape = f.part(name).shape;
             shape[0] = 0;
             reshape(f, shape);
         }},
        {"no columns", [=](folder& f) {
             auto shape = f.part(name).shape;
             shape.back() = 0;
             reshape(f, shape);
         }}};
}

}  // namespace

TEST_CASE("foreign: GPTQ of 2, 4 and 8 bits, v1 and v2, in order and not") {
    for (const std::size_t bits : {2u, 4u, 8u}) {
        const std::string name = "int" + std::to_string(bits);
        for (const bool v2 : {false, true}) {
            CAPTURE(bits);
            CAPTURE(v2);
            const codes c(48, 96, 64, bits);
            check(gptq(c, v2), c.values(), name + " group 64 asymmetric");
            check(gptq(c, v2, false), c.values(), name + " group 64 asymmetric");
            const codes shuffled(48, 96, 32, bits, true);
            check(gptq(shuffled, v2), shuffled.values(), name + " group 32 asymmetric act-order");
        }
    }
    const codes tiles(560, 480, 128, 4);  // of which a tile holds 273 rows
    check(gptq(tiles, false), tiles.values(), "int4 group 128 asymmetric");
    const codes whole(16, 64, 64, 4);
    check(gptq(whole, true), whole.values(), "int4 per_channel asymmetric");
}

TEST_CASE("foreign: AWQ") {
    for (const auto& c : {codes(48, 96, 32, 4), codes(560, 480, 96, 4), codes(8, 8, 8, 4)})
        check(awq(c), c.values(),
              (c.groups == 1 ? "int4 per_channel" : "int4 group " + std::to_string(c.group)) +
                  std::string(" asymmetric"));
}

TEST_CASE("foreign: words as the reference implementations pack them") {
    codes c(8, 8, 8, 4);
    for (std::size_t r = 0; r < 8; ++r) {
        c.z[r] = static_cast<std::uint32_t>(r + 1);
        for (std::size_t i = 0; i < 8; ++i) c.q[r * 8 + i] = static_cast<std::uint32_t>(i);
    }
    const auto word = [](folder f, const char* name) {
        std::uint32_t value;
        std::memcpy(&value, f.part(name).bytes.data(), 4);
        return value;
    };
    CHECK(word(gptq(c, false), "a.qweight") == 0x76543210u);
    CHECK(word(gptq(c, false), "a.qzeros") == 0x76543210u);
    for (std::size_t r = 0; r < 8; ++r) {
        c.z[r] = 8;
        for (std::size_t i = 0; i < 8; ++i) c.q[r * 8 + i] = static_cast<std::uint32_t>(r);
    }
    CHECK(word(gptq(c, false), "a.qzeros") == 0x77777777u);
    CHECK(word(gptq(c, true), "a.qzeros") == 0x88888888u);
    CHECK(word(awq(c), "a.qweight") == 0x75316420u);
}

TEST_CASE("foreign: compressed-tensors with zero points, and torchao") {
    for (const bool packed : {true, false}) {
        CAPTURE(packed);
        const std::string eight = packed ? "int4" : "int8";
        const codes grouped(20, 96, 32, packed ? 4 : 8), channel(33, 40, 40, packed ? 4 : 8);
        check(asymmetric(grouped, packed), grouped.values(), eight + " group 32 asymmetric");
        check(asymmetric(channel, packed), channel.values(), eight + " per_channel asymmetric");
    }
    const codes tiles(700, 416, 32, 4);
    check(asymmetric(tiles, true), tiles.values(), "int4 group 32 asymmetric");
    const codes grouped(20, 96, 32, 8);
    check(torchao(grouped), grouped.values(), "int8 group 32");
}

TEST_CASE("foreign: bitsandbytes int8") {
    const std::size_t out = 40, in = 100;
    std::string bytes;
    std::vector<float> scales, expected;
    for (std::size_t r = 0; r < out; ++r) scales.push_back(0.37f * static_cast<float>(r + 1));
    for (std::size_t i = 0; i < out * in; ++i) {
        const int q = static_cast<int>(i * 7 % 255) - 127;
        bytes.push_back(static_cast<char>(q));
        expected.push_back(static_cast<float>(q) * scales[i / in] * 7.874015718698502e-3f);
    }
    const folder f{{{"a.weight", dtype::i8, {out, in}, bytes},
                    {"a.SCB", dtype::f32, {out}, raw(scales)},
                    {"a.weight_format", dtype::u8, {}, std::string(1, '\0')}},
                   config_of(R"({"quant_method": "bitsandbytes", "load_in_8bit": true})")};
    check(f, expected, "int8 per_channel");
    auto attacks = attacks_on("a.weight");
    attacks.erase(attacks.begin());  // without it nothing is coded
    std::erase_if(attacks, [](const auto& one) { return std::string(one.name) == "a column longer"; });
    check_attacks(f, attacks);
    check_attacks(f, {attacks_on("a.SCB")[0], attacks_on("a.SCB")[1], attacks_on("a.SCB")[3]});
}

TEST_CASE("foreign: e4m3 by row, by tensor and by block") {
    const std::size_t out = 20, in = 48;
    std::string bytes;
    std::vector<float> values;
    for (std::size_t i = 0; i < out * in; ++i) {
        const auto byte = static_cast<std::uint8_t>(i * 5 % 256);
        const auto usable = static_cast<std::uint8_t>((byte & 0x7f) == 0x7f ? 0x38 : byte);
        bytes.push_back(static_cast<char>(usable));
        const int exponent = usable >> 3 & 15, mantissa = usable & 7;
        const double magnitude =
            exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
        values.push_back(static_cast<float>(usable & 0x80 ? -magnitude : magnitude));
    }
    const auto model = [&](std::vector<std::uint64_t> shape, std::vector<float>& scales,
                           const char* weights) {
        std::size_t count = 1;
        for (const auto one : shape) count *= one;
        for (std::size_t i = 0; i < count; ++i) scales.push_back(0.01f * static_cast<float>(i + 1));
        return folder{
            {{"a.weight", dtype::f8_e4m3, {out, in}, bytes},
             {"a.weight_scale", dtype::f32, shape, raw(scales)}},
            config_of(std::string(R"({"quant_method": "compressed-tensors", "format": "float-quantized", )") +
                      R"("config_groups": {"g": {"weights": {"type": "float", "num_bits": 8)" + weights +
                      "}}}}")};
    };
    const auto scaled = [&](const std::vector<float>& scales, auto index) {
        std::vector<float> all;
        for (std::size_t i = 0; i < values.size(); ++i)
            all.push_back(values[i] * scales[index(i / in, i % in)]);
        return all;
    };
    std::vector<float> rows, whole, blocks;
    const folder by_row = model({out, 1}, rows, "");
    check(by_row, scaled(rows, [](auto r, auto) { return r; }), "fp8 per_channel");
    const folder by_tensor = model({1}, whole, "");
    check(by_tensor, scaled(whole, [](auto, auto) { return std::size_t{0}; }), "fp8 per_tensor");
    const folder by_block = model({3, 2}, blocks, R"(, "block_structure": [8, 32])");
    check(by_block, scaled(blocks, [](auto r, auto c) { return r / 8 * 2 + c / 32; }), "fp8 block 8 x 32");
    check_attacks(by_row, {attacks_on("a.weight_scale")[0], attacks_on("a.weight_scale")[1],
                           attacks_on("a.weight_scale")[3], attacks_on("a.weight_scale")[6]});
}

TEST_CASE("foreign: spoiled GPTQ and AWQ") {
    const folder sound[] = {gptq(codes(48, 96, 32, 4, true), false), awq(codes(48, 96, 32, 4))};
    for (const auto& f : sound) {
        CAPTURE(f.config);
        for (const char* name : {"a.qweight", "a.qzeros", "a.scales"}) {
            CAPTURE(std::string(name));
            check_attacks(f, attacks_on(name));
        }
    }
    const auto order = [](std::int32_t value) {
        return [=](folder& f) { std::memcpy(f.part("a.g_idx").bytes.data() + 40, &value, 4); };
    };
    check_attacks(
        sound[0],
        {{"a group too many", order(3)},
         {"a negative group", order(-1)},
         {"the least group", order(-2147483647 - 1)},
         {"order too long",
          [](folder& f) { f.part("a.g_idx") = make_tensor("a.g_idx", dtype::i32, {97}, 1); }},
         {"order of I64", [](folder& f) { f.part("a.g_idx") = make_tensor("a.g_idx", dtype::i64, {96}, 1); }},
         {"order of rank 2", [](folder& f) { f.part("a.g_idx").shape = {96, 1}; }}});
    const folder three = gptq(codes(48, 96, 32, 4), false, false);
    for (const char* size : {"64", "0", "-1", "18446744073709551615"}) {
        CAPTURE(std::string(size));
        check_attacks(three, {{"groups that do not make a row", [&](folder& f) {
                                   const std::string key = "\"group_size\": ";
                                   f.config.replace(f.config.find(key + "32"), key.size() + 2, key + size);
                               }}});
    }
}

TEST_CASE("foreign: spoiled zero points and torchao") {
    const codes c(20, 96, 32, 4), eight(20, 96, 32, 8);
    check_attacks(asymmetric(c, true),
                  {attacks_on("a.weight_zero_point")[1], attacks_on("a.weight_zero_point")[2],
                   attacks_on("a.weight_zero_point")[3], attacks_on("a.weight_zero_point")[4],
                   attacks_on("a.weight_zero_point")[5], attacks_on("a.weight_zero_point")[6]});
    check_attacks(asymmetric(eight, false),
                  {attacks_on("a.weight_zero_point")[1], attacks_on("a.weight_zero_point")[3]});
    const folder f = torchao(eight);
    check_attacks(f, attacks_on("a._weight_qdata"));
    check_attacks(f, attacks_on("a._weight_scale"));
    check_attacks(f, {attacks_on("a._weight_zero_point")[1], attacks_on("a._weight_zero_point")[3]});
}

TEST_CASE("foreign: layouts that are not read are named") {
    for (const char* block :
         {R"({"quant_method": "awq", "version": "gemv"})",
          R"({"quant_method": "gptq", "checkpoint_format": "marlin"})",
          R"({"quant_method": "auto-round", "packing_format": "auto_round:llm_compressor"})"}) {
        CAPTURE(std::string(block));
        const temp_folder temp;
        put_model(temp / "model", {make_tensor("a.weight", dtype::f16, {8, 8}, 1)}, config_of(block));
        const auto stored = bitmill::read_stored(bitmill::checkpoint::open(temp / "model").value());
        REQUIRE_FALSE(stored);
        CHECK(stored.error().code == error_code::unsupported);
    }
    const codes c(16, 64, 32, 4);
    folder f = gptq(c, false);
    f.config = config_of(
        R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "group_size": 32})");
    check(f, c.values(), "int4 group 32 asymmetric");
}
