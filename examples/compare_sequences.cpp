// An encoder that runs: how alike sequences of token ids are, by the cosine of their embeddings.
//
//     echo "101 7592 102
//     101 2088 102" | compare_sequences MODEL [LEVEL]
//
// One sequence a line. MODEL is a folder of BERT, RoBERTa, XLM-RoBERTa or DistilBERT, as it was published or milled.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <bitmill/bitmill.hpp>

namespace {

struct sequences {
    std::vector<std::int32_t> ids;  // one after the other, nothing between them
    std::vector<std::uint32_t> lengths;
};

// False where a word is no number.
bool read_lines(std::istream& in, sequences& out) {
    for (std::string line; std::getline(in, line);) {
        const std::size_t before = out.ids.size();
        std::istringstream words(line);
        for (std::int32_t id = 0; words >> id;) out.ids.push_back(id);
        if (!words.eof()) return false;
        if (out.ids.size() > before)
            out.lengths.push_back(static_cast<std::uint32_t>(out.ids.size() - before));
    }
    return true;
}

int fail(const bitmill::error& error) {
    std::fprintf(stderr, "compare_sequences: %s\n", error.text().c_str());
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "compare_sequences MODEL [LEVEL] < IDS\n");
        return 2;
    }
    bitmill::model_options options;
    if (argc > 2) options.level = argv[2];
    // Integer layers get 8-bit inputs, which is the fast way; plain layers do not mind.
    options.activation = bitmill::activation::dynamic_int8;
    const auto model = bitmill::encoder_model::open(argv[1], options);
    if (!model) return fail(model.error());
    const auto& facts = model->facts();
    std::fprintf(stderr, "%s, %zu layers, level %s, %.1f MB of weights\n", facts.model_type.c_str(),
                 facts.layers, facts.effective.c_str(), static_cast<double>(facts.weight_bytes) / 1e6);

    for (const auto& warning : facts.warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());

    sequences given;
    if (!read_lines(std::cin, given)) {
        std::fprintf(stderr, "compare_sequences: only whole numbers are token ids\n");
        return 2;
    }
    const std::size_t count = given.lengths.size(), size = facts.embedding_size;
    std::vector<float> vectors(count * size);
    if (const auto done = model->embed({.ids = given.ids, .types = {}, .lengths = given.lengths}, vectors);
        !done)
        return fail(done.error());

    const auto dot = [&](std::size_t a, std::size_t b) {
        double sum = 0;
        for (std::size_t i = 0; i < size; ++i)
            sum += static_cast<double>(vectors[a * size + i]) * static_cast<double>(vectors[b * size + i]);
        return sum;
    };
    for (std::size_t a = 0; a < count; ++a)
        for (std::size_t b = 0; b < count; ++b)
            std::printf("%.4f%c", dot(a, b) / std::sqrt(dot(a, a) * dot(b, b)), b + 1 < count ? ' ' : '\n');
    return 0;
}
