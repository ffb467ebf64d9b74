// A service that changes its model's precision while it serves: one thread embeds without a pause, another switches.
//
//     switch_levels MODEL LEVEL...             LEVEL: original, fp16, int8, int4, int2, as MODEL has them
#include <atomic>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <bitmill/bitmill.hpp>

namespace {

int fail(const bitmill::error& error) {
    std::fprintf(stderr, "switch_levels: %s\n", error.text().c_str());
    return static_cast<int>(error.code);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) return fail({bitmill::error_code::invalid_argument, "give MODEL LEVEL..."});
    bitmill::loader_options options;
    options.canary = {"a level has to show that it says nearly the same as the original", "before it serves"};
    options.on_log = [](bitmill::log_level level, const std::string& line) {
        if (level == bitmill::log_level::warning) std::fprintf(stderr, "warning: %s\n", line.c_str());
    };
    auto loader = bitmill::model_loader::open(argv[1], options);
    if (!loader) return fail(loader.error());

    std::atomic<bool> stop{false};
    std::atomic<int> served{0}, failed{0};
    std::thread user([&] {
        const std::vector<std::string_view> texts{"what a user asks", "and another one"};
        std::vector<float> vectors(texts.size() * loader->current()->model().facts().embedding_size);
        while (!stop) ++(loader->embed(texts, vectors) ? served : failed);
    });

    std::printf("%-9s %-9s %9s %9s %8s %10s\n", "asked", "serves", "switch ms", "canary ms", "cosine",
                "bytes");
    for (int i = 2; i < argc; ++i) {
        // Without fallback an error; with it, what served goes on serving, and the record says why.
        const auto done = loader->use_level(argv[i]);
        if (!done) {
            stop = true;
            user.join();
            return fail(done.error());
        }
        std::printf("%-9s %-9s %9.2f %9.2f %8.5f %10llu%s\n", done->decision.requested.c_str(),
                    done->decision.effective.c_str(), done->load_ms, done->canary_ms,
                    done->canary_cosine.value_or(1), static_cast<unsigned long long>(done->weight_bytes),
                    done->planes ? "  a plane" : "");
        for (const int before = served; served == before && failed == 0;) std::this_thread::yield();
    }
    stop = true;
    user.join();
    std::printf("%d calls failed\n", failed.load());
    return failed == 0 ? 0 : 1;
}
