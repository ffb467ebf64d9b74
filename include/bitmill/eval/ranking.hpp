// How well a ranking finds what is relevant, and whether two systems differ in it. Relevance is binary: a document is
// relevant or not. The same bits on every CPU: sums in doubles in a fixed order, logarithms of our own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <bitmill/core/config.hpp>

namespace bitmill {

// The numbers of the k highest scores (all, where there are fewer), best first; equal ones in their order, NaN last.
[[nodiscard]] std::vector<std::size_t> top_ranked(std::span<const double> scores, std::size_t k);

// Of one query. `ranking`: documents, best first, at least k of them or all that there are. `relevant`: the numbers of
// the relevant documents, each once. All are 0 to 1, and 0 where nothing is relevant or k is 0.

// The share of the relevant documents that is among the first k.
[[nodiscard]] double recall_at(std::span<const std::size_t> ranking, std::span<const std::size_t> relevant,
                               std::size_t k);
// Relevant ones among the first k, by k also where there are fewer documents (as trec_eval has it).
[[nodiscard]] double precision_at(std::span<const std::size_t> ranking, std::span<const std::size_t> relevant,
                                  std::size_t k);
// 1 by the place of the first relevant document, 0 where it is behind place k. Its mean over queries is MRR@k.
[[nodiscard]] double reciprocal_rank_at(std::span<const std::size_t> ranking,
                                        std::span<const std::size_t> relevant, std::size_t k);
// Discounted gain by that of the best order (Jarvelin and Kekalainen 2002): 1 / log2(place + 1) for each relevant
// document of the first k. Of binary relevance, gains of 2^relevance - 1 are the same.
[[nodiscard]] double ndcg_at(std::span<const std::size_t> ranking, std::span<const std::size_t> relevant,
                             std::size_t k);
// The mean, over the relevant documents, of the precision at their places. `ranking` holds all documents. Its mean over
// queries is MAP.
[[nodiscard]] double average_precision(std::span<const std::size_t> ranking,
                                       std::span<const std::size_t> relevant);

// How the mean of a metric changes from an original to what was quantized.
struct metric_difference {
    double original = 0;   // mean over the queries
    double quantized = 0;  // mean over the queries
    // (quantized - original) / original; 0 where both are 0, infinite where only the original is.
    double relative = 0;
    double low = 0, high = 0;  // 95 % of the bootstrap's relative differences lie between them
    std::size_t n = 0;         // queries
};

struct bootstrap_options {
    std::size_t rounds = 10000;
    std::uint64_t seed = 1;
};

// Paired bootstrap over queries (Efron 1979; for search, Sakai 2006), by percentiles: each round draws n queries with
// replacement and compares both systems on the same ones. Random numbers are Philox's (Salmon et al. 2011), of (seed,
// round, draw) alone. Both spans have one value a query and the same size; of none all is 0.
[[nodiscard]] metric_difference paired_difference(std::span<const double> original,
                                                  std::span<const double> quantized,
                                                  const bootstrap_options& = {});

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/ranking-inl.hpp>
#endif
