/* The C interface of bitmill: mills neural-network weights down to 16, 8, 4 and 2 bits, and runs them.
 *
 * Compiles as C89 to C23 and as C++. Link libbitmill_c (pkg-config bitmill_c, CMake bitmill::c).
 *
 * Errors. A call that can fail returns a bitmill_status and takes a bitmill_error* last, which may be NULL and is
 * filled on success too (status 0, empty message). On failure every out-parameter is NULL or 0. Nothing aborts,
 * exits, prints or reads the environment, and no exception leaves the library.
 *
 * Structs. Initialise every struct with its _INIT macro: it sets struct_size, and 0 everywhere else, which stands for
 * the default. Structs only grow at their end, so a program and a library of different age go together; a field that
 * the library does not know must be 0, else the call is BITMILL_UNSUPPORTED. Pointers in a struct are used during the
 * call only, unless said otherwise.
 *
 * Buffers are the caller's. Sizes ending in _bytes count bytes, all others elements. Texts are UTF-8 with a NUL behind;
 * paths may hold any bytes, which messages show as \xNN.
 *
 * Threads. Every function may be called from any thread at any time; a report may be read, and a model, a tokenizer or a text
 * encoder run, from many threads at once; loaders, managers and registries take any call from any thread. What a destroy
 * function is given must not be in use.
 */
#ifndef BITMILL_H
#define BITMILL_H

#include <stddef.h>
#include <stdint.h>

#include <bitmill/version.hpp> /* BITMILL_VERSION_MAJOR, _MINOR, _PATCH, _TEXT */

#if defined(__GNUC__)
#define BITMILL_API __attribute__((visibility("default")))
#else
#define BITMILL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The number behind libbitmill_c.so. It changes when a program that was linked before would break. */
#define BITMILL_ABI_VERSION 1

/* Of the library that runs. Version numbers are major * 10000 + minor * 100 + patch. */
#define BITMILL_VERSION_NUMBER \
    (BITMILL_VERSION_MAJOR * 10000 + BITMILL_VERSION_MINOR * 100 + BITMILL_VERSION_PATCH)
BITMILL_API uint32_t bitmill_version_number(void);
BITMILL_API const char* bitmill_version_text(void); /* "0.1.0" */
BITMILL_API uint32_t bitmill_abi_version(void);

/* ---- errors ------------------------------------------------------------------------------------------------ */

typedef int32_t bitmill_status;
enum {
    BITMILL_OK = 0,
    BITMILL_INVALID_ARGUMENT = 1, /* the caller asked for something that has no meaning */
    BITMILL_BAD_INPUT = 2,        /* a file breaks its format's rules, or a weight is NaN or infinite */
    BITMILL_IO = 3,               /* the operating system refused */
    BITMILL_OUT_OF_MEMORY = 4,    /* the work does not fit the memory it was given */
    BITMILL_REFUSED = 5,          /* a gate or a verification said no */
    BITMILL_CANCELLED = 6,        /* the progress hook asked to stop */
    BITMILL_UNSUPPORTED = 7,      /* valid, but this version cannot do it */
    BITMILL_INTERNAL = 8          /* a fault of bitmill, or a hook threw an exception */
};

/* "ok", "invalid_argument", ...; "unknown" for any other number. */
BITMILL_API const char* bitmill_status_text(bitmill_status status);

#define BITMILL_NO_OFFSET (~(uint64_t)0)

typedef struct bitmill_error {
    uint32_t struct_size;
    bitmill_status status;
    uint64_t offset;    /* byte in the file, or element of the matrix; else BITMILL_NO_OFFSET */
    char message[1000]; /* one line: file, tensor, byte, what is wrong, what to do; cut where longer */
} bitmill_error;
#define BITMILL_ERROR_INIT {(uint32_t)sizeof(bitmill_error), 0, 0, {0}}

/* ---- instruction sets -------------------------------------------------------------------------------------- */

/* The one in use: "baseline", "avx2", "avx512bw" ... All give the same bits. */
BITMILL_API const char* bitmill_isa(void);
/* The index-th that this CPU can run, slowest first; NULL behind the last. */
BITMILL_API const char* bitmill_isa_available(size_t index);
/* Forces one for the whole process, at any time.
 * INVALID_ARGUMENT: no such name. UNSUPPORTED: this CPU lacks it. */
BITMILL_API bitmill_status bitmill_set_isa(const char* name, bitmill_error* error);

/* ---- what the host may supply ------------------------------------------------------------------------------ */

typedef int32_t bitmill_log_level;
enum {
    BITMILL_LOG_INFO = 1,
    BITMILL_LOG_WARNING = 2
};

/* Each hook may be NULL, and gets its context back. allocate and deallocate come together and must be safe to call
 * from several threads at once. No hook may longjmp or throw out of the library. */
typedef struct bitmill_hooks {
    uint32_t struct_size;
    uint32_t reserved;

    /* Memory for the tiles of a model, the weights and scratch of one that runs, the scratch of encoding and
     * decoding, and the handles. What is small or describes (chunks of 16 KiB, names, plans) comes from operator new.
     * alignment is a power of two of at most 16. NULL: none left, and the call returns BITMILL_OUT_OF_MEMORY. */
    void* memory_context;
    void* (*allocate)(void* memory_context, size_t bytes, size_t alignment);
    void (*deallocate)(void* memory_context, void* memory, size_t bytes, size_t alignment);

    /* Runs task(task_context, i) once for every i below count, in any order on any threads, and returns when all are
     * done. Without it the library starts `threads` threads of its own for the call. */
    void* parallel_context;
    void (*parallel_for)(void* parallel_context, size_t count, void (*task)(void* task_context, size_t index),
                         void* task_context);

    /* One line for people, without a line break, from the calling thread. */
    void* log_context;
    void (*log)(void* log_context, bitmill_log_level level, const char* line);

    /* After every tile and every side file's piece, from any thread, one call at a time. Work of
     * several passes (is it milled already? the first variant, the second; file by file) counts each from 0: within one
     * done_bytes never falls and total_bytes stays, which may be 0. Not 0: cancel, the call returns BITMILL_CANCELLED. */
    void* progress_context;
    int32_t (*progress)(void* progress_context, uint64_t done_bytes, uint64_t total_bytes);
} bitmill_hooks;
#define BITMILL_HOOKS_INIT \
    {(uint32_t)sizeof(bitmill_hooks), 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL}

