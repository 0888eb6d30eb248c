// What the compiled functions take (structs.py has the same fields), how arguments are refused, and how problems are told.

#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <new>
#include <stdexcept>

#include "simd.h"

// Axes are (D, H, W).
struct Convolution {
    int kernel[3], stride[3];
    int tile;     // 1: none; else its depth and its width in digits
    int int16;    // products of 16-bit integers instead of fp32, and activations as they are stored beside them
    int pairs;    // products of pairs of bf16 instead; activations as beside 16-bit integers, which int16 says
    int to_half;  // the input is the image, in float32, and the result as int16 stores it
    int in, out;  // channels
};

struct ConvolutionData {
    const void* const* inputs;  // each (*size, channels); they count as one of all their channels
    const int* channels;
    int n_inputs;
    int size[3];
    const void* filters;  // as transform_filters leaves them
    const float* bias;
    void* result;
    double* moments;  // (2, out): mean and variance of the result's voxels
};

struct Scaling {
    int int16, channels;
    long voxels;
    void* x;
    const float *scale, *shift;  // (channels)
    const void* residual;        // as x, or null
    float slope;                 // of a leaky ReLU; 1: none
};

struct Segmentation {
    int int16, channels, labels;
    long voxels;
    const void* x;                // (voxels, channels)
    const float *weights, *bias;  // (labels, channels), (labels)
    float* logits;                // (labels, voxels)
};

struct Pooling {
    int int16, channels;
    int size[3], block[3];
    const void* x;
    void* result;
};

struct Transposition {
    int int16, pairs, in, out;
    int stride[3];
};

struct TranspositionData {
    int size[3];
    const void *x, *filters;
    const float* bias;
    void* result;
};

namespace {

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
