// Which folder a level of a model is taken from: its own planes, a variant beside them, or the original.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <bitmill/detail/list_folder-inl.hpp>
#include <bitmill/detail/manifest-inl.hpp>
#include <bitmill/detail/stored-inl.hpp>
#include <bitmill/mill/stored.hpp>

namespace bitmill::detail {

// From the highest down; those but the first are folders of variants, too.
inline constexpr std::string_view model_levels[] = {"original", "fp16", "int8", "int4", "int2"};

[[nodiscard]] inline result<void> check_level(std::string_view level, const std::string& path) {
    if (std::find(std::begin(model_levels), std::end(model_levels), level) != std::end(model_levels))
        return {};
    return error{
        .code = error_code::invalid_argument,
        .message = "there is no level '" + std::string(level) + "': original, fp16, int8, int4, int2",
        .file = path};
}

struct opened_level {
    checkpoint model;
    stored_model stored;
    std::string effective;
    std::string reason = {};  // where that is not what was asked for
    bool as_f16 = false;      // wider floats are cast
};

// What most of the coded weights are. A table of embeddings is coded by the same rule at every level.
inline std::string_view level_of(const checkpoint& model, const stored_model& stored) {
    std::map<std::string_view, std::uint64_t> elements;
    std::uint64_t narrow = 0, plain = 0;
    for (const auto& t : stored.tensors) {
        if (t.shape.size() != 2 || t.name.find("embed") != std::string::npos) continue;
        if (!t.coded()) {
            plain += t.elements;
            narrow += t.type == dtype::f16 || t.type == dtype::bf16 ? t.elements : 0;
            continue;
        }
        const unsigned bits = t.scheme ? facts(t.scheme->type).bits : t.foreign->bits;
        elements[bits <= 2 ? "int2" : bits <= 6 ? "int4" : "int8"] += t.elements;
    }
    if (elements.empty()) {
        // A folder of 16 bits that the mill wrote is a variant; any other is as it came.
        const auto manifest = is_there(model.root() + "/" + manifest_name);
        return manifest && *manifest && narrow * 2 > plain ? "fp16" : "original";
    }
    return std::max_element(elements.begin(), elements.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
}

class level_finder {
public:
    level_finder(const std::string& path, const std::string& level) : path_(path), level_(level) {}

    result<opened_level> find() {
        if (!level_.empty())
            if (auto known = check_level(level_, path_); !known) return known.error();
        if (auto looked = look_for_variants(); !looked) return looked.error();
        std::optional<opened_level> own;
        if (holds_model_ || variants_.empty()) {
            auto opened = open(path_);
            if (!opened) return opened.error();
            own.emplace(std::move(*opened));
        }
        if (own && (level_.empty() || own->effective == level_)) return std::move(*own);
        if (level_.empty()) return open(path_ + "/" + variants_.front());
        if (std::find(variants_.begin(), variants_.end(), level_) != variants_.end()) {
            auto variant = open(path_ + "/" + level_);
            if (variant && variant->effective != level_)
                variant->reason = variant->model.root() + " holds " + variant->effective;
            return variant;
        }
        if (own && level_ == "fp16" && own->effective == "original") {
            own->effective = "fp16";
            own->as_f16 = true;
            return std::move(*own);
        }
        std::string there = own ? own->effective : "";
        for (const auto& one : native_levels_)
            if (there.find(one) == std::string::npos) there.append(there.empty() ? "" : ", ").append(one);
        for (const auto& one : variants_) there.append(there.empty() ? "" : ", ").append(one);
        return refuse("this model has no level " + level_ + "; there is " + there);
    }

private:
    [[nodiscard]] error refuse(std::string message) const {
        return {.code = error_code::invalid_argument, .message = std::move(message), .file = path_};
    }

    // A folder may hold variants and no model of its own.
    result<void> look_for_variants() {
        std::error_code failed;
        if (!std::filesystem::is_directory(path_, failed)) return {};
        const auto config = is_there(path_ + "/config.json");
        if (!config) return config.error();
        holds_model_ = *config;
        for (const auto name : model_levels) {
            if (name == model_levels[0]) continue;
            const auto there = is_there(path_ + "/" + std::string(name) + "/config.json");
            // A file of that name is no variant.
            if (there && *there) variants_.emplace_back(name);
        }
        return {};
    }

    // At the level that is wanted where the folder says that it has it, else as it lies.
    result<opened_level> open(const std::string& path) {
        auto model = checkpoint::open(path);
        if (!model) return model.error();
        const auto said = quantization_of(*model);
        if (!said) return said.error();
        std::optional<scheme_type> level;
        if (const auto list = said->config.find("levels");
            said->method == "bitmill" && list != said->config.end())
            for (const auto& one : *list) {
                if (!one.is_string()) continue;
                native_levels_.push_back(one.get<std::string>());
                for (const auto type : {scheme_type::int8, scheme_type::int4, scheme_type::int2})
                    if (native_levels_.back() == level_ && level_ == facts(type).name) level = type;
            }
        auto stored = read_stored(*model, level);
        if (!stored) return stored.error();
        std::string effective(level_of(*model, *stored));
        return opened_level{std::move(*model), std::move(*stored), std::move(effective)};
    }

    const std::string& path_;
    const std::string& level_;
    bool holds_model_ = false;
    std::vector<std::string> variants_;
    std::vector<std::string> native_levels_;
};

}  // namespace bitmill::detail
