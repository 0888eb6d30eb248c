// The layers of a U-Net on a CPU, in fp32: convolutions by Winograd's minimal filtering, instance normalisation, transposed convolutions.
//
// A 3x3x3 convolution costs 27 multiplications an output, channel and filter; on tiles of 2x4x4 outputs it costs 4 x 6 x 6 / 32 = 4.5
// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1, nested over three axes). Strided layers, and those
// of so many channels that transformed filters would cost more than they save, are matrix products of unfolded inputs.
//
// Activations are (D, H, W, C) float32; C is a multiple of LANES but for the image. Every function that computes takes the number of threads.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

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
inline vec broadcast(float x) { return x - vec{}; }  // x + 0 would not do: the compiler keeps that addition, for x = -0

// Memory of a thread, of any content, which stays from layer to layer.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(data); }
    float* get(long floats) {
        if (floats > size) {
            constexpr size_t LINE = 64;
            const size_t bytes = (floats * sizeof(float) + LINE - 1) / LINE * LINE;
            std::free(data);
            data = static_cast<float*>(std::aligned_alloc(LINE, bytes));
            std::memset(data, 0, bytes);
            size = bytes / sizeof(float);
        }
        return data;
    }

private:
    float* data = nullptr;
    long size = 0;
};
thread_local Scratch left_scratch, products_scratch;

// F(outputs, kernel) along one axis. FILTER has a row for each of IN points. Within a plane input and output are transformed in place, on vectors
// `stride` apart.
template <int OUTPUTS, int KERNEL> struct Axis;