/* ---- matrices: buffers in, buffers out --------------------------------------------------------------------- */

typedef int32_t bitmill_dtype;
enum {
    BITMILL_F32 = 1,
    BITMILL_F16 = 2,
    BITMILL_BF16 = 3,
    BITMILL_F64 = 4
};

typedef int32_t bitmill_scheme_type;
enum {
    BITMILL_SCHEME_FP32 = 1,
    BITMILL_SCHEME_FP16 = 2,
    BITMILL_SCHEME_BF16 = 3,
    BITMILL_SCHEME_INT8 = 4,
    BITMILL_SCHEME_INT4 = 5,
    BITMILL_SCHEME_NF4 = 6,
    BITMILL_SCHEME_FP4 = 7,
    BITMILL_SCHEME_INT2 = 8,
    /* Blocks of GGUF: granularity BITMILL_GROUP, group_size 32 or 256 as the type has it, all bytes in codes.
     * IQ4_NL, IQ4_XS and MXFP4 are decoded, not encoded. */
    BITMILL_SCHEME_Q8_0 = 9,
    BITMILL_SCHEME_Q4_0 = 10,
    BITMILL_SCHEME_Q4_1 = 11,
    BITMILL_SCHEME_Q5_0 = 12,
    BITMILL_SCHEME_Q5_1 = 13,
    BITMILL_SCHEME_Q2_K = 14,
    BITMILL_SCHEME_Q3_K = 15,
    BITMILL_SCHEME_Q4_K = 16,
    BITMILL_SCHEME_Q5_K = 17,
    BITMILL_SCHEME_Q6_K = 18,
    BITMILL_SCHEME_IQ4_NL = 19,
    BITMILL_SCHEME_IQ4_XS = 20,
    BITMILL_SCHEME_MXFP4 = 21
};

typedef int32_t bitmill_granularity;
enum {
    BITMILL_PER_CHANNEL = 0, /* one scale a row (an output of a Linear) */
    BITMILL_PER_TENSOR = 1,  /* one scale */
    BITMILL_GROUP =
        2, /* one scale for group_size elements along a row; divides the row; a multiple of 8, or the row */
    BITMILL_BLOCK =
        3 /* nf4, fp4: one scale for group_size elements of the flattened matrix; 32, 64 ... 4096 */
};

typedef int32_t bitmill_method;
enum {
    BITMILL_ABSMAX = 0, /* scales from the largest magnitude; asymmetric: from min and max */
    BITMILL_MSE =
        1 /* scales by a least-squares search: int8, int4, int2, per_channel and group; blocks of GGUF */
};

/* How a matrix is stored. */
typedef struct bitmill_scheme {
    uint32_t struct_size;
    bitmill_scheme_type type;
    bitmill_granularity granularity;
    bitmill_dtype scale_dtype; /* int8, int4, int2: F32 (also 0), F16 or BF16 */
    uint64_t group_size;       /* for group and block */
    int32_t asymmetric;        /* int8, int4, int2: with zero points; int2 is meant to have them */
    int32_t double_quant;      /* nf4, fp4: the absmax values are themselves stored in 8 bits */
    int32_t offset_binary;     /* int8: bytes hold q + 128 instead of two's complement */
    /* int8 as two planes of int4 codes: alone the base is an int4 matrix, hi * scale; with the residual it is an
     * int8 one, (16 * hi + lo) * scale / 16. Symmetric; per_channel or group; scales are F16 or BF16. */
    int32_t planes;
    uint64_t row_alignment; /* integers: rows of codes are filled with 0 to a multiple of it; 0: 1 */
} bitmill_scheme;
#define BITMILL_SCHEME_INIT {(uint32_t)sizeof(bitmill_scheme), 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* The float matrix beside its data pointer. A Linear weight is [out, in]: rows are outputs, groups run along a row.
 * Strides may be negative; 0 stands for a matrix without gaps (row_stride cols, col_stride 1). The data pointer
 * points to row 0, column 0 and is aligned to the element's size. */
typedef struct bitmill_matrix {
    uint32_t struct_size;
    bitmill_dtype dtype;
    uint64_t rows;
    uint64_t cols;
    int64_t row_stride;
    int64_t col_stride;
} bitmill_matrix;
#define BITMILL_MATRIX_INIT {(uint32_t)sizeof(bitmill_matrix), 0, 0, 0, 0, 0}

/* The parts of an encoded matrix and how many bytes there are at each pointer. Parts that a scheme lacks may be NULL.
 * int8: a byte a code. int4: two codes a byte, the first in the low half, q + 8. int2: four codes a byte, the first in
 * the lowest bits, q + 2. nf4, fp4: two codes a byte, the first in the high half. zero_points are int8, those of int2
 * in units of 1/32. fp32, fp16, bf16: codes are the elements, aligned to their size. */
typedef struct bitmill_encoded {
    uint32_t struct_size;
    float nested_offset; /* double_quant: the mean absmax; written by encode, read by decode */
    void* codes;
    uint64_t codes_bytes;
    void* scales;
    uint64_t scales_bytes;
    void* zero_points;
    uint64_t zero_points_bytes;
    void* nested_scales;
    uint64_t nested_scales_bytes;
    void* residual; /* planes; decode takes the base plane alone where it is NULL */
    uint64_t residual_bytes;
} bitmill_encoded;
#define BITMILL_ENCODED_INIT \
    {(uint32_t)sizeof(bitmill_encoded), 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0}

