// The tensors of an open checkpoint by name: vectors, packed layers, tables whose rows stay in the file.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/detail/codec-inl.hpp>
#include <bitmill/detail/page_memory-inl.hpp>
#include <bitmill/detail/stored-inl.hpp>
#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/mill/stored.hpp>
#include <bitmill/nn/linear.hpp>

namespace bitmill::detail {

inline std::string dimensions_text(std::span<const std::uint64_t> shape) {
    std::string out = "[";
    for (const auto one : shape) out.append(out.size() == 1 ? "" : ", ").append(std::to_string(one));
    return out + "]";
}

// What to do where config.json and the tensors disagree.
inline constexpr const char* of_one_model = "; fetch config.json and the weights of one model again";

// Loading is one thread's; afterwards const calls are safe from many threads.
class model_weights {
public:
    model_weights(checkpoint model, stored_model stored, memory_source memory)
        : model_weights(std::make_shared<const checkpoint>(std::move(model)), std::move(stored), memory) {}
    model_weights(const model_weights&) = delete;
    model_weights& operator=(const model_weights&) = delete;

    [[nodiscard]] const checkpoint& model() const noexcept { return *model_; }
    [[nodiscard]] memory_source memory() const noexcept { return memory_; }
    // Of every file that is open, without those of residual planes.
    [[nodiscard]] std::uint64_t base_bytes() const {
        std::uint64_t bytes = 0;
        for (std::size_t i = 0; i < model_->shard_count(); ++i) bytes += model_->shard(i).file().size();
        return bytes;
    }
    [[nodiscard]] std::uint64_t file_bytes() const {
        std::uint64_t bytes = base_bytes();
        for (const auto& planes : stored_.residuals) bytes += planes ? planes->file().size() : 0;
        return bytes;
    }
    // Of memory, of what was read so far.
    [[nodiscard]] std::uint64_t loaded_bytes() const noexcept { return loaded_bytes_; }
    [[nodiscard]] const std::vector<std::string>& warnings() const noexcept { return warnings_; }

    [[nodiscard]] const stored_tensor* find(std::string_view name) const {
        const auto found = by_name_.find(name);
        return found == by_name_.end() ? nullptr : found->second;
    }

    // A tensor of floats that config.json says to have this shape. Errors: bad_input.
    result<const stored_tensor*> get(const std::string& name,
                                     std::initializer_list<std::uint64_t> shape) const {
        const stored_tensor* t = find(name);
        if (t == nullptr)
            return error{.code = error_code::bad_input,
                         .message = std::string("is missing, and config.json says that the model has it") +
                                    of_one_model,
                         .file = model_->root(),
                         .tensor = name};
        if (!std::equal(t->shape.begin(), t->shape.end(), shape.begin(), shape.end()))
            return refuse(*t, "is " + dimensions_text(t->shape) + ", by config.json it has to be " +
                                  dimensions_text({shape.begin(), shape.size()}) + of_one_model);
        if (!t->coded() && !facts(t->type).weight)
            return refuse(*t, "has elements of " + std::string(facts(t->type).name) +
                                  ", which are no floats" + of_one_model);
        return t;
    }

    // A bias or the weight of a norm.
    result<std::vector<float>> vector(const std::string& name, std::size_t count) {
        const auto t = get(name, {count});
        if (!t) return t.error();
        std::vector<float> out(count);
        element_buffer scratch(memory_);
        if (auto done = read(**t, 0, count, dtype::f32, out.data(), scratch); !done) return done.error();
        if (auto sound = check_finite(**t, 0, dtype::f32, out.data(), count); !sound) return sound.error();
        loaded_bytes_ += count * sizeof(float);
        return out;
    }

    // MODULE.weight [out, in] and MODULE.bias as a layer. `as_f16`: f32 and f64 are cast, unless a weight overflows.
    // What cannot be packed as it is becomes f32, and a warning says so.
    result<linear> layer(const std::string& module, std::size_t out, std::size_t in, bool as_f16) {
        const auto t = get(module + ".weight", {out, in});
        if (!t) return t.error();
        const auto bias = vector(module + ".bias", out);
        if (!bias) return bias.error();
        loaded_bytes_ -= bias->size() * sizeof(float);  // the layer has a copy, which bytes() counts
        const bool wide = !(*t)->coded() && ((*t)->type == dtype::f32 || (*t)->type == dtype::f64);
        auto made = as_f16 && wide ? pack_values(**t, bias->data(), dtype::f16) : pack(**t, bias->data());
        if (made) loaded_bytes_ += made->bytes();
        return made;
    }

