// Convolutions on tiles, by minimal filtering.

#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "gemm.h"
#include "layer.h"
#include "moments.h"
#include "threads.h"
#include "transforms.h"

namespace {

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
                    auto* const to = work.left + long(row + tile + j) * depth;
                    for (int i = 0, vector = 0, before = 0; i < layer.n_inputs; before += layer.channels[i++])
                        for (int c = 0; c < layer.channels[i]; c += LANES) {
                            transform_input<Number>(lines + line * before + long(j) * MW * SW * layer.channels[i] + c, layer.channels[i], width, factors,
                                                    to + Number::place(vector++), work.from_point, squares, reach);
                            if constexpr (Number::INTEGERS)
                                if (vector % BLOCK_VECTORS == 0 || vector * LANES == layer.in)
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
                             full_rows<Number>(rows), depth, out, Number::INTEGERS ? work.parts : filters.parts);
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
        constexpr int ROWS = Number::ROWS;
        const long cached = CACHE / (IN_PLANE * (depth + out) * long(sizeof(float))) / ROWS * ROWS;
        const int chunk = rows_at_a_time<Number>(n_tiles, layer.threads, cached < 2 * ROWS ? (MD > 2 ? 2 : 4) * ROWS : int(std::min(cached, 4L * ROWS)));
        std::vector<float> factors(POINTS);
        for (int point = 0; point < POINTS; point++) factors[point] = factor(point);
        const Packed<Number> layout = packed<Number>(in, out);
        const Filters<Number> filters = {transformed, factors, layout.product_scales(transformed, factors), layout.largest_norms(transformed), layout.blocks,
                                         parts_of_fp32(depth)};
        std::vector<double> chunks((n_tiles + chunk - 1) / chunk * 3 * out);
        Failure failure;
#pragma omp parallel num_threads(layer.threads)
        {
            [[maybe_unused]] const typename Number::Tiles tiles_of_thread;
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
                for (int point = 0; point < IN_PLANE; point++) clear_rows_after<Number>(work->left + point * work->from_point, rows, depth);
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

}  // namespace
