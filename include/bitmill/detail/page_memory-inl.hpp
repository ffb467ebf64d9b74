// Memory for weights that goes back to the system when it is freed.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <new>

#include <sys/mman.h>

#include <bitmill/core/memory.hpp>

namespace bitmill::detail {

// malloc keeps what was freed in its heap, the larger blocks the sooner (glibc's threshold for pages of their own grows up
// to 32 MiB with what is freed): of the weights that a switch frees most would stay resident. Pages of their own do not.
class page_memory final : public std::pmr::memory_resource {
public:
    static constexpr std::size_t least = std::size_t{64} << 10;
    static constexpr std::size_t huge = std::size_t{2} << 20;

private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
        if (bytes < least) return std::pmr::new_delete_resource()->allocate(bytes, alignment);
        void* const made = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) throw std::bad_alloc();
        // A switch of planes spent most of its time on first touches of 4 KiB. Where the system has no larger pages, or
        // none left, nothing is lost.
        if (bytes >= huge) ::madvise(made, bytes, MADV_HUGEPAGE);
        return made;
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
        if (bytes < least) return std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
        ::munmap(memory, bytes);
    }
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
        return this == &other;
    }
};

// The host's, or pages.
inline memory_source weight_memory(memory_source host) noexcept {
    // Never destroyed: what a host holds until its end is freed behind it.
    alignas(page_memory) static std::byte room[sizeof(page_memory)];
    static page_memory* const pages = new (room) page_memory;
    return host != nullptr ? host : pages;
}

}  // namespace bitmill::detail
