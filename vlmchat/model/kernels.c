/* Products of a few rows with weights as they lie in memory, as fast as memory gives them.

   `compiled.py` has this file compiled and calls what stands at its end. It is C with the vectors
   of GCC and Clang; only `dot` asks for an instruction by name.

   Axes: R rows (tokens), N outputs, K inputs, G groups of inputs that share a scale. Weights lie in
   blocks of 64 outputs. A vector has one lane for each of several outputs: no sum is ever taken
   across it, and the weights are read one after another. */

#if defined(__AVX512BW__)
#define BYTES 64 /* of a vector */
#elif defined(__AVX2__)
#define BYTES 32
#else
#error this processor has neither AVX-512 nor AVX2
#endif

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    OUTPUTS = 64,              /* of a block */
    LANES = BYTES / 4,
    VECTORS = OUTPUTS / LANES,
    AT_ONCE = BYTES / 16,      /* rows whose sums the registers hold */
    CHAIN = 256,               /* products with int8 that are summed in whole numbers */
};

typedef uint16_t bfloat16;
typedef int8_t bytes __attribute__((vector_size(BYTES / 2), aligned(1)));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2), aligned(2)));
typedef int16_t shorts __attribute__((vector_size(BYTES), aligned(2)));
typedef int32_t ints __attribute__((vector_size(BYTES), aligned(4)));
typedef uint32_t words __attribute__((vector_size(BYTES), aligned(4)));
typedef float floats __attribute__((vector_size(BYTES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

/* sum + a * b, where the products of two neighbours go to the same lane. */
INLINE ints dot(ints sum, shorts a, shorts b)
{
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    return sum + (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}

/* Two neighbouring inputs of a row, in all lanes. */
INLINE shorts everywhere(const int16_t *pair)
{
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return (shorts)((ints){0} + both);
}

/* A bfloat16 is the upper half of a float. */
INLINE float widened(bfloat16 number)
{
    uint32_t bits = (uint32_t)number << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

INLINE floats all_widened(const bfloat16 *numbers)
{
    return (floats)(__builtin_convertvector(*(const halves *)numbers, words) << 16);
}

/* Write the nearest bfloat16, the even one of two. */
INLINE void put(bfloat16 *out, floats numbers)
{
    words bits = (words)numbers;
    bits += 0x7FFF + (bits >> 16 & 1);
    *(halves *)out = __builtin_convertvector(bits >> 16, halves);
}

/* A row (K) in whole numbers of 16 bits. Returns what one of them is worth, which is not a number
   where x holds something that is none. */
static float in_whole_numbers(const bfloat16 *x, int16_t *out, long inputs)
{
    bfloat16 most = 0;
    for (long k = 0; k < inputs; k++) {
        bfloat16 size = x[k] & 0x7FFF;
        most = size > most ? size : most;
    }
    float largest = widened(most);
    if (largest < 0x1p-100f)
        largest = 0x1p-100f;
    float factor = 32767 / largest;
    for (long k = 0; k < inputs; k++)
        out[k] = (int16_t)rintf(widened(x[k]) * factor);
    return largest / 32767;
}

/* sums (rows, 64) += x (rows, K) times a block of int8 weights (K/2, 64, 2). */
INLINE void add_int8(floats (*sums)[VECTORS], const int rows, const int8_t *q, const int16_t *x,
                     long inputs)
{
    for (long from = 0; from < inputs; from += CHAIN) {
        ints some[AT_ONCE][VECTORS] = {0};
        long end = from + CHAIN < inputs ? from + CHAIN : inputs;
        for (long k = from; k < end; k += 2)
            for (int v = 0; v < VECTORS; v++) {
                const bytes *two = (const bytes *)(q + k * OUTPUTS + v * BYTES / 2);
                shorts weight = __builtin_convertvector(*two, shorts);
                for (int r = 0; r < rows; r++)
                    some[r][v] = dot(some[r][v], weight, everywhere(x + r * inputs + k));
            }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                sums[r][v] += __builtin_convertvector(some[r][v], floats);
    }
}

/* sums (rows, 64) += x (rows, K) times a block of int4 weights (K/8, 64, 8) with scales (G, 64). */
INLINE void add_int4(floats (*sums)[VECTORS], const int rows, const uint8_t *q,
                     const bfloat16 *scale, const int16_t *x, long inputs, long group)
{
    for (long from = 0; from < inputs; from += group, scale += OUTPUTS) {
        ints some[AT_ONCE][VECTORS] = {0};
        for (long k = from; k < from + group; k += 8)
            for (int v = 0; v < VECTORS; v++) {
                shorts eight = *(const shorts *)(q + k * OUTPUTS / 2 + v * BYTES);
                shorts first = eight << 12 >> 12, second = eight << 8 >> 12;
                shorts third = eight << 4 >> 12, fourth = eight >> 12;
                for (int r = 0; r < rows; r++) {
                    const int16_t *at = x + r * inputs + k;
                    ints sum = dot(some[r][v], first, everywhere(at));
                    sum = dot(sum, second, everywhere(at + 2));
                    sum = dot(sum, third, everywhere(at + 4));
                    some[r][v] = dot(sum, fourth, everywhere(at + 6));
                }
            }
        for (int v = 0; v < VECTORS; v++) {
            floats step = all_widened(scale + v * LANES);
            for (int r = 0; r < rows; r++)
                sums[r][v] += __builtin_convertvector(some[r][v], floats) * step;
        }
    }
}

/* Some rows, whose number the compiler knows, times one block of weights. */
INLINE void multiply(const int bits, const int rows, const void *q, const void *scale,
                     const int16_t *x, const float *worth, bfloat16 *out, long outputs,
                     long inputs, long group)
{
    floats sums[AT_ONCE][VECTORS] = {0};
    if (bits == 8)
        add_int8(sums, rows, q, x, inputs);
    else
        add_int4(sums, rows, q, scale, x, inputs, group);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) {
            floats sum = sums[r][v] * worth[r];
            if (bits == 8)
                sum *= ((const floats *)scale)[v];
            put(out + r * outputs + v * LANES, sum);
        }
}

/* out (R, N) = x (R, K) times weights in 8 or 4 bits, as `in_blocks` puts them, with scales (N), or
   (N/64, G, 64) in bfloat16. There is room for x in whole numbers, and for what they are worth. */
void quantized_product(long bits, const uint8_t *q, const uint8_t *scale, const bfloat16 *x,
                       bfloat16 *out, int16_t *room, float *worth, long rows, long outputs,
                       long inputs, long group, long threads)
{
    long q_bytes = OUTPUTS * inputs * bits / 8; /* of a block */
    long scale_bytes = bits == 8 ? OUTPUTS * 4 : OUTPUTS * (inputs / group) * 2;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (long r = 0; r < rows; r++)
            worth[r] = in_whole_numbers(x + r * inputs, room + r * inputs, inputs);
#pragma omp for
        for (long n = 0; n < outputs / OUTPUTS; n++)
            for (long r = 0; r < rows; r += AT_ONCE) {
                long some = rows - r < AT_ONCE ? rows - r : AT_ONCE;
#define CASE(B, R)                                                                                 \
    if (bits == B && some == R)                                                                    \
        multiply(B, R < AT_ONCE ? R : AT_ONCE, q + n * q_bytes, scale + n * scale_bytes,           \
                 room + r * inputs, worth + r, out + r * outputs + n * OUTPUTS, outputs, inputs,   \
                 group);
                CASE(8, 1) CASE(8, 2) CASE(8, 3) CASE(8, 4)
                CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(4, 4)
            }
    }
}

/* out (N) = x (K) times weights (N/64, K/2, 64, 2), all in bfloat16. */
void bfloat16_product(const uint32_t *weight, const bfloat16 *x, bfloat16 *out, long outputs,
                      long inputs, long threads)
{
#pragma omp parallel for num_threads(threads)
    for (long n = 0; n < outputs / OUTPUTS; n++) {
        floats sums[VECTORS] = {0};
        for (long k = 0; k < inputs; k += 2) {
            const words *pairs = (const words *)(weight + (n * inputs + k) / 2 * OUTPUTS);
            for (int v = 0; v < VECTORS; v++) {
                sums[v] += (floats)(pairs[v] << 16) * widened(x[k]);
                sums[v] += (floats)(pairs[v] & 0xFFFF0000) * widened(x[k + 1]);
            }
        }
        for (int v = 0; v < VECTORS; v++)
            put(out + n * OUTPUTS + v * LANES, sums[v]);
    }
}

/* Put weights (N, K) as `vlmchat.quantize` holds them into blocks: (N/64, K/2, 64, 2) bytes, or
   (N/64, K/8, 64) words of eight numbers, where every second one is in the upper half. */
void in_blocks(long bits, const uint8_t *q, uint8_t *out, long outputs, long inputs, long threads)
{
#pragma omp parallel for num_threads(threads)
    for (long n = 0; n < outputs; n++) {
        const uint8_t *row = q + n * inputs * bits / 8;
        uint8_t *block = out + n / OUTPUTS * OUTPUTS * inputs * bits / 8;
        for (long k = 0; bits == 8 && k < inputs; k += 2)
            memcpy(block + k * OUTPUTS + n % OUTPUTS * 2, row + k, 2);
        for (long k = 0; bits == 4 && k < inputs; k += 8) {
            uint32_t eight = 0;
            for (int i = 0; i < 8; i++) {
                long high = k + i - inputs / 2;
                uint32_t number = high < 0 ? row[k + i] & 15 : row[high] >> 4;
                eight |= (number ^ 8) << (i / 2 * 4 + i % 2 * 16); /* was 8 too large */
            }
            memcpy(block + k * OUTPUTS / 2 + n % OUTPUTS * 4, &eight, 4);
        }
    }
}
