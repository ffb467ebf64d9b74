#include "cli.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "server/http.hpp"
#include "server/router.hpp"
#include "server/service.hpp"
#include "server/settings.hpp"

extern "C" char** environ;

namespace cli {
namespace {

using bitmill::error;
using bitmill::error_code;
using bitmill::log_level;
using bitmill::result;

struct serve_flags {
    std::string embeddings, reranker, models;
    std::vector<std::string> more;
    std::string level;  // "" for what the environment says
    std::string activation = "dynamic-int8";
    unsigned threads = 0;
    std::string host = "127.0.0.1";
    std::uint16_t port = 8000;
    std::vector<std::string> allowed_hosts, env_files;
    std::string token_file;
    bool any_name = false, cold = false;
    std::size_t batch = 64;
    unsigned drain_seconds = 10;
};

// One line each, to stderr; from any thread.
void log(log_level level, const std::string& line) {
    static std::mutex mutex;
    const auto now = std::time(nullptr);
    std::tm parts{};
    std::array<char, 32> when{};
    std::strftime(when.data(), when.size(), "%FT%TZ", ::gmtime_r(&now, &parts));
    const std::lock_guard lock(mutex);
    std::fprintf(stderr, "%s %s %s\n", when.data(), level == log_level::warning ? "WARNING" : "INFO",
                 printable(line).c_str());
}

// The environment counts more than files, a later file more than an earlier one.
result<server::variables> variables_of(const serve_flags& flags) {
    auto files = flags.env_files;
    std::error_code ignored;
    if (files.empty() && std::filesystem::exists(".env.local", ignored)) files.emplace_back(".env.local");
    server::variables all;
    for (const auto& path : files) {
        auto read = server::read_env_file(path);
        if (!read) return read.error();
        log(log_level::info, "Read " + std::to_string(read->size()) + " variables from " + path);
        for (auto& [name, value] : *read) all[name] = value;
    }
    for (char** one = environ; *one != nullptr; ++one) {
        const std::string text = *one;
        const auto middle = text.find('=');
        if (middle != std::string::npos) all[text.substr(0, middle)] = text.substr(middle + 1);
    }
    return all;
}

result<std::string> token_of(const serve_flags& flags, const server::variables& all) {
    if (flags.token_file.empty()) {
        const auto found = all.find("BITMILL_TOKEN");
        return found == all.end() ? std::string() : found->second;
    }
    std::ifstream file(flags.token_file);
    std::string token;
    if (!std::getline(file, token))
        return error{
            .code = error_code::io, .message = "cannot be read, or is empty", .file = flags.token_file};
    while (!token.empty() && (token.back() == '\r' || token.back() == ' ')) token.pop_back();
    if (token.empty())
        return error{.code = error_code::bad_input,
                     .message = "has no token in its first line",
                     .file = flags.token_file};
    return token;
}

// A folder that goes with the program.
class scratch_folder {
public:
    scratch_folder() = default;
    scratch_folder(const scratch_folder&) = delete;
    scratch_folder& operator=(const scratch_folder&) = delete;
    ~scratch_folder() {
        std::error_code ignored;
        if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
    }
    result<std::string> path() {
        if (!path_.empty()) return path_;
        std::error_code failed;
        auto made = (std::filesystem::temp_directory_path(failed) / "bitmill-XXXXXX").string();
        if (::mkdtemp(made.data()) == nullptr)
            return error{.code = error_code::io, .message = "cannot make a folder", .file = made};
        return path_ = made;
    }

private:
    std::string path_;
};

// Sees to it that the model has the level that it is to be served at: it is milled once where it is missing, into the model's
// folder, or where that cannot be written into one that goes with the program.
class preparation {
public:
    explicit preparation(unsigned threads) : threads_(threads) {}

