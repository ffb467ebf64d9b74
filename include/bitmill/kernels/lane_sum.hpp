// The order in which the scalar truth adds floats.
#pragma once

#include <algorithm>
#include <cstddef>

namespace bitmill::kernels::reference {

// 16 lanes, element i in lane i % 16, folded by halves.
struct lane_sum {
    float lane[16] = {};
    float fold() const {
        float s[16];
        std::copy(lane, lane + 16, s);
        for (std::size_t half = 8; half != 0; half /= 2)
            for (std::size_t i = 0; i < half; ++i) s[i] += s[i + half];
        return s[0];
    }
};

}  // namespace bitmill::kernels::reference
