#include <heap_meter.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include <malloc.h>

namespace {

std::atomic<std::size_t> in_use{0};
std::atomic<std::size_t> peak{0};

void* counted(void* block) noexcept {
    if (block == nullptr) return nullptr;
    const std::size_t now = in_use += ::malloc_usable_size(block);
    std::size_t seen = peak.load();
    while (seen < now && !peak.compare_exchange_weak(seen, now)) {
    }
    return block;
}

void give_back(void* block) noexcept {
    if (block != nullptr) in_use -= ::malloc_usable_size(block);
    std::free(block);
}

}  // namespace

// All the forms without an alignment: of those left out, clang's AddressSanitizer would bring its own.
void* operator new(std::size_t size) {
    if (void* block = counted(std::malloc(std::max<std::size_t>(size, 1)))) return block;
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return counted(std::malloc(std::max<std::size_t>(size, 1)));
}
void* operator new[](std::size_t size) { return ::operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t& tag) noexcept {
    return ::operator new(size, tag);
}
void operator delete(void* block) noexcept { give_back(block); }
void operator delete(void* block, std::size_t) noexcept { give_back(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { give_back(block); }
void operator delete[](void* block) noexcept { give_back(block); }
void operator delete[](void* block, std::size_t) noexcept { give_back(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { give_back(block); }

namespace bitmill_test {

heap_meter::heap_meter() : before_(in_use.load()) { peak = before_; }
std::size_t heap_meter::peak_bytes() const { return peak.load() - before_; }

}  // namespace bitmill_test