    // Bytes of a layer's residual plane.
    result<void> read_residual(const stored_tensor& t, std::uint64_t offset, std::size_t bytes,
                               std::byte* dst) const {
        return fetch(stored_.residual_of(t), t.residual, offset, dst, bytes);
    }
    [[nodiscard]] bool has_residuals() const {
        return std::any_of(stored_.residuals.begin(), stored_.residuals.end(),
                           [](const auto& one) { return one.has_value(); });
    }
    // The same files, which are open already, and the residual planes beside them, which are not.
    result<std::unique_ptr<model_weights>> with_residuals() const {
        if (stored_.quant_method != "bitmill")
            return error{.code = error_code::invalid_argument,
                         .message = "has no planes; open its level int8 anew",
                         .file = model_->root()};
        if (auto same = check_in_place(); !same) return same.error();
        auto both = find_both_planes(*model_, stored_);
        if (!both) return both.error();
        return std::unique_ptr<model_weights>(new model_weights(model_, std::move(*both), memory_));
    }

    // Elements [first, first + count) as f32 or f16; of a coded tensor, which has two dimensions, decoded.
    result<void> read(const stored_tensor& t, std::uint64_t first, std::uint64_t count, dtype type, void* dst,
                      element_buffer& scratch) const {
        auto* to = static_cast<std::byte*>(dst);
        if (t.coded()) return values_.read(t, first, count, type, to, scratch);
        const std::uint64_t width = element_bytes(t.type);
        std::byte* raw = t.type == type ? to : grow(scratch, count * width);
        if (auto done = fetch(t.codes, first * width, raw, count * width); !done) return done;
        if (t.type != type) cast({t.type, raw, 1, static_cast<std::size_t>(count)}, type, to);
        return {};
    }

    // Of elements [first, first + count) of a tensor, as `type`. NaN would go through every layer and tell nobody where it
    // came from.
    result<void> check_finite(const stored_tensor& t, std::uint64_t first, dtype type, const void* values,
                              std::uint64_t count) const {
        return check_finite(t.codes, t.coded() ? t.name : std::string(), first, type, values, count);
    }

    void add_loaded(std::uint64_t bytes) { loaded_bytes_ += bytes; }

private:
    model_weights(std::shared_ptr<const checkpoint> model, stored_model stored, memory_source memory)
        : model_(std::move(model)), stored_(std::move(stored)), values_(*model_, stored_, memory),
          memory_(weight_memory(memory)) {
        for (const auto& t : stored_.tensors) by_name_.emplace(t.name, &t);
    }

    // A file that was put in the place of one that is open has other planes.
    [[nodiscard]] result<void> check_in_place() const {
        for (std::size_t i = 0; i < model_->shard_count(); ++i) {
            const auto there = input_file::open_beneath(model_->root(), model_->shard_name(i));
            if (!there) return there.error();
            const auto now = there->stamp(), open = model_->shard(i).file().stamp();
            if (!now) return now.error();
            if (!open) return open.error();
            if (now->inode != open->inode || now->bytes != open->bytes ||
                now->modified_ns != open->modified_ns)
                return error{.code = error_code::bad_input,
                             .message = "was written to since the model was opened; open it anew",
                             .file = there->path()};
        }
        return {};
    }

    [[nodiscard]] error refuse(const stored_tensor& t, std::string message,
                               error_code code = error_code::bad_input) const {
        return {.code = code,
                .message = std::move(message),
                .file = model_->shard(t.codes.shard).file().path(),
                .tensor = t.name};
    }

    result<void> fetch(checkpoint::location at, std::uint64_t offset, std::byte* to,
                       std::uint64_t bytes) const {
        return fetch(model_->shard(at.shard), at, offset, to, bytes);
    }
    static result<void> fetch(const weight_file& file, checkpoint::location at, std::uint64_t offset,
                              std::byte* to, std::uint64_t bytes) {
        auto done = file.read(file[at.tensor], offset, {to, static_cast<std::size_t>(bytes)});
        if (done) return {};
        error what = done.error();
        what.tensor = std::string(file[at.tensor].name);
        return what;
    }

