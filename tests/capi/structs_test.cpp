// Structs of a wrong size, of another age, with fields and numbers that this version does not know.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "host.hpp"

using namespace bitmill_test;

namespace {

// A struct and a call that reads it.
struct use {
    const char* name;
    std::function<void*(host&)> where;
    std::size_t size;
    call through;
    std::size_t first_size;  // in the first release
};

template <class Struct>
use use_of(const char* name, Struct host::* member, call through, std::size_t first_size = sizeof(Struct)) {
    return {name, [member](host& h) -> void* { return &(h.*member); }, sizeof(Struct), through, first_size};
}

std::vector<use> inputs() {
    return {use_of("scheme", &host::scheme, &host::bound),
            use_of("sizes", &host::sizes, &host::bound),
            use_of("scheme", &host::scheme, &host::encode),
            use_of("matrix", &host::matrix, &host::encode),
            use_of("coded", &host::coded, &host::encode),
            use_of("encode_options", &host::encode_options, &host::encode),
            use_of("metrics", &host::metrics, &host::encode),
            use_of("hooks", &host::hooks, &host::encode),
            use_of("scheme", &host::scheme, &host::decode),
            use_of("coded", &host::coded, &host::decode),
            use_of("matrix", &host::matrix, &host::decode),
            use_of("hooks", &host::hooks, &host::decode),
            use_of("mill_options", &host::mill_options, &host::mill),
            use_of("hooks", &host::hooks, &host::mill),
            use_of("dequantize_options", &host::dequantize_options, &host::dequantize),
            use_of("hooks", &host::hooks, &host::dequantize),
            use_of("hooks", &host::hooks, &host::inspect),
            use_of("verify_options", &host::verify_options, &host::validate),
            use_of("verify_options", &host::verify_options, &host::verify),
            use_of("hooks", &host::hooks, &host::verify),
            use_of("batch_options", &host::batch_options, &host::batch),
            use_of("hooks", &host::hooks, &host::batch),
            use_of("model_options", &host::model_options, &host::open),
            use_of("hooks", &host::hooks, &host::open),
            use_of("facts", &host::facts, &host::get_facts),
            use_of("tokens", &host::tokens, &host::embed),
            use_of("tokens", &host::tokens, &host::hidden),
            use_of("tokens", &host::tokens, &host::logits),
            use_of("model_options", &host::model_options, &host::open_text),
            use_of("one_text", &host::one_text, &host::tokenize),
            use_of("tokenize_options", &host::tokenize_options, &host::tokenize),
            use_of("sequence", &host::sequence, &host::tokenize),
            use_of("texts", &host::texts, &host::embed_texts),
            use_of("text_options", &host::text_options, &host::embed_texts),
            use_of("hooks", &host::hooks, &host::embed_texts),
            use_of("texts", &host::texts, &host::classify),
            use_of("texts", &host::texts, &host::pair_logits),
            use_of("texts", &host::texts, &host::rerank),
            use_of("text_options", &host::text_options, &host::rerank),
            use_of("loader_options", &host::loader_options, &host::open_loader),
            use_of("model_options", &host::model_options, &host::open_loader),
            use_of("hooks", &host::hooks, &host::open_loader),
            use_of("record", &host::record, &host::use_level),
            use_of("record", &host::record, &host::use_quantized),
            use_of("record", &host::record, &host::last_switch),
            use_of("facts", &host::facts, &host::loader_facts),
            use_of("size", &host::size, &host::size_info),
            use_of("texts", &host::texts, &host::loader_embed),
            use_of("text_options", &host::text_options, &host::loader_embed),
            use_of("texts", &host::texts, &host::loader_classify),
            use_of("texts", &host::texts, &host::loader_rerank),
            use_of("compare_options", &host::compare_options, &host::compare),
            use_of("hooks", &host::hooks, &host::compare),
            use_of("metric", &host::metric, &host::get_metric),
            use_of("found_level", &host::found_level, &host::get_found_level),
            use_of("policy_input", &host::policy_input, &host::choose_level),
            use_of("thresholds", &host::thresholds, &host::choose_level),
            use_of("decision", &host::decision, &host::choose_level),
            use_of("memory", &host::memory, &host::system_memory),
            use_of("manager_options", &host::manager_options, &host::create_manager),
            use_of("thresholds", &host::thresholds, &host::create_manager),
            use_of("model_options", &host::model_options, &host::create_manager),
            use_of("hooks", &host::hooks, &host::create_manager),
            use_of("managed_options", &host::managed_options, &host::add_managed),
            use_of("request", &host::request, &host::load_managed),
            use_of("request", &host::request, &host::warm_managed),
            use_of("decision", &host::decision, &host::get_decision),
            use_of("thresholds", &host::thresholds, &host::set_thresholds),
            use_of("of_manager", &host::of_manager, &host::manager_status),
            use_of("of_managed", &host::of_managed, &host::managed_status),
            use_of("request", &host::request, &host::calculate),
            use_of("estimate", &host::estimate, &host::calculate),
            use_of("registry_options", &host::registry_options, &host::open_registry),
            use_of("hooks", &host::hooks, &host::open_registry),
            use_of("quantize_options", &host::quantize_options, &host::registry_quantize),
            use_of("hooks", &host::hooks, &host::registry_quantize),
            use_of("outcome", &host::outcome, &host::registry_quantize)};
}

void set_size(void* at, std::uint32_t size) { std::memcpy(at, &size, sizeof size); }

const std::uint32_t wrong_sizes[] = {0, 1, 4, 4097, 5000, 0x80000000, 0xffffffff};

}  // namespace

