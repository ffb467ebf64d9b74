/* The part of bitmill.h about many models: which level each should have, a manager that shares memory between them, and
 * the registry of a folder of models. bitmill.h includes it; what is said at its top holds here, too.
 */
#ifndef BITMILL_MANAGER_H
#define BITMILL_MANAGER_H

#include "bitmill.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the levels that a model has ----------------------------------------------------------------------------- */

typedef struct bitmill_found_levels bitmill_found_levels;

typedef struct bitmill_found_level {
    uint32_t struct_size;
    int32_t cast;        /* fp16 that is made of the original */
    uint64_t file_bytes; /* of the files of weights; 0 with a fault */
    const char* level;   /* original, fp16, int8, int4, int2. The texts live as long as the list */
    const char* path;
    const char* fault; /* why it cannot be read; "" where it can */
} bitmill_found_level;
#define BITMILL_FOUND_LEVEL_INIT {(uint32_t)sizeof(bitmill_found_level), 0, 0, NULL, NULL, NULL}

/* Those that a loader of `path` has, from the highest down; quantized is that of bitmill_loader_options, and may be NULL.
 * Reads headers only. BAD_INPUT: there is no model. */
BITMILL_API bitmill_status bitmill_find_levels(const char* path, const char* quantized,
                                               bitmill_found_levels** levels, bitmill_error* error);

/* NULL is fine. */
BITMILL_API void bitmill_found_levels_destroy(bitmill_found_levels* levels);

/* 0 of NULL. */
BITMILL_API uint64_t bitmill_found_levels_count(const bitmill_found_levels* levels);

/* INVALID_ARGUMENT: index is behind the last. */
BITMILL_API bitmill_status bitmill_found_levels_get(const bitmill_found_levels* levels, uint64_t index,
                                                    bitmill_found_level* level, bitmill_error* error);

/* ---- which level, by memory, load and priority --------------------------------------------------------------- */

/* 0 or NULL is the default. Memory is its share in use, and each band begins at its edge: 0.85 is an emergency. */
typedef struct bitmill_policy_thresholds {
    uint32_t struct_size;
    uint32_t load_low;      /* active requests: fewer than this, 0: 2 */
    uint32_t load_moderate; /* up to this, 0: 5; more */
    uint32_t load_high;     /* this and more, 0: 10 */
    double comfortable;     /* 0: 0.40 */
    double moderate;        /* 0: 0.60 */
    double tight;           /* 0: 0.75 */
    double critical;        /* 0: 0.85 */
    /* A higher level has to be right with so much more memory in use, and so long after the last switch. */
    double hysteresis; /* 0: 0.05; below 0: none */
    int64_t dwell_ms;  /* 0: 30000; -1: none */
    const char*
        high_load_level; /* of load_high and more, where memory leaves a choice: int4 (also NULL), int2 */
} bitmill_policy_thresholds;
#define BITMILL_POLICY_THRESHOLDS_INIT \
    {(uint32_t)sizeof(bitmill_policy_thresholds), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, NULL}

typedef struct bitmill_policy_input {
    uint32_t struct_size;
    uint32_t active_requests;
    uint64_t total_bytes; /* of memory that may be used; required */
    uint64_t other_bytes; /* in use by everything but this model */
    /* quality: one level above the table's, and never int2; balanced, also NULL: the table's; speed: one below. */
    const char* priority;
    /* The levels there are, of fp16, int8, int4, int2, and what each takes at its peak. None: all, taking nothing. */
    const char* const* levels;
    const uint64_t* peak_bytes; /* as many as levels */
    uint64_t levels_count;
    const char* const* capability; /* the levels that may be run; none: all */
    uint64_t capability_count;
    const char* force;        /* this level, whatever else is said, if it fits; may be NULL */
    const char* floor;        /* no level below it; may be NULL */
    const char* current;      /* the level that serves; NULL: none */
    uint64_t since_switch_ms; /* how long it has served */
} bitmill_policy_input;
#define BITMILL_POLICY_INPUT_INIT \
    {(uint32_t)sizeof(bitmill_policy_input), 0, 0, 0, NULL, NULL, NULL, 0, NULL, 0, NULL, NULL, NULL, 0}

