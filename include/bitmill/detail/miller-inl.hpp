// Planned tensors, tile by tile: scanned where the scheme needs it, coded, written, hashed; taken up after a kill.
#pragma once

#include <algorithm>
#include <set>
#include <span>

#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/checksum-inl.hpp>
#include <bitmill/detail/journal-inl.hpp>
#include <bitmill/detail/manifest-inl.hpp>
#include <bitmill/detail/prune-inl.hpp>
#include <bitmill/detail/stored_values-inl.hpp>
#include <bitmill/detail/tile_runner-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill::detail {

// How a planned tensor is cut. Units are rows of a matrix with integer codes or blocks of GGUF, elements of a
// flattened tensor for code books, casts and what is only decoded, bytes of a copy.
struct tiling {
    std::uint64_t unit_bytes;  // in the source, decoded where it is coded
    std::uint64_t units;
    std::uint64_t per_tile;

    explicit tiling(const planned_tensor& t) {
        const std::uint64_t element = element_bytes(t.source_dtype);
        const std::uint64_t room = t.coded ? stored_values::tile_bytes_of(*t.coded) : tile_bytes;
        if (!t.effective && !t.coded) {
            unit_bytes = 1;
            units = t.tied_to.empty() ? t.source_bytes : 0;
            per_tile = tile_bytes;
        } else if (t.effective && codes_rows(t.effective->type)) {
            unit_bytes = t.cols() * element;
            units = t.rows();
            per_tile = std::max<std::uint64_t>(1, room / std::max<std::uint64_t>(unit_bytes, 1));
        } else {
            unit_bytes = element;
            units = t.elements;
            per_tile = room / 4;  // a multiple of every block size
            // The absmax values are coded in blocks of 256 of their own.
            if (t.effective && t.effective->double_quant)
                per_tile = std::max<std::uint64_t>(per_tile, nested_block * t.effective->group_size);
        }
    }
    [[nodiscard]] std::uint64_t bytes() const { return units * unit_bytes; }
    void cut(std::size_t tensor, std::vector<tile>& tiles) const {
        for (std::uint64_t first = 0; first < units; first += per_tile)
            tiles.push_back({tensor, first, std::min(per_tile, units - first)});
    }
};

inline std::size_t slot_of(output_part::kind what) {
    switch (what) {
        case output_part::kind::scales: return 1;
        case output_part::kind::nested_scales:
        case output_part::kind::zero_points:
        case output_part::kind::residual: return 2;
        default: return 0;
    }
}

inline std::uint64_t third_part(const encoded_sizes& sizes) {
    return sizes.nested_scales + sizes.zero_points + sizes.residual;
}

class miller {
public:
    // `listed`: a manifest will say what source and output are; without one a checksum does for what is taken up again.
    miller(const checkpoint& model, mill_plan& plan, const mill_options& options, bool listed)
        : model_(model), plan_(plan), options_(options), listed_(listed),
          values_(model, plan.source, options.memory), runner_(options, total_work()) {}

