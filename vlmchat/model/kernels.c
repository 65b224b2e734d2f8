/* Products of rows with weights: of one row as fast as memory gives them.

   `compiled.py` has this file compiled, and calls `product` and `in_blocks`. It is C with the
   vectors of GCC and Clang; only the two functions `dot…` ask for instructions by name.

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
    OUTPUTS = 64, /* of a block */
    LANES = BYTES / 4,
    VECTORS = OUTPUTS / LANES,
    AT_ONCE = BYTES == 64 ? 5 : 2, /* rows whose sums the registers hold */
    CHAIN = 256,                   /* products with int8 that are summed in whole numbers */
    PART = 32,                     /* inputs that are put in order at once; divides K */
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
INLINE ints dot(ints sum, shorts a, words b)
{
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    return sum + (ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}

/* The same for numbers in bfloat16, of which each lane has two. */
INLINE floats dot_bfloat16(floats sum, words a, words b)
{
#if defined(__AVX512BF16__)
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (floats)(a << 16) * (floats)(b << 16);
    return sum + (floats)(a & 0xFFFF0000) * (floats)(b & 0xFFFF0000);
#endif
}

/* Two neighbouring inputs of a row, in all lanes. */
INLINE words everywhere(const void *pair)
{
    uint32_t both;
    memcpy(&both, pair, sizeof both);
    return (words){0} + both;
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

/* sums (rows, 64) += x (rows, K) times a block of weights (K/2, 64, 2), all in bfloat16. */
INLINE void add_bfloat16(floats (*sums)[VECTORS], const int rows, const words *weight,
                         const int16_t *x, long inputs)
{
    for (long k = 0; k < inputs; k += 2, weight += VECTORS)
        for (int v = 0; v < VECTORS; v++)
            for (int r = 0; r < rows; r++)
                sums[r][v] = dot_bfloat16(sums[r][v], weight[v], everywhere(x + r * inputs + k));
}

/* A block of weights times some rows; `bits` and `rows` are known to the compiler. */
INLINE void multiply(const int bits, const int rows, const void *weight, const void *scale,
                     const int16_t *x, const float *worth, bfloat16 *out, long outputs,
                     long inputs, long group)
{
    floats sums[AT_ONCE][VECTORS] = {0};
    if (bits == 16)
        add_bfloat16(sums, rows, weight, x, inputs);
    else if (bits == 8)
        add_int8(sums, rows, weight, x, inputs);
    else
        add_int4(sums, rows, weight, scale, x, inputs, group);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) {
            if (bits != 16)
                sums[r][v] *= worth[r];
            if (bits == 8)
                sums[r][v] *= ((const floats *)scale)[v];
            put(out + r * outputs + v * LANES, sums[r][v]);
        }
}

/* out (R, N) = x (R, K) times weights of 16, 8 or 4 bits as `in_blocks` puts them, in bfloat16.
   int8 has scales (N), int4 (N/64, G, 64) in bfloat16. There is room for x in whole numbers, and
   for what they are worth (R). */
void product(long bits, const uint8_t *weight, const uint8_t *scale, const bfloat16 *x,
             bfloat16 *out, int16_t *room, float *worth, long rows, long outputs, long inputs,
             long group, long threads)
{
    long block_bytes = OUTPUTS * inputs * bits / 8;
    long scale_bytes = bits == 16 ? 0 : bits == 8 ? OUTPUTS * 4 : OUTPUTS * (inputs / group) * 2;
    const int16_t *numbers = bits == 16 ? (const int16_t *)x : room;
#pragma omp parallel num_threads(threads)
    {
        if (bits != 16) {
#pragma omp for
            for (long r = 0; r < rows; r++)
                worth[r] = in_whole_numbers(x + r * inputs, room + r * inputs, inputs);
        }
#pragma omp for
        for (long n = 0; n < outputs / OUTPUTS; n++)
            for (long r = 0, some; r < rows; r += some) {
                long left = rows - r, times = (left + AT_ONCE - 1) / AT_ONCE;
                some = (left + times - 1) / times; /* in parts of about the same size */
#define CASE(B, R)                                                                                 \
    if (R <= AT_ONCE && bits == B && some == R)                                                    \
        multiply(B, R, weight + n * block_bytes, scale + n * scale_bytes, numbers + r * inputs,    \
                 worth + r, out + r * outputs + n * OUTPUTS, outputs, inputs, group);
#define CASES(B) CASE(B, 1) CASE(B, 2) CASE(B, 3) CASE(B, 4) CASE(B, 5)
                CASES(16) CASES(8) CASES(4)
            }
    }
}

/* Some neighbours of a row, each pair of them as many bytes, to their places in a block. */
INLINE void deal_out(uint8_t *block, const uint8_t *row, const int bytes)
{
    for (long pair = 0; pair < PART / 2; pair++)
        memcpy(block + pair * OUTPUTS * bytes, row + pair * bytes, bytes);
}

/* The same for int4, whose rows have the number of their first half in the low bits. */
INLINE void deal_out_int4(uint8_t *block, const uint8_t *row, long from, long inputs)
{
    for (long k = from; k < from + PART; k += 8, block += OUTPUTS * 4) {
        uint32_t eight = 0;
        for (int i = 0; i < 8; i++) {
            long high = k + i - inputs / 2;
            uint32_t number = high < 0 ? row[k + i] & 15 : row[high] >> 4;
            eight |= (number ^ 8) << (i / 2 * 4 + i % 2 * 16); /* it was 8 too large */
        }
        memcpy(block, &eight, 4);
    }
}

/* Put weights (N, K) of 16 or 8 bits into blocks (N/64, K/2, 64, 2), or int4 as `vlmchat.quantize`
   has it into words (N/64, K/8, 64) of eight numbers, every second one in the upper half. */
void in_blocks(long bits, const uint8_t *weight, uint8_t *out, long outputs, long inputs,
               long threads)
{
    long row_bytes = inputs * bits / 8;
#pragma omp parallel for num_threads(threads)
    for (long n = 0; n < outputs; n += OUTPUTS)
        for (long k = 0; k < inputs; k += PART) {
            uint8_t *to = out + n * row_bytes + k * OUTPUTS * bits / 8;
            for (long o = 0; o < OUTPUTS; o++) {
                const uint8_t *row = weight + (n + o) * row_bytes;
                if (bits == 16)
                    deal_out(to + o * 4, row + k * 2, 4);
                else if (bits == 8)
                    deal_out(to + o * 2, row + k, 2);
                else
                    deal_out_int4(to + o * 4, row, k, inputs);
            }
        }
}
