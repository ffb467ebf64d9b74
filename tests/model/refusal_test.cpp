// Models that this version cannot run, and folders whose config.json and tensors disagree.
#include <bitmill/model/encoder_model.hpp>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/mill.hpp>

#include <encoder_models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::error_code;
using tensors = std::vector<made_tensor>;

namespace {

bitmill::error refusal(const tensors& parts, const std::string& config) {
    const temp_folder temp(memory_parent());
    put_model(temp / "m", parts, config);
    const auto opened = bitmill::encoder_model::open(temp / "m");
    REQUIRE_FALSE(opened);
    CHECK_FALSE(opened.error().file.empty());
    return opened.error();
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("config.json: what is not run is named, what cannot be is refused") {
    const struct {
        const char* from;
        const char* to;
        error_code code;
        const char* word;
    } table[] = {
        {"\"bert\"", "\"albert\"", error_code::unsupported, "model_type 'albert'"},
        {"\"model_type\": \"bert\"", "\"model_type\": 3", error_code::unsupported, "model_type '3'"},
        {"\"gelu\"", "\"silu\"", error_code::unsupported, "hidden_act 'silu'"},
        {"\"hidden_act\"", "\"is_decoder\": true, \"hidden_act\"", error_code::unsupported, "is_decoder"},
        {"\"hidden_act\"", "\"add_cross_attention\": true, \"hidden_act\"", error_code::unsupported,
         "add_cross_attention"},
        {"\"hidden_act\"", "\"position_embedding_type\": \"relative_key\", \"hidden_act\"",
         error_code::unsupported, "relative_key"},
        {"\"hidden_act\"", "\"embedding_size\": 32, \"hidden_act\"", error_code::unsupported,
         "embedding_size 32"},
        {"\"hidden_act\"", "\"pruned_heads\": {\"0\": [1]}, \"hidden_act\"", error_code::unsupported,
         "pruned_heads"},
        {"\"hidden_size\": 48", "\"hidden_size\": 0", error_code::bad_input, "hidden_size is 0"},
        {"\"hidden_size\": 48", "\"hidden_size\": -48", error_code::bad_input,
         "hidden_size must be a whole number of 1 to 65536, not -48"},
        {"\"hidden_size\": 48", "\"hidden_size\": 48.5", error_code::bad_input, "48.5"},
        {"\"hidden_size\": 48", "\"hidden_size\": \"48\"", error_code::bad_input,
         "hidden_size must be a whole number of 1 to 65536, not \"48\""},
        {"1e-12", "1e999", error_code::bad_input, "the number 1e999 is too large"},
        {"\"hidden_size\": 48", "\"hidden_size\": 1000000", error_code::bad_input, "hidden_size is 1000000"},
        {"\"num_attention_heads\": 3", "\"num_attention_heads\": 5", error_code::bad_input, "5 heads"},
        {"\"num_attention_heads\": 3", "\"num_attention_heads\": 0", error_code::bad_input,
         "num_attention_heads"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 18446744073709551615", error_code::bad_input,
         "num_hidden_layers"},
        {"1e-12", "0", error_code::bad_input, "layer_norm_eps"},
        {"1e-12", "\"x\"", error_code::bad_input, "layer_norm_eps"},
        // Sizes that the tensors do not have.
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", error_code::bad_input, "is missing"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", error_code::bad_input, "has only 1 layers"},
        {"\"hidden_size\": 48", "\"hidden_size\": 96", error_code::bad_input,
         "[60, 48], by config.json it has to be [60, 96]"},
        {"\"intermediate_size\": 80", "\"intermediate_size\": 81", error_code::bad_input, "[81, 48]"},
        {"\"vocab_size\": 60", "\"vocab_size\": 61", error_code::bad_input, "[61, 48]"},
        {"\"max_position_embeddings\": 40", "\"max_position_embeddings\": 41", error_code::bad_input,
         "[41, 48]"},
        {"\"type_vocab_size\": 2", "\"type_vocab_size\": 1", error_code::bad_input, "[1, 48]"},
    };
    const encoder_shape shape;
    const auto parts = tensors_of(shape);
    for (const auto& [from, to, code, word] : table) {
        CAPTURE(to);
        const auto what = refusal(parts, replaced(config_of(shape), from, to));
        CHECK(what.code == code);
        CHECK_MESSAGE(what.text().find(word) != std::string::npos, what.text());
    }
    // A long value is not told whole.
    const std::string text = '"' + std::string(5000, 'x') + '"';
    for (const char* from : {"\"bert\"", "\"gelu\"", "1e-12"})
        CHECK(refusal(parts, replaced(config_of(shape), from, "[" + text + "]")).text().size() < 1000);
    const auto roberta = shape_of("roberta");
    const auto what = refusal(tensors_of(roberta),
                              replaced(config_of(roberta), "\"pad_token_id\": 1", "\"pad_token_id\": 39"));
    CHECK(what.text().find("leaves no position") != std::string::npos);
    const auto distil = shape_of("distilbert");
    CHECK(refusal(tensors_of(distil), replaced(config_of(distil), "\"dim\": 48", "\"dim\": 50")).code ==
          error_code::bad_input);
}

TEST_CASE("tensors that are missing, of other shapes or of other types") {
    const auto edit = [](const std::string& name, const std::function<void(tensors&, std::size_t)>& change) {
        encoder_shape shape;
        shape.labels = 3;
        auto parts = tensors_of(shape);
        for (std::size_t i = 0; i < parts.size(); ++i)
            if (parts[i].name == name) {
                change(parts, i);
                break;
            }
        return refusal(parts, config_of(shape));
    };
    const auto drop = [](tensors& parts, std::size_t i) {
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i));
    };
    for (const std::string name :
         {"embeddings.position_embeddings.weight", "embeddings.LayerNorm.bias",
          "encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.dense.bias",
          "encoder.layer.1.output.LayerNorm.weight", "pooler.dense.weight", "classifier.weight"}) {
        CAPTURE(name);
        const auto what = edit(name, drop);
        CHECK(what.code == error_code::bad_input);
        CHECK(what.tensor == name);
        CHECK(what.message.find("is missing") == 0);
    }
    CHECK(edit("embeddings.word_embeddings.weight", drop).text().find("word_embeddings") !=
          std::string::npos);
    for (const std::string name :
         {"encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.dense.bias"}) {
        CAPTURE(name);
        const auto turned = edit(
            name, [](tensors& parts, std::size_t i) { parts[i].shape = {1, parts[i].bytes.size() / 4}; });
        CHECK(turned.code == error_code::bad_input);
        CHECK(turned.tensor == name);
        const auto other =
            edit(name, [](tensors& parts, std::size_t i) { parts[i].type = bitmill::dtype::i32; });
        CHECK(other.code == error_code::bad_input);
        CHECK(other.text().find("I32") != std::string::npos);
    }
    // Two models in one file, and a head of another size than the labels.
    const auto twice = edit("embeddings.word_embeddings.weight", [](tensors& parts, std::size_t i) {
        auto copy = parts[i];
        copy.name = "bert." + copy.name;
        parts.push_back(std::move(copy));
    });
    CHECK(twice.text().find("more than once") != std::string::npos);
    encoder_shape shape;
    shape.labels = 3;
    const auto labels = refusal(tensors_of(shape), replaced(config_of(shape), ", \"2\": \"LABEL_2\"", ""));
    CHECK(labels.text().find("has 3 rows, and config.json names 2 labels") != std::string::npos);
    CHECK(labels.file.ends_with("/config.json"));
    const auto none = edit("classifier.weight", [](tensors& parts, std::size_t i) {
        parts[i].shape[0] = 0;
        parts[i].bytes.clear();
    });
    CHECK(none.code == error_code::bad_input);
    CHECK(none.message.find("has 0 rows, and a head that classifies has one for each label") == 0);
}

