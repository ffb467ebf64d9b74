#include "service.hpp"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

namespace server {

using bitmill::error;
using bitmill::error_code;
using bitmill::log_level;
using bitmill::result;

service::service(service_options options, bitmill::model_manager manager)
    : options_(std::move(options)), manager_(std::move(manager)),
      history_(
          [this](history_point& point) {
              const auto status = manager_.get_status();
              if (status) point.used_share = status->memory.used_share();
              point.active_requests = active_;
          },
          std::chrono::seconds(2), 900),
      jobs_([this](const std::string& name, const jobs::progress_hook& progress) {
          return quantize_now(name, progress);
      }) {}

service::~service() { stop(); }

void service::stop() {
    jobs_.stop();
    std::vector<std::shared_ptr<engine>> all;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& [name, one] : engines_) all.push_back(one);
    }
    for (const auto& one : all) one->stop();
}

result<std::unique_ptr<service>> service::create(service_options options) {
    auto manager = bitmill::model_manager::create(options.manager);
    if (!manager) return manager.error();
    std::unique_ptr<service> out(new service(std::move(options), std::move(*manager)));
    const auto& asked = out->options_;
    for (const auto& model : asked.models)
        if (auto added = out->add(model); !added) return added.error();
    if (!asked.models_root.empty()) {
        auto registry = bitmill::model_registry::open(asked.models_root, {.on_log = asked.on_log});
        if (!registry) return registry.error();
        out->registry_.emplace(std::move(*registry));
        const auto list = out->registry_->list();
        if (!list) return list.error();
        for (const auto& model : list->models) {
            const auto& name = model.metadata.model_name;
            const auto path = out->registry_->path_of(name);
            // A model that has a slot, too, is there already.
            const bool there = std::any_of(asked.models.begin(), asked.models.end(), [&](const auto& one) {
                std::error_code ignored;
                return path && one.name == name && std::filesystem::equivalent(one.path, *path, ignored);
            });
            const auto added =
                path && model.problem.empty() && !there ? out->add({name, *path}) : result<void>();
            if (!added && asked.on_log) asked.on_log(log_level::warning, name + ": " + added.error().text());
            if (path && model.problem.empty() && added) out->registered_.push_back(name);
            for (const auto& type : model.types) (void)out->registry_->set_active(type, true);
        }
    }
    for (const auto* slot : {&asked.embeddings, &asked.reranker})
        if (!slot->empty() && out->engine_of(*slot, {}) == nullptr)
            return error{.code = error_code::invalid_argument,
                         .message = "there is no model '" + *slot + "' to answer requests that name none"};
    return out;
}

result<void> service::add(const served_model& model) {
    if (auto added = manager_.add_model(model.name, {.path = model.path, .quantized = model.quantized});
        !added)
        return added;
    engine_options options{.name = model.name, .level = model.level, .limits = options_.limits};
    const auto log = [this](log_level level, const std::string& line) {
        if (options_.on_log) options_.on_log(level, line);
    };
    auto made = std::make_shared<engine>(std::move(options), manager_, active_, log);
    const std::lock_guard lock(mutex_);
    engines_[model.name] = std::move(made);
    return {};
}

std::shared_ptr<engine> service::engine_of(std::string_view name, const std::string& slot) const {
    const std::lock_guard lock(mutex_);
    if (const auto found = engines_.find(name); !name.empty() && found != engines_.end())
        return found->second;
    if (!name.empty() && !options_.unknown_models) return nullptr;
    if (const auto found = engines_.find(slot); !slot.empty() && found != engines_.end())
        return found->second;
    return engines_.size() == 1 ? engines_.begin()->second : nullptr;
}

void service::submit(inference_job&& job, const std::shared_ptr<engine>& to) {
    // Counts as active until it is answered.
    struct mark {
        std::atomic<unsigned>& count;
        explicit mark(std::atomic<unsigned>& all) : count(all) { ++count; }
        mark(const mark&) = delete;
        mark& operator=(const mark&) = delete;
        ~mark() { --count; }
    };
    job.respond = [own = std::make_shared<mark>(active_), respond = std::move(job.respond)](
                      inference_result&& done) { return respond(std::move(done)); };
    to->submit(std::move(job));
}

result<void> service::warm() {
    for (const auto* slot : {&options_.embeddings, &options_.reranker}) {
        const auto one = engine_of(*slot, *slot);
        if (one == nullptr) continue;
        bitmill::load_request request;
        request.force_quantization = one->options().level;
        if (auto warmed = manager_.warm_model(one->options().name, request); !warmed) return warmed;
    }
    return {};
}

void service::note(const http_outcome& outcome) {
    http_metrics_(outcome);
    static constexpr std::string_view inference[] = {"/v1/embeddings", "/embed", "/rerank", "/predict", "/"};
    // What was refused took no time.
    if (outcome.method == "POST" && outcome.status < 300 &&
        std::find(std::begin(inference), std::end(inference), outcome.route) != std::end(inference))
        history_.add_latency(1000 * outcome.seconds);
}

void service::add_routes(router& to) {
    add_quantization(to);
    add_manager(to);
    add_openai(to);
    add_inference(to);
    add_pages(to);
}

}  // namespace server
