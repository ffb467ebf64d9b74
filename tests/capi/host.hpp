// One right call of every function, for tests that then spoil one thing in it.
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <bitmill.h>

#include <doctest/doctest.h>

#include <encoders.hpp>
#include <letter_tokenizer.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

namespace bitmill_test {

class host {
public:
    host() {
        put_sharded_model(folder / "model",
                          {make_tensor("encoder.query.weight", bitmill::dtype::f32, {64, 32}, 1),
                           make_tensor("encoder.key.weight", bitmill::dtype::f16, {64, 32}, 2)});
        model_path = source = folder / "model";
        scheme.type = BITMILL_SCHEME_NF4;
        scheme.granularity = BITMILL_BLOCK;
        scheme.group_size = 32;
        scheme.double_quant = 1;
        matrix.dtype = BITMILL_F32;
        matrix.rows = 4;
        matrix.cols = 32;
        encode_options.hooks = &hooks;
        mill_options.hooks = &hooks;
        mill_options.to = "int8";
        mill_options.dry_run = 1;
        dequantize_options.hooks = &hooks;
        dequantize_options.dry_run = 1;
        give_room();
        verify_options.hooks = &hooks;
        batch_options.hooks = &hooks;
        batch_options.dry_run = 1;
        bitmill_mill_options really = mill_options;
        really.dry_run = 0;
        REQUIRE(bitmill_mill(model_path.c_str(), milled.c_str(), &really, nullptr, nullptr) == BITMILL_OK);
        put_encoder(encoder);
        put_file(encoder + "/tokenizer.json", letter_tokenizer(16));
        put_encoder(reranker, 1);
        put_file(reranker + "/tokenizer.json", letter_tokenizer(16));
        REQUIRE(bitmill_text_encoder_open(encoder.c_str(), nullptr, &text_encoder, nullptr) == BITMILL_OK);
        REQUIRE(bitmill_text_encoder_open(reranker.c_str(), nullptr, &text_reranker, nullptr) == BITMILL_OK);
        texts.data = words.data();
        texts.count = words.size();
        one_text = texts;
        one_text.count = 1;
        text_options.hooks = &hooks;
        put_file(pairs, R"({"query": "abc", "document": "abd"})"
                        "\n"
                        R"({"query": "p", "document": "o p"})");
        compare_options.hooks = &hooks;
        compare_options.pairs = pairs.c_str();
        compare_options.rounds = 1;
        compare_options.bootstrap_rounds = 20;
        REQUIRE(bitmill_compare_model_performance(encoder.c_str(), encoder.c_str(), &compare_options,
                                                  &comparison, nullptr) == BITMILL_OK);
        sequence.capacity = places.size();
        sequence.ids = places.data();
        REQUIRE(bitmill_model_open(encoder.c_str(), nullptr, &running, nullptr) == BITMILL_OK);
        REQUIRE(bitmill_model_loader_open(encoder.c_str(), nullptr, &loader, nullptr) == BITMILL_OK);
        REQUIRE(bitmill_model_loader_open(reranker.c_str(), nullptr, &reranking, nullptr) == BITMILL_OK);
        loader_options.model = &model_options;
        model_options.hooks = &hooks;
        tokens.ids = ids.data();
        tokens.ids_count = ids.size();
        tokens.lengths = lengths.data();
        tokens.lengths_count = lengths.size();
        make_managed();
        std::filesystem::create_directory(models);
        put_encoder(models + "/tiny");
        registry_options.hooks = &hooks;
        quantize_options.hooks = &hooks;
        quantize_options.to = "int8";
        REQUIRE(bitmill_registry_open(models.c_str(), nullptr, &registry, nullptr) == BITMILL_OK);
    }
    ~host() {
        bitmill_model_destroy(running);
        bitmill_text_encoder_destroy(text_encoder);
        bitmill_text_encoder_destroy(text_reranker);
        bitmill_model_loader_destroy(loader);
        bitmill_model_loader_destroy(reranking);
        bitmill_comparison_destroy(comparison);
        bitmill_found_levels_destroy(found);
        bitmill_managed_model_destroy(managed);
        bitmill_manager_destroy(manager);
        bitmill_registry_destroy(registry);
    }
    host(const host&) = delete;
    host& operator=(const host&) = delete;