template <> struct Axis<4, 3> {  // interpolation at 0, 1, -1, 2, -2, infinity
    static constexpr int IN = 6;
    static constexpr double FILTER[6][3] = {{1. / 4, 0, 0}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                                            {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
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

// Across planes a point at a time: it is the difference of two planes (but the sum where SUM says so), and adds to the outputs with a sign.
template <> struct Axis<2, 3> {  // interpolation at 0, 1, -1, infinity
    static constexpr int IN = 4;
    static constexpr double FILTER[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
    static constexpr int PLANES[4][2] = {{0, 2}, {1, 2}, {2, 1}, {1, 3}};
    static constexpr bool SUM[4] = {false, true, false, false};
    static constexpr int SIGN[4][2] = {{1, 0}, {1, 1}, {1, -1}, {0, -1}};  // of the point in each output
    static constexpr int FIRST[2] = {0, 1}, LAST[2] = {2, 3};  // points of each output
};

template <> struct Axis<1, 1> {
    static constexpr int IN = 1;
    static constexpr double FILTER[1][1] = {{1}};
    static constexpr int PLANES[1][2] = {{0, -1}};  // no second plane
    static constexpr bool SUM[1] = {false};
    static constexpr int SIGN[1][1] = {{1}};
    static constexpr int FIRST[1] = {0}, LAST[1] = {0};
};

// Matrix products: c (rows x n) = a (rows x depth) * b, whose columns lie in panels of `panel(n)` vectors, each panel depth x width.

int panel(int n) {
    int vectors = PANEL;
    while (n % (vectors * LANES)) vectors /= 2;
    return vectors;
}

constexpr int DEPTH = 256;  // of a product at a time: so deep a panel stays in the second-level cache while all rows pass

template <int M, int V>
inline void multiply_block(const float* __restrict a, long depth, const float* __restrict b, float* __restrict c, int n, int part, bool add) {
    vec sums[M][V];
#pragma GCC unroll 12
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sums[i][j] = add ? load(c + long(i) * n + j * LANES) : vec{};
    for (int k = 0; k < part; k++) {
        vec columns[V];
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) columns[j] = load(b + (k * V + j) * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < M; i++) {
            const vec left = broadcast(a[i * depth + k]);
#pragma GCC unroll 4
            for (int j = 0; j < V; j++) sums[i][j] += left * columns[j];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) store(c + long(i) * n + j * LANES, sums[i][j]);
}

template <int M, int V>
void multiply_panels(const float* a, const float* b, float* c, int rows, int depth, int n) {
    for (int k = 0; k < depth; k += DEPTH)
        for (int first = 0; first < n; first += V * LANES)
            for (int row = 0; row < rows; row += M)
                multiply_block<M, V>(a + long(row) * depth + k, depth, b + long(first) * depth + long(k) * V * LANES, c + long(row) * n + first, n,
                                     std::min(DEPTH, depth - k), k > 0);
}

void multiply(const float* a, const float* b, float* c, int rows, int depth, int n) {
    constexpr int REGISTERS = PANEL == 4 ? 24 : 12;
    switch (panel(n)) {
        case 4: return multiply_panels<REGISTERS / 4, 4>(a, b, c, rows, depth, n);
        case 2: return multiply_panels<REGISTERS / 2, 2>(a, b, c, rows, depth, n);
        default: return multiply_panels<12, 1>(a, b, c, rows, depth, n);
    }
}

// Where column `column` of row `row` of a depth x n matrix lies among its panels.
long in_panels(int row, int column, int depth, int n) {
    const int width = panel(n) * LANES;
    return long(column / width) * width * depth + long(row) * width + column % width;
}

// Rows that one thread takes at a time: enough to reuse filters from cache, few enough that every thread gets some.
int rows_at_a_time(long rows, int threads, int largest) {
    const long share = (rows + threads - 1) / threads;
    return int(std::min<long>(largest, (share + ROWS - 1) / ROWS * ROWS));
}

struct Size { int d, h, w; };

struct Input {  // (D, H, W, channels)
    const float* data;
    int channels;
};

int channels_of(const Input* inputs, int n_inputs) {
    int channels = 0;
    for (int i = 0; i < n_inputs; i++) channels += inputs[i].channels;
    return channels;
}

// Mean and variance of every channel, without cancellation: within a chunk of work sums are relative to the chunk's first value. What the
// chunks give is added in their order, whichever thread did them, so that the same input gives the same result.
struct Moments {
    explicit Moments(int channels) : channels(channels), pivots(channels), sums(channels), squares(channels) {}

    void add(int channel, const vec* values, int n) {  // of one vector of channels; when all have had theirs, n is to be added to count
        if (count == 0) store(&pivots[channel], values[0]);
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
        std::fill(sums.begin(), sums.end(), 0.f);
        std::fill(squares.begin(), squares.end(), 0.f);
    }

    int channels;
    long count = 0;
    std::vector<float> pivots, sums, squares;
};

void mean_and_variance_of(const std::vector<double>& chunks, int channels, double voxels, double* mean_and_variance) {
    std::vector<double> totals(3 * channels);
    for (size_t i = 0; i < chunks.size(); i++) totals[i % totals.size()] += chunks[i];
    for (int c = 0; c < channels; c++) {
        const double total = totals[c];
        mean_and_variance[c] = total / voxels;
        mean_and_variance[channels + c] = std::max(0., (totals[channels + c] + totals[2 * channels + c] - total * total / voxels) / voxels);
    }
}

// Stride 1. Tiles of MD x MH x MW outputs.
template <int KD, int KH, int KW, int MD, int MH, int MW>
struct Winograd {
    using D = Axis<MD, KD>;
    using H = Axis<MH, KH>;
    using W = Axis<MW, KW>;
    static constexpr int IN_PLANE = H::IN * W::IN, POINTS = D::IN * IN_PLANE;  // matrix products of a tile
    static constexpr long CACHE = 450 << 10;  // bytes

    static long transformed_size(int in, int out) { return long(POINTS) * in * out; }

    // (out, in, KD, KH, KW) -> POINTS matrices in x out, in panels
    static void transform_filters(const float* filters, float* transformed, int in, int out, int threads) {
#pragma omp parallel for num_threads(threads)
        for (int i = 0; i < in; i++)
            for (int first = 0; first < out; first += LANES) {
                float points[POINTS][LANES];  // whole vectors at a time: the matrices are a power of two apart
                for (int o = 0; o < LANES; o++) {
                    double by_w[KD][KH][W::IN] = {}, by_h[KD][H::IN][W::IN] = {};
                    const float* g = filters + (long(first + o) * in + i) * KD * KH * KW;
                    for (int a = 0; a < KD; a++) for (int b = 0; b < KH; b++) for (int w = 0; w < W::IN; w++) for (int c = 0; c < KW; c++)
                        by_w[a][b][w] += W::FILTER[w][c] * g[(a * KH + b) * KW + c];
                    for (int a = 0; a < KD; a++) for (int h = 0; h < H::IN; h++) for (int b = 0; b < KH; b++) for (int w = 0; w < W::IN; w++)
                        by_h[a][h][w] += H::FILTER[h][b] * by_w[a][b][w];
                    for (int d = 0; d < D::IN; d++) for (int h = 0; h < H::IN; h++) for (int w = 0; w < W::IN; w++) {
                        double sum = 0;
                        for (int a = 0; a < KD; a++) sum += D::FILTER[d][a] * by_h[a][h][w];
                        points[(d * H::IN + h) * W::IN + w][o] = float(sum);
                    }
                }
                for (int point = 0; point < POINTS; point++) store(transformed + long(point) * in * out + in_panels(i, first, in, out), load(points[point]));
            }
    }

    // Point POINT across planes of one vector of channels, from (z, y, x) on; zero outside. `stride` floats between points of the result.
    template <int POINT> static void transform_input(const Input& input, int channel, Size size, int z, int y, int x, float* to, long stride) {
        static const vec nothing = {};
        constexpr bool ONE = D::PLANES[POINT][1] < 0;
        const long row = long(size.w) * input.channels, plane = row * size.h;
        const float* from[2];
        long step[2], row_step[2];
        for (int i = 0; i < 2; i++) {
            const int at = z + D::PLANES[POINT][i];
            const bool inside = at >= 0 && at < size.d;
            from[i] = inside ? input.data + at * plane + y * row + long(x) * input.channels + channel : reinterpret_cast<const float*>(&nothing);
            step[i] = inside ? input.channels : 0;
            row_step[i] = inside ? row : 0;
        }
        vec tile[H::IN][W::IN];
        const auto fill = [&](int h, int w) {
            const vec one = load(from[0] + h * row_step[0] + w * step[0]);
            if constexpr (ONE) tile[h][w] = one;
            else {
                const vec other = load(from[1] + h * row_step[1] + w * step[1]);
                tile[h][w] = D::SUM[POINT] ? one + other : one - other;
            }
        };
        if (y >= 0 && y + H::IN <= size.h && x >= 0 && x + W::IN <= size.w)
#pragma GCC unroll 6
            for (int h = 0; h < H::IN; h++)
#pragma GCC unroll 6
                for (int w = 0; w < W::IN; w++) fill(h, w);
        else
            for (int h = 0; h < H::IN; h++) for (int w = 0; w < W::IN; w++) {
                if (y + h >= 0 && y + h < size.h && x + w >= 0 && x + w < size.w) fill(h, w);
                else tile[h][w] = vec{};
            }
#pragma GCC unroll 6
        for (int h = 0; h < H::IN; h++) W::input(tile[h], 1);
#pragma GCC unroll 6
        for (int w = 0; w < W::IN; w++) {
            H::input(&tile[0][w], W::IN);
#pragma GCC unroll 6
            for (int h = 0; h < H::IN; h++) store(to + (h * W::IN + w) * stride, tile[h][w]);
        }
    }

    // What point POINT adds to one vector of channels of plane PLANE of a tile, into `result` (the tile's first voxel) as far as it lies inside.
    // An output's first point brings the bias, its last one makes it known to `moments`.
    template <int POINT, int PLANE> static void add_output(const vec (&tile)[H::IN][W::IN], vec bias, float* result, int channels, Size size, Size inside,
                                                           Moments& moments, int channel) {
        if constexpr (D::SIGN[POINT][PLANE] != 0) {
            if (PLANE >= inside.d) return;
            float* const plane = result + long(PLANE) * size.h * size.w * channels;
            vec values[MH * MW] = {};
            const auto add = [&](int h, int w) {
                float* const at = plane + (long(h) * size.w + w) * channels;
                const vec before = D::FIRST[PLANE] == POINT ? bias : load(at);
                const vec value = D::SIGN[POINT][PLANE] > 0 ? before + tile[h][w] : before - tile[h][w];
                store(at, value);
                return value;
            };
            int n = 0;
            if (inside.h == MH && inside.w == MW)
                for (int h = 0; h < MH; h++) for (int w = 0; w < MW; w++) values[n++] = add(h, w);
            else
                for (int h = 0; h < inside.h; h++) for (int w = 0; w < inside.w; w++) values[n++] = add(h, w);
            if (D::LAST[PLANE] == POINT) moments.add(channel, values, n);
        }
    }

    template <int POINT> static void transform_output(const float* from, long stride, vec bias, float* result, int channels, Size size, Size inside,
                                                      Moments& moments, int channel) {
        vec tile[H::IN][W::IN];
        for (int h = 0; h < H::IN; h++) {
            for (int w = 0; w < W::IN; w++) tile[h][w] = load(from + (h * W::IN + w) * stride);
            W::output(tile[h], 1);
        }
        for (int w = 0; w < MW; w++) H::output(&tile[0][w], W::IN);
        add_output<POINT, 0>(tile, bias, result, channels, size, inside, moments, channel);
        if constexpr (MD > 1) add_output<POINT, 1>(tile, bias, result, channels, size, inside, moments, channel);
    }

    // Tiles `first` to `first + rows`, of which one thread does everything, a point across planes at a time: so its matrices stay in cache.
    template <int POINT> static void run_point(const Input* inputs, int n_inputs, int in, Size size, Size tiles, long first, int rows, const float* transformed,
                                               const float* bias, int out, float* result, Moments& moments, float* left, long from_point, float* products,
                                               long to_point) {
        const auto corner = [&](int row) {
            const long tile = first + row;
            return Size{int(tile / tiles.w / tiles.h) * MD, int(tile / tiles.w % tiles.h) * MH, int(tile % tiles.w) * MW};
        };
        for (int row = 0; row < rows; row++) {
            const Size at = corner(row);
            float* to = left + long(row) * in;
            for (int i = 0; i < n_inputs; i++)
                for (int c = 0; c < inputs[i].channels; c += LANES, to += LANES)
                    transform_input<POINT>(inputs[i], c, size, at.d - KD / 2, at.h - KH / 2, at.w - KW / 2, to, from_point);
        }
        for (int point = 0; point < IN_PLANE; point++)
            multiply(left + point * from_point, transformed + (long(POINT) * IN_PLANE + point) * in * out, products + point * to_point,
                     (rows + ROWS - 1) / ROWS * ROWS, in, out);
        for (int row = 0; row < rows; row++) {
            const Size at = corner(row), inside = {std::min(MD, size.d - at.d), std::min(MH, size.h - at.h), std::min(MW, size.w - at.w)};
            float* to = result + ((long(at.d) * size.h + at.h) * size.w + at.w) * out;
            for (int c = 0; c < out; c += LANES)
                transform_output<POINT>(products + long(row) * out + c, to_point, load(bias + c), to + c, out, size, inside, moments, c);
            for (int plane = 0; plane < inside.d; plane++) moments.count += D::LAST[plane] == POINT ? long(inside.h) * inside.w : 0;
        }
    }

    template <int... POINT> static void run_points(std::integer_sequence<int, POINT...>, const Input* inputs, int n_inputs, Size size, const float* transformed,
                                                   const float* bias, int out, float* result, double* mean_and_variance, int threads) {
        const int in = channels_of(inputs, n_inputs);
        const Size tiles = {(size.d + MD - 1) / MD, (size.h + MH - 1) / MH, (size.w + MW - 1) / MW};
        const long n_tiles = long(tiles.d) * tiles.h * tiles.w;
        // as many rows as the second-level cache holds beside images and filters; where it holds few, more, to share what is read of the filters
        const long cached = CACHE / (IN_PLANE * (in + out) * long(sizeof(float))) / ROWS * ROWS;
        const int chunk = rows_at_a_time(n_tiles, threads, cached < 2 * ROWS ? 4 * ROWS : int(std::min(cached, 4L * ROWS)));
        // one vector more than fits: points a power of two apart would fall on the same lines of the cache
        const long from_point = long(chunk) * in + LANES, to_point = long(chunk) * out + LANES;
        std::vector<double> chunks((n_tiles + chunk - 1) / chunk * 3 * out);
#pragma omp parallel num_threads(threads)
        {
            float *const left = left_scratch.get(IN_PLANE * from_point), *const products = products_scratch.get(IN_PLANE * to_point);
            Moments moments(out);
#pragma omp for schedule(dynamic)
            for (long first = 0; first < n_tiles; first += chunk) {
                const int rows = int(std::min<long>(chunk, n_tiles - first));
                (run_point<POINT>(inputs, n_inputs, in, size, tiles, first, rows, transformed, bias, out, result, moments, left, from_point, products,
                                  to_point), ...);
                moments.finish(&chunks[first / chunk * 3 * out]);
            }
        }
        mean_and_variance_of(chunks, out, double(size.d) * size.h * size.w, mean_and_variance);
    }

    static void run(const Input* inputs, int n_inputs, Size size, const float* transformed, const float* bias, int out, Size, float* result,
                    double* mean_and_variance, int threads) {
        run_points(std::make_integer_sequence<int, D::IN>(), inputs, n_inputs, size, transformed, bias, out, result, mean_and_variance, threads);
    }
};

// Any stride. A row of the left matrix is what one output sees.
template <int KD, int KH, int KW>
struct Unfolded {
    static constexpr int KERNEL = KD * KH * KW;
    static long transformed_size(int in, int out) { return long(KERNEL) * in * out; }

    // (out, in, KD, KH, KW) -> (KERNEL * in) x out, in panels
    static void transform_filters(const float* filters, float* transformed, int in, int out, int threads) {
#pragma omp parallel for num_threads(threads)
        for (int first = 0; first < out; first += LANES)
            for (int i = 0; i < in; i++)
                for (int k = 0; k < KERNEL; k++) {
                    float* const to = transformed + in_panels(k * in + i, first, KERNEL * in, out);
                    for (int o = 0; o < LANES; o++) to[o] = filters[(long(first + o) * in + i) * KERNEL + k];
                }
    }

    static void unfold(const Input* inputs, int n_inputs, Size size, int z, int y, int x, float* to) {
        for (int a = z; a < z + KD; a++) for (int b = y; b < y + KH; b++) for (int c = x; c < x + KW; c++) {
            const bool inside = a >= 0 && a < size.d && b >= 0 && b < size.h && c >= 0 && c < size.w;
            for (int i = 0; i < n_inputs; to += inputs[i++].channels) {
                const int channels = inputs[i].channels;
                const float* from = inputs[i].data + ((long(a) * size.h + b) * size.w + c) * channels;
                if (channels == 1) *to = inside ? *from : 0;
                else if (inside) std::memcpy(to, from, channels * sizeof(float));
                else std::memset(to, 0, channels * sizeof(float));
            }
        }
    }

    static void run(const Input* inputs, int n_inputs, Size size, const float* transformed, const float* bias, int out, Size stride,
                    float* result, double* mean_and_variance, int threads) {
        const int in = channels_of(inputs, n_inputs), depth = KERNEL * in;
        const Size grid = {(size.d + stride.d - 1) / stride.d, (size.h + stride.h - 1) / stride.h, (size.w + stride.w - 1) / stride.w};
        const long voxels = long(grid.d) * grid.h * grid.w;
        const int chunk = rows_at_a_time(voxels, threads, ROWS * std::max(16, 1024 / depth));
        std::vector<double> chunks((voxels + chunk - 1) / chunk * 3 * out);
#pragma omp parallel num_threads(threads)
        {
            float *const left = left_scratch.get(long(chunk) * depth), *const products = products_scratch.get(long(chunk) * out);
            Moments moments(out);
#pragma omp for schedule(dynamic)
            for (long first = 0; first < voxels; first += chunk) {
                const int rows = int(std::min<long>(chunk, voxels - first));
                for (int row = 0; row < rows; row++) {
                    const long voxel = first + row;
                    unfold(inputs, n_inputs, size, int(voxel / grid.w / grid.h) * stride.d - KD / 2, int(voxel / grid.w % grid.h) * stride.h - KH / 2,
                           int(voxel % grid.w) * stride.w - KW / 2, left + long(row) * depth);
                }
                multiply(left, transformed, products, (rows + ROWS - 1) / ROWS * ROWS, depth, out);
                for (int row = 0; row < rows; row++, moments.count++)
                    for (int c = 0; c < out; c += LANES) {
                        const vec value = load(products + long(row) * out + c) + load(bias + c);
                        store(result + (first + row) * out + c, value);
                        moments.add(c, &value, 1);
                    }
                moments.finish(&chunks[first / chunk * 3 * out]);
            }
        }
        mean_and_variance_of(chunks, out, double(voxels), mean_and_variance);
    }
};

// Calls `use` with the convolution for a kernel; false if there is none.
template <class Use> bool with_convolution(int kd, int kh, int kw, bool unfolded, Use use) {
    const int kernel = kd * 100 + kh * 10 + kw;
    if (kernel == 111) use(Unfolded<1, 1, 1>());
    else if (kernel == 133 && unfolded) use(Unfolded<1, 3, 3>());
    else if (kernel == 133) use(Winograd<1, 3, 3, 1, 4, 4>());
    else if (kernel == 333 && unfolded) use(Unfolded<3, 3, 3>());
    else if (kernel == 333) use(Winograd<3, 3, 3, 2, 4, 4>());
    else return false;
    return true;
}

}  // namespace

extern "C" {

int lanes() { return LANES; }

// Floats that the filters of a kernel become; 0 for a kernel that has no code here. Winograd's stride is 1, and its `in` a multiple of LANES.
long transformed_size(int kd, int kh, int kw, int unfolded, int in, int out) {
    long size = 0;
    with_convolution(kd, kh, kw, unfolded, [&](auto convolution) { size = convolution.transformed_size(in, out); });
    return size;
}

// filters (out, in, kd, kh, kw)
void transform_filters(int kd, int kh, int kw, int unfolded, const float* filters, float* transformed, int in, int out, int threads) {
    with_convolution(kd, kh, kw, unfolded, [&](auto convolution) { convolution.transform_filters(filters, transformed, in, out, threads); });
}

// "Same"-padded convolution of the channels of all inputs together; `mean_and_variance` (2, out) are those of the result's voxels.
void convolve(int kd, int kh, int kw, int unfolded, const float* const* inputs, const int* channels, int n_inputs, int d, int h, int w,
              const float* transformed, const float* bias, int out, int sd, int sh, int sw, float* result, double* mean_and_variance, int threads) {
    std::vector<Input> all;
    for (int i = 0; i < n_inputs; i++) all.push_back({inputs[i], channels[i]});
    with_convolution(kd, kh, kw, unfolded, [&](auto convolution) {
        convolution.run(all.data(), n_inputs, {d, h, w}, transformed, bias, out, {sd, sh, sw}, result, mean_and_variance, threads);
    });
}

// In place: x * scale + shift (per channel), plus `residual` if there is one, then leaky ReLU (slope 1: none).
void scale_and_activate(float* x, const float* scale, const float* shift, const float* residual, float slope, long voxels, int channels,
                        int threads) {
#pragma omp parallel for num_threads(threads)
    for (long voxel = 0; voxel < voxels; voxel++)
        for (int c = 0; c < channels; c += LANES) {
            const long at = voxel * channels + c;
            vec value = load(x + at) * load(scale + c) + load(shift + c);
            if (residual) value += load(residual + at);
            const vec lower = value * slope;
            store(x + at, value > lower ? value : lower);
        }
}

// Means of blocks of sd x sh x sw voxels, which divide (d, h, w).
void average_pool(const float* x, int channels, int d, int h, int w, int sd, int sh, int sw, float* result, int threads) {
    const int gd = d / sd, gh = h / sh, gw = w / sw;
    const float weight = 1.f / (sd * sh * sw);
#pragma omp parallel for num_threads(threads)
    for (long line = 0; line < long(gd) * gh; line++)
        for (int i = 0; i < gw; i++)
            for (int c = 0; c < channels; c += LANES) {
                vec sum = vec{};
                for (int a = 0; a < sd; a++) for (int b = 0; b < sh; b++) for (int e = 0; e < sw; e++)
                    sum += load(x + (((line / gh * sd + a) * h + line % gh * sh + b) * w + long(i) * sw + e) * channels + c);
                store(result + (line * gw + i) * channels + c, sum * weight);
            }
}

// (kernel's voxels) matrices in x out, in panels, of a transposed convolution's weights (in, out, kernel).
void transform_transposed(const float* weights, float* transformed, int in, int out, int kernel_voxels) {
    for (int i = 0; i < in; i++) for (int o = 0; o < out; o++) for (int k = 0; k < kernel_voxels; k++)
        transformed[long(k) * in * out + in_panels(i, o, in, out)] = weights[(long(i) * out + o) * kernel_voxels + k];
}

// Transposed convolution whose kernel is its stride: every input voxel becomes a block of sd x sh x sw voxels.
void convolve_transposed(const float* x, int in, int d, int h, int w, const float* transformed, const float* bias, int out, int sd, int sh, int sw,
                         float* result, int threads) {
    const long lines = long(d) * h;
    const int rows = (w + ROWS - 1) / ROWS * ROWS;
#pragma omp parallel num_threads(threads)
    {
        float *const left = left_scratch.get(long(rows) * in), *const products = products_scratch.get(long(rows) * out);
#pragma omp for
        for (long line = 0; line < lines; line++) {
            std::memcpy(left, x + line * w * in, long(w) * in * sizeof(float));
            const long z = line / h * sd, y = line % h * sh;
            for (int k = 0; k < sd * sh * sw; k++) {
                multiply(left, transformed + long(k) * in * out, products, rows, in, out);
                float* to = result + (((z + k / sw / sh) * h * sh + y + k / sw % sh) * w * sw + k % sw) * out;
                for (int i = 0; i < w; i++)
                    for (int c = 0; c < out; c += LANES)
                        store(to + long(i) * sw * out + c, load(products + long(i) * out + c) + load(bias + c));
            }
        }
    }
}

}  // extern "C"
