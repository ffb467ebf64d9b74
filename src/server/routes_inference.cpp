// Inference as clients of text-embeddings-inference ask for it
// (huggingface.github.io/text-embeddings-inference): /embed, /rerank, /predict.
#include <algorithm>
#include <cmath>
#include <cstdint>
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

http_response tei_error(unsigned status, std::string_view message) {
    const char* type = status == 413 || status == 422   ? "Validation"
                       : status == 429 || status == 503 ? "Overloaded"
                       : status == 424                  ? "Backend"
                                                        : "Error";
    return answer_json(dumped({{"error", message}, {"error_type", type}}), status);
}

http_response tei_refusal(const error& what) {
    if (what.code == bitmill::error_code::invalid_argument) return tei_error(413, what.message);
    return tei_error(what.code == bitmill::error_code::unsupported ? 424 : 500, what.message);
}

// Reads the members of a body; the first that is wrong is told.
class body_reader {
public:
    explicit body_reader(const json& body) : body_(body) {
        if (!body.is_object()) problem = "the body must be a JSON object";
    }
    std::string problem = {};

    [[nodiscard]] const json* find(const char* name) const {
        if (!body_.is_object()) return nullptr;
        const auto found = body_.find(name);
        return found == body_.end() || found->is_null() ? nullptr : &*found;
    }
    std::string text(const char* name, bool needed = false) {
        const json* value = find(name);
        if (value == nullptr && !needed) return {};
        if (value == nullptr || !value->is_string()) {
            complain(std::string(name) + " must be a text");
            return {};
        }
        return value->get<std::string>();
    }
    bool flag(const char* name, bool otherwise) {
        const json* value = find(name);
        if (value != nullptr && !value->is_boolean()) complain(std::string(name) + " must be true or false");
        return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
    }
    // `single`: whether it was a text by itself.
    std::vector<std::string> texts(const char* name, std::size_t most, bool* single = nullptr) {
        std::vector<std::string> out;
        const json* value = find(name);
        if (single != nullptr) *single = value != nullptr && value->is_string();
        if (single != nullptr && *single) return {value->get<std::string>()};
        const bool is_list =
            value != nullptr && value->is_array() && !value->empty() &&
            std::all_of(value->begin(), value->end(), [](const auto& one) { return one.is_string(); });
        if (!is_list)
            complain(std::string(name) + " must be a list of texts" +
                     (single != nullptr ? ", or a text" : ""));
        else if (value->size() > most)
            complain(std::string(name) + " has more than " + std::to_string(most) + " texts");
        else
            for (const auto& one : *value) out.push_back(one.template get<std::string>());
        return out;
    }

    // What /predict takes: a text, a pair of texts, or a list of [text] or of [first, second]. True for the first two.
    bool classified(const char* name, std::size_t most, std::vector<std::string>& first,
                    std::vector<std::string>& second) {
        const auto take = [&](const json& one) {
            const bool sound =
                one.is_array() && (one.size() == 1 || one.size() == 2) &&
                std::all_of(one.begin(), one.end(), [](const auto& text) { return text.is_string(); });
            if (!sound) return false;
            first.push_back(one[0].get<std::string>());
            if (one.size() == 2) second.push_back(one[1].get<std::string>());
            return true;
        };
        const json* value = find(name);
        if (value != nullptr && value->is_string()) return first.push_back(value->get<std::string>()), true;
        if (value != nullptr && take(*value)) return true;
        if (value == nullptr || !value->is_array() || value->empty() ||
            !std::all_of(
                value->begin(),
                std::next(value->begin(), static_cast<std::ptrdiff_t>(std::min(value->size(), most))), take))
            complain(std::string(name) + " must be a text, a pair of texts, or a list of [text] or of pairs");
        else if (value->size() > most)
            complain(std::string(name) + " has more than " + std::to_string(most) + " texts");
        else if (!second.empty() && second.size() != first.size())
            complain(std::string(name) + " holds texts and pairs; send them in two requests");
        return false;
    }

private:
    void complain(std::string what) {
        if (problem.empty()) problem = std::move(what);
    }
    const json& body_;
};

inference_job job_of(task what, body_reader& body, const reply& answer, const http_request& request) {
    inference_job job{.what = what,
                      .texts = {},
                      .respond = {},
                      .refuse = tei_refusal,
                      .answer = answer,
                      .until = request.deadline};
    job.truncate = body.flag("truncate", false);
    return job;
}

std::string ranked_json(const inference_result& done, const std::vector<std::string>& texts, bool raw) {
    std::string out = "[";
    for (const auto& one : done.ranked) {
        out +=
            (out.size() == 1 ? R"({"index":)" : R"(,{"index":)") + std::to_string(one.index) + R"(,"score":)";
        append_number(out, raw ? one.logit : one.score);
        if (!texts.empty()) out += R"(,"text":)" + json_quoted(texts[one.index]);
        out += '}';
    }
    return out + "]";
}

