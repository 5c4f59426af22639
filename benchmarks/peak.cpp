// Multiply-add peak of one thread in operations per second: float32, bfloat16 and int8 products with 512-bit vectors.
#include <chrono>
#include <cstdio>
#include <immintrin.h>

template <class Acc, class Step>
static double peak(double operations, Acc zero, Step step) {
  double best = 0;
  for (int round = 0; round < 20; round++) {
    Acc acc[16];
    for (auto& a : acc) a = zero;
    const int loops = 200000;
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < loops; i++) {
#pragma GCC unroll 16
      for (auto& a : acc) {
        a = step(a);
        asm volatile("" : "+v"(a));  // every product is really made
      }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (loops * 16 * operations / seconds > best) best = loops * 16 * operations / seconds;
  }
  return best;
}

int main() {
  const __m512 ones = _mm512_set1_ps(1e-9f);
  const __m512i codes = _mm512_set1_epi8(1);
  const __m512bh halves = (__m512bh)codes;
  std::printf("%.0f %.0f %.0f\n",
              peak(2 * 16, _mm512_setzero_ps(), [&](__m512 a) { return _mm512_fmadd_ps(ones, ones, a); }),
              peak(2 * 32, _mm512_setzero_ps(), [&](__m512 a) { return _mm512_dpbf16_ps(a, halves, halves); }),
              peak(2 * 64, _mm512_setzero_si512(), [&](__m512i a) { return _mm512_dpbusd_epi32(a, codes, codes); }));
}
