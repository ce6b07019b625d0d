/* The passes over the data for one type of NUMBER; included once a type by batch_norm_relu.c. OF(name) is the name for that type. */

/* Sums of (x - shift) and its square, by slice: sums (slices, 2, width). A shift near the mean keeps the digits. */
static void OF(measure)(const layout *at, const NUMBER *restrict x, const float *restrict shift, double *restrict sums) {
    const int64_t width = at->width;
#pragma omp parallel for schedule(static)
    for (int64_t slice = 0; slice < at->slices; slice++) {
        double *restrict total = sums + slice * 2 * width, *restrict squares = total + width;
        float block[2 * width + PAD];
        float *restrict sum = block, *restrict square = block + width + PAD;
        const int64_t end = at->rows * (slice + 1) / at->slices;
        memset(total, 0, 2 * width * sizeof(double));
        for (int64_t begin = at->rows * slice / at->slices; begin < end; begin += BLOCK) {
            memset(block, 0, sizeof block);
            for (int64_t row = begin; row < begin + BLOCK && row < end; row++) {
                const NUMBER *restrict from = x + row * width;
                for (int64_t i = 0; i < width; i++) {
                    const float value = OF(load)(from[i]) - shift[i];
                    sum[i] += value;
                    square[i] += value * value;
                }
            }
            for (int64_t i = 0; i < width; i++) total[i] += sum[i], squares[i] += square[i];
        }
    }
}

/* y = max(0, x * scale + offset) */
static void OF(apply)(const layout *at, const NUMBER *restrict x, const float *restrict scale, const float *restrict offset, NUMBER *restrict y) {
    const int64_t width = at->width;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < at->rows; row++) {
        const NUMBER *restrict from = x + row * width;
        NUMBER *restrict to = y + row * width;
        for (int64_t i = 0; i < width; i++) {
            const float value = OF(load)(from[i]) * scale[i] + offset[i];
            to[i] = OF(store)(value <= 0 ? 0 : value); /* a NaN stays one, as in torch */
        }
    }
}

/* Sums of the gradient behind the ReLU and of its product with (x - mean), by slice: sums (slices, 2, width). */
static void OF(measure_gradient)(const layout *at, const NUMBER *restrict gradient, const NUMBER *restrict x, const float *restrict scale,
                                 const float *restrict offset, const float *restrict mean, double *restrict sums) {
    const int64_t width = at->width;
#pragma omp parallel for schedule(static)
    for (int64_t slice = 0; slice < at->slices; slice++) {
        double *restrict total = sums + slice * 2 * width, *restrict products = total + width;
        float block[2 * width + PAD];
        float *restrict sum = block, *restrict product = block + width + PAD;
        const int64_t end = at->rows * (slice + 1) / at->slices;
        memset(total, 0, 2 * width * sizeof(double));
        for (int64_t begin = at->rows * slice / at->slices; begin < end; begin += BLOCK) {
            memset(block, 0, sizeof block);
            for (int64_t row = begin; row < begin + BLOCK && row < end; row++) {
                const NUMBER *restrict from = x + row * width, *restrict back = gradient + row * width;
                for (int64_t i = 0; i < width; i++) {
                    const float value = OF(load)(from[i]);
                    const float passed = value * scale[i] + offset[i] <= 0 ? 0 : OF(load)(back[i]);
                    sum[i] += passed;
                    product[i] += passed * (value - mean[i]);
                }
            }
            for (int64_t i = 0; i < width; i++) total[i] += sum[i], products[i] += product[i];
        }
    }
}

/* dx = scale * gradient behind the ReLU + x * slope + level */
static void OF(apply_gradient)(const layout *at, const NUMBER *restrict gradient, const NUMBER *restrict x, const float *restrict scale,
                               const float *restrict offset, const float *restrict slope, const float *restrict level, NUMBER *restrict dx) {
    const int64_t width = at->width;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < at->rows; row++) {
        const NUMBER *restrict from = x + row * width, *restrict back = gradient + row * width;
        NUMBER *restrict to = dx + row * width;
        for (int64_t i = 0; i < width; i++) {
            const float value = OF(load)(from[i]);
            const float passed = value * scale[i] + offset[i] <= 0 ? 0 : OF(load)(back[i]) * scale[i];
            to[i] = OF(store)(passed + (value * slope[i] + level[i]));
        }
    }
}

