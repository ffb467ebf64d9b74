// Bodies of eval/compare.hpp: what is run, and what is counted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/core/thread_team.hpp>
#include <bitmill/detail/compare_gate-inl.hpp>
#include <bitmill/detail/compare_measure-inl.hpp>
#include <bitmill/detail/compare_set-inl.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/eval/compare.hpp>

namespace bitmill {
namespace detail {

// The vectors of a pool's texts, one after the other.
struct text_vectors {
    std::size_t size;
    std::vector<float> values = {};

    [[nodiscard]] std::span<const float> operator[](std::size_t number) const {
        return std::span(values).subspan(number * size, size);
    }
};

// The first of the names that the model has a prompt by; "" leaves it to the model's default.
[[nodiscard]] inline std::string prompt_named(const text_facts& facts,
                                              std::initializer_list<std::string_view> names) {
    for (const auto wanted : names)
        for (const auto& [name, text] : facts.prompts)
            if (name == wanted) return name;
    return {};
}

class comparer {
public:
    comparer(const std::string& original, const std::string& quantized, const compare_options& options)
        : options_(options), a_{original, options.original, out_.original},
          b_{quantized, options.quantized, out_.quantized} {}

    [[nodiscard]] result<comparison> run() {
        using step = result<void> (comparer::*)();
        const step steps[] = {&comparer::check_options, &comparer::read_set, &comparer::open,
                              &comparer::measure,       &comparer::time,     &comparer::observe};
        for (const step one : steps)
            if (auto done = (this->*one)(); !done) return done.error();
        for (const auto& gate : options_.gates) {
            auto verdict = out_.check(gate);
            if (!verdict) return verdict.error();
            out_.gates.push_back(std::move(*verdict));
        }
        return std::move(out_);
    }

private:
    static constexpr std::size_t texts_a_turn = 256, most_timed = 64, top = 10, top_tasks = 5;

    [[nodiscard]] static error refuse(std::string message) {
        return {.code = error_code::invalid_argument, .message = std::move(message)};
    }

    result<void> check_options() {
        if (options_.rounds == 0 || options_.rounds > 1000)
            return refuse("rounds is 1 to 1000, not " + std::to_string(options_.rounds));
        if (options_.bootstrap.rounds == 0 || options_.bootstrap.rounds > 1000000)
            return refuse("the bootstrap's rounds are 1 to 1000000, not " +
                          std::to_string(options_.bootstrap.rounds));
        for (const auto& gate : options_.gates)
            if (auto read = gate_from_text(gate); !read) return read.error();
        out_.bootstrap_rounds = options_.bootstrap.rounds;
        return {};
    }

    result<void> read_set() {
        auto set = evaluation_reader().read(options_.pairs, options_.tasks);
        if (!set) return set.error();
        set_ = std::move(*set);
        out_.pairs = set_.pairs.size();
        out_.tasks = set_.tasks.size();
        if (out_.pairs + out_.tasks == 0)
            for (const auto one : own_sentences()) set_.documents.add(std::string(one));
        return {};
    }

    // Memory is read while the process grows for the first time; only one copy of a model is ever there.
    result<void> open() {
        constexpr std::size_t most_loads = 3;
        for (std::size_t round = 0; round < std::min(options_.rounds, most_loads); ++round)
            for (compared_side* side : {&a_, &b_})
                if (auto done = side->open(); !done) return done;
        for (compared_side* side : {&a_, &b_}) side->out.load_ms = quantile_of(side->load_ms, 0.5);
        const auto &a = out_.original.facts, &b = out_.quantized.facts;
        if (a_.reranker() != b_.reranker() || a.embedding_size != b.embedding_size)
            return refuse("the models do not belong together: the original has vectors of " +
                          std::to_string(a.embedding_size) + " and " + std::to_string(a.labels) +
                          " labels, the other of " + std::to_string(b.embedding_size) + " and " +
                          std::to_string(b.labels));
        out_.reranker = a_.reranker();
        if (out_.reranker && out_.pairs != 0)
            return refuse("the models are rerankers, which give no vectors; leave the pairs out, give tasks");
        for (const auto& gate : options_.gates) {
            const auto asked = gate_from_text(gate);
            if (!asked) return asked.error();
            const auto missing = missing_for(*asked, out_.pairs != 0, out_.tasks != 0, out_.reranker);
            if (!missing.empty()) return refuse_gate(gate, missing);
        }
        for (const auto& task : set_.tasks) task_pairs_ += task.documents.size();
        total_ = 2 * (out_.reranker ? task_pairs_ : set_.queries.size() + set_.documents.size()) +
                 set_.pairs.size() + options_.rounds;
        return {};
    }

