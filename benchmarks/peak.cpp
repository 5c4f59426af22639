// Multiply-add peak of one thread in operations per second: float32, bfloat16, int16 and int8 products as the widest
// instructions of this processor make them, matrix tiles included. Without bfloat16 products float32's count for both.
#include <chrono>
#include <cstdio>
#include <immintrin.h>
#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

constexpr int LOOPS = 200000;

// The best of many rounds; `run` makes `operations` LOOPS times.
template <class Run>
static double peak(double operations, Run run) {
  double best = 0;
  for (int round = 0; round < 20; round++) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (LOOPS * operations / seconds > best) best = LOOPS * operations / seconds;
  }
  return best;
}

// `step` makes `operations` on one accumulator; 12 of them and the factors fit the registers.
template <class Acc, class Step>
static double vector_peak(double operations, Acc zero, Step step) {
  return peak(12 * operations, [&] {
    Acc acc[12];
    for (auto& a : acc) a = zero;
    for (int i = 0; i < LOOPS; i++) {
#pragma GCC unroll 12
      for (auto& a : acc) {
        a = step(a);
        asm volatile("" : "+v"(a));  // every product is really made
      }
    }
  });
}

#ifdef __AMX_INT8__
struct alignas(64) TileShapes {
  unsigned char palette = 1, start = 0, reserved[14] = {};
  unsigned short bytes[16] = {64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16};
};

#define IN_FOUR_TILES(product)          \
  [] {                                  \
    for (int i = 0; i < LOOPS; i++) {   \
      product(0, 4, 5);                 \
      product(1, 4, 5);                 \
      product(2, 4, 5);                 \
      product(3, 4, 5);                 \
    }                                   \
  }

static bool use_tiles() {
  if (syscall(SYS_arch_prctl, 0x1023, 18)) return false;  // ask the kernel for tile data
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  return true;
}
#endif

int main() {
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
  const __m512 ones = _mm512_set1_ps(1e-9f);
  const __m512i codes = _mm512_set1_epi8(1);
  const __m512bh halves = (__m512bh)codes;
  const double float32 = vector_peak(32, __m512{}, [&](__m512 a) { return _mm512_fmadd_ps(ones, ones, a); });
  const double int16 = vector_peak(64, __m512i{}, [&](__m512i a) { return _mm512_dpwssd_epi32(a, codes, codes); });
  double bfloat16 = vector_peak(64, __m512{}, [&](__m512 a) { return _mm512_dpbf16_ps(a, halves, halves); });
  double int8 = vector_peak(128, __m512i{}, [&](__m512i a) { return _mm512_dpbusd_epi32(a, codes, codes); });
#ifdef __AMX_INT8__
  if (use_tiles()) {
    bfloat16 = peak(4 * 2 * 16 * 16 * 32, IN_FOUR_TILES(_tile_dpbf16ps));
    int8 = peak(4 * 2 * 16 * 16 * 64, IN_FOUR_TILES(_tile_dpbssd));
    _tile_release();
  }
#endif
#elif defined(__AVX2__) && defined(__FMA__)
  const __m256 ones = _mm256_set1_ps(1e-9f);
  const __m256i codes = _mm256_set1_epi8(1);
  const auto row = [&] {
    __m256i x = codes;
    asm volatile("" : "+x"(x));  // a product of constants would be made once
    return x;
  };
  const double float32 = vector_peak(16, __m256{}, [&](__m256 a) { return _mm256_fmadd_ps(ones, ones, a); });
  const double bfloat16 = float32;
  const double int16 = vector_peak(32, __m256i{}, [&](__m256i a) {
    return _mm256_add_epi32(a, _mm256_madd_epi16(row(), codes));
  });
  const double int8 = vector_peak(64, __m256i{}, [&](__m256i a) {
    return _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(row(), codes), codes));
  });
#else
#error "neither AVX-512 with bfloat16 nor AVX2"
#endif
  std::printf("%.0f %.0f %.0f %.0f\n", float32, bfloat16, int16, int8);
}
