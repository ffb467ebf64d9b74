#include "texts.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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
    npy_file(const std::string& path, std::size_t rows, std::size_t cols) : path_(path) {
        std::error_code none;
        auto target = std::filesystem::canonical(path, none);  // where a link leads
        target_ = none ? path : target.string();
        if (std::filesystem::exists(target_, none) && !std::filesystem::is_regular_file(target_, none)) {
            file_ = std::fopen(target_.c_str(), "wb");
        } else {
            partial_ = target_ + ".XXXXXX";
            const int made = ::mkostemp(partial_.data(), O_CLOEXEC);
            if (made < 0) partial_.clear();
            file_ = made < 0 ? nullptr : ::fdopen(made, "wb");
        }
        std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) +
                             ", " + std::to_string(cols) + "), }";
        constexpr std::size_t before = 10, aligned = 64;
        header.append(aligned - 1 - (before + header.size()) % aligned, ' ').append("\n");
        const std::string magic("\x93NUMPY\1\0", 8);
        const char size[] = {static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
        put(magic.data(), magic.size());
        put(size, sizeof size);
        put(header.data(), header.size());
    }
    npy_file(const npy_file&) = delete;
    npy_file& operator=(const npy_file&) = delete;
    ~npy_file() {
        if (file_ != nullptr) std::fclose(file_);
        if (!partial_.empty()) ::unlink(partial_.c_str());
    }
    bitmill::result<void> add(std::span<const float> values) {
        put(values.data(), values.size_bytes());
        return state();
    }
    bitmill::result<void> close() {
        if (file_ == nullptr) return state();
        failed_ = std::fflush(file_) != 0 || failed_;
        if (!partial_.empty()) {
            const mode_t mask = ::umask(0);
            ::umask(mask);
            const int number = ::fileno(file_);
            failed_ = ::fchmod(number, 0666 & ~mask) != 0 || ::fsync(number) != 0 || failed_;
            failed_ = failed_ || std::rename(partial_.c_str(), target_.c_str()) != 0;
            if (!failed_) partial_.clear();
        }
        failed_ = std::fclose(file_) != 0 || failed_;
        file_ = nullptr;
        return state();
    }
    [[nodiscard]] bitmill::result<void> state() const {
        if (!failed_) return {};
        return bitmill::error{.code = bitmill::error_code::io,
                              .message = "cannot be written; check the folder and the space that is left",
                              .file = path_};
    }

private:
    void put(const void* data, std::size_t bytes) {
        failed_ = failed_ || file_ == nullptr || std::fwrite(data, 1, bytes, file_) != bytes;
    }

    std::string path_, target_;
    std::string partial_;  // what becomes the target; "" where it is written itself
    std::FILE* file_ = nullptr;
    bool failed_ = false;
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
                         if (file)
                             if (auto done = file->add(vectors); !done) return done;
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