    result<void> advance(std::size_t by) {
        done_ += by;
        if (!options_.on_progress || options_.on_progress(done_, total_)) return {};
        return error{.code = error_code::cancelled, .message = "cancelled"};
    }

    result<void> measure() { return out_.reranker ? measure_logits() : measure_vectors(); }

    // What is no number has no place in a ranking: it would stand at the end, and look like a result.
    [[nodiscard]] static result<void> check_numbers(const compared_side& side, std::span<const float> values,
                                                    std::size_t width,
                                                    std::span<const std::string_view> texts) {
        if (all_finite(values)) return {};
        std::size_t first = 0;
        while (all_finite(values.subspan(first * width, width))) ++first;
        return error{.code = error_code::bad_input,
                     .message = "gives NaN or infinity for the text '" +
                                shortened(std::string(texts[first].substr(0, 60))) +
                                "', so that nothing can be said about its quality; mill it again",
                     .file = side.path};
    }

    // The models take turns, so that what happens to the machine happens to both.
    result<void> embed(const text_pool& pool, std::initializer_list<std::string_view> prompts,
                       text_vectors& a, text_vectors& b) {
        const auto texts = pool.all();
        for (text_vectors* one : {&a, &b}) one->values.resize(texts.size() * one->size);
        for (std::size_t first = 0; first < texts.size(); first += texts_a_turn) {
            const std::size_t count = std::min(texts_a_turn, texts.size() - first);
            for (const auto& [side, to] : {std::pair{&a_, &a}, std::pair{&b_, &b}}) {
                const text_options how{.prompt_name = prompt_named(side->model->facts(), prompts)};
                const auto dst = std::span(to->values).subspan(first * to->size, count * to->size);
                if (auto done = side->model->embed(texts.subspan(first, count), dst, how); !done) return done;
                if (auto sound = check_numbers(*side, dst, to->size, texts.subspan(first, count)); !sound)
                    return sound;
                if (auto done = advance(count); !done) return done;
            }
        }
        return {};
    }

    result<void> measure_vectors() {
        const std::size_t size = out_.original.facts.embedding_size;
        text_vectors queries[2] = {{size}, {size}}, documents[2] = {{size}, {size}};
        if (auto done = embed(set_.queries, {"query"}, queries[0], queries[1]); !done) return done;
        if (auto done = embed(set_.documents, {"document", "passage", "corpus"}, documents[0], documents[1]);
            !done)
            return done;
        const fp_environment environment;
        count_cosines(queries, documents);
        if (out_.pairs != 0)
            if (auto done = count_pairs(queries, documents); !done) return done;
        if (out_.tasks == 0) return {};
        count_tasks([&](std::size_t side, const evaluation_task& task, std::vector<double>& scores) {
            for (std::size_t i = 0; i < scores.size(); ++i)
                scores[i] = cosine_of(queries[side][task.query], documents[side][task.documents[i]]);
        });
        return {};
    }

    void count_cosines(const text_vectors (&queries)[2], const text_vectors (&documents)[2]) {
        out_.texts = set_.queries.size() + set_.documents.size();
        out_.cosine_min = 1;
        double sum = 0;
        for (const auto* both : {&queries, &documents})
            for (std::size_t i = 0; i < (*both)[0].values.size() / (*both)[0].size; ++i) {
                const double one = cosine_of((*both)[0][i], (*both)[1][i]);
                sum += one;
                out_.cosine_min = std::min(out_.cosine_min, one);
            }
        out_.cosine_mean = sum / static_cast<double>(out_.texts);
    }

