// Integers of Hugging Face folders as Q4_0 and Q8_0 of GGUF.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <bitmill/detail/convert_pairs-inl.hpp>
#include <bitmill/detail/convert_work-inl.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/detail/plan_gguf-inl.hpp>
#include <bitmill/detail/repack-inl.hpp>

namespace bitmill::detail {

// The tensors of a template, some of them with a folder's integers.
class gguf_maker {
public:
    gguf_maker(const checkpoint& model, const stored_model& stored, const checkpoint& like,
               const stored_model& like_stored, const work_options& options)
        : model_(model), stored_(stored), like_(like), like_stored_(like_stored), options_(options),
          runner_(options, stored_bytes(like_stored)),
          pairs_(model, stored, like, like_stored, options.memory) {}

    // Everything that can be refused, before anything is written.
    result<void> check() {
        if (auto done = pairs_.open(); !done) return done;
        pieces_.resize(like_stored_.tensors.size());
        element_buffer buffer(memory_or_default(options_.memory));
        std::set<std::size_t> met;
        for (const auto& t : stored_.tensors) {
            const auto at = pairs_.find(t.name);
            if (at) met.insert(*at);
            if (!t.coded()) {
                if (auto done = pairs_.check_plain(t, at); !done) return done;
                continue;
            }
            if (!at)
                return refuse(t,
                              "the template has no tensor for it; it must be the same model, and only the "
                              "names of Linears of the Llama family are known");
            if (auto done = check_coded(t, *at, buffer); !done) return done;
        }
        if (weights_by_bits_.empty())
            return error{.code = error_code::invalid_argument,
                         .message = "holds no quantized weights that could be converted",
                         .file = model_.root()};
        return pairs_.check_all_met(met);
    }

    // The template's keys, two of which say how most of the matrices lie.
    [[nodiscard]] result<gguf_metadata> metadata() const {
        gguf_metadata out = like_.shard(0).gguf()->metadata();
        const auto most = std::max_element(weights_by_bits_.begin(), weights_by_bits_.end(),
                                           [](const auto& a, const auto& b) { return a.second < b.second; });
        const std::uint32_t type = gguf_file_type(most->first == 8 ? scheme_type::q8_0 : scheme_type::q4_0);
        if (auto done = out.set("general.file_type", type); !done) return done.error();
        if (auto done = out.set("general.quantization_version", std::uint32_t{2}); !done) return done.error();
        return out;
    }

    void place(weight_files& files) {
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const auto& t = like_stored_.tensors[i];
            piece& p = pieces_[i];
            const auto block = p.coded != nullptr ? std::optional(p.type) : like_.shard(0)[i].block;
            if (p.coded == nullptr) p.bytes = t.bytes;
            p.place = files.add(0, {t.name, block ? dtype::u8 : t.type, t.shape, block}, p.bytes);
        }
    }

    result<void> write(weight_files& files) {
        std::vector<tile> tiles;
        std::uint64_t footprint = tile_bytes;
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const piece& p = pieces_[i];
            if (p.coded == nullptr) {
                add_copy_tiles(tiles, i, p.bytes);
                continue;
            }
            footprint = std::max(footprint, p.bytes + p.coded->bytes);
            tiles.push_back({i, 0, like_stored_.tensors[i].bytes});
        }
        return runner_.run(
            tiles, footprint,
            [&](std::size_t, const tile& one, tile_buffers& buffers) {
                const piece& p = pieces_[one.tensor];
                return p.coded != nullptr ? write_coded(p, buffers, files)
                                          : copy_tile(like_, {0, one.tensor}, one, buffers, files, p.place);
            },
            [](const tile& one) { return one.count; });
    }

    [[nodiscard]] tensor_report row_of(std::size_t i) const {
        const auto& t = like_stored_.tensors[i];
        const piece& p = pieces_[i];
        tensor_report row;
        row.name = t.name;
        row.shape = t.shape;
        row.source_dtype = p.coded != nullptr ? p.coded->type : t.type;
        row.requested = row.effective = p.coded != nullptr ? std::string(facts(p.type).name) : "keep";
        row.reason = p.coded != nullptr
                         ? "was " + stored_.quant_method + " " + stored_as(*p.coded) + " " + p.coded->name
                         : "of the template";
        row.elements = t.elements;
        row.source_bytes = p.coded != nullptr ? p.coded->bytes : t.bytes;
        row.bytes = p.bytes;
        return row;
    }
    [[nodiscard]] const progress& now() const { return runner_.now(); }

