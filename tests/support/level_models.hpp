// Models with levels: an original with variants beside it, planes, and what spoils them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory_resource>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <bitmill/mill/mill.hpp>
#include <bitmill/model/model_loader.hpp>

#include <encoder_models.hpp>
#include <io_files.hpp>
#include <letter_tokenizer.hpp>
#include <temp_folder.hpp>

namespace bitmill_test {

using bitmill::loader_options;
using bitmill::scheme_type;
using texts = std::vector<std::string_view>;

inline const texts some_texts{"the quick brown fox", "jumps", "over a lazy dog"};

inline encoder_shape small_shape() {
    encoder_shape shape;
    shape.hidden = 128;
    shape.heads = 4;
    shape.inner = 256;
    return shape;
}

inline bitmill::mill_options as(scheme_type to, bitmill::format format = bitmill::format::automatic) {
    bitmill::mill_options out;
    out.to = to;
    out.format = format;
    return out;
}

// An original with int8/ and int4/ beside it.
struct family {
    temp_folder place{memory_parent()};
    std::string path = place / "m";

    explicit family(const encoder_shape& shape = small_shape()) {
        put_encoder(path, shape);
        put_file(path + "/tokenizer.json", letter_tokenizer());
        mill(scheme_type::int8, "int8");
        mill(scheme_type::int4, "int4");
    }
    void mill(scheme_type to, const std::string& name) const {
        (void)bitmill::quantize(path, path + "/" + name, as(to)).value();
    }
    [[nodiscard]] std::string in(const std::string& level) const { return path + "/" + level; }
};

struct planes {
    temp_folder place{memory_parent()};
    std::string original = place / "original", path = place / "p";

    planes() {
        put_encoder(original, small_shape());
        put_file(original + "/tokenizer.json", letter_tokenizer());
        (void)bitmill::quantize(original, path, as(scheme_type::int8, bitmill::format::bitmill)).value();
    }
};

template <class Model>
std::vector<float> vectors_of(Model& model, std::size_t size = 128) {
    std::vector<float> out(some_texts.size() * size);
    model.embed(some_texts, out).value();
    return out;
}

inline std::vector<float> alone(const std::string& path, const std::string& level) {
    bitmill::model_options options;
    options.level = level;
    auto model = bitmill::text_encoder::open(path, options).value();
    return vectors_of(model);
}

inline loader_options at(const std::string& level) {
    loader_options out;
    out.model.level = level;
    return out;
}

struct lines {
    std::vector<std::string> warnings, infos;
    void listen(loader_options& options) {
        options.on_log = [this](bitmill::log_level level, const std::string& line) {
            (level == bitmill::log_level::warning ? warnings : infos).push_back(line);
        };
    }
};

// The bytes of a file, changed.
inline void change(const std::string& path, const std::function<void(std::string&)>& edit) {
    std::string bytes = get_file(path);
    edit(bytes);
    std::filesystem::remove(path);
    put_file(path, bytes);
}

// Host memory that can be told to refuse, or to take its time, once.
class moody_memory : public std::pmr::memory_resource {
public:
    std::atomic<bool> refuses{false};
    std::atomic<int> sleeps_ms{0};

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (refuses.exchange(false)) throw std::bad_alloc();
        if (const int ms = sleeps_ms.exchange(0)) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
        return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
        std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
};

// Weights that load and give infinity: every scale of one layer is the largest float.
inline void make_nan(const std::string& folder) {
    change(folder + "/model.safetensors", [](std::string& bytes) {
        std::uint64_t header = 0;
        std::memcpy(&header, bytes.data(), 8);
        const std::string name = "encoder.layer.1.output.dense.weight_scale";
        const std::size_t entry = bytes.find(name);
        REQUIRE(entry < header);
        const std::size_t list = bytes.find("\"data_offsets\":[", entry) + 16;
        const std::size_t begin = std::stoul(bytes.substr(list)),
                          end = std::stoul(bytes.substr(bytes.find(',', list) + 1));
        const float most = std::numeric_limits<float>::max();
        for (std::size_t i = begin; i < end; i += 4) std::memcpy(&bytes[8 + header + i], &most, 4);
    });
}

}  // namespace bitmill_test
