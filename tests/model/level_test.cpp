// From which folder a level is taken, and that each level computes what its own codes say.
#include <bitmill/model/encoder_model.hpp>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/manifest.hpp>
#include <bitmill/mill/mill.hpp>
#include <bitmill/mill/variants.hpp>

#include <encoder_models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::dtype;
using bitmill::encoder_model;
using bitmill::error_code;
using bitmill::scheme_type;

namespace {

const std::vector<std::vector<std::int32_t>> some_sentences{{5, 9, 31, 2, 44, 45}, {7}, {59, 58, 57, 3}};

// Rows of 128 and of 256: groups divide them.
encoder_shape even_shape() {
    encoder_shape shape;
    shape.hidden = 128;
    shape.heads = 4;
    shape.inner = 256;
    shape.labels = 2;
    return shape;
}

bitmill::mill_options as(scheme_type to, bitmill::format format = bitmill::format::automatic) {
    bitmill::mill_options out;
    out.to = to;
    out.format = format;
    return out;
}
bitmill::mill_options int8_of(bitmill::granularity granularity, std::size_t group_size = 0) {
    bitmill::mill_options out;
    out.granularity = granularity;
    out.group_size = group_size;
    return out;
}
bitmill::mill_options w8a8() {
    bitmill::mill_options out;
    out.activation = bitmill::activation::dynamic_int8;
    return out;
}
bitmill::mill_options double_quant() {
    bitmill::mill_options out = as(scheme_type::nf4);
    out.double_quant = true;
    return out;
}

void mill(const std::string& from, const std::string& to, const bitmill::mill_options& options) {
    (void)bitmill::quantize(from, to, options).value();
}

reals expect(const encoder_shape& shape, const std::string& plain) {
    const reference_encoder truth(shape, read_tensors(plain));
    reals out;
    for (const auto& one : some_sentences) {
        const reals x = truth.hidden(one);
        out.insert(out.end(), x.begin(), x.end());
    }
    return out;
}

encoder_model open(const std::string& path, const std::string& level = "") {
    bitmill::model_options options;
    options.level = level;
    return encoder_model::open(path, options).value();
}

}  // namespace

TEST_CASE("each scheme runs as what it decodes to") {
    // SHARE(1e-5) for floats; dynamic-int8: SNR(30) against the same weights.
    const struct {
        const char* name;
        bitmill::mill_options options;
        const char* level;
        bool integers;
    } table[] = {
        {"int8", {}, "int8", true},
        {"int8 group", int8_of(bitmill::granularity::group, 32), "int8", true},
        {"int8 per_tensor", int8_of(bitmill::granularity::per_tensor), "int8", true},
        {"w8a8", w8a8(), "int8", true},
        {"int4", as(scheme_type::int4), "int4", true},
        {"nf4", as(scheme_type::nf4), "int4", false},
        {"fp4", as(scheme_type::fp4), "int4", false},
        {"nf4 double", double_quant(), "int4", false},
        {"int2", as(scheme_type::int2), "int2", true},
        {"planes", as(scheme_type::int8, bitmill::format::bitmill), "int8", true},
        {"fp16", as(scheme_type::f16), "fp16", false},
        {"bf16", as(scheme_type::bf16), "fp16", false},
    };
    const encoder_shape shape = even_shape();
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    for (const auto& [name, options, level, integers] : table) {
        CAPTURE(name);
        const temp_folder out(memory_parent());
        mill(temp / "m", out / "q", options);
        (void)bitmill::dequantize(out / "q", out / "plain", dtype::f32, {}).value();
        const auto model = open(out / "q");
        CHECK(model.facts().effective == level);
        CHECK(model.facts().warnings.empty());
        const reals truth = expect(shape, out / "plain");
        CHECK(difference(hidden_of(model, sentences(some_sentences)), truth) < 1e-5);
        bitmill::model_options dynamic;
        dynamic.activation = bitmill::activation::dynamic_int8;
        const auto coded = encoder_model::open(out / "q", dynamic).value();
        CHECK(coded.facts().dynamic_int8 == integers);
        CHECK(coded.facts().warnings.empty() == integers);
        CHECK(snr_db(hidden_of(coded, sentences(some_sentences)), truth) > 30);
    }
}

TEST_CASE("a bitmill folder holds two levels") {
    const encoder_shape shape = even_shape();
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    mill(temp / "m", temp / "q", as(scheme_type::int8, bitmill::format::bitmill));
    const auto eight = open(temp / "q", "int8"), four = open(temp / "q", "int4");
    CHECK(eight.facts().effective == "int8");
    CHECK(four.facts().effective == "int4");
    CHECK(four.facts().weight_bytes < eight.facts().weight_bytes);
    CHECK(four.facts().file_bytes < eight.facts().file_bytes);
    CHECK(hidden_of(open(temp / "q"), sentences(some_sentences)) ==
          hidden_of(eight, sentences(some_sentences)));
    CHECK(hidden_of(four, sentences(some_sentences)) != hidden_of(eight, sentences(some_sentences)));

    std::filesystem::remove(temp / "q/model.int8.safetensors");
    const auto alone = open(temp / "q");
    CHECK(alone.facts().effective == "int4");
    CHECK(hidden_of(alone, sentences(some_sentences)) == hidden_of(four, sentences(some_sentences)));
    CHECK_FALSE(encoder_model::open(temp / "q", {.level = "int8"}));
}

