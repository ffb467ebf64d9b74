#include "inference.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace server {
namespace {

using bitmill::error;
using bitmill::error_code;
using bitmill::log_level;
using bitmill::result;

// Of how many tokens a thread has its fill: what comes behind them would only wait longer for its answer.
constexpr std::size_t tokens_of_a_thread = 256;

// Sets job.tokens. The prompt's are few and not counted: the model cuts what they push out.
result<void> count_tokens(const bitmill::text_encoder& encoder, inference_job& job, std::size_t most) {
    const std::size_t longest = job.how.max_length != 0 ? job.how.max_length : encoder.facts().max_length;
    const auto& words = encoder.tokenizer();
    const bitmill::tokenize_options whole{.max_length = std::nullopt, .truncate = false};
    const auto refuse = [](std::string message) {
        return error{.code = error_code::invalid_argument, .message = std::move(message)};
    };
    job.tokens = 0;
    for (std::size_t i = 0; i < job.texts.size(); ++i) {
        const auto& text = job.texts[i];
        const auto encoded = job.what == task::rerank ? words.encode(job.query, text, whole)
                             : job.seconds.empty()    ? words.encode(text, whole)
                                                      : words.encode(text, job.seconds[i], whole);
        if (!encoded) return encoded.error();
        const std::size_t tokens = encoded->ids.size();
        if (tokens > longest && !job.truncate)
            return refuse("text " + std::to_string(i) + " has " + std::to_string(tokens) +
                          " tokens, and the model takes " + std::to_string(longest) +
                          "; shorten it, or ask for truncate");
        job.tokens += std::min(tokens, longest);
        if (job.tokens > most)
            return refuse("the texts have more than " + std::to_string(most) +
                          " tokens together; send them in several requests");
    }
    return {};
}

// What one call can run.
auto key_of(const inference_job& job) {
    return std::tuple(job.what, job.seconds.empty(), job.how.max_length, job.how.prompt, job.how.prompt_name);
}

}  // namespace

std::size_t inference_job::bytes() const noexcept {
    std::size_t sum = sizeof *this + query.size();
    for (const auto* all : {&texts, &seconds})
        for (const auto& one : *all) sum += sizeof one + one.size();
    return sum;
}

void inference_job::drop(drop_reason reason) noexcept {
    if (reason == drop_reason::lost) return;
    const bool late = reason == drop_reason::expired;
    try {
        answer(error_response(late ? 504 : 500, late ? "the request waited too long; send fewer, or later"
                                                     : "the batch that this request was part of failed"));
    } catch (...) {  // without memory for an answer the connection gives its own
    }
}

engine::engine(engine_options options, bitmill::model_manager& manager, std::atomic<unsigned>& active,
               std::function<void(log_level, const std::string&)> log)
    : options_(std::move(options)), manager_(manager), active_(active), log_(std::move(log)),
      queue_(options_.limits, [this](std::span<inference_job> jobs) { run(jobs); }) {}

void engine::submit(inference_job&& job) {
    switch (queue_.submit(std::move(job))) {
        case admission::taken: return;
        case admission::too_large: {
            const auto& limits = options_.limits;
            return refuse(job, {.code = error_code::invalid_argument,
                                .message = "more than the queue holds: " + std::to_string(limits.queue_size) +
                                           " texts of " + std::to_string(limits.queue_bytes) +
                                           " bytes; send them in several requests"});
        }
        case admission::full:
        case admission::stopped: {
            auto busy = job.refuse({.code = error_code::out_of_memory,
                                    .message = "too many requests wait already; try again later"});
            busy.status = 503;
            busy.headers.emplace_back("Retry-After", std::to_string(queue_.retry_after().count()));
            return job.answer(std::move(busy));
        }
    }
}

void engine::refuse(inference_job& job, const error& what) const {
    const bool of_client = what.code == error_code::invalid_argument || what.code == error_code::unsupported;
    if (!of_client) log_(log_level::warning, "model " + options_.name + ": " + what.text());
    auto told =
        job.refuse(of_client ? what
                             : error{.code = what.code,
                                     .message = "the model cannot be run now; the server's log says why"});
    if (what.code == error_code::out_of_memory) told.status = 503;
    job.answer(std::move(told));
}

