// What all directions of convert share: tensors that are copied as they are, and the report.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

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

}  // namespace bitmill::detail