private:
    struct piece {
        const stored_tensor* coded = nullptr;  // of the folder; nullptr: the template's own bytes
        packed_integers from;
        std::uint64_t group = 0;
        ggml_type type = ggml_type::q8_0;
        row_order rows;
        std::uint64_t bytes = 0;
        weight_files::place place{};
    };

    [[nodiscard]] error refuse(const stored_tensor& t, const std::string& why) const {
        return {.code = error_code::unsupported,
                .message = "does not go over into gguf exactly: " + why,
                .file = model_.shard(t.codes.shard).file().path(),
                .tensor = t.name};
    }
    [[nodiscard]] dtype scale_type(const stored_tensor& t) const {
        return model_.shard(t.scales.shard)[t.scales.tensor].type;
    }

    static std::string misfit(const stored_tensor& t, piece& p) {
        if (std::string why = find_integers(t, true, p.from, p.group); !why.empty()) return why;
        if (p.from.bits != 4 && p.from.bits != 8)
            return "it has codes of " + std::to_string(p.from.bits) + " bits, and Q4_0 and Q8_0 have 4 and 8";
        if (p.from.in % gguf_block != 0)
            return "its rows of " + std::to_string(p.from.in) + " are no multiple of the 32 of a block";
        if (p.group % gguf_block != 0)
            return "its groups of " + std::to_string(p.group) + " are no multiple of the 32 of a block";
        return {};
    }

    result<void> check_coded(const stored_tensor& t, std::size_t at, element_buffer& buffer) {
        piece& p = pieces_[at];
        if (const std::string why = misfit(t, p); !why.empty())
            return refuse(t, why + "; dequantize it, and quantize codes it anew");
        p.coded = &t;
        p.type = p.from.bits == 8 ? ggml_type::q8_0 : ggml_type::q4_0;
        p.bytes = p.from.out * (p.from.in / gguf_block) * facts(p.type).block_bytes;
        weights_by_bits_[p.from.bits] += t.elements;
        if (auto done = check_zeros(t, p, buffer); !done) return done;
        auto noise = check_scales(t, p, buffer);
        if (!noise) return noise.error();
        auto rows = pairs_.order_of(t.name, p.from.out);
        if (!rows) return rows.error();
        p.rows = *rows;
        return pairs_.check_same(t, at, *noise);
    }

    result<void> check_zeros(const stored_tensor& t, const piece& p, element_buffer& buffer) const {
        if (p.from.zeros == packed_integers::zero_points::none) return {};
        auto bytes = load_whole(model_, t.zero_points, buffer);
        if (!bytes) return bytes.error();
        const auto* words = reinterpret_cast<const std::uint32_t*>(*bytes);
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            for (std::uint64_t g = 0; g < p.from.groups; ++g)
                if (p.from.zero(words, r, g) != p.from.middle())
                    return refuse(t,
                                  "it has zero points (asymmetric), which Q4_0 and Q8_0 have not; "
                                  "dequantize it, and quantize codes it anew");
        return {};
    }

    result<same_values::row_noise> check_scales(const stored_tensor& t, const piece& p,
                                                element_buffer& buffer) const {
        const dtype type = scale_type(t);
        auto bytes = load_whole(model_, t.scales, buffer);
        if (!bytes) return bytes.error();
        same_values::row_noise noise(p.from.out);
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            for (std::uint64_t g = 0; g < p.from.groups; ++g) {
                const float scale = float_at(type, *bytes, p.from.scale_at(r, g));
                if (!std::isfinite(scale))
                    return refuse(t, not_finite(scale, r, g) + "; quantize the model anew");
                if (!fits_f16(scale))
                    return refuse(t, "its scales are " + std::string(facts(type).name) +
                                         ", and F16, which blocks have, does not hold that of row " +
                                         std::to_string(r) + ", group " + std::to_string(g) +
                                         "; quantize an F16 model, whose scales are F16");
                noise[r] += static_cast<double>(scale) * scale / 12 * static_cast<double>(p.group);
            }
        return noise;
    }

    result<void> write_coded(const piece& p, tile_buffers& buffers, weight_files& files) const {
        auto codes = load_whole(model_, p.coded->codes, buffers.source);
        if (!codes) return codes.error();
        auto scales = load_whole(model_, p.coded->scales, buffers.coded);
        if (!scales) return scales.error();
        std::byte* output = grow(buffers.output, p.bytes);
        const auto* words = reinterpret_cast<const std::uint32_t*>(*codes);
        const dtype type = scale_type(*p.coded);
        const bool in_bytes = p.coded->scheme && !p.coded->scheme->offset_binary;
        const std::uint32_t flip = in_bytes ? p.from.middle() : 0;
        const std::uint64_t row_bytes = p.bytes / p.from.out;
        for (std::uint64_t r = 0; r < p.from.out; ++r)
            put_blocks(
                p.from.bits, p.from.in,
                [&](std::uint64_t c) {
                    const auto [at, shift] = p.from.code_at(r, c);
                    return (words[at] >> shift & p.from.mask()) ^ flip;
                },
                [&](std::uint64_t c) { return float_at(type, *scales, p.from.scale_at(r, c / p.group)); },
                reinterpret_cast<std::uint8_t*>(output + p.rows.gguf_row(r) * row_bytes));
        return files.write(p.place, 0, output, p.bytes);
    }

    const checkpoint& model_;
    const stored_model& stored_;
    const checkpoint& like_;
    const stored_model& like_stored_;
    const work_options& options_;
    tile_runner runner_;
    gguf_pairs pairs_;
    std::vector<piece> pieces_;  // as like_stored_.tensors
    std::map<unsigned, std::uint64_t> weights_by_bits_;
};

