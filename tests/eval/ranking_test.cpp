// Metrics of rankings against values worked out by hand; the bootstrap against what the theory says of it.
// tests/parity/test_compare.py computes the same with numpy.
#include <bitmill/eval/ranking.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/detail/ranking_numbers-inl.hpp>

#include <random.hpp>

using namespace bitmill;
using numbers = std::vector<std::size_t>;
using values = std::vector<double>;

TEST_CASE("the best scores first, equal ones in their order, NaN last") {
    // EXACT
    const double nan = std::nan("");
    const values scores{0.5, nan, 0.9, 0.5, -1, 0.9};
    CHECK(top_ranked(scores, 6) == numbers{2, 5, 0, 3, 4, 1});
    CHECK(top_ranked(scores, 3) == numbers{2, 5, 0});
    CHECK(top_ranked(scores, 99) == top_ranked(scores, 6));
    CHECK(top_ranked(scores, 0).empty());
    CHECK(top_ranked({}, 3).empty());
    CHECK(top_ranked(values{nan, nan}, 2) == numbers{0, 1});
    CHECK(top_ranked(values{0.0, -0.0}, 2) == numbers{0, 1});
}

TEST_CASE("metrics by hand") {
    // SHARE(1e-15): of logarithms
    const numbers ranking{4, 1, 0, 3, 2, 5}, relevant{1, 3, 5};
    CHECK(recall_at(ranking, relevant, 1) == 0);
    CHECK(recall_at(ranking, relevant, 2) == 1.0 / 3);
    CHECK(recall_at(ranking, relevant, 6) == 1);
    CHECK(precision_at(ranking, relevant, 5) == 2.0 / 5);
    CHECK(reciprocal_rank_at(ranking, relevant, 10) == 0.5);
    CHECK(reciprocal_rank_at(ranking, relevant, 1) == 0);
    CHECK(average_precision(ranking, relevant) == (1.0 / 2 + 2.0 / 4 + 3.0 / 6) / 3);
    // Places 2 and 4 of five; at best 1, 2 and 3.
    const double gain = 1 / std::log2(3) + 1 / std::log2(5), best = 1 + 1 / std::log2(3) + 0.5;
    CHECK(std::fabs(ndcg_at(ranking, relevant, 5) - gain / best) < 1e-15);
    CHECK(ndcg_at(numbers{3, 5, 1, 0}, relevant, 5) == 1);
    // The order in which the relevant ones are named changes nothing.
    CHECK(ndcg_at(ranking, numbers{5, 1, 3}, 5) == ndcg_at(ranking, relevant, 5));
}

TEST_CASE("k larger than the documents; nothing relevant; nothing found") {
    const numbers ranking{1, 0}, one{0}, none;
    CHECK(recall_at(ranking, one, 10) == 1);
    CHECK(precision_at(ranking, one, 10) == 0.1);
    CHECK(reciprocal_rank_at(ranking, one, 10) == 0.5);
    CHECK(ndcg_at(ranking, one, 10) == 1 / std::log2(3));
    CHECK(average_precision(ranking, one) == 0.5);
    for (const auto& relevant : {none, numbers{7}}) {
        CHECK(recall_at(ranking, relevant, 10) == 0);
        CHECK(precision_at(ranking, relevant, 10) == 0);
        CHECK(reciprocal_rank_at(ranking, relevant, 10) == 0);
        CHECK(ndcg_at(ranking, relevant, 10) == 0);
        CHECK(average_precision(ranking, relevant) == 0);
    }
    CHECK(precision_at(ranking, one, 0) == 0);
    CHECK(ndcg_at(ranking, one, 0) == 0);
    CHECK(ndcg_at(none, one, 5) == 0);
    // A list that ends early is not ideal: the second relevant document is missing.
    CHECK(std::fabs(ndcg_at(numbers{0}, numbers{0, 1}, 5) - 1 / (1 + 1 / std::log2(3))) < 1e-15);
}

