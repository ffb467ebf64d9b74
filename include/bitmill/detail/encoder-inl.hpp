#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory_resource>

#include <bitmill/core/fp_environment.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/nn/encoder.hpp>

namespace bitmill {
namespace detail {

// Tokens whose activations are in memory at once: of a base model 30 MB.
inline constexpr std::size_t tokens_at_once = 2048;
// Tokens whose feed-forward is in memory at once: so few that it does not leave the caches before it is read again.
inline constexpr std::size_t inner_tokens = 192;

// Whole sequences of a batch: together at most tokens_at_once, or one that is longer.
struct sequence_run {
    std::size_t first = 0;
    std::size_t count = 0;
    std::size_t first_token = 0;
    std::size_t tokens = 0;
};

inline std::vector<sequence_run> cut_sequences(std::span<const std::uint32_t> lengths) {
    std::vector<sequence_run> runs;
    std::size_t token = 0;
    for (std::size_t i = 0; i < lengths.size(); token += lengths[i], ++i) {
        if (runs.empty() || runs.back().tokens + lengths[i] > tokens_at_once)
            runs.push_back({i, 0, token, 0});
        ++runs.back().count;
        runs.back().tokens += lengths[i];
    }
    return runs;
}

// Rows of floats that are written before they are read.
class row_buffer {
public:
    row_buffer(std::size_t rows, std::size_t cols, memory_source memory)
        : memory_(memory_or_default(memory)), bytes_(rows * cols * sizeof(float)),
          data_(static_cast<float*>(memory_->allocate(bytes_, alignment))) {}
    row_buffer(const row_buffer&) = delete;
    row_buffer& operator=(const row_buffer&) = delete;
    ~row_buffer() { memory_->deallocate(data_, bytes_, alignment); }

    [[nodiscard]] float* data() const noexcept { return data_; }

private:
    memory_source memory_;
    std::size_t bytes_;
    float* data_;
    static constexpr std::size_t alignment = 16;  // the most that a host's memory promises
};

struct projection {
    const linear* layer;
    const std::string& name;
    float* dst;
    std::size_t dst_stride;
    linear_options options = {};
};

// Layers that share an input: it is quantized once.
inline void run_projections(const float* x, std::size_t rows, std::initializer_list<projection> layers,
                            thread_team& team, const encoder_options& options, quantized_rows& codes) {
    bool coded = false;
    for (const projection& one : layers) {
        const linear& layer = *one.layer;
        if (options.observe) options.observe(one.name, x, rows, layer.in());
        if (options.dynamic_int8 && layer.integer()) {
            if (!coded) codes.assign(x, rows, layer.in(), layer.in(), team);
            coded = true;
            layer.run(codes, one.dst, one.dst_stride, team, one.options);
        } else {
            layer.run(x, rows, layer.in(), one.dst, one.dst_stride, team, one.options);
        }
    }
}

// One run of sequences through all layers.
class encoder_pass {
public:
    encoder_pass(const encoder_config& config, std::span<const encoder_layer> layers, std::size_t tokens,
                 thread_team& team, const encoder_options& options, memory_source memory)
        : config_(config), layers_(layers), team_(team), options_(options), hidden_(config.hidden_size),
          projected_(tokens, 3 * hidden_, memory), attended_(tokens, hidden_, memory),
          inner_(std::min(tokens, inner_tokens), widest(layers), memory), codes_(memory) {}

    void run(float* x, std::span<const std::uint32_t> lengths) {
        x_ = x;
        cut_attention(lengths);
        for (const encoder_layer& layer : layers_) {
            attention(layer);
            feed_forward(layer);
        }
    }

private:
    // Queries of one head of one sequence that are a task; more of them share one look at its keys.
    static constexpr std::size_t query_rows = 6 * kernels::attention_queries;
    static constexpr std::size_t norm_rows = 32;

    struct attention_piece {
        std::size_t token;  // the sequence's first
        std::size_t length;
        std::size_t head;
        std::size_t row_begin;
        std::size_t row_end;
    };

    static std::size_t widest(std::span<const encoder_layer> layers) {
        std::size_t width = 0;
        for (const auto& layer : layers) width = std::max(width, layer.intermediate.out());
        return width;
    }