TEST_CASE(
    "structs: every call works as the test's host makes it, so what fails below fails for its own reason") {
    host h;
    for (const auto& [name, through] : all_calls) {
        CAPTURE(name);
        CHECK((h.*through)() == BITMILL_OK);
        CHECK(h.error.status == BITMILL_OK);
        CHECK(h.error.message[0] == '\0');
    }
}

TEST_CASE("structs: a size that no version of the struct has is refused by name") {
    host h;
    for (const auto& u : inputs()) {
        CAPTURE(u.name);
        std::vector<std::uint32_t> sizes(std::begin(wrong_sizes), std::end(wrong_sizes));
        sizes.push_back(static_cast<std::uint32_t>(u.first_size - 1));
        for (const auto size : sizes) {
            CAPTURE(size);
            set_size(u.where(h), size);
            CHECK((h.*u.through)() == BITMILL_INVALID_ARGUMENT);
            CHECK(std::string(h.error.message).find("struct_size is " + std::to_string(size)) !=
                  std::string::npos);
        }
        set_size(u.where(h), static_cast<std::uint32_t>(u.size));
        CHECK((h.*u.through)() == BITMILL_OK);
    }
}

TEST_CASE("structs: what lies behind an older program's struct is not looked at") {
    host h;
    for (const auto& u : inputs()) {
        CAPTURE(u.name);
        auto* bytes = static_cast<char*>(u.where(h));
        set_size(bytes, static_cast<std::uint32_t>(u.first_size));
        std::memset(bytes + u.first_size, 0x33, u.size - u.first_size);
        CHECK((h.*u.through)() == BITMILL_OK);
        std::memset(bytes + u.first_size, 0, u.size - u.first_size);
        set_size(bytes, static_cast<std::uint32_t>(u.size));
    }
}

TEST_CASE(
    "structs: an error of a wrong size is not written to, and out-parameters are cleared all the same") {
    host h;
    for (const auto& [name, through] : all_calls) {
        CAPTURE(name);
        std::vector<std::uint32_t> sizes(std::begin(wrong_sizes), std::end(wrong_sizes));
        sizes.push_back(sizeof(bitmill_error) - 1);
        for (const auto size : sizes) {
            std::memset(&h.error, 0x77, sizeof h.error);
            h.error.struct_size = size;
            h.metrics.mse = h.metrics.cosine = 7;
            h.sizes.codes_bytes = h.sizes.nested_scales_bytes = 7;
            h.facts.layers = 7;
            const bitmill_error before = h.error;
            CHECK((h.*through)() == BITMILL_INVALID_ARGUMENT);
            CHECK(std::memcmp(&before, &h.error, sizeof before) == 0);
            if (through == &host::encode) CHECK(h.metrics.mse + h.metrics.cosine == 0);
            if (through == &host::get_facts) CHECK(h.facts.layers == 0);
            if (through == &host::bound) CHECK(h.sizes.codes_bytes + h.sizes.nested_scales_bytes == 0);
        }
        const bitmill_error fresh = BITMILL_ERROR_INIT;
        h.error = fresh;
        CHECK((h.*through)() == BITMILL_OK);
    }
}

