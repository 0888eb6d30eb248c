// The layers of a U-Net on a CPU: convolutions by Winograd's minimal filtering, instance normalisation, transposed convolutions.
//
// A 3x3x3 convolution costs 27 multiplications an output, channel and filter; on tiles of 4x4x4 outputs it costs 6 x 6 x 6 / 64 = 3.4, of 2x4x4 4.5, of
// 2x2x2 eight (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1, nested over three axes). Filters grow to
// 216 / 27, 144 / 27 and 64 / 27 of their size. With a stride of 2 the middle tap sees other voxels than the outer two, so that two outputs along an axis
// cost 2 + 3 multiplications instead of 6. Layers of few voxels, and of the image, are matrix products of unfolded inputs.
//
// Matrix products, where most of the time goes, are in fp32; or of 16-bit integers, twice as many at a time: one instruction multiplies and adds them
// with AVX-512 VNNI, two with AVX2; or of numbers split into two of bf16, in AMX tiles. Everything else is in fp32. Activations are (D, H, W, C), float32,
// or beside integers and split numbers Half; C is a multiple of LANES but for the image. Every function that computes takes the number of threads, and
// returns 0 or what was wrong (Problem). arguments.h says what each takes.
//
// Integers are never cut off: inputs are scaled by the largest of a few neighbouring tiles, so that they fit 16 bits whatever they are, and a sum of
// products is taken in as many parts as it needs to fit 32 bits. How many follows from Cauchy and Schwarz' inequality, by the norms of what is multiplied.

#include <numeric>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "arguments.h"
#include "transposed.h"
#include "unfolded.h"
#include "voxelwise.h"
#include "winograd.h"

namespace {

// Calls `use` with the convolution of a kernel and stride on tiles of so many voxels, as digits: their depth, then their width in a plane (1: unfolded).
// False if there is none.
template <class Number, class Use> bool with_convolution(const Convolution& which, Use use) {
    const auto digits = [](const int (&axes)[3]) { return axes[0] * 100 + axes[1] * 10 + axes[2]; };
    const int kernel = digits(which.kernel), stride = digits(which.stride), tile = which.tile;
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
        else if constexpr (Number::INTEGERS || Number::SPLIT) {
            if (kernel == 333 && stride == 111 && tile == 44) use(Winograd<3, 3, 3, 4, 4, 4>());
            else if (kernel == 333 && stride == 122 && tile == 42) use(Winograd<3, 3, 3, 4, 2, 2, 1, 2, 2>());
            else return false;
        }
        else return false;
        return true;
    }
    return false;
}

// Calls `use` with a Number. Where there are activations alone, Int16 and Fp32 tell how they are stored.
template <class Use> void with_number(bool int16, Use use) {
    if (int16) use(Int16());
    else use(Fp32());
}
template <class Use> void with_number(bool int16, bool pairs, Use use) {
    if (!pairs) return with_number(int16, use);
#if HAS_PAIRS
    use(Bf16Pairs());
#endif
}
bool has_code_for_pairs(int int16, int in, int out) { return HAS_PAIRS && int16 && in % TILE_DEPTH == 0 && out % TILE == 0; }

bool has_tiles_now() {
#if HAS_TILES
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    static const bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
    return allowed;
#else
    return false;
#endif
}

// Tiles without leave would end the process by a signal.
bool may(bool pairs) { return !pairs || !HAS_TILES || has_tiles_now(); }

bool counts(const int (&axes)[3]) { return counts({axes[0], axes[1], axes[2]}); }

}  // namespace

