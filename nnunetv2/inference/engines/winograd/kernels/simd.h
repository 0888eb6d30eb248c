// Vectors of floats and of 32-bit integers, as many lanes as the CPU has, and what activations are stored as.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, PANEL = 4;  // registers hold 6 rows x 4 vectors of sums, or 12 x 2
#elif defined(__AVX__)
constexpr int LANES = 8, PANEL = 2;
#else
constexpr int LANES = 4, PANEL = 2;
#endif

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float loose_vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
inline vec load(const float* p) { return *reinterpret_cast<const loose_vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<loose_vec*>(p) = v; }
inline float sum_of_lanes(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(__m512(v));
#else
    float result = 0;
    for (int i = 0; i < LANES; i++) result += v[i];
    return result;
#endif
}
inline vec broadcast(float x) { return x - vec{}; }  // x + 0 would not do: the compiler keeps that addition, for x = -0

// What activations are stored as beside 16-bit integers: the fewer bytes, the less time goes into waiting for them.
#if defined(__AVX512F__)
struct Half { uint16_t bits; };
inline vec load(const Half* p) { return vec(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); }
inline void store(Half* p, vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT)); }
#else
typedef float Half;
#endif

typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef int32_t loose_ivec __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4), may_alias));
inline ivec load(const int32_t* p) { return *reinterpret_cast<const loose_ivec*>(p); }
inline void store(int32_t* p, ivec v) { *reinterpret_cast<loose_ivec*>(p) = v; }
inline ivec broadcast(int32_t x) { return x - ivec{}; }

// Bits of |x|. They are in the order of the numbers, NaN last, so that a maximum does not lose it.
inline ivec magnitude(vec x) { return ivec(x) & 0x7fffffff; }
inline ivec larger(ivec a, ivec b) { return a > b ? a : b; }
inline float as_float(int32_t bits) {
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}
inline float largest(ivec magnitudes) {
    int32_t result = 0;
    for (int i = 0; i < LANES; i++) result = std::max(result, magnitudes[i]);
    return as_float(result);
}
inline float at_least_a_trifle(float x) { return x < 1e-30f ? 1e-30f : x; }  // what is divided by it stays finite; NaN stays NaN

}  // namespace
