// xtensor in and out: lazy expressions and views to codes, codes back into arrays and views.
#include <cmath>
#include <cstdio>

#include <bitmill/xtensor.hpp>
// After bitmill's, which mends xtensor 0.24 for clang 19.
#include <xtensor/xmath.hpp>
#include <xtensor/xrandom.hpp>
#include <xtensor/xview.hpp>

namespace {

// The codec measures what it loses; here xtensor does it once more, in f64.
double snr_db(const xt::xtensor<float, 2>& x, const xt::xarray<float>& y) {
    const auto wide = xt::cast<double>(x);
    return 10 * std::log10(xt::sum(xt::square(wide))() / xt::sum(xt::square(wide - y))());
}

}  // namespace

int main() {
    using bitmill::granularity, bitmill::scheme_type;
    const xt::xtensor<float, 2> weight = xt::random::randn<float>({256, 1024}, 0.0f, 0.02f);

    const bitmill::scheme schemes[] = {
        {scheme_type::f16},
        {scheme_type::int8},  // one scale a row
        {scheme_type::int4, granularity::group, 128},
        {scheme_type::nf4, granularity::block, 64},
    };
    std::printf("%-16s  %11s  %8s  %12s\n", "scheme", "bits/weight", "SNR dB", "by xtensor");
    for (const auto& scheme : schemes) {
        // value() throws bitmill::exception where something is wrong; `if (!coded)` would look at coded.error().
        const bitmill::encoded_array coded = bitmill::encode(scheme, weight).value();
        const xt::xarray<float> back = bitmill::decode<float>(coded).value();
        std::printf("%-16s  %11.2f  %8.2f  %12.2f\n", bitmill::to_text(scheme).c_str(),
                    8.0 * static_cast<double>(coded.size_bytes()) / static_cast<double>(weight.size()),
                    coded.error.snr_db(), snr_db(weight, back));
    }

    // A weight that lies [in, out] is encoded through its transpose, without a copy: scales belong to outputs.
    const bitmill::scheme int8;
    const xt::xtensor<float, 2> turned = xt::transpose(weight);
    const auto straight = bitmill::encode(int8, weight).value();
    const auto through_view = bitmill::encode(int8, xt::transpose(turned)).value();
    std::printf("transposed in place: %s codes\n", straight.codes == through_view.codes ? "equal" : "other");

    // Arithmetic is evaluated once, here with a LoRA's product merged in.
    const xt::xtensor<float, 2> up = xt::random::randn<float>({256, 1}, 0.0f, 0.1f);
    const xt::xtensor<float, 2> down = xt::random::randn<float>({1, 1024}, 0.0f, 0.1f);
    const auto merged = bitmill::encode(int8, weight + 0.5f * up * down).value();
    std::printf("merged: SNR %.2f dB\n", merged.error.snr_db());

    // Decoding fills a view in place: two projections side by side in one matrix.
    xt::xtensor<float, 2> both = xt::zeros<float>({512, 1024});
    bitmill::decode(straight, xt::view(both, xt::range(0, 256), xt::all())).value();
    bitmill::decode(merged, xt::view(both, xt::range(256, 512), xt::all())).value();
    std::printf("stacked: %zu x %zu\n", both.shape(0), both.shape(1));
    return 0;
}