    // Each query against all documents of the pairs, by cosine.
    [[nodiscard]] result<void> count_pairs(const text_vectors (&queries)[2],
                                           const text_vectors (&documents)[2]) {
        const std::size_t n = set_.pairs.size(), all = set_.pair_documents;
        std::vector<double> squares[2], recall[2], rank[2], cosine[2], overlap(n);
        for (std::size_t side = 0; side < 2; ++side) {
            for (auto* one : {&recall[side], &rank[side], &cosine[side]}) one->resize(n);
            for (std::size_t i = 0; i < all; ++i)
                squares[side].push_back(dot_of(documents[side][i], documents[side][i]));
        }
        thread_team team(options_.original.threads, options_.original.run);
        const auto rank_query = [&](std::size_t i) {
            const fp_environment environment;
            const std::size_t relevant[] = {set_.pairs[i].document};
            std::vector<std::size_t> found[2];
            for (std::size_t side = 0; side < 2; ++side) {
                const auto query = queries[side][set_.pairs[i].query];
                const double square = dot_of(query, query);
                std::vector<double> scores(all);
                for (std::size_t k = 0; k < all; ++k)
                    scores[k] = cosine_of(dot_of(query, documents[side][k]), square, squares[side][k]);
                found[side] = top_ranked(scores, top);
                recall[side][i] = recall_at(found[side], relevant, top);
                rank[side][i] = reciprocal_rank_at(found[side], relevant, top);
                cosine[side][i] = scores[relevant[0]];
            }
            overlap[i] = recall_at(found[1], found[0], top);
        };
        for (std::size_t first = 0; first < n; first += texts_a_turn) {
            const std::size_t count = std::min(texts_a_turn, n - first);
            team.run(count, [&](std::size_t i) { rank_query(first + i); });
            if (auto going = advance(count); !going) return going;
        }
        add_metric("recall@10", recall[0], recall[1]);
        add_metric("mrr@10", rank[0], rank[1]);
        out_.original.pair_cosine = mean_of(cosine[0]);
        out_.quantized.pair_cosine = mean_of(cosine[1]);
        out_.overlap = mean_of(overlap);
        return {};
    }

    [[nodiscard]] static double mean_of(const std::vector<double>& values) {
        double sum = 0;
        for (const double one : values) sum += one;
        return sum / static_cast<double>(values.size());
    }

    void add_metric(const char* name, const std::vector<double>& original,
                    const std::vector<double>& quantized) {
        out_.metrics.push_back({name, paired_difference(original, quantized, options_.bootstrap)});
    }

    // score(side, task, scores): one score for each document of the task.
    template <class Score>
    void count_tasks(const Score& score) {
        std::vector<double> gain[2], mean[2], precision[2];
        for (const auto& task : set_.tasks)
            for (std::size_t side = 0; side < 2; ++side) {
                std::vector<double> scores(task.documents.size());
                score(side, task, scores);
                const auto order = top_ranked(scores, scores.size());
                gain[side].push_back(ndcg_at(order, task.relevant, top_tasks));
                mean[side].push_back(average_precision(order, task.relevant));
                precision[side].push_back(precision_at(order, task.relevant, top_tasks));
            }
        add_metric("ndcg@5", gain[0], gain[1]);
        add_metric("map", mean[0], mean[1]);
        add_metric("precision@5", precision[0], precision[1]);
    }

