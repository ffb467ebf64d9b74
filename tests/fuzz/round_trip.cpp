// Input: a scheme, encode options and a small matrix, or codes and scales that no encoder made. What encodes decodes
// to finite values, each the nearest that its scale holds; a refusal names the first element that deserves it; every
// instruction set gives the same bytes.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/kernels/dispatch.hpp>

#include <coded.hpp>
#include <mutators.hpp>
#include <weights.hpp>

using bitmill::dtype;
using bitmill::error_code;
using bitmill::scheme_type;
using bitmill_test::coded_matrix;
using fuzz::require;

namespace {

using byte_vector = std::vector<std::byte>;

constexpr std::size_t group_sizes[] = {0, 8, 16, 24, 32, 33, 64, 128, 256, 4096, 8192, std::size_t{1} << 40};
constexpr std::size_t alignments[] = {1, 4, 0, 3, 64, std::size_t{1} << 62};
constexpr std::size_t widths[] = {0,  1,  2,  7,   8,   15,  16,   17,   24,  32,
                                  33, 64, 96, 128, 129, 256, 1024, 4096, 4097};
constexpr dtype source_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f64, dtype::i8};
constexpr dtype scale_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::f64};
constexpr float thresholds[] = {0, 0, 0, 1e-3f, 1, INFINITY, -1, NAN};

// The first bytes of an input pick from the lists above; three f32 follow: range low and high, nested offset.
struct request {
    static constexpr std::size_t fields = 10;
    static constexpr std::size_t header_bytes = fields + 3 * sizeof(float);

    bitmill::scheme scheme;
    bitmill::encode_options options;
    dtype source = dtype::f32;
    std::size_t rows = 0, cols = 0;
    bool only_decode = false;
    std::string_view data;

    explicit request(std::string_view input) : data(input.substr(header_bytes)) {
        std::array<std::uint8_t, fields> f{};
        std::memcpy(f.data(), input.data(), fields);
        std::array<float, 3> given{};
        std::memcpy(given.data(), input.data() + fields, sizeof given);
        const auto choose = [](const auto& list, std::uint8_t by) { return list[by % std::size(list)]; };
        scheme.type = static_cast<scheme_type>(f[0] % std::size(bitmill::scheme_table));
        scheme.granularity = static_cast<bitmill::granularity>(f[1] % 4);
        scheme.group_size = choose(group_sizes, f[2]);
        scheme.scale_dtype = choose(scale_types, f[3]);
        scheme.row_alignment = choose(alignments, f[4]);
        source = choose(source_types, f[5]);
        cols = choose(widths, f[6]);
        rows = std::min<std::size_t>(f[7] % 6, cols == 0 ? 5 : 8400 / cols);  // 4097 twice at most
        if (ggml() != nullptr && f[1] < 224)
            scheme = bitmill::ggml_scheme(scheme.type);  // else it is refused
        options.weight_threshold = choose(thresholds, f[8]);
        const auto flag = [&](unsigned bit) { return (f[9] >> bit & 1) != 0; };
        scheme.symmetric = !flag(0);  // those of integers and books say nothing about blocks of GGUF
        scheme.double_quant = flag(1);
        scheme.offset_binary = flag(2);
        options.method = flag(3) ? bitmill::method::mse : bitmill::method::absmax;
        if (flag(4)) options.range = bitmill::value_range{given[0], given[1]};
        if (flag(5)) options.nested_offset = given[2];
        only_decode = flag(6);
        options.measure = !flag(7);
    }
    [[nodiscard]] std::size_t elements() const { return rows * cols; }
    [[nodiscard]] bool integer() const { return bitmill::facts(scheme.type).integer; }
    [[nodiscard]] bool code_book() const { return bitmill::facts(scheme.type).code_book; }
    [[nodiscard]] const bitmill::ggml_facts* ggml() const { return bitmill::facts(scheme.type).ggml; }
    [[nodiscard]] bool one_scale() const {
        return integer() && scheme.granularity == bitmill::granularity::per_tensor;
    }
};

// `data` over and over. The buffers are exactly as long as promised, so that a sanitizer sees a step beyond.
byte_vector tiled(std::string_view data, std::uint64_t bytes) {
    byte_vector out(static_cast<std::size_t>(bytes));
    for (std::size_t at = 0; at < out.size() && !data.empty(); at += data.size())
        std::memcpy(out.data() + at, data.data(), std::min(data.size(), out.size() - at));
    return out;
}

struct parts {
    byte_vector codes, scales, zero_points, nested_scales;
    float nested_offset = 0;

