#pragma once

#include <algorithm>
#include <filesystem>

#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/manifest_check-inl.hpp>
#include <bitmill/detail/miller-inl.hpp>
#include <bitmill/detail/pickle_mill-inl.hpp>
#include <bitmill/detail/plan_gguf-inl.hpp>
#include <bitmill/detail/work-inl.hpp>
#include <bitmill/mill/mill.hpp>
#include <bitmill/mill/plan.hpp>

namespace bitmill {
namespace detail {

// "model-00002-of-00005.safetensors", as transformers names the shards of a model -> 5; 0 for any other name.
inline int shards_in_name(std::string_view name) {
    constexpr std::string_view pattern = "-#####-of-#####";
    name = name.substr(0, name.rfind('.'));
    if (name.size() < pattern.size()) return 0;
    name = name.substr(name.size() - pattern.size());
    const bool fits = std::equal(name.begin(), name.end(), pattern.begin(),
                                 [](char c, char p) { return p == '#' ? c >= '0' && c <= '9' : c == p; });
    int count = 0;
    if (fits) std::from_chars(name.data() + name.size() - 5, name.data() + name.size(), count);
    return count;
}

// What is kept is copied, its small weights, too.
inline void warn_of_unpruned(const mill_plan& plan, std::vector<std::string>& warnings) {
    std::size_t count = 0;
    std::string first;
    for (const auto& t : plan.tensors) {
        if (t.effective || !t.tied_to.empty() || t.elements == 0 || !is_prunable(t)) continue;
        if (count++ == 0) first = t.name + (t.reason.empty() ? "" : " (" + t.reason + ")");
    }
    if (count != 0)
        warnings.push_back("matrices not pruned, since they are kept as they are: " + std::to_string(count) +
                           ", first " + first);
}

inline std::vector<std::string> find_warnings(const checkpoint& model, const mill_plan& plan,
                                              const mill_options& options) {
    std::vector<std::string> warnings = plan.warnings;
    if (asks_to_prune(options)) warn_of_unpruned(plan, warnings);
    if (const int count = model.sharded() ? 0 : shards_in_name(model.shard_name(0)); count > 1)
        warnings.push_back(model.shard_name(0) + " is one of " + std::to_string(count) +
                           " files of a model: what lies in the others is not in the output; give the folder "
                           "with their index");
    for (const auto& side : model.side_files())
        if (!is_utf8(side.name))
            warnings.push_back(
                "a side file's name is not UTF-8: it is copied, but manifest.json cannot list it");
    const auto awkward = std::count_if(plan.tensors.begin(), plan.tensors.end(), [](const planned_tensor& t) {
        return t.effective && facts(t.effective->type).code_book && t.rows() % 32 != 0;
    });
    if (awkward != 0)
        warnings.push_back(
            std::to_string(awkward) +
            " matrices have a count of rows that is no multiple of 32: bitsandbytes 0.50 refuses to run "
            "those on CPUs with AVX512-BF16");
    const bool any =
        std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const auto& t) { return t.effective; });
    if (!any) warnings.push_back("nothing was milled: see the reasons");
    return warnings;
}

// Tensors of which hardly anything is left, as of weights whose scales 16 bits cannot hold. 6 dB: an error of half of
// what was there; int2 keeps 9 of a Gaussian.
inline void warn_of_losses(mill_report& report) {
    constexpr double least_db = 6;
    std::size_t lost = 0;
    std::string first;
    for (const auto& row : report.tensors) {
        if (!row.measured || row.error.sums().src2 == 0 || row.error.snr_db() >= least_db) continue;
        if (lost++ == 0) first = row.name;
    }
    if (lost != 0)
        report.warnings.push_back(std::to_string(lost) +
                                  " tensors keep less than 6 dB of their weights, first " + first +
                                  ": exclude them, or choose a format with F32 scales or more bits" +
                                  (report.pruning.empty() ? "" : ", or prune less"));
}

