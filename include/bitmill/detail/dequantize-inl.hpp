#pragma once

#include <algorithm>

#include <bitmill/codec/codec.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/mill.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill {
namespace detail {

class dequantizer {
public:
    dequantizer(const checkpoint& model, const stored_model& stored, std::optional<dtype> type,
                const work_options& options)
        : model_(model), stored_(stored), type_(type), values_(model, stored, options.memory),
          runner_(options, total_bytes(stored)) {}

    [[nodiscard]] dtype output_type(const stored_tensor& t) const {
        return facts(t.type).weight ? type_.value_or(t.type) : t.type;
    }
    [[nodiscard]] static std::uint64_t output_bytes(const stored_tensor& t, dtype type) {
        return t.coded() || type != t.type ? t.elements * element_bytes(type) : t.bytes;
    }

    void place(weight_files& files) {
        for (const auto& t : stored_.tensors) {
            const dtype type = output_type(t);
            places_.push_back(files.add(t.codes.shard, {t.name, type, t.shape}, output_bytes(t, type)));
        }
    }

    result<void> write(weight_files& files) {
        std::vector<tile> tiles;
        std::uint64_t footprint = 0;
        for (std::size_t i = 0; i < stored_.tensors.size(); ++i) {
            const auto& t = stored_.tensors[i];
            const cut c(t, output_type(t));
            footprint = std::max(footprint, c.footprint);
            for (std::uint64_t first = 0; first < c.units; first += c.per_tile)
                tiles.push_back({i, first, std::min(c.per_tile, c.units - first)});
        }
        return runner_.run(
            tiles, footprint,
            [&](std::size_t, const tile& one, tile_buffers& buffers) {
                return write_tile(one, buffers, files);
            },
            [&](const tile& one) {
                const auto& t = stored_.tensors[one.tensor];
                const cut c(t, output_type(t));
                // Differences of rounded totals add up to all bytes.
                const auto up_to = [&](std::uint64_t units) {
                    return static_cast<std::uint64_t>(static_cast<double>(t.bytes) *
                                                      static_cast<double>(units) /
                                                      static_cast<double>(c.units));
                };
                return up_to(one.first + one.count) - up_to(one.first);
            });
    }

    [[nodiscard]] const progress& now() const { return runner_.now(); }

private:
    // Elements of codes and casts, bytes of copies.
    struct cut {
        std::uint64_t units;
        std::uint64_t per_tile = tile_bytes / 4;
        std::uint64_t footprint = 0;
        cut(const stored_tensor& t, dtype type) : units(t.elements) {
            if (t.elements == 0) return;
            if (t.coded()) {
                const std::uint64_t granule = stored_values::granule(t);
                per_tile = stored_values::tile_bytes_of(t) / 4;
                per_tile = std::max<std::uint64_t>(1, per_tile / granule) * granule;
                const std::uint64_t most = std::min(units, per_tile);
                footprint = most * element_bytes(type) + stored_values::scratch_bytes(t, most, type);
            } else if (type == t.type) {
                units = t.bytes;
                per_tile = tile_bytes;
                footprint = tile_bytes;
            } else {
                footprint = std::min(units, per_tile) * 12 + tile_bytes;
            }
        }
    };

    [[nodiscard]] static std::uint64_t total_bytes(const stored_model& stored) {
        std::uint64_t sum = 0;
        for (const auto& t : stored.tensors) sum += t.bytes;
        return sum;
    }

    result<void> read(const stored_tensor& t, std::uint64_t offset, std::byte* to,
                      std::uint64_t count) const {
        const auto& file = model_.shard(t.codes.shard);
        auto done = file.read(file[t.codes.tensor], offset, {to, static_cast<std::size_t>(count)});
        if (done) return {};
        error what = done.error();
        what.tensor = t.name;
        return what;
    }

    result<void> write_tile(const tile& one, tile_buffers& buffers, weight_files& files) const {
        const auto& t = stored_.tensors[one.tensor];
        const dtype type = output_type(t);
        if (t.coded()) return write_decoded(one, t, type, buffers, files);
        if (type == t.type) {
            std::byte* bytes = grow(buffers.source, one.count);
            if (auto done = read(t, one.first, bytes, one.count); !done) return done;
            return files.write(places_[one.tensor], one.first, bytes, one.count);
        }
        const std::uint64_t width = element_bytes(t.type);
        std::byte* bytes = grow(buffers.source, one.count * width);
        if (auto done = read(t, one.first * width, bytes, one.count * width); !done) return done;
        std::byte* output = grow(buffers.output, one.count * element_bytes(type));
        const weight_view wide{t.type, bytes, 1, static_cast<std::size_t>(one.count)};
        if (const auto obstacle = find_cast_obstacle(wide, type); obstacle && !obstacle->not_finite)
            return unfit(t, one.first + obstacle->index, type);
        cast(wide, type, output);
        return files.write(places_[one.tensor], one.first * element_bytes(type), output,
                           one.count * element_bytes(type));
    }

