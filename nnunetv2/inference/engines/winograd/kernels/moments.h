// Mean and variance of the channels of a result.

#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

namespace {

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

}  // namespace