typedef struct bitmill_encode_options {
    uint32_t struct_size;
    bitmill_method method;
    float weight_threshold; /* weights below it in magnitude become 0 before coding; 0: off */
    uint32_t reserved;
    const bitmill_hooks* hooks; /* allocate and deallocate are used */
    struct bitmill_metrics*
        base_metrics; /* planes: gets what the base alone lost, if metrics is given; or NULL */
} bitmill_encode_options;
#define BITMILL_ENCODE_OPTIONS_INIT {(uint32_t)sizeof(bitmill_encode_options), 0, 0, 0, NULL, NULL}

/* decode(encode(x)) against x. */
typedef struct bitmill_metrics {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t elements;
    double mse;
    double max_abs;
    double snr_db; /* infinity where nothing was lost */
    double cosine;
} bitmill_metrics;
#define BITMILL_METRICS_INIT {(uint32_t)sizeof(bitmill_metrics), 0, 0, 0, 0, 0, 0}

/* Sets sizes->codes_bytes, scales_bytes, zero_points_bytes, nested_scales_bytes and residual_bytes to what the parts
 * of a rows x cols matrix need; its pointers stay. On failure they are 0. INVALID_ARGUMENT: the scheme cannot hold
 * such a matrix. */
BITMILL_API bitmill_status bitmill_encode_bound(const bitmill_scheme* scheme, uint64_t rows, uint64_t cols,
                                                bitmill_encoded* sizes, bitmill_error* error);

/* Encodes a matrix into dst's buffers, which are at least as large as bitmill_encode_bound says and do not overlap
 * src. options may be NULL. metrics may be NULL; then nothing is measured, which is faster. Runs on the calling
 * thread: hosts cut a matrix by rows (or by whole blocks) to use more. The same bytes on every CPU.
 * BAD_INPUT: a weight is NaN or infinite, error->offset is its index (row * cols + col). */
BITMILL_API bitmill_status bitmill_encode(const bitmill_scheme* scheme, const bitmill_matrix* matrix,
                                          const void* src, bitmill_encoded* dst,
                                          const bitmill_encode_options* options, bitmill_metrics* metrics,
                                          bitmill_error* error);

/* Decodes into a matrix of any float type: int8, int4: (q - zero_point) * scale; int2: (q - zero_point / 32) * scale;
 * nf4, fp4: value[code] * absmax; in f32, then rounded once. Gaps between rows are not written. hooks may be NULL;
 * allocate and deallocate are used. */
BITMILL_API bitmill_status bitmill_decode(const bitmill_scheme* scheme, const bitmill_encoded* src,
                                          const bitmill_matrix* matrix, void* dst, const bitmill_hooks* hooks,
                                          bitmill_error* error);

/* ---- models: folder in, folder out ------------------------------------------------------------------------- */

/* What was done, or found. Immutable. */
typedef struct bitmill_report bitmill_report;

/* Names and defaults are those of `bitmill quantize`; NULL or 0 is the default. */
typedef struct bitmill_mill_options {
    uint32_t struct_size;
    uint32_t threads; /* 0: one per core; with hooks->parallel_for: how many tiles are in flight at most */
    uint64_t memory_limit;      /* bytes of working memory; 0: 256 MiB. Changes no byte of the output */
    const bitmill_hooks* hooks; /* all of them are used */
    const char* to;     /* int8, int4, int2, nf4, fp4, fp16, bf16, fp32; both: see bitmill_mill; required */
    const char* format; /* plain, compressed-tensors, bitsandbytes, bitmill; default: by level */
    const char* granularity;    /* per_tensor, per_channel, group; default: by level */
    uint64_t group_size;        /* not 0: granularity group */
    uint64_t block_size;        /* nf4, fp4: 32, 64 ... 4096; 0: 64 */
    const char* method;         /* absmax, mse; default: mse for int4, int2 and planes, else absmax */
    const char* activation;     /* float, dynamic-int8; default: by level */
    const char* embeddings;     /* keep, fp16, int8; default: int8 in format bitmill, else keep */
    const char* levels;         /* format bitmill: "int8,int4", or one of them; default: both for int8 */
    const char* const* include; /* ECMAScript regular expressions, searched in tensor names */
    const char* const* exclude;
    const char* const* overrides; /* "RE=SCHEME" */
    uint64_t include_count;
    uint64_t exclude_count;
    uint64_t overrides_count;
    float weight_threshold; /* weights below it in magnitude become 0; 0: off */
    int32_t double_quant;   /* nf4, fp4 */
    int32_t asymmetric;
    int32_t one_range;       /* per_tensor: one range for the whole model instead of each tensor's own */
    int32_t keep_non_finite; /* keep tensors with NaN or Inf instead of refusing the model */
    int32_t strict;          /* a deviation from the request is an error */
    int32_t force;           /* replace an output that exists */
    int32_t dry_run;         /* plan and report exact sizes, write nothing */
    int32_t no_resume;       /* start anew where a killed run of the same source and options left its work */
    uint32_t reserved;
    uint64_t journal_bytes; /* of the source: what a kill may cost at most; 0: 256 MiB */
    /* At most one of weight_threshold and these is not 0; all three hold for matrices, not for biases and norms. */
    double prune_relative;  /* weights below this share of the tensor's largest magnitude become 0; 0 to 1 */
    double target_sparsity; /* this share of each tensor's weights, the smallest, becomes 0; below 1 */
} bitmill_mill_options;
#define BITMILL_MILL_OPTIONS_INIT            \
    {(uint32_t)sizeof(bitmill_mill_options), \
     0,                                      \
     0,                                      \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     0,                                      \
     0,                                      \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     NULL,                                   \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0,                                      \
     0}

