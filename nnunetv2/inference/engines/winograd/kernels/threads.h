// What threads of a layer have: memory that stays, and the first exception among them.

#pragma once

#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

namespace {

// The first exception of several threads: none may leave a parallel region. Layers write their parallel loops out: one function for all of them,
// with the layer's part as a lambda, gave the same bytes and took a tenth longer (docs/lab-notes.md).
class Failure {
public:
    void note() {
#pragma omp critical(winograd_failure)
        if (!error) error = std::current_exception();
    }
    void rethrow() const {
        if (error) std::rethrow_exception(error);
    }

private:
    std::exception_ptr error;
};

// Memory of a thread, of any content, which stays from layer to layer.
class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(data); }
    template <class Word> Word* get(long words) {
        if (words > size) {
            constexpr size_t LINE = 64;
            const size_t bytes = (words * sizeof(Word) + LINE - 1) / LINE * LINE;
            std::free(data);
            size = 0;
            data = std::aligned_alloc(LINE, bytes);
            if (!data) throw std::bad_alloc();
            std::memset(data, 0, bytes);
            size = bytes / sizeof(Word);
        }
        return static_cast<Word*>(data);
    }

private:
    void* data = nullptr;
    long size = 0;  // words of 4 bytes
};
thread_local Scratch lines_scratch, left_scratch, products_scratch, sums_scratch;

}  // namespace
