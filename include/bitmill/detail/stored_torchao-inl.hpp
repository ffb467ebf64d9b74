// torchao 0.18 as transformers saves it: the data tensors of Int8Tensor, Float8Tensor and IntxUnpackedToInt8Tensor, each
// weight's beside it as _weight_qdata, _weight_scale and _weight_zero_point.
#pragma once

#include <bitmill/detail/stored_collector-inl.hpp>

namespace bitmill::detail {

class torchao_reader {
public:
    using location = checkpoint::location;

    explicit torchao_reader(stored_collector& found) : found_(found) {}

    result<void> read(const tensor_info& tensor, location at) {
        const std::string name(tensor.name);
        constexpr std::string_view tail = "._weight_qdata";
        if (!name.ends_with(tail)) return {};
        const std::string module = name.substr(0, name.size() - tail.size());
        const std::string weight = module + ".weight";
        if ((tensor.type != dtype::i8 && tensor.type != dtype::f8_e4m3) || tensor.shape.size() != 2)
            return found_.bad(
                tensor, at, "qdata must be a matrix of I8 or F8_E4M3; other tensors of torchao are not read",
                error_code::unsupported);
        auto scales = found_.scales_of(tensor, at, weight, module + "._weight_scale");
        if (!scales) return scales.error();
        std::vector<std::uint64_t> shape{tensor.shape[0], tensor.shape[1]};
        auto s = found_.granularity_of(*scales, shape);
        if (!s) return s.error();
        const auto zeros = found_.optional_partner(weight, module + "._weight_zero_point");
        if (zeros && (found_.info(*zeros).type != dtype::i8 ||
                      found_.info(*zeros).elements != found_.info(*scales).elements))
            return found_.bad(found_.info(*zeros), *zeros, "zero points must be I8, one a scale");
        foreign_codes codes;
        codes.e4m3 = tensor.type == dtype::f8_e4m3;
        codes.row_block =
            s->granularity == granularity::per_tensor ? std::max<std::uint64_t>(shape[0], 1) : 1;
        codes.col_block =
            s->granularity == granularity::group ? s->group_size : std::max<std::uint64_t>(shape[1], 1);
        if (zeros) codes.zeros = foreign_codes::zero_points::bytes;
        s->type = scheme_type::int8;
        codes.text = (codes.e4m3 ? "fp8" : "int8") + to_text(*s).substr(std::string_view("int8").size());
        if (auto done = found_.add_foreign(tensor, at, weight, std::move(shape), found_.model_dtype(),
                                           std::move(codes), *scales);
            !done)
            return done;
        if (zeros) found_.out.tensors.back().zero_points = *zeros;
        return {};
    }

private:
    stored_collector& found_;
};

}  // namespace bitmill::detail