    result<void> write_decoded(const tile& one, const stored_tensor& t, dtype type, tile_buffers& buffers,
                               weight_files& files) const {
        const std::uint64_t width = element_bytes(type);
        std::byte* output = grow(buffers.output, one.count * width);
        if (auto done = values_.read(t, one.first, one.count, type, output, buffers.coded); !done)
            return done;
        if (const auto obstacle =
                find_cast_obstacle({type, output, 1, static_cast<std::size_t>(one.count)}, type))
            return unfit(t, one.first + obstacle->index, type);
        return files.write(places_[one.tensor], one.first * width, output, one.count * width);
    }

    [[nodiscard]] error unfit(const stored_tensor& t, std::uint64_t element, dtype type) const {
        return {.code = error_code::bad_input,
                .message = "element " + std::to_string(element) + " decodes to what " +
                           std::string(facts(type).torch) +
                           " cannot hold; choose a wider --dtype, or its scales are damaged",
                .file = model_.shard(t.codes.shard).file().path(),
                .tensor = t.name};
    }

    const checkpoint& model_;
    const stored_model& stored_;
    std::optional<dtype> type_;
    stored_values values_;
    tile_runner runner_;
    std::vector<weight_files::place> places_;
};

inline std::string plain_config(const std::string& text, std::optional<dtype> type) {
    auto config = parse_config(text);
    config.erase("quantization_config");
    if (type) set_config_dtype(config, facts(*type).torch);
    return config.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

// In mill-inl.hpp.
inline result<mill_report> mill_into(const checkpoint& model, const std::string& path, const std::string& out,
                                     const mill_options& options);

inline result<mill_report> dequantize(const std::string& path, const std::string& out,
                                      std::optional<dtype> type, const work_options& options,
                                      std::optional<scheme_type> level) {
    const stopwatch clock;
    if (type && *type != dtype::f32 && *type != dtype::f16 && *type != dtype::bf16)
        return error{.code = error_code::invalid_argument, .message = "dequantize writes f32, f16 or bf16"};
    auto model = checkpoint::open(path);
    if (!model) return model.error();
    auto stored = read_stored(*model, level);
    if (!stored) return stored.error();
    if (model->shard(0).gguf() != nullptr) {
        mill_options plain;
        static_cast<work_options&>(plain) = options;
        plain.to = type == dtype::f16    ? scheme_type::f16
                   : type == dtype::bf16 ? scheme_type::bf16
                                         : scheme_type::f32;
        plain.resume = false;
        return mill_into(*model, path, out, plain);
    }
    log_start(options, "dequantize", *model, type ? std::string(facts(*type).torch) : "the dtype before");
    std::optional<atomic_folder> folder;
    if (!options.dry_run) {
        auto made = atomic_folder::create(out, model->root(), options.force);
        if (!made) return made.error();
        folder.emplace(std::move(made).value());
    }
    dequantizer work(*model, *stored, type, options);
    weight_files files(*model);
    work.place(files);
    auto bytes = files.file_bytes();
    if (!bytes) return bytes.error();
    mill_report report;
    if (folder) {
        if (auto done = files.create(*folder); !done) return done.error();
        if (auto done = work.write(files); !done) return done.error();
        if (auto done = files.finish(*folder); !done) return done.error();
        auto others =
            put_other_files(*model, plain_config(model->config_text(), type), &*folder, options, work.now());
        if (!others) return others.error();
        if (auto done = commit(*folder, {}, options, work.now()); !done) return done.error();
    }
    report.source = path;
    report.output = out;
    report.requested = type ? facts(*type).torch : "dtype before";
    report.format = to_text(format::plain);
    report.dry_run = options.dry_run;
    report.source_bytes = source_file_bytes(*model);
    report.bytes = *bytes;
    report.side_bytes = side_file_bytes(*model);
    for (const auto& t : stored->tensors) {
        tensor_report row;
        row.name = t.name;
        row.shape = t.shape;
        row.source_dtype = t.type;
        const dtype to = work.output_type(t);
        row.requested = row.effective = t.coded() || to != t.type ? std::string(facts(to).torch) : "keep";
        row.reason = t.coded() ? stored_as(t) : "not coded";
        row.elements = t.elements;
        row.source_bytes = t.bytes;
        row.bytes = dequantizer::output_bytes(t, to);
        if (facts(t.type).weight) report.parameters += t.elements;
        report.tensors.push_back(std::move(row));
    }
    report.seconds = clock.seconds();
    log_report(options, report);
    return report;
}

}  // namespace detail

BITMILL_INLINE result<mill_report> dequantize(const std::string& model, const std::string& out,
                                              std::optional<dtype> type, const work_options& options,
                                              std::optional<scheme_type> level) {
    return detail::guard(
        model, [&]() -> result<mill_report> { return detail::dequantize(model, out, type, options, level); });
}

}  // namespace bitmill
