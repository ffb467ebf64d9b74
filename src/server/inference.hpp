// Requests for one model, joined into batches: what clients ask for, what came of it, and the queue in between.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <bitmill/bitmill.hpp>

#include "batcher.hpp"
#include "http.hpp"

namespace server {

enum class task {
    embed,
    rerank,
    classify
};

struct inference_result {
    std::vector<float> values = {};  // of embed and classify, [texts, width]
    std::size_t width = 0;
    bool normalized = false;                            // the model's own files say so
    std::vector<bitmill::ranked_document> ranked = {};  // of rerank
    std::vector<std::string> labels = {};               // of classify
    std::size_t tokens = 0;                             // as inference_job::tokens
    std::string level = {};
    std::string space_id = {};
};

struct inference_job {
    task what;
    std::vector<std::string> texts;
    std::vector<std::string> seconds = {};                     // of classify: of pairs, one for each text
    std::string query = {};                                    // of rerank
    bitmill::text_options how = {};                            // of texts with the same, one call runs all
    bool truncate = true;                                      // else a text that is too long is refused
    std::function<http_response(inference_result&&)> respond;  // on the batcher's thread
    std::function<http_response(const bitmill::error&)> refuse;
    reply answer;
    time_point until;
    std::size_t tokens = 0;  // that are run, special ones included; the engine counts them

    [[nodiscard]] std::size_t size() const noexcept { return std::max<std::size_t>(texts.size(), 1); }
    [[nodiscard]] std::size_t bytes() const noexcept;
    [[nodiscard]] time_point deadline() const noexcept { return until; }
    [[nodiscard]] bool lost() const noexcept { return answer.lost(); }
    void drop(drop_reason reason) noexcept;
};

// What a model is asked to be: its level is the manager's to choose, or fixed.
struct engine_options {
    std::string name;
    std::string level = {};  // "" for the manager's choice
    batch_limits limits = {};
    std::size_t request_tokens = 300'000;  // of one request; more are refused
};

// One model's queue. Every call is safe from any thread.
class engine {
public:
    // `active` counts the requests of all engines.
    engine(engine_options options, bitmill::model_manager& manager, std::atomic<unsigned>& active,
           std::function<void(bitmill::log_level, const std::string&)> log);

    // Answers by itself where the queue takes nothing more.
    void submit(inference_job&& job);
    void stop() { queue_.stop(); }
    [[nodiscard]] batch_status status() const { return queue_.status(); }
    [[nodiscard]] const engine_options& options() const noexcept { return options_; }

private:
    void run(std::span<inference_job> jobs);
    [[nodiscard]] std::vector<inference_job*> sound_of(const bitmill::text_encoder& encoder,
                                                       std::span<inference_job> jobs) const;
    void run_together(bitmill::model_loader& model, std::span<inference_job*> jobs);
    void run_alone(bitmill::model_loader& model, inference_job& job);
    void refuse(inference_job& job, const bitmill::error& what) const;
    [[nodiscard]] std::string space_of(const std::shared_ptr<const bitmill::text_encoder>& encoder);

    const engine_options options_;
    bitmill::model_manager& manager_;
    std::atomic<unsigned>& active_;
    const std::function<void(bitmill::log_level, const std::string&)> log_;
    std::weak_ptr<const bitmill::text_encoder>
        served_;  // the batcher's thread alone: to read a space_id takes a while
    std::string space_;
    batcher<inference_job> queue_;  // last: its thread uses the others
};

}  // namespace server
