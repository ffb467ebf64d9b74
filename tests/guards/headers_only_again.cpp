// The second file of the program: a body that lacks `inline` would be defined twice here.
#include <bitmill/bitmill.hpp>

std::size_t bound_in_other_file(std::size_t rows, std::size_t cols) {
    return static_cast<std::size_t>(bitmill::encode_bound(bitmill::scheme{}, rows, cols).value().codes);
}