typedef struct bitmill_policy_decision {
    uint32_t struct_size;
    uint32_t reserved;
    double used;      /* share of memory, with the current level */
    double projected; /* with the chosen one */
    char level[16];   /* fp16, int8, int4, int2 */
    char rule[32];    /* force, floor, fit, priority, capability, dwell, hysteresis, or the table's row */
    char explanation[448]; /* one line */
} bitmill_policy_decision;
#define BITMILL_POLICY_DECISION_INIT {(uint32_t)sizeof(bitmill_policy_decision), 0, 0.0, 0.0, {0}, {0}, {0}}

/* A pure function: it reads no clock and no memory. thresholds may be NULL. OUT_OF_MEMORY: no level that is allowed fits.
 * INVALID_ARGUMENT: a name that is no level, thresholds that do not rise. UNSUPPORTED: the forced level may not be run. */
BITMILL_API bitmill_status bitmill_choose_level(const bitmill_policy_input* input,
                                                const bitmill_policy_thresholds* thresholds,
                                                bitmill_policy_decision* decision, bitmill_error* error);

typedef struct bitmill_system_memory {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t total_bytes;     /* of the machine, or less where a control group has less */
    uint64_t available_bytes; /* without pushing out what is in use; at most total_bytes */
    uint64_t process_bytes;   /* resident, of this process */
    char limit[256];          /* the control group that says total_bytes; "" for the machine */
} bitmill_system_memory;
#define BITMILL_SYSTEM_MEMORY_INIT {(uint32_t)sizeof(bitmill_system_memory), 0, 0, 0, 0, {0}}

BITMILL_API bitmill_status bitmill_read_system_memory(bitmill_system_memory* memory, bitmill_error* error);

/* ---- models that share memory -------------------------------------------------------------------------------- */

/* Models by name: each is opened when it is asked for, at the level that memory, load and priority call for, and changes
 * its level with a later request. The least recently used makes room, but never one that is in use or pinned. Every call
 * is safe from any thread, but destroy. */
typedef struct bitmill_manager bitmill_manager;

/* A model at work: one active request, until it is destroyed. */
typedef struct bitmill_managed_model bitmill_managed_model;

typedef struct bitmill_manager_options {
    uint32_t struct_size;
    uint32_t reserved;
    /* How models are opened; its level is the manager's to choose. Its hooks are used, from any thread, until the manager
     * and all that it handed out are destroyed; of them log, too: one line for each fault (warning) and each switch
     * (info). It must not call the manager. */
    const bitmill_model_options* model;
    const bitmill_policy_thresholds* thresholds; /* may be NULL */
    const char* const* capability; /* of fp16, int8, int4, int2: those that may be run; none: all */
    uint64_t capability_count;
    uint64_t max_cache_bytes; /* of the weights of all models; 0: 8 000 000 000 */
    uint64_t working_bytes;   /* what a model needs beside its weights while it runs; 0: 64 MiB */
    /* Memory is looked at once in this time, requests in between are judged by what was seen. 0: 100; -1: each time */
    int64_t memory_interval_ms;
    /* The two that follow are called from any thread, as long as the hooks are. */
    void* machine_context;
    /* Fills what the machine has, up to memory->struct_size. Not BITMILL_OK: the call that asked ends with it.
     * NULL: bitmill_read_system_memory. */
    bitmill_status (*read_memory)(void* machine_context, bitmill_system_memory* memory);
    /* Never falls; from any beginning. NULL: the machine's steady clock. */
    int64_t (*clock_ms)(void* machine_context);
} bitmill_manager_options;
#define BITMILL_MANAGER_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_manager_options), 0, NULL, NULL, NULL, 0, 0, 0, 0, NULL, NULL, NULL}

typedef struct bitmill_managed_model_options {
    uint32_t struct_size;
    int32_t pinned;        /* stays in the cache once it was opened */
    const char* quantized; /* as in bitmill_loader_options */
    /* Where has_max_drift is set: the vectors are in an index, and a level whose vectors of drift_texts lie farther from
     * those of the original, 1 - cosine, than max_drift (0 to 2) is not taken. */
    const char* const* drift_texts;
    uint64_t drift_texts_count;
    double max_drift;
    int32_t has_max_drift;
    uint32_t reserved;
} bitmill_managed_model_options;
#define BITMILL_MANAGED_MODEL_OPTIONS_INIT \
    {(uint32_t)sizeof(bitmill_managed_model_options), 0, NULL, NULL, 0, 0.0, 0, 0}

