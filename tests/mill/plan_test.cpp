#include <bitmill/mill/plan.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <models.hpp>
#include <temp_folder.hpp>

using namespace bitmill_test;
using bitmill::checkpoint;
using bitmill::dtype;
using bitmill::error_code;
using bitmill::granularity;
using bitmill::mill_options;
using bitmill::planned_tensor;
using bitmill::scheme_type;
using bitmill::tensor_role;

namespace {

using change = std::function<void(mill_options&)>;

bitmill::result<bitmill::mill_plan> plan_of(const std::string& folder, const change& set) {
    mill_options options;
    set(options);
    const auto model = checkpoint::open(folder).value();
    auto plan = bitmill::make_plan(model, options);
    if (!plan) return plan;
    if (auto done = bitmill::lay_out(*plan, options.strict); !done) return done.error();
    return plan;
}

const planned_tensor& find(const bitmill::mill_plan& plan, const std::string& name) {
    const auto found =
        std::find_if(plan.tensors.begin(), plan.tensors.end(), [&](const auto& t) { return t.name == name; });
    REQUIRE(found != plan.tensors.end());
    return *found;
}

std::string effective(const bitmill::mill_plan& plan, const std::string& name) {
    const auto& t = find(plan, name);
    return t.effective ? bitmill::to_text(*t.effective) : "keep";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::string query = "encoder.layer.0.attention.self.query.weight";  // 128 x 128 f32
const std::string key = "encoder.layer.0.attention.self.key.weight";      // 256 x 96 f16
const std::string dense = "encoder.layer.0.intermediate.dense.weight";    // 700 x 512 f32
const std::string words = "embeddings.word_embeddings.weight";

}  // namespace

TEST_CASE("role_of: names of the families") {
    struct row {
        const char* name;
        const char* model_type;
        tensor_role role;
    };
    const row rows[] = {
        {"bert.embeddings.word_embeddings.weight", "bert", tensor_role::embedding},
        {"embeddings.position_embeddings.weight", "bert", tensor_role::embedding},
        {"embeddings.token_type_embeddings.weight", "bert", tensor_role::embedding},
        {"bert.encoder.layer.11.attention.self.query.weight", "bert", tensor_role::linear},
        {"bert.encoder.layer.0.attention.output.dense.weight", "bert", tensor_role::linear},
        {"bert.pooler.dense.weight", "bert", tensor_role::linear},
        {"cls.predictions.transform.dense.weight", "bert", tensor_role::linear},
        {"cls.predictions.decoder.weight", "bert", tensor_role::head},
        {"cls.seq_relationship.weight", "bert", tensor_role::head},
        {"classifier.weight", "bert", tensor_role::head},
        {"qa_outputs.weight", "bert", tensor_role::head},
        {"roberta.embeddings.word_embeddings.weight", "roberta", tensor_role::embedding},
        {"roberta.encoder.layer.3.intermediate.dense.weight", "roberta", tensor_role::linear},
        {"lm_head.dense.weight", "roberta", tensor_role::linear},
        {"lm_head.decoder.weight", "roberta", tensor_role::head},
        {"classifier.dense.weight", "roberta", tensor_role::linear},
        {"classifier.out_proj.weight", "roberta", tensor_role::head},
        {"distilbert.transformer.layer.0.attention.q_lin.weight", "distilbert", tensor_role::linear},
        {"distilbert.transformer.layer.0.ffn.lin1.weight", "distilbert", tensor_role::linear},
        {"vocab_transform.weight", "distilbert", tensor_role::linear},
        {"vocab_projector.weight", "distilbert", tensor_role::head},
        {"pre_classifier.weight", "distilbert", tensor_role::linear},
        {"model.embed_tokens.weight", "llama", tensor_role::embedding},
        {"model.layers.0.self_attn.q_proj.weight", "llama", tensor_role::linear},
        {"model.layers.0.mlp.gate_proj.weight", "llama", tensor_role::linear},
        {"lm_head.weight", "llama", tensor_role::head},
        {"score.weight", "llama", tensor_role::head},
        {"shared.weight", "t5", tensor_role::embedding},
        {"encoder.block.0.layer.0.SelfAttention.q.weight", "t5", tensor_role::linear},
        {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "t5",
         tensor_role::embedding},
        {"decoder.block.0.layer.2.DenseReluDense.wi_0.weight", "t5", tensor_role::linear},
        {"transformer.wte.weight", "gpt2", tensor_role::embedding},
        {"wpe.weight", "gpt2", tensor_role::embedding},
        {"h.0.attn.c_attn.weight", "gpt2", tensor_role::conv1d},
        {"transformer.h.0.mlp.c_fc.weight", "gpt2", tensor_role::conv1d},
        {"transformer.h.0.mlp.c_proj.weight", "gpt2", tensor_role::conv1d},
        {"transformer.h.0.mlp.c_proj.weight", "gpt_bigcode", tensor_role::linear},
        {"model.layers.0.block_sparse_moe.gate.weight", "mixtral", tensor_role::router},
        {"model.layers.0.block_sparse_moe.experts.7.w1.weight", "mixtral", tensor_role::linear},
        {"model.layers.0.mlp.shared_expert_gate.weight", "qwen2_moe", tensor_role::router},
        {"gpt_neox.embed_in.weight", "gpt_neox", tensor_role::embedding},
        {"lm_head", "llama", tensor_role::other},
        {"model.layers.0.self_attn.q_proj.bias", "llama", tensor_role::other},
        {".weight", "llama", tensor_role::linear},
        {"", "llama", tensor_role::other},
    };
    for (const auto& one : rows) {
        CAPTURE(std::string(one.name));
        CAPTURE(std::string(one.model_type));
        CHECK(bitmill::role_of(one.name, 2, dtype::f32, one.model_type) == one.role);
        CHECK(bitmill::role_of(one.name, 1, dtype::f32, one.model_type) == tensor_role::other);
        CHECK(bitmill::role_of(one.name, 3, dtype::bf16, one.model_type) == tensor_role::other);
        CHECK(bitmill::role_of(one.name, 2, dtype::i8, one.model_type) == tensor_role::other);
    }
}

TEST_CASE("role_of: the head of GPT-NeoX") {
    CHECK(bitmill::role_of("embed_out.weight", 2, dtype::f32, "gpt_neox") == tensor_role::head);
}

TEST_CASE("plan: defaults of each level") {
    const temp_folder temp;
    put_model(temp.path(), bert_tensors());
    const auto int8 = plan_of(temp.path(), [](auto&) {}).value();
    CHECK(int8.format == bitmill::format::compressed_tensors);
    CHECK(int8.model_type == "bert");
    CHECK(effective(int8, query) == "int8 per_channel");
    CHECK(effective(int8, words) == "keep");
    CHECK(find(int8, words).reason == "an embedding");
    CHECK(find(int8, words).role == tensor_role::embedding);
    CHECK(find(int8, query).effective->scale_dtype == dtype::f32);
    CHECK(find(int8, key).effective->scale_dtype == dtype::f16);
    const auto int4 = plan_of(temp.path(), [](auto& o) { o.to = scheme_type::int4; }).value();
    CHECK(effective(int4, dense) == "int4 group 128");
    CHECK(int4.method == bitmill::method::mse);
    const auto nf4 = plan_of(temp.path(), [](auto& o) { o.to = scheme_type::nf4; }).value();
    CHECK(nf4.format == bitmill::format::bitsandbytes);
    CHECK(effective(nf4, dense) == "nf4 block 64");
    const auto half = plan_of(temp.path(), [](auto& o) { o.to = scheme_type::f16; }).value();
    CHECK(half.format == bitmill::format::plain);
    CHECK(effective(half, words) == "fp16");
    CHECK(effective(half, key) == "keep");
    CHECK(find(half, key).reason == "already F16");
    CHECK(effective(half, "position_ids") == "keep");
    const auto fp16_tables =
        plan_of(temp.path(), [](auto& o) { o.embeddings = bitmill::embeddings::fp16; }).value();
    CHECK(effective(fp16_tables, words) == "fp16");
}

TEST_CASE("plan: a group that does not divide a row falls back and says why") {
    const temp_folder temp;
    put_model(temp.path(), {make_tensor("a.weight", dtype::f32, {64, 96}, 1),
                            make_tensor("b.weight", dtype::f32, {64, 100}, 2),
                            make_tensor("c.weight", dtype::f32, {64, 192}, 3),
                            make_tensor("d.weight", dtype::f32, {64, 256}, 4)});
    const auto plan = plan_of(temp.path(), [](auto& o) { o.to = scheme_type::int4; }).value();
    CHECK(effective(plan, "a.weight") == "int4 group 32");
    CHECK(holds(find(plan, "a.weight").reason, "96"));
    CHECK(holds(find(plan, "a.weight").reason, "128"));
    CHECK(bitmill::to_text(*find(plan, "a.weight").requested) == "int4 group 128");
    CHECK(effective(plan, "b.weight") == "int4 per_channel");
    CHECK(holds(find(plan, "b.weight").reason, "100"));
    CHECK(effective(plan, "c.weight") == "int4 group 64");
    CHECK(effective(plan, "d.weight") == "int4 group 128");
    CHECK(find(plan, "d.weight").reason.empty());
    const auto strict = plan_of(temp.path(), [](auto& o) {
        o.to = scheme_type::int4;
        o.strict = true;
    });
    REQUIRE_FALSE(strict);
    CHECK(strict.error().code == error_code::invalid_argument);
    CHECK(strict.error().tensor == "a.weight");
    CHECK(holds(strict.error().file, "model.safetensors"));
    // Blocks of nf4: 100 columns hold no block of 32, 96 hold one.
    const auto nf4 = plan_of(temp.path(), [](auto& o) { o.to = scheme_type::nf4; }).value();
    CHECK(effective(nf4, "a.weight") == "nf4 block 32");
    CHECK(effective(nf4, "b.weight") == "keep");
    CHECK(holds(find(nf4, "b.weight").reason, "100"));
}

TEST_CASE("plan: include, exclude and override") {
    const temp_folder temp;
    auto tensors = bert_tensors();
    tensors.push_back(make_tensor("lm_head.weight", dtype::f32, {64, 128}, 30));
    put_model(temp.path(), tensors);
    const auto included = plan_of(temp.path(), [](auto& o) { o.include = {"query", "lm_head"}; }).value();
    CHECK(effective(included, query) == "int8 per_channel");
    CHECK(effective(included, dense) == "keep");
    CHECK(find(included, dense).reason == "not included");
    CHECK(effective(included, "lm_head.weight") == "int8 per_channel");
    const auto plain = plan_of(temp.path(), [](auto&) {}).value();
    CHECK(effective(plain, "lm_head.weight") == "keep");
    const auto excluded =
        plan_of(temp.path(), [](auto& o) { o.exclude = {"self\\.(query|key)\\."}; }).value();
    CHECK(effective(excluded, query) == "keep");
    CHECK(effective(excluded, key) == "keep");
    CHECK(find(excluded, key).reason == "excluded");
    CHECK(effective(excluded, dense) == "int8 per_channel");
    const auto overridden = plan_of(temp.path(), [](auto& o) {
                                o.override = {"query=int4:32", "key=keep", "dense=int8:per_tensor",
                                              "output\\.dense=fp16", "word=int8"};
                            }).value();
    CHECK(effective(overridden, query) == "int4 group 32");
    CHECK(find(overridden, query).method == bitmill::method::mse);
    CHECK(effective(overridden, key) == "keep");
    CHECK(effective(overridden, dense) == "int8 per_tensor");
    CHECK(effective(overridden, "encoder.layer.0.attention.output.dense.weight") ==
          "fp16");                                  // the last match wins
    CHECK(effective(overridden, words) == "keep");  // no embedding is coded
    const auto head = plan_of(temp.path(), [](auto& o) { o.override = {"lm_head=int8"}; }).value();
    CHECK(effective(head, "lm_head.weight") == "int8 per_channel");
    const auto strict = plan_of(temp.path(), [](auto& o) {
        o.override = {"word=int8"};
        o.strict = true;
    });
    REQUIRE_FALSE(strict);
    CHECK(strict.error().tensor == words);
}

TEST_CASE("plan: malformed patterns and overrides are named") {
    const temp_folder temp;
    put_model(temp.path(), {make_tensor("a.weight", dtype::f32, {64, 128}, 1)});
    const auto refused = [&](const change& set) {
        const auto plan = plan_of(temp.path(), set);
        REQUIRE_FALSE(plan);
        CHECK(plan.error().code == error_code::invalid_argument);
        return plan.error().message;
    };
    CHECK(holds(refused([](auto& o) { o.include = {"("}; }), "include '('"));
    CHECK(holds(refused([](auto& o) { o.exclude = {"[z-a]"}; }), "exclude '[z-a]'"));
    CHECK(holds(refused([](auto& o) { o.override = {"no equals sign"}; }), "RE=SCHEME"));
    CHECK(holds(refused([](auto& o) { o.override = {"*=int8"}; }), "override '*'"));
    for (const char* scheme : {"", "int5", "int8:", "int8:0", "int8:-1", "int8:per_row",
                               "int8:99999999999999999999999", "int4:32x", "INT8"}) {
        CAPTURE(std::string(scheme));
        const std::string text = std::string("a=") + scheme;
        CHECK_FALSE(refused([&](auto& o) { o.override = {text}; }).empty());
    }
    CHECK(holds(refused([](auto& o) { o.override = {"a=nf4"}; }), "bitsandbytes"));
    CHECK_FALSE(refused([](auto& o) { o.override = {"a=int4:12"}; }).empty());
}

TEST_CASE("plan: what no reader loads is refused, and the message says what works") {
    const temp_folder temp;
    put_model(temp.path(), {make_tensor("a.weight", dtype::f32, {64, 128}, 1)});
    const auto refused = [&](const change& set, error_code code) {
        const auto plan = plan_of(temp.path(), set);
        REQUIRE_FALSE(plan);
        CHECK(plan.error().code == code);
        return plan.error().message;
    };
    constexpr auto unsupported = error_code::unsupported;
    constexpr auto invalid = error_code::invalid_argument;
    CHECK(holds(refused([](auto& o) { o.symmetric = false; }, unsupported), "bitmill"));
    CHECK(holds(refused(
                    [](auto& o) {
                        o.to = scheme_type::int2;
                        o.format = bitmill::format::compressed_tensors;
                    },
                    invalid),
                "bitmill"));
    CHECK(holds(refused([](auto& o) { o.override = {"a=int2:32"}; }, invalid), "bitmill"));
    const auto tables = refused([](auto& o) { o.embeddings = bitmill::embeddings::int8; }, unsupported);
    CHECK(holds(tables, "fp16"));
    CHECK(holds(tables, "keep"));
    CHECK(holds(refused([](auto& o) { o.format = bitmill::format::plain; }, invalid), "compressed-tensors"));
    CHECK(holds(refused([](auto& o) { o.format = bitmill::format::bitsandbytes; }, invalid),
                "compressed-tensors"));
    CHECK(holds(refused(
                    [](auto& o) {
                        o.to = scheme_type::nf4;
                        o.format = bitmill::format::compressed_tensors;
                    },
                    invalid),
                "bitsandbytes"));
    CHECK(holds(refused(
                    [](auto& o) {
                        o.method = bitmill::method::mse;
                        o.granularity = granularity::per_tensor;
                    },
                    invalid),
                "per_channel"));
    CHECK_FALSE(refused([](auto& o) { o.double_quant = true; }, invalid).empty());
    CHECK_FALSE(refused([](auto& o) { o.weight_threshold = -0.5f; }, invalid).empty());
    constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();
    for (const double share : {-0.5, 1.5, nan_value}) {
        CHECK(holds(refused([&](auto& o) { o.prune_relative = share; }, invalid), "0 to 1"));
        CHECK(holds(refused([&](auto& o) { o.target_sparsity = share; }, invalid), "less than 1"));
    }
    CHECK_FALSE(refused([](auto& o) { o.target_sparsity = 1; }, invalid).empty());
    for (const int which : {3, 5, 6, 7})  // two of the three, and all
        CHECK(holds(refused(
                        [&](auto& o) {
                            if ((which & 1) != 0) o.weight_threshold = 0.1f;
                            if ((which & 2) != 0) o.prune_relative = 0.1;
                            if ((which & 4) != 0) o.target_sparsity = 0.1;
                        },
                        invalid),
                    "choose one of weight_threshold, prune_relative and target_sparsity"));
    CHECK_FALSE(refused(
                    [](auto& o) {
                        o.to = scheme_type::int4;
                        o.activation = bitmill::activation::dynamic_int8;
                    },
                    invalid)
                    .empty());
    CHECK_FALSE(refused(
                    [](auto& o) {
                        o.to = scheme_type::nf4;
                        o.block_size = 48;
                    },
                    invalid)
                    .empty());
    CHECK_FALSE(refused(
                    [](auto& o) {
                        o.to = scheme_type::f16;
                        o.granularity = granularity::per_channel;
                    },
                    invalid)
                    .empty());
}

TEST_CASE("plan: a tiny matrix is never made larger") {
    const temp_folder temp;
    put_model(
        temp.path(),
        {make_tensor("a.weight", dtype::f32, {2, 32}, 1), make_tensor("b.weight", dtype::f16, {4, 32}, 2),
         make_tensor("c.weight", dtype::f32, {0, 32}, 3), make_tensor("d.weight", dtype::f32, {32, 0}, 4),
         make_tensor("e.weight", dtype::f32, {512, 1}, 5)});
    for (const auto to : {scheme_type::int8, scheme_type::int4, scheme_type::nf4, scheme_type::fp4}) {
        CAPTURE(static_cast<int>(to));
        const auto plan = plan_of(temp.path(), [&](auto& o) { o.to = to; }).value();
        for (const auto& t : plan.tensors) {
            CAPTURE(t.name);
            CHECK_FALSE(t.effective);
            CHECK_FALSE(t.reason.empty());
            REQUIRE(t.parts.size() == 1);
            CHECK(t.parts[0].bytes == t.source_bytes);
        }
    }
    const auto plan = plan_of(temp.path(), [](auto&) {}).value();
    CHECK(holds(find(plan, "a.weight").reason, "would not shrink"));
}

TEST_CASE("plan: a model that is quantized in a way that is not read is refused") {
    const temp_folder temp;
    put_model(temp.path(), {make_tensor("a.weight", dtype::f32, {64, 128}, 1)},
              R"({"model_type": "bert", "quantization_config": {"quant_method": "hqq"}})");
    const auto plan = plan_of(temp.path(), [](auto&) {});
    REQUIRE_FALSE(plan);
    CHECK(plan.error().code == error_code::unsupported);
    CHECK(holds(plan.error().message, "hqq"));
    CHECK(holds(plan.error().file, "config.json"));
}

TEST_CASE("options: texts and bit depths") {
    CHECK(bitmill::level_from_text("int8_dynamic").value().activation == bitmill::activation::dynamic_int8);
    CHECK(bitmill::level_from_text("int4_weight_only").value().type == scheme_type::int4);
    for (const auto& row : bitmill::scheme_table)
        CHECK(bitmill::level_from_text(row.name).value().type == row.type);
    CHECK(holds(bitmill::level_from_text("int3").error().message, "int4"));
    CHECK(bitmill::format_from_text("compressed-tensors").value() == bitmill::format::compressed_tensors);
    CHECK(bitmill::format_from_text("pickle").value() == bitmill::format::pickle);
    CHECK(bitmill::format_from_text("automatic").error().code == error_code::invalid_argument);
    CHECK(bitmill::format_from_text("zip").error().code == error_code::invalid_argument);
    const auto eight = bitmill::options_from_bit_depth(8).value();
    CHECK(eight.to == scheme_type::int8);
    CHECK(eight.granularity == granularity::per_tensor);
    CHECK(eight.weight_threshold == 0.001f);
    CHECK(eight.dynamic_range);
    CHECK_FALSE(bitmill::options_from_bit_depth(8, 0, false).value().dynamic_range);
    CHECK(bitmill::options_from_bit_depth(16, 0.5f).value().to == scheme_type::f16);
    CHECK(bitmill::options_from_bit_depth(16, 0.5f).value().weight_threshold == 0.5f);
    CHECK(bitmill::options_from_bit_depth(32).value().to == scheme_type::f32);
    for (const int wrong : {0, -8, 4, 7, 64})
        CHECK(bitmill::options_from_bit_depth(wrong).error().code == error_code::invalid_argument);
}
