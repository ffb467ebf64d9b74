#include "texts.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>

#include <nlohmann/json.hpp>

namespace cli {

void text_flags::add_to(CLI::App& verb, const char* what) {
    model.add_to(verb);
    verb.add_option(what, texts, "without one, the lines of --input or of the standard input");
    verb.add_option("--input", input, "a file, one text a line");
    verb.add_option("--max-length", options.max_length, "tokens of a text at most; default: the model's")
        ->check(not_negative());
    verb.add_flag("--json", json, "as JSON");
}

void text_flags::add_prompts(CLI::App& verb) {
    auto* prompt =
        verb.add_option("--prompt", options.prompt, "put in front of every text, such as 'query: '");
    verb.add_option("--prompt-name", options.prompt_name, "one of config_sentence_transformers.json")
        ->excludes(prompt);
}

bitmill::result<std::vector<std::string>> text_flags::read() const {
    using bitmill::error_code;
    if (!texts.empty()) {
        if (input.empty()) return texts;
        return bitmill::error{.code = error_code::invalid_argument,
                              .message = "texts are given and --input, too; leave one of them out"};
    }
    std::ifstream file;
    if (!input.empty()) file.open(input, std::ios::binary);
    std::istream& from = input.empty() ? std::cin : file;
    if (!from)
        return bitmill::error{
            .code = error_code::io, .message = "cannot be opened; check the path", .file = input};
    std::vector<std::string> lines;
    for (std::string line; std::getline(from, line);) {
        if (line.ends_with('\r')) line.pop_back();
        lines.push_back(std::move(line));
    }
    if (from.bad()) return bitmill::error{.code = error_code::io, .message = "cannot be read", .file = input};
    if (lines.empty())
        return bitmill::error{.code = error_code::invalid_argument,
                              .message =
                                  "there is no text; give some behind MODEL, by --input, or as lines of "
                                  "the standard input"};
    return lines;
}

bitmill::result<bitmill::text_encoder> text_flags::open() const {
    const auto how = model.read();
    if (!how) return how.error();
    auto opened = bitmill::text_encoder::open(model.model, *how);
    if (opened) show_warnings(opened->model().facts());
    return opened;
}

std::string json_text(const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string number_text(float value) {
    if (!std::isfinite(value)) return "null";
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    return {text, end};
}

json_results::json_results(const bitmill::model_facts& model, const std::string& more)
    : before_("{\"model\": " + json_text(model.path) + ", \"level\": " + json_text(model.effective) + ", " +
              more + "\"results\": [\n  ") {}
void json_results::add(const std::string& row) {
    std::printf("%s%s", before_.c_str(), row.c_str());
    before_ = ",\n  ";
}
void json_results::end() { std::printf("\n]}\n"); }

std::string cell_text(const std::string& text, std::size_t width) {
    const std::string clean = printable(text);
    std::size_t bytes = 0;
    for (std::size_t characters = 0; bytes < clean.size(); ++bytes)
        if ((clean[bytes] & 0xc0) != 0x80 && characters++ == width) return clean.substr(0, bytes) + "...";
    return clean;
}

}  // namespace cli