TEST_CASE("NaN and infinity in a tensor are told by tensor and element, when it is loaded") {
    encoder_shape shape;
    shape.labels = 3;
    const char* const names[] = {
        "embeddings.word_embeddings.weight",         "embeddings.LayerNorm.bias",
        "encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.dense.bias",
        "encoder.layer.1.output.LayerNorm.weight",   "classifier.weight"};
    for (const bitmill::dtype type :
         {bitmill::dtype::f32, bitmill::dtype::f16, bitmill::dtype::bf16, bitmill::dtype::f64})
        for (const std::string name : names)
            for (const float value :
                 {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
                CAPTURE(bitmill::facts(type).name);
                CAPTURE(name);
                shape.type = type;
                auto parts = tensors_of(shape);
                for (auto& t : parts)
                    if (t.name == name)
                        t.bytes.replace(29 * bitmill::element_bytes(type), bitmill::element_bytes(type),
                                        bytes_as(type, {value}));
                for (const char* level : {"", "fp16"}) {
                    const temp_folder temp(memory_parent());
                    put_model(temp / "m", parts, config_of(shape));
                    const auto opened = bitmill::encoder_model::open(temp / "m", {.level = level});
                    REQUIRE_FALSE(opened);
                    CHECK(opened.error().code == error_code::bad_input);
                    CHECK(opened.error().tensor == name);
                    CHECK(opened.error().file == temp / "m/model.safetensors");
                    CHECK(opened.error().message.find("is NaN or infinity at element 29") == 0);
                }
            }
}

TEST_CASE("NaN in scales is told, and in a row of a table that is not loaded, when it is read") {
    encoder_shape shape;
    shape.hidden = 128;
    shape.heads = 4;
    shape.inner = 256;
    for (const auto to :
         {bitmill::scheme_type::int8, bitmill::scheme_type::int4, bitmill::scheme_type::nf4}) {
        const temp_folder temp(memory_parent());
        put_encoder(temp / "m", shape);
        bitmill::mill_options options;
        options.to = to;
        (void)bitmill::quantize(temp / "m", temp / "q", options).value();
        tensors parts;
        std::string poisoned;
        for (auto& [name, t] : read_tensors(temp / "q")) {
            const bool scales = name.ends_with("key.weight_scale") || name.ends_with("key.weight.absmax");
            if (scales && poisoned.empty()) {
                poisoned = name;
                const std::size_t width = bitmill::element_bytes(t.type);
                t.bytes.replace(3 * width, width,
                                bytes_as(t.type, {std::numeric_limits<float>::quiet_NaN()}));
            }
            parts.push_back(t);
        }
        REQUIRE_FALSE(poisoned.empty());
        const auto what = refusal(parts, get_file(temp / "q/config.json"));
        CHECK(what.code == error_code::bad_input);
        CHECK(what.tensor == poisoned);
        CHECK(what.message.find("is NaN or infinity at element 3") == 0);
    }

    shape = {};
    shape.vocabulary = 70000;
    shape.hidden = 16;
    shape.heads = 2;
    auto parts = tensors_of(shape);
    for (auto& t : parts)
        if (t.name == "embeddings.word_embeddings.weight")
            t.bytes.replace((500 * 16 + 7) * 4, 4,
                            bytes_as(t.type, {std::numeric_limits<float>::infinity()}));
    const temp_folder temp(memory_parent());
    put_model(temp / "m", parts, config_of(shape));
    const auto model = bitmill::encoder_model::open(temp / "m").value();
    std::vector<float> out(16);
    CHECK(model.hidden(sentences({std::vector<std::int32_t>{499}}).batch(), out));
    const auto done = model.hidden(sentences({std::vector<std::int32_t>{500}}).batch(), out);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == error_code::bad_input);
    CHECK(done.error().tensor == "embeddings.word_embeddings.weight");
    CHECK(done.error().message.find("is NaN or infinity at element 8007") == 0);
}

