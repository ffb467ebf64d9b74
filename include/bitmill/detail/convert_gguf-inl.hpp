// Integers of Hugging Face folders as Q4_0 and Q8_0 of GGUF, and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <bitmill/detail/convert_pairs-inl.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/detail/plan_gguf-inl.hpp>
#include <bitmill/detail/repack-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/convert.hpp>

namespace bitmill::detail {

// Bytes [first, first + count) of a tensor as they are.
inline result<void> copy_tile(const checkpoint& from, checkpoint::location at, const tile& one,
                              tile_buffers& buffers, weight_files& files, weight_files::place to) {
    std::byte* bytes = grow(buffers.source, one.count);
    const auto& file = from.shard(at.shard);
    auto done = file.read(file[at.tensor], one.first, {bytes, static_cast<std::size_t>(one.count)});
    if (!done) return done;
    return files.write(to, one.first, bytes, one.count);
}

inline std::uint64_t stored_bytes(const stored_model& stored) {
    std::uint64_t sum = 0;
    for (const auto& t : stored.tensors) sum += t.bytes;
    return sum;
}

inline void add_copy_tiles(std::vector<tile>& tiles, std::size_t index, std::uint64_t bytes) {
    for (std::uint64_t first = 0; first < bytes; first += tile_bytes)
        tiles.push_back({index, first, std::min(tile_bytes, bytes - first)});
}

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

// The tensors of a plain folder, some of them with a GGUF file's integers.
class gguf_unmaker {
public:
    gguf_unmaker(const checkpoint& model, const stored_model& stored, const checkpoint& like,
                 const stored_model& like_stored, const work_options& options)
        : model_(model), stored_(stored), like_(like), like_stored_(like_stored),
          runner_(options, stored_bytes(like_stored)),
          pairs_(like, like_stored, model, stored, options.memory),
          buffer_(memory_or_default(options.memory)) {}

    result<void> check(mill_report& report) {
        if (auto done = pairs_.open(); !done) return done;
        std::set<std::size_t> met;
        bool any = false;
        for (const auto& t : like_stored_.tensors) {
            piece& p = pieces_.emplace_back();
            const auto at = pairs_.find(t.name);
            const auto block = at ? model_.shard(0)[*at].block : std::nullopt;
            if (at) met.insert(*at);
            if (block && t.name.starts_with("model.layers.")) {
                if (auto done = check_coded(t, *at, *block, p); !done) return done;
                any = true;
                continue;
            }
            if (auto done = pairs_.check_plain(t, at); !done) return done;
            if (block)
                report.warnings.push_back(stored_.tensors[*at].name + " is " +
                                          std::string(facts(*block).name) +
                                          " in the file; the output has the floats of " + like_.root());
        }
        if (!any)
            return error{.code = error_code::invalid_argument,
                         .message = "holds no Q4_0 or Q8_0 matrices that could be converted",
                         .file = model_.shard(0).file().path()};
        return pairs_.check_all_met(met);
    }

    result<std::string> config() const {
        mill_options asked;
        asked.to = scheme_type::int4;
        auto plan = make_plan(like_, asked);
        if (!plan) return plan.error();
        plan->format = format::compressed_tensors;
        std::map<std::string_view, const piece*> coded;
        for (std::size_t i = 0; i < pieces_.size(); ++i)
            if (pieces_[i].bits != 0) coded[like_stored_.tensors[i].name] = &pieces_[i];
        for (auto& t : plan->tensors) {
            t.effective.reset();
            if (const auto found = coded.find(t.name); found != coded.end())
                t.effective = scheme_of(*found->second);
        }
        return config_for(*plan, like_.config_text());
    }

    void place(weight_files& files) {
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const auto& t = like_stored_.tensors[i];
            piece& p = pieces_[i];
            p.parts = p.bits != 0 ? parts_of(t, p)
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
            const auto& t = like_stored_.tensors[i];
            const piece& p = pieces_[i];
            if (p.bits == 0) {
                add_copy_tiles(tiles, i, t.bytes);
                continue;
            }
            footprint = std::max(footprint, stored_.tensors[p.source].bytes + p.parts.front().bytes);
            tiles.push_back({i, 0, t.bytes});
        }
        return runner_.run(
            tiles, footprint,
            [&](std::size_t, const tile& one, tile_buffers& buffers) {
                const piece& p = pieces_[one.tensor];
                return p.bits != 0 ? write_coded(p, buffers, files)
                                   : copy_tile(like_, like_stored_.tensors[one.tensor].codes, one, buffers,
                                               files, p.places.front());
            },
            [](const tile& one) { return one.count; });
    }

