// The models of a server and all that it answers: quantizing, inference in two dialects, what the dashboard shows.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <bitmill/bitmill.hpp>

#include "history.hpp"
#include "inference.hpp"
#include "jobs.hpp"
#include "metrics.hpp"
#include "router.hpp"

namespace server {

struct served_model {
    std::string name;
    std::string path;
    std::string level = {};      // "" for the manager's choice; original, fp16, int8, int4, int2
    std::string quantized = {};  // as loader_options::quantized
};

struct service_options {
    bitmill::manager_options manager = {};
    std::string models_root = {};  // its models are served by name, and quantized; "" for none
    std::vector<served_model> models = {};
    // Names of the models that answer where a request names none; "" for the only one there is.
    std::string embeddings = {};
    std::string reranker = {};
    batch_limits limits = {};
    std::size_t texts = 2048;  // of one request
    bool unknown_models =
        false;  // a name that is not known means the default: clients have names of their own
    std::function<void(bitmill::log_level, const std::string&)> on_log = {};
};

// Every call is safe from any thread. Outlives the http_server that calls it.
class service {
public:
    // Errors: those of the manager, the registry and of finding the models; invalid_argument for a slot without a model.
    [[nodiscard]] static bitmill::result<std::unique_ptr<service>> create(service_options options);
    ~service();
    service(const service&) = delete;
    service& operator=(const service&) = delete;

    void add_routes(router& to);
    void note(const http_outcome& outcome);  // for metrics and history
    // Opens the models of the slots. Errors: those of load_model.
    [[nodiscard]] bitmill::result<void> warm();
    void stop();  // runs what waits

    [[nodiscard]] bitmill::model_manager& manager() noexcept { return manager_; }
    // The effective configuration: slots, levels, limits.
    [[nodiscard]] std::string info() const;

private:
    service(service_options options, bitmill::model_manager manager);
    [[nodiscard]] bitmill::result<void> add(const served_model& model);
    // The engine of that name, or of the slot; null where there is none.
    [[nodiscard]] std::shared_ptr<engine> engine_of(std::string_view name, const std::string& slot) const;
    [[nodiscard]] std::string status_json() const;
    void submit(inference_job&& job, const std::shared_ptr<engine>& to);
    void read_gauges();

    void add_quantization(router& to);
    void add_manager(router& to);
    void add_openai(router& to);
    void add_inference(router& to);
    void add_pages(router& to);
    [[nodiscard]] http_response quantize_now(const std::string& name, const jobs::progress_hook& progress);

    const service_options options_;
    bitmill::model_manager manager_;
    std::optional<bitmill::model_registry> registry_;
    std::vector<std::string> registered_ = {};  // names of its models
    mutable std::atomic<unsigned> active_{0};
    mutable std::mutex mutex_;  // guards engines_
    std::map<std::string, std::shared_ptr<engine>, std::less<>> engines_;
    metrics metrics_;
    http_metrics http_metrics_{metrics_};
    history history_;  // these two last: their threads use the others
    jobs jobs_;
};

}  // namespace server