typedef struct bitmill_dequantize_options {
    uint32_t struct_size;
    uint32_t threads;
    uint64_t memory_limit;
    const bitmill_hooks* hooks;
    const char* dtype; /* f32, f16, bf16 for every float tensor; default: each tensor's dtype before */
    const char* level; /* int8, int4: of a bitmill folder; default: the highest that is there */
    int32_t force;
    int32_t dry_run;
} bitmill_dequantize_options;
#define BITMILL_DEQUANTIZE_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_dequantize_options), 0, 0, NULL, NULL, NULL, 0, 0}

typedef struct bitmill_verify_options {
    uint32_t struct_size;
    uint32_t threads;
    uint64_t memory_limit;
    const bitmill_hooks* hooks;
} bitmill_verify_options;
#define BITMILL_VERIFY_OPTIONS_INIT {(uint32_t)sizeof(bitmill_verify_options), 0, 0, NULL}

/* Mills `model` (a Hugging Face folder, or a .safetensors, .bin, .pt or .pth file) into the folder `out`, which appears whole or not at
 * all: after an error it is what it was, except where the message holds "the new folder is in place". `out` may be
 * "" in a dry run. Where `out` holds already, byte for byte, what would be written, nothing is: the report says
 * already_milled. With options->to "both" the folders out/int8 and out/int4 are written, each whole or not at all, and
 * out/metadata.json; then `out` may be "", the model's own folder. A pickled model (.pkl, .pickle, .joblib) becomes the
 * file `out`. report may be NULL. */
BITMILL_API bitmill_status bitmill_mill(const char* model, const char* out,
                                        const bitmill_mill_options* options, bitmill_report** report,
                                        bitmill_error* error);

/* A plain checkpoint back. options and report may be NULL. */
BITMILL_API bitmill_status bitmill_dequantize(const char* model, const char* out,
                                              const bitmill_dequantize_options* options,
                                              bitmill_report** report, bitmill_error* error);

/* Whether every file that the folder's manifest lists, and the manifest itself, is byte for byte what bitmill wrote.
 * REFUSED: names the file, and the tensor where one is meant. options and report may be NULL. */
BITMILL_API bitmill_status bitmill_validate(const char* model, const bitmill_verify_options* options,
                                            bitmill_report** report, bitmill_error* error);

/* Mills `source` once more as the manifest of `model` says, writing nothing, and compares every byte; then validates.
 * REFUSED, too, where the source is not the one that was milled. options and report may be NULL. */
BITMILL_API bitmill_status bitmill_verify(const char* source, const char* model,
                                          const bitmill_verify_options* options, bitmill_report** report,
                                          bitmill_error* error);

typedef struct bitmill_batch_options {
    uint32_t struct_size;
    uint32_t threads;
    uint64_t memory_limit;
    const bitmill_hooks* hooks;
    const char* const* models; /* only the models of these names; none: all */
    uint64_t models_count;
    int32_t bit_depth;      /* 8: int8, one scale a tensor; 16: fp16; 32: copy and prune only; 0: 8 */
    float weight_threshold; /* weights below it in magnitude become 0, but of pickled models; 0: off */
    int32_t one_range;      /* one range for each whole model instead of every tensor's own */
    int32_t force;
    int32_t dry_run;
    uint32_t reserved;
    double prune_relative; /* these two as in bitmill_mill_options, with weight_threshold 0 */
    double target_sparsity;
} bitmill_batch_options;
#define BITMILL_BATCH_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_batch_options), 0, 0, NULL, NULL, 0, 8, 0.001f, 0, 0, 0, 0, 0, 0}

/* Every model that lies in `model_dir` (folders with weights, weight files) into output_dir/NAME; output_dir "" is
 * model_dir/quantized. One that fails does not stop the others and is no error of the call: the report says which did,
 * and why. options and report may be NULL. */
BITMILL_API bitmill_status bitmill_batch(const char* model_dir, const char* output_dir,
                                         const bitmill_batch_options* options, bitmill_report** report,
                                         bitmill_error* error);

/* Tensors, dtypes, schemes, sizes and shards of a model; reads no weights. hooks may be NULL. */
BITMILL_API bitmill_status bitmill_inspect(const char* model, const bitmill_hooks* hooks,
                                           bitmill_report** report, bitmill_error* error);

/* The report as JSON, the same as --json of the command. needed_bytes (may be NULL) is set to its length with the NUL,
 * also where dst is too small, which is INVALID_ARGUMENT and writes nothing. With dst NULL and dst_bytes 0 the call
 * only asks for the length. */
BITMILL_API bitmill_status bitmill_report_json(const bitmill_report* report, char* dst, size_t dst_bytes,
                                               size_t* needed_bytes, bitmill_error* error);

/* NULL is fine. The deallocate hook that the report was made with is called here. */
BITMILL_API void bitmill_report_destroy(bitmill_report* report);

/* ---- models that run: token ids in, embeddings and logits out ----------------------------------------------- */

/* An encoder (BERT, RoBERTa, XLM-RoBERTa, DistilBERT) with its weights in memory, packed for the kernels. It gives the
 * same bits on every CPU, for every number of threads, alone or in any batch and order. */
typedef struct bitmill_model bitmill_model;

typedef struct bitmill_model_options {
    uint32_t struct_size;
    uint32_t
        threads; /* of one call, with the caller's own; 0: one per core; with hooks->parallel_for: unused */
    /* allocate, deallocate and parallel_for are used, from any thread, until bitmill_model_destroy returns; the struct
     * itself only during the call. parallel_for is never called from within a task. */
    const bitmill_hooks* hooks;
    /* original, fp16, int8, int4, int2: from the planes of a bitmill folder, from MODEL/LEVEL, or what MODEL itself is;
     * fp16 may also be a cast. Default: as it lies in the folder, of several levels the highest. */
    const char* level;
    /* float, dynamic-int8: what integer layers make of their inputs, one scale for every 128 elements of a row.
     * Default: float. */
    const char* activation;
} bitmill_model_options;
#define BITMILL_MODEL_OPTIONS_INIT {(uint32_t)sizeof(bitmill_model_options), 0, NULL, NULL, NULL}