    parts(const bitmill::encoded_sizes& sizes, std::string_view data)
        : codes(tiled(data, sizes.codes)), scales(tiled(data, sizes.scales)),
          zero_points(tiled(data, sizes.zero_points)), nested_scales(tiled(data, sizes.nested_scales)) {}
    [[nodiscard]] bitmill::encoded_view view() {
        return {codes.data(), scales.data(), zero_points.data(), nested_scales.data(), nested_offset};
    }
    friend bool operator==(const parts& a, const parts& b) {
        return a.codes == b.codes && a.scales == b.scales && a.zero_points == b.zero_points &&
               a.nested_scales == b.nested_scales && a.nested_offset == b.nested_offset;
    }
};

byte_vector decoded(const request& asked, parts& coded, dtype type) {
    byte_vector out(asked.elements() * bitmill::element_bytes(type));
    bitmill::decode(asked.scheme, coded.view(), asked.rows, asked.cols, type, out.data()).value();
    return out;
}

std::vector<double> values(dtype type, const byte_vector& bytes) {
    return bitmill_test::values_of(type, bytes.data(), bytes.size() / bitmill::element_bytes(type));
}

struct outcome {
    parts coded;
    error_code code = error_code::ok;
    std::uint64_t offset = 0;
    bitmill::error_metrics metrics = {};
};

outcome encode(const request& asked, const byte_vector& source, dtype type) {
    const auto sizes = bitmill::encode_bound(asked.scheme, asked.rows, asked.cols).value();
    outcome out{parts(sizes, {})};
    auto view = out.coded.view();
    const auto done =
        bitmill::encode(asked.scheme, {type, source.data(), asked.rows, asked.cols}, view, asked.options);
    if (done) {
        out.metrics = *done;
        out.coded.nested_offset = view.nested_offset;
    } else {
        out.code = done.error().code;
        out.offset = done.error().offset;
        require(!done.error().message.empty(), "a refusal says why");
    }
    return out;
}

// ---- what must hold --------------------------------------------------------------------------------------

// What the encoder should see: pruned, and in f32 unless it is only cast.
std::vector<double> seen_by_encoder(const request& asked, const byte_vector& source) {
    auto out = values(asked.source, source);
    for (double& x : out) {
        const float narrow = static_cast<float>(x);
        if (!bitmill::is_plain(asked.scheme.type)) x = static_cast<double>(narrow);
        if (asked.options.weight_threshold > 0 && std::fabs(narrow) < asked.options.weight_threshold) x = 0;
    }
    return out;
}

bool sound_options(const request& asked) {
    const auto& o = asked.options;
    if (o.method == bitmill::method::mse && (!bitmill::codes_rows(asked.scheme.type) || asked.one_scale()))
        return false;
    if (!(o.weight_threshold >= 0)) return false;
    constexpr float most = std::numeric_limits<float>::max();
    if (asked.one_scale() && o.range)
        if (!(o.range->low <= 0 && o.range->low >= -most && o.range->high >= 0 && o.range->high <= most))
            return false;
    return !(asked.code_book() && asked.scheme.double_quant && o.nested_offset) ||
           (*o.nested_offset >= 0 && std::isfinite(*o.nested_offset));
}

// The first element that no code can stand for; the number of elements where there is none.
std::size_t first_bad(const request& asked, const byte_vector& source) {
    const double limit = asked.scheme.type == scheme_type::f16    ? 65520.0
                         : asked.scheme.type == scheme_type::bf16 ? 0x1.ffp127
                                                                  : 0x1.ffffffp127;
    const auto all = values(asked.source, source);
    const auto bad = std::find_if(all.begin(), all.end(), [&](double x) { return !(std::fabs(x) < limit); });
    return static_cast<std::size_t>(bad - all.begin());
}

void check_integers(coded_matrix& m, const std::vector<double>& source, const std::vector<double>& got) {
    const double low = m.lowest_code();
    const double high = -low - 1;
    for (std::size_t i = 0; i < source.size(); ++i) {
        const float scale = m.scale_at(i / m.group());
        const float zero = m.zero_at(i / m.group());
        const int q = m.code_at(i / m.cols, i % m.cols);
        require(std::isfinite(scale) && scale != 0, "a scale is finite and not 0");
        require(got[i] == static_cast<double>((static_cast<float>(q) - zero) * scale),
                "decoded is (q - zero) * scale");
        const double exact = source[i] / static_cast<double>(scale) + static_cast<double>(zero);
        const bool clipped = (q == low && exact <= low) || (q == high && exact >= high);
        require(clipped || std::fabs(exact - q) <= 0.5 * (1 + 1e-4), "a code is the nearest, or a limit");
    }
}

