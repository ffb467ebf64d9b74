// What stands behind the last layer: sentence-transformers' modules, the heads that classify a sequence.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/detail/encoder-inl.hpp>
#include <bitmill/detail/encoder_model_config-inl.hpp>
#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/model_weights-inl.hpp>
#include <bitmill/kernels/lane_sum.hpp>
#include <bitmill/model/encoder_model.hpp>

namespace bitmill::detail {

inline constexpr std::uint64_t side_json_bytes = std::uint64_t{1} << 20;

// A JSON file of a model's folder; null where it is not there.
inline result<json> read_side_json(const std::string& root, const std::string& name, bool is_array) {
    const std::string path = root + "/" + name;
    const auto there = is_there(path);
    if (!there) return there.error();
    if (!*there) return json();
    const auto file = input_file::open_beneath(root, name);
    if (!file) return file.error();
    const auto text = read_text(*file, side_json_bytes);
    if (!text) return text.error();
    if (auto checked = check_json(*text, 64, is_array, path); !checked) return checked.error();
    return json::parse(*text);
}

// How a sentence's vector is made; `missing` says what of it this version cannot do.
struct sentence_head {
    bitmill::pooling pooling = pooling::mean;
    bool normalize = false;
    bool include_prompt = true;
    std::optional<error> missing = {};
};

class sentence_head_reader {
public:
    sentence_head_reader(const std::string& root, std::size_t hidden_size)
        : root_(root), hidden_size_(hidden_size) {}

    // Without modules.json sentence-transformers takes the mean.
    result<sentence_head> read() {
        const auto modules = read_side_json(root_, "modules.json", true);
        if (!modules) return modules.error();
        if (modules->is_null()) return out_;
        const std::string path = root_ + "/modules.json";
        std::vector<std::string> kinds;
        for (const auto& one : *modules) {
            const std::string type = text(one, "type");
            const bool ours = type.starts_with("sentence_transformers.");
            const std::string kind = ours ? type.substr(type.rfind('.') + 1) : type;
            if (kind == "Transformer" && !text(one, "path").empty()) {
                lack(path, "its Transformer lies in '" + shortened(text(one, "path")) +
                               "'; this version runs one that lies in the folder itself");
                return out_;
            }
            if (kind == "Pooling")
                if (auto done = read_pooling(text(one, "path")); !done) return done.error();
            kinds.push_back(kind);
        }
        const bool known = kinds == std::vector<std::string>{"Transformer", "Pooling"};
        out_.normalize = kinds == std::vector<std::string>{"Transformer", "Pooling", "Normalize"};
        if (known || out_.normalize) return out_;
        std::string all;
        for (const auto& kind : kinds) all.append(all.empty() ? "" : ", ").append(kind);
        lack(path, "its modules are " + (all.empty() ? "none" : shortened(all)) +
                       "; this version runs Transformer, Pooling and, behind them, Normalize");
        return out_;
    }

private:
    void lack(const std::string& file, std::string what) {
        out_.missing = error{.code = error_code::unsupported, .message = std::move(what), .file = file};
    }

    static std::string text(const json& object, const char* key) {
        const auto found = object.is_object() ? object.find(key) : object.end();
        return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
    }

    result<void> read_pooling(const std::string& folder) {
        if (folder.size() > 255)
            return error{.code = error_code::bad_input,
                         .message = "the path of its Pooling module has " + std::to_string(folder.size()) +
                                    " characters, and may have 255: " + folder.substr(0, 60) +
                                    "...; write where it lies",
                         .file = root_ + "/modules.json"};
        const std::string name = folder + (folder.empty() ? "" : "/") + "config.json";
        const auto config = read_side_json(root_, name, false);
        if (!config) return config.error();
        const auto refuse = [&](std::string message) {
            return error{
                .code = error_code::bad_input, .message = std::move(message), .file = root_ + "/" + name};
        };
        if (config->is_null()) return refuse("is missing, and modules.json names it; fetch it");
        for (const char* key : {"word_embedding_dimension", "embedding_dimension"})
            if (const auto size = config->find(key);
                size != config->end() && !size->is_null() && *size != hidden_size_)
                return refuse(std::string(key) + " is " + shown(*size) + ", the model's hidden size " +
                              std::to_string(hidden_size_) + "; fetch the files of one model again");
        if (const auto included = config->find("include_prompt"); included != config->end())
            out_.include_prompt = *included != false;
        const auto modes = modes_of(*config);
        if (modes.empty()) return refuse("names no pooling mode; set pooling_mode, for one to \"mean\"");
        std::string all;
        for (const auto& mode : modes) all.append(all.empty() ? "" : ", ").append(mode);
        static constexpr std::pair<std::string_view, bitmill::pooling> table[] = {
            {"mean", pooling::mean},      {"mean_tokens", pooling::mean}, {"cls", pooling::cls},
            {"cls_token", pooling::cls},  {"max", pooling::max},          {"max_tokens", pooling::max},
            {"lasttoken", pooling::last},
        };
        const auto* found = std::find_if(std::begin(table), std::end(table),
                                         [&](const auto& row) { return row.first == all; });
        if (found != std::end(table))
            out_.pooling = found->second;
        else
            lack(root_ + "/" + name, "pooling mode " + shortened(all) +
                                         " is not run by this version; it runs one of mean, cls, max and "
                                         "lasttoken");
        return {};
    }

