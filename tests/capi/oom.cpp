// Memory that runs out at the n-th allocation, once or from then on, for every n: nothing crashes, leaks or ends the
// program, the caller is told, the folder is the old or the new one, and the same call works afterwards.
//
// oom [every]: without `every`, or BITMILL_TEST_ALL=1, some hundred n of each scenario.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <bitmill.h>

#include <coded.hpp>
#include <encoders.hpp>
#include <letter_tokenizer.hpp>
#include <models.hpp>
#include <temp_folder.hpp>

#include "failing_memory.hpp"

using namespace bitmill_test;
using bitmill::dtype;

namespace {

int failures = 0;
std::string table;  // printed last: what is wrong comes first
std::string where;  // scenario, mode and n, for complaints

void complain(const std::string& what) {
    ++failures;
    if (where.empty()) return;
    std::fprintf(stderr, "%s: %s\n", where.c_str(), what.c_str());
}

struct scenario {
    std::string name;
    // Fails where memory does; all that it uses is there already.
    std::function<bitmill_status(bitmill_error&)> act;
    // What is wrong with the outcome, "" for nothing; also puts things back as they were.
    std::function<std::string(bool finished)> check;
    bitmill_status expected = BITMILL_OK;
    std::size_t most = 150;  // values of n in a short run
};

// ---- where allocations come from -----------------------------------------------------------------------------

void* lend(void*, std::size_t bytes, std::size_t) { return failing_memory::lend(bytes); }
void take_back(void*, void* block, std::size_t, std::size_t) { failing_memory::take_back(block); }

bitmill_hooks hooks_of(bool own_memory) {
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    if (own_memory) {
        hooks.allocate = lend;
        hooks.deallocate = take_back;
    }
    return hooks;
}

std::size_t open_files() {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

// Runs the scenario with memory failing at n. False where it came to its end before.
bool run_once(const scenario& one, failing_memory::source from, long n, bool forever,
              std::map<int, long>& statuses) {
    bitmill_error error = BITMILL_ERROR_INIT;
    const auto files = open_files();
    const auto blocks = failing_memory::live_blocks();
    failing_memory::arm(from, n, forever);
    const bitmill_status status = one.act(error);
    const bool failed = failing_memory::disarm();
    if (failing_memory::live_blocks() != blocks) complain("leaks memory");
    if (open_files() != files) complain("leaks files");
    ++statuses[failed ? status : -1];
    const bool told = status == BITMILL_OUT_OF_MEMORY || status == one.expected;
    if (!(failed ? told : status == one.expected))
        complain(std::string("returns ") + bitmill_status_text(status) + ": " + error.message);
    if (error.status != status) complain("error->status differs");
    if ((status == BITMILL_OK) != (error.message[0] == '\0'))
        complain("message: " + std::string(error.message));
    if (const auto wrong = one.check(status == BITMILL_OK); !wrong.empty())
        complain(wrong + " after " + bitmill_status_text(status) + " " + error.message);
    return failed;
}

void run(const scenario& one, failing_memory::source from, bool every) {
    constexpr long never = std::numeric_limits<long>::max();
    std::map<int, long> ignored;
    const int before = failures;
    where.clear();
    run_once(one, from, never, false, ignored);
    failures = before;  // what is made once and kept looks like a leak
    where = one.name + ", with memory";
    run_once(one, from, never, false, ignored);
    const long count = failing_memory::seen();
    const long step = every ? 1 : std::max(1L, count / static_cast<long>(one.most));
    for (const bool forever : {false, true}) {
        std::map<int, long> statuses;
        // Another step's multiples meet other allocations.
        for (long n = 1; n <= count && failures < 20; n += n <= 20 ? 1 : step) {
            where = one.name + (forever ? ", none from allocation " : ", without allocation ") +
                    std::to_string(n);
            run_once(one, from, n, forever, statuses);
            where += ", then again";
            if (n % (4 * step) == 0) run_once(one, from, never, false, ignored);
        }
        std::array<char, 200> line{};
        std::snprintf(line.data(), line.size(), "%-40s %-10s %6ld allocations:", one.name.c_str(),
                      forever ? "from n on" : "only the n", count);
        table += line.data();
        for (const auto& [status, times] : statuses)
            table += std::string(" ") + (status < 0 ? "(not reached)" : bitmill_status_text(status)) + " " +
                     std::to_string(times);
        table += "\n";
    }
}

// ---- buffers -------------------------------------------------------------------------------------------------

// Encodes and decodes; the matrix has gaps and is f16, so that each way of copying is taken.
struct buffers {
    static constexpr std::size_t rows = 6, cols = 4096;
    bitmill_scheme scheme = BITMILL_SCHEME_INIT;
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    bitmill_encoded coded = BITMILL_ENCODED_INIT;
    bitmill_encode_options options = BITMILL_ENCODE_OPTIONS_INIT;
    bitmill_metrics metrics = BITMILL_METRICS_INIT;
    bitmill_hooks hooks;
    std::array<std::vector<char>, 4> parts;
    std::string source = bytes_as(dtype::f16, make_weights(rows* cols * 2, 3));
    std::string out = std::string(source.size(), '\0');
    std::string expected;

    buffers(bitmill_scheme_type type, bitmill_granularity grain, std::uint64_t group, bool extras,
            bool own_memory)
        : hooks(hooks_of(own_memory)) {
        scheme.type = type;
        scheme.granularity = grain;
        scheme.group_size = group;
        scheme.asymmetric = extras;
        scheme.double_quant = extras;
        matrix.dtype = BITMILL_F16;
        matrix.rows = rows;
        matrix.cols = cols;
        matrix.row_stride = 2 * cols;
        matrix.col_stride = 2;
        options.hooks = &hooks;
        options.weight_threshold = 0.01f;
        bitmill_encode_bound(&scheme, rows, cols, &coded, nullptr);
        const auto room = [](std::vector<char>& part, std::uint64_t bytes) {
            part.resize(static_cast<std::size_t>(bytes) + 1);
            return part.data();
        };
        coded.codes = room(parts[0], coded.codes_bytes);
        coded.scales = room(parts[1], coded.scales_bytes);
        coded.zero_points = room(parts[2], coded.zero_points_bytes);
        coded.nested_scales = room(parts[3], coded.nested_scales_bytes);
    }

    bitmill_status act(bitmill_error& error) {
        const auto done = bitmill_encode(&scheme, &matrix, source.data(), &coded, &options, &metrics, &error);
        if (done != BITMILL_OK) return done;
        return bitmill_decode(&scheme, &coded, &matrix, out.data(), &hooks, &error);
    }
    std::string check(bool finished) {
        if (!finished) return {};
        std::string now = out;
        for (const auto& part : parts) now.append(part.begin(), part.end());
        if (expected.empty()) expected = now;
        return now == expected ? "" : "other bytes";
    }
};

void run_buffers(bool every) {
    struct kind {
        const char* name;
        bitmill_scheme_type type;
        bitmill_granularity grain;
        std::uint64_t group;
        bool extras;
    };
    const kind kinds[] = {{"fp32", BITMILL_SCHEME_FP32, BITMILL_PER_CHANNEL, 0, false},
                          {"fp16", BITMILL_SCHEME_FP16, BITMILL_PER_CHANNEL, 0, false},
                          {"bf16", BITMILL_SCHEME_BF16, BITMILL_PER_CHANNEL, 0, false},
                          {"int8", BITMILL_SCHEME_INT8, BITMILL_PER_CHANNEL, 0, true},
                          {"int8 per_tensor", BITMILL_SCHEME_INT8, BITMILL_PER_TENSOR, 0, false},
                          {"int4 group", BITMILL_SCHEME_INT4, BITMILL_GROUP, 128, true},
                          {"int2 group", BITMILL_SCHEME_INT2, BITMILL_GROUP, 32, true},
                          {"nf4", BITMILL_SCHEME_NF4, BITMILL_BLOCK, 64, false},
                          {"nf4 double_quant", BITMILL_SCHEME_NF4, BITMILL_BLOCK, 64, true},
                          {"fp4", BITMILL_SCHEME_FP4, BITMILL_BLOCK, 64, true}};
    for (const auto& k : kinds)
        for (const bool own_memory : {false, true}) {
            buffers b(k.type, k.grain, k.group, k.extras, own_memory);
            run({std::string(k.name) + (own_memory ? ", the host's memory" : ""),
                 [&](bitmill_error& error) { return b.act(error); },
                 [&](bool finished) { return b.check(finished); }},
                own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
        }
}

// ---- models --------------------------------------------------------------------------------------------------

std::vector<made_tensor> small_tensors() {
    return {make_tensor("embeddings.word_embeddings.weight", dtype::f32, {40, 64}, 1),
            make_tensor("encoder.layer.0.attention.query.weight", dtype::f32, {64, 128}, 2),
            make_tensor("encoder.layer.0.attention.query.bias", dtype::f32, {64}, 3),
            make_tensor("encoder.layer.0.output.weight", dtype::f16, {64, 128}, 4)};
}

class models {
public:
    models() {
        put_sharded_model(root_ / "model", small_tensors());
        put_file(root_ / "model/tokenizer.json", R"({"version": "1.0", "added_tokens": []})");
        json_.resize(64 * 1024);
    }
    [[nodiscard]] std::string path(const std::string& name) const { return root_ / name; }

    bitmill_status json(bitmill_report* report, bitmill_error& error) {
        const auto done = bitmill_report_json(report, json_.data(), json_.size(), nullptr, &error);
        bitmill_report_destroy(report);
        return done;
    }

    // OUT is what it was (`before`, empty for nothing) or what it should become; nothing lies beside it. Puts
    // `before` back.
    std::string check_folder(bool finished, const std::string& before,
                             std::map<std::string, std::string>& made) {
        const std::string out = path("out");
        std::string wrong;
        for (const auto& name : entries_of(root_.path()))
            if (name != "model" && name != "out" && name != before && name != "int8")
                wrong += " " + name + " is left";
        const bool there = std::filesystem::exists(out);
        const auto now = there ? read_folder(out) : std::map<std::string, std::string>();
        const auto old = before.empty() ? std::map<std::string, std::string>() : read_folder(path(before));
        if (finished && made.empty()) made = now;
        const bool is_new = there && now == made;
        if (finished && !is_new) wrong += " OUT is not the new folder";
        if (!is_new && (there == before.empty() || now != old)) wrong += " OUT is neither old nor new";
        std::filesystem::remove_all(out);
        for (const char* rest : {"out.bitmill-partial", "out.bitmill-old"})
            std::filesystem::remove_all(path(rest));
        if (!before.empty())
            std::filesystem::copy(path(before), out, std::filesystem::copy_options::recursive);
        return wrong;
    }

private:
    temp_folder root_;
    std::vector<char> json_;
};

struct mill_kind {
    const char* name;
    const char* level;
    std::uint32_t threads;
    bool own_memory;
    bool replaces;
    std::size_t most;
};

void run_mill(models& m, const mill_kind& kind, bool every) {
    const std::string model = m.path("model"), out = m.path("out");
    const char* exclude[] = {"query", "nothing|of[ ]this+"};
    bitmill_hooks hooks = hooks_of(kind.own_memory);
    hooks.log = [](void*, bitmill_log_level, const char*) {};
    hooks.progress = [](void*, std::uint64_t, std::uint64_t) -> std::int32_t { return 0; };
    bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
    options.to = kind.level;
    options.threads = kind.threads;
    options.hooks = &hooks;
    options.exclude = exclude;
    options.exclude_count = 2;
    options.double_quant = std::strcmp(kind.level, "nf4") == 0;
    options.force = 1;
    const std::string before = kind.replaces ? "int8" : "";
    std::map<std::string, std::string> made;
    m.check_folder(false, before, made);
    run({std::string("mill + report_json: ") + kind.name,
         [&](bitmill_error& error) {
             bitmill_report* report = nullptr;
             const auto done = bitmill_mill(model.c_str(), out.c_str(), &options, &report, &error);
             if ((report != nullptr) != (done == BITMILL_OK))
                 complain("a report without success, or the reverse");
             return done == BITMILL_OK ? m.json(report, error) : done;
         },
         [&](bool finished) { return m.check_folder(finished, before, made); }, BITMILL_OK, kind.most},
        kind.own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
    std::filesystem::remove_all(out);
}

void run_dequantize(models& m, bool own_memory, bool every) {
    const std::string model = m.path("int8"), out = m.path("out");
    const bitmill_hooks hooks = hooks_of(own_memory);
    bitmill_dequantize_options options = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    options.threads = 1;
    options.hooks = &hooks;
    options.dtype = "f16";
    std::map<std::string, std::string> made;
    run({std::string("inspect + dequantize") + (own_memory ? ", the host's memory" : ""),
         [&](bitmill_error& error) {
             bitmill_report* report = nullptr;
             auto done = bitmill_inspect(model.c_str(), &hooks, &report, &error);
             if (done == BITMILL_OK) done = m.json(report, error);
             if (done != BITMILL_OK) return done;
             done = bitmill_dequantize(model.c_str(), out.c_str(), &options, &report, &error);
             return done == BITMILL_OK ? m.json(report, error) : done;
         },
         [&](bool finished) { return m.check_folder(finished, "", made); }},
        own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
}

// A model is opened, asked and run in each way.
void run_encoder(models& m, const char* level, bool own_memory, bool every) {
    const std::string folder = m.path(std::strcmp(level, "original") == 0 ? "encoder" : "encoder-int8");
    const bitmill_hooks hooks = hooks_of(own_memory);
    bitmill_model_options options = BITMILL_MODEL_OPTIONS_INIT;
    options.threads = 1;
    options.hooks = &hooks;
    options.level = level;
    options.activation = "dynamic-int8";
    const std::int32_t ids[] = {1, 7, 2, 3, 1, 9};
    const std::uint32_t lengths[] = {2, 4};
    bitmill_tokens tokens = BITMILL_TOKENS_INIT;
    tokens.ids = ids;
    tokens.ids_count = std::size(ids);
    tokens.lengths = lengths;
    tokens.lengths_count = std::size(lengths);
    std::vector<float> now(2 * encoder_hidden + 2 * encoder_labels), expected;
    run({std::string("open + json + embed + logits, ") + level + (own_memory ? ", the host's memory" : ""),
         [&](bitmill_error& error) {
             bitmill_model* model = nullptr;
             auto done = bitmill_model_open(folder.c_str(), &options, &model, &error);
             std::array<char, 4096> json{};
             if (done == BITMILL_OK)
                 done = bitmill_model_json(model, json.data(), json.size(), nullptr, &error);
             if (done == BITMILL_OK)
                 done = bitmill_model_embed(model, &tokens, now.data(), 2 * encoder_hidden, &error);
             if (done == BITMILL_OK)
                 done = bitmill_model_logits(model, &tokens, now.data() + 2 * encoder_hidden,
                                             2 * encoder_labels, &error);
             bitmill_model_destroy(model);
             return done;
         },
         [&](bool finished) -> std::string {
             if (!finished) return {};
             if (expected.empty()) expected = now;
             return now == expected ? "" : "other floats";
         }},
        own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
}

// From text to tokens, vectors, classes; the tokenizer lives on the heap.
void run_text(models& m, bool every) {
    const std::string folder = m.path("encoder");
    bitmill_model_options options = BITMILL_MODEL_OPTIONS_INIT;
    options.threads = 1;
    const char* const words[] = {"abc hello", "x", "a text of some more letters"};
    constexpr std::size_t count = std::size(words);
    bitmill_texts texts = BITMILL_TEXTS_INIT;
    texts.data = words;
    texts.count = count;
    bitmill_texts pair = texts;
    pair.count = 2;
    std::vector<std::int32_t> ids(64), expected_ids;
    std::vector<float> now(count * (encoder_hidden + 2 * encoder_labels)), expected;
    run({"open + json + tokenize + embed + classify + pairs of texts",
         [&](bitmill_error& error) {
             bitmill_text_encoder* encoder = nullptr;
             auto done = bitmill_text_encoder_open(folder.c_str(), &options, &encoder, &error);
             std::array<char, 4096> json{};
             if (done == BITMILL_OK)
                 done = bitmill_text_encoder_json(encoder, json.data(), json.size(), nullptr, &error);
             bitmill_token_sequence sequence = BITMILL_TOKEN_SEQUENCE_INIT;
             sequence.capacity = ids.size();
             sequence.ids = ids.data();
             if (done == BITMILL_OK)
                 done = bitmill_tokenizer_encode(bitmill_text_encoder_tokenizer(encoder), &pair, nullptr,
                                                 &sequence, &error);
             float* dst = now.data();
             if (done == BITMILL_OK)
                 done = bitmill_text_encoder_embed(encoder, &texts, nullptr, dst, count * encoder_hidden,
                                                   &error);
             dst += count * encoder_hidden;
             if (done == BITMILL_OK)
                 done = bitmill_text_encoder_classify(encoder, &texts, nullptr, dst, count * encoder_labels,
                                                      &error);
             dst += count * encoder_labels;
             if (done == BITMILL_OK)
                 done = bitmill_text_encoder_pair_logits(encoder, &texts, &texts, nullptr, dst,
                                                         count * encoder_labels, &error);
             bitmill_text_encoder_destroy(encoder);
             return done;
         },
         [&](bool finished) -> std::string {
             if (!finished) return {};
             if (expected.empty()) expected = now, expected_ids = ids;
             return now == expected && ids == expected_ids ? "" : "other tokens or floats";
         }},
        failing_memory::source::heap, every);
}

// Planes: there and back. Without a fallback, which would give other floats.
void run_loader(models& m, bool own_memory, bool every) {
    const std::string folder = m.path("encoder-int8");
    bitmill_model_options model = BITMILL_MODEL_OPTIONS_INIT;
    model.threads = 1;
    const bitmill_hooks hooks = hooks_of(own_memory);
    model.hooks = &hooks;
    bitmill_loader_options options = BITMILL_LOADER_OPTIONS_INIT;
    options.model = &model;
    options.no_fallback = 1;
    const char* const words[] = {"abc hello", "x"};
    const char* const canary = "hello";
    options.canary = &canary;
    options.canary_count = 1;
    options.canary_cosine = 0.01;
    bitmill_texts texts = BITMILL_TEXTS_INIT;
    texts.data = words;
    texts.count = std::size(words);
    std::vector<float> now(2 * std::size(words) * encoder_hidden), expected;
    const std::size_t half = now.size() / 2;
    run({std::string("open + int4 + embed + int8 + embed + json of a loader") +
             (own_memory ? ", the host's memory" : ""),
         [&](bitmill_error& error) {
             bitmill_model_loader* loader = nullptr;
             auto done = bitmill_model_loader_open(folder.c_str(), &options, &loader, &error);
             float* dst = now.data();
             for (const char* level : {"int4", "int8"}) {
                 if (done == BITMILL_OK)
                     done = bitmill_model_loader_use_level(loader, level, nullptr, &error);
                 if (done == BITMILL_OK)
                     done = bitmill_model_loader_embed(loader, &texts, nullptr, dst, half, &error);
                 dst += half;
             }
             std::array<char, 8192> json{};
             if (done == BITMILL_OK)
                 done = bitmill_model_loader_json(loader, json.data(), json.size(), nullptr, &error);
             bitmill_model_loader_destroy(loader);
             return done;
         },
         [&](bool finished) -> std::string {
             if (!finished) return {};
             if (expected.empty()) expected = now;
             return now == expected ? "" : "other floats";
         }},
        own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
}

// Two models, a file of pairs and one of tasks, and the three ways to tell what was found.
void run_compare(models& m, bool every) {
    const std::string folder = m.path("encoder"), pairs = m.path("pairs"), tasks = m.path("tasks");
    put_file(pairs, R"({"query": "abc", "document": "a text of letters"})");
    put_file(tasks, R"({"query": "abc", "documents": ["a", "bc"], "relevant": [1]})");
    const char* const gates[] = {"recall@10.low>=-1.5%"};
    bitmill_compare_options options = BITMILL_COMPARE_OPTIONS_INIT;
    options.threads = 1;
    options.pairs = pairs.c_str();
    options.tasks = tasks.c_str();
    options.gates = gates;
    options.gates_count = 1;
    options.rounds = 1;
    options.bootstrap_rounds = 5;
    std::vector<char> text(1 << 16);
    run({"compare + json + table + html + metric",
         [&](bitmill_error& error) {
             bitmill_comparison* made = nullptr;
             auto done =
                 bitmill_compare_model_performance(folder.c_str(), folder.c_str(), &options, &made, &error);
             for (const auto tell :
                  {bitmill_comparison_json, bitmill_comparison_table, bitmill_comparison_html})
                 if (done == BITMILL_OK) done = tell(made, text.data(), text.size(), nullptr, &error);
             bitmill_metric metric = BITMILL_METRIC_INIT;
             if (done == BITMILL_OK) done = bitmill_comparison_metric(made, "map", &metric, &error);
             std::int32_t holds = 0;
             if (done == BITMILL_OK) done = bitmill_comparison_gate(made, gates[0], &holds, nullptr, &error);
             bitmill_comparison_destroy(made);
             return done;
         },
         [](bool) { return std::string(); }},
        failing_memory::source::heap, every);
}

// Levels, a decision, a manager of no models, a registry of two. What a level's own failure becomes, another level that
// serves, is the manager's test.
void run_manager(models& m, bool own_memory, bool every) {
    const std::string folder = m.path("encoder-int8"), root = m.path("registry");
    for (const char* name : {"/one", "/two"}) put_encoder(root + name);
    const bitmill_hooks hooks = hooks_of(own_memory);
    bitmill_model_options model = BITMILL_MODEL_OPTIONS_INIT;
    model.hooks = &hooks;
    bitmill_manager_options options = BITMILL_MANAGER_OPTIONS_INIT;
    options.model = &model;
    options.read_memory = [](void*, bitmill_system_memory* now) -> bitmill_status {
        now->total_bytes = now->available_bytes = std::uint64_t{1} << 34;
        return BITMILL_OK;
    };
    bitmill_registry_options registry_options = BITMILL_REGISTRY_OPTIONS_INIT;
    registry_options.hooks = &hooks;
    bitmill_policy_input input = BITMILL_POLICY_INPUT_INIT;
    input.total_bytes = 100;
    std::vector<char> text(1 << 16);
    run({std::string("levels + choose_level + create + status + calculate") +
             (own_memory ? ", the host's memory" : ""),
         [&](bitmill_error& error) {
             bitmill_found_levels* levels = nullptr;
             auto done = bitmill_find_levels(folder.c_str(), nullptr, &levels, &error);
             bitmill_found_levels_destroy(levels);
             bitmill_policy_decision decision = BITMILL_POLICY_DECISION_INIT;
             if (done == BITMILL_OK) done = bitmill_choose_level(&input, nullptr, &decision, &error);
             bitmill_manager* manager = nullptr;
             if (done == BITMILL_OK) done = bitmill_manager_create(&options, &manager, &error);
             for (const auto tell :
                  {bitmill_manager_status_json, bitmill_manager_memory_json, bitmill_manager_cache_json})
                 if (done == BITMILL_OK) done = tell(manager, text.data(), text.size(), nullptr, &error);
             bitmill_level_estimate estimate = BITMILL_LEVEL_ESTIMATE_INIT;
             if (done == BITMILL_OK)
                 done = bitmill_manager_calculate(manager, 1e8, nullptr, &estimate, &error);
             bitmill_manager_destroy(manager);
             return done;
         },
         [](bool) { return std::string(); }},
        own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
    run({std::string("open + list + set_active + active of a registry") +
             (own_memory ? ", the host's memory" : ""),
         [&](bitmill_error& error) {
             bitmill_registry* registry = nullptr;
             auto done = bitmill_registry_open(root.c_str(), &registry_options, &registry, &error);
             if (done == BITMILL_OK)
                 done = bitmill_registry_list_json(registry, text.data(), text.size(), nullptr, &error);
             if (done == BITMILL_OK)
                 done = bitmill_registry_set_active(registry, "roberta", 1, "int8", &error);
             if (done == BITMILL_OK)
                 done = bitmill_registry_active_json(registry, text.data(), text.size(), nullptr, &error);
             bitmill_registry_destroy(registry);
             return done;
         },
         [](bool) { return std::string(); }},
        own_memory ? failing_memory::source::hook : failing_memory::source::heap, every);
}

// Calls that fail anyway: the words of an error need memory, too.
void run_errors(models& m, bool every) {
    const auto none = [](bool) { return std::string(); };
    const auto heap = failing_memory::source::heap;
    run({"no such isa",
         [](bitmill_error& error) { return bitmill_set_isa("a name of more than 15 bytes", &error); }, none,
         BITMILL_INVALID_ARGUMENT},
        heap, every);
    const std::string nowhere = m.path("none");
    run({"no such model",
         [&](bitmill_error& error) { return bitmill_inspect(nowhere.c_str(), nullptr, nullptr, &error); },
         none, BITMILL_IO},
        heap, every);
    buffers b(BITMILL_SCHEME_INT4, BITMILL_PER_CHANNEL, 0, false, false);
    b.source[0] = b.source[1] = '\xff';
    run({"NaN", [&](bitmill_error& error) { return b.act(error); }, none, BITMILL_BAD_INPUT}, heap, every);

    auto tensors = small_tensors();
    for (char& c : tensors[1].bytes) c = '\xff';
    put_sharded_model(m.path("model/nan"), tensors);
    const std::string bad = m.path("model/nan"), out = m.path("out");
    for (const std::uint32_t threads : {1u, 3u}) {
        bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
        options.to = "int8";
        options.threads = threads;
        std::map<std::string, std::string> made;
        run({"mill NaN, threads " + std::to_string(threads),
             [&](bitmill_error& error) {
                 return bitmill_mill(bad.c_str(), out.c_str(), &options, nullptr, &error);
             },
             [&](bool) { return m.check_folder(false, "", made); }, BITMILL_BAD_INPUT},
            heap, every);
    }
    std::filesystem::remove_all(bad);
}

// What grows with a model comes from the host: tiles, scratch, the copies of side files.
void check_large_buffers(models& m) {
    put_file(m.path("large/model.safetensors"),
             safetensors_of({make_tensor("encoder.layer.0.query.weight", dtype::f32, {1024, 768}, 1),
                             make_tensor("encoder.layer.0.output.weight", dtype::f16, {8, 100000}, 2)}));
    put_file(m.path("large/config.json"), bert_config);
    put_file(m.path("large/tokenizer.json"), std::string(3 << 20, ' '));
    const bitmill_hooks hooks = hooks_of(true);
    constexpr long never = std::numeric_limits<long>::max();
    const auto check = [&](const std::string& what,
                           const std::function<bitmill_status(bitmill_error&)>& act) {
        where = what;
        bitmill_error error = BITMILL_ERROR_INIT;
        failing_memory::arm(failing_memory::source::hook, never, false);
        const auto done = act(error);
        failing_memory::disarm();
        if (done != BITMILL_OK) complain(error.message);
        // A block of a JSON text, a chunk of 4096 elements and a report of two tensors are less.
        table += what + ", largest blocks: the host's " + std::to_string(failing_memory::largest_lent()) +
                 ", others " + std::to_string(failing_memory::largest_block()) + "\n";
        if (failing_memory::largest_block() > 100 << 10) complain("a large block is not the host's");
        if (failing_memory::largest_lent() < 500 << 10) complain("the host's blocks are small");
    };
    for (const char* level : {"int8", "int4", "nf4", "fp16", "fp32"}) {
        bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
        options.to = level;
        options.threads = 2;
        options.hooks = &hooks;
        options.double_quant = std::strcmp(level, "nf4") == 0;
        check(std::string("large blocks of mill, ") + level, [&](bitmill_error& error) {
            return bitmill_mill(m.path("large").c_str(), m.path("milled").c_str(), &options, nullptr, &error);
        });
        bitmill_dequantize_options back = BITMILL_DEQUANTIZE_OPTIONS_INIT;
        back.threads = 2;
        back.hooks = &hooks;
        check(std::string("large blocks of dequantize, ") + level, [&](bitmill_error& error) {
            return bitmill_dequantize(m.path("milled").c_str(), m.path("back").c_str(), &back, nullptr,
                                      &error);
        });
        for (const char* made : {"milled", "back"}) std::filesystem::remove_all(m.path(made));
    }
    std::filesystem::remove_all(m.path("large"));
}

}  // namespace

int main(int argc, char** argv) {
    const char* all = std::getenv("BITMILL_TEST_ALL");
    const bool every =
        (all != nullptr && std::strcmp(all, "1") == 0) || (argc > 1 && std::strcmp(argv[1], "every") == 0);
    std::set_terminate([] {
        failing_memory::disarm();
        std::fprintf(stderr, "%s: std::terminate\n", where.c_str());
        std::_Exit(3);
    });
    run_buffers(every);
    models m;
    {
        bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
        options.to = "int8";
        if (bitmill_mill(m.path("model").c_str(), m.path("int8").c_str(), &options, nullptr, nullptr) !=
            BITMILL_OK)
            return 2;
    }
    check_large_buffers(m);
    run_errors(m, every);
    for (const mill_kind& kind : {mill_kind{"int4", "int4", 1, false, false, 150},
                                  {"nf4, the host's memory", "nf4", 1, true, false, 50},
                                  {"fp16 over int8", "fp16", 1, false, true, 100},
                                  {"int8 by 3 threads", "int8", 3, false, false, 50}})
        run_mill(m, kind, every);
    run_dequantize(m, false, every);
    run_dequantize(m, true, every);
    put_encoder(m.path("encoder"));
    {
        bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
        options.to = "int8";
        options.format = "bitmill";
        if (bitmill_mill(m.path("encoder").c_str(), m.path("encoder-int8").c_str(), &options, nullptr,
                         nullptr) != BITMILL_OK)
            return 2;
    }
    for (const char* level : {"original", "int8"})
        for (const bool own_memory : {false, true}) run_encoder(m, level, own_memory, every);
    put_file(m.path("encoder/tokenizer.json"), letter_tokenizer(16));
    run_text(m, every);
    put_file(m.path("encoder-int8/tokenizer.json"), letter_tokenizer(16));
    for (const bool own_memory : {false, true}) run_loader(m, own_memory, every);
    for (const bool own_memory : {false, true}) run_manager(m, own_memory, every);
    run_compare(m, every);
    std::printf("%s", table.c_str());
    return failures == 0 ? 0 : 1;
}