    void cut_attention(std::span<const std::uint32_t> lengths) {
        pieces_.clear();
        std::size_t token = 0;
        for (const std::size_t length : lengths) {
            for (std::size_t head = 0; head < config_.heads; ++head)
                for (std::size_t row = 0; row < length; row += query_rows)
                    pieces_.push_back({token, length, head, row, std::min(row + query_rows, length)});
            token += length;
        }
        tokens_ = token;
    }

    void run(const float* x, std::size_t rows, std::initializer_list<projection> layers) {
        run_projections(x, rows, layers, team_, options_, codes_);
    }

    void attention(const encoder_layer& layer) {
        float* const q = projected_.data();
        run(x_, tokens_,
            {{&layer.query, layer.names.query, q, 3 * hidden_},
             {&layer.key, layer.names.key, q + hidden_, 3 * hidden_},
             {&layer.value, layer.names.value, q + 2 * hidden_, 3 * hidden_}});
        const auto& table = kernels::active().layers;
        const std::size_t width = hidden_ / config_.heads;
        const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
        team_.run(pieces_.size(), [&](std::size_t index) {
            const fp_environment environment;
            const attention_piece& piece = pieces_[index];
            const float* head = q + piece.token * 3 * hidden_ + piece.head * width;
            float* dst = attended_.data() + piece.token * hidden_ + piece.head * width;
            std::byte* scratch = thread_team::scratch(kernels::attention_scratch_bytes(piece.length, width));
            table.attend(head, head + hidden_, head + 2 * hidden_, piece.length, width, 3 * hidden_, scale,
                         piece.row_begin, piece.row_end, dst, hidden_, scratch);
        });
        run(attended_.data(), tokens_,
            {{&layer.attention_output, layer.names.attention_output, x_, hidden_, {.residual = x_}}});
        norm(layer.attention_norm, x_, tokens_);
    }

    void feed_forward(const encoder_layer& layer) {
        for (std::size_t row = 0; row < tokens_; row += inner_tokens) {
            const std::size_t rows = std::min(inner_tokens, tokens_ - row);
            float* x = x_ + row * hidden_;
            run(x, rows,
                {{&layer.intermediate,
                  layer.names.intermediate,
                  inner_.data(),
                  layer.intermediate.out(),
                  {.activation = config_.activation}}});
            run(inner_.data(), rows, {{&layer.output, layer.names.output, x, hidden_, {.residual = x}}});
            norm(layer.output_norm, x, rows);
        }
    }

    void norm(const layer_norm_weights& weights, float* x, std::size_t rows) {
        const auto& table = kernels::active().layers;
        team_.run((rows + norm_rows - 1) / norm_rows, [&](std::size_t index) {
            const fp_environment environment;
            for (std::size_t row = index * norm_rows; row < std::min(rows, (index + 1) * norm_rows); ++row)
                table.layer_norm(x + row * hidden_, hidden_, weights.weight.data(), weights.bias.data(),
                                 config_.epsilon, x + row * hidden_);
        });
    }

    const encoder_config& config_;
    std::span<const encoder_layer> layers_;
    thread_team& team_;
    const encoder_options& options_;
    std::size_t hidden_;
    row_buffer projected_;  // query, key and value of a token beside each other
    row_buffer attended_;
    row_buffer inner_;
    quantized_rows codes_;
    std::vector<attention_piece> pieces_;
    float* x_ = nullptr;
    std::size_t tokens_ = 0;
};

}  // namespace detail

BITMILL_INLINE encoder::encoder(encoder_config config, std::vector<encoder_layer> layers,
                                memory_source memory)
    : config_(config), layers_(std::move(layers)), memory_(memory) {}

BITMILL_INLINE void encoder::run(float* x, std::span<const std::uint32_t> lengths, thread_team& team,
                                 const encoder_options& options) const {
    const fp_environment environment;
    const auto runs = detail::cut_sequences(lengths);
    std::size_t most = 0;
    for (const auto& one : runs) most = std::max(most, one.tokens);
    if (most == 0) return;
    detail::encoder_pass pass(config_, layers_, most, team, options, memory_);
    for (const auto& one : runs)
        pass.run(x + one.first_token * config_.hidden_size, lengths.subspan(one.first, one.count));
}

}  // namespace bitmill
