// Storage for many small runs of T that never moves and never doubles: a table of a hundred megabytes costs
// what it holds, not three times that while it grows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace bitmill::detail {

template <class T, std::uint32_t ChunkCount>
class arena {
public:
    // Run of at most ChunkCount elements -> its handle. Runs do not cross chunks.
    std::uint32_t store(std::span<const T> run) {
        if (chunks_.empty() || ChunkCount - used_ < run.size()) {
            chunks_.push_back(std::make_unique_for_overwrite<T[]>(ChunkCount));
            used_ = 0;
        }
        const std::uint32_t place = used_;
        std::copy(run.begin(), run.end(), chunks_.back().get() + place);
        used_ += static_cast<std::uint32_t>(run.size());
        // A run may end exactly at a chunk's end, so an empty one behind it may stand at ChunkCount.
        return static_cast<std::uint32_t>(chunks_.size() - 1) * (ChunkCount + 1) + place;
    }
    [[nodiscard]] const T* at(std::uint32_t handle) const noexcept {
        return chunks_[handle / (ChunkCount + 1)].get() + handle % (ChunkCount + 1);
    }

private:
    std::vector<std::unique_ptr<T[]>> chunks_;
    std::uint32_t used_ = 0;
};

}  // namespace bitmill::detail
