/* BatchNorm and ReLU in one operation, forward and backward, for channels-last data on a CPU.
 *
 * Both are bound by memory, so what counts is how often the activations are read and written: forward 3 times (torch: 5),
 * backward 5 times (torch: 8), because the ReLU's mask is recomputed from the input instead of being stored and read.
 *
 * Sums do not depend on the number of threads: the rows are cut into slices by the shape alone, each slice is added up in
 * float32 by blocks and in float64 across blocks, and the slices are added in order.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64        /* rows added in float32 before the sum goes on in float64 */
#define MAX_SLICES 64   /* the most threads that can share a sum */
#define WIDE 512        /* narrow rows are taken several at once, up to so many numbers, to fill the vector registers */
#define SAMPLES 64      /* pixels whose mean is subtracted from all others before they are added up: one outlier among them does no harm */
#define PAD 32          /* between two accumulators, so that they do not fall on the same 4096-byte offset: stores would stall loads */

/* One tensor seen as `rows` rows of `width` numbers: `repeat` pixels of `chs` channels each. */
typedef struct {
    int64_t rows, width, chs, repeat, slices;
} layout;

static layout layout_of(int64_t pixels, int64_t chs) {
    int64_t repeat = 1;
    while (chs * repeat * 2 <= WIDE && pixels % (repeat * 2) == 0) repeat *= 2;
    int64_t rows = pixels / repeat, slices = rows / BLOCK;
    slices = slices < 1 ? 1 : slices > MAX_SLICES ? MAX_SLICES : slices;
    return (layout){rows, chs * repeat, chs, repeat, slices};
}

/* Repeat per-channel numbers over a whole row. */
static void spread(const layout *at, const double *values, float *row) {
    for (int64_t i = 0; i < at->width; i++) row[i] = (float)values[i % at->chs];
}

/* Add up both sums of all slices and of all pixels of a row: out (2, chs) from sums (slices, 2, width). */
static void collect(const layout *at, const double *sums, double *out) {
    memset(out, 0, 2 * at->chs * sizeof(double));
    for (int64_t slice = 0; slice < at->slices; slice++)
        for (int64_t which = 0; which < 2; which++)
            for (int64_t i = 0; i < at->width; i++)
                out[which * at->chs + i % at->chs] += sums[(slice * 2 + which) * at->width + i];
}

/* bfloat16 is the upper half of a float32; stored rounded to nearest even, NaN kept. */
static inline float load_bfloat16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline uint16_t store_bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return number != number ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float load_float32(float value) { return value; }
static inline float store_float32(float number) { return number; }

#define NUMBER uint16_t
#define OF(name) name##_bfloat16
#include "batch_norm_relu.h"
#undef NUMBER
#undef OF

#define NUMBER float
#define OF(name) name##_float32
#include "batch_norm_relu.h"
