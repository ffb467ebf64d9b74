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

void service::add_pages(router& to) {
    const auto health = [](http_request&&, const reply& answer) {
        answer(answer_json(R"({"status":"ok"})"));
    };
    to.add("GET", "/health", health);
    to.add("GET", "/healthz", health);
    to.add("GET", "/info", [this](http_request&&, const reply& answer) { answer(answer_json(info())); });
    to.add("GET", "/metrics", [this](http_request&&, const reply& answer) {
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