inline result<mill_report> convert_to_gguf(const checkpoint& model, const stored_model& stored,
                                           const std::string& path, const std::string& out,
                                           const convert_options& options) {
    const stopwatch clock;
    if (options.like.empty())
        return missing_like("the same model as a .gguf, which gives keys, norms and embeddings");
    if (!options.dry_run && !is_gguf_name(out))
        return error{.code = error_code::invalid_argument,
                     .message = "the output in GGUF is one file, whose name ends in .gguf",
                     .file = out};
    auto like = checkpoint::open(options.like);
    if (!like) return like.error();
    if (like->shard(0).gguf() == nullptr)
        return error{.code = error_code::invalid_argument,
                     .message = "is no .gguf, which the template of --format gguf must be",
                     .file = options.like};
    if (!options.dry_run)
        if (auto other = check_other_file(*like, out); !other) return other.error();
    auto like_stored = read_stored(*like);
    if (!like_stored) return like_stored.error();
    gguf_maker work(model, stored, *like, *like_stored, options);
    if (auto done = work.check(); !done) return done.error();
    log_start(options, "convert", model, to_text(container::gguf));
    auto metadata = work.metadata();
    if (!metadata) return metadata.error();
    weight_files files(*like, std::move(*metadata));
    work.place(files);
    auto bytes = files.file_bytes();
    if (!bytes) return bytes.error();
    if (!options.dry_run) {
        auto folder = atomic_folder::create(out, model.root(), options.force, {}, weight_files::gguf_name);
        if (!folder) return folder.error();
        if (auto done = files.create(*folder); !done) return done.error();
        if (auto done = work.write(files); !done) return done.error();
        if (auto done = files.finish(*folder); !done) return done.error();
        if (auto done = commit(*folder, {}, options, work.now()); !done) return done.error();
    }
    mill_report report;
    report.bytes = *bytes;
    add_rows(report, work, *like_stored);
    return finish_report(std::move(report), model, path, out, container::gguf, options, clock);
}

}  // namespace bitmill::detail
