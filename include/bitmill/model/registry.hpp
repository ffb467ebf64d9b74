// The models of one folder by their names and types: what each is, which levels it has, and one job where many ask for the
// same level.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

// metadata.json beside a model.
struct model_metadata {
    std::string model_name;
    std::string model_type = {};  // config.json's; "" where it does not tell
    std::string version = {};     // "hf_YYYYMMDD_HHMMSS", UTC
    std::string created_at = {};  // ISO 8601 with microseconds
    bool is_quantized = false;    // a level below the original lies on disk
    std::string source = {};
    std::optional<std::uint64_t> dimensions = std::nullopt;  // of a hidden state, by config.json
};

struct registered_model {
    model_metadata metadata;
    std::vector<std::string> types = {};   // keys that lead to it
    std::vector<std::string> levels = {};  // that lie on disk, from the highest down
    bool active = false;                   // one of its types is
    std::string problem = {};              // why it cannot be read, "" where it can

    // One JSON object: the fields of metadata.json, types, levels, active, problem. indent < 0: one line.
    [[nodiscard]] std::string json(int indent = 2) const;
};

struct model_list {
    std::vector<registered_model> models;  // by name

    [[nodiscard]] std::string json(int indent = 2) const;  // {"models": [...]}
};

struct active_model {
    std::string model_name;
    bool is_quantized = false;  // as its metadata.json has it
    std::string level = {};     // that serves
    std::string status = "active";
};

struct active_models {
    std::map<std::string, active_model> models;  // by type

    // {TYPE: {"status", "metadata": {"model_name", "is_quantized"}, "quantization": {"level"}}}
    [[nodiscard]] std::string json(int indent = 2) const;
};

// How a request to quantize ended.
struct quantize_outcome {
    std::string status;  // success, error
    // "Successfully quantized NAME model", "Model NAME is already quantized", "Model NAME not found or not supported for
    // quantization", "Error during quantization: DETAILS". Never holds an absolute path.
    std::string message;
    std::string model_name;  // what was asked for, where it was not found
    bool found = false;      // the registry has such a model
    bool is_quantized = false;
    bool already_quantized = false;
    std::string level = {};
    // Of the work: the same source and options have the same id, in every process.
    std::string job_id = {};
    bool did_work = false;             // this call milled, and did not wait for another that did
    error_code code = error_code::ok;  // why it failed
    // null where the model's own folder is of that level, or nothing came of it
    std::shared_ptr<const mill_report> report = nullptr;

    // status, message, model_name, is_quantized, already_quantized; "quantization": level, job_id, did_work and of the
    // report format, requested, the sizes, ratios, bits per weight, seconds, resumed_bytes, warnings.
    [[nodiscard]] std::string json(int indent = 2) const;
};

struct quantize_job {
    std::string id;
    std::string model_name;
    std::string level;
    progress now;  // 0 of 0 while another process does the work
};

struct registry_options {
    // For metadata.json; empty: the system's clock.
    std::function<std::chrono::system_clock::time_point()> now = {};
    // One line of UTF-8 for each warning, as it is noted; from the calling thread.
    std::function<void(log_level, const std::string&)> on_log = {};
};

// ROOT/NAME/ is a Hugging Face folder, ROOT/NAME/LEVEL/ a variant of it. A name is looked up, never used as a path: no '/',
// no leading '.', no control characters, and no link that leads out of ROOT. Move-only. Every call is safe from any thread,
// beside other processes at work on the same ROOT.
class model_registry {
public:
    // Errors: io where ROOT is no folder that can be read.
    [[nodiscard]] static result<model_registry> open(const std::string& root, const registry_options& = {});

    model_registry(model_registry&&) noexcept;
    model_registry& operator=(model_registry&&) noexcept;
    ~model_registry();

    // From now on the type leads to that model, which need not be there yet. roberta, xlm-roberta and distilbert lead to
    // roberta-base, xlm-roberta-base and distilbert-base-uncased. Errors: invalid_argument.
    [[nodiscard]] result<void> register_model(const std::string& type, const std::string& model_name);

    // Where a model lies, by type or name; of what is both the type counts. Errors: invalid_argument where there is none.
    [[nodiscard]] result<std::string> path_of(const std::string& type_or_name) const;
    // Makes metadata.json where there is none, and puts right what is wrong in it: config.json and the manifests count. One
    // that is damaged is replaced, one that another program wrote stays; a warning says so. Errors as for path_of.
    [[nodiscard]] result<registered_model> find(const std::string& type_or_name);
    // The same for every model. Errors: io for ROOT.
    [[nodiscard]] result<model_list> list();

    // int8 in format bitmill, which is int4 as well, embeddings included.
    [[nodiscard]] static mill_options default_options();

    // Mills ROOT/NAME/LEVEL/, LEVEL being that of options.to, unless it is there: a folder with a manifest that is milled by
    // the same options from the same source, byte for byte. The first call of a process reads every byte to know that;
    // later ones look at the files' stamps. What another request or source left there is replaced, but not what has no
    // manifest, unless options.force. Calls for the same work at the same time, in any process, do it once: the others wait
    // and get what comes of it. on_progress is called while waiting, too, in a process that waits for another with 0 of 0;
    // it ends the waiting call, or the work, which a call that waits then begins anew or goes on with. A killed one is gone
    // on with by the next. dry_run is refused. Throws std::bad_alloc.
    [[nodiscard]] quantize_outcome quantize(const std::string& type_or_name,
                                            const mill_options& options = default_options());
    // Of this process, that run now.
    [[nodiscard]] std::vector<quantize_job> jobs() const;

    // Says that the type's model serves, at `level`; "": at int8, or else int4, int2, fp16, the original. Errors:
    // invalid_argument for a type that leads nowhere.
    [[nodiscard]] result<void> set_active(const std::string& type, bool active,
                                          const std::string& level = {});
    [[nodiscard]] active_models active() const;

    [[nodiscard]] std::vector<std::string> warnings() const;  // the last 256, each once

private:
    struct content;
    explicit model_registry(std::unique_ptr<content> what) noexcept;
    std::unique_ptr<content> content_;
};

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/registry-inl.hpp>
#endif