typedef struct bitmill_model_facts {
    uint32_t struct_size;
    int32_t dynamic_int8;    /* whether inputs of integer layers are 8-bit integers */
    uint64_t embedding_size; /* floats of a sequence in bitmill_model_embed */
    uint64_t hidden_size;    /* floats of a token in bitmill_model_hidden */
    uint64_t labels; /* floats of a sequence in bitmill_model_logits; 0: no such head; 1: a reranker */
    uint64_t layers;
    uint64_t heads;
    uint64_t vocabulary; /* ids are below it */
    uint64_t token_types;
    uint64_t max_tokens;   /* of one sequence */
    uint64_t file_bytes;   /* of the weights that were read */
    uint64_t weight_bytes; /* of memory that they take now */
    char model_type[32];   /* bert, roberta, xlm-roberta, distilbert */
    char requested[32];    /* level; "" where none was */
    char effective[32];    /* level; bitmill_model_json has the reason where both differ */
    char pooling[28];      /* mean, cls, max, last */
    int32_t normalize;     /* whether embeddings have length 1 */
} bitmill_model_facts;
#define BITMILL_MODEL_FACTS_INIT \
    {(uint32_t)sizeof(bitmill_model_facts), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}, {0}, {0}, {0}, 0}

/* Sequences one after the other, without padding. */
typedef struct bitmill_tokens {
    uint32_t struct_size;
    uint32_t reserved;
    const int32_t* ids;   /* with all that belongs to a sequence, such as [CLS] and [SEP] */
    const int32_t* types; /* token types, as many as ids; NULL: all 0 */
    uint64_t ids_count;
    const uint32_t* lengths; /* of the sequences, together ids_count */
    uint64_t lengths_count;
} bitmill_tokens;
#define BITMILL_TOKENS_INIT {(uint32_t)sizeof(bitmill_tokens), 0, NULL, NULL, 0, NULL, 0}

/* Opens a folder: plain (f32, f16, bf16) or milled, in any format that bitmill_dequantize reads. options may be NULL.
 * BAD_INPUT: config.json and the tensors disagree, or one holds NaN or infinity. UNSUPPORTED: names what this version
 * cannot run. */
BITMILL_API bitmill_status bitmill_model_open(const char* path, const bitmill_model_options* options,
                                              bitmill_model** model, bitmill_error* error);

/* NULL is fine. The hooks that the model was opened with are called here. */
BITMILL_API void bitmill_model_destroy(bitmill_model* model);

/* Sets every field of facts that the caller's struct has. */
BITMILL_API bitmill_status bitmill_model_get_facts(const bitmill_model* model, bitmill_model_facts* facts,
                                                   bitmill_error* error);

/* The facts as JSON, with path, reason and warnings. Sizes as in bitmill_report_json. */
BITMILL_API bitmill_status bitmill_model_json(const bitmill_model* model, char* dst, size_t dst_bytes,
                                              size_t* needed_bytes, bitmill_error* error);

/* The three ways to run a model. dst has exactly dst_count floats, what it holds after a failure is undefined.
 * INVALID_ARGUMENT: dst_count is another, the batch does not fit together, a sequence is empty or longer than
 * max_tokens, an id or a type is not the model's. */

/* A vector for each sequence: [lengths_count, embedding_size], pooled as modules.json and 1_Pooling say, by the mean
 * where they are missing. UNSUPPORTED: this version has no such pooling, as opening has warned. */
BITMILL_API bitmill_status bitmill_model_embed(const bitmill_model* model, const bitmill_tokens* tokens,
                                               float* dst, uint64_t dst_count, bitmill_error* error);

/* A vector for each token, of the last layer: [ids_count, hidden_size]. */
BITMILL_API bitmill_status bitmill_model_hidden(const bitmill_model* model, const bitmill_tokens* tokens,
                                                float* dst, uint64_t dst_count, bitmill_error* error);

/* The classes of each sequence, as the head gives them: [lengths_count, labels].
 * UNSUPPORTED: the model has no such head. */
BITMILL_API bitmill_status bitmill_model_logits(const bitmill_model* model, const bitmill_tokens* tokens,
                                                float* dst, uint64_t dst_count, bitmill_error* error);

/* What a linear layer is given: rows x cols floats at x, which are there during the call only. layer is the name of its
 * weight in the checkpoint without ".weight", such as "encoder.layer.3.attention.self.query". A layer sees each row of a
 * call once and in order, in pieces that may be of any size. Called on the thread that runs the model. */
typedef void (*bitmill_layer_observer)(void* context, const char* layer, const float* x, uint64_t rows,
                                       uint64_t cols);

/* Calls the observer for every layer of every run from now on; NULL ends that. Not while the model runs. */
BITMILL_API bitmill_status bitmill_model_observe(bitmill_model* model, bitmill_layer_observer observer,
                                                 void* context, bitmill_error* error);

/* ---- text in: tokens, embeddings, scores, classes ------------------------------------------------------------ */

/* Each is UTF-8; what is not counts as U+FFFD. */
typedef struct bitmill_texts {
    uint32_t struct_size;
    uint32_t reserved;
    const char* const* data;
    const uint64_t* bytes; /* of each text; NULL: all have a NUL behind */
    uint64_t count;
} bitmill_texts;
#define BITMILL_TEXTS_INIT {(uint32_t)sizeof(bitmill_texts), 0, NULL, NULL, 0}

/* A tokenizer.json: the ids, offsets and types of the tokenizers package. */
typedef struct bitmill_tokenizer bitmill_tokenizer;

