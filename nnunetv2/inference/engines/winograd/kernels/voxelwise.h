// Layers that take each voxel, or block of voxels, by itself.

#pragma once

#include "arguments.h"
#include "simd.h"

namespace {

template <class Stored> void scale_and_activate_as(const Scaling& s, int threads) {
    auto* const values = static_cast<Stored*>(s.x);
    const auto* const added = static_cast<const Stored*>(s.residual);
#pragma omp parallel for num_threads(threads)
    for (long voxel = 0; voxel < s.voxels; voxel++)
        for (int c = 0; c < s.channels; c += LANES) {
            const long at = voxel * s.channels + c;
            vec value = load(values + at) * load(s.scale + c) + load(s.shift + c);
            if (added) value += load(added + at);
            const vec lower = value * s.slope;
            store(values + at, value > lower ? value : lower);
        }
}

template <class Stored> void segment_as(const Segmentation& s, int threads) {
    const auto* const values = static_cast<const Stored*>(s.x);
#pragma omp parallel for num_threads(threads)
    for (long voxel = 0; voxel < s.voxels; voxel++)
        for (int label = 0; label < s.labels; label++) {
            vec products = {};
            for (int c = 0; c < s.channels; c += LANES) products += load(values + voxel * s.channels + c) * load(s.weights + label * s.channels + c);
            s.logits[label * s.voxels + voxel] = sum_of_lanes(products) + s.bias[label];
        }
}

// Blocks divide the size.
template <class Stored> void average_pool_as(const Pooling& p, int threads) {
    const auto* const from = static_cast<const Stored*>(p.x);
    auto* const to = static_cast<Stored*>(p.result);
    const int sd = p.block[0], sh = p.block[1], sw = p.block[2], h = p.size[1], w = p.size[2];
    const int gd = p.size[0] / sd, gh = h / sh, gw = w / sw, channels = p.channels;
    const float weight = 1.f / (sd * sh * sw);
#pragma omp parallel for num_threads(threads)
    for (long line = 0; line < long(gd) * gh; line++)
        for (int i = 0; i < gw; i++)
            for (int c = 0; c < channels; c += LANES) {
                vec sum = vec{};
                for (int a = 0; a < sd; a++) for (int b = 0; b < sh; b++) for (int e = 0; e < sw; e++)
                    sum += load(from + (((line / gh * sd + a) * h + line % gh * sh + b) * w + long(i) * sw + e) * channels + c);
                store(to + (line * gw + i) * channels + c, sum * weight);
            }
}

}  // namespace
