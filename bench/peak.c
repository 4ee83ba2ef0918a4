/* Measures the FMA peak of one core: independent chains of vector multiply-adds.
 *
 * Ten chains cover four cycles of latency on two ports with some to spare and fit the sixteen
 * registers of AVX2 beside the two operands.  Built and called by bench/peak.py. */

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 10

typedef float vec __attribute__((vector_size(BYTES)));

/* Returns the flops of `rounds` rounds, and through `sink` a value that depends on all. */
double fma_flops(long rounds, float factor, float term, float *sink) {
    vec chain[CHAINS];
    const vec a = (vec){0} + factor;
    const vec b = (vec){0} + term;
    for (int i = 0; i < CHAINS; ++i) chain[i] = (vec){0} + (float)i;
    for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 10
        for (int i = 0; i < CHAINS; ++i) chain[i] = chain[i] * a + b;
    }
    vec sum = chain[0];
    for (int i = 1; i < CHAINS; ++i) sum += chain[i];
    *sink = sum[0];
    return 2.0 * CHAINS * (double)(BYTES / sizeof(float)) * (double)rounds;
}
