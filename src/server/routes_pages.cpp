// What people and machines look at: the dashboard, health, metrics, the effective configuration, the description of all.
#include <string>
#include <utility>

#include "json_text.hpp"
#include "pages.hpp"
#include "service.hpp"

namespace server {

using nlohmann::ordered_json;

std::string service::info() const {
    ordered_json models = ordered_json::array();
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [name, one] : engines_)
            models.push_back(
                {{"name", name}, {"level", one->options().level.empty() ? "auto" : one->options().level}});
    }
    const auto embeddings = engine_of(options_.embeddings, options_.embeddings);
    const auto status = manager_.get_status();
    return dumped({{"model_id", embeddings ? embeddings->options().name : ""},
                   {"version", BITMILL_VERSION_TEXT},
                   {"isa", bitmill::isa()},
                   {"embeddings", options_.embeddings},
                   {"reranker", options_.reranker},
                   {"models", std::move(models)},
                   {"max_client_batch_size", options_.texts},
                   {"max_batch_requests", options_.limits.batch_size},
                   {"max_concurrent_requests", options_.limits.queue_jobs},
                   {"max_model_cache_mb", status ? static_cast<double>(status->max_cache_bytes) / 1e6 : 0}});
}

// What is read when it is asked for, not counted as it happens.
void service::read_gauges() {
    const auto set = [&](const char* name, const char* help, double value, const text_pairs& labels = {}) {
        metrics_.get_gauge(name, help, labels).set(value);
    };
    const auto number = [](auto value) { return static_cast<double>(value); };
    set("bitmill_active_requests", "Requests for inference that wait or run.", number(active_.load()));
    if (const auto status = manager_.get_status(active_)) {
        set("bitmill_memory_used_ratio", "Memory in use, of the machine or the container.",
            status->memory.used_share());
        set("bitmill_cache_bytes", "Weights of open models.", number(status->current_bytes));
        set("bitmill_cache_max_bytes", "What they may take.", number(status->max_cache_bytes));
        set("bitmill_cache_evictions", "Models that made room since the start.", number(status->evictions));
        set("bitmill_switches", "Levels that were changed since the start, or could not be.",
            status->switches.empty() ? 0 : number(status->switches.back().number));
        for (const auto& model : status->models)
            for (const auto& size : model.sizes)
                set("bitmill_model_level", "1 for the level that serves.", model.level == size.level ? 1 : 0,
                    {{"model", model.name}, {"level", size.level}});
    }
    const std::lock_guard lock(mutex_);
    for (const auto& [name, one] : engines_) {
        const auto now = one->status();
        const text_pairs labels{{"model", name}};
        set("bitmill_queue_requests", "Requests that wait.", number(now.queued_jobs), labels);
        set("bitmill_queue_texts", "Their texts.", number(now.queued_size), labels);
        set("bitmill_batches", "Batches since the start.", number(now.batches), labels);
        set("bitmill_batched_requests", "Requests that ran in them.", number(now.jobs), labels);
        set("bitmill_expired_requests", "Requests that waited too long.", number(now.expired), labels);
        set("bitmill_queue_refusals", "Requests that found the queue full.", number(now.refused), labels);
    }
}

void service::add_pages(router& to) {
    const auto health = [](http_request&&, const reply& answer) {
        answer(answer_json(R"({"status":"ok"})"));
    };
    to.add("GET", "/health", health);
    to.add("GET", "/healthz", health);
    to.add("GET", "/info", [this](http_request&&, const reply& answer) { answer(answer_json(info())); });
    to.add("GET", "/metrics", [this](http_request&&, const reply& answer) {
        read_gauges();
        http_response out;
        out.content_type = metrics::content_type;
        out.body = metrics_.text();
        answer(std::move(out));
    });
    to.add("GET", "/openapi.json",
           [](http_request&&, const reply& answer) { answer(answer_json(std::string(pages::openapi()))); });
    to.add("GET", "/", [](http_request&&, const reply& answer) {
        http_response out;
        out.content_type = "text/html; charset=utf-8";
        out.body = pages::dashboard();
        out.headers = {{"Content-Security-Policy", pages::dashboard_policy()},
                       {"Referrer-Policy", "no-referrer"},
                       {"Cache-Control", "no-cache"}};
        answer(std::move(out));
    });
}

}  // namespace server