inline mill_report start_report(const checkpoint& model, const mill_plan& plan, const miller& mill,
                                const mill_options& options) {
    const auto errors = mill.errors(&tile_record::error);
    const auto base_errors = mill.errors(&tile_record::base_error);
    mill_report report;
    report.requested = to_text(plan.base);
    report.format = to_text(plan.format);
    const bool has_method = !is_plain(plan.base.type);
    report.method = !has_method ? "" : plan.method == method::mse ? "mse" : "absmax";
    report.pruning = pruning_text(options);
    report.source_bytes = source_file_bytes(model);
    report.warnings = find_warnings(model, plan, options);
    for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
        const planned_tensor& t = plan.tensors[i];
        tensor_report row;
        row.name = t.name;
        row.shape = t.shape;
        row.source_dtype = t.source_dtype;
        row.requested = t.requested ? to_text(*t.requested) : "keep";
        row.effective = !t.tied_to.empty() ? "tied"
                        : t.effective      ? to_text(*t.effective)
                        : t.coded          ? plain_name(t.source_dtype)
                                           : "keep";
        row.reason = t.reason;
        if (t.coded)
            row.reason += (t.reason.empty() ? "decoded from " : "; decoded from ") +
                          plan.source.quant_method + " " + stored_as(*t.coded);
        row.elements = t.elements;
        row.source_bytes = t.tied_to.empty() ? t.source_bytes : 0;
        row.bytes = total_bytes(t.parts);
        row.measured = t.effective.has_value() && !errors.empty();
        if (row.measured) row.error = errors[i];
        if (row.measured && t.effective->planes) row.base_error = base_errors[i];
        for (const auto& part : t.parts)
            if (part.what == output_part::kind::residual) row.residual_bytes = part.bytes;
        if (facts(t.source_dtype).weight && t.tied_to.empty()) report.parameters += t.elements;
        report.tensors.push_back(std::move(row));
    }
    warn_of_losses(report);
    return report;
}

// The source's weight files as they lie, and its config.json. Of a quantized model the files' own bytes count: a tile
// knows what it decoded, and not what stood beside it.
inline result<std::vector<file_record>> source_records(const checkpoint& model, const mill_plan& plan,
                                                       memory_source memory,
                                                       const std::vector<tensor_record>& tensors) {
    std::vector<file_record> out;
    std::size_t at = 0;
    const auto files = source_files(model, plan.source);
    for (std::size_t i = 0; i < files.size(); ++i) {
        const auto& file = *files[i].second;
        const bool by_tensor = file.dense() && plan.source.quant_method.empty();
        const auto [first, bytes] = by_tensor ? file.header() : weight_file::range{0, file.file().size()};
        auto value = digest_of_bytes(file.file(), first, bytes, memory);
        if (!value) return value.error();
        std::vector<digest> digests;
        for (; at < plan.tensors.size() && plan.tensors[at].source.shard == i; ++at)
            digests.push_back(tensors[at].source.value);
        if (by_tensor) *value = weights_digest(*value, digests);
        out.push_back({files[i].first, file.file().size(), *value, by_tensor});
    }
    const std::string& config = model.config_text();
    if (!config.empty()) out.push_back({"config.json", config.size(), sha256::of(config), false});
    return out;
}

// The digests of the output's tensors by name.
inline std::map<std::string, digest> part_digests(const std::vector<tensor_record>& tensors) {
    std::map<std::string, digest> out;
    for (const auto& tensor : tensors)
        for (const auto& part : tensor.parts) out[part.name] = part.hash.value;
    return out;
}

// The weight files of the output.
inline std::vector<file_record> weight_records(const weight_files& files,
                                               const std::map<std::string, digest>& parts) {
    std::vector<file_record> out;
    for (std::size_t file = 0; file < files.file_count(); ++file) {
        if (!files.exists(file)) continue;
        const auto& specs = files.specs(file);
        std::vector<digest> digests;
        for (const std::size_t index : files.order_of(file)) digests.push_back(parts.at(specs[index].name));
        out.push_back({files.name_of(file), files.bytes_of(file).value(),
                       weights_digest(sha256::of(files.header_of(file)), digests), true});
    }
    return out;
}

