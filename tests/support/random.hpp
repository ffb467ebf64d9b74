// A small generator whose numbers are the same on every platform, which those of <random> are not.
#pragma once

#include <cmath>
#include <cstdint>

namespace test {

class random {
public:
    explicit random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
    std::uint32_t bits() {  // splitmix64
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 32);
    }
    std::uint32_t below(std::uint32_t limit) { return bits() % limit; }
    float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }
    // The sum of twelve uniforms: only exact operations, unlike a Box-Muller transform.
    float normal() {
        float sum = -6;
        for (int i = 0; i < 12; ++i) sum += uniform();
        return sum;
    }

private:
    std::uint64_t state_;
};

}  // namespace test
