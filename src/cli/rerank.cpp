#include "texts.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>

namespace cli {
namespace {

struct rerank_flags {
    text_flags text;
    std::string query;
    std::size_t top_n = 0;  // 0: all
};

int run(const rerank_flags& flags) {
    const bool json = flags.text.json;
    const auto documents = flags.text.read();
    if (!documents) return fail(documents.error(), json);
    const auto model = flags.text.open();
    if (!model) return fail(model.error(), json);
    std::vector<bitmill::ranked_document> found;
    const int status =
        for_each_run(*documents, flags.text,
                     [&](std::size_t first, const auto& views, const auto& options) -> bitmill::result<void> {
                         const auto some = model->rerank(flags.query, views, options);
                         if (!some) return some.error();
                         for (auto one : *some) {
                             one.index += first;
                             found.push_back(one);
                         }
                         return {};
                     });
    if (status != 0) return status;
    std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.index < b.index;
    });
    if (flags.top_n != 0 && flags.top_n < found.size()) found.resize(flags.top_n);
    const auto& facts = model->model().facts();
    json_results results(facts, "\"query\": " + json_text(flags.query) + ", ");
    if (!json) std::printf("%8s  %9s  %6s  document\n", "score", "logit", "line");
    for (const auto& one : found) {
        const std::string& text = (*documents)[one.index];
        if (json)
            results.add("{\"index\": " + std::to_string(one.index) +
                        ", \"score\": " + number_text(one.score) + ", \"logit\": " + number_text(one.logit) +
                        ", \"text\": " + json_text(text) + "}");
        else
            std::printf("%8.5f  %9.4f  %6zu  %s\n", one.score, one.logit, one.index + 1,
                        cell_text(text, 60).c_str());
    }
    if (json) results.end();
    return 0;
}

}  // namespace

void add_rerank(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<rerank_flags>();
    auto& verb = *app.add_subcommand("rerank", "documents by how well they answer a query");
    flags->text.add_to(verb, "DOCUMENT");
    verb.add_option("--query", flags->query, "what is asked")->required();
    verb.add_option("--top-n", flags->top_n, "only the best N")->check(not_negative());
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