    // As text (newer files), or as one boolean each.
    static std::vector<std::string> modes_of(const json& config) {
        std::vector<std::string> modes;
        if (const auto mode = config.find("pooling_mode"); mode != config.end() && !mode->is_null()) {
            if (mode->is_string()) modes.push_back(mode->get<std::string>());
            if (mode->is_array())
                for (const auto& one : *mode)
                    modes.push_back(one.is_string() ? one.get<std::string>() : shown(one));
            return modes;
        }
        constexpr std::string_view prefix = "pooling_mode_";
        for (const auto& [key, value] : config.items())
            if (key.starts_with(prefix) && value == true) modes.push_back(key.substr(prefix.size()));
        return modes;
    }

    const std::string& root_;
    std::size_t hidden_size_;
    sentence_head out_;
};

// `x`: one sequence of `tokens` rows. Every column is summed in the order of the tokens, and the norm in 16 lanes: the
// same bits wherever the sequence stands.
inline void pool_sequence(const sentence_head& head, const float* x, std::size_t tokens, std::size_t hidden,
                          float* dst) {
    const std::size_t first = head.pooling == pooling::last ? tokens - 1 : 0;
    std::copy_n(x + first * hidden, hidden, dst);
    const bool all = head.pooling == pooling::mean || head.pooling == pooling::max;
    for (std::size_t t = 1; all && t < tokens; ++t) {
        const float* row = x + t * hidden;
        if (head.pooling == pooling::mean)
            for (std::size_t i = 0; i < hidden; ++i) dst[i] += row[i];
        else
            for (std::size_t i = 0; i < hidden; ++i)
                dst[i] = dst[i] < row[i] || row[i] != row[i] ? row[i] : dst[i];
    }
    if (head.pooling == pooling::mean)
        for (std::size_t i = 0; i < hidden; ++i) dst[i] /= static_cast<float>(tokens);
    if (!head.normalize) return;
    kernels::reference::lane_sum squares;
    for (std::size_t i = 0; i < hidden; ++i) squares.lane[i % 16] += dst[i] * dst[i];
    const float norm = std::max(std::sqrt(squares.fold()), 1e-12f);
    for (std::size_t i = 0; i < hidden; ++i) dst[i] /= norm;
}

// From a sequence's first token to its logits.
struct classification_head {
    linear dense;
    activation_function activation;
    linear out;
    std::string dense_name;
    std::string out_name;

    static result<std::optional<classification_head>> open(model_weights& weights, const std::string& prefix,
                                                           const encoder_description& model, bool as_f16);
    // x: `rows` rows of hidden_size, dst: as many of out.out().
    void run(const float* x, std::size_t rows, float* dst, thread_team& team, const encoder_options& options,
             memory_source memory) const {
        quantized_rows codes(memory);
        const row_buffer inner(rows, dense.out(), memory);
        run_projections(x, rows, {{&dense, dense_name, inner.data(), 0, {.activation = activation}}}, team,
                        options, codes);
        run_projections(inner.data(), rows, {{&out, out_name, dst, 0}}, team, options, codes);
    }
};

inline result<std::optional<classification_head>> classification_head::open(model_weights& weights,
                                                                            const std::string& prefix,
                                                                            const encoder_description& model,
                                                                            bool as_f16) {
    std::string dense = "pre_classifier", out = "classifier";
    if (model.family->classifier == classifier::pooler) dense = prefix + "pooler.dense";
    if (model.family->classifier == classifier::dense_out_proj) {
        dense = "classifier.dense";
        out = "classifier.out_proj";
    }
    const auto* last = weights.find(out + ".weight");
    const bool there = last != nullptr && weights.find(dense + ".weight") != nullptr;
    if (!model.classifies.value_or(there)) return std::optional<classification_head>();
    const std::size_t labels = last != nullptr && last->shape.size() == 2
                                   ? static_cast<std::size_t>(last->shape[0])
                                   : model.labels.value_or(2);
    const auto refuse = [&](std::string message) {
        return error{.code = error_code::bad_input,
                     .message = std::move(message) + of_one_model,
                     .file = weights.model().root() + "/config.json",
                     .tensor = out + ".weight"};
    };
    if (labels == 0)
        return refuse(last != nullptr ? "has 0 rows, and a head that classifies has one for each label"
                                      : "would have 0 rows: config.json names no label");
    if (labels != model.labels.value_or(labels))
        return refuse("has " + std::to_string(labels) + " rows, and config.json names " +
                      std::to_string(*model.labels) + " labels");
    const std::size_t hidden = model.config.hidden_size;
    auto first = weights.layer(dense, hidden, hidden, as_f16);
    if (!first) return first.error();
    auto second = weights.layer(out, labels, hidden, as_f16);
    if (!second) return second.error();
    const bool relu = model.family->classifier == classifier::pre_classifier;
    return std::optional<classification_head>(
        classification_head{std::move(*first), relu ? activation_function::relu : activation_function::tanh,
                            std::move(*second), std::move(dense), std::move(out)});
}

}  // namespace bitmill::detail
