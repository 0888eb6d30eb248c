// What matrix products are computed in: fp32, pairs of 16-bit integers, or numbers split into two of bf16.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd.h"

namespace {

typedef std::vector<int> Parts;  // where parts of a product's depth end, in words

// What matrix products are made of. They work on multiples of ROWS rows. A Word holds PER_WORD neighbours along
// the depth; `put` writes a vector of values, the i-th of a row to its `place(i)`. A product begins a part of its depth with `begin`, and `end` leaves the
// sum so far. A layer's inputs are In, its result Out. Tiles: what a thread holds while it multiplies.
struct Fp32 {
    static constexpr bool TILES = true, INTEGERS = false, SPLIT = false;
    static constexpr int ROWS = 12;
    struct Tiles {};
    static constexpr long place(long vector) { return vector * LANES; }
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
    static constexpr bool TILES = true, INTEGERS = true, SPLIT = false;
    static constexpr int ROWS = 12, PER_WORD = 2;
    struct Tiles {};
    static constexpr long place(long vector) { return vector * (LANES / PER_WORD); }
    typedef Half In, Out;
    typedef int32_t Word;
    typedef ivec Sum;
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

// A number as the sum of two of bf16, high + low, which keep 16 bits of it. A product is high high + high low + low high, summed in fp32: what is left out
// is below 2^-16 of it. Three products in AMX tiles take less time than one in fp32 without. 32 values of a row are 16 words of their high parts, then 16
// of their low ones.
#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif
#if HAS_TILES || defined(PAIRS_WITHOUT_TILES)  // written out, slow, for tests on any CPU; elsewhere they would only take time to compile
#define HAS_PAIRS 1
#else
#define HAS_PAIRS 0
#endif
struct Bf16Pairs {
    static constexpr bool TILES = true, INTEGERS = false, SPLIT = true;
    static constexpr int ROWS = 16, BLOCK = 32, PER_WORD = 1;  // the depth comes in blocks
    typedef Half In, Out;
    typedef uint32_t Word;

    static constexpr long place(long vector) { return vector * LANES / BLOCK * BLOCK + vector * LANES % BLOCK / 2; }
    static void put(uint32_t* to, vec values) {
#if HAS_TILES
        const __m256bh high = _mm512_cvtneps_pbh(__m512(values));
        const __m256bh low = _mm512_cvtneps_pbh(__m512(values - vec(_mm512_cvtpbh_ps(high))));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), __m256i(high));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + BLOCK / 2), __m256i(low));
#else
        uint16_t* const parts = reinterpret_cast<uint16_t*>(to);
        for (int i = 0; i < LANES; i++) split(values[i], parts[i], parts[BLOCK + i]);
#endif
    }
    static uint16_t rounded(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        if (x != x) return uint16_t(bits >> 16 | 0x40);
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    static float value(uint16_t bf16) { return as_float(int32_t(uint32_t(bf16) << 16)); }
    static void split(float x, uint16_t& high, uint16_t& low) {
        high = rounded(x);
        low = rounded(x - value(high));
    }

    // All eight tiles are of 16 rows of 64 bytes.
    struct Tiles {
#if HAS_TILES
        Tiles() {
            struct alignas(64) {
                uint8_t palette = 1, start = 0, reserved[14] = {};
                uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
                uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
            } const shapes;
            _tile_loadconfig(&shapes);
        }
        Tiles(const Tiles&) = delete;
        ~Tiles() { _tile_release(); }
#else
        Tiles() {}
        ~Tiles() {}
#endif
    };
};

}  // namespace
