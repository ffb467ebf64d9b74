// The text of manifest.json. Each byte is hashed once, in its tile: a tensor's hash is the SHA-256 of the digests of
// its pieces of `piece` bytes (the last may be shorter), a weight file's that of the digest of its header and those of
// its tensors, in the file's order. Any other file has the plain SHA-256.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/sha256.hpp>
#include <bitmill/detail/json_document-inl.hpp>
#include <bitmill/detail/options-inl.hpp>
#include <bitmill/detail/report-inl.hpp>
#include <bitmill/mill/plan.hpp>
#include <bitmill/version.hpp>

namespace bitmill::detail {

inline constexpr const char* manifest_name = "manifest.json";
inline constexpr int manifest_format = 1;
inline constexpr std::string_view manifest_tail = ",\n \"manifest_sha256\": \"";

struct piece_hash {
    std::uint64_t piece = 0;  // bytes
    digest value{};
};

struct file_record {
    std::string name;
    std::uint64_t bytes = 0;
    digest value{};
    bool weights = false;
};

struct part_record {
    std::string name;
    std::string file;
    piece_hash hash;
};

struct tensor_record {
    piece_hash source;
    std::vector<part_record> parts;
};

inline sha256& add(sha256& sum, const digest& value) { return sum.update(std::as_bytes(std::span(value))); }

// The hash of a weight file: its header, then its tensors in the file's order.
inline digest weights_digest(const digest& header, const std::vector<digest>& tensors) {
    sha256 sum;
    add(sum, header);
    for (const auto& one : tensors) add(sum, one);
    return sum.finish();
}

// How the codes of a tensor come about; a later version that computes them otherwise counts up.
inline std::string algorithm_id(const planned_tensor& t) {
    if (!t.effective) return t.coded ? "decode/1" : "copy";
    const auto& type = facts(t.effective->type);
    if (is_plain(type.type)) return "cast/1";
    return std::string(type.name) + (t.effective->planes ? "-planes-" : "-") +
           name_of_value(method_names, t.method) + "/1";
}

inline ordered_json json_of(const mill_options& options) {
    const auto named = [](const auto& names, const auto& value) {
        return value ? ordered_json(name_of_value(names, *value)) : ordered_json(nullptr);
    };
    ordered_json levels = ordered_json::array();
    for (const auto one : options.levels) levels.push_back(facts(one).name);
    ordered_json out = json_object({{"to", facts(options.to).name},
                                    {"format", to_text(options.format)},
                                    {"granularity", named(granularity_names, options.granularity)},
                                    {"group_size", options.group_size},
                                    {"block_size", options.block_size},
                                    {"double_quant", options.double_quant},
                                    {"symmetric", options.symmetric},
                                    {"method", named(method_names, options.method)},
                                    {"activation", name_of_value(activation_names, options.activation)},
                                    {"embeddings", named(embeddings_names, options.embeddings)},
                                    {"levels", std::move(levels)},
                                    {"include", options.include},
                                    {"exclude", options.exclude},
                                    {"override", options.override},
                                    {"weight_threshold", options.weight_threshold},
                                    {"dynamic_range", options.dynamic_range},
                                    {"keep_non_finite", options.keep_non_finite}});
    // Where they are not asked for the text is that of the versions before them.
    if (options.prune_relative != 0) out["prune_relative"] = options.prune_relative;
    if (options.target_sparsity != 0) out["target_sparsity"] = options.target_sparsity;
    return out;
}

// Throws nlohmann's exceptions and bitmill::exception for what json_of never wrote.
inline mill_options options_of(const ordered_json& request, const work_options& work) {
    mill_options options;
    static_cast<work_options&>(options) = work;
    const auto text = [&](const char* key) { return request.at(key).get<std::string>(); };
    options.to = level_from_text(text("to")).value().type;
    if (text("format") != to_text(format::automatic))
        options.format = format_from_text(text("format")).value();
    if (!request.at("granularity").is_null())
        options.granularity = granularity_from_text(text("granularity")).value();
    options.group_size = request.at("group_size").get<std::size_t>();
    options.block_size = request.at("block_size").get<std::size_t>();
    options.double_quant = request.at("double_quant").get<bool>();
    options.symmetric = request.at("symmetric").get<bool>();
    if (!request.at("method").is_null()) options.method = method_from_text(text("method")).value();
    options.activation = activation_from_text(text("activation")).value();
    if (!request.at("embeddings").is_null())
        options.embeddings = embeddings_from_text(text("embeddings")).value();
    for (const auto& one : request.at("levels"))
        options.levels.push_back(level_from_text(one.get<std::string>()).value().type);
    options.include = request.at("include").get<std::vector<std::string>>();
    options.exclude = request.at("exclude").get<std::vector<std::string>>();
    options.override = request.at("override").get<std::vector<std::string>>();
    options.weight_threshold = request.at("weight_threshold").get<float>();
    options.prune_relative = request.value("prune_relative", 0.0);
    options.target_sparsity = request.value("target_sparsity", 0.0);
    options.dynamic_range = request.at("dynamic_range").get<bool>();
    options.keep_non_finite = request.at("keep_non_finite").get<bool>();
    return options;
}

inline ordered_json json_of(const piece_hash& hash) {
    return json_object({{"piece", hash.piece}, {"sha256", hex_text(hash.value)}});
}

inline ordered_json json_of(const std::vector<file_record>& files) {
    ordered_json list = ordered_json::array();
    for (const auto& one : files)
        list.push_back(json_object({{"name", one.name},
                                    {"bytes", one.bytes},
                                    {"hash", one.weights ? "tensors" : "plain"},
                                    {"sha256", hex_text(one.value)}}));
    return list;
}

struct manifest_contents {
    const mill_plan& plan;
    const mill_options& options;
    const mill_report& report;  // rows as plan.tensors
    const std::vector<tensor_record>& tensors;
    const std::vector<file_record>& source_files;
    const std::vector<file_record>& files;
};

// Nothing in it depends on time, place, threads or the machine. One line a tensor, and the hash of all that stands
// before it at the end.
inline std::string manifest_text(const manifest_contents& c) {
    const auto dump = [](const ordered_json& value) { return dumped(value, -1); };
    std::string text =
        "{\"bitmill_manifest\": " + std::to_string(manifest_format) +
        ",\n \"version\": \"" BITMILL_VERSION_TEXT "\",\n \"request\": " + dump(json_of(c.options)) +
        ",\n \"source\": " + dump(json_of(c.source_files)) + ",\n \"files\": " + dump(json_of(c.files)) +
        ",\n \"tensors\": [";
    for (std::size_t i = 0; i < c.tensors.size(); ++i) {
        const auto& row = c.report.tensors[i];
        ordered_json parts = ordered_json::array();
        for (const auto& part : c.tensors[i].parts) {
            ordered_json one = json_object({{"name", part.name}, {"file", part.file}});
            one.update(json_of(part.hash));
            parts.push_back(std::move(one));
        }
        ordered_json line = json_object({{"name", row.name},
                                         {"shape", row.shape},
                                         {"dtype", std::string(facts(row.source_dtype).name)},
                                         {"requested", row.requested},
                                         {"effective", row.effective},
                                         {"reason", row.reason},
                                         {"algorithm", algorithm_id(c.plan.tensors[i])},
                                         {"source", json_of(c.tensors[i].source)},
                                         {"parts", std::move(parts)}});
        if (row.measured) line["error"] = error_json(row.error);
        if (row.base_error) line["base_error"] = error_json(*row.base_error);
        text += (i == 0 ? "\n  " : ",\n  ") + dump(line);
    }
    text += "\n ]";
    const std::string own = hex_text(sha256::of(text));
    return text + std::string(manifest_tail) + own + "\"}\n";
}

}  // namespace bitmill::detail
