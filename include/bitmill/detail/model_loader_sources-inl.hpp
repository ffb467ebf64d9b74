// Where the levels of a model lie.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/detail/json_stream-inl.hpp>
#include <bitmill/detail/model_level-inl.hpp>

namespace bitmill::detail {

struct level_source {
    std::string level;
    std::string path;
    std::string asked;  // model_options::level
    bool cast = false;  // fp16 from the original
};

// From the highest level down, each once.
class level_sources {
public:
    // A folder that cannot be read has the level of its name, so that its error comes when it is opened.
    static result<level_sources> find(const std::string& path, const std::string& quantized) {
        level_sources out;
        std::error_code failed;
        if (const auto there = is_there(path); !there || !*there)
            return there ? error{.code = error_code::io, .message = "does not exist", .file = path}
                         : there.error();
        const bool is_folder = std::filesystem::is_directory(path, failed);
        const auto config = is_folder ? is_there(path + "/config.json") : result<bool>(true);
        if (!config) return config.error();
        if (*config)
            if (auto added = out.add_folder(path, "original"); !added) return added.error();
        std::vector<std::string> variants;
        if (is_folder)
            for (const auto level : model_levels) {
                const std::string folder = path + "/" + std::string(level);
                const auto there = is_there(folder + "/config.json");
                if (level == model_levels[0] || !there || !*there) continue;
                out.add({std::string(level), folder, std::string(level)});
                variants.push_back(folder);
            }
        for (const auto& folder : variants)
            if (auto added = out.add_planes(folder, checkpoint::open(folder)); !added) return added.error();
        if (!quantized.empty())
            if (auto added = out.add_folder(quantized, "int8"); !added) return added.error();
        const auto whole =
            std::filesystem::absolute(path + (is_folder ? "/" : ""), failed).lexically_normal();
        const auto beside = is_folder ? whole.parent_path() : whole;
        const std::string other =
            (beside.parent_path() / "quantized" / beside.filename()).lexically_normal().string();
        if (const auto there = is_there(other + (is_folder ? "/config.json" : "")); there && *there)
            if (auto added = out.add_folder(other, "int8"); !added) return added.error();
        if (const auto* original = out.get("original")) out.add({"fp16", original->path, "fp16", true});
        if (out.sources_.empty())
            return error{.code = error_code::bad_input,
                         .message = "holds no model: neither config.json nor int8/, int4/ or another variant",
                         .file = path};
        std::stable_sort(out.sources_.begin(), out.sources_.end(),
                         [](const auto& a, const auto& b) { return rank_of(a.level) < rank_of(b.level); });
        for (const auto& one : out.sources_) out.levels_.push_back(one.level);
        return out;
    }

    [[nodiscard]] const std::vector<std::string>& levels() const noexcept { return levels_; }
    [[nodiscard]] const level_source* get(std::string_view level) const {
        const auto found = std::find_if(sources_.begin(), sources_.end(),
                                        [&](const auto& one) { return one.level == level; });
        return found == sources_.end() ? nullptr : &*found;
    }

private:
    static std::ptrdiff_t rank_of(const std::string& level) {
        return std::find(std::begin(model_levels), std::end(model_levels), level) - std::begin(model_levels);
    }

    void add(level_source one) {
        if (get(one.level) == nullptr) sources_.push_back(std::move(one));
    }

    // Errors of both: out_of_memory; what is wrong with the folder is told when it is opened.
    result<void> add_planes(const std::string& path, const result<checkpoint>& model) {
        const auto said = model ? quantization_of(*model) : result<quantization>(model.error());
        if (!said && said.error().code == error_code::out_of_memory) return said.error();
        if (!said || said->method != "bitmill") return {};
        if (const auto list = said->config.find("levels"); list != said->config.end())
            for (const auto& one : *list)
                for (const auto level : model_levels)
                    if (is_text(one, level)) add({std::string(level), path, std::string(level)});
        return {};
    }

    // The planes of a folder, or what it is.
    result<void> add_folder(const std::string& path, std::string_view otherwise) {
        const auto model = checkpoint::open(path);
        if (auto added = add_planes(path, model); !added) return added;
        const auto stored = model ? read_stored(*model) : result<stored_model>(model.error());
        if (!stored && stored.error().code == error_code::out_of_memory) return stored.error();
        const std::string name = std::filesystem::path(path).filename().string();
        const bool named =
            std::find(std::begin(model_levels), std::end(model_levels), name) != std::end(model_levels);
        const std::string level(stored  ? level_of(*model, *stored)
                                : named ? std::string_view(name)
                                        : otherwise);
        if (std::none_of(sources_.begin(), sources_.end(), [&](const auto& one) { return one.path == path; }))
            add({level, path, level});
        return {};
    }

    std::vector<level_source> sources_;
    std::vector<std::string> levels_;
};

}  // namespace bitmill::detail
