// Convolutions as one matrix product of unfolded inputs.

#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "gemm.h"
#include "layer.h"
#include "moments.h"
#include "threads.h"

namespace {

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
    template <class Number> static void unfold_split(const Layer& layer, int z, int y, int x, uint32_t* to) {
        long vector = 0;
        for_each_run<typename Number::In>(layer, z, y, x, [&](const typename Number::In* from, int channels) {
            for (int c = 0; c < channels; c += LANES) Number::put(to + Number::place(vector++), from ? load(from + c) : vec{});
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
        const int chunk = rows_at_a_time<Number>(voxels, layer.threads, Number::ROWS * std::max(16, 1024 / depth));
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
            [[maybe_unused]] const typename Number::Tiles tiles;
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
                clear_rows_after<Number>(work->left, rows, depth);
                if constexpr (Number::INTEGERS) work->norms.start();
                for (int row = 0; row < rows; row++) {
                    const long voxel = first + row;
                    const int z = int(voxel / grid.w / grid.h) * stride.d - KD / 2, y = int(voxel / grid.w % grid.h) * stride.h - KH / 2,
                              x = int(voxel % grid.w) * stride.w - KW / 2;
                    auto* const to = work->left + long(row) * depth;
                    if constexpr (Number::INTEGERS) {
                        work->row_scales[row] = largest_seen(layer, of_voxels, z, y, x);
                        unfold(layer, z, y, x, to, Int16::LARGEST / work->row_scales[row], work->norms);
                    } else if constexpr (Number::SPLIT)
                        unfold_split<Number>(layer, z, y, x, to);
                    else
                        unfold(layer, z, y, x, to);
                }
                if constexpr (Number::INTEGERS) {
                    work->norms.finish();
                    parts_of_int16(work->norms.of_line(0), filter_norms.data(), depth, work->parts);
                }
                multiply<Number>(work->left, transformed, work->products, full_rows<Number>(rows), depth, out, Number::INTEGERS ? work->parts : whole);
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

}  // namespace