// The struct in a larger one, as a newer program has it. Fields that point to it are moved along.
TEST_CASE("structs: a newer program's fields are fine while they are 0, and unsupported where they are set") {
    struct grown {
        alignas(16) char bytes[4096] = {};
    };
    host h;
    const auto call_with = [&h](const use& u, void* at) {
        const auto* name = u.name;
        const bool is = at != nullptr;
        const auto pick = [&](const char* wanted, auto* own) {
            return is && std::strcmp(name, wanted) == 0 ? static_cast<decltype(own)>(at) : own;
        };
        auto* scheme = pick("scheme", &h.scheme);
        auto* matrix = pick("matrix", &h.matrix);
        auto* hooks = pick("hooks", &h.hooks);
        auto* coded = pick("coded", &h.coded);
        auto* sizes = pick("sizes", &h.sizes);
        auto* metrics = pick("metrics", &h.metrics);
        h.encode_options.hooks = h.mill_options.hooks = h.dequantize_options.hooks = h.verify_options.hooks =
            h.model_options.hooks = h.text_options.hooks = h.compare_options.hooks =
                h.registry_options.hooks = h.quantize_options.hooks = hooks;
        auto* encode_options = pick("encode_options", &h.encode_options);
        auto* mill_options = pick("mill_options", &h.mill_options);
        auto* dequantize_options = pick("dequantize_options", &h.dequantize_options);
        const char* model = h.model_path.c_str();
        bitmill_error* e = &h.error;
        if (u.through == &host::bound) return bitmill_encode_bound(scheme, 4, 32, sizes, e);
        if (u.through == &host::encode)
            return bitmill_encode(scheme, matrix, h.values.data(), coded, encode_options, metrics, e);
        if (u.through == &host::decode)
            return bitmill_decode(scheme, coded, matrix, h.values.data(), hooks, e);
        if (u.through == &host::mill) return bitmill_mill(model, "", mill_options, nullptr, e);
        if (u.through == &host::dequantize)
            return bitmill_dequantize(model, "", dequantize_options, nullptr, e);
        h.batch_options.hooks = hooks;
        auto* batch_options = pick("batch_options", &h.batch_options);
        if (u.through == &host::batch)
            return bitmill_batch(h.folder.path().c_str(), "", batch_options, nullptr, e);
        auto* verify_options = pick("verify_options", &h.verify_options);
        if (u.through == &host::validate)
            return bitmill_validate(h.milled.c_str(), verify_options, nullptr, e);
        if (u.through == &host::verify)
            return bitmill_verify(model, h.milled.c_str(), verify_options, nullptr, e);
        if (u.through == &host::open) {
            bitmill_model* opened = nullptr;
            const auto status =
                bitmill_model_open(h.encoder.c_str(), pick("model_options", &h.model_options), &opened, e);
            bitmill_model_destroy(opened);
            return status;
        }
        if (u.through == &host::get_facts)
            return bitmill_model_get_facts(h.running, pick("facts", &h.facts), e);
        const auto* tokens = pick("tokens", &h.tokens);
        float results[8 * encoder_hidden];
        if (u.through == &host::embed)
            return bitmill_model_embed(h.running, tokens, results, 3 * encoder_hidden, e);
        if (u.through == &host::hidden)
            return bitmill_model_hidden(h.running, tokens, results, 6 * encoder_hidden, e);
        if (u.through == &host::logits)
            return bitmill_model_logits(h.running, tokens, results, 3 * encoder_labels, e);
        h.model_options_at = pick("model_options", &h.model_options);
        h.texts_at = pick("texts", &h.texts);
        h.one_text_at = pick("one_text", &h.one_text);
        h.text_options_at = pick("text_options", &h.text_options);
        h.tokenize_options_at = pick("tokenize_options", &h.tokenize_options);
        h.sequence_at = pick("sequence", &h.sequence);
        h.compare_options_at = pick("compare_options", &h.compare_options);
        h.metric_at = pick("metric", &h.metric);
        h.loader_options.model = h.model_options_at;
        h.loader_options_at = pick("loader_options", &h.loader_options);
        h.record_at = pick("record", &h.record);
        h.facts_at = pick("facts", &h.facts);
        h.size_at = pick("size", &h.size);
        h.found_level_at = pick("found_level", &h.found_level);
        h.policy_input_at = pick("policy_input", &h.policy_input);
        h.manager_options.thresholds = h.thresholds_at = pick("thresholds", &h.thresholds);
        h.manager_options.model = h.model_options_at;
        h.decision_at = pick("decision", &h.decision);
        h.memory_at = pick("memory", &h.memory);
        h.manager_options_at = pick("manager_options", &h.manager_options);
        h.managed_options_at = pick("managed_options", &h.managed_options);
        h.request_at = pick("request", &h.request);
        h.manager_status_at = pick("of_manager", &h.of_manager);
        h.managed_status_at = pick("of_managed", &h.of_managed);
        h.estimate_at = pick("estimate", &h.estimate);
        h.registry_options_at = pick("registry_options", &h.registry_options);
        h.quantize_options_at = pick("quantize_options", &h.quantize_options);
        h.outcome_at = pick("outcome", &h.outcome);
        if (u.through != &host::inspect) return (h.*u.through)();  // of texts, loaders and what follows
        bitmill_report* report = nullptr;
        const bitmill_status status = bitmill_inspect(model, hooks, &report, e);
        bitmill_report_destroy(report);
        return status;
    };
    for (const auto& u : inputs()) {
        CAPTURE(u.name);
        for (const std::size_t size : {u.size + 1, u.size + 8, std::size_t{4096}}) {
            CAPTURE(size);
            grown newer;
            call_with(u, nullptr);  // the host's own structs point to each other again
            std::memcpy(newer.bytes, u.where(h), u.size);
            set_size(newer.bytes, static_cast<std::uint32_t>(size));
            CHECK(call_with(u, newer.bytes) == BITMILL_OK);
            const bool untouched = std::all_of(newer.bytes + u.size, newer.bytes + sizeof newer.bytes,
                                               [](char c) { return c == 0; });
            CHECK(untouched);
            for (const std::size_t at : {u.size, size - 1}) {
                newer.bytes[at] = 1;
                CHECK(call_with(u, newer.bytes) == BITMILL_UNSUPPORTED);
                CHECK(std::string(h.error.message).find("does not know") != std::string::npos);
                newer.bytes[at] = 0;
            }
        }
    }
}