TEST_CASE("a residual plane of another model of the same shapes is refused") {
    const encoder_shape shape = even_shape();
    const temp_folder temp(memory_parent());
    auto tensors = tensors_of(shape);
    put_model(temp / "m", tensors, config_of(shape));
    for (auto& t : tensors)
        if (t.name == "encoder.layer.1.output.dense.weight")
            std::rotate(t.bytes.begin(), t.bytes.begin() + 4, t.bytes.end());
    put_model(temp / "n", tensors, config_of(shape));
    mill(temp / "m", temp / "q", as(scheme_type::int8, bitmill::format::bitmill));
    mill(temp / "n", temp / "r", as(scheme_type::int8, bitmill::format::bitmill));
    const std::string own = temp / "q/model.int8.safetensors", other = temp / "r/model.int8.safetensors";
    REQUIRE(std::filesystem::file_size(own) == std::filesystem::file_size(other));
    const auto truth = hidden_of(open(temp / "q"), sentences(some_sentences));
    const auto put_over = [](const std::string& from, const std::string& to) {
        std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
    };
    put_over(own, temp / "kept");
    put_over(other, own);
    for (const char* level : {"", "int8"}) {
        const auto opened = encoder_model::open(temp / "q", {.level = level});
        REQUIRE_FALSE(opened);
        CHECK(opened.error().code == error_code::bad_input);
        CHECK(opened.error().file == own);
    }
    CHECK_FALSE(bitmill::dequantize(temp / "q", temp / "plain", dtype::f32, {}));
    CHECK(bitmill::validate(temp / "q").error().file == own);
    CHECK(open(temp / "q", "int4").facts().effective == "int4");

    // Files of before this was written down still open.
    put_over(temp / "kept", own);
    for (const std::string& file : {own, temp / "q/model.safetensors"}) {
        std::string bytes = get_file(file);
        const auto at = bytes.find("bitmill_planes");
        REQUIRE(at != std::string::npos);
        put_file(file, bytes.replace(at, 14, "something_else"));
    }
    CHECK(hidden_of(open(temp / "q"), sentences(some_sentences)) == truth);
}

TEST_CASE("variants beside the model, the original, and a cast") {
    const encoder_shape shape = even_shape();
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    (void)bitmill::quantize_both(temp / "m", "", {}).value();
    for (const std::string level : {"original", "int8", "int4"}) {
        const auto model = open(temp / "m", level);
        CHECK(model.facts().requested == level);
        CHECK(model.facts().effective == level);
        CHECK(model.facts().reason.empty());
        CHECK(model.facts().path == temp / "m" + (level == "original" ? "" : "/" + level));
    }
    CHECK(open(temp / "m").facts().effective == "original");

    const auto cast = open(temp / "m", "fp16");
    CHECK(cast.facts().effective == "fp16");
    CHECK(cast.facts().path == temp / "m");
    CHECK(cast.facts().weight_bytes < open(temp / "m").facts().weight_bytes * 6 / 10);
    mill(temp / "m", temp / "m/fp16", as(scheme_type::f16));
    const auto variant = open(temp / "m", "fp16");
    CHECK(variant.facts().path == temp / "m/fp16");
    // SHARE(2e-3): the variant also has its embeddings and norms in 16 bits.
    const auto near = hidden_of(variant, sentences(some_sentences));
    CHECK(difference(hidden_of(cast, sentences(some_sentences)), reals(near.begin(), near.end())) < 2e-3);

    const auto none = encoder_model::open(temp / "m", {.level = "int2"});
    REQUIRE_FALSE(none);
    CHECK(none.error().code == error_code::invalid_argument);
    CHECK(none.error().message == "this model has no level int2; there is original, fp16, int8, int4");
    CHECK(encoder_model::open(temp / "m", {.level = "nf4"}).error().code == error_code::invalid_argument);

    // Variants without the model they were made of.
    for (const char* name : {"config.json", "model.safetensors"}) std::filesystem::remove(temp / "m/" + name);
    CHECK(open(temp / "m", "int4").facts().effective == "int4");
    CHECK(open(temp / "m").facts().effective == "fp16");
    CHECK(encoder_model::open(temp / "m", {.level = "original"}).error().code ==
          error_code::invalid_argument);

    // A folder that is not what its name says.
    std::filesystem::remove_all(temp / "m/int8");
    std::filesystem::copy(temp / "m/int4", temp / "m/int8");
    const auto other = open(temp / "m", "int8");
    CHECK(other.facts().effective == "int4");
    CHECK(other.facts().reason == temp / "m/int8" + " holds int4");
}

TEST_CASE("a cast that would overflow keeps its tensor and says so") {
    encoder_shape shape = even_shape();
    const temp_folder temp(memory_parent());
    auto tensors = tensors_of(shape);
    for (auto& t : tensors)
        if (t.name == "encoder.layer.1.output.dense.weight") {
            const float large = 1e6f;
            std::memcpy(t.bytes.data() + 40, &large, 4);
        }
    put_model(temp / "m", tensors, config_of(shape));
    const auto model = open(temp / "m", "fp16");
    REQUIRE(model.facts().warnings.size() == 1);
    CHECK(model.facts().warnings[0].find("encoder.layer.1.output.dense.weight") != std::string::npos);
    CHECK(model.facts().warnings[0].find("element 10") != std::string::npos);
}

TEST_CASE("codes that no layer reads run decoded, and a warning names them") {
    // Rows of 80 and of 48: groups of 16.
    const encoder_shape shape;
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", shape);
    mill(temp / "m", temp / "q", int8_of(bitmill::granularity::group, 16));
    (void)bitmill::dequantize(temp / "q", temp / "plain", dtype::f32, {}).value();
    const auto model = open(temp / "q");
    CHECK(model.facts().warnings.size() == 12);
    CHECK(model.facts().warnings[0].find("encoder.layer.0.attention.self.query.weight: runs as f32") == 0);
    CHECK(difference(hidden_of(model, sentences(some_sentences)), expect(shape, temp / "plain")) < 1e-5);
}