typedef struct bitmill_load_request {
    uint32_t struct_size;
    int32_t has_active_requests; /* active_requests is set: the host knows better how many are at work */
    uint32_t active_requests;    /* else: those that hold a model */
    uint32_t reserved;
    const char* force_quantization; /* this level, if it fits; "original" as well; may be NULL */
    const char* min_quantization;   /* no level below it; may be NULL */
    const char* priority;           /* quality, balanced (also NULL), speed */
} bitmill_load_request;
#define BITMILL_LOAD_REQUEST_INIT {(uint32_t)sizeof(bitmill_load_request), 0, 0, 0, NULL, NULL, NULL}

/* options may be NULL. INVALID_ARGUMENT: thresholds that do not rise, or a level that does not exist. */
BITMILL_API bitmill_status bitmill_manager_create(const bitmill_manager_options* options,
                                                  bitmill_manager** manager, bitmill_error* error);

/* NULL is fine. Models that were handed out stay until they are destroyed. */
BITMILL_API void bitmill_manager_destroy(bitmill_manager* manager);

/* Nothing is opened yet. options may be NULL. INVALID_ARGUMENT: the name is "" or taken, max_drift without texts. */
BITMILL_API bitmill_status bitmill_manager_add_model(bitmill_manager* manager, const char* name,
                                                     const char* path,
                                                     const bitmill_managed_model_options* options,
                                                     bitmill_error* error);

/* For these a name that is not there is INVALID_ARGUMENT. What is in use stays until it is let go. */

/* Its levels are looked for again: there may be new ones. */
BITMILL_API bitmill_status bitmill_manager_refresh_model(bitmill_manager* manager, const char* name,
                                                         bitmill_error* error);
BITMILL_API bitmill_status bitmill_manager_remove_model(bitmill_manager* manager, const char* name,
                                                        bitmill_error* error);
/* 1: it stays in the cache, also through clear_cache; 0: it may go. */
BITMILL_API bitmill_status bitmill_manager_pin_model(bitmill_manager* manager, const char* name,
                                                     int32_t pinned, bitmill_error* error);
/* Opens it and runs a text, so that the first request finds it warm. request may be NULL. */
BITMILL_API bitmill_status bitmill_manager_warm_model(bitmill_manager* manager, const char* name,
                                                      const bitmill_load_request* request,
                                                      bitmill_error* error);

/* The model, at the level that bitmill_choose_level gives for now; one that is loaded at another level is switched first,
 * unless another request is switching it. A level that cannot be had is left out for a while, and the next one taken.
 * request may be NULL. OUT_OF_MEMORY: nothing fits. UNSUPPORTED: a forced level that cannot be had. */
BITMILL_API bitmill_status bitmill_manager_load_model(bitmill_manager* manager, const char* name,
                                                      const bitmill_load_request* request,
                                                      bitmill_managed_model** model, bitmill_error* error);

/* NULL is fine. */
BITMILL_API void bitmill_managed_model_destroy(bitmill_managed_model* model);

/* It embeds, reranks and classifies; its levels are the manager's to switch. Lives as long as the model, and is not to be
 * destroyed. NULL of NULL. */
BITMILL_API bitmill_model_loader* bitmill_managed_model_loader(const bitmill_managed_model* model);

/* Why it has its level. */
BITMILL_API bitmill_status bitmill_managed_model_get_decision(const bitmill_managed_model* model,
                                                              bitmill_policy_decision* decision,
                                                              bitmill_error* error);

/* All that is neither pinned nor in use is freed; what is in use, when it is let go. */
BITMILL_API bitmill_status bitmill_manager_clear_cache(bitmill_manager* manager, bitmill_error* error);
/* Less than before evicts what it can. */
BITMILL_API bitmill_status bitmill_manager_set_max_cache_bytes(bitmill_manager* manager, uint64_t bytes,
                                                               bitmill_error* error);
/* NULL: the defaults. Errors as of bitmill_manager_create; then nothing has changed. */
BITMILL_API bitmill_status bitmill_manager_set_thresholds(bitmill_manager* manager,
                                                          const bitmill_policy_thresholds* thresholds,
                                                          bitmill_error* error);

typedef struct bitmill_manager_status {
    uint32_t struct_size;
    uint32_t active_requests;
    uint64_t total_bytes; /* these three as in bitmill_system_memory */
    uint64_t available_bytes;
    uint64_t process_bytes;
    uint64_t max_cache_bytes;
    uint64_t current_bytes; /* models that were dropped while in use count until they are let go */
    uint64_t evictions;
    uint64_t models;
    uint64_t loaded;            /* of them */
    char recommended_level[16]; /* of the table, for the memory in use and the load */
    char recommended_reason[448];
} bitmill_manager_status;
#define BITMILL_MANAGER_STATUS_INIT \
    {(uint32_t)sizeof(bitmill_manager_status), 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}, {0}}

