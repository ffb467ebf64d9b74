// Q4_0 and Q8_0 of GGUF as compressed-tensors of a Hugging Face folder.
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
