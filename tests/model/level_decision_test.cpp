// Which level serves, as a table.
#include <bitmill/model/level_decision.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

using bitmill::error_code;
using levels = std::vector<std::string>;

TEST_CASE("requested, available, capability, fallback -> effective and reason") {
    struct row {
        const char* requested;
        levels available;
        levels capability;
        bool allow_fallback;
        const char* effective;  // "" for an error
        const char* reason;
        error_code code = error_code::ok;
    };
    const levels all{"original", "fp16", "int8", "int4", "int2"};
    const row table[] = {
        {"int8", all, {}, true, "int8", ""},
        {"int8", all, {}, false, "int8", ""},
        {"int8", all, all, true, "int8", ""},
        {"original", all, {}, true, "original", ""},
        {"int8", {"original", "int4"}, {}, true, "original", "int8 is not there"},
        {"int8", {"int4", "original"}, {}, true, "int4", "int8 is not there"},
        {"int8", {"int4"}, {}, true, "int4", "int8 is not there"},
        {"int8", {"original"}, {}, false, "", "", error_code::invalid_argument},
        {"int8", {}, {}, true, "", "", error_code::invalid_argument},
        {"int8", all, {"original", "int4"}, true, "original", "int8 may not be run here"},
        {"int8", all, {"int4"}, true, "int4", "int8 may not be run here"},
        {"int8", all, {"original", "int4"}, false, "", "", error_code::unsupported},
        {"int8", {"int8"}, {"original"}, true, "", "", error_code::unsupported},
        {"int4", {"original", "int8"}, {"int8"}, true, "int8", "int4 is not there"},
        {"original", {"int8", "int4"}, {}, true, "int8", "original is not there"},
        {"original", {"int8", "int4"}, {"int4"}, true, "int4", "original is not there"},
        {"original", {"int8"}, {"int4"}, true, "", "", error_code::invalid_argument},
    };
    for (const auto& one : table) {
        CAPTURE(one.requested);
        CAPTURE(one.effective);
        const auto got = bitmill::resolve(one.requested, one.available, one.capability, one.allow_fallback);
        REQUIRE(static_cast<bool>(got) == (one.code == error_code::ok));
        if (got)
            CHECK(*got == bitmill::level_decision{one.requested, one.effective, one.reason});
        else
            CHECK(got.error().code == one.code);
    }
}