void engine::run(std::span<inference_job> jobs) {
    bitmill::load_request request;
    request.force_quantization = options_.level;
    request.active_requests = active_.load();
    auto model = manager_.load_model(options_.name, request);
    if (!model) {
        for (auto& job : jobs) refuse(job, model.error());
        return;
    }
    const auto encoder = model->loader().current();
    const std::size_t fill = tokens_of_a_thread * encoder->model().facts().threads;
    auto sound = sound_of(*encoder, jobs);
    for (auto first = sound.begin(); first != sound.end();) {
        std::size_t tokens = 0;
        const auto last = std::find_if(first, sound.end(), [&](const auto* one) {
            const bool joins = tokens == 0 || tokens + one->tokens <= fill;
            tokens += one->tokens;
            return !joins || key_of(*one) != key_of(**first);
        });
        if ((*first)->what == task::rerank)
            for (auto at = first; at != last; ++at) run_alone(model->loader(), **at);
        else
            run_together(model->loader(), std::span(&*first, static_cast<std::size_t>(last - first)));
        first = last;
    }
}

// Those that can be run, the same beside each other; the others are answered.
std::vector<inference_job*> engine::sound_of(const bitmill::text_encoder& encoder,
                                             std::span<inference_job> jobs) const {
    std::vector<inference_job*> out;
    for (auto& job : jobs)
        if (const auto counted = count_tokens(encoder, job, options_.request_tokens); counted)
            out.push_back(&job);
        else
            refuse(job, counted.error());
    std::stable_sort(out.begin(), out.end(),
                     [](const auto* a, const auto* b) { return key_of(*a) < key_of(*b); });
    return out;
}

std::string engine::space_of(const std::shared_ptr<const bitmill::text_encoder>& encoder) {
    if (served_.owner_before(encoder) || encoder.owner_before(served_)) {
        auto id = encoder->space_id();
        space_ = id ? std::move(*id) : std::string();
        served_ = encoder;
    }
    return space_;
}

// One call for all; where it refuses, each by itself, so that one bad text is no other's fault.
void engine::run_together(bitmill::model_loader& model, std::span<inference_job*> jobs) {
    std::vector<std::string_view> texts, seconds;
    for (const auto* job : jobs) {
        texts.insert(texts.end(), job->texts.begin(), job->texts.end());
        seconds.insert(seconds.end(), job->seconds.begin(), job->seconds.end());
    }
    const auto encoder = model.current();
    const auto& facts = encoder->model().facts();
    const bool embeds = jobs.front()->what == task::embed;
    const std::size_t width = embeds ? facts.embedding_size : facts.labels;
    std::vector<float> values(texts.size() * width);
    // As long as somebody waits for it.
    auto how = jobs.front()->how;
    how.on_progress = [&](std::size_t, std::size_t) {
        const auto time = std::chrono::steady_clock::now();
        return std::any_of(jobs.begin(), jobs.end(),
                           [&](const auto* job) { return !job->lost() && time < job->deadline(); });
    };
    const auto done = embeds            ? model.embed(texts, values, how)
                      : seconds.empty() ? model.classify(texts, values, how)
                                        : model.classify(texts, seconds, values, how);
    if (!done && done.error().code == error_code::cancelled) {
        for (auto* job : jobs) job->drop(drop_reason::expired);
        return;
    }
    if (!done && jobs.size() > 1 && done.error().code != error_code::out_of_memory) {
        for (auto& job : jobs) run_together(model, std::span(&job, 1));
        return;
    }
    // What ran may be another level than the first, where that failed.
    const auto ran = model.current();
    std::size_t first = 0;
    for (auto* job : jobs) {
        if (!done) {
            refuse(*job, done.error());
            continue;
        }
        inference_result out;
        out.width = width;
        out.normalized = facts.normalize;
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first * width);
        out.values.assign(begin, begin + static_cast<std::ptrdiff_t>(job->texts.size() * width));
        first += job->texts.size();
        out.tokens = job->tokens;
        if (!embeds) out.labels = ran->facts().labels;
        out.level = ran->model().facts().effective;
        if (embeds) out.space_id = space_of(ran);
        job->answer(job->respond(std::move(out)));
    }
}

void engine::run_alone(bitmill::model_loader& model, inference_job& job) {
    const std::vector<std::string_view> documents(job.texts.begin(), job.texts.end());
    auto how = job.how;
    how.on_progress = [&](std::size_t, std::size_t) {
        return !job.lost() && std::chrono::steady_clock::now() < job.deadline();
    };
    auto ranked = model.rerank(job.query, documents, how);
    if (!ranked && ranked.error().code == error_code::cancelled) return job.drop(drop_reason::expired);
    if (!ranked) return refuse(job, ranked.error());
    inference_result out;
    out.ranked = std::move(*ranked);
    const auto encoder = model.current();
    out.level = encoder->model().facts().effective;
    out.tokens = job.tokens;
    job.answer(job.respond(std::move(out)));
}

}  // namespace server
