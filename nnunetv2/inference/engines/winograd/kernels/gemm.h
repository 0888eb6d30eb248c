// Matrix products, and how filters are packed for them.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "numbers.h"
#include "pairs.h"

namespace {

// Matrix products: c (rows x n) = a (rows x depth) * b, whose columns lie in panels of `panel(n)` vectors, each panel depth x width. Depths are
// counted in words.

int panel(int n) {
    int vectors = PANEL;
    while (n % (vectors * LANES)) vectors /= 2;
    return vectors;
}

constexpr int DEPTH = 256;  // of a product at a time: so deep a panel stays in the second-level cache while all rows pass

Parts parts_of_fp32(int depth) {
    Parts ends;
    for (int end = DEPTH; end < depth; end += DEPTH) ends.push_back(end);
    ends.push_back(depth);
    return ends;
}

// Euclidean norms of both sides of integer products are kept for blocks of their depth.
constexpr int BLOCK_WORDS = 16, BLOCK_VALUES = BLOCK_WORDS * Int16::PER_WORD, BLOCK_VECTORS = BLOCK_VALUES / LANES;
inline int blocks_of(long values) { return int((values + BLOCK_VALUES - 1) / BLOCK_VALUES); }

// Parts of whole blocks, no deeper than DEPTH, in none of which a sum can leave 32 bits: it is no larger than the blocks' products of norms together.
// A block that is too large by itself is cut into words of which even the largest fit. `left` and `right`: norms of the blocks.
void parts_of_int16(const float* left, const float* right, int depth, Parts& ends) {
    constexpr float MOST = 0.98f * 2147483648.f;  // less what norms in fp32 may be off
    const int certain = std::max(1, int(MOST / (32768.f * Int16::largest_filter(depth * Int16::PER_WORD) * Int16::PER_WORD)));
    ends.clear();
    float sum = 0;
    int begin = 0;
    for (int block = 0, first = 0; first < depth; block++, first += BLOCK_WORDS) {
        const int last = std::min(depth, first + BLOCK_WORDS);
        const float most = left[block] * right[block];
        const bool too_large = !(most <= MOST);
        if (first > begin && (too_large || sum + most > MOST || last - begin > DEPTH)) {
            ends.push_back(begin = first);
            sum = 0;
        }
        sum += most;
        if (too_large) {
            for (int end = first + certain; end < last; end += certain) ends.push_back(end);
            ends.push_back(begin = last);
            sum = 0;
        }
    }
    if (begin < depth) ends.push_back(depth);
}

template <class Number, int M, int V>
inline void multiply_block(const typename Number::Word* __restrict a, long depth, const typename Number::Word* __restrict b, float* __restrict c, int n, int part,
                           bool first) {
    typename Number::Sum sums[M][V];
#pragma GCC unroll 12
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sums[i][j] = Number::begin(c + long(i) * n + j * LANES, first);
    for (int k = 0; k < part; k++) {
        typename Number::Sum columns[V];
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) columns[j] = load(b + (k * V + j) * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < M; i++) {
            const typename Number::Sum left = broadcast(a[i * depth + k]);
#pragma GCC unroll 4
            for (int j = 0; j < V; j++) sums[i][j] = Number::dot(sums[i][j], left, columns[j]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) Number::end(c + long(i) * n + j * LANES, sums[i][j], first);
}

template <class Number, int M, int V>
void multiply_panels(const typename Number::Word* a, const typename Number::Word* b, float* c, int rows, int depth, int n, const Parts& ends) {
    int k = 0;
    for (const int end : ends) {
        for (int first = 0; first < n; first += V * LANES)
            for (int row = 0; row < rows; row += M)
                multiply_block<Number, M, V>(a + long(row) * depth + k, depth, b + long(first) * depth + long(k) * V * LANES, c + long(row) * n + first, n,
                                             end - k, k == 0);
        k = end;
    }
}

template <class Number>
void multiply(const typename Number::Word* a, const typename Number::Word* b, float* c, int rows, int depth, int n, const Parts& ends) {
    if constexpr (Number::SPLIT) {
        multiply_pairs(a, b, c, rows, depth, n, ends);
    } else {
        constexpr int REGISTERS = PANEL == 4 ? 24 : 12;
        switch (panel(n)) {
            case 4: return multiply_panels<Number, REGISTERS / 4, 4>(a, b, c, rows, depth, n, ends);
            case 2: return multiply_panels<Number, REGISTERS / 2, 2>(a, b, c, rows, depth, n, ends);
            default: return multiply_panels<Number, 12, 1>(a, b, c, rows, depth, n, ends);
        }
    }
}

// As many rows as a product of at least so many has.
template <class Number> int full_rows(int rows) { return (rows + Number::ROWS - 1) / Number::ROWS * Number::ROWS; }

// The rows that fill a product's last ones up: zeros instead of what was there before, of which no bound is known.
template <class Number> void clear_rows_after(typename Number::Word* left, int rows, long depth) {
    std::fill_n(left + rows * depth, (full_rows<Number>(rows) - rows) * depth, typename Number::Word{});
}

// Where column `column` of row `row` of a depth x n matrix lies among its panels.
long in_panels(int row, int column, int depth, int n) {
    const int width = panel(n) * LANES;
    return long(column / width) * width * depth + long(row) * width + column % width;
}

// Numbers of one vector of columns, from `first` on, of a matrix `depth` values deep, into its panels. Int16 leaves what undoes its scaling in `scales`,
// and the largest norm of a column in each block in `norms`.
void put_columns(const float* columns, int first, int depth, int n, float* matrix, float*, float*) {
    float* const to = matrix + in_panels(0, first, depth, n);
    const int width = panel(n) * LANES;
    for (int k = 0; k < depth; k++) store(to + long(k) * width, load(columns + k * LANES));
}

void put_columns(const float* columns, int first, int depth, int n, int32_t* matrix, float* scales, float* norms) {
    ivec largest = magnitude(broadcast(1e-30f));  // an empty filter is to stay finite
    for (int k = 0; k < depth; k++) largest = larger(largest, magnitude(load(columns + k * LANES)));
    const vec scale = vec(largest) / Int16::largest_filter(depth);
    store(scales + first, scale);
    int32_t* const to = matrix + in_panels(0, first, depth / 2, n);
    const int width = panel(n) * LANES;
    for (int block = 0; block < blocks_of(depth); block++) {
        vec squares = {};
        for (int k = block * BLOCK_VALUES; k < std::min(depth, (block + 1) * BLOCK_VALUES); k += 2) {
            const ivec low = Int16::rounded(load(columns + k * LANES) / scale), high = Int16::rounded(load(columns + (k + 1) * LANES) / scale);
            const vec a = vec(low) - Int16::ROUND, b = vec(high) - Int16::ROUND;
            squares += a * a + b * b;
            store(to + long(k / 2) * width, (low & 0xffff) | high << 16);
        }
        norms[block] = std::sqrt(::largest(magnitude(squares)));
    }
}

// A layer's packed filters, of `matrices` products: words of `values` numbers, in panels; for Int16 then a scale for each of all `columns`, and norms of
// the blocks of each vector of columns.
template <class Number> struct Packed {
    long values, columns;
    int matrices, blocks;

    Packed(int matrices, long depth, int out) : values(matrices * depth * out), columns(long(matrices) * out), matrices(matrices), blocks(blocks_of(depth)) {}

    long size() const { return values / Number::PER_WORD + (Number::INTEGERS ? columns + columns / LANES * blocks : 0); }
    float* scales(typename Number::Word* packed) const { return reinterpret_cast<float*>(packed + values / Number::PER_WORD); }
    float* norms(typename Number::Word* packed, long column) const { return scales(packed) + columns + column / LANES * blocks; }

    // What makes numbers of a product's sums: the scales of its columns, where inputs were multiplied by `factors`, one a matrix. Nothing for Fp32.
    std::vector<float> product_scales(const typename Number::Word* packed, const std::vector<float>& factors) const {
        if constexpr (!Number::INTEGERS) return {};
        std::vector<float> result(columns);
        const float* const of_filters = scales(const_cast<typename Number::Word*>(packed));
        for (long i = 0; i < columns; i++) result[i] = of_filters[i] / factors[i / (columns / matrices)];
        return result;
    }
    // The largest norm of a column in each block of each matrix (matrices, blocks). Nothing for Fp32.
    std::vector<float> largest_norms(const typename Number::Word* packed) const {
        if constexpr (!Number::INTEGERS) return {};
        std::vector<float> result(long(matrices) * blocks);
        const float* const of_columns = norms(const_cast<typename Number::Word*>(packed), 0);
        const long groups = columns / matrices / LANES;
        for (int matrix = 0; matrix < matrices; matrix++)
            for (long group = 0; group < groups; group++)
                for (int block = 0; block < blocks; block++) {
                    float& most = result[long(matrix) * blocks + block];
                    most = std::max(most, of_columns[(matrix * groups + group) * blocks + block]);
                }
        return result;
    }
};

// How large the rows of a left matrix of integers are: squares, added up block by block, and of these for each lane the most that any row has.
class RowNorms {
public:
    RowNorms(int lines, int blocks) : blocks(blocks), squares(size_t(lines) * blocks * LANES), norms(size_t(lines) * blocks) {}

    void start() { std::fill(squares.begin(), squares.end(), 0.f); }
    void add(int line, int block, vec of_a_row) {
        float* const most = &squares[(size_t(line) * blocks + block) * LANES];
        const vec before = load(most);
        store(most, of_a_row > before ? of_a_row : before);
    }
    void finish() {
        for (size_t i = 0; i < norms.size(); i++) {
            float sum = 0;
            for (int lane = 0; lane < LANES; lane++) sum += squares[i * LANES + lane];
            norms[i] = std::sqrt(sum) + 6;  // rounding adds half to each of BLOCK_VALUES
        }
    }
    const float* of_line(int line) const { return &norms[size_t(line) * blocks]; }

private:
    int blocks;
    std::vector<float> squares, norms;
};

}  // namespace
