/* A program of tomorrow with the library of today: its new fields are fine while they are 0, and refused where set. */
#include "support.h"

#define REFUSED(object, call)                                  \
    do {                                                       \
        EXPECT(BITMILL_OK, call, &error);                      \
        (object).added = 1;                                    \
        EXPECT(BITMILL_UNSUPPORTED, call, &error);             \
        CHECK(strstr(error.message, "does not know") != NULL); \
        CHECK((object).added == 1);                            \
        (object).added = 0;                                    \
        EXPECT(BITMILL_OK, call, &error);                      \
    } while (0)

static bitmill_status keep_none(bitmill_status status, bitmill_report** report) {
    CHECK((*report != NULL) == (status == BITMILL_OK));
    bitmill_report_destroy(*report);
    *report = NULL;
    return status;
}

int main(void) {
    bitmill_error error = BITMILL_ERROR_INIT;
    bitmill_hooks hooks = BITMILL_HOOKS_INIT;
    bitmill_scheme scheme = BITMILL_SCHEME_INIT;
    bitmill_matrix matrix = BITMILL_MATRIX_INIT;
    bitmill_encoded coded = BITMILL_ENCODED_INIT;
    bitmill_encode_options encode = BITMILL_ENCODE_OPTIONS_INIT;
    bitmill_metrics metrics = BITMILL_METRICS_INIT;
    bitmill_mill_options mill = BITMILL_MILL_OPTIONS_INIT;
    bitmill_dequantize_options dequantize = BITMILL_DEQUANTIZE_OPTIONS_INIT;
    bitmill_report* report = NULL;
    float values[64], codes[64], scales[64];
    char folder[256], model[300];
    size_t i;

    for (i = 0; i < 64; ++i) values[i] = (float)i;
    error.added = 7;
    scheme.type = BITMILL_SCHEME_INT8;
    matrix.dtype = BITMILL_F32;
    matrix.rows = 4;
    matrix.cols = 16;
    REFUSED(scheme, bitmill_encode_bound(&scheme, 4, 16, &coded, &error));
    REFUSED(coded, bitmill_encode_bound(&scheme, 4, 16, &coded, &error));
    coded.codes = codes;
    coded.scales = scales;
    encode.hooks = &hooks;
    REFUSED(scheme, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(matrix, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(coded, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(encode, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(metrics, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(hooks, bitmill_encode(&scheme, &matrix, values, &coded, &encode, &metrics, &error));
    REFUSED(hooks, bitmill_decode(&scheme, &coded, &matrix, values, &hooks, &error));

    make_folder(folder, sizeof folder);
    snprintf(model, sizeof model, "%s/model", folder);
    make_model(model);
    mill.to = "int8";
    mill.dry_run = dequantize.dry_run = 1;
    mill.hooks = dequantize.hooks = &hooks;
    REFUSED(mill, keep_none(bitmill_mill(model, "", &mill, &report, &error), &report));
    REFUSED(hooks, keep_none(bitmill_mill(model, "", &mill, &report, &error), &report));
    REFUSED(dequantize, keep_none(bitmill_dequantize(model, "", &dequantize, &report, &error), &report));
    REFUSED(hooks, keep_none(bitmill_inspect(model, &hooks, &report, &error), &report));
    CHECK(error.added == 7);
    remove_folder(folder);
    return failures != 0;
}
