#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include <bitmill/core/half.hpp>
#include <bitmill/detail/convert_from_gguf-inl.hpp>
#include <bitmill/detail/convert_to_gguf-inl.hpp>
#include <bitmill/detail/convert_work-inl.hpp>
#include <bitmill/detail/guard-inl.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/plan-inl.hpp>
#include <bitmill/detail/repack-inl.hpp>
#include <bitmill/detail/stored-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/convert.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill {
namespace detail {

inline constexpr std::array<const char*, 4> container_names{"compressed-tensors", "gptq", "awq", "gguf"};

class converter {
public:
    converter(const checkpoint& model, const stored_model& stored, container to, const work_options& options)
        : model_(model), stored_(stored), container_(to), options_(options),
          runner_(options, stored_bytes(stored)) {}

    // Everything that can be refused, before anything is written.
    result<void> check() {
        element_buffer buffer(memory_or_default(options_.memory));
        for (const auto& t : stored_.tensors) {
            pieces_.emplace_back();
            if (!t.coded()) continue;
            piece& p = pieces_.back();
            p.coded = true;
            p.bits = t.scheme ? facts(t.scheme->type).bits : t.foreign->bits;
            if (const std::string why = misfit(t, p); !why.empty()) return refuse(t, why);
            if (auto done = check_zeros(t, p, buffer); !done) return done;
            if (auto done = check_scales(t, p, buffer); !done) return done;
            if (auto done = check_config(t, p); !done) return done;
        }
        if (any_) return check_rows();
        return error{.code = error_code::invalid_argument,
                     .message = "holds no quantized weights that could be converted",
                     .file = model_.root()};
    }

    void place(weight_files& files) {
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const auto& t = stored_.tensors[i];
            piece& p = pieces_[i];
            p.parts = p.coded ? parts_of(t, p)
                              : std::vector<output_part>{
                                    {output_part::kind::copy, t.name, t.type, t.shape, t.bytes, {}}};
            for (const auto& part : p.parts)
                p.places.push_back(files.add(t.codes.shard, {part.name, part.type, part.shape}, part.bytes));
        }
    }

    result<void> write(weight_files& files) {
        std::vector<tile> tiles;
        std::uint64_t footprint = tile_bytes;
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const auto& t = stored_.tensors[i];
            if (pieces_[i].coded) {
                footprint = std::max(footprint, footprint_of(t, pieces_[i]));
                tiles.push_back({i, 0, t.bytes});
                continue;
            }
            add_copy_tiles(tiles, i, t.bytes);
        }
        return runner_.run(
            tiles, footprint,
            [&](std::size_t, const tile& one, tile_buffers& buffers) {
                return pieces_[one.tensor].coded
                           ? write_coded(one.tensor, buffers, files)
                           : copy_tile(model_, stored_.tensors[one.tensor].codes, one, buffers, files,
                                       pieces_[one.tensor].places.front());
            },
            [](const tile& one) { return one.count; });
    }

    // Errors: those of make_plan, which knows what each weight is.
    result<std::string> config(mill_report& report) const {
        mill_options asked;
        asked.to = scheme_type::int4;
        auto plan = make_plan(model_, asked);
        if (!plan) return plan.error();
        plan->format = format::compressed_tensors;
        std::map<std::string_view, const piece*> coded;
        for (std::size_t i = 0; i < pieces_.size(); ++i)
            if (pieces_[i].coded) coded[stored_.tensors[i].name] = &pieces_[i];
        for (auto& t : plan->tensors) {
            t.effective.reset();
            if (const auto found = coded.find(t.name); found != coded.end())
                t.effective = scheme_of(*found->second);
        }
        if (container_ == container::compressed_tensors) return config_for(*plan, model_.config_text());
        std::vector<std::string> kept;
        for (const auto& t : plan->tensors)
            if (is_kept_linear(t)) kept.push_back(module_of(t));
        auto whole = parse_config(model_.config_text());
        whole["quantization_config"] =
            container_ == container::gptq ? gptq_config(kept, report) : awq_config(kept);
        return whole.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
    }

    [[nodiscard]] tensor_report row_of(std::size_t i) const {
        const auto& t = stored_.tensors[i];
        const piece& p = pieces_[i];
        tensor_report row;
        row.name = t.name;
        row.shape = t.shape;
        row.source_dtype = t.type;
        row.requested = row.effective = p.coded ? to_text(scheme_of(p)) : "keep";
        row.reason = p.coded ? "was " + stored_.quant_method + " " + stored_as(t) : "not coded";
        row.elements = t.elements;
        row.source_bytes = t.bytes;
        for (const auto& part : p.parts) row.bytes += part.bytes;
        return row;
    }
    [[nodiscard]] const progress& now() const { return runner_.now(); }

