// The layers of a U-Net on a CPU: convolutions by Winograd's minimal filtering, instance normalisation, transposed convolutions.
//
// A 3x3x3 convolution costs 27 multiplications an output, channel and filter; on tiles of 4x4x4 outputs it costs 6 x 6 x 6 / 64 = 3.4, of 2x4x4 4.5, of
// 2x2x2 eight (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1, nested over three axes). Filters grow to
// 216 / 27, 144 / 27 and 64 / 27 of their size. With a stride of 2 the middle tap sees other voxels than the outer two, so that two outputs along an axis
// cost 2 + 3 multiplications instead of 6. Layers of few voxels, and of the image, are matrix products of unfolded inputs.
//
// Matrix products, where nearly all the time goes, are in fp32 or of 16-bit integers, twice as many at a time where the CPU has VNNI. Everything
// else is in fp32. Activations are (D, H, W, C), float32, or beside integers Half; C is a multiple of LANES but for the image. Every function that
// computes takes the number of threads, and returns 0 or what was wrong (Problem).
//
// Integers are never cut off: inputs are scaled by the largest of a few neighbouring tiles, so that they fit 16 bits whatever they are, and a sum of
// products is taken in as many parts as it needs to fit 32 bits. How many follows from Cauchy and Schwarz' inequality, by the norms of what is multiplied.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

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
constexpr int ROWS = 12;  // matrix products work on multiples of it

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

// The first exception of several threads: none may leave a parallel region.
class Failure {
public:
    void note() {
#pragma omp critical(winograd_failure)
        if (!error) error = std::current_exception();
    }
    void rethrow() const {
        if (error) std::rethrow_exception(error);
    }

private:
    std::exception_ptr error;
};

// Memory of a thread, of any content, which stays from layer to layer.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(data); }
    template <class Word> Word* get(long words) {
        if (words > size) {
            constexpr size_t LINE = 64;
            const size_t bytes = (words * sizeof(Word) + LINE - 1) / LINE * LINE;
            std::free(data);
            size = 0;
            data = std::aligned_alloc(LINE, bytes);
            if (!data) throw std::bad_alloc();
            std::memset(data, 0, bytes);
            size = bytes / sizeof(Word);
        }
        return static_cast<Word*>(data);
    }

private:
    void* data = nullptr;
    long size = 0;  // words of 4 bytes
};
thread_local Scratch lines_scratch, left_scratch, products_scratch, sums_scratch;

// F(outputs, kernel) along one axis, of IN voxels that become as many points. FILTER has a row for each point; REACH is how far above and below 0
// inputs of 0 to 1 get there. Within a plane input and output are transformed in place, on vectors `stride` apart. Across planes a point at a time:
// INPUT says how much of each plane is in it, OUTPUT how much of it in each plane of the result.
template <int OUTPUTS, int KERNEL, int STRIDE> struct Axis;