    result<void> prepare(server::served_model& model) {
        if (model.level.empty() || model.level == "original" || model.level == "fp16") return {};
        const auto levels = bitmill::find_levels(model.path);
        if (!levels) return levels.error();
        const auto has = [&](const auto& one) { return one.level == model.level && one.fault.empty(); };
        if (std::any_of(levels->begin(), levels->end(), has)) return {};
        auto options = bitmill::model_registry::default_options();
        if (model.level == "int2") return usage(model.name + " has no level int2, and none is made");
        options.threads = threads_;
        // Planes hold int8 and int4. Where another program's int8 has their place, int4 gets one of its own.
        std::error_code ignored;
        std::string folder = model.path + "/int8";
        if (model.level == "int4" && std::filesystem::exists(folder + "/config.json", ignored)) {
            folder = model.path + "/int4";
            options.to = bitmill::scheme_type::int4;
        }
        log(log_level::info, "Quantizing " + model.name + ", which has no level " + model.level + " yet");
        auto made = bitmill::quantize(model.path, folder, options);
        if (!made && made.error().code == error_code::io) {
            const auto place = scratch_.path();
            if (!place) return place.error();
            model.quantized = *place + "/" + model.name;
            log(log_level::warning,
                "The folder of " + model.name + " cannot be written: the level goes with this run");
            made = bitmill::quantize(model.path, model.quantized, options);
        }
        if (!made) return made.error();
        return {};
    }

private:
    const unsigned threads_;
    scratch_folder scratch_;
};

// "NAME=PATH", or a path whose last part is the name.
server::served_model model_from(const std::string& text, const std::string& level) {
    const auto middle = text.find('=');
    if (middle != std::string::npos && text.find('/') > middle)
        return {.name = text.substr(0, middle), .path = text.substr(middle + 1), .level = level};
    auto path = std::filesystem::path(text).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
    return {.name = path.filename().string(), .path = text, .level = level};
}

result<server::service_options> options_of(const serve_flags& flags, const server::settings& set) {
    server::service_options out;
    out.manager.thresholds = set.thresholds;
    out.manager.max_cache_bytes = set.max_cache_bytes;
    model_flags model;
    model.activation = flags.activation;
    auto options = model.read();
    if (!options) return options.error();
    out.manager.model = *options;
    out.manager.model.threads = flags.threads;
    out.manager.on_log = out.on_log = log;
    out.models_root = flags.models;
    out.limits.batch_size = flags.batch;
    out.unknown_models = flags.any_name;
    const std::string level = flags.level.empty() ? set.level : flags.level;
    const std::string fixed = level == "auto" ? "" : level == "none" ? "original" : level;
    std::string two_of_a_name;
    const auto add = [&](const std::string& text, const std::string& at) {
        auto made = model_from(text, at);
        const auto known = [&](const auto& one) { return one.name == made.name; };
        const auto found = std::find_if(out.models.begin(), out.models.end(), known);
        if (found == out.models.end())
            out.models.push_back(made);
        else if (found->path != made.path)
            two_of_a_name = made.name;
        return made.name;
    };
    if (!flags.embeddings.empty()) out.embeddings = add(flags.embeddings, fixed);
    if (!flags.reranker.empty()) out.reranker = add(flags.reranker, fixed);
    for (const auto& one : flags.more) add(one, {});
    if (!two_of_a_name.empty())
        return usage("two models would be called '" + two_of_a_name + "'; give one another name: NAME=PATH");
    if (out.models.empty() && out.models_root.empty())
        return usage("there is nothing to serve: give --embeddings, --reranker, --model or --models");
    return out;
}

// The lines that operators of such services look for.
void tell_levels(const server::service_options& options, bool dynamic) {
    for (const auto& model : options.models) {
        const bool embeds = model.name == options.embeddings, ranks = model.name == options.reranker;
        if (!embeds && !ranks) continue;
        const std::string slot = embeds ? "embeddings" : "reranker";
        if (model.level.empty()) {
            log(log_level::info, "The level of " + slot + " follows memory and load");
        } else if (model.level == "original") {
            log(log_level::info, "Using no quantization for " + slot);
        } else {
            log(log_level::info, "Using " + model.level + " quantization for " + slot);
            if (dynamic && model.level != "fp16")
                log(log_level::info,
                    embeds ? "Applied dynamic " + model.level + " quantization (CPU)"
                           : "Applied dynamic " + model.level + " quantization to reranker (CPU)");
        }
    }
}

int serve(const serve_flags& flags) {
    const auto variables = variables_of(flags);
    if (!variables) return fail(variables.error(), false);
    const auto set = server::settings_from(*variables);
    if (!set) return fail(set.error(), false);
    auto token = token_of(flags, *variables);
    if (!token) return fail(token.error(), false);
    auto options = options_of(flags, *set);
    if (!options) return fail(options.error(), false);
    server::http_options http;
    http.address = flags.host;
    http.port = flags.port;
    http.token = *token;
    http.open_paths = {"/", "/health", "/healthz"};
    http.allowed_hosts = flags.allowed_hosts;
    if (auto sound = server::http_server::check(http); !sound) return fail(sound.error(), false);
    preparation prepare(flags.threads);
    for (auto& model : options->models)
        if (auto ready = prepare.prepare(model); !ready) return fail(ready.error(), false);

    // Before any thread starts: all inherit it, and the signals wait for sigwait.
    sigset_t signals;
    sigemptyset(&signals);
    for (const int one : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, one);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    auto made = server::service::create(*options);
    if (!made) return fail(made.error(), false);
    auto& service = **made;
    if (!flags.cold)
        if (auto warmed = service.warm(); !warmed) return fail(warmed.error(), false);
    server::router routes;
    service.add_routes(routes);
    http.refusal = [&](std::string_view path, unsigned status, std::string_view message) {
        return routes.error(path, status, message);
    };
    http.on_outcome = [&](const server::http_outcome& outcome) { service.note(outcome); };
    auto listening = server::http_server::start(
        http,
        [&](server::http_request&& request, server::reply answer) { routes(std::move(request), answer); });
    if (!listening) return fail(listening.error(), false);
    tell_levels(*options, flags.activation == "dynamic-int8");
    log(log_level::info, "Effective configuration: " + service.info());
    log(log_level::info,
        "Serving on http://" +
            (flags.host.find(':') == std::string::npos ? flags.host : "[" + flags.host + "]") + ":" +
            std::to_string((*listening)->port()) + "/");
    int number = 0;
    sigwait(&signals, &number);
    log(log_level::info, "Stopping: what has begun comes to its end");
    const bool whole = (*listening)->drain(std::chrono::seconds(flags.drain_seconds));
    listening->reset();  // whoever still waits is lost, so that nothing more is run for them
    service.stop();
    if (!whole) log(log_level::warning, "Some requests took too long and were ended");
    return 0;
}

}  // namespace

void add_serve(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<serve_flags>();
    auto& verb =
        *app.add_subcommand("serve", "embeddings, reranking and quantization over HTTP, with a dashboard");
    verb.add_option("--embeddings", flags->embeddings, "[NAME=]MODEL that embeds where a request names none");
    verb.add_option("--reranker", flags->reranker, "[NAME=]MODEL that reranks and classifies");
    verb.add_option("--model", flags->more, "another [NAME=]MODEL, by its name alone")->take_all();
    verb.add_option("--models", flags->models, "a folder of models, which can be quantized, too");
    verb.add_option(
            "--level", flags->level,
            "of --embeddings and --reranker: auto, none, fp16, int8, int4 (else by USE_QUANTIZATION and "
            "QUANTIZATION_CONFIG: int8)")
        ->check(CLI::IsMember({"auto", "none", "original", "fp16", "int8", "int4", "int2"}));
    verb.add_option("--activation", flags->activation, "of integer layers: dynamic-int8, float")
        ->capture_default_str();
    verb.add_option("--threads", flags->threads, "of a model; 0: one per core")->check(thread_count());
    verb.add_option("--host", flags->host, "address to listen on; beyond this machine a token is needed")
        ->capture_default_str();
    verb.add_option("--port", flags->port, "0: any that is free")->capture_default_str();
    verb.add_option("--allowed-host", flags->allowed_hosts, "a name by which clients know this server")
        ->take_all();
    verb.add_option("--token-file", flags->token_file, "its first line is the token (else BITMILL_TOKEN)");
    verb.add_option("--env-file", flags->env_files,
                    "variables, NAME=VALUE a line (else .env.local, where it is)")
        ->take_all();
    verb.add_option("--batch", flags->batch, "texts that are run together")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    verb.add_flag("--any-model-name", flags->any_name, "a name that is not known means the default model");
    verb.add_flag("--cold", flags->cold, "open models with their first request");
    verb.add_option("--drain-seconds", flags->drain_seconds, "for what has begun when the server is stopped")
        ->capture_default_str();
    verb.callback([flags, &chosen] { chosen = [flags] { return serve(*flags); }; });
}

}  // namespace cli