    // Reads the tensors whose pruning or scheme depends on all of their values.
    result<void> scan() {
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
            planned_tensor& t = plan_.tensors[i];
            t.prune.threshold = t.prunes ? options_.weight_threshold : 0;
            if (!selects(t)) continue;
            if (auto done = find_pruning(i); !done) return done;
        }
        std::vector<tile> tiles;
        std::uint64_t footprint = 0;
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
            const planned_tensor& t = plan_.tensors[i];
            if (!needs_scan(t)) continue;
            const tiling cut(t);
            footprint = std::max(footprint, source_room(t));
            cut.cut(i, tiles);
        }
        if (tiles.empty()) return {};
        std::vector<finding> findings(tiles.size());
        auto done = runner_.run(
            tiles, footprint,
            [&](std::size_t at, const tile& one, tile_buffers& buffers) {
                return scan_tile(one, buffers, findings[at]);
            },
            [&](const tile& one) { return source_bytes(one); });
        if (!done) return done;
        return settle_findings(tiles, findings);
    }

    // Places every part in the output's files.
    void place(weight_files& files) {
        places_.resize(plan_.tensors.size());
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i)
            for (const auto& part : plan_.tensors[i].parts) {
                const std::size_t shard = plan_.tensors[i].source.shard;
                tensor_spec spec{part.name, part.type, part.shape, part.block};
                places_[i].push_back(part.what == output_part::kind::residual
                                         ? files.add_residual(shard, std::move(spec))
                                         : files.add(shard, std::move(spec), part.bytes));
            }
    }

    // With a folder: goes on where a killed run stopped, and keeps the folder's journal.
    result<void> write(weight_files& files, atomic_folder* folder) {
        std::vector<tile>& tiles = tiles_;
        std::uint64_t footprint = 0;
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
            const planned_tensor& t = plan_.tensors[i];
            for (std::size_t p = 0; p < t.parts.size(); ++p) {
                if (t.parts[p].what != output_part::kind::constant) continue;
                const auto& bytes = t.parts[p].constant;
                if (auto done = files.write(places_[i][p], 0,
                                            reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
                    !done)
                    return done;
            }
            const tiling cut(t);
            const std::uint64_t largest = std::min(cut.per_tile, cut.units);
            footprint = std::max(footprint, source_room(t) + coded_bytes(t, largest).total());
            cut.cut(i, tiles);
        }
        records_.resize(tiles.size());
        journal notes(records_, options_.journal_bytes, [&](auto batch) { return sync(files, batch); });
        const auto left = take_up(notes, files, folder);
        if (!left) return left.error();
        std::vector<tile> todo;
        for (const std::size_t at : *left) todo.push_back(tiles[at]);
        auto written = runner_.run(
            todo, footprint,
            [&](std::size_t i, const tile& one, tile_buffers& buffers) -> result<void> {
                const std::size_t at = (*left)[i];
                if (auto put = write_tile(one, buffers, files, records_[at]); !put) return put;
                return notes.add(at, source_bytes(one));
            },
            [&](const tile& one) { return source_bytes(one); });
        if (!written) return written;
        return notes.flush();
    }

    // After write(), by tensor: of all planes, or of the base plane alone.
    [[nodiscard]] std::vector<error_metrics> errors(error_metrics tile_record::* which) const {
        std::vector<error_metrics> out(records_.empty() ? 0 : plan_.tensors.size());
        for (std::size_t at = 0; at < tiles_.size(); ++at) {
            out[tiles_[at].tensor].add(records_[at].*which);
        }
        return out;
    }

    [[nodiscard]] std::vector<tensor_record> tensor_records(const weight_files& files) const {
        std::vector<tensor_record> out(plan_.tensors.size());
        std::size_t at = 0;
        for (std::size_t i = 0; i < out.size(); ++i) {
            const planned_tensor& t = plan_.tensors[i];
            const std::size_t first = at;
            while (at < tiles_.size() && tiles_[at].tensor == i) ++at;
            const std::span records(records_.data() + first, at - first);
            const tiling cut(t);
            out[i].source = {cut.unit_bytes * cut.per_tile,
                             fold(records, [](const tile_record& r) { return r.source; })};
            for (std::size_t p = 0; p < t.parts.size(); ++p)
                out[i].parts.push_back(
                    {t.parts[p].name, files.name_of(places_[i][p].file), part_hash(t, t.parts[p], records)});
        }
        return out;
    }

    [[nodiscard]] const progress& now() const { return runner_.now(); }
    // Of the source, that a killed run had milled.
    [[nodiscard]] std::uint64_t resumed_bytes() const { return resumed_bytes_; }