typedef struct bitmill_managed_status {
    uint32_t struct_size;
    int32_t loaded;
    int32_t loading;
    int32_t pinned;
    int32_t in_use;
    uint32_t reserved;
    uint64_t bytes; /* of memory that its weights take */
    uint64_t access_count;
    char level[16];    /* that serves; "" where it is not loaded */
    char space_id[72]; /* as of bitmill_text_encoder_space_id, of that level */
} bitmill_managed_status;
#define BITMILL_MANAGED_STATUS_INIT {(uint32_t)sizeof(bitmill_managed_status), 0, 0, 0, 0, 0, 0, 0, {0}, {0}}

BITMILL_API bitmill_status bitmill_manager_get_status(const bitmill_manager* manager,
                                                      bitmill_manager_status* status, bitmill_error* error);
/* INVALID_ARGUMENT: the name is not there. */
BITMILL_API bitmill_status bitmill_manager_get_model(const bitmill_manager* manager, const char* name,
                                                     bitmill_managed_status* status, bitmill_error* error);

/* All of it; memory alone; the cache alone. Sizes as in bitmill_report_json; between two calls they may change. */
BITMILL_API bitmill_status bitmill_manager_status_json(const bitmill_manager* manager, char* dst,
                                                       size_t dst_bytes, size_t* needed_bytes,
                                                       bitmill_error* error);
BITMILL_API bitmill_status bitmill_manager_memory_json(const bitmill_manager* manager, char* dst,
                                                       size_t dst_bytes, size_t* needed_bytes,
                                                       bitmill_error* error);
BITMILL_API bitmill_status bitmill_manager_cache_json(const bitmill_manager* manager, char* dst,
                                                      size_t dst_bytes, size_t* needed_bytes,
                                                      bitmill_error* error);

typedef struct bitmill_level_estimate {
    uint32_t struct_size;
    uint32_t reserved;
    double parameters;
    double bits_per_weight; /* scales included */
    uint64_t bytes;
    double used; /* these as in bitmill_policy_decision */
    double projected;
    char level[16];
    char rule[32];
    char explanation[448];
} bitmill_level_estimate;
#define BITMILL_LEVEL_ESTIMATE_INIT \
    {(uint32_t)sizeof(bitmill_level_estimate), 0, 0.0, 0.0, 0, 0.0, 0.0, {0}, {0}, {0}}

/* What a model of so many parameters would get, were it loaded now: as numbers, and as JSON. request may be NULL.
 * INVALID_ARGUMENT: parameters are no positive number. OUT_OF_MEMORY: no level fits. */
BITMILL_API bitmill_status bitmill_manager_calculate(const bitmill_manager* manager, double parameters,
                                                     const bitmill_load_request* request,
                                                     bitmill_level_estimate* estimate, bitmill_error* error);
BITMILL_API bitmill_status bitmill_manager_calculate_json(const bitmill_manager* manager, double parameters,
                                                          const bitmill_load_request* request, char* dst,
                                                          size_t dst_bytes, size_t* needed_bytes,
                                                          bitmill_error* error);

/* ---- the models of a folder ---------------------------------------------------------------------------------- */

/* ROOT/NAME/ is a Hugging Face folder, ROOT/NAME/LEVEL/ a variant of it. Names are looked up and never used as paths.
 * Every call is safe from any thread, but destroy, beside other processes at work on the same ROOT. */
typedef struct bitmill_registry bitmill_registry;

typedef struct bitmill_registry_options {
    uint32_t struct_size;
    uint32_t reserved;
    /* allocate and deallocate, for the handle, and log are used, until bitmill_registry_destroy returns. One line for
     * each warning. */
    const bitmill_hooks* hooks;
    /* For metadata.json: microseconds since 1970, UTC. From any thread. NULL: the machine's clock. */
    void* clock_context;
    int64_t (*unix_us)(void* clock_context);
} bitmill_registry_options;
#define BITMILL_REGISTRY_OPTIONS_INIT {(uint32_t)sizeof(bitmill_registry_options), 0, NULL, NULL, NULL}

/* options may be NULL. IO: root is no folder that can be read. */
BITMILL_API bitmill_status bitmill_registry_open(const char* root, const bitmill_registry_options* options,
                                                 bitmill_registry** registry, bitmill_error* error);

/* NULL is fine. */
BITMILL_API void bitmill_registry_destroy(bitmill_registry* registry);

