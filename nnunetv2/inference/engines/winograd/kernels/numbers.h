// What matrix products are computed in: fp32, or pairs of 16-bit integers.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simd.h"

namespace {

// What matrix products are made of. A Word holds PER_WORD neighbours along the depth of a product; `put` writes a vector of values. A product begins a
// part of its depth with `begin`, and `end` leaves the sum so far. A layer's inputs are In, its result Out.
struct Fp32 {
    static constexpr bool TILES = true, INTEGERS = false;
    typedef float In, Out;
    typedef float Word;
    typedef vec Sum;
    static constexpr int PER_WORD = 1;
    static vec dot(vec sum, vec left, vec right) { return sum + left * right; }
    static void put(float* to, vec values) { store(to, values); }
    static vec begin(const float* sums, bool first) { return first ? vec{} : load(sums); }
    static void end(float* sums, vec sum, bool) { store(sums, sum); }
};

struct Fp32ToHalf : Fp32 {  // the layer of the image
    static constexpr bool TILES = false;
    typedef Half Out;
};

struct Int16 {
    static constexpr bool TILES = true, INTEGERS = true;
    typedef Half In, Out;
    typedef int32_t Word;
    typedef ivec Sum;
    static constexpr int PER_WORD = 2;
    // Inputs take 16 bits, filters 14, less where so many products are added that the sums of noise would leave 32 bits: then few have to be cut.
    static constexpr float LARGEST = 32767;
    static constexpr float ROUND = 3 << 22;  // of this size floats are integers: a sum with it is rounded, and its bits end in those of the integer
    static ivec rounded(vec values) { return ivec(values + ROUND); }  // the lower 16 bits of each
    static float largest_filter(int depth) { return std::min(8191.f, std::floor((1 << 17) / std::sqrt(float(depth)))); }

    // Both numbers of each word. Under the sanitizers it is written out, so that they see a sum that leaves 32 bits.
    static ivec dot(ivec sum, ivec left, ivec right) {
#if defined(__SANITIZE_ADDRESS__)
        return sum + (left << 16 >> 16) * (right << 16 >> 16) + (left >> 16) * (right >> 16);
#elif defined(__AVX512VNNI__)
        return ivec(_mm512_dpwssd_epi32(__m512i(sum), __m512i(left), __m512i(right)));
#elif defined(__AVX512BW__)
        return sum + ivec(_mm512_madd_epi16(__m512i(left), __m512i(right)));
#elif defined(__AVX2__) && !defined(__AVX512F__)
        return sum + ivec(_mm256_madd_epi16(__m256i(left), __m256i(right)));
#elif defined(__SSE2__) && !defined(__AVX__)
        return sum + ivec(_mm_madd_epi16(__m128i(left), __m128i(right)));
#else
        return sum + (left << 16 >> 16) * (right << 16 >> 16) + (left >> 16) * (right >> 16);
#endif
    }
    static void put(int32_t* to, vec values) {
#if defined(__AVX512F__)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(__m512(values))));
#else
        typedef int16_t narrow __attribute__((vector_size(LANES * sizeof(int16_t))));
        vec rounded = values + ROUND;
        rounded = rounded < ROUND + LARGEST ? rounded : ROUND + LARGEST - vec{};
        rounded = rounded > ROUND - LARGEST ? rounded : ROUND - LARGEST - vec{};
        const narrow result = __builtin_convertvector(ivec(rounded), narrow);
        std::memcpy(to, &result, sizeof result);
#endif
    }
    static ivec begin(const float*, bool) { return ivec{}; }
    static void end(float* sums, ivec sum, bool first) {
        const vec value = __builtin_convertvector(sum, vec);
        store(sums, first ? value : load(sums) + value);
    }
};

}  // namespace
