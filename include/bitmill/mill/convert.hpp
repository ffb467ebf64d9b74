// The same integers in another container.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <bitmill/core/error.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/report.hpp>

namespace bitmill {

// `gptq`: version 1 with an ordered g_idx. `awq`: layout "gemm", 4 bits.
enum class container : std::uint8_t {
    compressed_tensors,
    gptq,
    awq
};
[[nodiscard]] const char* to_text(container value) noexcept;
[[nodiscard]] result<container> container_from_text(std::string_view text);  // compressed-tensors, gptq, awq

// Writes the integers, zero points and scales of `model` (pack-quantized compressed-tensors, GPTQ, AWQ, AutoRound or
// format bitmill without planes) as `to` has them into the folder `out`: every weight means in F32, bit by bit, what it meant.
// All else is copied. A coded weight is held whole, twice, and the memory limit counts that. The same bytes for every
// thread count.
// Errors: unsupported, naming the tensor, where one weight does not go over exactly: act-order, a short last group,
// zero points that the container cannot say, scales that F16 does not hold; else those of dequantize. On an error
// `out` is what it was.
[[nodiscard]] result<mill_report> convert(const std::string& model, const std::string& out, container to,
                                          const work_options& options);

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/convert-inl.hpp>
#endif
