// A Transformer encoder in doubles, written from the papers' formulas: one sequence at a time, no shortcuts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace bitmill_test {

using reals = std::vector<double>;

struct reference_linear {
    std::size_t out = 0;
    std::size_t in = 0;
    reals weight;  // [out, in]
    reals bias;

    [[nodiscard]] reals operator()(const reals& x) const {
        const std::size_t rows = x.size() / in;
        reals y(rows * out);
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t o = 0; o < out; ++o) {
                double sum = bias[o];
                for (std::size_t i = 0; i < in; ++i) sum += x[r * in + i] * weight[o * in + i];
                y[r * out + o] = sum;
            }
        return y;
    }
};

struct reference_norm {
    reals weight;
    reals bias;
    double epsilon = 1e-12;

    [[nodiscard]] reals operator()(reals x) const {
        const std::size_t cols = weight.size();
        for (std::size_t at = 0; at < x.size(); at += cols) {
            double mean = 0, variance = 0;
            for (std::size_t i = 0; i < cols; ++i) mean += x[at + i] / static_cast<double>(cols);
            for (std::size_t i = 0; i < cols; ++i)
                variance += (x[at + i] - mean) * (x[at + i] - mean) / static_cast<double>(cols);
            for (std::size_t i = 0; i < cols; ++i)
                x[at + i] = (x[at + i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
        }
        return x;
    }
};

inline double reference_activation(const std::string& name, double x) {
    if (name == "relu") return std::max(x, 0.0);
    if (name == "tanh") return std::tanh(x);
    if (name == "gelu") return x * (1 + std::erf(x / std::sqrt(2.0))) / 2;
    return x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))) / 2;
}

inline reals plus(reals a, const reals& b) {
    std::transform(a.begin(), a.end(), b.begin(), a.begin(), std::plus<>());
    return a;
}

inline reals activated(const std::string& name, reals x) {
    for (double& one : x) one = reference_activation(name, one);
    return x;
}

// softmax(q k^T / sqrt(width)) v, head by head; rows are tokens.
inline reals reference_attention(const reals& q, const reals& k, const reals& v, std::size_t hidden,
                                 std::size_t heads) {
    const std::size_t tokens = q.size() / hidden, width = hidden / heads;
    reals out(q.size());
    for (std::size_t head = 0; head < heads; ++head)
        for (std::size_t i = 0; i < tokens; ++i) {
            reals score(tokens);
            for (std::size_t j = 0; j < tokens; ++j)
                for (std::size_t c = head * width; c < (head + 1) * width; ++c)
                    score[j] += q[i * hidden + c] * k[j * hidden + c] / std::sqrt(static_cast<double>(width));
            const double most = *std::max_element(score.begin(), score.end());
            double sum = 0;
            for (double& one : score) sum += one = std::exp(one - most);
            for (std::size_t j = 0; j < tokens; ++j)
                for (std::size_t c = head * width; c < (head + 1) * width; ++c)
                    out[i * hidden + c] += score[j] / sum * v[j * hidden + c];
        }
    return out;
}

struct reference_layer {
    reference_linear query, key, value, attention_output, intermediate, output;
    reference_norm attention_norm, output_norm;

    [[nodiscard]] reals operator()(const reals& x, std::size_t heads, const std::string& activation) const {
        const reals attended = reference_attention(query(x), key(x), value(x), query.out, heads);
        const reals middle = attention_norm(plus(attention_output(attended), x));
        return output_norm(plus(output(activated(activation, intermediate(middle))), middle));
    }
};

// The largest difference, as a share of the largest value.
template <class Values>
double difference(const Values& values, const reals& truth) {
    double most = 0, scale = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
        most = std::max(most, std::fabs(static_cast<double>(values[i]) - truth[i]));
        scale = std::max(scale, std::fabs(truth[i]));
    }
    return most / scale;
}

template <class Values>
double snr_db(const Values& values, const reals& truth) {
    double noise = 0, signal = 0;
    for (std::size_t i = 0; i < truth.size(); ++i) {
        const double d = static_cast<double>(values[i]) - truth[i];
        noise += d * d;
        signal += truth[i] * truth[i];
    }
    return 10 * std::log10(signal / noise);
}

}  // namespace bitmill_test
