/* Buffers in, buffers out: each scheme, from and to each dtype, dense and in any placement. */
#include <math.h>

#include "support.h"

enum {
    rows = 6,
    cols = 64,
    elements = rows * cols,
    guard_bytes = 32
};

static const bitmill_dtype dtypes[] = {BITMILL_F32, BITMILL_F16, BITMILL_BF16, BITMILL_F64};
static size_t width_of(bitmill_dtype type) { return type == BITMILL_F64 ? 8 : type == BITMILL_F32 ? 4 : 2; }

/* Multiples of 1 / 64 up to 2: exact in all four dtypes, so that the codes must not differ between them. */
static float weight(size_t i) { return (float)((long)(i * 29 % 255) - 127) / 64.0f; }

static void put(bitmill_dtype type, float value, void* to) {
    uint32_t bits;
    uint16_t half;
    const double wide = (double)value;
    memcpy(&bits, &value, 4);
    switch (type) {
        case BITMILL_F32: memcpy(to, &value, 4); return;
        case BITMILL_F64: memcpy(to, &wide, 8); return;
        case BITMILL_BF16: half = (uint16_t)(bits >> 16); break;
        default:
            half = (uint16_t)(bits >> 16 & 0x8000);
            if (value != 0) half = (uint16_t)(half | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
    }
    memcpy(to, &half, 2);
}

/* A matrix of `rows` x `cols` somewhere in a larger piece of memory. */
struct placement {
    const char* name;
    int64_t row_stride, col_stride;
    size_t first, span; /* elements */
};
static const struct placement placements[] = {{"dense", 0, 0, 0, elements},
                                              {"gaps between rows", cols + 3, 1, 2, rows*(cols + 3)},
                                              {"every third element", 3 * cols, 3, 0, 3 * elements},
                                              {"transposed", 1, rows, 0, elements},
                                              {"rows backwards", -cols, 1, elements - cols, elements},
                                              {"all backwards", -cols, -1, elements - 1, elements}};
static size_t place_of(const struct placement* at, size_t row, size_t col) {
    return (size_t)((int64_t)at->first + (int64_t)row * at->row_stride + (int64_t)col * at->col_stride);
}

struct coding {
    const char* name;
    bitmill_scheme scheme;
    bitmill_method method;
};
#define S(t, grain, scales, group, zeros, twice, binary, alignment) \
    {.struct_size = (uint32_t)sizeof(bitmill_scheme),               \
     .type = t,                                                     \
     .granularity = grain,                                          \
     .scale_dtype = scales,                                         \
     .group_size = group,                                           \
     .asymmetric = zeros,                                           \
     .double_quant = twice,                                         \
     .offset_binary = binary,                                       \
     .row_alignment = alignment}
static struct coding codings[] = {
    {"fp32", S(BITMILL_SCHEME_FP32, 0, 0, 0, 0, 0, 0, 0), 0},
    {"fp16", S(BITMILL_SCHEME_FP16, 0, 0, 0, 0, 0, 0, 0), 0},
    {"bf16", S(BITMILL_SCHEME_BF16, 0, 0, 0, 0, 0, 0, 0), 0},
    {"int8", S(BITMILL_SCHEME_INT8, 0, 0, 0, 0, 0, 0, 0), 0},
    {"int8 per tensor", S(BITMILL_SCHEME_INT8, BITMILL_PER_TENSOR, BITMILL_F32, 0, 1, 0, 0, 0), 0},
    {"int8 group 32, offset binary", S(BITMILL_SCHEME_INT8, BITMILL_GROUP, BITMILL_F16, 32, 0, 0, 1, 0),
     BITMILL_MSE},
    {"int8 asymmetric, aligned rows", S(BITMILL_SCHEME_INT8, 0, BITMILL_BF16, 0, 1, 0, 0, 48), 0},
    {"int4", S(BITMILL_SCHEME_INT4, 0, 0, 0, 0, 0, 0, 0), BITMILL_MSE},
    {"int4 group 16", S(BITMILL_SCHEME_INT4, BITMILL_GROUP, BITMILL_F16, 16, 1, 0, 0, 8), 0},
    {"int8 planes",
     {.struct_size = (uint32_t)sizeof(bitmill_scheme),
      .type = BITMILL_SCHEME_INT8,
      .granularity = BITMILL_GROUP,
      .scale_dtype = BITMILL_F16,
      .group_size = 16,
      .row_alignment = 4,
      .planes = 1},
     BITMILL_MSE},
    {"int2 group 32", S(BITMILL_SCHEME_INT2, BITMILL_GROUP, BITMILL_F16, 32, 1, 0, 0, 8), BITMILL_MSE},
    {"nf4 block 64", S(BITMILL_SCHEME_NF4, BITMILL_BLOCK, 0, 64, 0, 0, 0, 0), 0},
    {"nf4 double", S(BITMILL_SCHEME_NF4, BITMILL_BLOCK, 0, 32, 0, 1, 0, 0), 0},
    {"fp4 block 4096", S(BITMILL_SCHEME_FP4, BITMILL_BLOCK, 0, 4096, 0, 0, 0, 0), 0},
    {"fp4 double", S(BITMILL_SCHEME_FP4, BITMILL_BLOCK, 0, 64, 0, 1, 0, 0), 0}};

/* The parts of an encoded matrix, each exactly as large as asked for and with marked bytes behind it. */
static void allocate(const bitmill_scheme* scheme, bitmill_encoded* coded) {
    const bitmill_encoded empty = BITMILL_ENCODED_INIT;
    bitmill_error error = BITMILL_ERROR_INIT;
    *coded = empty;
    EXPECT(BITMILL_OK, bitmill_encode_bound(scheme, rows, cols, coded, &error), &error);
    coded->codes = malloc((size_t)coded->codes_bytes + guard_bytes);
    coded->scales = malloc((size_t)coded->scales_bytes + guard_bytes);
    coded->zero_points = malloc((size_t)coded->zero_points_bytes + guard_bytes);
    coded->nested_scales = malloc((size_t)coded->nested_scales_bytes + guard_bytes);
    coded->residual = malloc((size_t)coded->residual_bytes + guard_bytes);
    if (!coded->codes || !coded->scales || !coded->zero_points || !coded->nested_scales || !coded->residual)
        exit(2);
    memset(coded->codes, 0xa5, (size_t)coded->codes_bytes + guard_bytes);
    memset(coded->scales, 0xa5, (size_t)coded->scales_bytes + guard_bytes);
    memset(coded->zero_points, 0xa5, (size_t)coded->zero_points_bytes + guard_bytes);
    memset(coded->nested_scales, 0xa5, (size_t)coded->nested_scales_bytes + guard_bytes);
    memset(coded->residual, 0xa5, (size_t)coded->residual_bytes + guard_bytes);
}
static int intact(const void* part, uint64_t bytes) {
    size_t i;
    for (i = 0; i < guard_bytes; ++i)
        if (((const unsigned char*)part)[bytes + i] != 0xa5) return 0;
    return 1;
}
static void release(bitmill_encoded* coded) {
    CHECK(intact(coded->codes, coded->codes_bytes));
    CHECK(intact(coded->scales, coded->scales_bytes));
    CHECK(intact(coded->zero_points, coded->zero_points_bytes));
    CHECK(intact(coded->nested_scales, coded->nested_scales_bytes));
    CHECK(intact(coded->residual, coded->residual_bytes));
    free(coded->codes);
    free(coded->scales);
    free(coded->zero_points);
    free(coded->nested_scales);
    free(coded->residual);
}
static int same(const bitmill_encoded* a, const bitmill_encoded* b) {
    return memcmp(a->codes, b->codes, (size_t)a->codes_bytes) == 0 &&
           memcmp(a->scales, b->scales, (size_t)a->scales_bytes) == 0 &&
           memcmp(a->zero_points, b->zero_points, (size_t)a->zero_points_bytes) == 0 &&
           memcmp(a->nested_scales, b->nested_scales, (size_t)a->nested_scales_bytes) == 0 &&
           memcmp(a->residual, b->residual, (size_t)a->residual_bytes) == 0 &&
           memcmp(&a->nested_offset, &b->nested_offset, sizeof a->nested_offset) == 0;
}

static bitmill_matrix matrix_at(bitmill_dtype type, const struct placement* at) {
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    matrix.dtype = type;
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.row_stride = at->row_stride;
    matrix.col_stride = at->col_stride;
    return matrix;
}

/* The weights, encoded from one placement. */
static void encode_from(const struct coding* how, bitmill_dtype type, const struct placement* at,
                        bitmill_encoded* coded, bitmill_metrics* metrics) {
    const size_t width = width_of(type);
    const bitmill_matrix matrix = matrix_at(type, at);
    bitmill_encode_options options = BITMILL_ENCODE_OPTIONS_INIT;
    bitmill_error error = BITMILL_ERROR_INIT;
    struct placement real = *at;
    size_t row, col;
    char* memory = malloc(at->span * width);
    if (memory == NULL) exit(2);
    memset(memory, 0xff, at->span * width); /* NaN in the gaps: who reads them fails */
    if (real.row_stride == 0) real.row_stride = cols, real.col_stride = 1;
    for (row = 0; row < rows; ++row)
        for (col = 0; col < cols; ++col)
            put(type, weight(row * cols + col), memory + place_of(&real, row, col) * width);
    options.method = how->method;
    EXPECT(
        BITMILL_OK,
        bitmill_encode(&how->scheme, &matrix, memory + at->first * width, coded, &options, metrics, &error),
        &error);
    free(memory);
}

/* Decodes into one placement; `dense` gets the elements in order. The gaps must stay as they were. */
static void decode_into(const struct coding* how, const bitmill_encoded* coded, bitmill_dtype type,
                        const struct placement* at, char* dense) {
    const size_t width = width_of(type);
    const bitmill_matrix matrix = matrix_at(type, at);
    bitmill_error error = BITMILL_ERROR_INIT;
    struct placement real = *at;
    size_t row, col, i, marked = 0;
    char* memory = malloc(at->span * width);
    if (memory == NULL) exit(2);
    memset(memory, 0x5a, at->span * width);
    EXPECT(BITMILL_OK, bitmill_decode(&how->scheme, coded, &matrix, memory + at->first * width, NULL, &error),
           &error);
    if (real.row_stride == 0) real.row_stride = cols, real.col_stride = 1;
    for (row = 0; row < rows; ++row)
        for (col = 0; col < cols; ++col) {
            char* place = memory + place_of(&real, row, col) * width;
            memcpy(dense + (row * cols + col) * width, place, width);
            memset(place, 0x5a, width);
        }
    for (i = 0; i < at->span * width; ++i) marked += memory[i] == 0x5a;
    CHECK(marked == at->span * width);
    free(memory);
}

/* What was measured is what a decoder will see. */
static void check_metrics(const bitmill_metrics* metrics, const float* decoded) {
    double squares = 0, largest = 0;
    size_t i;
    for (i = 0; i < elements; ++i) {
        const double error = (double)decoded[i] - (double)weight(i);
        squares += error * error;
        if (fabs(error) > largest) largest = fabs(error);
    }
    CHECK(metrics->elements == elements);
    CHECK(fabs(metrics->mse - squares / (double)elements) <= 1e-5 * metrics->mse);
    CHECK(fabs(metrics->max_abs - largest) <= 1e-6 * largest);
    CHECK(squares == 0 ? isinf(metrics->snr_db) : metrics->snr_db > 12 && metrics->snr_db < 60);
    CHECK(metrics->cosine > 0.96 && metrics->cosine <= 1);
}

int main(void) {
    size_t c, t, p, i;
    for (c = 0; c < sizeof codings / sizeof *codings; ++c) {
        const struct coding* how = &codings[c];
        const int before = failures;
        bitmill_encoded dense;
        bitmill_metrics metrics = BITMILL_METRICS_INIT;
        float decoded[elements];
        allocate(&how->scheme, &dense);
        encode_from(how, BITMILL_F32, &placements[0], &dense, &metrics);
        decode_into(how, &dense, BITMILL_F32, &placements[0], (char*)decoded);
        check_metrics(&metrics, decoded);
        for (t = 0; t < sizeof dtypes / sizeof *dtypes; ++t) {
            const size_t bytes = elements * width_of(dtypes[t]);
            char expected[elements * 8], got[elements * 8];
            decode_into(how, &dense, dtypes[t], &placements[0], expected);
            if (dtypes[t] == BITMILL_F64) /* wide enough for every f32 */
                for (i = 0; i < elements; ++i) {
                    double wide;
                    memcpy(&wide, expected + i * 8, 8);
                    CHECK(wide == (double)decoded[i]);
                }
            for (p = 0; p < sizeof placements / sizeof *placements; ++p) {
                bitmill_encoded coded;
                allocate(&how->scheme, &coded);
                encode_from(how, dtypes[t], &placements[p], &coded, NULL);
                CHECK(same(&coded, &dense));
                decode_into(how, &coded, dtypes[t], &placements[p], got);
                CHECK(memcmp(got, expected, bytes) == 0);
                if (failures != before) fprintf(stderr, "... with %s, %s\n", how->name, placements[p].name);
                release(&coded);
                if (failures != before) return 1;
            }
        }
        release(&dense);
    }
    return failures != 0;
}
