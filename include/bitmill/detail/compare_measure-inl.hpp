// Two models side by side: opened, timed in turns, observed layer by layer.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/detail/cosine-inl.hpp>
#include <bitmill/eval/compare.hpp>
#include <bitmill/model/system_memory.hpp>
#include <bitmill/model/text_encoder.hpp>

namespace bitmill::detail {

// What this process has in memory now; 0 where the system does not say.
[[nodiscard]] inline std::uint64_t resident_bytes() {
    const auto now = read_system_memory();
    return now ? now->process_bytes : 0;
}

template <class Body>
[[nodiscard]] double milliseconds_of(const Body& body) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

// The smallest that is not below this share of the values; the nearest-rank quantile.
[[nodiscard]] inline double quantile_of(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::clamp<std::size_t>(rank, 1, values.size()) - 1];
}

// A model with what it is opened by and what was measured of it.
struct compared_side {
    const std::string& path;
    const model_options& options;
    compared_model& out;
    std::optional<text_encoder> model = std::nullopt;
    std::vector<double> load_ms = {}, latency_ms = {}, batch_ms = {};

    [[nodiscard]] result<void> open() {
        model.reset();
        const std::uint64_t before = resident_bytes();
        std::optional<error> failed;
        const double ms = milliseconds_of([&] {
            auto opened = text_encoder::open(path, options);
            if (!opened) failed = opened.error();
            if (opened) model.emplace(std::move(*opened));
        });
        if (failed) return *failed;
        const std::uint64_t after = resident_bytes();
        if (load_ms.empty()) out.loaded_bytes = after > before ? after - before : 0;
        load_ms.push_back(ms);
        out.facts = model->model().facts();
        return {};
    }
    [[nodiscard]] bool reranker() const { return out.facts.labels == 1; }

    // What the comparison runs: the vectors of texts, or the logits of pairs.
    [[nodiscard]] result<void> run(std::span<const std::string_view> texts,
                                   std::span<const std::string_view> second, std::span<float> dst,
                                   const text_options& how = {}) const {
        return reranker() ? model->pair_logits(texts, second, dst, how) : model->embed(texts, dst, how);
    }
    [[nodiscard]] std::size_t width() const { return reranker() ? 1 : out.facts.embedding_size; }
};

// A few of the texts, spread evenly; of a reranker with second texts.
struct timed_texts {
    std::vector<std::string_view> first, second;

    [[nodiscard]] std::size_t tokens(const compared_side& side) const {
        const tokenize_options lengths{.max_length = side.model->facts().max_length};
        std::size_t sum = 0;
        for (std::size_t i = 0; i < first.size(); ++i) {
            const auto& words = side.model->tokenizer();
            const auto encoded =
                second.empty() ? words.encode(first[i], lengths) : words.encode(first[i], second[i], lengths);
            if (encoded) sum += encoded->ids.size();
        }
        return sum;
    }
    // Each by itself, then all at once, both timed.
    [[nodiscard]] result<void> time(compared_side& side, bool alone, std::size_t number) const {
        const std::size_t width = side.width(), count = alone ? 1 : first.size();
        std::vector<float> dst(count * width);
        const auto part = [&](const auto& all) {
            return all.empty() ? std::span<const std::string_view>() : std::span(all).subspan(number, count);
        };
        result<void> done;
        const double ms = milliseconds_of([&] { done = side.run(part(first), part(second), dst); });
        (alone ? side.latency_ms : side.batch_ms).push_back(ms);
        return done;
    }
};

// The signal to noise of what each layer is given, text by text: the original's inputs are kept, the other's compared.
class layer_observation {
public:
    static constexpr std::size_t most_texts = 8, most_tokens = 64;

    [[nodiscard]] result<std::vector<layer_difference>> measure(compared_side& original,
                                                                compared_side& quantized,
                                                                const timed_texts& texts) {
        const auto &a = original.out.facts, &b = quantized.out.facts;
        if (a.layers != b.layers || a.hidden_size != b.hidden_size) return std::vector<layer_difference>();
        for (std::size_t i = 0; i < std::min(most_texts, texts.first.size()); ++i) {
            for (auto& one : layers_) one.inputs.clear();
            if (auto done = run(original, texts, i,
                                [&](layer& to, const float* x, std::size_t count) {
                                    to.inputs.insert(to.inputs.end(), x, x + count);
                                });
                !done)
                return done.error();
            for (auto& one : layers_) one.next = 0;
            if (auto done = run(quantized, texts, i,
                                [&](layer& to, const float* x, std::size_t count) { add(to, x, count); });
                !done)
                return done.error();
        }
        std::vector<layer_difference> out;
        for (const auto& one : layers_)
            if (one.signal != 0)  // 0: of a name that only one of them has
                out.push_back({one.name, one.noise == 0 ? std::numeric_limits<double>::infinity()
                                                        : 10 * std::log10(one.signal / one.noise)});
        return out;
    }

private:
    struct layer {
        std::string name;
        std::vector<float> inputs = {};  // the original's, of the text that runs
        std::size_t next = 0;
        double signal = 0, noise = 0;
    };

    static void add(layer& to, const float* x, std::size_t count) {
        const fp_environment environment;
        const std::size_t most = std::min(count, to.inputs.size() - to.next);
        for (std::size_t i = 0; i < most; ++i) {
            const double was = to.inputs[to.next + i], is = x[i];
            to.signal += was * was;
            to.noise += (was - is) * (was - is);
        }
        to.next += most;
    }

    template <class Take>
    result<void> run(compared_side& side, const timed_texts& texts, std::size_t number, const Take& take) {
        const float* last = nullptr;
        std::string last_name;
        side.model->observe([&](std::string_view name, const float* x, std::size_t rows, std::size_t cols) {
            // Query, key and value one after the other look at the same numbers.
            if (x == last && name != last_name) return;
            last = x;
            last_name = name;
            take(layer_of(name), x, rows * cols);
        });
        const text_options how{.max_length = std::min(most_tokens, side.model->facts().max_length)};
        std::vector<float> dst(side.width());
        const auto second = texts.second.empty() ? std::span<const std::string_view>()
                                                 : std::span(texts.second).subspan(number, 1);
        auto done = side.run(std::span(texts.first).subspan(number, 1), second, dst, how);
        side.model->observe(nullptr);
        return done;
    }

    layer& layer_of(std::string_view name) {
        for (auto& one : layers_)
            if (one.name == name) return one;
        return layers_.emplace_back(layer{std::string(name)});
    }

    std::vector<layer> layers_;
};

}  // namespace bitmill::detail