typedef struct bitmill_tokenize_options {
    uint32_t struct_size;
    int32_t no_special_tokens; /* [CLS], [SEP] and the like are left out */
    uint64_t max_length;       /* tokens at most, special ones included; 0: as the file says */
    int32_t no_truncation;     /* whatever the file says */
    uint32_t reserved;
} bitmill_tokenize_options;
#define BITMILL_TOKENIZE_OPTIONS_INIT {(uint32_t)sizeof(bitmill_tokenize_options), 0, 0, 0, 0}

/* Where the tokens of a text go: arrays of the caller's, each may be NULL. */
typedef struct bitmill_token_sequence {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t capacity; /* elements of each array */
    uint64_t count;    /* set to the number of tokens, also where the capacity is less */
    int32_t* ids;
    int32_t* types;   /* 1: of the second text, where the model tells them apart */
    uint32_t* begins; /* characters (code points, not bytes) of the token's text; 0 for special tokens */
    uint32_t* ends;   /* one behind the last */
    uint8_t* special_tokens; /* 1: added around the text */
} bitmill_token_sequence;
#define BITMILL_TOKEN_SEQUENCE_INIT \
    {(uint32_t)sizeof(bitmill_token_sequence), 0, 0, 0, NULL, NULL, NULL, NULL, NULL}

/* A tokenizer.json, or a folder that holds one. UNSUPPORTED: names the part of it that this version has not. */
BITMILL_API bitmill_status bitmill_tokenizer_open(const char* path, bitmill_tokenizer** tokenizer,
                                                  bitmill_error* error);

/* NULL is fine. */
BITMILL_API void bitmill_tokenizer_destroy(bitmill_tokenizer* tokenizer);

/* One text, or two as a pair. options may be NULL. With all arrays NULL the call only counts. INVALID_ARGUMENT: the
 * capacity is too small, a text has more than 16 MiB, max_length is less than the special tokens. */
BITMILL_API bitmill_status bitmill_tokenizer_encode(const bitmill_tokenizer* tokenizer,
                                                    const bitmill_texts* text,
                                                    const bitmill_tokenize_options* options,
                                                    bitmill_token_sequence* dst, bitmill_error* error);

/* An encoder with its tokenizer: what sentence-transformers and rerankers make of a text. */
typedef struct bitmill_text_encoder bitmill_text_encoder;

typedef struct bitmill_text_options {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t
        max_length; /* tokens of a sequence at most, longer ones are cut; 0: as the model's folder says */
    /* Put in front of every text: as it stands ("query: "), or by its name in config_sentence_transformers.json. Both
     * NULL: the file's default, mostly none. Not of pairs. */
    const char* prompt;
    const char* prompt_name;
    const bitmill_hooks* hooks; /* progress is used, and told texts instead of bytes; the others are not */
} bitmill_text_options;
#define BITMILL_TEXT_OPTIONS_INIT {(uint32_t)sizeof(bitmill_text_options), 0, 0, NULL, NULL, NULL}

/* A folder with a model and its tokenizer.json, which may also lie one above a variant. options may be NULL; their
 * hooks lend memory to the model, and not to the tokenizer. Errors: those of bitmill_model_open and
 * bitmill_tokenizer_open; BAD_INPUT where they do not belong together. */
BITMILL_API bitmill_status bitmill_text_encoder_open(const char* path, const bitmill_model_options* options,
                                                     bitmill_text_encoder** encoder, bitmill_error* error);

/* NULL is fine. The hooks that the encoder was opened with are called here. */
BITMILL_API void bitmill_text_encoder_destroy(bitmill_text_encoder* encoder);

/* Its two parts, which live as long as it does, and are not to be destroyed. NULL of NULL. */
BITMILL_API const bitmill_model* bitmill_text_encoder_model(const bitmill_text_encoder* encoder);
BITMILL_API const bitmill_tokenizer* bitmill_text_encoder_tokenizer(const bitmill_text_encoder* encoder);

/* Lengths, prompts and labels as JSON. Sizes as in bitmill_report_json. */
BITMILL_API bitmill_status bitmill_text_encoder_json(const bitmill_text_encoder* encoder, char* dst,
                                                     size_t dst_bytes, size_t* needed_bytes,
                                                     bitmill_error* error);

/* The space that its vectors of embed lie in, without a prompt of the caller's: those of one space_id may be compared with
 * each other and kept in one index. 64 hexadecimal digits. Sizes as in bitmill_report_json. */
BITMILL_API bitmill_status bitmill_text_encoder_space_id(const bitmill_text_encoder* encoder, char* dst,
                                                         size_t dst_bytes, size_t* needed_bytes,
                                                         bitmill_error* error);

/* The ways to run it. options may be NULL; what dst holds after a failure is undefined. INVALID_ARGUMENT: dst has
 * another number of elements, a prompt_name is unknown, prompt is set as well, max_length is less than the special tokens
 * or more than the model runs. */

/* A vector for each text: [texts->count, embedding_size]. */
BITMILL_API bitmill_status bitmill_text_encoder_embed(const bitmill_text_encoder* encoder,
                                                      const bitmill_texts* texts,
                                                      const bitmill_text_options* options, float* dst,
                                                      uint64_t dst_count, bitmill_error* error);

/* Probabilities: [texts->count, labels]. Of one label, or several at once, each by itself; else they add up to 1.
 * UNSUPPORTED: the model has no such head, or one of regression. */
BITMILL_API bitmill_status bitmill_text_encoder_classify(const bitmill_text_encoder* encoder,
                                                         const bitmill_texts* texts,
                                                         const bitmill_text_options* options, float* dst,
                                                         uint64_t dst_count, bitmill_error* error);

