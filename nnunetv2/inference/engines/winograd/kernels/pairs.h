// Matrix products of numbers that are split into two of bf16 (Bf16Pairs), in AMX tiles.

#pragma once

#include "numbers.h"

namespace {

// The right matrix, depth x n: blocks of 16 columns, in them blocks of 32 values of their depth, in them high parts and then low ones, each 16 lines of two
// values of 16 columns, as a tile wants them.
constexpr int TILE = Bf16Pairs::ROWS, TILE_WORDS = TILE * TILE, TILE_DEPTH = Bf16Pairs::BLOCK;

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
// Tiles 0 to 3 are R x C sums, 4 and 5 are of the left matrix, 6 and 7 of the right one.
template <int R, int C> inline void load_sums(const float* c, int n) {
    const long line = long(n) * sizeof(float);
    _tile_loadd(0, c, line);
    if (C > 1) _tile_loadd(1, c + TILE, line);
    if (R > 1) _tile_loadd(2, c + TILE * n, line);
    if (R > 1 && C > 1) _tile_loadd(3, c + TILE * n + TILE, line);
}
template <int R, int C> inline void store_sums(float* c, int n) {
    const long line = long(n) * sizeof(float);
    _tile_stored(0, c, line);
    if (C > 1) _tile_stored(1, c + TILE, line);
    if (R > 1) _tile_stored(2, c + TILE * n, line);
    if (R > 1 && C > 1) _tile_stored(3, c + TILE * n + TILE, line);
}
template <int R> inline void load_left(const uint32_t* a, long depth) {
    _tile_loadd(4, a, depth * sizeof(uint32_t));
    if (R > 1) _tile_loadd(5, a + TILE * depth, depth * sizeof(uint32_t));
}
template <int C> inline void load_right(const uint32_t* b, long depth) {
    _tile_loadd(6, b, TILE * sizeof(uint32_t));
    if (C > 1) _tile_loadd(7, b + TILE * depth, TILE * sizeof(uint32_t));
}
template <int R, int C> inline void add_products() {
    _tile_dpbf16ps(0, 4, 6);
    if (C > 1) _tile_dpbf16ps(1, 4, 7);
    if (R > 1) _tile_dpbf16ps(2, 5, 6);
    if (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
}

// R x C tiles of the result, from their first voxels on; `part` words of the depth. What is loaded of the right matrix serves R tiles, of the left one C.
template <int R, int C>
inline void multiply_tiles(const uint32_t* a, long depth, const uint32_t* b, float* c, int n, int part, bool first) {
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else
        load_sums<R, C>(c, n);
    for (int k = 0; k < part; k += TILE_DEPTH) {
        const uint32_t *const left = a + k, *const right = b + long(k) * TILE;  // high parts; the low ones follow
        load_left<R>(left, depth);
        load_right<C>(right, depth);
        add_products<R, C>();
        load_right<C>(right + TILE_WORDS, depth);
        add_products<R, C>();
        load_left<R>(left + TILE, depth);
        load_right<C>(right, depth);
        add_products<R, C>();
    }
    store_sums<R, C>(c, n);
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
