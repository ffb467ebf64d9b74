// Pickled models (scikit-learn's: pickle.dump, and joblib.dump without compression): where their arrays lie, and where
// instructions may be put so that other arrays take their place. https://docs.python.org/3/library/pickletools.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <bitmill/core/dtype.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/io/file.hpp>

namespace bitmill {

namespace detail {
class pickle_scanner;
}

// One numpy.ndarray of numbers or booleans.
struct pickle_array {
    enum class storage : std::uint8_t {
        bytes,       // BINBYTES and its kin
        byte_array,  // BYTEARRAY8
        latin1,      // protocol 2: a text of latin-1 characters, written in UTF-8, for _codecs.encode
        raw,         // joblib: beside the pickle's instructions
    };
    std::string
        name;  // attributes, keys and indices from the top: "steps.1.1.coef_"; "array" for the top itself
    dtype type = dtype::f64;
    std::vector<std::uint64_t> shape;
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;    // of the elements, whatever their text takes
    bool column_major = false;  // the first index runs fastest
    bool search_tree = false;   // points or bounds of a KDTree or BallTree: rounding breaks what it promises
    std::string fixed;          // why nothing can take its place; "" where it can
    storage stored = storage::bytes;

    // Offsets in the file.
    std::uint64_t begin = 0;      // its first instruction
    std::uint64_t dtype_end = 0;  // here its dtype is on the top of the stack
    std::uint64_t op = 0;         // the instruction that holds its elements; raw: its first byte
    std::uint64_t data = 0;       // its elements
    std::uint64_t data_end = 0;   // just behind them
    std::uint64_t stacked = 0;    // here the bytes of its elements are on the top of the stack; not of raw
    std::uint64_t end = 0;        // here it is on the top of the stack, complete
    std::optional<std::uint32_t>
        memo;  // it was put there before it was complete, and is fetched from there later
};

// A float64 scalar of numpy, such as the intercept_ of a regressor, as far as float32 holds it.
struct pickle_single {
    std::string name;
    float value = 0;
};

// An open pickle of protocol 2 to 5. Its instructions are followed, never run: values are only told apart as far as
// arrays need it, and a name (class or function) beyond those of numpy, scipy.sparse, scikit-learn and a few of
// Python's own types is refused. Move-only, immutable: const calls are safe from many threads.
class pickle_model {
public:
    struct frame {  // of protocol 4 and 5: the length stands 8 bytes before `begin`
        std::uint64_t begin;
        std::uint64_t end;
    };
    struct padding {  // of joblib: a byte with the count, and as many bytes, so that an array is aligned
        std::uint64_t at;
        std::uint64_t bytes;  // with the first one
        std::uint64_t alignment;
    };

    // bad_input names byte and rule; unsupported names the class, function or instruction that cannot be followed, or
    // the compression. Memory: at most 4 x file size + 1 MiB.
    [[nodiscard]] static result<pickle_model> open(input_file file);

    [[nodiscard]] const input_file& file() const noexcept { return file_; }
    // In the order in which they are complete. Arrays of other element types (objects, texts, structures) are none.
    [[nodiscard]] const std::deque<pickle_array>& arrays() const noexcept { return arrays_; }
    // Only those whose attribute is called intercept_: a forest may hold a million others.
    [[nodiscard]] const std::deque<pickle_single>& singles() const noexcept { return singles_; }
    [[nodiscard]] const std::deque<frame>& frames() const noexcept { return frames_; }
    [[nodiscard]] const std::deque<padding>& paddings() const noexcept { return paddings_; }
    [[nodiscard]] unsigned protocol() const noexcept { return protocol_; }  // stands at byte 1
    [[nodiscard]] std::uint64_t end() const noexcept { return end_; }       // behind STOP

private:
    friend class detail::pickle_scanner;
    explicit pickle_model(input_file file) : file_(std::move(file)) {}

    input_file file_;
    std::deque<pickle_array> arrays_;
    std::deque<pickle_single> singles_;
    std::deque<frame> frames_;
    std::deque<padding> paddings_;
    unsigned protocol_ = 0;
    std::uint64_t end_ = 0;
};

// Reads an array's elements from the first on, as they lie in memory. `model` must outlive it. Not thread-safe.
class pickle_array_reader {
public:
    pickle_array_reader(const pickle_model& model, const pickle_array& array)
        : file_(model.file()), array_(array), at_(array.data) {}
    // Fills dst with the next bytes. bad_input where there are no more, or the file changed meanwhile.
    [[nodiscard]] result<void> next(std::span<std::byte> dst);

private:
    [[nodiscard]] result<void> next_latin1(std::span<std::byte> dst);

    const input_file& file_;
    const pickle_array& array_;
    std::uint64_t at_;
};

// .pkl, .pickle, .joblib
[[nodiscard]] bool is_pickle_file_name(std::string_view name) noexcept;

}  // namespace bitmill

#if !defined(BITMILL_COMPILED_LIB)
#include <bitmill/detail/pickle_model-inl.hpp>
#endif