private:
    using order = packed_integers::order;
    using zero_points = packed_integers::zero_points;

    struct piece {
        bool coded = false;
        bool symmetric = true;
        unsigned bits = 0;
        std::uint64_t group = 0;
        packed_integers from, to;
        std::vector<output_part>
            parts;  // codes, scales, then zero points where there are some, then constants
        std::vector<weight_files::place> places;
    };

    [[nodiscard]] const char* name() const { return container_names[static_cast<std::size_t>(container_)]; }
    [[nodiscard]] error refuse(const stored_tensor& t, const std::string& why) const {
        return {.code = error_code::unsupported,
                .message = std::string("does not go over into ") + name() + " exactly: " + why +
                           "; quantize codes it anew",
                .file = model_.shard(t.codes.shard).file().path(),
                .tensor = t.name};
    }

    // How it lies and how it shall lie; why it cannot, or "".
    std::string misfit(const stored_tensor& t, piece& p) const {
        packed_integers& from = p.from;
        if (std::string why = find_integers(t, false, from, p.group); !why.empty()) return why;
        packed_integers& to = p.to = from;
        to.codes = container_ == container::gptq  ? order::gptq
                   : container_ == container::awq ? order::awq
                                                  : order::packed_rows;
        to.zeros = container_ == container::gptq  ? zero_points::gptq_v1
                   : container_ == container::awq ? zero_points::awq
                                                  : zero_points::none;
        to.by_group = container_ != container::compressed_tensors;
        if (container_ == container::awq && p.bits != 4) return "it has codes of 4 bits only";
        if (to.by_group && from.out % to.pack() != 0)
            return "its " + std::to_string(from.out) + " rows fill no words of " + std::to_string(to.pack());
        if (container_ == container::gptq && from.in % to.pack() != 0)
            return "its rows of " + std::to_string(from.in) + " fill no words of " +
                   std::to_string(to.pack());
        return {};
    }

    result<const std::byte*> load(checkpoint::location at, element_buffer& buffer) const {
        return load_whole(model_, at, buffer);
    }
    [[nodiscard]] dtype scale_type(const stored_tensor& t) const {
        return model_.shard(t.scales.shard)[t.scales.tensor].type;
    }

    result<void> check_zeros(const stored_tensor& t, piece& p, element_buffer& buffer) const {
        if (p.from.zeros == zero_points::none) return {};
        auto bytes = load(t.zero_points, buffer);
        if (!bytes) return bytes.error();
        const auto* words = reinterpret_cast<const std::uint32_t*>(*bytes);
        std::uint32_t least = p.from.mask();
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            for (std::uint64_t g = 0; g < p.from.groups; ++g) {
                const std::uint32_t zero = p.from.zero(words, r, g);
                least = std::min(least, zero);
                p.symmetric = p.symmetric && zero == p.from.middle();
            }
        if (container_ == container::compressed_tensors && !p.symmetric)
            return refuse(t, "it has zero points, which readers of compressed-tensors do not load");
        if (container_ == container::gptq && least == 0)
            return refuse(t, "a zero point is 0, which version 1 of GPTQ cannot say");
        return {};
    }

    result<void> check_scales(const stored_tensor& t, const piece& p, element_buffer& buffer) const {
        const dtype type = scale_type(t);
        auto bytes = load(t.scales, buffer);
        if (!bytes) return bytes.error();
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            for (std::uint64_t g = 0; g < p.from.groups; ++g) {
                const float scale = float_at(type, *bytes, p.from.scale_at(r, g));
                if (!std::isfinite(scale)) return refuse(t, not_finite(scale, r, g));
                if (p.to.by_group && !fits_f16(scale))
                    return refuse(t, "its scales are " + std::string(facts(type).name) +
                                         ", and F16 does not hold each of them");
            }
        return {};
    }

    // GPTQ and AWQ have one width and one group size for all. A row of one group goes with any that is as long.
    result<void> check_config(const stored_tensor& t, const piece& p) {
        symmetric_ = symmetric_ && p.symmetric;
        if (!any_) bits_ = p.bits;
        any_ = true;
        if (container_ == container::compressed_tensors) return {};
        if (p.from.groups != 1 && group_ == 0) group_ = p.group;
        return bits_ == p.bits && (p.from.groups == 1 || group_ == p.group) ? result<void>() : unlike(t, p);
    }
    result<void> check_rows() const {
        for (std::size_t i = 0; i < pieces_.size(); ++i)
            if (pieces_[i].coded && group_ != 0 && pieces_[i].from.groups == 1 &&
                pieces_[i].from.in != group_)
                return unlike(stored_.tensors[i], pieces_[i]);
        return {};
    }
    [[nodiscard]] error unlike(const stored_tensor& t, const piece& p) const {
        return refuse(t, std::string(name()) +
                             " says one width and one group size for all weights, and this one is " +
                             to_text(scheme_of(p)) + " beside others of " + std::to_string(bits_) +
                             " bits, group " + std::to_string(group_));
    }

    [[nodiscard]] static scheme scheme_of(const piece& p) {
        scheme s;
        s.type = p.bits == 8 ? scheme_type::int8 : p.bits == 4 ? scheme_type::int4 : scheme_type::int2;
        s.granularity = p.from.groups == 1 ? granularity::per_channel : granularity::group;
        s.group_size = p.from.groups == 1 ? 0 : static_cast<std::size_t>(p.group);
        s.symmetric = p.symmetric;
        return s;
    }

    [[nodiscard]] std::vector<output_part> parts_of(const stored_tensor& t, const piece& p) const {
        using kind = output_part::kind;
        const packed_integers& to = p.to;
        const std::string module = t.name.substr(0, t.name.rfind('.'));
        const std::uint64_t words = to.code_words(), scales = to.out * to.groups;
        if (container_ == container::compressed_tensors) {
            const dtype type = scale_type(t);
            const std::uint64_t shape[] = {to.out, to.in};
            return {
                {kind::codes, module + ".weight_packed", dtype::i32, {to.out, words / to.out}, words * 4, {}},
                {kind::scales,
                 module + ".weight_scale",
                 type,
                 {to.out, to.groups},
                 scales * element_bytes(type),
                 {}},
                constant_part(module + ".weight_shape", dtype::i64, {2}, bytes_of(shape, 2))};
        }
        const std::uint64_t rows = container_ == container::gptq ? to.in / to.pack() : to.in;
        std::vector<output_part> parts{
            {kind::codes, module + ".qweight", dtype::i32, {rows, words / rows}, words * 4, {}},
            {kind::scales, module + ".scales", dtype::f16, {to.groups, to.out}, scales * 2, {}},
            {kind::zero_points,
             module + ".qzeros",
             dtype::i32,
             {to.groups, to.zero_words() / to.groups},
             to.zero_words() * 4,
             {}}};
        if (container_ != container::gptq) return parts;
        parts.push_back({kind::constant, module + ".g_idx", dtype::i32, {to.in}, to.in * 4, {}});
        return parts;
    }

    // The largest tensor that is read, and the largest that is written.
    [[nodiscard]] std::uint64_t footprint_of(const stored_tensor& t, const piece& p) const {
        std::uint64_t read = p.from.zero_words() * 4, written = 0;
        for (const auto at : {t.codes, t.scales})
            read = std::max(read, model_.shard(at.shard)[at.tensor].bytes);
        for (const auto& part : p.parts) written = std::max(written, part.bytes);
        return read + written;
    }

    result<void> write_coded(std::size_t index, tile_buffers& buffers, weight_files& files) const {
        const auto& t = stored_.tensors[index];
        const piece& p = pieces_[index];
        for (std::size_t k = 0; k < p.parts.size(); ++k) {
            const output_part& part = p.parts[k];
            std::byte* output = grow(buffers.output, part.bytes);
            if (auto done = fill(t, p, part, buffers.source, output); !done) return done;
            if (auto done = files.write(p.places[k], 0, output, part.bytes); !done) return done;
        }
        return {};
    }

    result<void> fill(const stored_tensor& t, const piece& p, const output_part& part, element_buffer& buffer,
                      std::byte* output) const {
        using kind = output_part::kind;
        auto* words = reinterpret_cast<std::uint32_t*>(output);
        if (part.what == kind::constant) {
            if (!part.constant.empty()) std::memcpy(output, part.constant.data(), part.constant.size());
            for (std::uint64_t c = 0; part.constant.empty() && c < p.to.in; ++c)
                words[c] = static_cast<std::uint32_t>(c / p.group);
            return {};
        }
        const std::byte* source = nullptr;
        if (part.what != kind::zero_points || p.from.zeros != zero_points::none) {
            auto bytes = load(part.what == kind::codes    ? t.codes
                              : part.what == kind::scales ? t.scales
                                                          : t.zero_points,
                              buffer);
            if (!bytes) return bytes.error();
            source = *bytes;
        }
        const auto* source_words = reinterpret_cast<const std::uint32_t*>(source);
        if (part.what == kind::codes) {
            repack_codes(p.from, source_words, p.to, words);
            return {};
        }
        std::fill_n(output, part.bytes, std::byte{0});
        const dtype type = scale_type(t);
        const std::uint64_t width = element_bytes(part.type);
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            for (std::uint64_t g = 0; g < p.from.groups; ++g) {
                if (part.what == kind::zero_points) {
                    p.to.put_zero(words, r, g, p.from.zero(source_words, r, g));
                } else if (part.type == type) {
                    std::memcpy(output + p.to.scale_at(r, g) * width, source + p.from.scale_at(r, g) * width,
                                width);
                } else {
                    const std::uint16_t half = f16_from_f32(float_at(type, source, p.from.scale_at(r, g)));
                    std::memcpy(output + p.to.scale_at(r, g) * 2, &half, 2);
                }
            }
        return {};
    }

    [[nodiscard]] ordered_json group_size() const {
        return group_ == 0 ? ordered_json(-1) : ordered_json(group_);
    }
    [[nodiscard]] ordered_json gptq_config(const std::vector<std::string>& kept, mill_report& report) const {
        std::vector<std::string> missed;
        for (const auto& module : kept)
            if (last_part(module) != "lm_head") missed.push_back(module);
        if (!missed.empty())
            report.warnings.push_back(std::to_string(missed.size()) + " Linears are not coded, first " +
                                      missed.front() + ": readers of GPTQ expect codes for each");
        return json_object({{"quant_method", "gptq"},
                            {"bits", bits_},
                            {"group_size", group_size()},
                            {"sym", symmetric_},
                            {"desc_act", false},
                            {"checkpoint_format", "gptq"}});
    }
    [[nodiscard]] ordered_json awq_config(const std::vector<std::string>& kept) const {
        return json_object({{"quant_method", "awq"},
                            {"bits", bits_},
                            {"group_size", group_size()},
                            {"zero_point", true},
                            {"version", "gemm"},
                            {"modules_to_not_convert", kept.empty() ? ordered_json() : ordered_json(kept)}});
    }

    const checkpoint& model_;
    const stored_model& stored_;
    container container_;
    const work_options& options_;
    tile_runner runner_;
    std::vector<piece> pieces_;  // as stored_.tensors
    bool any_ = false;
    bool symmetric_ = true;
    unsigned bits_ = 0;
    std::uint64_t group_ = 0;  // 0: a row
};

