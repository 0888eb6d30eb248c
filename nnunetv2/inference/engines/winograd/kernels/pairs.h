// Matrix products of numbers that are split into two of bf16 (Bf16Pairs), in AMX tiles.

#pragma once

#include "numbers.h"

namespace {

// The right matrix, depth x n: blocks of 16 columns, in them blocks of 32 values of their depth, in them high parts and then low ones, each 16 lines of two
// values of 16 columns, as a tile wants them.
constexpr int TILE = 16, TILE_WORDS = TILE * TILE, TILE_DEPTH = 2 * TILE;

inline uint16_t* pair_of(uint32_t* matrix, int row, int column, int depth) {
    uint32_t* const block = matrix + long(column / TILE) * TILE * depth + long(row / TILE_DEPTH) * 2 * TILE_WORDS;
    return reinterpret_cast<uint16_t*>(block + row % TILE_DEPTH / 2 * TILE + column % TILE) + row % 2;
}

void put_columns(const float* columns, int first, int depth, int, uint32_t* matrix, float*, float*) {
    for (int k = 0; k < depth; k++)
        for (int lane = 0; lane < LANES; lane++) {
            uint16_t* const high = pair_of(matrix, k, first + lane, depth);
            Bf16Pairs::split(columns[k * LANES + lane], high[0], high[2 * TILE_WORDS]);
        }
}

#if HAS_TILES
// R x C tiles of the result, from their first voxels on; `part` words of the depth. What is loaded of the right matrix serves R tiles, of the left one C.
template <int R, int C>
inline void multiply_tiles(const uint32_t* a, long depth, const uint32_t* b, float* c, int n, int part, bool first) {
    const long line = long(n) * sizeof(float), row = depth * sizeof(uint32_t), right = TILE * depth, low = TILE;
    if (first) {
        _tile_zero(0);
        if (C > 1) _tile_zero(1);
        if (R > 1) _tile_zero(2);
        if (R > 1 && C > 1) _tile_zero(3);
    } else {
        _tile_loadd(0, c, line);
        if (C > 1) _tile_loadd(1, c + TILE, line);
        if (R > 1) _tile_loadd(2, c + TILE * n, line);
        if (R > 1 && C > 1) _tile_loadd(3, c + TILE * n + TILE, line);
    }
    for (int k = 0; k < part; k += TILE_DEPTH) {
        const uint32_t *const a0 = a + k, *const a1 = a0 + TILE * depth, *const b0 = b + long(k) * TILE, *const b1 = b0 + right;
        _tile_loadd(4, a0, row);  // high
        _tile_loadd(6, b0, TILE * sizeof(uint32_t));
        _tile_dpbf16ps(0, 4, 6);
        if (C > 1) _tile_loadd(7, b1, TILE * sizeof(uint32_t));
        if (C > 1) _tile_dpbf16ps(1, 4, 7);
        if (R > 1) _tile_loadd(5, a1, row);
        if (R > 1) _tile_dpbf16ps(2, 5, 6);
        if (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, b0 + TILE_WORDS, TILE * sizeof(uint32_t));  // high low
        _tile_dpbf16ps(0, 4, 6);
        if (C > 1) _tile_loadd(7, b1 + TILE_WORDS, TILE * sizeof(uint32_t));
        if (C > 1) _tile_dpbf16ps(1, 4, 7);
        if (R > 1) _tile_dpbf16ps(2, 5, 6);
        if (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, b0, TILE * sizeof(uint32_t));  // low high
        _tile_loadd(4, a0 + low, row);
        _tile_dpbf16ps(0, 4, 6);
        if (C > 1) _tile_loadd(7, b1, TILE * sizeof(uint32_t));
        if (C > 1) _tile_dpbf16ps(1, 4, 7);
        if (R > 1) _tile_loadd(5, a1 + low, row);
        if (R > 1) _tile_dpbf16ps(2, 5, 6);
        if (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, line);
    if (C > 1) _tile_stored(1, c + TILE, line);
    if (R > 1) _tile_stored(2, c + TILE * n, line);
    if (R > 1 && C > 1) _tile_stored(3, c + TILE * n + TILE, line);
}

template <int C> void multiply_columns(const uint32_t* a, const uint32_t* b, float* c, int rows, int depth, int n, int part, bool first) {
    int row = 0;
    for (; row + 2 * TILE <= rows; row += 2 * TILE) multiply_tiles<2, C>(a + long(row) * depth, depth, b, c + long(row) * n, n, part, first);
    if (row < rows) multiply_tiles<1, C>(a + long(row) * depth, depth, b, c + long(row) * n, n, part, first);
}

// As `multiply`; the thread holds Bf16Pairs::Tiles.
void multiply_pairs(const uint32_t* a, const uint32_t* b, float* c, int rows, int depth, int n, const Parts& ends) {
    int k = 0;
    for (const int end : ends) {
        const uint32_t* const right = b + long(k) * TILE;
        int column = 0;
        for (; column + 2 * TILE <= n; column += 2 * TILE)
            multiply_columns<2>(a + k, right + long(column) * depth, c + column, rows, depth, n, end - k, k == 0);
        if (column < n) multiply_columns<1>(a + k, right + long(column) * depth, c + column, rows, depth, n, end - k, k == 0);
        k = end;
    }
}
#else
void multiply_pairs(const uint32_t* a, const uint32_t* b, float* c, int rows, int depth, int n, const Parts&) {
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < n; column++) {
            float sum = 0;
            for (int k = 0; k < depth; k++) {
                const uint16_t* const left = reinterpret_cast<const uint16_t*>(a + long(row) * depth + k / TILE_DEPTH * TILE_DEPTH) + k % TILE_DEPTH;
                const uint16_t* const right = pair_of(const_cast<uint32_t*>(b), k, column, depth);
                const float high = Bf16Pairs::value(left[0]), low = Bf16Pairs::value(left[TILE_DEPTH]), other = Bf16Pairs::value(right[0]);
                sum += high * other + high * Bf16Pairs::value(right[2 * TILE_WORDS]) + low * other;
            }
            c[long(row) * n + column] = sum;
        }
}
#endif

}  // namespace
