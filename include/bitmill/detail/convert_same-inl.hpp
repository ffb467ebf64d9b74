// Whether two tensors hold the same values, but for what their types round away.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/detail/element_buffer-inl.hpp>
#include <bitmill/detail/repack-inl.hpp>
#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// Of the rows of a matrix; llama.cpp interleaves the two halves of each head of q and k where it rotates
// neighbours.
struct row_order {
    std::uint64_t head_rows = 0;  // 0: as they lie
    [[nodiscard]] std::uint64_t gguf_row(std::uint64_t r) const {
        if (head_rows == 0) return r;
        const std::uint64_t in_head = r % head_rows, half = head_rows / 2;
        return r - in_head + in_head % half * 2 + in_head / half;
    }
};

// What rounding to a float moves a value of 1 by at most.
inline double rounding_of(dtype type) {
    return type == dtype::bf16 ? 0x1p-8 : type == dtype::f16 ? 0x1p-11 : 0x1p-23;
}

// Any run of one model's elements as F32.
class model_values {
public:
    model_values(const checkpoint& model, const stored_model& stored, memory_source memory)
        : model_(model), coded_(model, stored, memory), values_(memory_or_default(memory)),
          scratch_(memory_or_default(memory)) {}

    // Until the next call.
    result<const float*> read(const stored_tensor& t, std::uint64_t first, std::uint64_t count) {
        std::byte* to = grow(values_, count * sizeof(float));
        if (t.coded()) {
            if (auto done = coded_.read(t, first, count, dtype::f32, to, scratch_); !done)
                return done.error();
        } else {
            const std::uint64_t width = element_bytes(t.type);
            auto bytes = stored(t, first * width, count * width);
            if (!bytes) return bytes.error();
            cast({t.type, const_cast<std::byte*>(*bytes), 1, static_cast<std::size_t>(count)}, dtype::f32,
                 to);
        }
        return reinterpret_cast<const float*>(to);
    }
    result<const std::byte*> stored(const stored_tensor& t, std::uint64_t first, std::uint64_t bytes) {
        const auto& file = model_.shard(t.codes.shard);
        std::byte* to = grow(scratch_, bytes);
        auto done = file.read(file[t.codes.tensor], first, {to, static_cast<std::size_t>(bytes)});
        if (!done) return done.error();
        return static_cast<const std::byte*>(to);
    }

private:
    const checkpoint& model_;
    stored_values coded_;
    element_buffer values_, scratch_;
};

// The tensors of a folder against those of a GGUF file.
class same_values {
public:
    // Of each row of a coded matrix the sum of step^2 / 12, which rounding to the nearest code adds to the square of
    // the distance; none: it is not coded.
    using row_noise = std::vector<double>;

    same_values(const checkpoint& hf, const stored_model& hf_stored, const checkpoint& gguf,
                const stored_model& gguf_stored, memory_source memory)
        : hf_(hf, hf_stored, memory), gguf_(gguf, gguf_stored, memory), gguf_file_(gguf) {}

    // Why they are not the same, or "". `shift`: of norms, which GGUF has 1 higher for Gemma.
    result<std::string> difference(const stored_tensor& hf, const stored_tensor& there, const row_order& rows,
                                   double shift, const row_noise& noise) {
        if (hf.shape != there.shape) return "its shape differs from that of " + there.name;
        if (!facts(hf.type).weight || !facts(there.type).weight)
            return std::string("it is no tensor of floats in one of them");
        const auto block = gguf_file_.shard(there.codes.shard)[there.codes.tensor].block;
        const bool vector = hf.shape.size() < 2 && rows.head_rows == 0;
        const std::uint64_t count = vector ? 1 : hf.shape[0];
        const std::uint64_t cols = count == 0 ? 0 : hf.elements / count;
        if (cols == 0) return std::string();
        const std::uint64_t run = std::clamp<std::uint64_t>(run_elements / cols, 1, count);
        const bool rough = !noise.empty() || (block && !(block == ggml_type::q8_0 && !is_inner(hf)));
        sums whole;
        for (std::uint64_t first = 0; first < count; first += run) {
            const std::uint64_t end = std::min(first + run, count);
            auto ours = hf_.read(hf, first * cols, (end - first) * cols);
            if (!ours) return ours.error();
            for (std::uint64_t r = first; r < end; ++r) {
                const std::uint64_t at = rows.gguf_row(r) * cols;
                if (auto done = read_steps(there, block, at, cols); !done) return done.error();
                auto theirs = gguf_.read(there, at, cols);
                if (!theirs) return theirs.error();
                if (block) estimate_steps(there, *theirs, cols);
                const pair_of_rows both{
                    *ours + (r - first) * cols,
                    *theirs,
                    cols,
                    shift,
                    noise.empty() ? rounding_of(hf.type) : 0,
                    (block ? 0x1p-11 : rounding_of(there.type)) + (shift != 0 ? 0x1p-11 : 0),
                    block || !noise.empty() ? 0x1p-18 : 0x1p-24};
                const auto column =
                    rough ? far_row(both, noise.empty() ? 0 : noise[r], whole) : far_element(both);
                if (column) return what(hf, there, vector ? *column : r);
            }
        }
        if (whole.dot >= least_cosine * std::sqrt(whole.ours * whole.theirs)) return std::string();
        return what(hf, there, 0);
    }

