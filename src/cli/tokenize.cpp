#include "cli.hpp"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

namespace cli {
namespace {

struct tokenize_flags {
    std::string model;
    std::string input;
    bool pairs = false;
    bool ids_only = false;
    bool no_special = false;
    bool no_truncation = false;
    std::optional<std::size_t> max_length;
};

template <class Values, class Write>
void append_list(std::string& out, const char* name, const Values& values, const Write& write) {
    out.append(name);
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i != 0) out.push_back(',');
        write(values[i]);
    }
    out.push_back(']');
}

std::string json_of(const bitmill::token_sequence& tokens, bool ids_only) {
    std::string out;
    const auto number = [&](auto value) { out.append(std::to_string(value)); };
    append_list(out, "{\"ids\":[", tokens.ids, number);
    if (ids_only) return out + "}";
    append_list(out, ",\"offsets\":[", tokens.offsets, [&](bitmill::token_span place) {
        out.append("[")
            .append(std::to_string(place.begin))
            .append(",")
            .append(std::to_string(place.end))
            .append("]");
    });
    append_list(out, ",\"types\":[", tokens.types, number);
    append_list(out, ",\"attention\":[", tokens.attention, number);
    append_list(out, ",\"special_tokens\":[", tokens.special_tokens, number);
    return out + "}";
}

int run(const tokenize_flags& flags) {
    const auto tokenizer = bitmill::tokenizer::open(flags.model);
    if (!tokenizer) return fail(tokenizer.error(), false);
    std::ifstream file;
    if (!flags.input.empty()) {
        file.open(flags.input, std::ios::binary);
        if (!file)
            return fail({.code = bitmill::error_code::io,
                         .message = "cannot be opened; check the path",
                         .file = flags.input},
                        false);
    }
    std::istream& input = flags.input.empty() ? std::cin : file;
    const bitmill::tokenize_options options{.add_special_tokens = !flags.no_special,
                                            .max_length = flags.max_length,
                                            .truncate = !flags.no_truncation};
    for (std::string line; std::getline(input, line);) {
        const std::size_t tab = flags.pairs ? line.find('\t') : std::string::npos;
        const std::string_view text = std::string_view(line).substr(0, tab);
        const auto tokens = tab == std::string::npos
                                ? tokenizer->encode(text, options)
                                : tokenizer->encode(text, std::string_view(line).substr(tab + 1), options);
        if (!tokens) return fail(tokens.error(), false);
        const std::string out = json_of(*tokens, flags.ids_only) + "\n";
        std::fwrite(out.data(), 1, out.size(), stdout);
    }
    if (input.bad())
        return fail({.code = bitmill::error_code::io, .message = "cannot be read", .file = flags.input},
                    false);
    return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<tokenize_flags>();
    auto& verb = *app.add_subcommand("tokenize",
                                     "lines of text to token ids, offsets and masks, one JSON object a line");
    verb.add_option("MODEL", flags->model, "a Hugging Face folder with a tokenizer.json, or such a file")
        ->required();
    verb.add_option("TEXT", flags->input, "a file of lines; without it the standard input");
    verb.add_flag("--pairs", flags->pairs, "a tab in a line parts two texts");
    verb.add_flag("--ids-only", flags->ids_only, "no offsets, types and masks");
    verb.add_flag("--no-special-tokens", flags->no_special,
                  "without what the model adds, as [CLS] and [SEP]");
    verb.add_option("--max-length", flags->max_length, "tokens at most; else what tokenizer.json says")
        ->check(not_negative());
    verb.add_flag("--no-truncation", flags->no_truncation, "whatever tokenizer.json says");
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