private:
    struct finding {
        value_range range;
        double absmax_sum = 0;
        std::optional<cast_obstacle> obstacle;  // index within the tile
    };

    [[nodiscard]] static bool narrows(const planned_tensor& t) {
        return t.effective && is_plain(t.effective->type) && facts(t.effective->type).plain != t.source_dtype;
    }
    [[nodiscard]] static bool per_tensor(const planned_tensor& t) {
        return facts(t.effective->type).integer && t.effective->granularity == granularity::per_tensor;
    }
    [[nodiscard]] bool needs_scan(const planned_tensor& t) const {
        return t.effective &&
               (options_.keep_non_finite || narrows(t) || per_tensor(t) || t.effective->double_quant);
    }
    [[nodiscard]] std::uint64_t total_work() const {
        std::uint64_t sum = 0;
        for (const auto& t : plan_.tensors)
            sum += tiling(t).bytes() * (1u + (needs_scan(t) ? 1u : 0u) + (selects(t) ? 1u : 0u));
        return sum;
    }
    // A dry run needs to know what is pruned only where that shows in what a reader is told.
    [[nodiscard]] bool selects(const planned_tensor& t) const {
        return t.effective && t.prunes && options_.weight_threshold == 0 &&
               (!options_.dry_run || needs_scan(t));
    }
    [[nodiscard]] std::uint64_t source_bytes(const tile& one) const {
        return one.count * tiling(plan_.tensors[one.tensor]).unit_bytes;
    }
    // What a tile of the source takes until its codes are there.
    [[nodiscard]] static std::uint64_t source_room(const planned_tensor& t) {
        const tiling cut(t);
        const std::uint64_t bytes = cut.unit_bytes * std::min(cut.per_tile, cut.units);
        return bytes + scratch_bytes(t) +
               (t.coded ? stored_values::scratch_bytes(*t.coded, bytes / element_bytes(t.source_dtype),
                                                       t.source_dtype)
                        : 0);
    }
    // What the codec holds besides source and codes: a chunk of f32, or a row where a row is longer.
    [[nodiscard]] static std::uint64_t scratch_bytes(const planned_tensor& t) {
        return 12 * std::max<std::uint64_t>(sums_chunk,
                                            t.effective && codes_rows(t.effective->type) ? t.cols() : 0);
    }
    static constexpr std::uint64_t sums_chunk = 3 * kernels::sums_run;

    template <class Of>
    [[nodiscard]] static digest fold(std::span<const tile_record> records, const Of& of) {
        sha256 sum;
        for (const auto& one : records) add(sum, of(one));
        return sum.finish();
    }

    [[nodiscard]] static piece_hash part_hash(const planned_tensor& t, const output_part& part,
                                              std::span<const tile_record> records) {
        const std::size_t slot = slot_of(part.what);
        const bool whole =
            part.what == output_part::kind::constant || (slot != 0 && t.effective && per_tensor(t));
        if (whole) {
            sha256 sum;
            if (part.what == output_part::kind::constant) add(sum, sha256::of(part.constant));
            if (part.what != output_part::kind::constant && !records.empty())
                add(sum, records.front().parts[slot]);
            return {part.bytes, sum.finish()};
        }
        const tiling cut(t);
        const encoded_sizes sizes = coded_bytes(t, cut.per_tile);
        const std::uint64_t pieces[] = {t.effective ? sizes.codes : cut.unit_bytes * cut.per_tile,
                                        sizes.scales, third_part(sizes)};
        return {pieces[slot], fold(records, [slot](const tile_record& r) { return r.parts[slot]; })};
    }

    [[nodiscard]] static encoded_sizes coded_bytes(const planned_tensor& t, std::uint64_t units) {
        if (!t.effective) return {};
        const bool rows = codes_rows(t.effective->type);
        return encode_bound(*t.effective, rows ? units : 1, rows ? t.cols() : units).value();
    }

    [[nodiscard]] error name_it(error what, const planned_tensor& t) const {
        what.tensor = t.name;
        if (what.file.empty()) what.file = model_.shard(t.source.shard).file().path();
        return what;
    }

    // Reads a tile; its matrix as the codec sees it.
    result<weight_view> read(const tile& one, tile_buffers& buffers) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        const tiling cut(t);
        const std::uint64_t bytes = one.count * cut.unit_bytes;
        std::byte* to = grow(buffers.source, bytes);
        const auto& file = model_.shard(t.source.shard);
        const std::uint64_t element = element_bytes(t.source_dtype);
        auto done = t.coded ? values_.read(*t.coded, element_of(one, 0), bytes / element, t.source_dtype, to,
                                           buffers.coded)
                            : file.read(file[t.source.tensor], one.first * cut.unit_bytes,
                                        {to, static_cast<std::size_t>(bytes)});
        if (!done) return name_it(done.error(), t);
        const bool rows = t.effective && codes_rows(t.effective->type);
        const weight_view view{t.source_dtype, to, static_cast<std::size_t>(rows ? one.count : 1),
                               static_cast<std::size_t>(rows ? t.cols() : one.count)};
        // What is only decoded meets no codec that would find damaged scales.
        if (t.coded && !t.effective && !options_.keep_non_finite)
            if (const auto obstacle = find_cast_obstacle(view, t.source_dtype))
                return not_finite(one, obstacle->index);
        return view;
    }

    // The codec counts elements within a tile.
    [[nodiscard]] std::uint64_t element_of(const tile& one, std::uint64_t index) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        const bool rows = t.effective && codes_rows(t.effective->type);
        return one.first * (rows ? t.cols() : 1) + index;
    }

    // What of a tensor's pruning holds for a tile, by the tile's indices.
    [[nodiscard]] pruning prune_of(const tile& one) const {
        const pruning& whole = plan_.tensors[one.tensor].prune;
        const std::uint64_t first = element_of(one, 0);
        return {whole.threshold,
                static_cast<std::size_t>(whole.equal_before > first ? whole.equal_before - first : 0)};
    }

    // Finds what a tensor's pruning takes, which depends on all of its values.
    result<void> find_pruning(std::size_t tensor) {
        planned_tensor& t = plan_.tensors[tensor];
        std::vector<tile> tiles;
        tiling(t).cut(tensor, tiles);
        const each_tile_fn each_tile = [&](const visit_fn& visit, std::size_t first, std::size_t count) {
            return runner_.run(
                std::vector<tile>(tiles.begin() + static_cast<std::ptrdiff_t>(first),
                                  tiles.begin() + static_cast<std::ptrdiff_t>(first + count)),
                source_room(t),
                [&](std::size_t at, const tile& one, tile_buffers& buffers) -> result<void> {
                    auto view = read(one, buffers);
                    if (view) visit(first + at, element_of(one, 0), *view);
                    return view ? result<void>() : view.error();
                },
                [](const tile&) { return std::uint64_t{0}; });
        };
        auto found = options_.prune_relative > 0
                         ? find_relative(options_.prune_relative, tiles.size(), each_tile)
                         : find_smallest(sparse_count(options_.target_sparsity, t.elements), t.source_dtype,
                                         tiles.size(), each_tile, options_.memory);
        if (!found) return found.error();
        t.prune = *found;
        runner_.skip(tiling(t).bytes());
        return {};
    }

    [[nodiscard]] error not_finite(const tile& one, std::uint64_t index) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        const std::uint64_t element = element_of(one, index);
        const std::uint64_t offset = model_.shard(t.source.shard)[t.source.tensor].offset +
                                     (t.coded ? 0 : element * element_bytes(t.source_dtype));
        return name_it(
            {.code = error_code::bad_input,
             .message = (t.coded ? "decodes to NaN or infinity at element " : "NaN or infinity at element ") +
                        std::to_string(element) + "; --nan keep keeps such tensors as they are",
             .offset = offset},
            t);
    }

    result<void> scan_tile(const tile& one, tile_buffers& buffers, finding& found) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        auto view = read(one, buffers);
        if (!view) return view.error();
        const dtype to = narrows(t) ? facts(t.effective->type).plain : t.source_dtype;
        found.obstacle = find_cast_obstacle(*view, to);
        if (found.obstacle) {
            const std::uint64_t index = found.obstacle->index;
            const bool unusable =
                found.obstacle->not_finite || !narrows(t);  // f64 beyond f32 has no code either
            if (unusable && !options_.keep_non_finite) return not_finite(one, index);
            return {};
        }
        if (per_tensor(t)) found.range = find_range(*view, prune_of(one)).value();
        if (t.effective->double_quant)
            found.absmax_sum = sum_absmax(*view, t.effective->group_size, prune_of(one)).value();
        return {};
    }

    result<void> settle_findings(const std::vector<tile>& tiles, const std::vector<finding>& findings) {
        std::vector<double> sums(plan_.tensors.size(), 0.0);
        value_range whole_model;
        for (std::size_t at = 0; at < tiles.size(); ++at) {
            planned_tensor& t = plan_.tensors[tiles[at].tensor];
            if (!t.effective) continue;
            if (const auto& obstacle = findings[at].obstacle) {
                const std::string element =
                    "element " + std::to_string(element_of(tiles[at], obstacle->index));
                const std::string target(facts(facts(t.effective->type).plain).name);
                std::string reason = obstacle->not_finite || !narrows(t)
                                         ? "holds NaN or infinity, first at " + element
                                         : element + " overflows " + target;
                if (auto kept = keep(t, std::move(reason), options_.strict); !kept) return kept;
                continue;
            }
            if (!t.range) t.range = value_range{};
            t.range->include(findings[at].range);
            whole_model.include(findings[at].range);
            sums[tiles[at].tensor] += findings[at].absmax_sum;
        }
        for (std::size_t i = 0; i < plan_.tensors.size(); ++i) {
            planned_tensor& t = plan_.tensors[i];
            if (!t.effective) continue;
            if (!options_.dynamic_range && per_tensor(t)) t.range = whole_model;
            if (t.effective->double_quant) {
                const auto blocks = static_cast<double>(ceil_div(t.elements, t.effective->group_size));
                t.nested_offset = static_cast<float>(blocks == 0 ? 0 : sums[i] / blocks);
            }
        }
        return {};
    }

    [[nodiscard]] digest hash_of(std::span<const std::byte> bytes) const {
        return listed_ ? sha256::of(bytes) : checksum_of(bytes);
    }

    result<void> write_tile(const tile& one, tile_buffers& buffers, weight_files& files,
                            tile_record& record) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        auto view = read(one, buffers);
        if (!view) return view.error();
        const auto digest_of = [&](const void* bytes, std::uint64_t count) {
            return hash_of({static_cast<const std::byte*>(bytes), static_cast<std::size_t>(count)});
        };
        if (listed_ || !t.effective)
            record.source = record.parts[0] = digest_of(view->data, source_bytes(one));
        if (!t.effective)
            return put_parts(one,
                             {static_cast<std::byte*>(const_cast<void*>(view->data)), nullptr, nullptr,
                              nullptr, 0, nullptr},
                             files);
        const encoded_sizes sizes = coded_bytes(t, one.count);
        std::byte* output = grow(buffers.output, sizes.total() + 16);
        std::byte* third = output + sizes.codes + sizes.scales;
        encoded_view coded{output, output + sizes.codes, third, third, 0, third};
        encode_options how;
        how.method = t.method;
        const pruning prune = prune_of(one);
        how.weight_threshold = prune.threshold;
        how.equal_before = prune.equal_before;
        how.count_zeros = true;
        how.range = t.range;
        how.nested_offset = t.nested_offset;
        how.memory = options_.memory;
        how.base_error = &record.base_error;
        auto error_of_tile = encode(*t.effective, *view, coded, how);
        if (!error_of_tile) {
            if (error_of_tile.error().code != error_code::bad_input) return name_it(error_of_tile.error(), t);
            return not_finite(one, error_of_tile.error().offset);
        }
        record.error = *error_of_tile;
        record.parts = {digest_of(coded.codes, sizes.codes), digest_of(coded.scales, sizes.scales),
                        digest_of(third, third_part(sizes))};
        return put_parts(one, coded, files);
    }

    // Where a tile's bytes go: visit(place, slot, offset in the part, bytes) -> result<void> for each part.
    template <class Visit>
    result<void> each_part(const tile& one, const Visit& visit) const {
        const planned_tensor& t = plan_.tensors[one.tensor];
        if (!t.effective) {
            const std::uint64_t unit = tiling(t).unit_bytes;
            return visit(places_[one.tensor][0], 0, one.first * unit, one.count * unit);
        }
        const encoded_sizes sizes = coded_bytes(t, one.count);
        const encoded_sizes before = coded_bytes(t, one.first);
        const std::uint64_t begins[] = {before.codes, before.scales, third_part(before)};
        const std::uint64_t counts[] = {sizes.codes, sizes.scales, third_part(sizes)};
        for (std::size_t p = 0; p < t.parts.size(); ++p) {
            if (t.parts[p].what == output_part::kind::constant) continue;
            const std::size_t slot = slot_of(t.parts[p].what);
            // One scale of a whole tensor: every tile knows it, the first writes it.
            const bool whole = slot != 0 && per_tensor(t);
            if (whole && one.first != 0) continue;
            auto done = visit(places_[one.tensor][p], slot, whole ? 0 : begins[slot], counts[slot]);
            if (!done) return done;
        }
        return {};
    }

    result<void> put_parts(const tile& one, const encoded_view& coded, weight_files& files) const {
        const std::byte* const bytes[] = {coded.codes, coded.scales, coded.nested_scales};
        return each_part(one, [&](auto place, std::size_t slot, std::uint64_t offset, std::uint64_t count) {
            return files.write(place, offset, bytes[slot], count);
        });
    }

    // Opens the journal where there is a folder, counts the tiles that it holds as done, and returns the others.
    result<std::vector<std::size_t>> take_up(journal& notes, weight_files& files, atomic_folder* folder) {
        std::vector<std::uint8_t> done(tiles_.size());
        if (folder != nullptr && !folder->key().empty()) {
            const auto opened = notes.open(*folder);
            if (!opened) return opened.error();
            std::copy(opened->begin(), opened->end(), done.begin());
            if (folder->resumes())
                if (auto checked = read_back(files, *folder, done); !checked) {
                    // Nothing of it is known to be wrong.
                    folder->keep_partial();
                    error what = checked.error();
                    if (what.code == error_code::io) what.message += "; --no-resume starts anew";
                    return what;
                }
        }
        std::vector<std::size_t> left;
        for (std::size_t at = 0; at < tiles_.size(); ++at) {
            if (done[at] == 0) {
                left.push_back(at);
                continue;
            }
            auto counted =
                each_part(tiles_[at], [&](auto place, std::size_t, std::uint64_t, std::uint64_t count) {
                    return files.skip(place, count);
                });
            if (!counted) return counted.error();
            resumed_bytes_ += source_bytes(tiles_[at]);
        }
        runner_.skip(resumed_bytes_);
        if (folder != nullptr && folder->resumes())
            log_line(options_, log_level::info,
                     "resumes: " + std::to_string(tiles_.size() - left.size()) + " of " +
                         std::to_string(tiles_.size()) + " tiles are done");
        return left;
    }

    // Which of the tiles that the journal holds lie in the files as it says: a disk can lose what it was told to keep.
    result<void> read_back(const weight_files& files, const atomic_folder& folder,
                           std::vector<std::uint8_t>& done) const {
        std::vector<std::optional<input_file>> opened(files.file_count());
        for (std::size_t file = 0; file < opened.size(); ++file) {
            if (!files.exists(file)) continue;
            auto one = input_file::open(folder.path_of(files.name_of(file)));
            if (!one) return one.error();
            opened[file].emplace(std::move(*one));
        }
        std::vector<tile> tiles;
        std::vector<std::size_t> which;
        std::uint64_t total = 0;
        std::uint64_t largest = 0;
        for (std::size_t at = 0; at < tiles_.size(); ++at) {
            if (done[at] == 0) continue;
            tiles.push_back(tiles_[at]);
            which.push_back(at);
            total += source_bytes(tiles_[at]);
            const planned_tensor& t = plan_.tensors[tiles_[at].tensor];
            largest = std::max(
                largest, t.effective ? coded_bytes(t, tiles_[at].count).total() : source_bytes(tiles_[at]));
        }
        tile_runner runner(options_, total);
        return runner.run(
            tiles, largest,
            [&](std::size_t i, const tile& one, tile_buffers& buffers) {
                return each_part(one,
                                 [&](auto place, std::size_t slot, std::uint64_t offset,
                                     std::uint64_t count) -> result<void> {
                                     const std::span<std::byte> room(grow(buffers.source, count),
                                                                     static_cast<std::size_t>(count));
                                     auto read =
                                         opened[place.file]->read_at(files.offset_of(place) + offset, room);
                                     if (read && hash_of(room) != records_[which[i]].parts[slot])
                                         done[which[i]] = 0;
                                     return read;
                                 });
            },
            [&](const tile& one) { return source_bytes(one); });
    }

    result<void> sync(weight_files& files, std::span<const std::size_t> batch) const {
        std::set<std::size_t> written;
        for (const std::size_t at : batch)
            for (const auto& place : places_[tiles_[at].tensor]) written.insert(place.file);
        for (const std::size_t file : written)
            if (auto done = files.sync(file); !done) return done;
        return {};
    }

    const checkpoint& model_;
    mill_plan& plan_;
    const mill_options& options_;
    const bool listed_;
    stored_values values_;
    tile_runner runner_;
    std::vector<std::vector<weight_files::place>> places_;
    std::vector<tile> tiles_;
    std::vector<tile_record> records_;
    std::uint64_t resumed_bytes_ = 0;
};

}  // namespace bitmill::detail
