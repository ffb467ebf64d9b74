#include "texts.hpp"

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>

namespace cli {
namespace {

struct embed_flags {
    text_flags text;
    std::string npy;
};

// A matrix of floats as numpy reads it (NEP 1, version 1.0). It appears whole or not at all; what is no file (a pipe,
// /dev/stdout) is written as it comes.
class npy_file {
public:
    npy_file(const std::string& path, std::size_t rows, std::size_t cols) : path_(path), partial_(path) {
        std::error_code ignored;
        const auto there = std::filesystem::status(path, ignored);
        if (!std::filesystem::exists(there) || std::filesystem::is_regular_file(there))
            partial_ += ".bitmill-partial";
        file_.open(partial_, std::ios::binary);
        std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) +
                             ", " + std::to_string(cols) + "), }";
        constexpr std::size_t before = 10, aligned = 64;
        header.append(aligned - 1 - (before + header.size()) % aligned, ' ').append("\n");
        const std::array<char, before> magic{'\x93',
                                             'N',
                                             'U',
                                             'M',
                                             'P',
                                             'Y',
                                             1,
                                             0,
                                             static_cast<char>(header.size() & 255),
                                             static_cast<char>(header.size() >> 8)};
        file_.write(magic.data(), magic.size())
            .write(header.data(), static_cast<std::streamsize>(header.size()));
    }
    void add(std::span<const float> values) {
        file_.write(reinterpret_cast<const char*>(values.data()),
                    static_cast<std::streamsize>(values.size_bytes()));
    }
    npy_file(const npy_file&) = delete;
    npy_file& operator=(const npy_file&) = delete;
    ~npy_file() {
        std::error_code ignored;
        if (partial_ != path_) std::filesystem::remove(partial_, ignored);
    }
    bitmill::result<void> close() {
        file_.close();
        std::error_code failed;
        if (file_ && partial_ != path_) std::filesystem::rename(partial_, path_, failed);
        if (failed) file_.setstate(std::ios::failbit);
        return state();
    }
    [[nodiscard]] bitmill::result<void> state() const {
        if (file_) return {};
        return bitmill::error{.code = bitmill::error_code::io,
                              .message = "cannot be written; check the folder and the space that is left",
                              .file = path_};
    }

private:
    std::string path_, partial_;
    std::ofstream file_;
};

std::string json_row(std::span<const float> vector, const std::string& text) {
    std::string out = "{\"text\": " + json_text(text) + ", \"embedding\": [";
    for (std::size_t i = 0; i < vector.size(); ++i)
        out.append(i == 0 ? "" : ", ").append(number_text(vector[i]));
    return out + "]}";
}

void print_row(std::span<const float> vector, const std::string& text) {
    std::printf("[");
    for (std::size_t i = 0; i < vector.size() && i < 4; ++i)
        std::printf(i == 0 ? "%8.5f" : ", %8.5f", vector[i]);
    std::printf("%s]  %s\n", vector.size() > 4 ? ", ..." : "", cell_text(text, 60).c_str());
}

int run(const embed_flags& flags) {
    const bool json = flags.text.json;
    const auto texts = flags.text.read();
    if (!texts) return fail(texts.error(), json);
    const auto model = flags.text.open();
    if (!model) return fail(model.error(), json);
    const auto& facts = model->model().facts();
    const std::size_t size = facts.embedding_size;
    std::unique_ptr<npy_file> file;
    if (!flags.npy.empty()) {
        file = std::make_unique<npy_file>(flags.npy, texts->size(), size);
        if (const auto opened = file->state(); !opened) return fail(opened.error(), json);
    }
    const bool rows = !json && !file;
    json_results results(facts, "\"embedding_size\": " + std::to_string(size) + ", ");
    std::vector<float> vectors;
    const int status =
        for_each_run(*texts, flags.text,
                     [&](std::size_t first, const auto& views, const auto& options) -> bitmill::result<void> {
                         vectors.resize(views.size() * size);
                         if (auto done = model->embed(views, vectors, options); !done) return done;
                         if (file) file->add(vectors);
                         for (std::size_t i = 0; i < views.size(); ++i) {
                             const auto one = std::span(vectors).subspan(i * size, size);
                             if (json) results.add(json_row(one, (*texts)[first + i]));
                             if (rows) print_row(one, (*texts)[first + i]);
                         }
                         return {};
                     });
    if (status != 0) return status;
    if (json) results.end();
    if (file)
        if (const auto closed = file->close(); !closed) return fail(closed.error(), json);
    if (file && !json)
        std::printf("%s: %zu x %zu floats, level %s\n", printable(flags.npy).c_str(), texts->size(), size,
                    facts.effective.c_str());
    return 0;
}

}  // namespace

void add_embed(CLI::App& app, action& chosen) {
    auto flags = std::make_shared<embed_flags>();
    auto& verb = *app.add_subcommand("embed", "texts to vectors, as sentence-transformers has them");
    flags->text.add_to(verb, "TEXT");
    flags->text.add_prompts(verb);
    verb.add_option("--npy", flags->npy, "a file for the vectors, which numpy.load() reads");
    verb.callback([flags, &chosen] { chosen = [flags] { return run(*flags); }; });
}

}  // namespace cli