// The classes of one text, the likeliest first.
std::string classes_json(std::span<const float> scores, const std::vector<std::string>& labels) {
    std::vector<std::size_t> order(scores.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
    std::string out = "[";
    for (const std::size_t i : order) {
        out += (out.size() == 1 ? R"({"score":)" : R"(,{"score":)");
        append_number(out, scores[i]);
        out +=
            R"(,"label":)" + json_quoted(i < labels.size() ? labels[i] : "LABEL_" + std::to_string(i)) + "}";
    }
    return out + "]";
}

void normalize(std::vector<float>& values, std::size_t width) {
    for (std::size_t at = 0; at < values.size(); at += width) {
        const auto row = std::span(values).subspan(at, width);
        double sum = 0;
        for (const float x : row) sum += static_cast<double>(x) * x;
        const double length = std::max(std::sqrt(sum), 1e-12);
        for (float& x : row) x = static_cast<float>(x / length);
    }
}

http_response with_level(std::string body, const inference_result& done) {
    auto response = answer_json(std::move(body));
    response.headers.emplace_back("X-Bitmill-Level", done.level);
    if (!done.space_id.empty()) response.headers.emplace_back("X-Bitmill-Space-Id", done.space_id);
    return response;
}

}  // namespace

void service::add_inference(router& to) {
    for (const char* path : {"/", "/embed", "/rerank", "/predict"})
        to.shape_errors(path,
                        [](unsigned status, std::string_view message) { return tei_error(status, message); });
    const auto missing = [](const char* slot) {
        return tei_error(424, std::string("no model answers here: serve one with --") + slot);
    };
    // read(body, job): fills the job of a sound body.
    const auto add = [this, &to, missing](const char* path, task what, const std::string& slot,
                                          const char* flag, auto read) {
        to.add("POST", path,
               [this, what, &slot, flag, read, missing](http_request&& request, const reply& answer) {
                   const auto parsed = parse_json(request.body);
                   if (!parsed)
                       return answer(tei_error(400, "the body is no JSON: " + parsed.error().message));
                   body_reader body(*parsed);
                   auto job = job_of(what, body, answer, request);
                   read(body, job);
                   if (!body.problem.empty()) return answer(tei_error(422, body.problem));
                   const auto to_run = engine_of({}, slot);
                   if (to_run == nullptr) return answer(missing(flag));
                   submit(std::move(job), to_run);
               });
    };
    const auto embed = [this](body_reader& body, inference_job& job) {
        bool single = false;
        job.texts = body.texts("inputs", options_.texts, &single);
        job.how.prompt_name = body.text("prompt_name");
        job.respond = [wanted = body.flag("normalize", true)](inference_result&& done) {
            if (!wanted && done.normalized)
                return tei_error(422,
                                 "the model normalizes its vectors by its own files: normalize must be true");
            if (wanted && !done.normalized) normalize(done.values, done.width);
            std::string out = "[";
            for (std::size_t at = 0; at < done.values.size(); at += done.width) {
                if (at != 0) out += ',';
                append_numbers(out, std::span(done.values).subspan(at, done.width));
            }
            return with_level(out + "]", done);
        };
    };
    // Clients that know one model an address post to its root.
    for (const char* path : {"/embed", "/"}) add(path, task::embed, options_.embeddings, "embeddings", embed);
    add("/rerank", task::rerank, options_.reranker, "reranker",
        [this](body_reader& body, inference_job& job) {
            job.query = body.text("query", true);
            // It is run with each of the texts.
            if (job.query.size() > 65536) body.problem = "query has more than 65536 bytes";
            job.texts = body.texts("texts", options_.texts);
            const bool raw = body.flag("raw_scores", false), with_text = body.flag("return_text", false);
            job.respond = [raw, texts = with_text ? job.texts
                                                  : std::vector<std::string>()](inference_result&& done) {
                return with_level(ranked_json(done, texts, raw), done);
            };
        });
    add("/predict", task::classify, options_.reranker, "reranker",
        [this](body_reader& body, inference_job& job) {
            const bool single = body.classified("inputs", options_.texts, job.texts, job.seconds);
            if (body.flag("raw_scores", false)) body.problem = "raw_scores is not supported here";
            job.respond = [single](inference_result&& done) {
                std::string out = single ? "" : "[";
                for (std::size_t at = 0; at < done.values.size(); at += done.width) {
                    if (at != 0) out += ',';
                    out += classes_json(std::span(done.values).subspan(at, done.width), done.labels);
                }
                return with_level(single ? out : out + "]", done);
            };
        });
}

}  // namespace server
