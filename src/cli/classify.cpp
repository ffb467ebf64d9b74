#include "texts.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <span>

namespace cli {
namespace {

std::string json_row(std::span<const float> shares, const std::vector<std::string>& labels,
                     const std::string& text) {
    std::string out = "{\"text\": " + json_text(text) + ", \"labels\": {";
    for (std::size_t i = 0; i < labels.size(); ++i)
        out.append(i == 0 ? "" : ", ")
            .append(json_text(labels[i]))
            .append(": ")
            .append(number_text(shares[i]));
    return out + "}}";
}

void print_row(std::span<const float> shares, const std::vector<std::string>& labels,
               const std::string& text) {
    const auto best =
        static_cast<std::size_t>(std::max_element(shares.begin(), shares.end()) - shares.begin());
    std::printf("%8.5f  %-20s  %s\n", shares[best], cell_text(labels[best], 20).c_str(),
                cell_text(text, 60).c_str());
}

int run(const text_flags& flags) {
    const auto texts = flags.read();
    if (!texts) return fail(texts.error(), flags.json);
    const auto model = flags.open();
    if (!model) return fail(model.error(), flags.json);
    const auto& facts = model->model().facts();
    const auto& labels = model->facts().labels;
    json_results results(facts);
    std::vector<float> shares;
    const int status =
        for_each_run(*texts, flags,
                     [&](std::size_t first, const auto& views, const auto& options) -> bitmill::result<void> {
                         shares.resize(views.size() * labels.size());
                         if (auto done = model->classify(views, shares, options); !done) return done;
                         for (std::size_t i = 0; i < views.size(); ++i) {
                             const auto one = std::span(shares).subspan(i * labels.size(), labels.size());
                             if (flags.json)
                                 results.add(json_row(one, labels, (*texts)[first + i]));
                             else
                                 print_row(one, labels, (*texts)[first + i]);
                         }
                         return {};
                     });
    if (status != 0) return status;
    if (flags.json) results.end();
    return 0;
}

}  // namespace

void add_classify(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<text_flags>();
    auto& verb = *app.add_subcommand("classify", "texts to the labels of a model that classifies");
    flags->add_to(verb, "TEXT");
    flags->add_prompts(verb);
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
