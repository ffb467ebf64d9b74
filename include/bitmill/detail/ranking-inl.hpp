// Bodies of eval/ranking.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/detail/ranking_numbers-inl.hpp>
#include <bitmill/eval/ranking.hpp>

namespace bitmill {
namespace detail {

[[nodiscard]] inline double relative_difference(double original, double quantized) {
    if (original == quantized) return 0;
    if (original == 0)
        return quantized > 0 ? std::numeric_limits<double>::infinity()
                             : -std::numeric_limits<double>::infinity();
    return (quantized - original) / original;
}

// Whether each document of the ranking's first k is relevant.
class relevant_set {
public:
    explicit relevant_set(std::span<const std::size_t> relevant) : sorted_(relevant.begin(), relevant.end()) {
        std::sort(sorted_.begin(), sorted_.end());
    }
    [[nodiscard]] bool has(std::size_t document) const {
        return std::binary_search(sorted_.begin(), sorted_.end(), document);
    }
    [[nodiscard]] std::size_t found(std::span<const std::size_t> ranking, std::size_t k) const {
        const auto first = ranking.first(std::min(k, ranking.size()));
        return static_cast<std::size_t>(
            std::count_if(first.begin(), first.end(), [&](std::size_t one) { return has(one); }));
    }

private:
    std::vector<std::size_t> sorted_;
};

}  // namespace detail

BITMILL_INLINE std::vector<std::size_t> top_ranked(std::span<const double> scores, std::size_t k) {
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(k, order.size()));
    std::partial_sort(order.begin(), end, order.end(), [&](std::size_t a, std::size_t b) {
        const bool no_a = std::isnan(scores[a]), no_b = std::isnan(scores[b]);
        if (no_a != no_b) return no_b;
        if (!no_a && scores[a] != scores[b]) return scores[a] > scores[b];
        return a < b;
    });
    order.erase(end, order.end());
    return order;
}

BITMILL_INLINE double recall_at(std::span<const std::size_t> ranking, std::span<const std::size_t> relevant,
                                std::size_t k) {
    if (relevant.empty()) return 0;
    const detail::relevant_set set(relevant);
    return static_cast<double>(set.found(ranking, k)) / static_cast<double>(relevant.size());
}

BITMILL_INLINE double precision_at(std::span<const std::size_t> ranking,
                                   std::span<const std::size_t> relevant, std::size_t k) {
    if (k == 0) return 0;
    return static_cast<double>(detail::relevant_set(relevant).found(ranking, k)) / static_cast<double>(k);
}

BITMILL_INLINE double reciprocal_rank_at(std::span<const std::size_t> ranking,
                                         std::span<const std::size_t> relevant, std::size_t k) {
    const detail::relevant_set set(relevant);
    for (std::size_t i = 0; i < std::min(k, ranking.size()); ++i)
        if (set.has(ranking[i])) return 1 / static_cast<double>(i + 1);
    return 0;
}

BITMILL_INLINE double ndcg_at(std::span<const std::size_t> ranking, std::span<const std::size_t> relevant,
                              std::size_t k) {
    const fp_environment environment;
    const detail::relevant_set set(relevant);
    double gain = 0, best = 0;
    for (std::size_t i = 0; i < std::min(k, std::max(ranking.size(), relevant.size())); ++i) {
        const double discounted = 1 / detail::log2_of(i + 2);
        if (i < ranking.size() && set.has(ranking[i])) gain += discounted;
        if (i < relevant.size()) best += discounted;
    }
    return best == 0 ? 0 : gain / best;
}

BITMILL_INLINE double average_precision(std::span<const std::size_t> ranking,
                                        std::span<const std::size_t> relevant) {
    if (relevant.empty()) return 0;
    const fp_environment environment;
    const detail::relevant_set set(relevant);
    double sum = 0, found = 0;
    for (std::size_t i = 0; i < ranking.size(); ++i)
        if (set.has(ranking[i])) sum += ++found / static_cast<double>(i + 1);
    return sum / static_cast<double>(relevant.size());
}

BITMILL_INLINE metric_difference paired_difference(std::span<const double> original,
                                                   std::span<const double> quantized,
                                                   const bootstrap_options& options) {
    const fp_environment environment;
    metric_difference out;
    out.n = std::min(original.size(), quantized.size());
    if (out.n == 0) return out;
    original = original.first(out.n);
    quantized = quantized.first(out.n);
    const auto n = static_cast<double>(out.n);
    out.original = std::accumulate(original.begin(), original.end(), 0.0) / n;
    out.quantized = std::accumulate(quantized.begin(), quantized.end(), 0.0) / n;
    out.relative = detail::relative_difference(out.original, out.quantized);
    std::vector<double> differences(std::max<std::size_t>(options.rounds, 1));
    for (std::size_t round = 0; round < differences.size(); ++round) {
        double before = 0, after = 0;
        for (std::size_t draw = 0; draw < out.n; ++draw) {
            const std::uint64_t random = detail::philox(std::uint64_t{round} << 32 | draw, options.seed);
            const auto query = static_cast<std::size_t>(random * out.n >> 32);
            before += original[query];
            after += quantized[query];
        }
        differences[round] = detail::relative_difference(before, after);
    }
    std::sort(differences.begin(), differences.end());
    const std::size_t outside = differences.size() / 40;  // 2.5 % on each side
    out.low = differences[outside];
    out.high = differences[differences.size() - 1 - outside];
    return out;
}

}  // namespace bitmill
