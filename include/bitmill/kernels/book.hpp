// The 16 values of a 4-bit code book and how they are found.
#pragma once

#include <cstdint>

namespace bitmill::kernels {

// A 4-bit code book. value[code]; `threshold` ascends and rank = number of thresholds below the scaled
// weight; code = code_of_rank[rank]. Codes are packed with the first element in the high nibble.
struct code_book {
    float value[16];
    float threshold[15];
    std::uint8_t code_of_rank[16];
};

}  // namespace bitmill::kernels
