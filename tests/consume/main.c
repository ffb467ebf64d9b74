/* What a user's first C program does: the versions, an error, and a matrix to int8 and back. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <bitmill.h>

enum {
    rows = 3,
    cols = 50
};

int main(void) {
    static float weights[rows * cols], back[rows * cols], scales[rows];
    static signed char codes[rows * cols];
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_scheme scheme = BITMILL_SCHEME_INIT; /* int8, one scale a row */
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    bitmill_encoded encoded = BITMILL_ENCODED_INIT;

    if (strcmp(BITMILL_VERSION_TEXT, EXPECTED_VERSION) != 0) return 1;
    if (strcmp(bitmill_version_text(), EXPECTED_VERSION) != 0) return 2;
    if (bitmill_abi_version() != BITMILL_ABI_VERSION) return 3;
    if (bitmill_set_isa("none", &error) != BITMILL_INVALID_ARGUMENT || error.message[0] == '\0') return 4;

    for (int i = 0; i < rows * cols; ++i) weights[i] = (float)sin(i);
    scheme.type = BITMILL_SCHEME_INT8;
    matrix.dtype = BITMILL_F32;
    matrix.rows = rows;
    matrix.cols = cols;
    encoded.codes = codes;
    encoded.codes_bytes = sizeof codes;
    encoded.scales = scales;
    encoded.scales_bytes = sizeof scales;
    if (bitmill_encode(&scheme, &matrix, weights, &encoded, NULL, NULL, &error) != BITMILL_OK ||
        bitmill_decode(&scheme, &encoded, &matrix, back, NULL, &error) != BITMILL_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 5;
    }
    for (int i = 0; i < rows * cols; ++i) /* Half a step, and the rounding of the decoded value itself. */
        if (!(fabs(back[i] - weights[i]) <= scales[i / cols] * 0.5001)) return 6;
    printf("bitmill %s in C on %s: %d weights to int8 and back\n", bitmill_version_text(), bitmill_isa(),
           rows * cols);
    return 0;
}
