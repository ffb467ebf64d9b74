// What a quantized encoder costs and saves beside its original: size, time, memory, how near its vectors are, and, on
// pairs and tasks that the caller gives, how well it still ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/eval/ranking.hpp>
#include <bitmill/model/encoder_model.hpp>

namespace bitmill {

struct compare_options {
    model_options original = {};
    model_options quantized = {};
    // Files of JSON lines. Pairs, for models that embed: {"query": "...", "document": "..."}; each query is to find its
    // document among all of the file. Tasks: {"query": "...", "documents": ["...", ...], "relevant": [0, 3]}, the numbers
    // of those that answer the query. Other keys are ignored. "": not measured. At most 64 MiB, 20 000 pairs, 100 000
    // tasks, 1000 documents a task and 100 000 different texts.
    std::string pairs = {};
    std::string tasks = {};
    // Conditions such as "recall@10.low>=-1.5%": a name of quality_gate_names() with a field, >=, <=, > or <, a number.
    std::vector<std::string> gates = {};
    std::size_t rounds = 5;  // of timing, 1 to 1000; the models take turns in each
    bootstrap_options bootstrap = {};
    // Called on the caller's thread; false cancels.
    std::function<bool(std::size_t done, std::size_t total)> on_progress = {};
};

struct compared_model {
    model_facts facts;
    std::uint64_t loaded_bytes =
        0;               // the process grew by when it was opened first; 0 where the system does not say
    double load_ms = 0;  // median over the rounds: model and tokenizer
    double latency_p50_ms = 0;  // of single texts (a reranker's: pairs)
    double latency_p95_ms = 0;
    double tokens_per_s = 0;  // of a batch of up to 64 texts, median over the rounds
    // Mean cosine of a query and its document. Says nothing about quality: it rises where coarse weights move all vectors
    // closer together. Never gated.
    double pair_cosine = 0;
};

struct ranking_metric {
    std::string name;  // recall@10, mrr@10 (pairs); ndcg@5, map, precision@5 (tasks)
    metric_difference value;
};

struct layer_difference {
    std::string layer;  // query, key and value share an input, which is named by the first
    double snr_db;  // of what the layer is given: original to difference; infinite where both are the same
};

struct gate_verdict {
    std::string text;
    double value = 0;
    bool passed = false;
};

struct comparison {
    compared_model original, quantized;
    bool reranker = false;
    std::size_t pairs = 0, tasks = 0;
    std::size_t texts = 0;  // different ones that both embedded; of a reranker, pairs of texts
    // Between both models' vectors of the same text.
    double cosine_mean = 0, cosine_min = 0;
    // Of a reranker: between both models' logits of the same pair.
    double logit_difference_mean = 0, logit_difference_max = 0;
    double overlap =
        0;  // share of the original's 10 best documents of a query that the quantized model has there, too
    std::vector<ranking_metric> metrics;  // of what was given
    std::vector<layer_difference>
        layers;                       // in the order they run; empty where the models have different layers
    std::vector<gate_verdict> gates;  // as in the options
    std::size_t bootstrap_rounds = 0;

    [[nodiscard]] bool passed() const;  // all gates
    // invalid_argument: no such name (lists them), not measured, no number; refused: a name that is reported only.
    [[nodiscard]] result<gate_verdict> check(const std::string& gate) const;

    // What JSON cannot say (infinity) is null there. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
    [[nodiscard]] std::string table() const;  // lines for a terminal
    // One page with plots, which needs nothing beside it: no script, no font, no image from elsewhere.
    [[nodiscard]] std::string html() const;
};

// "recall@10.low", "size.ratio" ...: what a gate may ask for. Ratios are quantized by original.
[[nodiscard]] std::vector<std::string> quality_gate_names();

// Queries of pairs and of a task are embedded with the model's prompt "query", documents with "document", "passage" or
// "corpus", where it has such prompts (as sentence-transformers' encode_query and encode_document). A model with one label
// is a reranker: its logits rank the documents of a task. Without pairs and tasks only speed, size and nearness are
// measured, on sentences of the library's own. Memory: both models, and a vector of each for every different text.
// Errors: those of text_encoder; bad_input for a line that is none of the above (names file, line and byte);
// invalid_argument for models that do not belong together, pairs for a reranker, gates; cancelled.
[[nodiscard]] result<comparison> compare_model_performance(const std::string& original,
                                                           const std::string& quantized,
                                                           const compare_options& = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/compare-inl.hpp>
#include <bitmill/detail/compare_html-inl.hpp>
#include <bitmill/detail/compare_report-inl.hpp>
#endif