    [[nodiscard]] tensor_report row_of(std::size_t i) const {
        const auto& t = like_stored_.tensors[i];
        const piece& p = pieces_[i];
        tensor_report row;
        row.name = t.name;
        row.shape = t.shape;
        row.source_dtype = t.type;
        row.requested = row.effective = p.bits != 0 ? to_text(scheme_of(p)) : "keep";
        row.reason =
            p.bits != 0 ? "was " + stored_as(stored_.tensors[p.source]) + " " + stored_.tensors[p.source].name
                        : "of the folder";
        row.elements = t.elements;
        row.source_bytes = p.bits != 0 ? stored_.tensors[p.source].bytes : t.bytes;
        for (const auto& part : p.parts) row.bytes += part.bytes;
        return row;
    }
    [[nodiscard]] const progress& now() const { return runner_.now(); }

private:
    struct piece {
        unsigned bits = 0;       // 0: the folder's own bytes
        std::size_t source = 0;  // index into stored_.tensors
        std::uint64_t out = 0, in = 0;
        row_order rows;
        std::vector<output_part> parts;  // codes, scales, shape
        std::vector<weight_files::place> places;
    };

    result<void> check_coded(const stored_tensor& t, std::size_t at, ggml_type type, piece& p) {
        const auto& source = stored_.tensors[at];
        if (type != ggml_type::q4_0 && type != ggml_type::q8_0)
            return error{
                .code = error_code::unsupported,
                .message = "is " + std::string(facts(type).name) +
                           ", whose blocks have minima, two-level scales or a code book, and not one "
                           "scale for 32 symmetric integers as Q4_0 and Q8_0; dequantize and then "
                           "quantize codes it anew",
                .file = model_.shard(0).file().path(),
                .tensor = source.name};
        if (source.shape.size() != 2 || source.elements == 0)
            return error{.code = error_code::unsupported,
                         .message = "is no matrix of weights",
                         .file = model_.shard(0).file().path(),
                         .tensor = source.name};
        p.bits = type == ggml_type::q8_0 ? 8 : 4;
        p.source = at;
        p.out = source.shape[0];
        p.in = source.shape[1];
        auto rows = pairs_.order_of(t.name, p.out);
        if (!rows) return rows.error();
        p.rows = *rows;
        if (auto done = check_scales(source, at, type); !done) return done;
        return pairs_.check_same(t, at);
    }

    result<void> check_scales(const stored_tensor& source, std::size_t at, ggml_type type) {
        auto bytes = load_whole(model_, {0, at}, buffer_);
        if (!bytes) return bytes.error();
        const std::uint64_t groups = source.shape[1] / gguf_block;
        for (std::uint64_t i = 0; i < source.shape[0] * groups; ++i) {
            const float scale = float_at(dtype::f16, *bytes + i * facts(type).block_bytes, 0);
            if (std::isfinite(scale)) continue;
            return error{.code = error_code::bad_input,
                         .message = not_finite(scale, i / groups, i % groups) + "; make the file anew",
                         .file = model_.shard(0).file().path(),
                         .tensor = source.name,
                         .offset = model_.shard(0)[at].offset + i * facts(type).block_bytes};
        }
        return {};
    }

    [[nodiscard]] static scheme scheme_of(const piece& p) {
        scheme s;
        s.type = p.bits == 8 ? scheme_type::int8 : scheme_type::int4;
        s.granularity = granularity::group;
        s.group_size = gguf_block;
        return s;
    }

    [[nodiscard]] static std::vector<output_part> parts_of(const stored_tensor& t, const piece& p) {
        using kind = output_part::kind;
        const std::string module = t.name.substr(0, t.name.rfind('.'));
        const std::uint64_t words = p.in * p.bits / 32, groups = p.in / gguf_block;
        const std::uint64_t shape[] = {p.out, p.in};
        return {{kind::codes, module + ".weight_packed", dtype::i32, {p.out, words}, p.out * words * 4, {}},
                {kind::scales, module + ".weight_scale", dtype::f16, {p.out, groups}, p.out * groups * 2, {}},
                constant_part(module + ".weight_shape", dtype::i64, {2}, bytes_of(shape, 2))};
    }

    result<void> write_coded(const piece& p, tile_buffers& buffers, weight_files& files) const {
        auto loaded = load_whole(model_, {0, p.source}, buffers.source);
        if (!loaded) return loaded.error();
        const auto* blocks = reinterpret_cast<const std::uint8_t*>(*loaded);
        const std::uint64_t row_bytes = stored_.tensors[p.source].bytes / p.out;
        std::byte* output = grow(buffers.output, p.parts[0].bytes);
        std::fill_n(output, p.parts[0].bytes, std::byte{0});
        auto* words = reinterpret_cast<std::uint32_t*>(output);
        packed_integers to;
        to.bits = p.bits;
        to.out = p.out;
        to.in = p.in;
        for (std::uint64_t r = 0; r < p.out; ++r)
            for (std::uint64_t c = 0; c < p.in; ++c) {
                const auto [at, shift] = to.code_at(r, c);
                words[at] |= code_of_blocks(p.bits, blocks + p.rows.gguf_row(r) * row_bytes, c) << shift;
            }
        if (auto done = files.write(p.places[0], 0, output, p.parts[0].bytes); !done) return done;
        const std::uint64_t groups = p.in / gguf_block, block_bytes = row_bytes / groups;
        for (std::uint64_t r = 0; r < p.out; ++r)
            for (std::uint64_t g = 0; g < groups; ++g)
                std::memcpy(output + (r * groups + g) * 2,
                            blocks + p.rows.gguf_row(r) * row_bytes + g * block_bytes, 2);
        if (auto done = files.write(p.places[1], 0, output, p.parts[1].bytes); !done) return done;
        std::memcpy(output, p.parts[2].constant.data(), p.parts[2].constant.size());
        return files.write(p.places[2], 0, output, p.parts[2].bytes);
    }