TEST_CASE("structs: a newer program's error is filled as far as this version goes") {
    host h;
    struct {
        bitmill_error known;
        char more[40];
    } newer{BITMILL_ERROR_INIT, {}};
    std::memset(newer.more, 0x33, sizeof newer.more);
    newer.known.struct_size = sizeof newer;
    CHECK(bitmill_set_isa("none", &newer.known) == BITMILL_INVALID_ARGUMENT);
    CHECK(newer.known.struct_size == sizeof newer);
    CHECK(newer.known.status == BITMILL_INVALID_ARGUMENT);
    const bool untouched =
        std::all_of(std::begin(newer.more), std::end(newer.more), [](char c) { return c == 0x33; });
    CHECK(untouched);
}

TEST_CASE("structs: a reserved field that is set is unsupported") {
    host h;
    const std::pair<std::uint32_t*, call> fields[] = {
        {&h.encode_options.reserved, &host::encode},
        {&h.metrics.reserved, &host::encode},
        {&h.hooks.reserved, &host::encode},
        {&h.hooks.reserved, &host::inspect},
        {&h.hooks.reserved, &host::mill},
        {&h.mill_options.reserved, &host::mill},
        {&h.hooks.reserved, &host::open},
        {&h.tokens.reserved, &host::embed},
        {&h.decision.reserved, &host::choose_level},
        {&h.memory.reserved, &host::system_memory},
        {&h.manager_options.reserved, &host::create_manager},
        {&h.managed_options.reserved, &host::add_managed},
        {&h.request.reserved, &host::load_managed},
        {&h.of_managed.reserved, &host::managed_status},
        {&h.estimate.reserved, &host::calculate},
        {&h.registry_options.reserved, &host::open_registry},
        {&h.quantize_options.reserved, &host::registry_quantize}};
    for (const auto& [field, through] : fields) {
        *field = 1;
        CHECK((h.*through)() == BITMILL_UNSUPPORTED);
        *field = 0;
        CHECK((h.*through)() == BITMILL_OK);
    }
}

