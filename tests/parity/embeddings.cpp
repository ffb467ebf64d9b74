// bitmill_embeddings MODEL LEVEL ACTIVATION: a sequence of token ids a line on stdin, their embeddings as f32 on stdout.
// For test_encoder_bits.py, which also runs it for other CPUs. LEVEL may be "".
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/model/encoder_model.hpp>

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    try {
        if (const char* forced = std::getenv("BITMILL_FORCE_ISA")) bitmill::set_isa(forced).value();
        bitmill::model_options options;
        options.level = argv[2];
        options.activation = bitmill::activation_from_text(argv[3]).value();
        const auto model = bitmill::encoder_model::open(argv[1], options).value();
        std::vector<std::int32_t> ids;
        std::vector<std::uint32_t> lengths;
        for (std::string line; std::getline(std::cin, line);) {
            std::istringstream words(line);
            const auto before = ids.size();
            for (std::int32_t id = 0; words >> id;) ids.push_back(id);
            lengths.push_back(static_cast<std::uint32_t>(ids.size() - before));
        }
        std::vector<float> out(lengths.size() * model.facts().embedding_size);
        model.embed({ids, {}, lengths}, out).value();
        return std::fwrite(out.data(), sizeof(float), out.size(), stdout) == out.size() ? 0 : 4;
    } catch (const std::exception& failure) {
        std::cerr << failure.what() << '\n';
        return 1;
    }
}