    // Buffers as large as the scheme needs, and not a byte larger: a sanitizer sees who writes past them.
    void give_room() {
        REQUIRE(bound() == BITMILL_OK);
        codes.assign(static_cast<std::size_t>(sizes.codes_bytes), 0);
        scales.assign(static_cast<std::size_t>(sizes.scales_bytes), 0);
        zero_points.assign(static_cast<std::size_t>(sizes.zero_points_bytes), 0);
        nested_scales.assign(static_cast<std::size_t>(sizes.nested_scales_bytes), 0);
        residual.assign(static_cast<std::size_t>(sizes.residual_bytes), 0);
        coded = sizes;
        coded.codes = codes.data();
        coded.scales = scales.data();
        coded.zero_points = zero_points.data();
        coded.nested_scales = nested_scales.data();
        coded.residual = residual.data();
    }

    bitmill_status bound() { return bitmill_encode_bound(&scheme, matrix.rows, matrix.cols, &sizes, &error); }
    bitmill_status encode() {
        return bitmill_encode(&scheme, &matrix, values.data(), &coded, &encode_options, &metrics, &error);
    }
    bitmill_status decode() {
        return bitmill_decode(&scheme, &coded, &matrix, values.data(), &hooks, &error);
    }
    bitmill_status mill() {
        return kept(bitmill_mill(model_path.c_str(), out.c_str(), &mill_options, &report, &error));
    }
    bitmill_status dequantize() {
        return kept(
            bitmill_dequantize(model_path.c_str(), out.c_str(), &dequantize_options, &report, &error));
    }
    bitmill_status inspect() { return kept(bitmill_inspect(model_path.c_str(), &hooks, &report, &error)); }

    bitmill_status validate() {
        return kept(bitmill_validate(milled.c_str(), &verify_options, &report, &error));
    }
    bitmill_status verify() {
        return kept(bitmill_verify(source.c_str(), milled.c_str(), &verify_options, &report, &error));
    }

    bitmill_status batch() {
        return kept(bitmill_batch(folder.path().c_str(), out.c_str(), &batch_options, &report, &error));
    }

    bitmill_status open() {
        bitmill_model* model = running;  // a failure has something to clear
        const auto status = bitmill_model_open(encoder.c_str(), &model_options, &model, &error);
        CHECK((model != nullptr) == (status == BITMILL_OK));
        bitmill_model_destroy(model);
        return status;
    }
    bitmill_status get_facts() { return bitmill_model_get_facts(running, &facts, &error); }
    bitmill_status embed() { return run(bitmill_model_embed, lengths.size() * encoder_hidden); }
    bitmill_status hidden() { return run(bitmill_model_hidden, ids.size() * encoder_hidden); }
    bitmill_status logits() { return run(bitmill_model_logits, lengths.size() * encoder_labels); }

    bitmill_status open_text() {
        bitmill_text_encoder* model = text_encoder;  // a failure has something to clear
        const auto status = bitmill_text_encoder_open(encoder.c_str(), model_options_at, &model, &error);
        CHECK((model != nullptr) == (status == BITMILL_OK));
        bitmill_text_encoder_destroy(model);
        return status;
    }
    bitmill_status tokenize() {
        sequence_at->count = 99;
        const auto status = bitmill_tokenizer_encode(bitmill_text_encoder_tokenizer(text_encoder),
                                                     one_text_at, tokenize_options_at, sequence_at, &error);
        if (status == BITMILL_OK) CHECK(sequence_at->count == 5);
        return status;
    }
    bitmill_status embed_texts() {
        results.assign(words.size() * encoder_hidden, 0.0f);
        return bitmill_text_encoder_embed(text_encoder, texts_at, text_options_at, results.data(),
                                          results.size(), &error);
    }
    bitmill_status classify() {
        results.assign(words.size() * encoder_labels, 0.0f);
        return bitmill_text_encoder_classify(text_encoder, texts_at, text_options_at, results.data(),
                                             results.size(), &error);
    }
    bitmill_status pair_logits() {
        results.assign(words.size() * encoder_labels, 0.0f);
        return bitmill_text_encoder_pair_logits(text_encoder, texts_at, texts_at, text_options_at,
                                                results.data(), results.size(), &error);
    }
    bitmill_status rerank() {
        order.assign(words.size(), 0);
        results.assign(words.size(), 0.0f);
        return bitmill_text_encoder_rerank(text_reranker, "abc", texts_at, text_options_at, order.data(),
                                           results.data(), order.size(), &error);
    }

