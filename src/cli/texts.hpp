// What embed, rerank and classify share: a model that takes text, and where the texts come from.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "cli.hpp"

namespace cli {

struct text_flags {
    model_flags model;
    std::vector<std::string> texts;
    std::string input;  // a file of lines
    bitmill::text_options options;
    bool json = false;

    // `what`: TEXT or DOCUMENT.
    void add_to(CLI::App& verb, const char* what);
    // --prompt, --prompt-name.
    void add_prompts(CLI::App& verb);

    // The texts of the command line, else the lines of the input; without --input of the standard input.
    [[nodiscard]] bitmill::result<std::vector<std::string>> read() const;
    [[nodiscard]] bitmill::result<bitmill::text_encoder> open() const;
};

// Of so many texts the results are printed, then the next are run: memory stays bounded.
inline constexpr std::size_t texts_at_once = 1024;

[[nodiscard]] std::string json_text(const std::string& text);  // in quotes
// As many digits as bring the same float back; JSON has no NaN, which becomes null.
[[nodiscard]] std::string number_text(float value);
// At most `width` characters on one line, for a table.
[[nodiscard]] std::string cell_text(const std::string& text, std::size_t width);

// {"model": ..., "level": ..., <more> "results": [rows]}; nothing is printed before the first row, so that an error there
// is the only answer.
class json_results {
public:
    json_results(const bitmill::model_facts& model, const std::string& more = "");
    void add(const std::string& row);
    void end();

private:
    std::string before_;
};

// Calls run(views of texts, progress) for runs of at most texts_at_once, with a bar over all of them. Returns the exit code.
template <class Run>
int for_each_run(const std::vector<std::string>& texts, const text_flags& flags, const Run& run) {
    const session shown;
    for (std::size_t first = 0; first < texts.size(); first += texts_at_once) {
        const std::size_t count = std::min(texts_at_once, texts.size() - first);
        const std::vector<std::string_view> views(texts.begin() + static_cast<std::ptrdiff_t>(first),
                                                  texts.begin() + static_cast<std::ptrdiff_t>(first + count));
        bitmill::text_options options = flags.options;
        options.on_progress = [&](std::size_t done, std::size_t) {
            return shown.show(static_cast<double>(first + done) / static_cast<double>(texts.size()),
                              std::to_string(first + done) + " texts");
        };
        if (const auto done = run(first, views, options); !done) return fail(done.error(), flags.json);
    }
    return 0;
}

}  // namespace cli
