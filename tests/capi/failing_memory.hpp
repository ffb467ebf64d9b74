// Makes the n-th allocation of the process fail. Without a sanitizer malloc itself is replaced, so that the C library's
// own allocations fail too; a sanitizer needs its malloc, so that there only operator new fails.
#pragma once

#include <cstddef>

namespace failing_memory {

enum class source {
    heap,
    hook  // lend(), the memory of the host
};

// From now on the n-th allocation fails, or all from the n-th on.
void arm(source from, long n, bool forever);
// Ends that; whether one has failed.
bool disarm();
// Allocations since arm().
long seen();
// What the host's hooks do; null where it is to fail.
void* lend(std::size_t bytes);
void take_back(void* block);
// The largest block since arm() that came from lend(), and that did not.
std::size_t largest_lent();
std::size_t largest_block();
// Blocks that were allocated and not freed; 0 under a sanitizer, which finds leaks itself.
long live_blocks();

}  // namespace failing_memory