/* From now on the type leads to that model, which need not be there yet. roberta, xlm-roberta and distilbert lead to
 * roberta-base, xlm-roberta-base and distilbert-base-uncased. */
BITMILL_API bitmill_status bitmill_registry_register_model(bitmill_registry* registry, const char* type,
                                                           const char* model_name, bitmill_error* error);

/* For these a type or name (of what is both the type counts) that leads nowhere is INVALID_ARGUMENT. Sizes as in
 * bitmill_report_json. */

/* The folder in which it lies. */
BITMILL_API bitmill_status bitmill_registry_path(const bitmill_registry* registry, const char* type_or_name,
                                                 char* dst, size_t dst_bytes, size_t* needed_bytes,
                                                 bitmill_error* error);
/* The fields of its metadata.json, which is made or put right where it is missing or wrong, types, levels, active,
 * problem. */
BITMILL_API bitmill_status bitmill_registry_find_json(bitmill_registry* registry, const char* type_or_name,
                                                      char* dst, size_t dst_bytes, size_t* needed_bytes,
                                                      bitmill_error* error);
/* The same for every model: {"models": [...]}. */
BITMILL_API bitmill_status bitmill_registry_list_json(bitmill_registry* registry, char* dst, size_t dst_bytes,
                                                      size_t* needed_bytes, bitmill_error* error);

/* Of a request to quantize that has succeeded. */
typedef struct bitmill_quantize_outcome {
    uint32_t struct_size;
    int32_t is_quantized;
    int32_t already_quantized; /* there was nothing to do */
    int32_t did_work;          /* this call milled, and did not wait for another that did */
    char level[16];
    char job_id[32]; /* of the work: the same source and options have the same id, in every process */
    char model_name[256];
    char message[512]; /* "Successfully quantized NAME model", "Model NAME is already quantized" */
} bitmill_quantize_outcome;
#define BITMILL_QUANTIZE_OUTCOME_INIT \
    {(uint32_t)sizeof(bitmill_quantize_outcome), 0, 0, 0, {0}, {0}, {0}, {0}}

/* Mills ROOT/NAME/LEVEL/, LEVEL being options->to, unless it is there, from the same source, byte for byte. options NULL:
 * int8 in format bitmill, which is int4 as well; dry_run and to "both" are refused. Calls for the same work at the same
 * time, in any process, do it once: the others wait and get what comes of it. hooks->progress is called while waiting,
 * too, in a process that waits for another with 0 of 0. outcome and report may be NULL; the report's JSON holds the
 * outcome and what was milled. A failure's message is "Model NAME not found or not supported for quantization"
 * (INVALID_ARGUMENT) or "Error during quantization: DETAILS", and holds no absolute path. */
BITMILL_API bitmill_status bitmill_registry_quantize(bitmill_registry* registry, const char* type_or_name,
                                                     const bitmill_mill_options* options,
                                                     bitmill_quantize_outcome* outcome,
                                                     bitmill_report** report, bitmill_error* error);

typedef struct bitmill_quantize_job {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t done_bytes; /* 0 of 0 while another process does the work */
    uint64_t total_bytes;
    char id[32]; /* job_id of its outcome */
    char level[16];
    char model_name[256];
} bitmill_quantize_job;
#define BITMILL_QUANTIZE_JOB_INIT {(uint32_t)sizeof(bitmill_quantize_job), 0, 0, 0, {0}, {0}, {0}}

/* The index-th of those that run now, in this process. INVALID_ARGUMENT: there are not so many. */
BITMILL_API bitmill_status bitmill_registry_get_job(const bitmill_registry* registry, uint64_t index,
                                                    bitmill_quantize_job* job, bitmill_error* error);

/* Says that the type's model serves (1) or not (0), at `level`; NULL: at int8, or else int4, int2, fp16, the original.
 * INVALID_ARGUMENT: the type leads nowhere, or the level does not exist. */
BITMILL_API bitmill_status bitmill_registry_set_active(bitmill_registry* registry, const char* type,
                                                       int32_t active, const char* level,
                                                       bitmill_error* error);
/* {TYPE: {"status", "metadata": {"model_name", "is_quantized"}, "quantization": {"level"}}} */
BITMILL_API bitmill_status bitmill_registry_active_json(const bitmill_registry* registry, char* dst,
                                                        size_t dst_bytes, size_t* needed_bytes,
                                                        bitmill_error* error);

#ifdef __cplusplus
}
#endif

#endif
