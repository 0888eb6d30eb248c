// Winograd's transforms along one axis.

#pragma once

#include "simd.h"

namespace {

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

}  // namespace
