// A model that changes its level while it serves: opens the variants of one model, switches between them, and falls back
// where one cannot be had or gives no numbers.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/model/level_decision.hpp>
#include <bitmill/model/text_encoder.hpp>

namespace bitmill {

struct loader_options {
    // `level` serves first: original, fp16, int8, int4, int2, or "": the original, or of a model without one the highest.
    model_options model = {};
    std::string quantized = {};  // a folder with a variant, besides those that are found (see model_loader)
    // A level that cannot be had, or gives NaN, is answered by another one; else it is an error.
    bool allow_fallback = true;
    // False: open() is an error where the level cannot be had; what fails later is answered by another one all the same.
    bool fall_back_at_open = true;
    std::vector<std::string> capability = {};  // the levels that may be run; empty: all
    // Texts on which a level proves itself before it serves: the cosine of all its outputs to those of the original (of
    // a model without one: to those of the level that serves) must not lie below canary_cosine. Empty: what canary.json
    // in the level's folder says, if there is one. The original is opened for it, once, where the file does not hold what
    // it gives: for that time three models are in memory.
    std::vector<std::string> canary = {};
    double canary_cosine = 0.9;  // -1 to 1
    bool check_hashes = false;   // of a level whose folder has a manifest.json, before it serves
    std::chrono::milliseconds switch_timeout{0};  // a switch that took longer is taken back; 0: none
    // After a fault a level is tried again with the first request behind this time (a year at most), twice as late with
    // every fault up to 64 times; 0: only when it is asked for.
    std::chrono::milliseconds retry_after{60000};
    // One line of UTF-8 for each fault (warning) and each switch (info); from the calling thread, one call at a time. It
    // must not switch levels itself.
    std::function<void(log_level, const std::string&)> on_log = {};
};

// One attempt to serve another level.
struct switch_record {
    std::uint64_t number = 0;  // from 1
    std::int64_t unix_ms = 0;  // when it ended
    std::string from;          // the level that served; "" for the first
    level_decision decision;   // how it ended
    bool fault = false;        // the requested level is there and could not be used: decision.reason
    bool planes = false;       // only a plane was added or dropped
    double load_ms = 0;        // hashes included
    double canary_ms = 0;
    std::optional<double> canary_cosine = std::nullopt;
    std::string canary_against = {};  // what it was compared with: original, another level, canary.json
    std::uint64_t weight_bytes = 0;   // of memory, of the level that serves now
};

struct model_size_info {
    std::uint64_t original_bytes = 0;  // of the files of weights; 0 where there is no original
    std::uint64_t quantized_bytes =
        0;  // of the level that use_quantized_model(true) takes; 0 where there is none
    double size_reduction_percent = 0;  // 0 where one of them is absent
};

// Where a level lies, and how many bytes of files it takes: 0 with `fault` where it cannot be read.
struct found_level {
    std::string level;
    std::string path;
    bool cast = false;  // fp16 that is made of the original
    std::uint64_t file_bytes = 0;
    std::string fault = {};
};
// Those that a loader of `path` and `quantized` (loader_options) has, from the highest down. Reads headers only. Errors:
// bad_input where there is no model, io.
[[nodiscard]] result<std::vector<found_level>> find_levels(const std::string& path,
                                                           const std::string& quantized = {});

// Move-only. Every call is safe from any thread. A call runs on the level that served when it began, whole, and its
// weights stay until it ends; a switch waits for no call. Levels are looked for, the first that is found being taken:
// the planes of the folder, or what it is itself; FOLDER/<level>/, then its planes; loader_options::quantized; quantized/<name> beside
// the folder; fp16 also as a cast of the original. The original is what the folder itself holds unquantized.
class model_loader {
public:
    // Errors: invalid_argument for a level that does not exist; where nothing can stand in, what the level's opening says.
    [[nodiscard]] static result<model_loader> open(const std::string& path, const loader_options& = {});

    model_loader(model_loader&&) noexcept;
    model_loader& operator=(model_loader&&) noexcept;
    ~model_loader();

    // A switch that fails leaves what serves: the record says so, or, without allow_fallback, it is an error. Errors as
    // for open.
    [[nodiscard]] result<switch_record> use_level(const std::string& level);
    // int8, or else int4, int2, fp16; false: the original.
    [[nodiscard]] result<switch_record> use_quantized_model(bool use);

    [[nodiscard]] level_decision decision() const;
    [[nodiscard]] std::vector<std::string> levels() const;      // that are there, from the highest down
    [[nodiscard]] std::vector<switch_record> switches() const;  // the last 256
    [[nodiscard]] result<model_size_info> get_model_size_info() const;
    // What serves now; it stays as long as it is held.
    [[nodiscard]] std::shared_ptr<const text_encoder> current() const;
    // One JSON object: path, requested, effective, reason, levels, size, switches. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;

    // As those of text_encoder. Where the level that serves fails (io, bad_input, or an output of a quantized level that is
    // no number) the next level serves, this call and those that follow.
    [[nodiscard]] result<void> embed(std::span<const std::string_view> texts, std::span<float> dst,
                                     const text_options& = {});
    [[nodiscard]] result<std::vector<ranked_document>> rerank(std::string_view query,
                                                              std::span<const std::string_view> documents,
                                                              const text_options& = {});
    [[nodiscard]] result<void> classify(std::span<const std::string_view> texts, std::span<float> dst,
                                        const text_options& = {});
    [[nodiscard]] result<void> classify(std::span<const std::string_view> first,
                                        std::span<const std::string_view> second, std::span<float> dst,
                                        const text_options& = {});

    // Writes canary.json into the level's folder: the texts, what the original makes of them, canary_cosine. Errors:
    // invalid_argument where the level is not there or no text is given, those of opening the original, io.
    [[nodiscard]] result<void> store_canary(const std::string& level, std::span<const std::string> texts);

private:
    struct content;
    explicit model_loader(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/model_loader-inl.hpp>
#endif
