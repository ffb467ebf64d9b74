#include "failing_memory.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace failing_memory {
namespace {

std::atomic<bool> armed[2];
std::atomic<long> seen_count{0}, live{0};
std::atomic<long> fail_at{0};
std::atomic<std::size_t> largest[2];
std::atomic<bool> fail_forever{false}, has_failed{false};

bool must_fail(source from, std::size_t bytes) {
    auto& largest_of = largest[static_cast<int>(from)];
    std::size_t known = largest_of.load();
    while (known < bytes && !largest_of.compare_exchange_weak(known, bytes)) {
    }
    if (!armed[static_cast<int>(from)].load()) return false;
    const long n = seen_count.fetch_add(1) + 1;
    const bool fails = fail_forever ? n >= fail_at : n == fail_at;
    if (fails) has_failed = true;
    return fails;
}

}  // namespace

void arm(source from, long n, bool forever) {
    seen_count = 0;
    largest[0] = largest[1] = 0;
    fail_at = n;
    fail_forever = forever;
    has_failed = false;
    armed[static_cast<int>(from)] = true;
}
bool disarm() {
    armed[0] = armed[1] = false;
    return has_failed;
}
long seen() { return seen_count; }
std::size_t largest_block() { return largest[static_cast<int>(source::heap)]; }
std::size_t largest_lent() { return largest[static_cast<int>(source::hook)]; }
long live_blocks() { return live; }

}  // namespace failing_memory

using failing_memory::must_fail;
using failing_memory::source;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BITMILL_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BITMILL_SANITIZED 1
#endif
#endif

#if defined(BITMILL_SANITIZED)

void* failing_memory::lend(std::size_t bytes) {
    return must_fail(source::hook, bytes) ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
void failing_memory::take_back(void* block) { std::free(block); }

// All forms: the sanitizer has its own of those that a program lacks, and notices a mixture.
void* operator new(std::size_t bytes) {
    if (!must_fail(source::heap, bytes))
        if (void* block = std::malloc(bytes == 0 ? 1 : bytes)) return block;
    throw std::bad_alloc();
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return must_fail(source::heap, bytes) ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t& none) noexcept {
    return operator new(bytes, none);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { std::free(block); }

#else

// What glibc calls its own when a program has a malloc.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);
}

namespace {
void* counted(void* block) {
    if (block != nullptr) failing_memory::live.fetch_add(1);
    return block;
}
void* none() {
    errno = ENOMEM;
    return nullptr;
}
}  // namespace

void* failing_memory::lend(std::size_t bytes) {
    return must_fail(source::hook, bytes) ? nullptr : counted(__libc_malloc(bytes));
}
void failing_memory::take_back(void* block) { std::free(block); }

extern "C" {
void* malloc(std::size_t bytes) {
    return must_fail(source::heap, bytes) ? none() : counted(__libc_malloc(bytes));
}
void* calloc(std::size_t count, std::size_t bytes) {
    return must_fail(source::heap, count * bytes) ? none() : counted(__libc_calloc(count, bytes));
}
void* realloc(void* block, std::size_t bytes) {
    if (must_fail(source::heap, bytes)) return none();
    void* moved = __libc_realloc(block, bytes);
    return block == nullptr ? counted(moved) : moved;
}
void* memalign(std::size_t alignment, std::size_t bytes) {
    return must_fail(source::heap, bytes) ? none() : counted(__libc_memalign(alignment, bytes));
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) {
    *block = memalign(alignment, bytes);
    return *block == nullptr ? ENOMEM : 0;
}
void free(void* block) {
    if (block != nullptr) failing_memory::live.fetch_sub(1);
    __libc_free(block);
}
}

#endif
