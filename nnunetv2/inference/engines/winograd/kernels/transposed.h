// Transposed convolutions.

#pragma once

#include <memory>
#include <vector>

#include "arguments.h"
#include "gemm.h"
#include "layer.h"
#include "threads.h"

namespace {

// Transposed convolution whose kernel is its stride: a matrix product for each voxel of the kernel.
template <class Number> struct Transposed {
    typedef typename Number::Word Word;

    static Packed<Number> packed(int in, int out, Size stride) { return Packed<Number>(stride.d * stride.h * stride.w, in, out); }

    // (in, out, kernel) -> matrices in x out, in panels
    static void transform(const float* weights, Word* transformed, int in, int out, Size stride) {
        const long matrix = long(in) * out / Number::PER_WORD;
        const int kernel_voxels = stride.d * stride.h * stride.w;
        const Packed<Number> layout = packed(in, out, stride);
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
            for (long c = 0; c < long(width) * in; c += LANES) Number::put(work.left + Number::place(c / LANES), load(line + c));
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

    static void run(const Transposition& which, const TranspositionData& data, int threads) {
        const auto* const x = static_cast<const typename Number::In*>(data.x);
        const auto* const transformed = static_cast<const Word*>(data.filters);
        auto* const result = static_cast<typename Number::Out*>(data.result);
        const float* const bias = data.bias;
        const Size size = size_of(data.size), stride = size_of(which.stride);
        const int in = which.in, out = which.out;
        const long lines = long(size.d) * size.h, matrix = long(in) * out / Number::PER_WORD;
        const int rows = full_rows<Number>(size.w), depth = in / Number::PER_WORD, kernel_voxels = stride.d * stride.h * stride.w;
        const Packed<Number> layout = packed(in, out, stride);
        const std::vector<float> scales = layout.product_scales(transformed, std::vector<float>(kernel_voxels, Int16::LARGEST)),
                                 filter_norms = layout.largest_norms(transformed);
        const Parts whole = parts_of_fp32(depth);
        Failure failure;
#pragma omp parallel num_threads(threads)
        {
            [[maybe_unused]] const typename Number::Tiles tiles;
            std::unique_ptr<Work> work;
            try {
                work = std::make_unique<Work>(rows, depth, out, layout.blocks);
                clear_rows_after<Number>(work->left, size.w, depth);
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

}  // namespace