/* What the head gives for the pairs (first, second): [first->count, labels]. */
BITMILL_API bitmill_status bitmill_text_encoder_pair_logits(const bitmill_text_encoder* encoder,
                                                            const bitmill_texts* first,
                                                            const bitmill_texts* second,
                                                            const bitmill_text_options* options, float* dst,
                                                            uint64_t dst_count, bitmill_error* error);

/* Documents by falling score, equal ones in their order: order[i] is the number of the document in place i, scores[i]
 * (scores may be NULL) the sigmoid of its logit. dst_count is documents->count. UNSUPPORTED: the model has not one label. */
BITMILL_API bitmill_status bitmill_text_encoder_rerank(const bitmill_text_encoder* encoder, const char* query,
                                                       const bitmill_texts* documents,
                                                       const bitmill_text_options* options, uint64_t* order,
                                                       float* scores, uint64_t dst_count,
                                                       bitmill_error* error);

/* ---- a model that changes its level while it serves --------------------------------------------------------- */

/* The levels of one model, one of which serves. Every call is safe from any thread, but destroy. A call runs on the level
 * that served when it began, whole, and its weights stay until it ends; a switch waits for no call. Levels are looked
 * for, the first that is found being taken: the planes of the folder, or what it is itself; FOLDER/LEVEL/; quantized of
 * the options; quantized/NAME beside the folder; fp16 also as a cast of the original. */
typedef struct bitmill_model_loader bitmill_model_loader;

typedef struct bitmill_loader_options {
    uint32_t struct_size;
    int32_t no_fallback; /* a level that cannot be had, or gives NaN, is an error; else another one answers */
    /* How models are opened; its level serves first, by default the original. Of its hooks log is used, too: one line for
     * each fault (warning) and each switch (info), one call at a time; it must not switch levels. */
    const bitmill_model_options* model;
    const char* quantized;         /* a folder with a variant, besides those that are found; may be NULL */
    const char* const* capability; /* the levels that may be run; none: all */
    uint64_t capability_count;
    /* Texts on which a level proves itself before it serves: the cosine of all its outputs to the original's. None: what
     * canary.json in the level's folder says, if there is one. */
    const char* const* canary;
    uint64_t canary_count;
    double canary_cosine;       /* the least; 0: 0.9 */
    uint64_t switch_timeout_ms; /* a switch that took longer is taken back; 0: none */
    int64_t retry_after_ms; /* when a level that failed is tried again; 0: 60000; -1: only when asked for */
    int32_t check_hashes;   /* of a level whose folder has a manifest.json, before it serves */
    uint32_t reserved;
} bitmill_loader_options;
#define BITMILL_LOADER_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_loader_options), 0, NULL, NULL, NULL, 0, NULL, 0, 0.0, 0, 0, 0, 0}

/* One attempt to serve another level. */
typedef struct bitmill_switch_record {
    uint32_t struct_size;
    int32_t fault;   /* the requested level is there and could not be used */
    uint64_t number; /* from 1 */
    int64_t unix_ms; /* when it ended */
    double load_ms;
    double canary_ms;
    double canary_cosine;  /* where has_canary is set */
    uint64_t weight_bytes; /* of memory, of the level that serves now */
    int32_t planes;        /* only a plane was added or dropped */
    int32_t has_canary;
    char from[16]; /* the level that served; "" for the first */
    char requested[16];
    char effective[16];      /* the level that serves now */
    char canary_against[16]; /* what it was compared with: original, another level, canary.json */
    char reason[448]; /* "" where both are the same; as much as fits, bitmill_model_loader_json has all */
} bitmill_switch_record;
#define BITMILL_SWITCH_RECORD_INIT \
    {(uint32_t)sizeof(bitmill_switch_record), 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, {0}, {0}, {0}, {0}, {0}}

typedef struct bitmill_model_size_info {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t original_bytes;       /* of the files of weights; 0: there is no original */
    uint64_t quantized_bytes;      /* of the level that use_quantized_model takes; 0: there is none */
    double size_reduction_percent; /* 0 where one of them is absent */
} bitmill_model_size_info;
#define BITMILL_MODEL_SIZE_INFO_INIT {(uint32_t)sizeof(bitmill_model_size_info), 0, 0, 0, 0.0}

/* options may be NULL. INVALID_ARGUMENT: there is no such level; where nothing can stand in for it, what its opening
 * says. */
BITMILL_API bitmill_status bitmill_model_loader_open(const char* path, const bitmill_loader_options* options,
                                                     bitmill_model_loader** loader, bitmill_error* error);

/* NULL is fine. Not while another call runs. */
BITMILL_API void bitmill_model_loader_destroy(bitmill_model_loader* loader);

/* record may be NULL. A switch that fails leaves what serves: the record says so, or, with no_fallback, it is an error. */
BITMILL_API bitmill_status bitmill_model_loader_use_level(bitmill_model_loader* loader, const char* level,
                                                          bitmill_switch_record* record,
                                                          bitmill_error* error);
/* 1: int8, or else int4, int2, fp16; 0: the original. */
BITMILL_API bitmill_status bitmill_model_loader_use_quantized_model(bitmill_model_loader* loader, int32_t use,
                                                                    bitmill_switch_record* record,
                                                                    bitmill_error* error);

/* The last attempt to switch. */
BITMILL_API bitmill_status bitmill_model_loader_get_last_switch(const bitmill_model_loader* loader,
                                                                bitmill_switch_record* record,
                                                                bitmill_error* error);

/* Of the level that serves now. */
BITMILL_API bitmill_status bitmill_model_loader_get_facts(const bitmill_model_loader* loader,
                                                          bitmill_model_facts* facts, bitmill_error* error);

BITMILL_API bitmill_status bitmill_model_loader_get_size_info(const bitmill_model_loader* loader,
                                                              bitmill_model_size_info* size,
                                                              bitmill_error* error);

