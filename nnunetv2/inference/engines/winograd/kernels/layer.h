// What one call of a layer is about.

#pragma once

#include <algorithm>

#include "gemm.h"

namespace {

// Rows that one thread takes at a time: enough to reuse filters from cache, few enough that every thread gets some.
template <class Number> int rows_at_a_time(long rows, int threads, int largest) {
    const long share = (rows + threads - 1) / threads;
    return int(std::min<long>(largest, (share + Number::ROWS - 1) / Number::ROWS * Number::ROWS));
}

struct Size { int d, h, w; };
Size size_of(const int (&axes)[3]) { return {axes[0], axes[1], axes[2]}; }

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

}  // namespace