    // `decoded`: what the values are of, where they do not lie at `at` themselves.
    result<void> check_finite(checkpoint::location at, const std::string& decoded, std::uint64_t first,
                              dtype type, const void* values, std::uint64_t count) const {
        const auto bad = find_cast_obstacle({type, values, 1, static_cast<std::size_t>(count)}, type);
        if (!bad) return {};
        const weight_file& file = model_->shard(at.shard);
        const std::uint64_t element = first + bad->index;
        return error{.code = error_code::bad_input,
                     .message = std::string(decoded.empty() ? "is" : "decodes to") +
                                " NaN or infinity at element " + std::to_string(element) +
                                ": no result would be a number; fetch or train the model again",
                     .file = file.file().path(),
                     .tensor = decoded.empty() ? std::string(file[at.tensor].name) : decoded};
    }

    result<linear> pack(const stored_tensor& t, const float* bias) {
        auto made = t.coded() ? pack_codes(t, bias) : pack_plain(t, bias);
        if (made || made.error().code != error_code::unsupported) return made;
        const std::string why = made.error().message;
        made = pack_values(t, bias, dtype::f32);
        if (made) warnings_.push_back(t.name + ": runs as f32, not as " + stored_as(t) + ": " + why);
        return made;
    }

    result<linear> pack_plain(const stored_tensor& t, const float* bias) {
        const auto row = std::find_if(std::begin(scheme_table), std::end(scheme_table), [&](const auto& one) {
            return is_plain(one.type) && one.plain == t.type;
        });
        if (row == std::end(scheme_table))
            return refuse(t, "no layer has such weights", error_code::unsupported);
        element_buffer raw(memory_);
        const std::uint64_t bytes = t.elements * element_bytes(t.type);
        std::byte* to = grow(raw, bytes);
        if (auto done = fetch(t.codes, 0, to, bytes); !done) return done.error();
        if (auto sound = check_finite(t, 0, t.type, to, t.elements); !sound) return sound.error();
        linear_source source = source_of(t, row->type);
        source.codes = to;
        return linear::pack(source, bias, memory_);
    }

    result<linear> pack_codes(const stored_tensor& t, const float* bias) {
        if (t.foreign || facts(t.scheme->type).ggml != nullptr)
            return refuse(t, "no layer reads its codes as they lie", error_code::unsupported);
        const scheme& s = *t.scheme;
        const auto sizes = encode_bound(s, t.shape[0], t.shape[1]);
        if (!sizes) return sizes.error();
        element_buffer codes(memory_), residual(memory_), zeros(memory_);
        linear_source source = source_of(t, s.type);
        source.scheme = s;
        std::byte* to = grow(codes, sizes->codes);
        if (auto done = fetch(t.codes, 0, to, sizes->codes); !done) return done.error();
        source.codes = to;
        const auto scales = read_scales(t, *sizes);
        if (!scales) return scales.error();
        source.scales = scales->data();
        if (!s.symmetric) {
            to = grow(zeros, sizes->zero_points);
            if (auto done = fetch(t.zero_points, 0, to, sizes->zero_points); !done) return done.error();
            source.zero_points = reinterpret_cast<const std::int8_t*>(to);
        }
        if (s.planes) {
            to = grow(residual, sizes->residual);
            if (auto done = fetch(stored_.residual_of(t), t.residual, 0, to, sizes->residual); !done)
                return done.error();
            source.residual = to;
        }
        return linear::pack(source, bias, memory_);
    }

    // As floats, those of double_quant decoded.
    result<std::pmr::vector<float>> read_scales(const stored_tensor& t, const encoded_sizes& sizes) const {
        const scheme& s = *t.scheme;
        element_buffer raw(memory_);
        std::byte* from = grow(raw, sizes.scales + sizes.nested_scales + 8);
        if (auto done = fetch(t.scales, 0, from, sizes.scales); !done) return done.error();
        if (s.double_quant) {
            std::pmr::vector<float> nested(static_cast<std::size_t>(sizes.nested_scales / sizeof(float)),
                                           memory_);
            auto done =
                fetch(t.nested_scales, 0, reinterpret_cast<std::byte*>(nested.data()), sizes.nested_scales);
            if (!done) return done.error();
            std::pmr::vector<float> out(static_cast<std::size_t>(sizes.scales), memory_);
            decode_nested({reinterpret_cast<const std::uint8_t*>(from), out.size()}, nested.data(),
                          t.nested_offset, out.data());
            if (auto sound = check_scales(t, out); !sound) return sound.error();
            return out;
        }
        const dtype type = facts(s.type).code_book ? dtype::f32 : s.scale_dtype;
        std::pmr::vector<float> out(static_cast<std::size_t>(sizes.scales / element_bytes(type)), memory_);
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = load_scale(from, type, i);
        if (auto sound = check_scales(t, out); !sound) return sound.error();
        return out;
    }
    result<void> check_scales(const stored_tensor& t, const std::pmr::vector<float>& scales) const {
        return check_finite(t.scales, {}, 0, dtype::f32, scales.data(), scales.size());
    }

