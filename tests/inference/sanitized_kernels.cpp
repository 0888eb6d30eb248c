// Runs every function of dispatch.cpp (KERNELS names the file) on random shapes in arrays of exactly their size. Built with
// -fsanitize=address,undefined it ends at the first access outside of them. Arguments: a seed and the number of rounds.

#include KERNELS

#include <cstdio>
#include <random>

namespace {

std::mt19937 generator;
int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

bool positive = false;  // whether numbers have one sign: sums of many then leave 32 bits where they are not taken in parts

std::vector<float> noise(size_t n) {
    std::vector<float> values(n);
    std::normal_distribution<float> normal;
    for (float& value : values) value = positive ? std::abs(normal(generator)) : normal(generator);
    return values;
}

// Activations as they are stored, in 2 or 4 bytes each.
struct Stored {
    std::vector<char> bytes;
    Stored(long n, int int16) : bytes(size_t(n) * stored_bytes(int16)) {
        if (stored_bytes(int16) == 4) std::memcpy(bytes.data(), noise(n).data(), bytes.size());
        else for (long i = 0; i < n; i++) bytes[2 * i] = char(between(0, 255)), bytes[2 * i + 1] = char(between(0x30, 0x40));  // about 0.1 to 2 in fp16
    }
    void* data() { return bytes.data(); }
};

void expect(int got, int expected, const char* what) {
    if (got == expected) return;
    std::fprintf(stderr, "%s: %d instead of %d: %s\n", what, got, expected, problem());
    std::exit(1);
}

struct Way { int kernel[3], stride[3], tile; };
const Way WAYS[] = {
    {{1, 1, 1}, {1, 1, 1}, 1},  {{1, 1, 1}, {2, 1, 2}, 1},  {{1, 3, 3}, {1, 2, 1}, 1},  {{3, 3, 3}, {1, 1, 1}, 1},  {{3, 3, 3}, {2, 2, 2}, 1},
    {{1, 3, 3}, {1, 1, 1}, 14}, {{1, 3, 3}, {1, 2, 2}, 12}, {{3, 3, 3}, {1, 1, 1}, 22}, {{3, 3, 3}, {1, 1, 1}, 24}, {{3, 3, 3}, {1, 1, 1}, 44},
    {{3, 3, 3}, {1, 2, 2}, 22}, {{3, 3, 3}, {1, 2, 2}, 42}, {{3, 3, 3}, {2, 2, 2}, 22}};

void convolution(const Way& way, int int16, int pairs) {
    const int d = between(1, 7), h = between(1, 9), w = between(1, 13), out = (pairs ? 16 : lanes()) * between(1, 5), threads = between(1, 3);
    const bool image = way.tile == 1 && !int16 && !pairs && between(0, 1);
    std::vector<int> channels(image ? 1 : between(1, 2));
    for (int& n : channels) n = image ? between(1, 3) : (pairs ? 32 : lanes()) * between(1, 4);
    const int in = std::accumulate(channels.begin(), channels.end(), 0);
    const int to_half = image && between(0, 1);
    const int(&kernel)[3] = way.kernel, (&stride)[3] = way.stride, tile = way.tile;
    const Convolution which = {{kernel[0], kernel[1], kernel[2]}, {stride[0], stride[1], stride[2]}, tile, int16, pairs, to_half, in, out};
    const long size = transformed_size(&which);
    if (size == 0) return;  // deep tiles in fp32
    const std::vector<float> weights = noise(size_t(out) * in * kernel[0] * kernel[1] * kernel[2]), bias = noise(out);
    std::vector<float> filters(size);
    expect(transform_filters(&which, weights.data(), filters.data(), threads), NONE, "filters");
    std::vector<Stored> inputs;
    std::vector<const void*> pointers;
    for (const int n : channels) inputs.emplace_back(long(d) * h * w * n, int16);
    for (Stored& input : inputs) pointers.push_back(input.data());
    const long voxels = long((d + stride[0] - 1) / stride[0]) * ((h + stride[1] - 1) / stride[1]) * ((w + stride[2] - 1) / stride[2]);
    Stored result(voxels * out, int16 || to_half);
    std::vector<double> moments(2 * out);
    const auto run = [&](int tile, int width, int n_out) {
        Convolution asked = which;
        asked.tile = tile, asked.out = n_out;
        const ConvolutionData data = {pointers.data(), channels.data(), int(channels.size()), {d, h, width}, filters.data(), bias.data(), result.data(), moments.data()};
        return convolve(&asked, &data, threads);
    };
    expect(run(tile, w, out), NONE, "convolution");
    expect(run(99, w, out), REFUSED, "an unknown tile");
    expect(run(tile, 0, out), REFUSED, "an empty size");
    expect(run(tile, w, out + 1), REFUSED, "channels that vectors do not divide");

    const std::vector<float> scale = noise(out), shift = noise(out), last = noise(size_t(3) * out), last_bias = noise(3);
    Stored residual(voxels * out, int16);
    std::vector<float> logits(3 * voxels);
    if (!to_half) {
        const Scaling scaling = {int16, out, voxels, result.data(), scale.data(), shift.data(), between(0, 1) ? residual.data() : nullptr, .01f};
        expect(scale_and_activate(&scaling, threads), NONE, "scale and activation");
        const Segmentation segmentation = {int16, out, 3, voxels, result.data(), last.data(), last_bias.data(), logits.data()};
        expect(segment(&segmentation, threads), NONE, "last layer");
    }
}

void transposed_and_pooled(int int16, int pairs) {
    const int d = between(1, 5), h = between(1, 5), w = between(1, 15), sd = between(1, 2), sh = between(1, 3), sw = between(1, 2), kernel = sd * sh * sw;
    const int in = (pairs ? 32 : lanes()) * between(1, 4), out = (pairs ? 16 : lanes()) * between(1, 4), threads = between(1, 3);
    const std::vector<float> weights = noise(size_t(in) * out * kernel), bias = noise(out);
    const Transposition which = {int16, pairs, in, out, {sd, sh, sw}};
    std::vector<float> transformed(transposed_size(&which));
    expect(transform_transposed(&which, weights.data(), transformed.data()), NONE, "transposed filters");
    Stored input(long(d) * h * w * in, int16), result(long(d) * h * w * kernel * out, int16), pooled(long(d) * h * w * out, int16);
    const auto run = [&](int width, int channels) {
        const Transposition asked = {int16, pairs, channels, out, {sd, sh, sw}};
        const TranspositionData data = {{d, h, width}, input.data(), transformed.data(), bias.data(), result.data()};
        return convolve_transposed(&asked, &data, threads);
    };
    const auto pool = [&](int width) {
        const Pooling pooling = {int16, out, {d * sd, h * sh, width}, {sd, sh, sw}, result.data(), pooled.data()};
        return average_pool(&pooling, threads);
    };
    expect(run(w, in), NONE, "transposed convolution");
    expect(run(w, in + 1), REFUSED, "channels that vectors do not divide");
    expect(run(1 << 30, in), NO_MEMORY, "a line that memory does not hold");
    expect(pool(w * sw), NONE, "pooling");
    if (sw > 1) expect(pool(w * sw - 1), REFUSED, "an odd size");
}

}  // namespace

int main(int, char** arguments) {
    generator.seed(std::atoi(arguments[1]));
    for (int round = 0; round < std::atoi(arguments[2]); round++)
        for (const int int16 : {0, 1})
            for (const int pairs : {0, int16}) {
                positive = round % 2 == 0;
                for (const Way& way : WAYS) convolution(way, int16, pairs);
                transposed_and_pooled(int16, pairs);
            }
}