/* Levels, where they lie, sizes, the last 256 switches. Sizes as in bitmill_report_json. */
BITMILL_API bitmill_status bitmill_model_loader_json(const bitmill_model_loader* loader, char* dst,
                                                     size_t dst_bytes, size_t* needed_bytes,
                                                     bitmill_error* error);

/* bitmill_text_encoder_space_id of the level that serves now. */
BITMILL_API bitmill_status bitmill_model_loader_space_id(const bitmill_model_loader* loader, char* dst,
                                                         size_t dst_bytes, size_t* needed_bytes,
                                                         bitmill_error* error);

/* As those of bitmill_text_encoder. Where the level that serves fails (IO, BAD_INPUT, an output of a quantized level that
 * is no number) the next level serves, this call and those that follow. */
BITMILL_API bitmill_status bitmill_model_loader_embed(bitmill_model_loader* loader,
                                                      const bitmill_texts* texts,
                                                      const bitmill_text_options* options, float* dst,
                                                      uint64_t dst_count, bitmill_error* error);
BITMILL_API bitmill_status bitmill_model_loader_classify(bitmill_model_loader* loader,
                                                         const bitmill_texts* texts,
                                                         const bitmill_text_options* options, float* dst,
                                                         uint64_t dst_count, bitmill_error* error);
BITMILL_API bitmill_status bitmill_model_loader_rerank(bitmill_model_loader* loader, const char* query,
                                                       const bitmill_texts* documents,
                                                       const bitmill_text_options* options, uint64_t* order,
                                                       float* scores, uint64_t dst_count,
                                                       bitmill_error* error);

/* Writes canary.json into the level's folder: the texts, what the original makes of them, canary_cosine. */
BITMILL_API bitmill_status bitmill_model_loader_store_canary(bitmill_model_loader* loader, const char* level,
                                                             const bitmill_texts* texts,
                                                             bitmill_error* error);

/* ---- comparing: what a quantized encoder costs and saves beside its original --------------------------------- */

typedef struct bitmill_comparison bitmill_comparison;

/* Pairs and tasks are files of JSON lines, {"query": "...", "document": "..."} and {"query": "...", "documents":
 * ["...", ...], "relevant": [0, ...]}. Without both, speed, size and the nearness of vectors are measured, not quality. */
typedef struct bitmill_compare_options {
    uint32_t struct_size;
    uint32_t threads;           /* of either model; 0: one per core */
    const bitmill_hooks* hooks; /* log is not used; progress is told texts instead of bytes */
    const char* level;          /* of the quantized model, as in bitmill_model_options */
    const char* activation;     /* of the quantized model's integer layers */
    const char* pairs;          /* NULL: none */
    const char* tasks;          /* NULL: none; rerankers take only these */
    const char* const* gates;   /* "recall@10.low>=-1.5%"; the JSON, the table and the page tell which hold */
    uint64_t gates_count;
    uint64_t rounds;           /* of timing; 0: 5 */
    uint64_t bootstrap_rounds; /* 0: 10000 */
    uint64_t seed;             /* of the bootstrap; 0: 1 */
} bitmill_compare_options;
#define BITMILL_COMPARE_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_compare_options), 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0}

/* Means over the queries; relative is (quantized - original) / original, and 95 % of a paired bootstrap's relative
 * differences lie between low and high. */
typedef struct bitmill_metric {
    uint32_t struct_size;
    uint32_t reserved;
    double original;
    double quantized;
    double relative;
    double low;
    double high;
    uint64_t n; /* queries */
} bitmill_metric;
#define BITMILL_METRIC_INIT {(uint32_t)sizeof(bitmill_metric), 0, 0, 0, 0, 0, 0, 0}

/* Opens both folders and runs them in turns. options may be NULL. INVALID_ARGUMENT: the models do not belong together, a
 * gate's name or number is wrong, or what it asks for is not measured. BAD_INPUT: a line is no pair or task. A gate that
 * does not hold is no error. */
BITMILL_API bitmill_status bitmill_compare_model_performance(const char* original, const char* quantized,
                                                             const bitmill_compare_options* options,
                                                             bitmill_comparison** comparison,
                                                             bitmill_error* error);

/* NULL is fine. The deallocate hook that it was made with is called here. */
BITMILL_API void bitmill_comparison_destroy(bitmill_comparison* comparison);

/* All that was measured: as JSON, as lines for a terminal, as one HTML page. Sizes as in bitmill_report_json. This and
 * what follows may be called from many threads at once. */
BITMILL_API bitmill_status bitmill_comparison_json(const bitmill_comparison* comparison, char* dst,
                                                   size_t dst_bytes, size_t* needed_bytes,
                                                   bitmill_error* error);
BITMILL_API bitmill_status bitmill_comparison_table(const bitmill_comparison* comparison, char* dst,
                                                    size_t dst_bytes, size_t* needed_bytes,
                                                    bitmill_error* error);
BITMILL_API bitmill_status bitmill_comparison_html(const bitmill_comparison* comparison, char* dst,
                                                   size_t dst_bytes, size_t* needed_bytes,
                                                   bitmill_error* error);

/* name: "recall@10", "mrr@10" (of pairs), "ndcg@5", "map", "precision@5" (of tasks). INVALID_ARGUMENT: no such metric was
 * measured. */
BITMILL_API bitmill_status bitmill_comparison_metric(const bitmill_comparison* comparison, const char* name,
                                                     bitmill_metric* dst, bitmill_error* error);

/* Whether a condition holds: 1 or 0; value (may be NULL) is what it looks at. INVALID_ARGUMENT as above; REFUSED: it asks
 * for what is reported only. */
BITMILL_API bitmill_status bitmill_comparison_gate(const bitmill_comparison* comparison, const char* gate,
                                                   int32_t* holds, double* value, bitmill_error* error);

#ifdef __cplusplus
}
#endif

/* Which level a model should have, models that share memory, and the registry of a folder of models. */
#include "bitmill_manager.h"

#endif