void check_book(coded_matrix& m, const std::vector<double>& source, const std::vector<double>& got) {
    const auto& book = bitmill::book_of(m.scheme.type);
    if (m.scheme.double_quant)
        return;  // its codes were rounded against the exact absmax, which is not stored
    for (std::size_t i = 0; i < source.size(); ++i) {
        const float absmax = m.absmax_at(i / m.scheme.group_size);
        const float coded = book.value[m.book_code_at(i)];
        require(got[i] == static_cast<double>(coded * absmax), "decoded is value[code] * absmax");
        // bitsandbytes never divides by less than 1e-38.
        const double share = source[i] / std::max(static_cast<double>(absmax), 1e-38);
        double best = INFINITY;
        for (const float value : book.value)
            best = std::min(best, std::fabs(share - static_cast<double>(value)));
        require(std::fabs(share - static_cast<double>(coded)) <= best + 1e-6, "a code is the nearest");
    }
}

void check_codes(const request& asked, outcome& out, const byte_vector& source,
                 const std::vector<double>& got) {
    if (asked.ggml() != nullptr) return;  // which codes are best, its decoder decides
    const auto wanted = seen_by_encoder(asked, source);
    coded_matrix m(asked.scheme, asked.rows, asked.cols,
                   bitmill::encode_bound(asked.scheme, asked.rows, asked.cols).value());
    const auto copy = [](const byte_vector& from, bitmill_test::guarded& to) {
        std::copy(from.begin(), from.end(), to.data());
    };
    copy(out.coded.codes, m.codes);
    copy(out.coded.scales, m.scales);
    copy(out.coded.zero_points, m.zero_points);
    copy(out.coded.nested_scales, m.nested_scales);
    m.view.nested_offset = out.coded.nested_offset;
    if (asked.integer()) return check_integers(m, wanted, got);
    if (asked.code_book()) return check_book(m, wanted, got);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const float odd = bitmill::f32_from_f64_to_odd(wanted[i]);
        const float once =
            asked.scheme.type == scheme_type::f16    ? bitmill::f32_from_f16(bitmill::f16_from_f32(odd))
            : asked.scheme.type == scheme_type::bf16 ? bitmill::f32_from_bf16(bitmill::bf16_from_f32(odd))
                                                     : static_cast<float>(wanted[i]);
        require(got[i] == static_cast<double>(once), "a cast rounds once");
    }
}

