// Embeddings as clients of OpenAI ask for them (platform.openai.com/docs/api-reference/embeddings).
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"
#include "json_text.hpp"
#include "service.hpp"

namespace server {
namespace {

using bitmill::error;
using nlohmann::json;
using nlohmann::ordered_json;

http_response openai_error(unsigned status, std::string_view message, const char* code = nullptr) {
    const char* type = status == 401   ? "authentication_error"
                       : status == 429 ? "rate_limit_error"
                       : status < 500  ? "invalid_request_error"
                                       : "server_error";
    return answer_json(dumped({{"error",
                                {{"message", message},
                                 {"type", type},
                                 {"param", nullptr},
                                 {"code", code == nullptr ? json() : json(code)}}}}),
                       status);
}

http_response openai_refusal(const error& what) {
    const bool of_client =
        what.code == bitmill::error_code::invalid_argument || what.code == bitmill::error_code::unsupported;
    return openai_error(of_client ? 400 : 500, what.message);
}

struct embeddings_request {
    std::vector<std::string> texts;
    std::string model;
    bool base64 = false;
};

// What is wrong with it, "" for nothing.
std::string read_embeddings(const json& body, std::size_t most, embeddings_request& out) {
    if (!body.is_object()) return "the body must be a JSON object";
    const auto input = body.find("input");
    if (input == body.end()) return "input is missing: a text, or a list of texts";
    if (input->is_string()) {
        out.texts.push_back(input->get<std::string>());
    } else {
        if (!input->is_array() || input->empty()) return "input must be a text, or a list of texts";
        if (input->size() > most) return "input has more than " + std::to_string(most) + " texts";
        for (const auto& one : *input) {
            if (one.is_number() || one.is_array())
                return "input holds token ids, which are of another model's tokenizer: send texts "
                       "(LangChain: "
                       "check_embedding_ctx_length=False)";
            if (!one.is_string()) return "input must be a text, or a list of texts";
            out.texts.push_back(one.get<std::string>());
        }
    }
    if (const auto model = body.find("model"); model != body.end() && !model->is_null()) {
        if (!model->is_string()) return "model must be a text";
        out.model = model->get<std::string>();
    }
    if (const auto format = body.find("encoding_format"); format != body.end() && !format->is_null()) {
        const std::string name = format->is_string() ? format->get<std::string>() : "";
        if (name != "float" && name != "base64") return "encoding_format must be float or base64";
        out.base64 = name == "base64";
    }
    if (const auto size = body.find("dimensions"); size != body.end() && !size->is_null())
        return "dimensions is not supported: vectors have the model's length";
    return {};
}

http_response embeddings_response(const embeddings_request& request, const std::string& model,
                                  const inference_result& done) {
    std::string out = R"({"object":"list","data":[)";
    out.reserve(done.values.size() * 12 + 200);
    for (std::size_t i = 0; i < request.texts.size(); ++i) {
        out += i == 0 ? "" : ",";
        out += R"({"object":"embedding","index":)" + std::to_string(i) + R"(,"embedding":)";
        const auto vector = std::span(done.values).subspan(i * done.width, done.width);
        request.base64 ? append_base64(out, vector) : append_numbers(out, vector);
        out += '}';
    }
    const std::string tokens = std::to_string(done.tokens);
    out += R"(],"model":)" + json_quoted(model) + R"(,"usage":{"prompt_tokens":)" + tokens +
           R"(,"total_tokens":)" + tokens + "}}";
    auto response = answer_json(std::move(out));
    response.headers = {{"X-Bitmill-Level", done.level}, {"X-Bitmill-Space-Id", done.space_id}};
    return response;
}

ordered_json model_entry(const std::string& name) {
    return {{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "bitmill"}};
}

}  // namespace

void service::add_openai(router& to) {
    to.shape_errors("/v1/",
                    [](unsigned status, std::string_view message) { return openai_error(status, message); });
    to.add("POST", "/v1/embeddings", [this](http_request&& request, const reply& answer) {
        const auto body = parse_json(request.body);
        if (!body) return answer(openai_error(400, "the body is no JSON: " + body.error().message));
        embeddings_request asked;
        if (const auto wrong = read_embeddings(*body, options_.texts, asked); !wrong.empty())
            return answer(openai_error(400, wrong));
        const auto to_run = engine_of(asked.model, options_.embeddings);
        if (to_run == nullptr)
            return answer(openai_error(404,
                                       asked.model.empty()
                                           ? std::string("name a model: GET /v1/models lists them")
                                           : "The model `" + asked.model.substr(0, 255) +
                                                 "` does not exist; GET /v1/models lists them",
                                       "model_not_found"));
        inference_job job{.what = task::embed,
                          .texts = asked.texts,
                          .respond = {},
                          .refuse = openai_refusal,
                          .answer = answer,
                          .until = request.deadline};
        job.respond = [asked = std::move(asked), name = to_run->options().name](inference_result&& done) {
            return embeddings_response(asked, name, done);
        };
        submit(std::move(job), to_run);
    });
    to.add("GET", "/v1/models", [this](http_request&&, const reply& answer) {
        ordered_json all = ordered_json::array();
        const std::lock_guard lock(mutex_);
        for (const auto& [name, one] : engines_) all.push_back(model_entry(name));
        answer(answer_json(dumped({{"object", "list"}, {"data", std::move(all)}})));
    });
    to.add("GET", "/v1/models/{name}", [this](http_request&& request, const reply& answer) {
        const std::string name(request.parameter("name"));
        const std::lock_guard lock(mutex_);
        const bool known = engines_.contains(name);
        answer(known ? answer_json(dumped(model_entry(name)))
                     : openai_error(404, "The model `" + name + "` does not exist", "model_not_found"));
    });
}

}  // namespace server
