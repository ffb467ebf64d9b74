// Runs every file of the given folders through the target without libFuzzer: any compiler, any sanitizer.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <fuzz.hpp>
#include <io_files.hpp>

// The mutators ask libFuzzer for it, but nothing is mutated here.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t*, std::size_t size, std::size_t) { return size; }

int main(int argc, char** argv) {
    std::vector<std::string> paths;
    for (int i = 1; i < argc; ++i) {
        if (std::filesystem::is_directory(argv[i])) {
            for (const auto& entry : std::filesystem::directory_iterator(argv[i]))
                paths.push_back(entry.path().string());
        } else {
            paths.emplace_back(argv[i]);
        }
    }
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths) {
        const std::string bytes = bitmill_test::get_file(path);
        // As long as the input and no longer, so that a sanitizer sees a read behind it.
        const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
        std::fprintf(stderr, "%s\n", path.c_str());  // the last line names the input that broke something
        LLVMFuzzerTestOneInput(exact.data(), exact.size());
    }
    std::printf("%zu inputs\n", paths.size());
    return paths.empty() ? 2 : 0;  // a corpus that is not there proves nothing
}