double squared_error(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

// Where the scale comes out the same, encoding what was decoded changes nothing.
bool is_idempotent(const request& asked, const std::vector<double>& got) {
    if (asked.options.weight_threshold > 0 || asked.ggml() != nullptr) return false;
    if (!asked.integer() && !asked.code_book()) return true;
    if (asked.code_book() && asked.scheme.double_quant) return false;
    if (asked.integer() && !(asked.one_scale() && asked.options.range)) return false;
    return std::all_of(got.begin(), got.end(), [](double x) { return x == 0 || std::fabs(x) > 1e-30; });
}

void check_good(const request& asked, outcome& out, const byte_vector& source) {
    const byte_vector bytes = decoded(asked, out.coded, dtype::f32);
    const auto got = values(dtype::f32, bytes);
    for (const double x : got) require(std::isfinite(x), "no finite weight decodes to NaN or infinity");
    require(!asked.options.measure || out.metrics.elements() == asked.elements(),
            "all elements are measured");
    require(!std::isnan(out.metrics.mse()) && !std::isnan(out.metrics.snr_db()) &&
                !std::isnan(out.metrics.cosine()),
            "metrics are numbers");
    check_codes(asked, out, source, got);
    if (is_idempotent(asked, got))
        if (outcome again = encode(asked, bytes, dtype::f32); again.code == error_code::ok)
            require(values(dtype::f32, decoded(asked, again.coded, dtype::f32)) == got,
                    "a second time changes nothing");
    const auto wanted = seen_by_encoder(asked, source);
    const bool ordinary = std::all_of(wanted.begin(), wanted.end(), [](double x) {
        return x == 0 || (std::fabs(x) > 1e-12 && std::fabs(x) < 1e12);
    });
    if (asked.options.method != bitmill::method::mse || !ordinary) return;
    if (asked.ggml() != nullptr && asked.ggml()->block_elements == 256)
        return;  // the errors it sums have weights
    request plain = asked;
    plain.options.method = bitmill::method::absmax;
    outcome other = encode(plain, source, asked.source);
    const double absmax = squared_error(wanted, values(dtype::f32, decoded(plain, other.coded, dtype::f32)));
    const double signal = squared_error(wanted, std::vector<double>(wanted.size()));
    require(squared_error(wanted, got) <= absmax * (1 + 1e-5) + 1e-12 * signal,
            "mse is no worse than absmax");
}

// NaN may carry any sign and payload.
bool same_values(dtype type, const byte_vector& a, const byte_vector& b) {
    if (a == b) return true;
    const auto x = values(type, a), y = values(type, b);
    return std::equal(x.begin(), x.end(), y.begin(),
                      [](double p, double q) { return p == q || (std::isnan(p) && std::isnan(q)); });
}

// Calls body() on every instruction set; the first one's result is the truth for the others.
template <class Body>
void on_every_isa(const Body& body) {
    static const auto available = bitmill::isa_available();
    for (const auto& name : available) {
        bitmill::set_isa(name).value();
        body(name == available.front());
    }
}

void check_decoding(const request& asked, parts& coded) {
    for (const dtype type : {dtype::f32, dtype::f16}) {
        byte_vector first;
        on_every_isa([&](bool is_first) {
            byte_vector now = decoded(asked, coded, type);
            if (is_first)
                first = std::move(now);
            else
                require(same_values(type, first, now), "every instruction set decodes to the same");
        });
    }
}

void check_encoding(const request& asked, const byte_vector& source) {
    std::vector<outcome> all;
    on_every_isa([&](bool) { all.push_back(encode(asked, source, asked.source)); });
    outcome& first = all.front();
    for (const outcome& other : all) {
        require(other.code == first.code && other.offset == first.offset,
                "every instruction set refuses the same");
        if (first.code != error_code::ok) continue;
        require(other.coded == first.coded, "every instruction set gives the same bytes");
        require(std::bit_cast<std::uint64_t>(other.metrics.sums().err2) ==
                        std::bit_cast<std::uint64_t>(first.metrics.sums().err2) &&
                    other.metrics.max_abs() == first.metrics.max_abs(),
                "every instruction set measures the same");
    }
    const std::size_t bad = first_bad(asked, source);
    if (!bitmill::facts(asked.scheme.type).encodes) {
        require(first.code == error_code::unsupported, "what is only read is refused");
    } else if (!sound_options(asked)) {
        require(first.code == error_code::invalid_argument, "options without meaning are refused");
    } else if (bad < asked.elements()) {
        require(first.code == error_code::bad_input && first.offset == bad, "the first bad element is named");
    } else {
        require(first.code == error_code::ok, "what is finite is encoded");
        check_good(asked, first, source);
        check_decoding(asked, first.coded);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < request::header_bytes) return 0;
    const request asked(fuzz::as_text(data, size));
    const auto sizes = bitmill::encode_bound(asked.scheme, asked.rows, asked.cols);
    if (!bitmill::check_scheme(asked.scheme, asked.source, asked.rows, asked.cols)) {
        bitmill::encoded_view nothing;
        require(!bitmill::encode(asked.scheme, {asked.source, nullptr, asked.rows, asked.cols}, nothing),
                "a scheme without meaning encodes nothing");
        return 0;
    }
    if (!sizes || sizes->total() > (1u << 20)) return 0;
    if (asked.only_decode) {
        parts coded(*sizes, asked.data);
        coded.nested_offset = asked.options.nested_offset.value_or(0);
        check_decoding(asked, coded);
    } else {
        check_encoding(asked, tiled(asked.data, asked.elements() * bitmill::element_bytes(asked.source)));
    }
    return 0;
}

// ---- mutation --------------------------------------------------------------------------------------------
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    static const float odd[] = {
        0,      -0.0f,          1,     -1,      0.5f,          7.5f,           127.5f,   65504, 65520, 1e-45f,
        1e-38f, 1.1754944e-38f, 1e30f, 3.4e38f, 3.4028235e38f, -3.4028235e38f, INFINITY, NAN};
    fuzz::random rng(seed);
    std::string input(fuzz::as_text(data, size));
    input.resize(std::max(input.size(), request::header_bytes + 4));
    switch (rng.below(5)) {
        case 0:
        case 1: input[rng.below(request::fields)] = static_cast<char>(rng.below(256)); break;
        case 2: {  // an odd number among the options, or among the weights in their own type
            const dtype type = request(input).source == dtype::i8 ? dtype::f32 : request(input).source;
            const bool option = rng.below(3) == 0;
            const std::string number =
                bitmill_test::bytes_as(option ? dtype::f32 : type, {fuzz::pick(odd, rng)});
            const std::size_t begin = option ? request::fields : request::header_bytes;
            const std::size_t count =
                ((option ? request::header_bytes : input.size()) - begin) / number.size();
            const std::size_t at = begin + rng.below(static_cast<std::uint32_t>(count + 1)) * number.size();
            input.replace(std::min(at, input.size()), number.size(), number);
            break;
        }
        case 3: {
            const std::string head = input.substr(0, request::header_bytes);
            std::string rest = input.substr(head.size());
            fuzz::mutate_bytes(rest);
            input = head + rest;
            break;
        }
        default: fuzz::mutate_bytes(input);
    }
    return fuzz::hand_back(input, data, max_size);
}
