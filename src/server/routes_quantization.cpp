// Quantizing models of the registry (system A), and what the manager tells of itself (system D).
#include <optional>
#include <string>
#include <utility>

#include "json.hpp"
#include "json_text.hpp"
#include "service.hpp"

namespace server {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::size_t longest_name = 255;  // a folder's

// The body as an object; an error is answered and nullopt returned.
std::optional<json> object_of(const http_request& request, const reply& answer) {
    auto body = parse_json(request.body);
    if (!body) {
        answer(error_response(400, "the body is no JSON: " + body.error().message));
        return std::nullopt;
    }
    if (!body->is_object()) {
        answer(error_response(422, "the body must be a JSON object"));
        return std::nullopt;
    }
    return std::move(*body);
}

// A member that is a text; `otherwise` where it is absent, nullopt where it is no text.
std::optional<std::string> text_of(const json& body, const char* name, const std::string& otherwise = {}) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) return otherwise;
    if (!found->is_string()) return std::nullopt;
    return found->get<std::string>();
}

ordered_json progress_of(const job_status& job) {
    return {{"job_id", job.id},
            {"model_name", job.name},
            {"state", job.state},
            {"done_bytes", job.done},
            {"total_bytes", job.total},
            {"result", job.answer.empty() ? json() : json::parse(job.answer, nullptr, false)}};
}

}  // namespace

http_response service::quantize_now(const std::string& name, const jobs::progress_hook& progress) {
    auto options = bitmill::model_registry::default_options();
    options.on_progress = [&](const bitmill::progress& now) {
        return progress(now.done_bytes, now.total_bytes);
    };
    const auto outcome = registry_->quantize(name, options);
    if (options_.on_log)
        options_.on_log(outcome.status == "success" ? bitmill::log_level::info : bitmill::log_level::warning,
                        outcome.message);
    // It has another level now.
    if (outcome.did_work && outcome.status == "success")
        if (const auto read = manager_.refresh_model(outcome.model_name); !read && options_.on_log)
            options_.on_log(bitmill::log_level::warning, read.error().text());
    return answer_json(outcome.json(-1), outcome.status == "success" ? 200 : outcome.found ? 500 : 404);
}

void service::add_quantization(router& to) {
    to.add("POST", "/models/quantize", [this](http_request&& request, const reply& answer) {
        const auto body = object_of(request, answer);
        if (!body) return;
        const auto type = text_of(*body, "model_type");
        const auto wait = body->value("wait", json(true));
        if (!type || type->empty() || !wait.is_boolean())
            return answer(error_response(422,
                                         "model_type must be a text, the type or the name of a model; "
                                         "wait, if it is there, true or false"));
        const auto unknown = [&] {
            answer(error_response(404, "Model " + type->substr(0, longest_name) +
                                           " not found or not supported for quantization"));
        };
        if (!registry_ || type->size() > longest_name) return unknown();
        // Both keys of one model are one job.
        const auto known = registry_->find(*type);
        if (!known && known.error().code == bitmill::error_code::invalid_argument) return unknown();
        const std::string name = known ? known->metadata.model_name : *type;
        const bool waits = wait.get<bool>();
        if (waits) answer.set_deadline(time_point::max());
        const auto id = jobs_.submit(name, waits ? std::optional<reply>(answer) : std::nullopt);
        if (id.empty()) {
            auto busy = error_response(503, "too many models wait to be quantized; try again later");
            busy.headers.emplace_back("Retry-After", "60");
            return answer(std::move(busy));
        }
        if (!waits)
            answer(answer_json(dumped({{"status", "accepted"}, {"job_id", id}, {"model_name", name}}), 202));
    });
    to.add("GET", "/models/active", [this](http_request&&, const reply& answer) {
        answer(answer_json(registry_ ? registry_->active().json(-1) : "{}"));
    });
    to.add("GET", "/models/jobs", [this](http_request&&, const reply& answer) {
        ordered_json all = ordered_json::array();
        for (const auto& one : jobs_.list()) all.push_back(progress_of(one));
        answer(answer_json(dumped({{"jobs", std::move(all)}})));
    });
    to.add("GET", "/models/jobs/{id}", [this](http_request&& request, const reply& answer) {
        const auto job = jobs_.find(request.parameter("id"));
        answer(job ? answer_json(dumped(progress_of(*job)))
                   : error_response(404, "there is no job of that id; GET /models/jobs lists them"));
    });
}

std::string service::status_json() const {
    const auto status = manager_.get_status(active_);
    if (!status) return {};
    std::string out = status->json(-1);
    ordered_json points = ordered_json::array();
    for (const auto& one : history_.points())
        points.push_back({{"unix_ms", one.unix_ms},
                          {"used_share", one.used_share},
                          {"active_requests", one.active_requests},
                          {"requests_per_s", one.requests_per_s},
                          {"p50_ms", one.p50_ms},
                          {"p99_ms", one.p99_ms}});
    out.pop_back();
    return out + ",\"history\":" + points.dump() + ",\"quantizable\":" + ordered_json(registered_).dump() +
           "}";
}

void service::add_manager(router& to) {
    const std::string base = "/api/v1/quantization/";
    const auto no_memory = [] {
        return error_response(500, "this system does not say how much memory it has");
    };
    to.add("GET", base + "status", [this, no_memory](http_request&&, const reply& answer) {
        auto body = status_json();
        answer(body.empty() ? no_memory() : answer_json(std::move(body)));
    });
    to.add("GET", base + "memory", [this, no_memory](http_request&&, const reply& answer) {
        const auto status = manager_.get_status();
        answer(status ? answer_json(status->memory_json(-1)) : no_memory());
    });
    to.add("GET", base + "cache", [this, no_memory](http_request&&, const reply& answer) {
        const auto status = manager_.get_status();
        answer(status ? answer_json(status->cache_json(-1)) : no_memory());
    });
    to.add("POST", base + "cache/clear", [this](http_request&&, const reply& answer) {
        manager_.clear_cache();
        answer(answer_json(dumped({{"status", "success"}, {"message", "Cache cleared"}})));
    });
    to.add("POST", base + "calculate", [this](http_request&& request, const reply& answer) {
        const auto body = object_of(request, answer);
        if (!body) return;
        const auto size = body->find("model_size_params");
        const auto priority = text_of(*body, "task_priority", "balanced");
        const auto force = text_of(*body, "force_quantization"), floor = text_of(*body, "min_quantization");
        if (size == body->end() || !size->is_number() || !priority || !force || !floor)
            return answer(error_response(422,
                                         "model_size_params must be a number, in billions; task_priority, "
                                         "force_quantization and min_quantization texts"));
        const auto known = bitmill::task_priority_from_text(*priority);
        if (!known) return answer(error_response(422, known.error().message));
        bitmill::load_request wanted{
            .force_quantization = *force, .min_quantization = *floor, .priority = *known};
        wanted.active_requests = active_.load();
        const auto made = manager_.calculate(size->get<double>() * 1e9, wanted);
        if (made) return answer(answer_json(made->json(-1)));
        const bool full = made.error().code == bitmill::error_code::out_of_memory;
        answer(error_response(full ? 409 : 422, made.error().message));
    });
}

}  // namespace server