extern "C" {

int lanes() { return LANES; }

// Whether products of pairs of bf16 are computed in AMX tiles, and this process may; else they are slow.
int has_tiles() { return has_tiles_now(); }

// Bytes of a stored activation.
int stored_bytes(int int16) { return int16 ? sizeof(Half) : sizeof(float); }

// Bytes of the structs in arguments.h, in their order; 0 after the last.
long struct_size(int which) {
    constexpr size_t SIZES[] = {sizeof(Convolution), sizeof(ConvolutionData), sizeof(Scaling), sizeof(Segmentation), sizeof(Pooling), sizeof(Transposition),
                                sizeof(TranspositionData), 0};
    return long(SIZES[std::clamp(which, 0, 7)]);
}

// What the last problem of this thread was.
const char* problem() { return problem_text; }

// Floats that the filters of a kernel become; 0 for what has no code here.
long transformed_size(const Convolution* which) {
    if (!which || !counts({which->in, which->out}) || which->out % LANES || ((which->int16 || which->tile > 1) && which->in % LANES)) return 0;
    if (which->pairs && !has_code_for_pairs(which->int16, which->in, which->out)) return 0;
    long size = 0;
    with_number(which->int16, which->pairs, [&](auto number) {
        typedef decltype(number) Number;
        with_convolution<Number>(*which, [&](auto convolution) { size = convolution.template packed<Number>(which->in, which->out).size(); });
    });
    return size;
}

// filters (out, in, *kernel) -> transformed, of transformed_size
int transform_filters(const Convolution* which, const float* filters, void* transformed, int threads) {
    return problem_of([&] {
        require(filters && transformed && threads > 0, "an array or a thread is missing");
        require(transformed_size(which) > 0, "there is no code for this kernel, stride, tile or number of channels");
        with_number(which->int16, which->pairs, [&](auto number) {
            typedef decltype(number) Number;
            with_convolution<Number>(*which, [&](auto convolution) {
                convolution.template transform_filters<Number>(filters, static_cast<typename Number::Word*>(transformed), which->in, which->out, threads);
            });
        });
    });
}

// "Same"-padded convolution.
int convolve(const Convolution* which, const ConvolutionData* data, int threads) {
    return problem_of([&] {
        require(which && data && data->inputs && data->channels && data->n_inputs > 0 && data->filters && data->bias && data->result && data->moments
                    && threads > 0, "an array or a thread is missing");
        require(counts(data->size) && counts(which->stride) && which->out >= 1, "a size or stride is none");
        for (int i = 0; i < data->n_inputs; i++) {
            require(data->inputs[i] && data->channels[i] > 0 && data->channels[i] < 1 << 20, "an input or its channels are missing");
            require(!(which->int16 || which->tile > 1) || data->channels[i] % LANES == 0, "vectors do not divide an input's channels");
        }
        require(which->in == std::accumulate(data->channels, data->channels + data->n_inputs, 0), "inputs have other channels than the filters");
        require(transformed_size(which) > 0 && !(which->to_half && (which->int16 || which->pairs || which->tile > 1)) && may(which->pairs),
                "there is no code for this kernel, stride, tile or number of channels");
        const Size size = size_of(data->size), stride = size_of(which->stride);
        const Size grid = {(size.d + stride.d - 1) / stride.d, (size.h + stride.h - 1) / stride.h, (size.w + stride.w - 1) / stride.w};
        const Layer layer = {data->inputs, data->channels, data->n_inputs, which->in, size, stride, grid, data->bias, which->out, data->result, data->moments,
                             threads};
        const auto run = [&](auto number) {
            typedef decltype(number) Number;
            with_convolution<Number>(*which, [&](auto convolution) {
                convolution.template run<Number>(layer, static_cast<const typename Number::Word*>(data->filters));
            });
        };
        if (which->to_half) run(Fp32ToHalf());
        else with_number(which->int16, which->pairs, run);
    });
}

int scale_and_activate(const Scaling* s, int threads) {
    return problem_of([&] {
        require(s && s->x && s->scale && s->shift && threads > 0 && counts({s->voxels, s->channels}) && lanes_divide(s->channels),
                "an array, a size or a thread is missing");
        with_number(s->int16, [&](auto number) { scale_and_activate_as<typename decltype(number)::Out>(*s, threads); });
    });
}

int segment(const Segmentation* s, int threads) {
    return problem_of([&] {
        require(s && s->x && s->weights && s->bias && s->logits && threads > 0 && counts({s->voxels, s->channels, s->labels}) && lanes_divide(s->channels),
                "an array, a size or a thread is missing");
        with_number(s->int16, [&](auto number) { segment_as<typename decltype(number)::In>(*s, threads); });
    });
}

int average_pool(const Pooling* p, int threads) {
    return problem_of([&] {
        require(p && p->x && p->result && threads > 0 && counts(p->size) && counts(p->block) && lanes_divide(p->channels),
                "an array, a size or a thread is missing");
        for (int axis = 0; axis < 3; axis++) require(p->size[axis] % p->block[axis] == 0, "blocks do not divide the size");
        with_number(p->int16, [&](auto number) { average_pool_as<typename decltype(number)::In>(*p, threads); });
    });
}

// Floats that the weights of a transposed convolution become; 0 for what has no code here.
long transposed_size(const Transposition* which) {
    if (!which || !counts({which->in, which->out}) || !counts(which->stride) || which->in % LANES || which->out % LANES) return 0;
    if (which->pairs && !has_code_for_pairs(which->int16, which->in, which->out)) return 0;
    long size = 0;
    with_number(which->int16, which->pairs, [&](auto number) { size = Transposed<decltype(number)>::packed(which->in, which->out, size_of(which->stride)).size(); });
    return size;
}

// weights (in, out, *stride) -> transformed, of transposed_size
int transform_transposed(const Transposition* which, const float* weights, void* transformed) {
    return problem_of([&] {
        require(weights && transformed && transposed_size(which) > 0, "an array is missing, or vectors do not divide the channels");
        with_number(which->int16, which->pairs, [&](auto number) {
            typedef decltype(number) Number;
            Transposed<Number>::transform(weights, static_cast<typename Number::Word*>(transformed), which->in, which->out, size_of(which->stride));
        });
    });
}

// Every input voxel becomes a block of as many voxels as the stride has.
int convolve_transposed(const Transposition* which, const TranspositionData* data, int threads) {
    return problem_of([&] {
        require(which && data && data->x && data->filters && data->bias && data->result && threads > 0 && counts(data->size),
                "an array, a size or a thread is missing");
        require(transposed_size(which) > 0 && may(which->pairs), "vectors do not divide the channels");
        with_number(which->int16, which->pairs, [&](auto number) { Transposed<decltype(number)>::run(*which, *data, threads); });
    });
}

}  // extern "C"
