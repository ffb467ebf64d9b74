// A registry's folder with small models in it.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <nlohmann/json.hpp>

#include <bitmill/mill/mill.hpp>
#include <bitmill/model/registry.hpp>

#include <models.hpp>
#include <temp_folder.hpp>

namespace bitmill_test {

inline constexpr const char* roberta_config =
    R"({"model_type": "roberta", "architectures": ["RobertaModel"], "dtype": "float32", "hidden_size": 768})";

struct registry_folder {
    temp_folder place{memory_parent()};
    std::string root = place / "models";
    std::vector<std::string> logged = {};

    registry_folder() { std::filesystem::create_directory(root); }
    [[nodiscard]] std::string in(const std::string& name) const { return root + "/" + name; }
    std::string add(const std::string& name = "roberta-base",
                    const std::string& config = roberta_config) const {
        put_model(in(name), bert_tensors(), config);
        return in(name);
    }
    // 2024-03-05 06:07:08.009010 UTC
    [[nodiscard]] bitmill::model_registry open() {
        bitmill::registry_options options;
        options.now = [] {
            return std::chrono::system_clock::time_point(std::chrono::microseconds(1709618828009010));
        };
        options.on_log = [this](bitmill::log_level, const std::string& line) { logged.push_back(line); };
        return bitmill::model_registry::open(root, options).value();
    }
};

inline ino_t inode_of(const std::string& path) {
    struct stat facts{};
    REQUIRE(::stat(path.c_str(), &facts) == 0);
    return facts.st_ino;
}

// Sound, whole, and just what the mill makes of the model.
inline void check_variant(const std::string& model, const std::string& level,
                          const bitmill::mill_options& options = bitmill::model_registry::default_options()) {
    const temp_folder other{memory_parent()};
    (void)bitmill::quantize(model, other / "out", options).value();
    CHECK((read_folder(model + "/" + level) == read_folder(other / "out")));
}

}  // namespace bitmill_test