    // All of a tensor of the GGUF file, until the next call.
    result<const float*> theirs(const stored_tensor& there) { return gguf_.read(there, 0, there.elements); }

private:
    static constexpr std::uint64_t run_elements = std::uint64_t{1} << 20;
    // Quantizers that look at a layer's input, or shrink the range of their codes, move values further than rounding
    // does: up to four times is one matrix. Rows of another are as far away as they are long: at 4 bits, in groups of
    // 128, more than twice that.
    static constexpr double most_noise = 16;
    // Of a matrix whose steps are so wide that a row says little. Q2_K and 4 bits together leave 0.9, rows in another
    // order hardly 0.5.
    static constexpr double least_cosine = 0.8;

    struct sums {
        double dot = 0, ours = 0, theirs = 0;
    };
    struct pair_of_rows {
        const float *ours, *theirs;
        std::uint64_t cols;
        double shift, rounding, their_rounding;
        double least;  // of F16, and 127 times that where it is the step of a code of 8 bits that is rounded
        [[nodiscard]] double distance(std::uint64_t c) const { return ours[c] + shift - theirs[c]; }
        [[nodiscard]] double allowed(std::uint64_t c) const {
            return std::abs(ours[c]) * rounding + std::abs(theirs[c]) * their_rounding + least;
        }
    };

    static bool is_inner(const stored_tensor& hf) { return hf.name.starts_with("model.layers."); }

    static std::string what(const stored_tensor& hf, const stored_tensor& there, std::uint64_t row) {
        if (hf.name.ends_with("norm.weight"))
            return "element " + std::to_string(row) + " says that it is another norm than " + there.name +
                   " (quantizers such as AWQ change norms)";
        return "its values are not those of " + there.name + ", or its rows lie in another order: see row " +
               std::to_string(row);
    }

    // The steps of Q4_0 and Q8_0 stand in their blocks ...
    result<void> read_steps(const stored_tensor& there, std::optional<ggml_type> block, std::uint64_t first,
                            std::uint64_t cols) {
        steps_.clear();
        if (block != ggml_type::q4_0 && block != ggml_type::q8_0) return {};
        const std::uint64_t width = facts(*block).block_bytes;
        auto bytes = gguf_.stored(there, first / gguf_block * width, cols / gguf_block * width);
        if (!bytes) return bytes.error();
        for (std::uint64_t i = 0; i < cols / gguf_block; ++i)
            steps_.push_back(std::abs(float_at(dtype::f16, *bytes + i * width, 0)));
        return {};
    }
    // ... of others the range of values tells them, of which half is taken: a template's codes are rounded to what is
    // nearest, so that twice the noise of rounding is one matrix.
    void estimate_steps(const stored_tensor& there, const float* values, std::uint64_t cols) {
        if (!steps_.empty()) return;
        const unsigned bits = facts(there.scheme->type).bits;
        for (std::uint64_t first = 0; first < cols; first += gguf_block) {
            double most = 0;
            for (std::uint64_t c = first; c < std::min(first + gguf_block, cols); ++c)
                most = std::max<double>(most, std::abs(values[c]));
            steps_.push_back(most / (1u << bits));
        }
    }

    // The first element that is further away than rounding moves it.
    [[nodiscard]] std::optional<std::uint64_t> far_element(const pair_of_rows& p) const {
        for (std::uint64_t c = 0; c < p.cols; ++c) {
            const double half_step = steps_.empty() ? 0 : steps_[c / gguf_block] * 0.5;
            if (!(std::abs(p.distance(c)) <= p.allowed(c) + half_step)) return c;
        }
        return std::nullopt;
    }
    [[nodiscard]] std::optional<std::uint64_t> far_row(const pair_of_rows& p, double noise,
                                                       sums& whole) const {
        for (const double step : steps_) noise += step * step / 12 * gguf_block;
        double apart = 0, allowed = most_noise * noise;
        for (std::uint64_t c = 0; c < p.cols; ++c) {
            const double x = p.ours[c], y = p.theirs[c];
            apart += p.distance(c) * p.distance(c);
            allowed += p.allowed(c) * p.allowed(c);
            whole.dot += x * y;
            whole.ours += x * x;
            whole.theirs += y * y;
        }
        return apart <= allowed ? std::nullopt : std::optional<std::uint64_t>(0);
    }

    model_values hf_, gguf_;
    const checkpoint& gguf_file_;
    std::vector<double> steps_;  // of the blocks of the row at hand
};

}  // namespace bitmill::detail
