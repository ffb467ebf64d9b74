// Quantized folders whose tensors do not fit together: an error that says so, never a crash.
#include <bitmill/mill/stored.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/mill.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::scheme_type;
using tensors = std::vector<made_tensor>;

namespace {

template <class T>
std::string raw(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// What the mill makes of one 64 x 128 matrix, to be spoiled.
struct milled {
    tensors parts;
    std::string config;

    explicit milled(scheme_type to, bool double_quant = false, bool activations = false) {
        const temp_folder temp;
        put_model(temp / "model", {make_tensor("a.weight", dtype::f32, {64, 128}, 1),
                                   make_tensor("a.bias", dtype::f32, {64}, 2)});
        bitmill::mill_options options;
        options.to = to;
        options.double_quant = double_quant;
        if (activations) options.activation = bitmill::activation::dynamic_int8;
        (void)bitmill::quantize(temp / "model", temp / "out", options).value();
        for (auto& [name, t] : read_tensors(temp / "out")) parts.push_back(std::move(t));
        config = get_file(temp / "out/config.json");
    }
    [[nodiscard]] made_tensor& part(const std::string& ending) {
        const auto found =
            std::find_if(parts.begin(), parts.end(), [&](const auto& t) { return t.name.ends_with(ending); });
        REQUIRE(found != parts.end());
        return *found;
    }
    void remove(const std::string& ending) {
        std::erase_if(parts, [&](const auto& t) { return t.name.ends_with(ending); });
    }
};

// Both readers of a quantized folder, on a folder that must not be believed.
bitmill::error spoiled(const milled& model) {
    const temp_folder temp;
    put_model(temp / "model", model.parts, model.config);
    const auto open = bitmill::checkpoint::open(temp / "model");
    REQUIRE_MESSAGE(open, open.error().text());
    const auto stored = bitmill::read_stored(*open);
    const auto back = bitmill::dequantize(temp / "model", temp / "back", std::nullopt, {});
    REQUIRE_FALSE(back);
    CHECK(entries_of(temp.path()) == std::vector<std::string>{"model"});
    const auto& what = back.error();
    CAPTURE(what.text());
    CHECK((what.code == error_code::bad_input || what.code == error_code::unsupported));
    CHECK_FALSE(what.message.empty());
    CHECK_FALSE(stored);
    if (!stored) CHECK(stored.error().text() == what.text());
    return what;
}

using spoiler = std::function<void(milled&)>;
struct attack {
    const char* name;
    spoiler spoil;
};

void check_attacks(const std::function<milled()>& make, const std::vector<attack>& attacks) {
    {
        const temp_folder temp;  // unspoiled, it loads
        const milled sound = make();
        put_model(temp / "model", sound.parts, sound.config);
        const auto back = bitmill::dequantize(temp / "model", temp / "back", std::nullopt, {});
        REQUIRE_MESSAGE(back, back.error().text());
    }
    for (const auto& one : attacks) {
        CAPTURE(std::string(one.name));
        milled model = make();
        one.spoil(model);
        const auto what = spoiled(model);
        CHECK(what.file.find("model.safetensors") != std::string::npos);
        CHECK(what.tensor.find("a.weight") == 0);
    }
}

void set_shape(milled& m, std::vector<std::int64_t> shape) { m.part("weight_shape").bytes = raw(shape); }

const std::vector<attack>& packed_attacks() {
    static const std::vector<attack> attacks{
        {"weight_shape missing", [](auto& m) { m.remove("weight_shape"); }},
        {"scale missing", [](auto& m) { m.remove("weight_scale"); }},
        {"negative rows", [](auto& m) { set_shape(m, {-64, 128}); }},
        {"negative columns", [](auto& m) { set_shape(m, {64, -128}); }},
        {"both negative", [](auto& m) { set_shape(m, {-64, -128}); }},
        {"smallest", [](auto& m) { set_shape(m, {64, std::numeric_limits<std::int64_t>::min()}); }},
        {"huge columns", [](auto& m) { set_shape(m, {64, std::int64_t{1} << 40}); }},
        {"huger columns", [](auto& m) { set_shape(m, {64, (std::int64_t{1} << 61) + 128}); }},
        {"huge rows", [](auto& m) { set_shape(m, {std::int64_t{1} << 62, 128}); }},
        {"zero columns", [](auto& m) { set_shape(m, {64, 0}); }},
        {"zero rows", [](auto& m) { set_shape(m, {0, 128}); }},
        {"fewer rows", [](auto& m) { set_shape(m, {63, 128}); }},
        {"swapped", [](auto& m) { set_shape(m, {128, 64}); }},
        {"shape of f64", [](auto& m) { m.part("weight_shape").type = dtype::f64; }},
        {"shape of three",
         [](auto& m) {
             m.part("weight_shape").shape = {3};
             set_shape(m, {64, 128, 1});
         }},
        {"shape of none",
         [](auto& m) {
             m.part("weight_shape").shape = {0};
             m.part("weight_shape").bytes.clear();
         }},
        {"codes of u8",
         [](auto& m) {
             auto& t = m.part("weight_packed");
             t.type = dtype::u8;
             t.shape = {64, t.bytes.size() / 64};
         }},
        {"codes flat",
         [](auto& m) { m.part("weight_packed").shape = {m.part("weight_packed").bytes.size() / 4}; }},
        {"a row of codes missing",
         [](auto& m) {
             auto& t = m.part("weight_packed");
             t.bytes.resize(t.bytes.size() / 64 * 63);
             t.shape[0] = 63;
         }},
        {"scales of f64",
         [](auto& m) {
             m.part("weight_scale").type = dtype::f64;
             m.part("weight_scale").shape = {m.part("weight_scale").bytes.size() / 8};
         }},
        {"scales flat",
         [](auto& m) { m.part("weight_scale").shape = {m.part("weight_scale").bytes.size() / 4}; }},
        {"scales of rank 3",
         [](auto& m) { m.part("weight_scale").shape = {64, 1, m.part("weight_scale").bytes.size() / 256}; }},
        {"groups that do not divide",
         [](auto& m) { m.part("weight_scale") = make_tensor("a.weight_scale", dtype::f32, {64, 3}, 5); }},
        {"no groups",
         [](auto& m) { m.part("weight_scale") = make_tensor("a.weight_scale", dtype::f32, {64, 0}, 5); }},
        {"groups of 4",
         [](auto& m) { m.part("weight_scale") = make_tensor("a.weight_scale", dtype::f32, {64, 32}, 5); }},
        {"scales of too few rows",
         [](auto& m) { m.part("weight_scale") = make_tensor("a.weight_scale", dtype::f32, {63, 1}, 5); }},
        {"zero points",
         [](auto& m) { m.parts.push_back(make_tensor("a.weight_zero_point", dtype::i32, {8, 3}, 5)); }},
        {"order of groups",
         [](auto& m) { m.parts.push_back(make_tensor("a.weight_g_idx", dtype::i32, {128}, 5)); }},
    };
    return attacks;
}

std::string& state_of(milled& m) { return m.part("bitsandbytes__nf4").bytes; }
void set_state(milled& m, const std::string& text) {
    auto& t = m.part("bitsandbytes__nf4");
    t.bytes = text;
    t.shape = {text.size()};
}
void change_state(milled& m, const std::string& from, const std::string& to) {
    std::string text = state_of(m);
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    set_state(m, text.replace(at, from.size(), to));
}

attack state_change(const char* name, const std::string& from, const std::string& to) {
    return {name, [=](milled& m) { change_state(m, from, to); }};
}

std::vector<attack> block_attacks() {
    std::vector<attack> attacks{
        {"quant_state missing", [](auto& m) { m.remove("__nf4"); }},
        {"quant_map missing", [](auto& m) { m.remove(".quant_map"); }},
        {"another table", [](auto& m) { m.part(".quant_map").bytes[5] ^= 0x40; }},
        {"a table of NaN",
         [](auto& m) {
             std::fill(m.part(".quant_map").bytes.begin(), m.part(".quant_map").bytes.end(), '\xff');
         }},
        {"a short table",
         [](auto& m) {
             m.part(".quant_map").bytes.resize(60);
             m.part(".quant_map").shape = {15};
         }},
        {"a code too few",
         [](auto& m) {
             auto& t = *std::find_if(m.parts.begin(), m.parts.end(),
                                     [](const auto& one) { return one.name == "a.weight"; });
             t.bytes.pop_back();
             t.shape = {t.bytes.size(), 1};
         }},
        {"absmax too short",
         [](auto& m) {
             auto& t = m.part(".absmax");
             t = make_tensor(t.name, t.type, {t.shape[0] - 1}, 5);
         }},
        {"absmax too long",
         [](auto& m) {
             auto& t = m.part(".absmax");
             t = make_tensor(t.name, t.type, {t.shape[0] + 1}, 5);
         }},
        {"absmax empty",
         [](auto& m) {
             auto& t = m.part(".absmax");
             t = make_tensor(t.name, t.type, {0}, 5);
         }},
        {"absmax of i64",
         [](auto& m) {
             auto& t = m.part(".absmax");
             t = make_tensor(t.name, dtype::i64, {t.shape[0]}, 5);
         }},
        {"state empty", [](auto& m) { set_state(m, ""); }},
        {"state not JSON", [](auto& m) { set_state(m, "{\"blocksize\": "); }},
        {"state not UTF-8", [](auto& m) { set_state(m, "\xff\xfe{}"); }},
        {"state an array", [](auto& m) { set_state(m, "[1, 2]"); }},
        {"state a number", [](auto& m) { set_state(m, "7"); }},
        {"state deep", [](auto& m) { set_state(m, std::string(4096, '[')); }},
        {"state too long", [](auto& m) { set_state(m, "{}" + std::string(5000, ' ')); }},
        state_change("no shape", "\"shape\"", "\"shapes\""),
        state_change("a shape of one", "[64, 128]", "[8192]"),
        state_change("a shape of strings", "[64, 128]", "[\"64\", \"128\"]"),
        state_change("a negative shape", "[64, 128]", "[-64, -128]"),
        state_change("a broken shape", "[64, 128]", "[64.0, 128.0]"),
        state_change("a huge shape", "[64, 128]", "[9223372036854775808, 4]"),
        state_change("a shape that wraps", "[64, 128]", "[4294967296, 4294967296]"),
        state_change("a shape past u64", "[64, 128]", "[1e30, 128]"),
        state_change("no elements", "[64, 128]", "[0, 128]"),
        state_change("another shape", "[64, 128]", "[64, 64]"),
    };
    for (const char* size : {"0", "1", "33", "-64", "64.5", "8192", "1099511627776", "18446744073709551616",
                             "\"64\"", "null", "[]"})
        attacks.push_back(state_change(size, "\"blocksize\": 64", std::string("\"blocksize\": ") + size));
    return attacks;
}

}  // namespace

TEST_CASE("stored: spoiled packed int8") {
    check_attacks([] { return milled(scheme_type::int8); }, packed_attacks());
}

TEST_CASE("stored: spoiled packed int4") {
    check_attacks([] { return milled(scheme_type::int4); }, packed_attacks());
}

TEST_CASE("stored: spoiled int-quantized int8") {
    const auto codes = [](milled& m) -> made_tensor& {
        return *std::find_if(m.parts.begin(), m.parts.end(),
                             [](const auto& t) { return t.name == "a.weight"; });
    };
    check_attacks([] { return milled(scheme_type::int8, false, true); },
                  {{"codes flat", [&](milled& m) { codes(m).shape = {64 * 128}; }},
                   {"codes of rank 3", [&](milled& m) { codes(m).shape = {2, 32, 128}; }},
                   {"fewer rows",
                    [&](milled& m) {
                        codes(m).shape = {63, 128};
                        codes(m).bytes.resize(63 * 128);
                    }},
                   {"scales of I32", [](milled& m) { m.part("weight_scale").type = dtype::i32; }},
                   {"scales flat", [](milled& m) { m.part("weight_scale").shape = {64}; }},
                   {"scales transposed", [](milled& m) { m.part("weight_scale").shape = {1, 64}; }},
                   {"zero points", [](milled& m) {
                        m.parts.push_back(make_tensor("a.weight_zero_point", dtype::i8, {63, 1}, 3));
                    }}});
}

TEST_CASE("stored: spoiled nf4") {
    check_attacks([] { return milled(scheme_type::nf4); }, block_attacks());
}

TEST_CASE("stored: spoiled nf4 with double quantization") {
    auto attacks = block_attacks();
    const std::vector<attack> more{
        {"nested_absmax missing", [](auto& m) { m.remove(".nested_absmax"); }},
        {"nested_quant_map missing", [](auto& m) { m.remove(".nested_quant_map"); }},
        {"another nested table", [](auto& m) { m.part(".nested_quant_map").bytes[7] ^= 0x40; }},
        {"nested_absmax too long",
         [](auto& m) {
             m.part(".nested_absmax") = make_tensor("a.weight.nested_absmax", dtype::f32, {2}, 4);
         }},
        {"nested_absmax empty",
         [](auto& m) {
             m.part(".nested_absmax") = make_tensor("a.weight.nested_absmax", dtype::f32, {0}, 4);
         }},
        {"nested_absmax of i32", [](auto& m) { m.part(".nested_absmax").type = dtype::i32; }},
        state_change("nested_blocksize", "\"nested_blocksize\": 256", "\"nested_blocksize\": 128"),
        state_change("no nested_offset", "\"nested_offset\"", "\"nested\""),
        state_change("nested_offset a string", "\"nested_offset\": ", "\"nested_offset\": \"x\", \"y\": "),
    };
    attacks.insert(attacks.end(), more.begin(), more.end());
    std::erase_if(attacks, [](const auto& one) { return std::string(one.name).starts_with("absmax of"); });
    check_attacks([] { return milled(scheme_type::nf4, true); }, attacks);
}

TEST_CASE("stored: another quantization method is unsupported") {
    for (const char* method : {"hqq", "eetq", "quanto", "aqlm"}) {
        CAPTURE(std::string(method));
        const temp_folder temp;
        put_model(temp / "model", {make_tensor("a.weight", dtype::f32, {4, 4}, 1)},
                  std::string(R"({"quantization_config": {"quant_method": ")") + method + "\"}}");
        const auto back = bitmill::dequantize(temp / "model", temp / "back", std::nullopt, {});
        REQUIRE_FALSE(back);
        CHECK(back.error().code == error_code::unsupported);
        CHECK(back.error().message.find("compressed-tensors") != std::string::npos);
    }
}

TEST_CASE("stored: two stored tensors that would become one are bad input") {
    milled model(scheme_type::int8);
    model.parts.push_back(make_tensor("a.weight", dtype::f32, {64, 128}, 3));
    const temp_folder temp;
    put_model(temp / "model", model.parts, model.config);
    const auto back = bitmill::dequantize(temp / "model", temp / "back", std::nullopt, {});
    REQUIRE_FALSE(back);
    CHECK(back.error().code == error_code::bad_input);
}

TEST_CASE("stored: a config whose quantization block is nonsense does not crash") {
    for (
        const char* block :
        {"{}", "[]", "7", "\"compressed-tensors\"", R"({"quant_method": 7})",
         R"({"quant_method": "compressed-tensors", "config_groups": []})",
         R"({"quant_method": "compressed-tensors", "config_groups": {"g": 7, "h": {"weights": []}, "i": {"weights": {"num_bits": -8}}}})",
         R"({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 1e99}}}})"}) {
        CAPTURE(std::string(block));
        milled model(scheme_type::int8);
        model.config = std::string("{\"quantization_config\": ") + block + "}";
        const temp_folder temp;
        put_model(temp / "model", model.parts, model.config);
        const auto stored = bitmill::read_stored(bitmill::checkpoint::open(temp / "model").value());
        if (!stored)
            CHECK((stored.error().code == error_code::bad_input ||
                   stored.error().code == error_code::unsupported));
        else
            CHECK(stored->tensors.size() >= 2);
    }
}

TEST_CASE("stored: the tensors of a weight are one logical tensor") {
    const milled model(scheme_type::nf4, true);
    const temp_folder temp;
    put_model(temp / "model", model.parts, model.config);
    const auto open = bitmill::checkpoint::open(temp / "model").value();
    const auto stored = bitmill::read_stored(open).value();
    CHECK(stored.quant_method == "bitsandbytes");
    REQUIRE(stored.tensors.size() == 2);
    std::uint64_t bytes = 0, all = 0;
    for (const auto& t : stored.tensors) bytes += t.bytes;
    for (const auto& t : model.parts) all += t.bytes.size();
    CHECK(bytes == all);
    const auto& weight = *std::find_if(stored.tensors.begin(), stored.tensors.end(),
                                       [](const auto& t) { return t.name == "a.weight"; });
    CHECK(weight.shape == std::vector<std::uint64_t>{64, 128});
    CHECK(weight.elements == 64 * 128);
    REQUIRE(weight.scheme);
    CHECK(bitmill::to_text(*weight.scheme) == "nf4 block 64 double_quant");
}