    // Every document of every task with its query; without tasks, the first of our sentences with each.
    result<void> measure_logits() {
        std::vector<std::string_view> first, second;
        for (const auto& task : set_.tasks)
            for (const std::size_t document : task.documents) {
                first.push_back(set_.queries[task.query]);
                second.push_back(set_.documents[document]);
            }
        if (first.empty()) {
            second.assign(set_.documents.all().begin(), set_.documents.all().end());
            first.assign(second.size(), second.front());
        }
        std::vector<float> logits[2];
        for (auto& one : logits) one.resize(first.size());
        for (std::size_t at = 0; at < first.size(); at += texts_a_turn) {
            const std::size_t count = std::min(texts_a_turn, first.size() - at);
            for (std::size_t side = 0; side < 2; ++side) {
                const auto part = [&](const auto& all) { return std::span(all).subspan(at, count); };
                auto done = (side == 0 ? a_ : b_)
                                .model->pair_logits(part(first), part(second),
                                                    std::span(logits[side]).subspan(at, count));
                if (!done) return done;
                if (auto sound = check_numbers(side == 0 ? a_ : b_,
                                               std::span(logits[side]).subspan(at, count), 1, part(second));
                    !sound)
                    return sound;
                if (auto going = advance(task_pairs_ == 0 ? 0 : count); !going) return going;
            }
        }
        const fp_environment environment;
        count_logits(logits[0], logits[1]);
        if (out_.tasks == 0) return {};
        std::size_t next[2] = {0, 0};
        count_tasks([&](std::size_t side, const evaluation_task&, std::vector<double>& scores) {
            for (double& one : scores) one = logits[side][next[side]++];
        });
        return {};
    }

    void count_logits(const std::vector<float>& a, const std::vector<float>& b) {
        out_.texts = a.size();
        std::vector<double> differences(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) differences[i] = std::fabs(double{a[i]} - double{b[i]});
        out_.logit_difference_mean = mean_of(differences);
        out_.logit_difference_max = *std::max_element(differences.begin(), differences.end());
    }

    [[nodiscard]] timed_texts pick_texts() const {
        std::vector<std::string_view> all[2];
        const auto documents = set_.documents.all();
        if (!out_.reranker) {
            const auto queries = set_.queries.all();
            all[0].assign(queries.begin(), queries.end());
            all[0].insert(all[0].end(), documents.begin(), documents.end());
        }
        for (const auto& task : set_.tasks)
            if (out_.reranker && !task.documents.empty()) {
                all[0].push_back(set_.queries[task.query]);
                all[1].push_back(set_.documents[task.documents.front()]);
            }
        if (all[0].empty()) {
            all[1].assign(documents.begin(), documents.end());
            all[0].assign(all[1].size(), all[1].front());
        }
        timed_texts out;
        const std::size_t count = std::min(most_timed, all[0].size());
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t at = i * all[0].size() / count;
            out.first.push_back(all[0][at]);
            if (!all[1].empty()) out.second.push_back(all[1][at]);
        }
        return out;
    }

    result<void> time() {
        texts_ = pick_texts();
        for (std::size_t round = 0; round < options_.rounds; ++round) {
            for (std::size_t i = 0; i < texts_.first.size(); ++i)
                for (compared_side* side : {&a_, &b_})
                    if (auto done = texts_.time(*side, true, i); !done) return done;
            for (compared_side* side : {&a_, &b_})
                if (auto done = texts_.time(*side, false, 0); !done) return done;
            if (auto done = advance(1); !done) return done;
        }
        for (compared_side* side : {&a_, &b_}) {
            side->out.latency_p50_ms = quantile_of(side->latency_ms, 0.5);
            side->out.latency_p95_ms = quantile_of(side->latency_ms, 0.95);
            const auto tokens = static_cast<double>(texts_.tokens(*side));
            side->out.tokens_per_s = tokens / quantile_of(side->batch_ms, 0.5) * 1000;
        }
        return {};
    }

    result<void> observe() {
        auto layers = layer_observation().measure(a_, b_, texts_);
        if (!layers) return layers.error();
        out_.layers = std::move(*layers);
        return {};
    }

    const compare_options& options_;
    comparison out_;
    compared_side a_, b_;
    evaluation_set set_;
    timed_texts texts_;
    std::size_t task_pairs_ = 0, done_ = 0, total_ = 0;
};

}  // namespace detail

BITMILL_INLINE result<comparison> compare_model_performance(const std::string& original,
                                                            const std::string& quantized,
                                                            const compare_options& options) {
    return detail::guard(original, [&] { return detail::comparer(original, quantized, options).run(); });
}

}  // namespace bitmill