    bitmill_status open_loader() {
        bitmill_model_loader* made = loader;  // a failure has something to clear
        const auto status = bitmill_model_loader_open(encoder.c_str(), loader_options_at, &made, &error);
        CHECK((made != nullptr) == (status == BITMILL_OK));
        bitmill_model_loader_destroy(made);
        return status;
    }
    bitmill_status use_level() { return bitmill_model_loader_use_level(loader, "fp16", record_at, &error); }
    bitmill_status use_quantized() {
        return bitmill_model_loader_use_quantized_model(loader, 0, record_at, &error);
    }
    bitmill_status last_switch() { return bitmill_model_loader_get_last_switch(loader, record_at, &error); }
    bitmill_status loader_facts() { return bitmill_model_loader_get_facts(loader, facts_at, &error); }
    bitmill_status size_info() { return bitmill_model_loader_get_size_info(loader, size_at, &error); }
    bitmill_status loader_embed() {
        results.assign(words.size() * encoder_hidden, 0.0f);
        return bitmill_model_loader_embed(loader, texts_at, text_options_at, results.data(), results.size(),
                                          &error);
    }
    bitmill_status loader_classify() {
        results.assign(words.size() * encoder_labels, 0.0f);
        return bitmill_model_loader_classify(loader, texts_at, text_options_at, results.data(),
                                             results.size(), &error);
    }
    bitmill_status loader_rerank() {
        order.assign(words.size(), 0);
        results.assign(words.size(), 0.0f);
        return bitmill_model_loader_rerank(reranking, "abc", texts_at, text_options_at, order.data(),
                                           results.data(), order.size(), &error);
    }
    bitmill_status compare() {
        bitmill_comparison* made = comparison;  // a failure has something to clear
        const auto status = bitmill_compare_model_performance(encoder.c_str(), encoder.c_str(),
                                                              compare_options_at, &made, &error);
        CHECK((made != nullptr) == (status == BITMILL_OK));
        bitmill_comparison_destroy(made);
        return status;
    }
    bitmill_status get_found_level() { return bitmill_found_levels_get(found, 0, found_level_at, &error); }
    bitmill_status choose_level() {
        return bitmill_choose_level(policy_input_at, thresholds_at, decision_at, &error);
    }
    bitmill_status system_memory() { return bitmill_read_system_memory(memory_at, &error); }

    bitmill_status create_manager() {
        bitmill_manager* made = manager;  // a failure has something to clear
        const auto status = bitmill_manager_create(manager_options_at, &made, &error);
        CHECK((made != nullptr) == (status == BITMILL_OK));
        bitmill_manager_destroy(made);
        return status;
    }
    bitmill_status add_managed() {
        (void)bitmill_manager_remove_model(manager, "n", nullptr);
        return bitmill_manager_add_model(manager, "n", encoder.c_str(), managed_options_at, &error);
    }
    bitmill_status load_managed() {
        bitmill_managed_model* made = managed;  // a failure has something to clear
        const auto status = bitmill_manager_load_model(manager, "m", request_at, &made, &error);
        CHECK((made != nullptr) == (status == BITMILL_OK));
        bitmill_managed_model_destroy(made);
        return status;
    }
    bitmill_status warm_managed() { return bitmill_manager_warm_model(manager, "m", request_at, &error); }
    bitmill_status get_decision() { return bitmill_managed_model_get_decision(managed, decision_at, &error); }
    bitmill_status set_thresholds() { return bitmill_manager_set_thresholds(manager, thresholds_at, &error); }
    bitmill_status manager_status() { return bitmill_manager_get_status(manager, manager_status_at, &error); }
    bitmill_status managed_status() {
        return bitmill_manager_get_model(manager, "m", managed_status_at, &error);
    }
    bitmill_status calculate() {
        return bitmill_manager_calculate(manager, 1e6, request_at, estimate_at, &error);
    }
    bitmill_status open_registry() {
        bitmill_registry* made = registry;  // a failure has something to clear
        const auto status = bitmill_registry_open(models.c_str(), registry_options_at, &made, &error);
        CHECK((made != nullptr) == (status == BITMILL_OK));
        bitmill_registry_destroy(made);
        return status;
    }
    bitmill_status registry_quantize() {
        return kept(
            bitmill_registry_quantize(registry, "tiny", quantize_options_at, outcome_at, &report, &error));
    }
    bitmill_status get_metric() { return bitmill_comparison_metric(comparison, "mrr@10", metric_at, &error); }