TEST_CASE("modules.json: what it must be, and a path that is too long") {
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    const auto refused = [&](const std::string& text) {
        put_file(temp / "m/modules.json", text);
        const auto opened = bitmill::encoder_model::open(temp / "m");
        REQUIRE_FALSE(opened);
        CHECK(opened.error().code == error_code::bad_input);
        CHECK(opened.error().file == temp / "m/modules.json");
        return opened.error().message;
    };
    for (const char* text : {"null", " {}", "3", "\"x\""})
        CHECK(refused(text).find("must be a JSON array, in [ ]") == 0);
    const auto path = refused(R"([{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": ")" +
                              std::string(1000, 'x') + "\"}]");
    CHECK(path.find("has 1000 characters, and may have 255") != std::string::npos);
    CHECK(path.size() < 200);
}

TEST_CASE("a folder without config.json is no model that can be run") {
    const temp_folder temp(memory_parent());
    put_encoder(temp / "m", {});
    std::filesystem::remove(temp / "m/config.json");
    const auto opened = bitmill::encoder_model::open(temp / "m");
    REQUIRE_FALSE(opened);
    CHECK(opened.error().code == error_code::unsupported);
    CHECK(bitmill::encoder_model::open(temp / "none").error().code == error_code::io);
    std::filesystem::remove(temp / "m/model.safetensors");
    put_file(temp / "m/modules.json",
             R"([{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}])");
    const auto elsewhere = bitmill::encoder_model::open(temp / "m");
    REQUIRE_FALSE(elsewhere);
    CHECK(elsewhere.error().code == error_code::unsupported);
    CHECK(elsewhere.error().file == temp / "m/modules.json");
    CHECK(elsewhere.error().message.find("its Transformer lies in '0_Transformer'") == 0);
    put_file(temp / "m/config.json", "7");
    CHECK(bitmill::encoder_model::open(temp / "m").error().file == temp / "m");
}
