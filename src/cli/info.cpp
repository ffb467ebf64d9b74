#include "cli.hpp"

#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

namespace cli {

void add_info(CLI::App& app, action& chosen) {
    auto json = std::make_shared<bool>(false);
    auto& verb = *app.add_subcommand("info", "version, instruction sets, threads");
    verb.add_flag("--json", *json, "as JSON");
    verb.callback([json, &chosen] {
        chosen = [json] {
            const nlohmann::ordered_json out{{"version", BITMILL_VERSION_TEXT},
                                             {"isa", bitmill::isa()},
                                             {"isa_available", bitmill::isa_available()},
                                             {"threads", bitmill::default_threads()},
                                             {"onednn", nullptr}};  // the kernels run every layer themselves
            if (*json) {
                std::printf("%s\n", out.dump(2).c_str());
                return 0;
            }
            std::string names;
            for (const auto& one : bitmill::isa_available())
                names.append(names.empty() ? "" : ", ").append(one);
            std::printf("bitmill %s\nisa      %s (available: %s)\nthreads  %u\nonednn   not built in\n",
                        BITMILL_VERSION_TEXT, bitmill::isa().c_str(), names.c_str(),
                        bitmill::default_threads());
            return 0;
        };
    });
}

}  // namespace cli