// The keys of the source, two of which say how the matrices lie; nothing for other formats.
inline std::optional<gguf_metadata> gguf_metadata_for(const checkpoint& model, const mill_plan& plan) {
    if (plan.format != format::gguf) return std::nullopt;
    gguf_metadata out = model.shard(0).gguf()->metadata();
    const bool any = std::any_of(plan.tensors.begin(), plan.tensors.end(),
                                 [](const auto& t) { return t.effective || t.coded; });
    if (!any) return out;
    const auto put = [&](const char* key, std::uint32_t value) {
        if (auto done = out.set(key, value); !done) throw exception(done.error());
    };
    put("general.file_type", gguf_file_type(plan.base.type));
    if (!is_plain(plan.base.type)) put("general.quantization_version", 2);
    return out;
}

struct milled {
    mill_report report;
    std::string manifest;  // "" in a dry run
    mill_plan plan;
    std::vector<file_record> others;  // index and config.json, which a dry run knows
};

inline bool is_gguf_name(const std::string& name) { return name.ends_with(".gguf"); }

// A .gguf alone, with no side files and no manifest, and not a folder that holds one.
inline bool is_single_file(const mill_plan& plan, const std::string& out) {
    return plan.format == format::gguf && is_gguf_name(out);
}

// Writes what lies beside the weights; the manifest of it all.
inline result<std::string> put_listed(const checkpoint& model, const mill_plan& plan, const miller& mill,
                                      const weight_files& files, const std::string& config,
                                      const atomic_folder* folder, const mill_options& options,
                                      const milled& made, const std::vector<tensor_record>& tensors) {
    auto source_files = source_records(model, plan, options.memory, tensors);
    if (!source_files) return source_files.error();
    auto written = weight_records(files, part_digests(tensors));
    written.insert(written.end(), made.others.begin(), made.others.end());
    auto sides = put_other_files(model, config, folder, options, mill.now());
    if (!sides) return sides.error();
    written.insert(written.end(), sides->begin(), sides->end());
    return manifest_text({plan, options, made.report, tensors, *source_files, written});
}

// Writes into `folder` and commits it; without one only the report and the manifest are made.
inline result<milled> mill_model(const checkpoint& model, const std::string& path, const std::string& out,
                                 const mill_options& options, atomic_folder* folder) {
    const stopwatch clock;
    auto plan = make_plan(model, options);
    if (!plan) return plan.error();
    log_start(options, "quantize", model, to_text(plan->base));
    const bool listed = !is_single_file(*plan, out) || (folder == nullptr && !options.dry_run);
    miller mill(model, *plan, options, listed);
    if (auto done = mill.scan(); !done) return done.error();
    if (auto done = lay_out(*plan, options.strict); !done) return done.error();
    weight_files files(model, gguf_metadata_for(model, *plan));
    mill.place(files);
    auto bytes = files.file_bytes();
    if (!bytes) return bytes.error();
    if (folder != nullptr)
        if (auto done = files.create(*folder); !done) return done.error();
    if (!options.dry_run)
        if (auto done = mill.write(files, folder); !done) return done.error();
    std::vector<tensor_record> tensors;
    if (listed && !options.dry_run) {
        tensors = mill.tensor_records(files);
        files.join_planes(part_digests(tensors));
    }
    if (folder != nullptr)
        if (auto done = files.finish(*folder); !done) return done.error();
    const std::string index = files.index_text();
    const std::string config =
        plan->format == format::gguf ? std::string() : config_for(*plan, model.config_text());
    milled made{start_report(model, *plan, mill, options), {}, {}, own_records(index, config)};
    made.report.source = path;
    made.report.output = out;
    made.report.dry_run = options.dry_run;
    made.report.resumed_bytes = mill.resumed_bytes();
    made.report.bytes = *bytes;
    made.report.residual_bytes = files.residual_bytes();
    made.report.side_bytes = listed ? side_file_bytes(model) : 0;
    if (options.dry_run) {
        made.plan = std::move(*plan);
        return made;
    }
    if (listed) {
        auto manifest = put_listed(model, *plan, mill, files, config, folder, options, made, tensors);
        if (!manifest) return manifest.error();
        made.manifest = std::move(*manifest);
    }
    if (folder != nullptr)
        if (auto done = commit(*folder, made.manifest, options, mill.now()); !done) return done.error();
    made.report.seconds = clock.seconds();
    return made;
}