TEST_CASE("structs: a number that stands for nothing is refused by name") {
    host h;
    struct number {
        const char* name;
        std::int32_t* where;
        call through;
        bool zero_is_wrong;
    };
    const number numbers[] = {{"scheme type", &h.scheme.type, &host::bound, true},
                              {"scheme type", &h.scheme.type, &host::encode, true},
                              {"scheme type", &h.scheme.type, &host::decode, true},
                              {"granularity", &h.scheme.granularity, &host::bound, false},
                              {"scale_dtype", &h.scheme.scale_dtype, &host::bound, false},
                              {"dtype", &h.matrix.dtype, &host::encode, true},
                              {"dtype", &h.matrix.dtype, &host::decode, true},
                              {"method", &h.encode_options.method, &host::encode, false}};
    for (const auto& one : numbers) {
        const std::int32_t right = *one.where;
        std::vector<std::int32_t> wrong{-1, 99, INT32_MIN, INT32_MAX};
        if (one.zero_is_wrong) wrong.push_back(0);
        for (const auto value : wrong) {
            *one.where = value;
            CHECK((h.*one.through)() == BITMILL_INVALID_ARGUMENT);
            CHECK(std::string(h.error.message).find(std::string(one.name) + " " + std::to_string(value)) !=
                  std::string::npos);
        }
        *one.where = right;
        CHECK((h.*one.through)() == BITMILL_OK);
    }
}

TEST_CASE("structs: half of the memory hooks is refused") {
    host h;
    const call without[] = {
        &host::bound,           &host::get_facts,     &host::embed,          &host::hidden,
        &host::logits,          &host::tokenize,      &host::embed_texts,    &host::classify,
        &host::pair_logits,     &host::rerank,        &host::use_level,      &host::use_quantized,
        &host::last_switch,     &host::loader_facts,  &host::size_info,      &host::loader_embed,
        &host::loader_classify, &host::loader_rerank, &host::get_metric,     &host::get_found_level,
        &host::choose_level,    &host::system_memory, &host::add_managed,    &host::load_managed,
        &host::warm_managed,    &host::get_decision,  &host::set_thresholds, &host::manager_status,
        &host::managed_status,  &host::calculate};
    for (const auto& [name, through] : all_calls) {
        if (std::find(std::begin(without), std::end(without), through) != std::end(without))
            continue;  // they take no memory
        CAPTURE(name);
        h.hooks.allocate = [](void*, std::size_t, std::size_t) -> void* { return nullptr; };
        CHECK((h.*through)() == BITMILL_INVALID_ARGUMENT);
        h.hooks.deallocate = [](void*, void*, std::size_t, std::size_t) {};
        CHECK((h.*through)() == BITMILL_OUT_OF_MEMORY);
        h.hooks.allocate = nullptr;
        CHECK((h.*through)() == BITMILL_INVALID_ARGUMENT);
        h.hooks.deallocate = nullptr;
        CHECK((h.*through)() == BITMILL_OK);
    }
}
