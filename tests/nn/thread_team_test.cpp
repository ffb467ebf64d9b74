// Threads that stay: how many there are.
#include <bitmill/core/thread_team.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>

#include <doctest/doctest.h>

TEST_CASE("no more than max_threads are started, and a team says how many it has") {
    CHECK(bitmill::thread_team(3).threads() == 3);
    CHECK(bitmill::thread_team().threads() == std::min(bitmill::default_threads(), bitmill::max_threads));
    std::atomic<unsigned> calls{0};
    const auto count = [&](std::size_t) { ++calls; };
    bitmill::thread_team many(4000000000u);
    CHECK(many.threads() <= bitmill::max_threads);
    many.run(5000, count);
    bitmill::run_parallel(4000000000u, 5000, count);
    CHECK(calls == 10000);
}