    temp_folder folder, other_folder;
    std::string model_path, out;
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    bitmill_scheme scheme = BITMILL_SCHEME_INIT;
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    bitmill_encoded sizes = BITMILL_ENCODED_INIT;
    bitmill_encoded coded = BITMILL_ENCODED_INIT;
    bitmill_encode_options encode_options = BITMILL_ENCODE_OPTIONS_INIT;
    bitmill_metrics metrics = BITMILL_METRICS_INIT;
    bitmill_mill_options mill_options = BITMILL_MILL_OPTIONS_INIT;
    bitmill_dequantize_options dequantize_options = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    bitmill_verify_options verify_options = BITMILL_VERIFY_OPTIONS_INIT;
    bitmill_batch_options batch_options = BITMILL_BATCH_OPTIONS_INIT;
    std::string source, milled = other_folder / "milled";  // the model, and int8 of it
    std::string encoder = other_folder / "encoder";
    bitmill_model* running = nullptr;  // of `encoder`
    bitmill_model_options model_options = BITMILL_MODEL_OPTIONS_INIT;
    bitmill_model_facts facts = BITMILL_MODEL_FACTS_INIT;
    bitmill_tokens tokens = BITMILL_TOKENS_INIT;
    std::vector<std::int32_t> ids{1, 7, 2, 3, 1, 9};
    std::vector<std::uint32_t> lengths{2, 1, 3};
    std::string reranker = other_folder / "reranker";
    bitmill_text_encoder* text_encoder = nullptr;   // of `encoder`
    bitmill_text_encoder* text_reranker = nullptr;  // of `reranker`
    bitmill_model_loader* loader = nullptr;         // of `encoder`
    bitmill_model_loader* reranking = nullptr;      // of `reranker`
    bitmill_loader_options loader_options = BITMILL_LOADER_OPTIONS_INIT;
    bitmill_switch_record record = BITMILL_SWITCH_RECORD_INIT;
    bitmill_model_size_info size = BITMILL_MODEL_SIZE_INFO_INIT;
    std::vector<const char*> words{"abc", "p", "hello a"};
    bitmill_texts texts = BITMILL_TEXTS_INIT, one_text = BITMILL_TEXTS_INIT;
    bitmill_text_options text_options = BITMILL_TEXT_OPTIONS_INIT;
    bitmill_tokenize_options tokenize_options = BITMILL_TOKENIZE_OPTIONS_INIT;
    bitmill_token_sequence sequence = BITMILL_TOKEN_SEQUENCE_INIT;
    // What the calls of texts and of loaders are given.
    const bitmill_loader_options* loader_options_at = &loader_options;
    bitmill_switch_record* record_at = &record;
    bitmill_model_facts* facts_at = &facts;
    bitmill_model_size_info* size_at = &size;
    const bitmill_model_options* model_options_at = &model_options;
    const bitmill_texts *texts_at = &texts, *one_text_at = &one_text;
    const bitmill_text_options* text_options_at = &text_options;
    const bitmill_tokenize_options* tokenize_options_at = &tokenize_options;
    bitmill_token_sequence* sequence_at = &sequence;
    std::vector<std::int32_t> places = std::vector<std::int32_t>(5);
    std::vector<std::uint64_t> order;
    bitmill_report* report = nullptr;
    std::string pairs = other_folder / "pairs.jsonl";
    bitmill_comparison* comparison = nullptr;  // of `encoder` with itself
    bitmill_compare_options compare_options = BITMILL_COMPARE_OPTIONS_INIT;
    bitmill_metric metric = BITMILL_METRIC_INIT;
    bitmill_compare_options* compare_options_at = &compare_options;
    bitmill_metric* metric_at = &metric;
    // Of levels, memory, the manager (its model "m" is `encoder`, its memory half in use) and the registry of `models`.
    bitmill_found_levels* found = nullptr;
    bitmill_found_level found_level = BITMILL_FOUND_LEVEL_INIT, *found_level_at = &found_level;
    bitmill_policy_input policy_input = BITMILL_POLICY_INPUT_INIT;
    const bitmill_policy_input* policy_input_at = &policy_input;
    bitmill_policy_thresholds thresholds = BITMILL_POLICY_THRESHOLDS_INIT;
    const bitmill_policy_thresholds* thresholds_at = &thresholds;
    bitmill_policy_decision decision = BITMILL_POLICY_DECISION_INIT, *decision_at = &decision;
    bitmill_system_memory memory = BITMILL_SYSTEM_MEMORY_INIT, *memory_at = &memory;
    bitmill_manager* manager = nullptr;
    bitmill_manager_options manager_options = BITMILL_MANAGER_OPTIONS_INIT;
    const bitmill_manager_options* manager_options_at = &manager_options;
    bitmill_managed_model* managed = nullptr;
    bitmill_managed_model_options managed_options = BITMILL_MANAGED_MODEL_OPTIONS_INIT;
    const bitmill_managed_model_options* managed_options_at = &managed_options;
    bitmill_load_request request = BITMILL_LOAD_REQUEST_INIT;
    const bitmill_load_request* request_at = &request;
    bitmill_manager_status of_manager = BITMILL_MANAGER_STATUS_INIT, *manager_status_at = &of_manager;
    bitmill_managed_status of_managed = BITMILL_MANAGED_STATUS_INIT, *managed_status_at = &of_managed;
    bitmill_level_estimate estimate = BITMILL_LEVEL_ESTIMATE_INIT, *estimate_at = &estimate;
    std::string models = other_folder / "models";
    bitmill_registry* registry = nullptr;
    bitmill_registry_options registry_options = BITMILL_REGISTRY_OPTIONS_INIT;
    const bitmill_registry_options* registry_options_at = &registry_options;
    bitmill_mill_options quantize_options = BITMILL_MILL_OPTIONS_INIT;
    const bitmill_mill_options* quantize_options_at = &quantize_options;
    bitmill_quantize_outcome outcome = BITMILL_QUANTIZE_OUTCOME_INIT, *outcome_at = &outcome;
    std::vector<float> values = std::vector<float>(4 * 32, 0.5f);
    std::vector<float> results;
    std::vector<char> codes, scales, zero_points, nested_scales, residual;

private:
    void make_managed() {
        REQUIRE(bitmill_find_levels(encoder.c_str(), nullptr, &found, nullptr) == BITMILL_OK);
        policy_input.total_bytes = 100;
        manager_options.model = &model_options;
        manager_options.thresholds = &thresholds;
        manager_options.read_memory = [](void*, bitmill_system_memory* now) -> bitmill_status {
            now->total_bytes = std::uint64_t{16} << 30;
            now->available_bytes = std::uint64_t{8} << 30;
            return BITMILL_OK;
        };
        REQUIRE(bitmill_manager_create(&manager_options, &manager, nullptr) == BITMILL_OK);
        REQUIRE(bitmill_manager_add_model(manager, "m", encoder.c_str(), nullptr, nullptr) == BITMILL_OK);
        REQUIRE(bitmill_manager_load_model(manager, "m", nullptr, &managed, nullptr) == BITMILL_OK);
    }
    template <class Run>
    bitmill_status run(Run* through, std::size_t count) {
        results.assign(count, 0.0f);  // a sanitizer sees who writes past it
        return through(running, &tokens, results.data(), results.size(), &error);
    }
    // A report exactly on success.
    bitmill_status kept(bitmill_status status) {
        CHECK((report != nullptr) == (status == BITMILL_OK));
        bitmill_report_destroy(report);
        report = reinterpret_cast<bitmill_report*>(this);  // the next failure has something to clear
        return status;
    }
};

using call = bitmill_status (host::*)();
inline const std::vector<std::pair<const char*, call>> all_calls = {
    {"encode_bound", &host::bound},
    {"encode", &host::encode},
    {"decode", &host::decode},
    {"mill", &host::mill},
    {"dequantize", &host::dequantize},
    {"inspect", &host::inspect},
    {"validate", &host::validate},
    {"verify", &host::verify},
    {"batch", &host::batch},
    {"model_open", &host::open},
    {"facts", &host::get_facts},
    {"embed", &host::embed},
    {"hidden", &host::hidden},
    {"logits", &host::logits},
    {"tokenize", &host::tokenize},
    {"open_text", &host::open_text},
    {"embed_texts", &host::embed_texts},
    {"classify", &host::classify},
    {"pair_logits", &host::pair_logits},
    {"rerank", &host::rerank},
    {"open_loader", &host::open_loader},
    {"use_level", &host::use_level},
    {"use_quantized", &host::use_quantized},
    {"last_switch", &host::last_switch},
    {"loader_facts", &host::loader_facts},
    {"size_info", &host::size_info},
    {"loader_embed", &host::loader_embed},
    {"loader_classify", &host::loader_classify},
    {"loader_rerank", &host::loader_rerank},
    {"compare", &host::compare},
    {"metric", &host::get_metric},
    {"found_level", &host::get_found_level},
    {"choose_level", &host::choose_level},
    {"system_memory", &host::system_memory},
    {"create_manager", &host::create_manager},
    {"add_managed", &host::add_managed},
    {"load_managed", &host::load_managed},
    {"warm_managed", &host::warm_managed},
    {"get_decision", &host::get_decision},
    {"set_thresholds", &host::set_thresholds},
    {"manager_status", &host::manager_status},
    {"managed_status", &host::managed_status},
    {"calculate", &host::calculate},
    {"open_registry", &host::open_registry},
    {"registry_quantize", &host::registry_quantize}};

}  // namespace bitmill_test