    // From its values: f32, or f16 unless one of them overflows.
    result<linear> pack_values(const stored_tensor& t, const float* bias, dtype type) {
        element_buffer values(memory_), scratch(memory_);
        const std::uint64_t width = element_bytes(type);
        std::byte* to = grow(values, t.elements * width);
        const std::uint64_t cols = std::max<std::uint64_t>(t.shape[1], 1);
        const std::uint64_t rows = std::max<std::uint64_t>(stored_values::tile_bytes_of(t) / 4 / cols, 1);
        for (std::uint64_t row = 0; row < t.shape[0]; row += rows) {
            const std::uint64_t count = std::min(rows, t.shape[0] - row) * cols;
            if (auto done = read(t, row * cols, count, type, to + row * cols * width, scratch); !done)
                return done.error();
        }
        if (type == dtype::f16) {
            const auto* halves = reinterpret_cast<const std::uint16_t*>(to);
            const auto* bad = std::find_if(halves, halves + t.elements,
                                           [](std::uint16_t half) { return (half & 0x7c00u) == 0x7c00u; });
            if (bad != halves + t.elements) {
                warnings_.push_back(t.name + ": stays f32, since element " + std::to_string(bad - halves) +
                                    " overflows f16");
                return pack_values(t, bias, dtype::f32);
            }
        } else if (auto sound = check_finite(t, 0, type, to, t.elements); !sound) {
            return sound.error();
        }
        linear_source source = source_of(t, type == dtype::f16 ? scheme_type::f16 : scheme_type::f32);
        source.codes = to;
        return linear::pack(source, bias, memory_);
    }

    static linear_source source_of(const stored_tensor& t, scheme_type type) {
        linear_source source;
        source.scheme.type = type;
        source.rows = static_cast<std::size_t>(t.shape[0]);
        source.cols = static_cast<std::size_t>(t.shape[1]);
        return source;
    }

    std::shared_ptr<const checkpoint> model_;
    stored_model stored_;
    stored_values values_;
    memory_source memory_;
    std::map<std::string_view, const stored_tensor*> by_name_;
    std::vector<std::string> warnings_;
    std::uint64_t loaded_bytes_ = 0;
};

// Rows of a table of embeddings: a small one is loaded, of a large one each row is read where it lies.
class row_table {
public:
    // A row more or less of a file that the system keeps in memory costs less than a microsecond.
    static constexpr std::uint64_t loaded_limit = std::uint64_t{4} << 20;

    static result<row_table> open(model_weights& weights, const std::string& name, std::size_t rows,
                                  std::size_t cols) {
        const auto t = weights.get(name, {rows, cols});
        if (!t) return t.error();
        row_table made(weights.memory());
        made.weights_ = &weights;
        made.tensor_ = *t;
        made.cols_ = cols;
        if (rows * cols * sizeof(float) > loaded_limit) return made;
        element_buffer scratch(weights.memory());
        made.values_.resize(rows * cols);
        float* const values = made.values_.data();
        auto done = weights.read(**t, 0, rows * cols, dtype::f32, values, scratch);
        if (done) done = weights.check_finite(**t, 0, dtype::f32, values, rows * cols);
        if (!done) return done.error();
        weights.add_loaded(made.values_.size() * sizeof(float));
        return made;
    }

    // The row itself, or a copy at `room`, which has as many floats.
    result<const float*> row(std::size_t index, float* room, element_buffer& scratch) const {
        if (!values_.empty()) return values_.data() + index * cols_;
        auto done = weights_->read(*tensor_, index * cols_, cols_, dtype::f32, room, scratch);
        if (done) done = weights_->check_finite(*tensor_, index * cols_, dtype::f32, room, cols_);
        if (!done) return done.error();
        return room;
    }

private:
    explicit row_table(memory_source memory) : values_(memory) {}

    const model_weights* weights_ = nullptr;
    const stored_tensor* tensor_ = nullptr;
    std::size_t cols_ = 0;
    std::pmr::vector<float> values_;
};

}  // namespace bitmill::detail
