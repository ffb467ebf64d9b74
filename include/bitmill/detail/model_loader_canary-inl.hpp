// Texts on which a level proves itself before it serves.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/cosine-inl.hpp>
#include <bitmill/detail/encoder_model_heads-inl.hpp>
#include <bitmill/model/text_encoder.hpp>

namespace bitmill::detail {

inline constexpr const char* canary_name = "canary.json";
inline constexpr std::size_t canary_most_bytes = side_json_bytes;

struct canary {
    std::vector<std::string> texts;
    double cosine = 0;             // the least
    std::vector<float> reference;  // what the original makes of them; empty: not known yet
};

// Of all texts one after the other: logits where the model has a head, which may end in a single number each, else
// embeddings.
inline result<std::vector<float>> canary_outputs(const text_encoder& model,
                                                 const std::vector<std::string>& texts) {
    const auto& facts = model.model().facts();
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    std::vector<float> out(texts.size() * (facts.labels != 0 ? facts.labels : facts.embedding_size));
    text_options options;
    options.prompt.emplace();
    const std::vector<std::string_view> nothing(texts.size());
    auto done = facts.labels != 0 ? model.pair_logits(views, nothing, out, options)
                                  : model.embed(views, out, options);
    if (!done) return done.error();
    return out;
}

// {"texts": [...], "cosine": 0.9, "outputs": [...]}; nullopt where there is none.
inline result<std::optional<canary>> read_canary(const std::string& folder, double cosine) {
    std::error_code failed;
    if (!std::filesystem::is_directory(folder, failed)) return std::optional<canary>();
    const auto file = read_side_json(folder, canary_name, false);
    if (!file) return file.error();
    if (file->is_null()) return std::optional<canary>();
    const auto refuse = [&](const std::string& what) {
        return error{.code = error_code::bad_input,
                     .message = what + "; write it anew with store_canary, or delete it",
                     .file = folder + "/" + canary_name};
    };
    canary out;
    out.cosine = cosine;
    const auto texts = file->find("texts");
    if (texts == file->end() || !texts->is_array() || texts->empty())
        return refuse("texts must be a list of texts");
    for (const auto& one : *texts) {
        if (!one.is_string()) return refuse("texts must be a list of texts");
        out.texts.push_back(one.get<std::string>());
    }
    if (const auto least = file->find("cosine"); least != file->end()) {
        if (!least->is_number()) return refuse("cosine must be a number");
        out.cosine = least->get<double>();
        if (!(std::abs(out.cosine) <= 1)) return refuse("cosine must be from -1 to 1");
    }
    if (const auto outputs = file->find("outputs"); outputs != file->end()) {
        if (!outputs->is_array()) return refuse("outputs must be a list of numbers");
        for (const auto& one : *outputs) {
            if (!one.is_number()) return refuse("outputs must be a list of numbers");
            out.reference.push_back(one.get<float>());
        }
    }
    return std::optional<canary>(std::move(out));
}

inline std::string canary_text(const canary& what) {
    return json_object({{"texts", what.texts}, {"cosine", what.cosine}, {"outputs", what.reference}})
               .dump(-1, ' ', false, ordered_json::error_handler_t::replace) +
           "\n";
}

}  // namespace bitmill::detail
