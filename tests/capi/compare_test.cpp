// Comparisons through the C interface: the C++ library is the twin.
#include <cstring>
#include <string>
#include <vector>

#include <bitmill/eval/compare.hpp>

#include "host.hpp"

using namespace bitmill_test;

namespace {

// A comparison of the host's encoder with itself, on two pairs.
struct compared {
    host h;
    bitmill_comparison* own = nullptr;

    compared() {
        REQUIRE(bitmill_compare_model_performance(h.encoder.c_str(), h.encoder.c_str(), &h.compare_options,
                                                  &own, &h.error) == BITMILL_OK);
    }
    ~compared() { bitmill_comparison_destroy(own); }
    compared(const compared&) = delete;
    compared& operator=(const compared&) = delete;

    void refused(bitmill_status status, const std::string& says,
                 bitmill_status code = BITMILL_INVALID_ARGUMENT) const {
        CHECK(status == code);
        CAPTURE(h.error.message);
        CHECK(std::string(h.error.message).find(says) != std::string::npos);
    }
};

template <class Call>
std::string text_of(const compared& of, const Call& call) {
    std::size_t needed = 0;
    REQUIRE(call(of.own, nullptr, 0, &needed, nullptr) == BITMILL_OK);
    std::string out(needed, '#');
    REQUIRE(call(of.own, out.data(), out.size(), nullptr, nullptr) == BITMILL_OK);
    CHECK(call(of.own, out.data(), out.size() - 1, nullptr, nullptr) == BITMILL_INVALID_ARGUMENT);
    CHECK(out.back() == '\0');
    out.pop_back();
    return out;
}

}  // namespace

TEST_CASE("comparing: metrics, gates and texts are the C++ library's") {
    // EXACT
    compared c;
    bitmill::compare_options options;
    options.pairs = c.h.pairs;
    options.rounds = 1;
    const auto truth = bitmill::compare_model_performance(c.h.encoder, c.h.encoder, options).value();
    bitmill_metric metric = BITMILL_METRIC_INIT;
    for (const auto& [name, value] : truth.metrics) {
        CHECK(bitmill_comparison_metric(c.own, name.c_str(), &metric, nullptr) == BITMILL_OK);
        CHECK(metric.original == value.original);
        CHECK(metric.quantized == value.quantized);
        CHECK(metric.n == value.n);
        CHECK(metric.n == 2);
    }
    CHECK(truth.metrics.size() == 2);
    CHECK(text_of(c, bitmill_comparison_json).find("\"recall@10\"") != std::string::npos);
    CHECK(text_of(c, bitmill_comparison_table).find("recall@10") != std::string::npos);
    CHECK(text_of(c, bitmill_comparison_html).find("</html>") != std::string::npos);
    std::int32_t holds = 0;
    double value = 7;
    CHECK(bitmill_comparison_gate(c.own, "recall@10.low>=-1.5%", &holds, &value, nullptr) == BITMILL_OK);
    CHECK(holds == 1);
    CHECK(value == 0);
    CHECK(bitmill_comparison_gate(c.own, "size.ratio<100%", &holds, nullptr, nullptr) == BITMILL_OK);
    CHECK(holds == 0);
}

TEST_CASE("comparing: what is wrong is said, and nothing is left behind") {
    compared c;
    host& h = c.h;
    bitmill_error* const e = &h.error;
    bitmill_metric metric = BITMILL_METRIC_INIT;
    metric.original = 7;
    c.refused(bitmill_comparison_metric(c.own, "map", &metric, e), "no metric 'map'");
    CHECK(metric.original == 0);
    c.refused(bitmill_comparison_metric(c.own, nullptr, &metric, e), "name is NULL");
    c.refused(bitmill_comparison_metric(nullptr, "map", &metric, e), "comparison is NULL");
    c.refused(bitmill_comparison_metric(c.own, "map", nullptr, e), "bitmill_metric is NULL");
    std::int32_t holds = 7;
    double value = 7;
    c.refused(bitmill_comparison_gate(c.own, "map.low>=0", &holds, &value, e), "needs tasks");
    CHECK(holds == 0);
    CHECK(value == 0);
    c.refused(bitmill_comparison_gate(c.own, "pair_cosine.original>0", &holds, nullptr, e), "rises",
              BITMILL_REFUSED);
    c.refused(bitmill_comparison_gate(c.own, nullptr, &holds, nullptr, e), "gate is NULL");
    c.refused(bitmill_comparison_gate(c.own, "size.ratio<1", nullptr, nullptr, e), "holds is NULL");
    c.refused(bitmill_comparison_json(nullptr, nullptr, 0, nullptr, e), "comparison is NULL");
    bitmill_comparison_destroy(nullptr);
    const char* const path = h.encoder.c_str();
    c.refused(bitmill_compare_model_performance(path, path, nullptr, nullptr, e), "comparison is NULL");
    bitmill_comparison* made = c.own;
    c.refused(bitmill_compare_model_performance(nullptr, path, nullptr, &made, e), "original is NULL");
    CHECK(made == nullptr);
    c.refused(bitmill_compare_model_performance(path, nullptr, nullptr, &made, e), "quantized is NULL");
    c.refused(bitmill_compare_model_performance(path, h.reranker.c_str(), nullptr, &made, e),
              "belong together");

    const char* gates[] = {"nonsense"};
    h.compare_options.gates = gates;
    h.compare_options.gates_count = 1;
    c.refused(h.compare(), "gate 'nonsense'");
    gates[0] = nullptr;
    c.refused(h.compare(), "gates holds a NULL");
    h.compare_options.gates = nullptr;
    c.refused(h.compare(), "gates is NULL");
    h.compare_options.gates_count = 0;
    h.compare_options.activation = "static";
    c.refused(h.compare(), "static");
    h.compare_options.activation = nullptr;
    h.compare_options.level = "int8";
    c.refused(h.compare(), "int8");
    h.compare_options.level = nullptr;
    h.hooks.progress = [](void*, std::uint64_t, std::uint64_t) -> std::int32_t { return 1; };
    CHECK(h.compare() == BITMILL_CANCELLED);
}