TEST_CASE("logarithms of our own") {
    // ULP(2)
    for (const std::size_t n : {1u, 2u, 3u, 5u, 6u, 7u, 11u, 1000u, 65535u, 65536u}) {
        const double truth = std::log2(static_cast<double>(n));
        CHECK(std::fabs(detail::log2_of(n) - truth) <= 2 * std::numeric_limits<double>::epsilon() * truth);
    }
    CHECK(detail::log2_of(65536) == 16);
}

TEST_CASE("Philox as Random123 has it") {
    // EXACT: kat_vectors of Random123, philox2x32 of 10 rounds, the first word
    CHECK(detail::philox(0, 0) == 0xff1dae59);
    CHECK(detail::philox(~std::uint64_t{0}, 0xffffffff) == 0x2c3f628b);
    CHECK(detail::philox(0x85a308d3243f6a88, 0x13198a2e) == 0xdd7ce038);
}

TEST_CASE("paired differences: means, no change, the same bits again") {
    // EXACT
    const values was{1, 0, 1, 1}, is{1, 0, 0, 1};
    const auto out = paired_difference(was, is);
    CHECK(out.original == 0.75);
    CHECK(out.quantized == 0.5);
    CHECK(out.relative == -0.25 / 0.75);
    CHECK(out.n == 4);
    CHECK(out.low <= out.relative);
    CHECK(out.high == 0);  // a round of four draws misses the third query with a share of 0.32
    const auto again = paired_difference(was, is);
    CHECK(again.low == out.low);
    CHECK(again.high == out.high);
    const auto same = paired_difference(was, was);
    CHECK(same.relative == 0);
    CHECK(same.low == 0);
    CHECK(same.high == 0);
    CHECK(paired_difference({}, {}).n == 0);
    const auto from_nothing = paired_difference(values{0, 0}, values{1, 0});
    CHECK(from_nothing.relative == std::numeric_limits<double>::infinity());
    CHECK(paired_difference(values{0, 0}, values{0, 0}).relative == 0);
    // Of one round both ends are that round.
    const auto one = paired_difference(was, is, {.rounds = 1});
    CHECK(one.low == one.high);
}

TEST_CASE("another seed draws other queries; the ends are those of the same distribution") {
    // SHARE(0.1): of the interval's width
    test::random rng(7);
    values was, is;
    for (int i = 0; i < 200; ++i) {
        was.push_back(1 + 0.3 * double{rng.normal()});
        is.push_back(was.back() + 0.1 * double{rng.normal()});
    }
    const auto a = paired_difference(was, is), b = paired_difference(was, is, {.seed = 2});
    const double width = a.high - a.low;
    CHECK(a.low != b.low);
    CHECK(std::fabs(a.low - b.low) < 0.1 * width);
    CHECK(std::fabs(a.high - b.high) < 0.1 * width);
    // As large as the theory says: 2 * 1.96 standard errors of a mean of 200 differences of size 0.1, by a mean of 1.
    CHECK(std::fabs(width / (2 * 1.96 * 0.1 / std::sqrt(200.0)) - 1) < 0.15);
}

TEST_CASE("of a hundred samples about ninety-five intervals hold the truth") {
    // The truth is -2 %. Binomial(100, 0.95) is below 87 in one of 2500 cases, and these samples never change.
    test::random rng(11);
    int held = 0;
    for (int sample = 0; sample < 100; ++sample) {
        values was, is;
        for (int i = 0; i < 150; ++i) {
            was.push_back(1 + 0.2 * double{rng.normal()});
            is.push_back(was.back() - 0.02 + 0.1 * double{rng.normal()});
        }
        const auto out = paired_difference(was, is, {.rounds = 1000});
        held += out.low <= -0.02 && -0.02 <= out.high ? 1 : 0;
    }
    CHECK(held >= 87);
    CHECK(held < 100);  // an interval that always holds it is too wide
}
