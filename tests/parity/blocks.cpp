// bitmill_blocks encode TYPE METHOD: f32 on stdin, blocks of GGUF on stdout. bitmill_blocks decode TYPE: the other way.
// One row of whole blocks. For test_ggml_codec.py.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include <bitmill/codec/codec.hpp>
#include <bitmill/kernels/dispatch.hpp>

int main(int count, char** arguments) {
    const std::vector<std::string> words(arguments + 1, arguments + count);
    if (words.size() < 2) return 2;
    const std::string input(std::istreambuf_iterator<char>(std::cin), {});
    for (const auto& row : bitmill::scheme_table) {
        if (row.ggml == nullptr || row.name != words[1]) continue;
        const bitmill::scheme scheme = bitmill::ggml_scheme(row.type);
        const bool decodes = words[0] == "decode";
        const std::size_t cols = decodes ? input.size() / row.ggml->block_bytes * row.ggml->block_elements
                                         : input.size() / sizeof(float);
        std::vector<float> floats(cols);
        const auto sizes = bitmill::encode_bound(scheme, 1, cols).value();
        std::vector<std::byte> codes(sizes.codes);
        bitmill::encoded_view view;
        view.codes = codes.data();
        if (decodes) {
            std::memcpy(codes.data(), input.data(), codes.size());
            bitmill::decode(scheme, view, 1, cols, bitmill::dtype::f32, floats.data()).value();
            return std::fwrite(floats.data(), sizeof(float), cols, stdout) == cols ? 0 : 1;
        }
        std::memcpy(floats.data(), input.data(), cols * sizeof(float));
        bitmill::encode_options options;
        options.method = words.at(2) == "mse" ? bitmill::method::mse : bitmill::method::absmax;
        const bitmill::weight_view matrix{bitmill::dtype::f32, floats.data(), 1, cols};
        (void)bitmill::encode(scheme, matrix, view, options).value();
        return std::fwrite(codes.data(), 1, codes.size(), stdout) == codes.size() ? 0 : 1;
    }
    return 2;
}
