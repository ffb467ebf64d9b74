// What every verb of the command line shares.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>

#include <bitmill/bitmill.hpp>

namespace cli {

// A verb runs after parsing and returns the exit code.
using action = std::function<int()>;

void add_quantize(CLI::App& app, action& chosen);
void add_batch(CLI::App& app, action& chosen);
void add_dequantize(CLI::App& app, action& chosen);
void add_convert(CLI::App& app, action& chosen);
void add_inspect(CLI::App& app, action& chosen);
void add_validate(CLI::App& app, action& chosen);
void add_verify(CLI::App& app, action& chosen);
void add_tokenize(CLI::App& app, action& chosen);
void add_embed(CLI::App& app, action& chosen);
void add_rerank(CLI::App& app, action& chosen);
void add_classify(CLI::App& app, action& chosen);
void add_bench(CLI::App& app, action& chosen);
void add_compare(CLI::App& app, action& chosen);
void add_serve(CLI::App& app, action& chosen);  // where the server is built
void add_info(CLI::App& app, action& chosen);

// Writes the error as one line to stderr, with `json` also as an object to stdout. Returns the exit code:
// 2 usage, 3 bad input, 4 I/O, 5 out of memory, 6 refused, 130 cancelled.
int fail(const bitmill::error& what, bool json);
[[nodiscard]] int exit_status(const bitmill::error& what);

// What the user asked for makes no sense.
[[nodiscard]] inline bitmill::error usage(std::string message) {
    return {.code = bitmill::error_code::invalid_argument, .message = std::move(message)};
}

// Options that quantize and dequantize share.
struct work_flags {
    std::string model;
    std::string output;
    bool json = false;
    std::string device = "auto";

    void add_to(CLI::App& verb, bitmill::work_options& options, const char* what = "MODEL",
                const char* meaning =
                    "a Hugging Face folder, or a .safetensors, .bin, .pt, .pth, .gguf, .pkl or .joblib file",
                const char* to = "the folder to write, or the file where MODEL is a .gguf or a pickle");
    // Checks what the parser cannot; an error is shown and its exit code returned.
    int check(bool needs_output) const;
};

// Shows a bar on a terminal, lets Ctrl-C cancel, puts both back when it goes.
class session {
public:
    session();
    explicit session(bitmill::work_options& options);
    ~session();
    session(const session&) = delete;
    session& operator=(const session&) = delete;

    // False once Ctrl-C was pressed. share: 0 to 1.
    bool show(double share, const std::string& done) const;

private:
    bool bar_;
};

// --level, --activation, --threads of the verbs that run a model.
struct model_flags {
    std::string model;
    std::string activation = "float";
    bitmill::model_options options;

    void add_to(CLI::App& verb);
    // The options; an error where the activation is none.
    [[nodiscard]] bitmill::result<bitmill::model_options> read() const;
};

void show_warnings(const bitmill::mill_report& report);  // to stderr
void show_warnings(const bitmill::model_facts& facts);
// Prints the report: as JSON, or as a summary with one row a tensor where `rows` asks for it.
void show(const bitmill::mill_report& report, bool json, bool rows);

// CLI11 2.1 reads "-1" into an unsigned number; its own check for that prints a range of 300 digits.
[[nodiscard]] CLI::Validator not_negative();
// Of --threads: the library would quietly start fewer.
[[nodiscard]] CLI::Validator thread_count();

// --weight-threshold, which is returned, --prune-relative and --target-sparsity: at most one of them.
CLI::Option* add_pruning(CLI::App& verb, bitmill::mill_options& options);

[[nodiscard]] std::string size_text(std::uint64_t bytes);  // "90.9 MB"
[[nodiscard]] std::string shape_text(const std::vector<std::uint64_t>& shape);
// Control characters of hostile names never reach the terminal.
[[nodiscard]] std::string printable(const std::string& text);

}  // namespace cli