    const checkpoint& model_;
    const stored_model& stored_;
    const checkpoint& like_;
    const stored_model& like_stored_;
    tile_runner runner_;
    gguf_pairs pairs_;
    element_buffer buffer_;
    std::vector<piece> pieces_;  // as like_stored_.tensors
};

inline error missing_like(const std::string& what) {
    return {.code = error_code::invalid_argument, .message = "convert needs --like: " + what};
}

inline result<mill_report> finish_report(mill_report report, const checkpoint& model, const std::string& path,
                                         const std::string& out, container to, const convert_options& options,
                                         const stopwatch& clock) {
    report.source = path;
    report.output = out;
    report.requested = report.format = to_text(to);
    report.dry_run = options.dry_run;
    report.source_bytes = source_file_bytes(model);
    report.seconds = clock.seconds();
    log_report(options, report);
    return report;
}

template <class Work>
void add_rows(mill_report& report, const Work& work, const stored_model& stored) {
    for (std::size_t i = 0; i < stored.tensors.size(); ++i) {
        if (facts(stored.tensors[i].type).weight) report.parameters += stored.tensors[i].elements;
        report.tensors.push_back(work.row_of(i));
    }
}

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

inline result<void> check_plain_folder(const checkpoint& like, const stored_model& stored,
                                       const checkpoint& model, const std::string& out) {
    const auto wrong = [&](const char* why) {
        return error{.code = error_code::invalid_argument, .message = why, .file = like.root()};
    };
    if (like.shard(0).gguf() != nullptr || like.config_text().empty())
        return wrong("is no Hugging Face folder with a config.json, which --like must be for a .gguf");
    if (std::any_of(stored.tensors.begin(), stored.tensors.end(), [](const auto& t) { return t.coded(); }))
        return wrong("is quantized; give its plain model, or what dequantize makes of it");
    std::error_code none;
    if (out.empty() || !std::filesystem::equivalent(model.root(), out, none)) return {};
    return error{.code = error_code::invalid_argument,
                 .message = "holds the model that is read; choose another output",
                 .file = out};
}

inline result<mill_report> convert_from_gguf(const checkpoint& model, const std::string& path,
                                             const std::string& out, container to,
                                             const convert_options& options) {
    const stopwatch clock;
    if (to == container::gguf)
        return error{.code = error_code::invalid_argument,
                     .message = "is a .gguf already; quantize codes it anew",
                     .file = path};
    if (to != container::compressed_tensors)
        return error{.code = error_code::unsupported,
                     .message = std::string("a .gguf does not go over into ") + to_text(to) +
                                " in one step: convert to compressed-tensors first",
                     .file = path};
    if (options.like.empty())
        return missing_like("the plain folder of the same model, which gives config, norms and embeddings");
    auto like = checkpoint::open(options.like);
    if (!like) return like.error();
    auto like_stored = read_stored(*like);
    if (!like_stored) return like_stored.error();
    if (auto done = check_plain_folder(*like, *like_stored, model, out); !done) return done.error();
    auto stored = read_stored(model);
    if (!stored) return stored.error();
    gguf_unmaker work(model, *stored, *like, *like_stored, options);
    mill_report report;
    if (auto done = work.check(report); !done) return done.error();
    if (config_dtype(parse_config(like->config_text())) != "float16")
        report.warnings.push_back(
            "its scales are F16: a reader that loads them in the dtype of config.json may "
            "round them");
    log_start(options, "convert", model, to_text(to));
    auto config = work.config();
    if (!config) return config.error();
    weight_files files(*like);
    work.place(files);
    auto bytes = files.file_bytes();
    if (!bytes) return bytes.error();
    if (!options.dry_run) {
        auto folder = atomic_folder::create(out, like->root(), options.force);
        if (!folder) return folder.error();
        if (auto done = files.create(*folder); !done) return done.error();
        if (auto done = work.write(files); !done) return done.error();
        if (auto done = files.finish(*folder); !done) return done.error();
        auto others = put_other_files(*like, *config, &*folder, options, work.now());
        if (!others) return others.error();
        if (auto done = commit(*folder, {}, options, work.now()); !done) return done.error();
    }
    report.bytes = *bytes;
    report.side_bytes = side_file_bytes(*like);
    add_rows(report, work, *like_stored);
    return finish_report(std::move(report), model, path, out, to, options, clock);
}

}  // namespace bitmill::detail
