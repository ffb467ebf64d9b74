// Working memory: the program's own, or what the host hands over.
#pragma once

#include <memory_resource>

namespace bitmill {

// Where buffers that grow with a model come from: tiles, scratch of the codecs. Names, paths and plans are small
// and come from operator new, as every C++ object does. A resource is used from several threads at once and
// throws std::bad_alloc when it has no more; null stands for the program's default resource.
using memory_source = std::pmr::memory_resource*;

[[nodiscard]] inline memory_source memory_or_default(memory_source memory) noexcept {
    return memory != nullptr ? memory : std::pmr::get_default_resource();
}

}  // namespace bitmill
