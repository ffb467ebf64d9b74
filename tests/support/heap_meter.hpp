// Counts what a test program takes from the heap through operator new.
#pragma once

#include <cstddef>

namespace bitmill_test {

// Highest number of heap bytes in use at once since the object was made, above what was in use then. One
// at a time.
class heap_meter {
public:
    heap_meter();
    [[nodiscard]] std::size_t peak_bytes() const;

private:
    std::size_t before_;
};

}  // namespace bitmill_test
