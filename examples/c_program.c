/* bitmill from C: one matrix to int4 and back, then a whole model with a report in JSON.
 *
 *     c_program MODEL OUT
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <bitmill.h>

enum {
    ROWS = 64,
    COLS = 256
};

/* Every call that can fail fills the error in; its message is one line for people. */
static int failed(bitmill_status status, const bitmill_error* error) {
    if (status != BITMILL_OK) fprintf(stderr, "c_program: %s\n", error->message);
    return status != BITMILL_OK;
}

static int encode_and_decode(void) {
    static float weights[ROWS * COLS], back[ROWS * COLS];
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_scheme scheme = BITMILL_SCHEME_INIT; /* _INIT is the default of every field */
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    bitmill_encoded encoded = BITMILL_ENCODED_INIT;
    bitmill_metrics metrics = BITMILL_METRICS_INIT;
    double largest = 0;
    int i, bad;

    for (i = 0; i < ROWS * COLS; ++i) weights[i] = (float)sin(i * 0.7) / (1 + (float)(i % 13));
    scheme.type = BITMILL_SCHEME_INT4;
    scheme.granularity = BITMILL_GROUP;
    scheme.group_size = 128;
    matrix.dtype = BITMILL_F32;
    matrix.rows = ROWS;
    matrix.cols = COLS;

    /* Buffers are ours: the library says how large, we bring them. */
    if (failed(bitmill_encode_bound(&scheme, ROWS, COLS, &encoded, &error), &error)) return 1;
    encoded.codes = malloc((size_t)encoded.codes_bytes);
    encoded.scales = malloc((size_t)encoded.scales_bytes);
    bad = failed(bitmill_encode(&scheme, &matrix, weights, &encoded, NULL, &metrics, &error), &error) ||
          failed(bitmill_decode(&scheme, &encoded, &matrix, back, NULL, &error), &error);
    if (!bad) {
        for (i = 0; i < ROWS * COLS; ++i) {
            const double lost = fabs((double)(weights[i] - back[i]));
            if (lost > largest) largest = lost;
        }
        printf("matrix: %d bytes -> %d, SNR %.2f dB, largest error %.6f (here %.6f)\n", (int)sizeof weights,
               (int)(encoded.codes_bytes + encoded.scales_bytes), metrics.snr_db, metrics.max_abs, largest);
    }
    free(encoded.codes);
    free(encoded.scales);
    return bad;
}

static int mill(const char* model, const char* out) {
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_mill_options options = BITMILL_MILL_OPTIONS_INIT;
    bitmill_report* report = NULL;
    char* json = NULL;
    size_t bytes = 0;
    int bad;

    options.to = "int8";
    if (failed(bitmill_mill(model, out, &options, &report, &error), &error)) return 1;
    /* Ask for the length, bring the buffer, get the text. */
    bad = failed(bitmill_report_json(report, NULL, 0, &bytes, &error), &error);
    if (!bad) {
        json = malloc(bytes);
        bad = failed(bitmill_report_json(report, json, bytes, NULL, &error), &error);
    }
    if (!bad) puts(json);
    free(json);
    bitmill_report_destroy(report);
    return bad;
}

int main(int argc, char** argv) {
    if (argc < 3) {
        fprintf(stderr, "c_program MODEL OUT\n");
        return 2;
    }
    printf("bitmill %s on %s\n", bitmill_version_text(), bitmill_isa());
    return encode_and_decode() || mill(argv[1], argv[2]);
}