// W8A8 and the like: their integers would go over, what they say of activations would not.
inline bool codes_activations(const checkpoint& model) {
    const auto said = quantization_of(model);
    if (!said) return false;
    const json& config = said->config;
    const auto groups = config.is_object() ? config.find("config_groups") : config.end();
    if (!config.is_object() || groups == config.end() || !groups->is_object()) return false;
    return std::any_of(groups->begin(), groups->end(), [](const json& group) {
        return group.is_object() && group.contains("input_activations") &&
               !group["input_activations"].is_null();
    });
}

inline result<mill_report> convert(const std::string& path, const std::string& out, container to,
                                   const convert_options& options) {
    const stopwatch clock;
    auto model = checkpoint::open(path);
    if (!model) return model.error();
    if (model->shard(0).gguf() != nullptr) return convert_from_gguf(*model, path, out, to, options);
    auto stored = read_stored(*model);
    if (!stored) return stored.error();
    if (codes_activations(*model))
        return error{.code = error_code::unsupported,
                     .message = "its activations are quantized, too, which convert would lose",
                     .file = model->root() + "/config.json"};
    if (to == container::gguf) return convert_to_gguf(*model, *stored, path, out, options);
    if (!options.like.empty())
        return error{.code = error_code::invalid_argument,
                     .message = std::string("like is a template for GGUF; ") + to_text(to) + " needs none"};
    converter work(*model, *stored, to, options);
    if (auto done = work.check(); !done) return done.error();
    log_start(options, "convert", *model, to_text(to));
    mill_report report;
    auto config = work.config(report);
    if (!config) return config.error();
    weight_files files(*model);
    work.place(files);
    auto bytes = files.file_bytes();
    if (!bytes) return bytes.error();
    if (!options.dry_run) {
        auto folder = atomic_folder::create(out, model->root(), options.force);
        if (!folder) return folder.error();
        if (auto done = files.create(*folder); !done) return done.error();
        if (auto done = work.write(files); !done) return done.error();
        if (auto done = files.finish(*folder); !done) return done.error();
        auto others = put_other_files(*model, *config, &*folder, options, work.now());
        if (!others) return others.error();
        if (auto done = commit(*folder, {}, options, work.now()); !done) return done.error();
    }
    report.bytes = *bytes;
    report.side_bytes = side_file_bytes(*model);
    add_rows(report, work, *stored);
    return finish_report(std::move(report), *model, path, out, to, options, clock);
}

}  // namespace detail

BITMILL_INLINE const char* to_text(container value) noexcept {
    return detail::container_names[static_cast<std::size_t>(value)];
}

BITMILL_INLINE result<container> container_from_text(std::string_view text) {
    for (std::size_t i = 0; i < detail::container_names.size(); ++i)
        if (text == detail::container_names[i]) return static_cast<container>(i);
    return error{.code = error_code::invalid_argument,
                 .message = "there is no container '" + std::string(text) +
                            "'; convert writes compressed-tensors, gptq, awq and gguf"};
}

BITMILL_INLINE result<mill_report> convert(const std::string& model, const std::string& out, container to,
                                           const convert_options& options) {
    return detail::guard(model,
                         [&]() -> result<mill_report> { return detail::convert(model, out, to, options); });
}

}  // namespace bitmill