/* x, y (pixels, chs); the rest (chs,). Writes y, mean and rstd = 1 / sqrt(biased variance + eps), and moves the running statistics.
 * Returns 0, or 1 without memory. */
int OF(forward)(const NUMBER *x, int64_t pixels, int64_t chs, const float *weight, const float *bias, double eps, double momentum,
                float *running_mean, float *running_var, NUMBER *y, float *mean, float *rstd) {
    const layout at = layout_of(pixels, chs);
    double *sums = malloc((at.slices * 2 * at.width + 4 * chs) * sizeof(double));
    float *rows = malloc(2 * at.width * sizeof(float));
    if (!sums || !rows) return free(sums), free(rows), 1;
    double *total = sums + at.slices * 2 * at.width, *scale = total + 2 * chs, *offset = scale + chs;

    const int64_t samples = pixels < SAMPLES ? pixels : SAMPLES;
    memset(scale, 0, chs * sizeof(double));
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t c = 0; c < chs; c++) scale[c] += OF(load)(x[pixels * sample / samples * chs + c]) / samples;
    for (int64_t c = 0; c < chs; c++) scale[c] = (float)scale[c]; /* what is subtracted is added again exactly */
    spread(&at, scale, rows);
    OF(measure)(&at, x, rows, sums);
    collect(&at, sums, total);
    for (int64_t c = 0; c < chs; c++) {
        const double from_shift = total[c] / pixels, average = scale[c] + from_shift;
        double variance = total[chs + c] / pixels - from_shift * from_shift;
        variance = variance < 0 ? 0 : variance; /* rounding, of a constant channel */
        mean[c] = average;
        rstd[c] = 1 / sqrt(variance + eps);
        running_mean[c] += momentum * (average - running_mean[c]);
        running_var[c] += momentum * (variance * pixels / (pixels - 1) - running_var[c]);
        scale[c] = (double)weight[c] * rstd[c];
        offset[c] = bias[c] - mean[c] * scale[c];
    }
    spread(&at, scale, rows);
    spread(&at, offset, rows + at.width);
    OF(apply)(&at, x, rows, rows + at.width, y);
    return free(sums), free(rows), 0;
}

/* gradient, x, dx (pixels, chs); the rest (chs,), mean and rstd as forward wrote them. Writes dx, dweight, dbias.
 * Returns 0, or 1 without memory. */
int OF(backward)(const NUMBER *gradient, const NUMBER *x, int64_t pixels, int64_t chs, const float *weight, const float *bias,
                 const float *mean, const float *rstd, NUMBER *dx, float *dweight, float *dbias) {
    const layout at = layout_of(pixels, chs);
    const int64_t width = at.width;
    double *sums = malloc((at.slices * 2 * width + 5 * chs) * sizeof(double));
    float *rows = malloc(4 * width * sizeof(float));
    if (!sums || !rows) return free(sums), free(rows), 1;
    double *total = sums + at.slices * 2 * width, *scale = total + 2 * chs, *offset = scale + chs, *centre = offset + chs;

    for (int64_t c = 0; c < chs; c++) {
        scale[c] = (double)weight[c] * rstd[c];
        offset[c] = bias[c] - mean[c] * scale[c];
        centre[c] = mean[c];
    }
    spread(&at, scale, rows);
    spread(&at, offset, rows + width);
    spread(&at, centre, rows + 2 * width);
    OF(measure_gradient)(&at, gradient, x, rows, rows + width, rows + 2 * width, sums);
    collect(&at, sums, total);
    for (int64_t c = 0; c < chs; c++) {
        const double slope = -scale[c] * rstd[c] * rstd[c] * total[chs + c] / pixels;
        dbias[c] = total[c];
        dweight[c] = total[chs + c] * rstd[c];
        offset[c] = -scale[c] * total[c] / pixels - mean[c] * slope;
        centre[c] = slope;
    }
    spread(&at, centre, rows + 2 * width);
    spread(&at, offset, rows + 3 * width);
    OF(apply_gradient)(&at, gradient, x, rows, rows + width, rows + 2 * width, rows + 3 * width, dx);
    return free(sums), free(rows), 0;
}