// The report where `out` holds already what this call would write.
inline result<std::optional<mill_report>> find_milled(const checkpoint& model, const std::string& path,
                                                      const std::string& out, const mill_options& options) {
    const stopwatch clock;
    if (options.force || is_gguf_name(out)) return std::optional<mill_report>();
    const auto there = is_there(out + "/" + manifest_name);
    if (!there) return there.error();
    if (!*there) return std::optional<mill_report>();
    const auto stated = read_manifest(out);
    if (!stated && is_failure(stated.error())) return stated.error();
    if (!stated || !asks_the_same(*stated, options)) return std::optional<mill_report>();
    mill_options planned = options;
    planned.dry_run = true;
    auto made = mill_model(model, path, out, planned, nullptr);
    if (!made) return made.error();
    const auto same =
        guard(out, [&] { return holds_already(model, made->plan, made->others, out, *stated, options); });
    if (!same && is_failure(same.error())) return same.error();
    if (!same || !*same) return std::optional<mill_report>();
    if (auto tidied = atomic_folder::tidy(out, model.root()); !tidied) return tidied.error();
    made->report.dry_run = false;
    made->report.already_milled = true;
    made->report.seconds = clock.seconds();
    log_report(options, made->report);
    return std::optional<mill_report>(std::move(made->report));
}

// Not even --force replaces the file that is read.
inline result<void> check_other_file(const checkpoint& model, const std::string& out) {
    std::error_code none;
    if (!std::filesystem::equivalent(model.shard(0).file().path(), out, none)) return {};
    return error{.code = error_code::invalid_argument,
                 .message = "is the model that is read; choose another output",
                 .file = out};
}

inline result<mill_report> mill_into(const checkpoint& model, const std::string& path, const std::string& out,
                                     const mill_options& options) {
    std::optional<atomic_folder> folder;
    if (!options.dry_run) {
        // Options that make no sense are refused before anything is made beside OUT.
        auto plan = make_plan(model, options);
        if (!plan) return plan.error();
        auto key =
            options.resume ? journal_key(model, source_files(model, plan->source), options) : std::string();
        if (!key) return key.error();
        // A .gguf is known by its file, a folder of it by what lies in it.
        const bool single = is_single_file(*plan, out);
        if (single)
            if (auto other = check_other_file(model, out); !other) return other.error();
        auto made = atomic_folder::create(out, model.root(), options.force, std::move(*key),
                                          single ? weight_files::gguf_name : "");
        if (!made) return made.error();
        folder.emplace(std::move(made).value());
    }
    auto made = mill_model(model, path, out, options, folder ? &*folder : nullptr);
    if (!made) return made.error();
    log_report(options, made->report);
    return std::move(made->report);
}

inline result<mill_report> quantize(const std::string& path, const std::string& out,
                                    const mill_options& options) {
    if (is_pickle_path(path)) return quantize_pickle(path, out, options);
    auto model = checkpoint::open(path);
    if (!model) return model.error();
    if (!options.dry_run) {
        if (auto plan = make_plan(*model, options); !plan) return plan.error();
        auto already = find_milled(*model, path, out, options);
        if (!already) return already.error();
        if (*already) return std::move(**already);
    }
    return mill_into(*model, path, out, options);
}

}  // namespace detail

BITMILL_INLINE result<mill_report> quantize(const std::string& model, const std::string& out,
                                            const mill_options& options) {
    return detail::guard(model,
                         [&]() -> result<mill_report> { return detail::quantize(model, out, options); });
}

}  // namespace bitmill