template <> struct Axis<4, 3, 1> {  // interpolation at 0, 1, -1, 2, -2, infinity
    static constexpr int IN = 6;
    static constexpr double FILTER[6][3] = {{1. / 4, 0, 0}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                                            {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
    static constexpr float REACH[6][2] = {{5, 5}, {2, 8}, {5, 5}, {3, 3}, {3, 3}, {5, 5}};
    static constexpr float INPUT[6][6] = {{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                          {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
    static constexpr float OUTPUT[4][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
    static void input(vec* p, int stride) {
        const vec a = p[0], b = p[stride], c = p[2 * stride], d = p[3 * stride], e = p[4 * stride], f = p[5 * stride];
        const vec even1 = e - 4 * c, odd1 = d - 4 * b, even2 = e - c, odd2 = 2 * (d - b);
        p[0] = 4 * a - 5 * c + e;
        p[stride] = even1 + odd1;
        p[2 * stride] = even1 - odd1;
        p[3 * stride] = even2 + odd2;
        p[4 * stride] = even2 - odd2;
        p[5 * stride] = 4 * b - 5 * d + f;
    }
    static void output(vec* p, int stride) {
        const vec b = p[stride], c = p[2 * stride], d = p[3 * stride], e = p[4 * stride];
        const vec even1 = b + c, odd1 = b - c, even2 = d + e, odd2 = d - e;
        p[0] += even1 + even2;
        p[stride] = odd1 + 2 * odd2;
        p[2 * stride] = even1 + 4 * even2;
        p[3 * stride] = odd1 + 8 * odd2 + p[5 * stride];
    }
};

template <> struct Axis<2, 3, 1> {  // interpolation at 0, 1, -1, infinity
    static constexpr int IN = 4;
    static constexpr double FILTER[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
    static constexpr float REACH[4][2] = {{1, 1}, {2, 0}, {1, 1}, {1, 1}};
    static constexpr float INPUT[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
    static constexpr float OUTPUT[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
    static void input(vec* p, int stride) {
        const vec a = p[0], b = p[stride], c = p[2 * stride], d = p[3 * stride];
        p[0] = a - c;
        p[stride] = b + c;
        p[2 * stride] = c - b;
        p[3 * stride] = b - d;
    }
    static void output(vec* p, int stride) {
        const vec b = p[stride], c = p[2 * stride];
        p[0] += b + c;
        p[stride] = b - c - p[3 * stride];
    }
};

template <> struct Axis<2, 3, 2> {  // F(2, 2) of the outer taps, interpolation at 0, 1, infinity; the middle tap by itself
    static constexpr int IN = 5;
    static constexpr double FILTER[5][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 1, 0}, {0, 0, 1}};
    static constexpr float REACH[5][2] = {{1, 1}, {1, 0}, {1, 0}, {1, 0}, {1, 1}};
    static constexpr float INPUT[5][5] = {{1, 0, -1, 0, 0}, {0, 1, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {0, 0, 1, 0, -1}};
    static constexpr float OUTPUT[2][5] = {{1, 1, 1, 0, 0}, {0, 0, 1, 1, -1}};
    static void input(vec* p, int stride) {
        p[0] -= p[2 * stride];
        p[4 * stride] = p[2 * stride] - p[4 * stride];
    }
    static void output(vec* p, int stride) {
        p[0] += p[stride] + p[2 * stride];
        p[stride] = p[2 * stride] + p[3 * stride] - p[4 * stride];
    }
};

template <> struct Axis<1, 1, 1> {
    static constexpr int IN = 1;
    static constexpr double FILTER[1][1] = {{1}};
    static constexpr float REACH[1][2] = {{1, 0}};
    static constexpr float INPUT[1][1] = {{1}}, OUTPUT[1][1] = {{1}};
};

// Matrix products: c (rows x n) = a (rows x depth) * b, whose columns lie in panels of `panel(n)` vectors, each panel depth x width. Depths are
// counted in words.

int panel(int n) {
    int vectors = PANEL;
    while (n % (vectors * LANES)) vectors /= 2;
    return vectors;
}

constexpr int DEPTH = 256;  // of a product at a time: so deep a panel stays in the second-level cache while all rows pass

// Where parts of a product's depth end, in words.
typedef std::vector<int> Parts;

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
    constexpr int REGISTERS = PANEL == 4 ? 24 : 12;
    switch (panel(n)) {
        case 4: return multiply_panels<Number, REGISTERS / 4, 4>(a, b, c, rows, depth, n, ends);
        case 2: return multiply_panels<Number, REGISTERS / 2, 2>(a, b, c, rows, depth, n, ends);
        default: return multiply_panels<Number, 12, 1>(a, b, c, rows, depth, n, ends);
    }
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

// Rows that one thread takes at a time: enough to reuse filters from cache, few enough that every thread gets some.
int rows_at_a_time(long rows, int threads, int largest) {
    const long share = (rows + threads - 1) / threads;
    return int(std::min<long>(largest, (share + ROWS - 1) / ROWS * ROWS));
}

struct Size { int d, h, w; };

struct Layer {  // of one call
    const void* const* inputs;  // each (D, H, W, channels)
    const int* channels;
    int n_inputs, in;  // channels of all inputs
    Size size, stride, grid;  // grid: size of the result
    const float* bias;
    int out;
    void* result;
    double* mean_and_variance;
    int threads;

    template <class In> const In* input(int i) const { return static_cast<const In*>(inputs[i]); }
};

// Mean and variance of every channel, without cancellation: within a chunk of work sums are relative to the chunk's first value. What the
// chunks give is added in their order, whichever thread did them, so that the same input gives the same result.
struct Moments {
    explicit Moments(int channels) : channels(channels), has_pivot(channels), pivots(channels), sums(channels), squares(channels) {}

    void add(int channel, const vec* values, int n) {  // of one vector of channels; when all have had theirs, n is to be added to count
        if (!has_pivot[channel]) store(&pivots[channel], values[0]);
        has_pivot[channel] = true;
        const vec pivot = load(&pivots[channel]);
        vec sum = load(&sums[channel]), square = load(&squares[channel]);
        for (int i = 0; i < n; i++) {
            const vec value = values[i] - pivot;
            sum += value;
            square += value * value;
        }
        store(&sums[channel], sum);
        store(&squares[channel], square);
    }
    void finish(double* chunk) {  // (3, channels): sum, squares around the mean, square of the sum over count; starts anew
        for (int c = 0; c < channels; c++) {
            const double sum = sums[c] + double(count) * pivots[c];
            chunk[c] = sum;
            chunk[channels + c] = squares[c] - double(sums[c]) * sums[c] / count;
            chunk[2 * channels + c] = sum * sum / count;
        }
        count = 0;
        std::fill(has_pivot.begin(), has_pivot.end(), false);
        std::fill(sums.begin(), sums.end(), 0.f);
        std::fill(squares.begin(), squares.end(), 0.f);
    }

    int channels;
    long count = 0;
    std::vector<char> has_pivot;  // at a vector's first channel
    std::vector<float> pivots, sums, squares;
};

void mean_and_variance_of(const std::vector<double>& chunks, int channels, double voxels, double* mean_and_variance) {
    std::vector<double> totals(3 * channels);
    for (size_t i = 0; i < chunks.size(); i++) totals[i % totals.size()] += chunks[i];
    for (int c = 0; c < channels; c++) {
        const double total = totals[c];
        mean_and_variance[c] = total / voxels;
        // NaN stays: it compares as smaller than nothing
        mean_and_variance[channels + c] = std::max((totals[channels + c] + totals[2 * channels + c] - total * total / voxels) / voxels, 0.);
    }
}

// Tiles of MD x MH x MW outputs, stride SD x SH x SW.
template <int KD, int KH, int KW, int MD, int MH, int MW, int SD = 1, int SH = 1, int SW = 1>
struct Winograd {
    using D = Axis<MD, KD, SD>;
    using H = Axis<MH, KH, SH>;
    using W = Axis<MW, KW, SW>;
    static constexpr int IN_PLANE = H::IN * W::IN, POINTS = D::IN * IN_PLANE;  // matrix products of a tile
    static constexpr long CACHE = 450 << 10;  // bytes
    static constexpr int GATHERED = 40 << 10, AHEAD = 128;  // numbers

    template <class Number> static Packed<Number> packed(int in, int out) { return Packed<Number>(POINTS, in, out); }

    // (out, in, KD, KH, KW) -> POINTS matrices in x out, in panels
    template <class Number> static void transform_filters(const float* filters, typename Number::Word* transformed, int in, int out, int threads) {
        typedef double dvec __attribute__((vector_size(LANES * sizeof(double))));
        const Packed<Number> layout = packed<Number>(in, out);
        Failure failure;
#pragma omp parallel for num_threads(threads)
        for (int first = 0; first < out; first += LANES) try {
            const long to_point = long(in + 1) * LANES;  // a vector more than fits, as for the matrices below
            std::vector<float> points(POINTS * to_point);
            for (int i = 0; i < in; i++) {
                dvec by_w[KD][KH][W::IN] = {}, by_h[KD][H::IN][W::IN] = {};
                for (int a = 0; a < KD; a++) for (int b = 0; b < KH; b++) for (int c = 0; c < KW; c++) {
                    dvec filter;
                    for (int o = 0; o < LANES; o++) filter[o] = filters[(long(first + o) * in + i) * KD * KH * KW + (a * KH + b) * KW + c];
                    for (int w = 0; w < W::IN; w++) by_w[a][b][w] += W::FILTER[w][c] * filter;
                }
                for (int a = 0; a < KD; a++) for (int h = 0; h < H::IN; h++) for (int b = 0; b < KH; b++) for (int w = 0; w < W::IN; w++)
                    by_h[a][h][w] += H::FILTER[h][b] * by_w[a][b][w];
                for (int d = 0; d < D::IN; d++) for (int h = 0; h < H::IN; h++) for (int w = 0; w < W::IN; w++) {
                    dvec sum = {};
                    for (int a = 0; a < KD; a++) sum += D::FILTER[d][a] * by_h[a][h][w];
                    store(&points[((d * H::IN + h) * W::IN + w) * to_point + i * LANES], __builtin_convertvector(sum, vec));
                }
            }
            for (int point = 0; point < POINTS; point++)
                put_columns(&points[point * to_point], first, in, out, transformed + long(point) * in * out / Number::PER_WORD,
                            layout.scales(transformed) + point * out, layout.norms(transformed, long(point) * out + first));
        } catch (...) {
            failure.note();
        }
        failure.rethrow();
    }

    // What gathered inputs of up to 1 are multiplied with at a point to fit 16 bits whatever their signs are.
    static float factor(int point) {
        const float *const h = H::REACH[point / W::IN % H::IN], *const w = W::REACH[point % W::IN];
        return Int16::LARGEST / ((h[0] + h[1]) * (w[0] + w[1]));
    }
    // The share of that reach which is tried first. Where both axes have six points, inputs would have to change their signs from voxel to voxel to get
    // as far as they can; noise stays within half, and half the room leaves half the rounding. Those that do reach further are transformed again.
    static constexpr float ROOM = MH == 4 && MW == 4 ? .5f : 1;

    // Point POINT across planes of H::IN lines of `width` voxels, from (z, y, x) on; zero outside. Lines are read from end to end, as memory is fast at,
    // while tiles would jump from voxel to voxel and line to line.
    // Integers want to know how large they are.
    template <int POINT, class Number>
    static void gather(const typename Number::In* input, int channels, Size size, int z, int y, int x, int width, float* to, ivec& most) {
        typedef typename Number::In In;
        static const struct { alignas(sizeof(vec)) char zeros[(AHEAD + LANES) * sizeof(In)]; } nothing = {};
        const long row = long(size.w) * channels, plane = row * size.h;
        const int first = std::min(width, std::max(0, -x)), last = std::max(first, std::min(width, size.w - x));  // voxels inside
        const long before = long(first) * channels, inside = long(last - first) * channels, after = long(width - last) * channels;
        for (int h = 0; h < H::IN; h++, to += inside + after) {
            std::fill_n(to, before, 0.f);
            to += before;
            const In* lines[D::IN];
            long steps[D::IN];  // 0 outside, where the same zeros are read again and again
            for (int d = 0; d < D::IN; d++) {
                const bool within = z + d >= 0 && z + d < size.d && y + h >= 0 && y + h < size.h;
                lines[d] = within ? input + (z + d) * plane + (y + h) * row + long(x + first) * channels : reinterpret_cast<const In*>(&nothing);
                steps[d] = within;
            }
            for (long i = 0; i < inside; i += LANES) {
                vec sum = {};
#pragma GCC unroll 6
                for (int d = 0; d < D::IN; d++)
                    if (D::INPUT[POINT][d] != 0) {
                        __builtin_prefetch(lines[d] + i * steps[d] + AHEAD);
                        sum += D::INPUT[POINT][d] * load(lines[d] + i * steps[d]);
                    }
                if constexpr (Number::INTEGERS) most = larger(most, magnitude(sum));
                store(to + i, sum);
            }
            std::fill_n(to + inside, after, 0.f);
        }
    }

    // One vector of `channels` of a tile whose lines are `width` voxels long. `stride` words between points of the result. Integers are multiplied by
    // `factors`; their squares are added to those of the tile's lines of points, and `reach` becomes the largest of them.
    template <class Number>
    static void transform_input(const float* from, int channels, int width, const float* factors, typename Number::Word* to, long stride,
                                vec (&squares)[H::IN], ivec& reach) {
        vec tile[H::IN][W::IN];
#pragma GCC unroll 6
        for (int h = 0; h < H::IN; h++) {
            vec line[W::IN];  // stays in registers
#pragma GCC unroll 6
            for (int w = 0; w < W::IN; w++) line[w] = load(from + (long(h) * width + w) * channels);
            W::input(line, 1);
#pragma GCC unroll 6
            for (int w = 0; w < W::IN; w++) tile[h][w] = line[w];
        }
#pragma GCC unroll 6
        for (int w = 0; w < W::IN; w++) {
            H::input(&tile[0][w], W::IN);
#pragma GCC unroll 6
            for (int h = 0; h < H::IN; h++) {
                vec value = tile[h][w];
                if constexpr (Number::INTEGERS) {
                    value *= factors[h * W::IN + w];
                    squares[h] += value * value;
                    if constexpr (ROOM < 1) reach = larger(reach, magnitude(value));
                }
                Number::put(to + (h * W::IN + w) * stride, value);
            }
        }
    }

    static constexpr int first_point(int plane) {
        int point = 0;
        while (D::OUTPUT[plane][point] == 0) point++;
        return point;
    }
    static constexpr int last_point(int plane) {
        int point = D::IN - 1;
        while (D::OUTPUT[plane][point] == 0) point--;
        return point;
    }

    // What point POINT adds to one vector of channels of plane PLANE of a tile. An output's first point brings the bias; until its last one it is
    // among the tile's `sums`, which then puts it into `result` (the tile's first voxel), as far as it lies inside, and makes it known to `moments`.
    template <int POINT, int PLANE, class Out> static void add_output(const vec (&tile)[H::IN][W::IN], vec bias, float* sums, Out* result, int channels,
                                                                      Size size, Size inside, Moments& moments, int channel) {
        if constexpr (D::OUTPUT[PLANE][POINT] != 0) {
            if (PLANE >= inside.d) return;
            const auto sum = [&](int h, int w) {
                const vec before = first_point(PLANE) == POINT ? bias : load(sums + ((PLANE * MH + h) * MW + w) * channels);
                return before + D::OUTPUT[PLANE][POINT] * tile[h][w];
            };
            if constexpr (last_point(PLANE) != POINT) {
                for (int h = 0; h < MH; h++) for (int w = 0; w < MW; w++) store(sums + ((PLANE * MH + h) * MW + w) * channels, sum(h, w));
            } else {
                Out* const plane = result + long(PLANE) * size.h * size.w * channels;
                vec values[MH * MW] = {};
                int n = 0;
                const auto put = [&](int h, int w) { store(plane + (long(h) * size.w + w) * channels, values[n++] = sum(h, w)); };
                if (inside.h == MH && inside.w == MW) {
                    for (int h = 0; h < MH; h++) for (int w = 0; w < MW; w++) {
                        __builtin_prefetch(plane + (long(h) * size.w + w + MW) * channels, 1, 2);  // the tile beside this one comes next
                        put(h, w);
                    }
                } else
                    for (int h = 0; h < inside.h; h++) for (int w = 0; w < inside.w; w++) put(h, w);
                moments.add(channel, values, n);
            }
        }
    }

    template <class Number, int POINT>
    static void transform_output(const float* from, long stride, const float* scales, float scale, vec bias, float* sums, typename Number::Out* result,
                                 int channels, Size size, Size inside, Moments& moments, int channel) {
        vec tile[H::IN][W::IN];
        for (int h = 0; h < H::IN; h++) {
            for (int w = 0; w < W::IN; w++) {
                tile[h][w] = load(from + (h * W::IN + w) * stride);
                if constexpr (Number::INTEGERS) tile[h][w] *= load(scales + (h * W::IN + w) * channels);
            }
            W::output(tile[h], 1);
        }
        for (int w = 0; w < MW; w++) H::output(&tile[0][w], W::IN);
        if constexpr (Number::INTEGERS)
            for (int h = 0; h < MH; h++) for (int w = 0; w < MW; w++) tile[h][w] *= scale;
        add_output<POINT, 0>(tile, bias, sums, result, channels, size, inside, moments, channel);
        if constexpr (MD > 1) add_output<POINT, 1>(tile, bias, sums, result, channels, size, inside, moments, channel);
        if constexpr (MD > 2) {
            add_output<POINT, 2>(tile, bias, sums, result, channels, size, inside, moments, channel);
            add_output<POINT, 3>(tile, bias, sums, result, channels, size, inside, moments, channel);
        }
    }

    // What all threads read of a layer.
    template <class Number> struct Filters {
        const typename Number::Word* transformed;
        std::vector<float> factors, scales, norms;
        int blocks;
        Parts parts;  // of Fp32
    };
    // What a thread works in, on `chunk` tiles at a time.
    template <class Number> struct Work {
        typename Number::Word* left;
        float *products, *sums;
        long from_point, to_point;  // between points
        Moments moments;
        RowNorms norms;
        std::vector<float> row_scales;
        Parts parts;

        Work(int chunk, int depth, int out, int blocks)
            : from_point(long(chunk) * depth + LANES), to_point(long(chunk) * out + LANES),  // a vector more than fits: points a power of two apart would
              moments(out), norms(H::IN, blocks), row_scales(chunk) {                         // fall on the same lines of the cache
            left = left_scratch.get<typename Number::Word>(IN_PLANE * from_point);
            products = products_scratch.get<float>(IN_PLANE * to_point);
            sums = sums_scratch.get<float>(D::IN == 1 ? 0 : long(chunk) * MD * MH * MW * out);
        }
    };

    // `n` tiles beside one another, the first of them at output voxel `at`, of all inputs, into rows from `row` on.
    template <class Number, int POINT>
    static void transform_tiles(const Layer& layer, Size at, int row, int n, const Filters<Number>& filters, Work<Number>& work) {
        const int depth = layer.in / Number::PER_WORD;
        const int at_once = std::max(1, (GATHERED / (H::IN * layer.in) - W::IN) / (MW * SW) + 1);
        for (int tile = 0; tile < n; tile += at_once) {
            const int some = std::min(at_once, n - tile), width = (some - 1) * MW * SW + W::IN;
            const long line = long(H::IN) * width;
            float* const lines = lines_scratch.get<float>(line * layer.in);
            ivec most = {};
            for (int i = 0, before = 0; i < layer.n_inputs; before += layer.channels[i++])
                gather<POINT, Number>(layer.input<typename Number::In>(i), layer.channels[i], layer.size, at.d * SD - KD / 2, at.h * SH - KH / 2,
                                      (at.w + tile * MW) * SW - KW / 2, width, lines + line * before, most);
            const float bound = Number::INTEGERS ? at_least_a_trifle(largest(most)) : 1;
            for (float room = ROOM;; room = 1) {
                float factors[IN_PLANE];
                if constexpr (Number::INTEGERS)
                    for (int i = 0; i < IN_PLANE; i++) factors[i] = filters.factors[POINT * IN_PLANE + i] / (room * bound);
                ivec reach = {};
                for (int j = 0; j < some; j++) {
                    vec squares[H::IN] = {};
                    auto* to = work.left + long(row + tile + j) * depth;
                    for (int i = 0, vector = 0, before = 0; i < layer.n_inputs; before += layer.channels[i++])
                        for (int c = 0; c < layer.channels[i]; c += LANES, to += LANES / Number::PER_WORD) {
                            transform_input<Number>(lines + line * before + long(j) * MW * SW * layer.channels[i] + c, layer.channels[i], width, factors, to,
                                                    work.from_point, squares, reach);
                            if constexpr (Number::INTEGERS)
                                if (++vector % BLOCK_VECTORS == 0 || vector * LANES == layer.in)
                                    for (int h = 0; h < H::IN; h++) {
                                        work.norms.add(h, (vector - 1) / BLOCK_VECTORS, squares[h]);
                                        squares[h] = vec{};
                                    }
                        }
                    work.row_scales[row + tile + j] = room * bound;
                }
                if (!Number::INTEGERS || room == 1 || largest(reach) <= Int16::LARGEST) break;
            }
        }
    }

    // Tiles `first` to `first + rows`, of which one thread does everything, a point across planes at a time: so its matrices stay in cache.
    template <class Number, int POINT>
    static void run_point(const Layer& layer, Size tiles, long first, int rows, const Filters<Number>& filters, Work<Number>& work) {
        const int depth = layer.in / Number::PER_WORD, out = layer.out;
        const Size grid = layer.grid;
        const auto corner = [&](int row) {
            const long tile = first + row;
            return Size{int(tile / tiles.w / tiles.h) * MD, int(tile / tiles.w % tiles.h) * MH, int(tile % tiles.w) * MW};
        };
        if constexpr (Number::INTEGERS) work.norms.start();
        for (int row = 0, n; row < rows; row += n) {
            const Size at = corner(row);
            n = std::min(rows - row, tiles.w - at.w / MW);
            transform_tiles<Number, POINT>(layer, at, row, n, filters, work);
        }
        if constexpr (Number::INTEGERS) work.norms.finish();
        for (int point = 0; point < IN_PLANE; point++) {
            const int matrix = POINT * IN_PLANE + point;
            if constexpr (Number::INTEGERS)
                parts_of_int16(work.norms.of_line(point / W::IN), &filters.norms[long(matrix) * filters.blocks], depth, work.parts);
            multiply<Number>(work.left + point * work.from_point, filters.transformed + long(matrix) * depth * out, work.products + point * work.to_point,
                             (rows + ROWS - 1) / ROWS * ROWS, depth, out, Number::INTEGERS ? work.parts : filters.parts);
        }
        for (int row = 0; row < rows; row++) {
            const Size at = corner(row), inside = {std::min(MD, grid.d - at.d), std::min(MH, grid.h - at.h), std::min(MW, grid.w - at.w)};
            auto* const to = static_cast<typename Number::Out*>(layer.result) + ((long(at.d) * grid.h + at.h) * grid.w + at.w) * out;
            for (int c = 0; c < out; c += LANES)
                transform_output<Number, POINT>(work.products + long(row) * out + c, work.to_point, filters.scales.data() + POINT * IN_PLANE * out + c,
                                                work.row_scales[row], load(layer.bias + c), work.sums + long(row) * MD * MH * MW * out + c, to + c, out, grid,
                                                inside, work.moments, c);
            for (int plane = 0; plane < inside.d; plane++) work.moments.count += last_point(plane) == POINT ? long(inside.h) * inside.w : 0;
        }
    }

    template <class Number, int... POINT>
    static void run_points(std::integer_sequence<int, POINT...>, const Layer& layer, const typename Number::Word* transformed) {
        const int in = layer.in, depth = in / Number::PER_WORD, out = layer.out;
        const Size grid = layer.grid, tiles = {(grid.d + MD - 1) / MD, (grid.h + MH - 1) / MH, (grid.w + MW - 1) / MW};
        const long n_tiles = long(tiles.d) * tiles.h * tiles.w;
        // as many rows as the second-level cache holds beside images and filters; where it holds few, more, to share what is read of the filters
        const long cached = CACHE / (IN_PLANE * (depth + out) * long(sizeof(float))) / ROWS * ROWS;
        const int chunk = rows_at_a_time(n_tiles, layer.threads, cached < 2 * ROWS ? (MD > 2 ? 2 : 4) * ROWS : int(std::min(cached, 4L * ROWS)));
        std::vector<float> factors(POINTS);
        for (int point = 0; point < POINTS; point++) factors[point] = factor(point);
        const Packed<Number> layout = packed<Number>(in, out);
        const Filters<Number> filters = {transformed, factors, layout.product_scales(transformed, factors), layout.largest_norms(transformed), layout.blocks,
                                         parts_of_fp32(depth)};
        std::vector<double> chunks((n_tiles + chunk - 1) / chunk * 3 * out);
        Failure failure;
#pragma omp parallel num_threads(layer.threads)
        {
            std::unique_ptr<Work<Number>> work;
            try {
                work = std::make_unique<Work<Number>>(chunk, depth, out, layout.blocks);
            } catch (...) {
                failure.note();
            }
#pragma omp for schedule(dynamic)
            for (long first = 0; first < n_tiles; first += chunk) try {
                if (!work) continue;  // a thread that has no memory has to come here with the others
                const int rows = int(std::min<long>(chunk, n_tiles - first));
                (run_point<Number, POINT>(layer, tiles, first, rows, filters, *work), ...);
                work->moments.finish(&chunks[first / chunk * 3 * out]);
            } catch (...) {
                failure.note();
            }
        }
        failure.rethrow();
        mean_and_variance_of(chunks, out, double(grid.d) * grid.h * grid.w, layer.mean_and_variance);
    }

    template <class Number> static void run(const Layer& layer, const typename Number::Word* transformed) {
        run_points<Number>(std::make_integer_sequence<int, D::IN>(), layer, transformed);
    }
};

// Any stride. A row of the left matrix is what one output sees.
template <int KD, int KH, int KW>
struct Unfolded {
    static constexpr int KERNEL = KD * KH * KW;

    template <class Number> static Packed<Number> packed(int in, int out) { return Packed<Number>(1, long(KERNEL) * in, out); }

    // (out, in, KD, KH, KW) -> (KERNEL * in) x out, in panels
    template <class Number> static void transform_filters(const float* filters, typename Number::Word* transformed, int in, int out, int threads) {
        const Packed<Number> layout = packed<Number>(in, out);
        Failure failure;
#pragma omp parallel for num_threads(threads)
        for (int first = 0; first < out; first += LANES) try {
            std::vector<float> columns(long(KERNEL) * in * LANES);
            for (int o = 0; o < LANES; o++) for (int i = 0; i < in; i++) for (int k = 0; k < KERNEL; k++)
                columns[(long(k) * in + i) * LANES + o] = filters[(long(first + o) * in + i) * KERNEL + k];
            put_columns(columns.data(), first, KERNEL * in, out, transformed, layout.scales(transformed), layout.norms(transformed, first));
        } catch (...) {
            failure.note();
        }
        failure.rethrow();
    }

    static void unfold(const Layer& layer, int z, int y, int x, float* to) {
        if (layer.in == 1) return unfold_image(layer.input<float>(0), layer.size, z, y, x, to);
        for_each_run<float>(layer, z, y, x, [&](const float* from, int channels) {
            if (from) std::memcpy(to, from, channels * sizeof(float));
            else std::memset(to, 0, channels * sizeof(float));
            to += channels;
        });
    }
    static void unfold_image(const float* image, Size size, int z, int y, int x, float* to) {
        const bool inside = x >= 0 && x + KW <= size.w;
        for (int a = z; a < z + KD; a++) for (int b = y; b < y + KH; b++, to += KW) {
            const bool line_inside = a >= 0 && a < size.d && b >= 0 && b < size.h;
            const float* const line = image + (long(a) * size.h + b) * size.w + x;
            for (int c = 0; c < KW; c++) to[c] = line_inside && (inside || (x + c >= 0 && x + c < size.w)) ? line[c] : 0;
        }
    }
    // Integers: multiplied by `factor`. The row's squares go to `norms`.
    static void unfold(const Layer& layer, int z, int y, int x, int32_t* to, float factor, RowNorms& norms) {
        vec squares = {};
        int vector = 0;
        for_each_run<Half>(layer, z, y, x, [&](const Half* from, int channels) {
            for (int c = 0; c < channels; c += LANES, to += LANES / Int16::PER_WORD) {
                const vec value = from ? load(from + c) * factor : vec{};
                squares += value * value;
                Int16::put(to, value);
                if (++vector % BLOCK_VECTORS == 0 || vector * LANES == KERNEL * layer.in) {
                    norms.add(0, (vector - 1) / BLOCK_VECTORS, squares);
                    squares = vec{};
                }
            }
        });
    }
    // The largest magnitude among all channels of each input voxel.
    static std::vector<float> largest_of_voxels(const Layer& layer) {
        const long voxels = long(layer.size.d) * layer.size.h * layer.size.w;
        std::vector<float> result(voxels);
#pragma omp parallel for num_threads(layer.threads)
        for (long voxel = 0; voxel < voxels; voxel++) {
            ivec most = {};
            for (int i = 0; i < layer.n_inputs; i++)
                for (int c = 0; c < layer.channels[i]; c += LANES) most = larger(most, magnitude(load(layer.input<Half>(i) + voxel * layer.channels[i] + c)));
            result[voxel] = largest(most);
        }
        return result;
    }
    // The largest magnitude that an output sees. NaN is kept: it compares as smaller than nothing.
    static float largest_seen(const Layer& layer, const std::vector<float>& of_voxels, int z, int y, int x) {
        const Size size = layer.size;
        float most = 0;
        for (int a = std::max(z, 0); a < std::min(z + KD, size.d); a++) for (int b = std::max(y, 0); b < std::min(y + KH, size.h); b++)
            for (int c = std::max(x, 0); c < std::min(x + KW, size.w); c++) {
                const float value = of_voxels[(long(a) * size.h + b) * size.w + c];
                if (!(value <= most)) most = value;
                if (value != value) return value;
            }
        return at_least_a_trifle(most);
    }
    // The channels that an output sees, voxel by voxel and input by input; null outside.
    template <class In, class Use> static void for_each_run(const Layer& layer, int z, int y, int x, Use use) {
        const Size size = layer.size;
        for (int a = z; a < z + KD; a++) for (int b = y; b < y + KH; b++) for (int c = x; c < x + KW; c++) {
            const bool inside = a >= 0 && a < size.d && b >= 0 && b < size.h && c >= 0 && c < size.w;
            for (int i = 0; i < layer.n_inputs; i++) {
                const int channels = layer.channels[i];
                use(inside ? layer.input<In>(i) + ((long(a) * size.h + b) * size.w + c) * channels : nullptr, channels);
            }
        }
    }

    template <class Number> static void run(const Layer& layer, const typename Number::Word* transformed) {
        const int depth = KERNEL * layer.in / Number::PER_WORD, out = layer.out;
        const Size stride = layer.stride, grid = layer.grid;
        const long voxels = long(grid.d) * grid.h * grid.w;
        const int chunk = rows_at_a_time(voxels, layer.threads, ROWS * std::max(16, 1024 / depth));
        auto* const result = static_cast<typename Number::Out*>(layer.result);
        const Packed<Number> layout = packed<Number>(layer.in, out);
        const std::vector<float> scales = layout.product_scales(transformed, {Int16::LARGEST}), filter_norms = layout.largest_norms(transformed);
        std::vector<float> of_voxels;
        if constexpr (Number::INTEGERS) of_voxels = largest_of_voxels(layer);
        const Parts whole = parts_of_fp32(depth);
        std::vector<double> chunks((voxels + chunk - 1) / chunk * 3 * out);
        Failure failure;
#pragma omp parallel num_threads(layer.threads)
        {
            std::unique_ptr<Work<Number>> work;
            try {
                work = std::make_unique<Work<Number>>(chunk, depth, out, layout.blocks);
            } catch (...) {
                failure.note();
            }
#pragma omp for schedule(dynamic)
            for (long first = 0; first < voxels; first += chunk) try {
                if (!work) continue;  // a thread that has no memory has to come here with the others
                const int rows = int(std::min<long>(chunk, voxels - first));
                if constexpr (Number::INTEGERS) work->norms.start();
                for (int row = 0; row < rows; row++) {
                    const long voxel = first + row;
                    const int z = int(voxel / grid.w / grid.h) * stride.d - KD / 2, y = int(voxel / grid.w % grid.h) * stride.h - KH / 2,
                              x = int(voxel % grid.w) * stride.w - KW / 2;
                    auto* const to = work->left + long(row) * depth;
                    if constexpr (Number::INTEGERS) {
                        work->row_scales[row] = largest_seen(layer, of_voxels, z, y, x);
                        unfold(layer, z, y, x, to, Int16::LARGEST / work->row_scales[row], work->norms);
                    } else
                        unfold(layer, z, y, x, to);
                }
                if constexpr (Number::INTEGERS) {
                    work->norms.finish();
                    parts_of_int16(work->norms.of_line(0), filter_norms.data(), depth, work->parts);
                }
                multiply<Number>(work->left, transformed, work->products, (rows + ROWS - 1) / ROWS * ROWS, depth, out, Number::INTEGERS ? work->parts : whole);
                constexpr int TOGETHER = 16;
                for (int row = 0, n; row < rows; row += n, work->moments.count += n) {
                    n = std::min(TOGETHER, rows - row);
                    for (int c = 0; c < out; c += LANES) {
                        vec values[TOGETHER];
                        for (int i = 0; i < n; i++) {
                            const long at = long(row + i) * out + c;
                            vec product = load(work->products + at);
                            if constexpr (Number::INTEGERS) product *= load(&scales[c]) * work->row_scales[row + i];
                            values[i] = product + load(layer.bias + c);
                            store(result + first * out + at, values[i]);
                        }
                        work->moments.add(c, values, n);
                    }
                }
                work->moments.finish(&chunks[first / chunk * 3 * out]);
            } catch (...) {
                failure.note();
            }
        }
        failure.rethrow();
        mean_and_variance_of(chunks, out, double(voxels), layer.mean_and_variance);
    }

private:
    // What a thread works in, on `chunk` outputs at a time.
    template <class Number> struct Work {
        typename Number::Word* left;
        float* products;
        Moments moments;
        RowNorms norms;
        std::vector<float> row_scales;
        Parts parts;

        Work(int chunk, int depth, int out, int blocks)
            : left(left_scratch.get<typename Number::Word>(long(chunk) * depth)), products(products_scratch.get<float>(long(chunk) * out)), moments(out),
              norms(1, blocks), row_scales(chunk) {}
    };
};

// Calls `use` with the convolution of a kernel and stride on tiles of so many voxels, as digits: their depth, then their width in a plane (1: unfolded).
// False if there is none.
template <class Number, class Use> bool with_convolution(int kd, int kh, int kw, int sd, int sh, int sw, int tile, Use use) {
    const int kernel = kd * 100 + kh * 10 + kw, stride = sd * 100 + sh * 10 + sw;
    if (tile == 1) {
        if (kernel == 111) use(Unfolded<1, 1, 1>());
        else if (kernel == 133) use(Unfolded<1, 3, 3>());
        else if (kernel == 333) use(Unfolded<3, 3, 3>());
        else return false;
        return true;
    }
    if constexpr (Number::TILES) {
        if (kernel == 133 && stride == 111 && tile == 14) use(Winograd<1, 3, 3, 1, 4, 4>());
        else if (kernel == 133 && stride == 122 && tile == 12) use(Winograd<1, 3, 3, 1, 2, 2, 1, 2, 2>());
        else if (kernel == 333 && stride == 111 && tile == 22) use(Winograd<3, 3, 3, 2, 2, 2>());
        else if (kernel == 333 && stride == 111 && tile == 24) use(Winograd<3, 3, 3, 2, 4, 4>());
        else if (kernel == 333 && stride == 122 && tile == 22) use(Winograd<3, 3, 3, 2, 2, 2, 1, 2, 2>());
        else if (kernel == 333 && stride == 222 && tile == 22) use(Winograd<3, 3, 3, 2, 2, 2, 2, 2, 2>());
        else if constexpr (Number::INTEGERS) {
            if (kernel == 333 && stride == 111 && tile == 44) use(Winograd<3, 3, 3, 4, 4, 4>());
            else if (kernel == 333 && stride == 122 && tile == 42) use(Winograd<3, 3, 3, 4, 2, 2, 1, 2, 2>());
            else return false;
        }
        else return false;
        return true;
    }
    return false;
}

// Transposed convolution whose kernel is its stride: a matrix product for each voxel of the kernel.
template <class Number> struct Transposed {
    typedef typename Number::Word Word;

    static Packed<Number> packed(int in, int out, int kernel_voxels) { return Packed<Number>(kernel_voxels, in, out); }

    // (in, out, kernel) -> matrices in x out, in panels
    static void transform(const float* weights, Word* transformed, int in, int out, int kernel_voxels) {
        const long matrix = long(in) * out / Number::PER_WORD;
        const Packed<Number> layout = packed(in, out, kernel_voxels);
        std::vector<float> columns(long(in) * LANES);
        for (int k = 0; k < kernel_voxels; k++)
            for (int first = 0; first < out; first += LANES) {
                for (int i = 0; i < in; i++) for (int o = 0; o < LANES; o++)
                    columns[long(i) * LANES + o] = weights[(long(i) * out + first + o) * kernel_voxels + k];
                put_columns(columns.data(), first, in, out, transformed + k * matrix, layout.scales(transformed) + k * out,
                            layout.norms(transformed, long(k) * out + first));
            }
    }

    // What a thread works in, on a line at a time.
    struct Work {
        Word* left;
        float* products;
        RowNorms norms;
        Parts parts;

        Work(int rows, int depth, int out, int blocks)
            : left(left_scratch.get<Word>(long(rows) * depth)), products(products_scratch.get<float>(long(rows) * out)), norms(1, blocks) {}
    };

    // A line of `width` voxels into rows. Integers: returns the largest magnitude, which is 32767 then.
    static float put_line(const typename Number::In* line, int width, int in, Work& work) {
        if constexpr (!Number::INTEGERS) {
            for (long c = 0; c < long(width) * in; c += LANES) Number::put(work.left + c, load(line + c));
            return 1;
        } else {
            ivec most = {};
            for (long c = 0; c < long(width) * in; c += LANES) most = larger(most, magnitude(load(line + c)));
            const float bound = at_least_a_trifle(largest(most)), factor = Int16::LARGEST / bound;
            work.norms.start();
            for (int voxel = 0; voxel < width; voxel++) {
                vec squares = {};
                for (int c = 0; c < in; c += LANES) {
                    const long at = long(voxel) * in + c;
                    const vec value = load(line + at) * factor;
                    squares += value * value;
                    Number::put(work.left + at / Number::PER_WORD, value);
                    if ((c + LANES) % BLOCK_VALUES == 0 || c + LANES == in) {
                        work.norms.add(0, c / BLOCK_VALUES, squares);
                        squares = vec{};
                    }
                }
            }
            work.norms.finish();
            return bound;
        }
    }

    static void run(const typename Number::In* x, int in, Size size, const Word* transformed, const float* bias, int out, Size stride,
                    typename Number::Out* result, int threads) {
        const long lines = long(size.d) * size.h, matrix = long(in) * out / Number::PER_WORD;
        const int rows = (size.w + ROWS - 1) / ROWS * ROWS, depth = in / Number::PER_WORD, kernel_voxels = stride.d * stride.h * stride.w;
        const Packed<Number> layout = packed(in, out, kernel_voxels);
        const std::vector<float> scales = layout.product_scales(transformed, std::vector<float>(kernel_voxels, Int16::LARGEST)),
                                 filter_norms = layout.largest_norms(transformed);
        const Parts whole = parts_of_fp32(depth);
        Failure failure;
#pragma omp parallel num_threads(threads)
        {
            std::unique_ptr<Work> work;
            try {
                work = std::make_unique<Work>(rows, depth, out, layout.blocks);
            } catch (...) {
                failure.note();
            }
#pragma omp for
            for (long line = 0; line < lines; line++) try {
                if (!work) continue;  // a thread that has no memory has to come here with the others
                const float bound = put_line(x + line * size.w * in, size.w, in, *work);
                const long z = line / size.h * stride.d, y = line % size.h * stride.h;
                for (int k = 0; k < kernel_voxels; k++) {
                    if constexpr (Number::INTEGERS) parts_of_int16(work->norms.of_line(0), &filter_norms[long(k) * layout.blocks], depth, work->parts);
                    multiply<Number>(work->left, transformed + k * matrix, work->products, rows, depth, out, Number::INTEGERS ? work->parts : whole);
                    auto* const to = result + (((z + k / stride.w / stride.h) * size.h * stride.h + y + k / stride.w % stride.h) * size.w * stride.w
                                                + k % stride.w) * out;
                    for (int i = 0; i < size.w; i++)
                        for (int c = 0; c < out; c += LANES) {
                            vec product = load(work->products + long(i) * out + c);
                            if constexpr (Number::INTEGERS) product *= load(&scales[k * out + c]) * bound;
                            store(to + long(i) * stride.w * out + c, product + load(bias + c));
                        }
                }
            } catch (...) {
                failure.note();
            }
        }
        failure.rethrow();
    }
};

// Arguments that would lead outside of an array are refused. The array's sizes are the caller's word.
struct Refused : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};
void require(bool right, const char* what) {
    if (!right) throw Refused(what);
}
bool counts(std::initializer_list<long> numbers) {  // whether all are at least 1, and an array of them has a size
    double product = 1;
    for (const long number : numbers) product *= double(number);
    return *std::min_element(numbers.begin(), numbers.end()) >= 1 && product < 1e15;
}
bool lanes_divide(int channels) { return channels >= LANES && channels % LANES == 0; }

enum Problem { NONE, REFUSED, NO_MEMORY, OTHER };
thread_local char problem_text[200] = "";

// What `compute` throws, as a number: an exception that leaves a C function ends the process.
template <class Compute> int problem_of(Compute compute) noexcept {
    const auto say = [](const char* text) { std::strncpy(problem_text, text, sizeof problem_text - 1); };
    try {
        compute();
        return NONE;
    } catch (const Refused& error) {
        say(error.what());
        return REFUSED;
    } catch (const std::bad_alloc&) {
        say("no memory left");
        return NO_MEMORY;
    } catch (const std::exception& error) {
        say(error.what());
    } catch (...) {
        say("an exception of unknown kind");
    }
    return OTHER;
}

}  // namespace

extern "C" {

int lanes() { return LANES; }

// Bytes of a stored activation.
int stored_bytes(int int16) { return int16 ? sizeof(Half) : sizeof(float); }

// What the last problem of this thread was.
const char* problem() { return problem_text; }

// Floats that the filters of a kernel become; 0 for what has no code here.
long transformed_size(int kd, int kh, int kw, int sd, int sh, int sw, int tile, int int16, int in, int out) {
    if (!counts({in, out}) || out % LANES || ((int16 || tile > 1) && in % LANES)) return 0;
    long size = 0;
    if (int16) with_convolution<Int16>(kd, kh, kw, sd, sh, sw, tile, [&](auto convolution) { size = convolution.template packed<Int16>(in, out).size(); });
    else with_convolution<Fp32>(kd, kh, kw, sd, sh, sw, tile, [&](auto convolution) { size = convolution.template packed<Fp32>(in, out).size(); });
    return size;
}

// filters (out, in, kd, kh, kw) -> transformed, of transformed_size
int transform_filters(int kd, int kh, int kw, int sd, int sh, int sw, int tile, int int16, const float* filters, void* transformed, int in, int out,
                      int threads) {
    return problem_of([&] {
        require(filters && transformed && threads > 0, "an array or a thread is missing");
        require(transformed_size(kd, kh, kw, sd, sh, sw, tile, int16, in, out) > 0, "there is no code for this kernel, stride, tile or number of channels");
        if (int16)
            with_convolution<Int16>(kd, kh, kw, sd, sh, sw, tile, [&](auto convolution) {
                convolution.template transform_filters<Int16>(filters, static_cast<int32_t*>(transformed), in, out, threads);
            });
        else
            with_convolution<Fp32>(kd, kh, kw, sd, sh, sw, tile, [&](auto convolution) {
                convolution.template transform_filters<Fp32>(filters, static_cast<float*>(transformed), in, out, threads);
            });
    });
}

// "Same"-padded convolution of the channels of all inputs together; `mean_and_variance` (2, out) are those of the result's voxels. With `to_half` the
// input is the image, in float32, and the result as int16 stores it.
int convolve(int kd, int kh, int kw, int sd, int sh, int sw, int tile, int int16, int to_half, const void* const* inputs, const int* channels, int n_inputs,
             int d, int h, int w, const void* transformed, const float* bias, int out, void* result, double* mean_and_variance, int threads) {
    return problem_of([&] {
        require(inputs && channels && n_inputs > 0 && transformed && bias && result && mean_and_variance && threads > 0, "an array or a thread is missing");
        require(counts({d, h, w, out, sd, sh, sw}), "a size or stride is none");
        for (int i = 0; i < n_inputs; i++) {
            require(inputs[i] && channels[i] > 0 && channels[i] < 1 << 20, "an input or its channels are missing");
            require(!(int16 || tile > 1) || channels[i] % LANES == 0, "vectors do not divide an input's channels");
        }
        const int in = std::accumulate(channels, channels + n_inputs, 0);
        require(transformed_size(kd, kh, kw, sd, sh, sw, tile, int16, in, out) > 0 && !(to_half && (int16 || tile > 1)),
                "there is no code for this kernel, stride, tile or number of channels");
        const Size grid = {(d + sd - 1) / sd, (h + sh - 1) / sh, (w + sw - 1) / sw};
        const Layer layer = {inputs, channels, n_inputs, in, {d, h, w}, {sd, sh, sw}, grid, bias, out, result, mean_and_variance, threads};
        const auto run = [&](auto number) {
            typedef decltype(number) Number;
            with_convolution<Number>(kd, kh, kw, sd, sh, sw, tile, [&](auto convolution) {
                convolution.template run<Number>(layer, static_cast<const typename Number::Word*>(transformed));
            });
        };
        if (int16) run(Int16());
        else if (to_half) run(Fp32ToHalf());
        else run(Fp32());
    });
}

// In place: x * scale + shift (per channel), plus `residual` if there is one, then leaky ReLU (slope 1: none).
int scale_and_activate(int int16, void* x, const float* scale, const float* shift, const void* residual, float slope, long voxels, int channels, int threads) {
    return problem_of([&] {
        require(x && scale && shift && threads > 0 && counts({voxels, channels}) && lanes_divide(channels), "an array, a size or a thread is missing");
        const auto run = [&](auto* values, auto* added) {
#pragma omp parallel for num_threads(threads)
            for (long voxel = 0; voxel < voxels; voxel++)
                for (int c = 0; c < channels; c += LANES) {
                    const long at = voxel * channels + c;
                    vec value = load(values + at) * load(scale + c) + load(shift + c);
                    if (added) value += load(added + at);
                    const vec lower = value * slope;
                    store(values + at, value > lower ? value : lower);
                }
        };
        if (int16) run(static_cast<Half*>(x), static_cast<const Half*>(residual));
        else run(static_cast<float*>(x), static_cast<const float*>(residual));
    });
}

// The last layer, a 1x1x1 convolution to the few labels: x (voxels, channels) -> logits (labels, voxels), float32. weights (labels, channels).
int segment(int int16, const void* x, const float* weights, const float* bias, int labels, long voxels, int channels, float* logits, int threads) {
    return problem_of([&] {
        require(x && weights && bias && logits && threads > 0 && counts({voxels, channels, labels}) && lanes_divide(channels),
                "an array, a size or a thread is missing");
        const auto run = [&](const auto* values) {
#pragma omp parallel for num_threads(threads)
            for (long voxel = 0; voxel < voxels; voxel++)
                for (int label = 0; label < labels; label++) {
                    vec products = {};
                    for (int c = 0; c < channels; c += LANES) products += load(values + voxel * channels + c) * load(weights + label * channels + c);
                    logits[label * voxels + voxel] = sum_of_lanes(products) + bias[label];
                }
        };
        if (int16) run(static_cast<const Half*>(x));
        else run(static_cast<const float*>(x));
    });
}

// Means of blocks of sd x sh x sw voxels, which divide (d, h, w).
int average_pool(int int16, const void* x, int channels, int d, int h, int w, int sd, int sh, int sw, void* result, int threads) {
    return problem_of([&] {
        require(x && result && threads > 0 && counts({d, h, w, channels, sd, sh, sw}) && lanes_divide(channels), "an array, a size or a thread is missing");
        require(d % sd == 0 && h % sh == 0 && w % sw == 0, "blocks do not divide the size");
        const int gd = d / sd, gh = h / sh, gw = w / sw;
        const float weight = 1.f / (sd * sh * sw);
        const auto run = [&](auto* from, auto* to) {
#pragma omp parallel for num_threads(threads)
            for (long line = 0; line < long(gd) * gh; line++)
                for (int i = 0; i < gw; i++)
                    for (int c = 0; c < channels; c += LANES) {
                        vec sum = vec{};
                        for (int a = 0; a < sd; a++) for (int b = 0; b < sh; b++) for (int e = 0; e < sw; e++)
                            sum += load(from + (((line / gh * sd + a) * h + line % gh * sh + b) * w + long(i) * sw + e) * channels + c);
                        store(to + (line * gw + i) * channels + c, sum * weight);
                    }
        };
        if (int16) run(static_cast<const Half*>(x), static_cast<Half*>(result));
        else run(static_cast<const float*>(x), static_cast<float*>(result));
    });
}

// Floats that the weights of a transposed convolution become; 0 for what has no code here.
long transposed_size(int int16, int in, int out, int kernel_voxels) {
    if (!counts({in, out, kernel_voxels}) || in % LANES || out % LANES) return 0;
    return int16 ? Transposed<Int16>::packed(in, out, kernel_voxels).size() : Transposed<Fp32>::packed(in, out, kernel_voxels).size();
}

// weights (in, out, kernel) -> transformed, of transposed_size
int transform_transposed(int int16, const float* weights, void* transformed, int in, int out, int kernel_voxels) {
    return problem_of([&] {
        require(weights && transformed && transposed_size(int16, in, out, kernel_voxels) > 0, "an array is missing, or vectors do not divide the channels");
        if (int16) Transposed<Int16>::transform(weights, static_cast<int32_t*>(transformed), in, out, kernel_voxels);
        else Transposed<Fp32>::transform(weights, static_cast<float*>(transformed), in, out, kernel_voxels);
    });
}

// Every input voxel becomes a block of sd x sh x sw voxels.
int convolve_transposed(int int16, const void* x, int in, int d, int h, int w, const void* transformed, const float* bias, int out, int sd, int sh, int sw,
                        void* result, int threads) {
    return problem_of([&] {
        require(x && transformed && bias && result && threads > 0 && counts({d, h, w, sd, sh, sw, in, out}), "an array, a size or a thread is missing");
        require(transposed_size(int16, in, out, sd * sh * sw) > 0, "vectors do not divide the channels");
        if (int16)
            Transposed<Int16>::run(static_cast<const Half*>(x), in, {d, h, w}, static_cast<const int32_t*>(transformed), bias, out, {sd, sh, sw},
                                   static_cast<Half*>(result), threads);
        else
            Transposed<Fp32>::run(static_cast<const float*>(x), in, {d, h, w}, static_cast<const float*>(transformed), bias, out, {sd, sh, sw},
                                  static_cast<float*>(result), threads);
    });
}

}  // extern "C"
