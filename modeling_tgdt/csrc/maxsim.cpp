// Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
//
// Fused dot-max-sum over a ragged token store, and the int8 scan of stage one. Plain C interface, called by
// maxsim_tgdt.py and scan_tgdt.py through ctypes, which releases the interpreter lock.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86 1
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL16 _Pragma("GCC unroll 16")

namespace {

enum Dtype { F32, F16, BF16, I16, I8 };
enum class Compute { f32, bf16, i16, i8 };
constexpr int MAX_VECTORS = 4096;

INLINE int64_t item_size(int dtype) { return dtype == F32 ? 4 : dtype == I8 ? 1 : 2; }

struct Packed {
  Compute compute;
  bool in_place;  // stored rows need no conversion
  int64_t words, vectors, steps;
  float* units;
  float* scales;   // per lane: scale of its word
  float* weights;  // per lane: 1 for real words
  // Vectors are worked on 3 at a time; 4 are two groups of 2.
  INLINE int group_width(int64_t first) const {
    const int64_t left = vectors - first;
    return left == 4 ? 2 : left < 3 ? (int)left : 3;
  }
};

struct Ahead {  // what to prefetch per step
  const char* rows;
  int64_t step;
};

struct Variant {
  int lanes;
  Compute (*compute_for)(int dtype);
  void (*pack_words)(int dtype, const char* words, int64_t count, int64_t dim, const Packed& to, char* scratch);
  float (*score_item)(const Packed& q, int dtype, const char* rows, const float* scales, int64_t count, int64_t dim,
                      bool sum_stored, const char* next, char* scratch, float* out, int64_t stride);
  float (*block_max)(const float* values, int64_t count);
  void (*scan_one)(const char* codes, const float* scales, int64_t count, int64_t dim, const char* word,
                   float word_scale, float* out);  // may be null
};

float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  float value;
  uint32_t bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
  if (exponent == 0) {
    value = (float)fraction / 16777216.0f;
    return sign ? -value : value;
  }
  memcpy(&value, &bits, 4);
  return value;
}

namespace portable {
#define LANES 4
#define TILE_ROWS 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
INLINE vf load(const float* p) { vf x; memcpy(&x, p, 16); return x; }
INLINE vf broadcast16(const char* p) { vf x; memcpy(&x, p, 16); return x; }
INLINE vf splat(float x) { return vf{x, x, x, x}; }
INLINE vf unpack_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
INLINE vf unpack_high(vf a, vf b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
INLINE vf join_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
INLINE vf join_high(vf a, vf b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
INLINE vf swap_pairs(vf a) { return __builtin_shufflevector(a, a, 1, 0, 3, 2); }
INLINE vf swap_halves(vf a) { return __builtin_shufflevector(a, a, 2, 3, 0, 1); }
inline void halves_to_floats(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i++) to[i] = half_to_float(from[i]);
}
#include "maxsim_body.inc"
#undef LANES
#undef TILE_ROWS
}  // namespace portable

#ifdef X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define LANES 8
#define TILE_ROWS 4
#define HAVE_I16
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
INLINE vf broadcast16(const char* p) { return _mm256_broadcast_ps((const __m128*)p); }
INLINE vf splat(float x) { return _mm256_set1_ps(x); }
INLINE vf unpack_low(vf a, vf b) { return _mm256_unpacklo_ps(a, b); }
INLINE vf unpack_high(vf a, vf b) { return _mm256_unpackhi_ps(a, b); }
INLINE vf join_low(vf a, vf b) { return _mm256_shuffle_ps(a, b, 0x44); }
INLINE vf join_high(vf a, vf b) { return _mm256_shuffle_ps(a, b, 0xee); }
INLINE vf swap_pairs(vf a) { return _mm256_permute_ps(a, 0xb1); }
INLINE vf swap_halves(vf a) { return _mm256_permute_ps(a, 0x4e); }
INLINE vf rotate_lanes1(vf a) { return _mm256_permute2f128_ps(a, a, 1); }
INLINE vi dot_i16(vi acc, vi q, vi x) { return acc + (vi)_mm256_madd_epi16((__m256i)q, (__m256i)x); }
inline void halves_to_floats(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < n; i++) to[i] = half_to_float(from[i]);
}
#include "maxsim_body.inc"
#undef LANES
#undef TILE_ROWS
#undef HAVE_I16
}  // namespace avx2
#pragma GCC pop_options

#define AVX512_PRIMITIVES                                                                                        \
  typedef float vf __attribute__((vector_size(64)));                                                             \
  typedef int32_t vi __attribute__((vector_size(64)));                                                           \
  INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }                                                  \
  INLINE vf broadcast16(const char* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps((const float*)p)); }         \
  INLINE vf splat(float x) { return _mm512_set1_ps(x); }                                                         \
  INLINE vf unpack_low(vf a, vf b) { return _mm512_unpacklo_ps(a, b); }                                          \
  INLINE vf unpack_high(vf a, vf b) { return _mm512_unpackhi_ps(a, b); }                                         \
  INLINE vf join_low(vf a, vf b) { return _mm512_shuffle_ps(a, b, 0x44); }                                       \
  INLINE vf join_high(vf a, vf b) { return _mm512_shuffle_ps(a, b, 0xee); }                                      \
  INLINE vf swap_pairs(vf a) { return _mm512_permute_ps(a, 0xb1); }                                              \
  INLINE vf swap_halves(vf a) { return _mm512_permute_ps(a, 0x4e); }                                             \
  INLINE vf rotate_lanes1(vf a) { return _mm512_shuffle_f32x4(a, a, 0x39); }                                     \
  INLINE vf rotate_lanes2(vf a) { return _mm512_shuffle_f32x4(a, a, 0x4e); }                                     \
  INLINE vi dot_i16(vi acc, vi q, vi x) { return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)q, (__m512i)x); } \
  INLINE vi dot_u8i8(vi acc, vi q, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)q, (__m512i)x); } \
  INLINE vf even_values(vf a, vf b) {                                                                            \
    return _mm512_permutex2var_ps(a, _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0), b); \
  }                                                                                                              \
  INLINE vf odd_values(vf a, vf b) {                                                                             \
    return _mm512_permutex2var_ps(a, _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1), b); \
  }                                                                                                              \
  INLINE vi sum_halves(vi a, vi b) { /* lanes a0+a2 a1+a3 b0+b2 b1+b3 */                                         \
    return (vi)_mm512_shuffle_f32x4((vf)a, (vf)b, 0x44) + (vi)_mm512_shuffle_f32x4((vf)a, (vf)b, 0xee);          \
  }                                                                                                              \
  INLINE vi sum_lanes(vi a, vi b) {                                                                              \
    return (vi)_mm512_shuffle_f32x4((vf)a, (vf)b, 0x88) + (vi)_mm512_shuffle_f32x4((vf)a, (vf)b, 0xdd);          \
  }                                                                                                              \
  inline void halves_to_floats(const uint16_t* from, int64_t n, float* to) {                                     \
    int64_t i = 0;                                                                                               \
    for (; i + 16 <= n; i += 16)                                                                                 \
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));                 \
    for (; i < n; i++) to[i] = half_to_float(from[i]);                                                           \
  }

#define LANES 16
#define TILE_ROWS 8
#define HAVE_I16
#define HAVE_I8
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")
namespace avx512 {
AVX512_PRIMITIVES
#include "maxsim_body.inc"
}  // namespace avx512
#pragma GCC pop_options

#if __GNUC__ >= 10
#define HAVE_BF16
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c")
namespace avx512_bf16 {
AVX512_PRIMITIVES
INLINE vf dot_bf16(vf acc, vf q, vf x) { return _mm512_dpbf16_ps(acc, (__m512bh)q, (__m512bh)x); }
#include "maxsim_body.inc"
}  // namespace avx512_bf16
#pragma GCC pop_options
#endif
#endif  // X86

struct Chosen {
  const char* name;
  const Variant* variant;
};

Chosen choose(const char* wanted) {
  const auto is = [&](const char* name) { return !wanted || !*wanted || !strcmp(wanted, name); };
#ifdef X86
  __builtin_cpu_init();
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
#ifdef HAVE_BF16
  if (is("avx512_bf16") && wide && __builtin_cpu_supports("avx512bf16")) return {"avx512_bf16", &avx512_bf16::variant};
#endif
  if (is("avx512_vnni") && wide) return {"avx512_vnni", &avx512::variant};
  if (is("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return {"avx2", &avx2::variant};
#endif
  return {"portable", &portable::variant};
}

Chosen chosen = choose(nullptr);

// A query packed for the chosen variant; the buffers are reused from query to query.
struct Workspace {
  std::vector<float> buffer;
  std::vector<char> scratch;
  Packed packed{};

  void pack(int dtype, const char* words, const float* scales, int64_t count, int64_t dim) {
    const int64_t lanes = chosen.variant->lanes, per_vector = lanes / 4;
    packed.compute = chosen.variant->compute_for(dtype);
    const int64_t size = packed.compute == Compute::f32 ? 4 : packed.compute == Compute::i8 ? 1 : 2;
    packed.in_place = item_size(dtype) == size;
    packed.words = count;
    packed.vectors = (count + per_vector - 1) / per_vector;
    packed.steps = (dim * size + 15) / 16;
    const int64_t units = packed.vectors * packed.steps * lanes, flat = packed.vectors * lanes;
    buffer.resize(units + 2 * flat + 16);
    scratch.resize(8 * packed.steps * 16 + 64);
    packed.units = (float*)(((uintptr_t)buffer.data() + 63) & ~(uintptr_t)63);
    packed.scales = packed.units + units;
    packed.weights = packed.scales + flat;
    for (int64_t i = 0; i < flat; i++) {
      const int64_t word = i / 4;
      packed.scales[i] = scales ? scales[2 * (word < count ? word : 0)] : 1;
      packed.weights[i] = word < count;
    }
    chosen.variant->pack_words(dtype, words, count, dim, packed, row_scratch());
  }

  char* row_scratch() { return (char*)(((uintptr_t)scratch.data() + 63) & ~(uintptr_t)63); }
};

// Run work(item, workspace) for every item; 0, or 1 when memory or threads ran out.
int parallel(int64_t items, int threads, const std::function<void(int64_t, Workspace&)>& work) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  const auto loop = [&] {
    try {
      Workspace space;
      for (int64_t i; (i = next++) < items && !failed;) work(i, space);
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> helpers;
  try {
    for (int t = 1; t < threads && t < items; t++) helpers.emplace_back(loop);
  } catch (...) {  // fewer threads than asked for do the same work
  }
  loop();
  for (auto& helper : helpers) helper.join();
  return failed;
}

struct Work {
  int64_t query, first, last;
};

}  // namespace

extern "C" {

struct Store {
  const char* rows;
  const float* scales;  // (rows, 2): scale and sum of codes; null for float dtypes
  const int64_t* offsets;
};

const char* tgdt_isa() { return chosen.name; }

// For tests: use another instruction set if this machine has it; null or "" picks the best.
const char* tgdt_use_isa(const char* name) {
  chosen = choose(name);
  return chosen.name;
}

int tgdt_maxsim(const Store* stores, int dtype, int64_t dim, const char* words, const float* word_scales,
                const int64_t* word_offsets, int64_t queries, const int32_t* pair_stores, const int64_t* pair_items,
                const int64_t* pair_offsets, int sum_stored, int threads, float* out) try {
  const int64_t pairs = pair_offsets[queries];
  const int64_t step = std::max<int64_t>(8, std::min<int64_t>(1024, pairs / (4 * std::max(threads, 1)) + 1));
  std::vector<Work> works;
  for (int64_t q = 0; q < queries; q++)
    for (int64_t p = pair_offsets[q]; p < pair_offsets[q + 1]; p += step)
      works.push_back({q, p, std::min(p + step, pair_offsets[q + 1])});
  if (pairs * dim * (word_offsets[queries] / std::max<int64_t>(queries, 1) + 1) < 200000) threads = 1;
  const int64_t word_size = item_size(dtype == F16 ? F32 : dtype);
  const int64_t lanes = chosen.variant->lanes;
  std::atomic<bool> too_many{false};
  const int failed = parallel((int64_t)works.size(), threads, [&](int64_t i, Workspace& space) {
    const Work work = works[i];
    const int64_t begin = word_offsets[work.query], count = word_offsets[work.query + 1] - begin;
    if (count == 0) {
      std::fill(out + work.first, out + work.last, 0.0f);
      return;
    }
    if ((count + lanes / 4 - 1) / (lanes / 4) > MAX_VECTORS) {
      too_many = true;
      return;
    }
    space.pack(dtype, words + begin * dim * word_size, word_scales ? word_scales + 2 * begin : nullptr, count, dim);
    for (int64_t p = work.first; p < work.last; p++) {
      const Store& store = stores[pair_stores[p]];
      const int64_t start = store.offsets[pair_items[p]], rows = store.offsets[pair_items[p] + 1] - start;
      const int64_t after = std::min(p + 1, work.last - 1);
      const Store& next_store = stores[pair_stores[after]];
      const char* next = next_store.rows + next_store.offsets[pair_items[after]] * dim * item_size(dtype);
      out[p] = rows == 0 ? 0
                         : chosen.variant->score_item(space.packed, dtype, store.rows + start * dim * item_size(dtype),
                                                      store.scales ? store.scales + 2 * start : nullptr, rows, dim,
                                                      sum_stored, next, space.row_scratch(), nullptr, 0);
    }
  });
  return too_many ? 2 : failed;
} catch (...) {
  return 1;
}

// Approximate scores of `queries` int8 codes with `rows` int8 codes: out[query * stride + row].
int tgdt_scan(const char* codes, const float* scales, int64_t rows, int64_t dim, const char* words,
              const float* word_scales, int64_t queries, int64_t stride, int threads, float* out) try {
  constexpr int64_t block = 1024;
  if (rows * dim * queries < 2000000) threads = 1;
  if (chosen.variant->scan_one && queries < 4 && dim % 64 == 0) {
    std::vector<char> positive(words, words + queries * dim);
    for (auto& code : positive) code = (char)(code ^ 0x80);
    return parallel((rows + block - 1) / block, threads, [&](int64_t i, Workspace&) {
      const int64_t first = i * block, count = std::min(block, rows - first);
      for (int64_t q = 0; q < queries; q++)
        chosen.variant->scan_one(codes + first * dim, scales + 2 * first, count, dim, positive.data() + q * dim,
                                 word_scales[2 * q], out + q * stride + first);
    });
  }
  Workspace shared;
  shared.pack(I8, words, word_scales, queries, dim);
  return parallel((rows + block - 1) / block, threads, [&](int64_t i, Workspace& space) {
    space.scratch.resize(8 * shared.packed.steps * 16 + 64);
    const int64_t first = i * block, count = std::min(block, rows - first);
    chosen.variant->score_item(shared.packed, I8, codes + first * dim, scales + 2 * first, count, dim, false, nullptr,
                               space.row_scratch(), out + first, stride);
  });
} catch (...) {
  return 1;
}

// Rows of each query whose score is at least the k-th best minus `slack`; disallowed rows are skipped and set to -inf.
// Writes at most `capacity` rows per query and always the number found.
int tgdt_select(float* scores, int64_t rows, int64_t queries, const uint8_t* allowed, int64_t k, const float* slack,
                int64_t capacity, int threads, int64_t* out, int64_t* found) try {
  constexpr int64_t block = 256;
  if (rows * queries < 100000) threads = 1;
  return parallel(queries, threads, [&](int64_t q, Workspace&) {
    float* own = scores + q * rows;
    if (allowed)
      for (int64_t i = 0; i < rows; i++) own[i] = allowed[i] ? own[i] : -__builtin_inff();
    std::vector<float> heap, tops((rows + block - 1) / block);
    heap.reserve(k);
    for (int64_t first = 0; first < rows; first += block) {
      const int64_t last = std::min(first + block, rows);
      tops[first / block] = chosen.variant->block_max(own + first, last - first);
      if ((int64_t)heap.size() == k && tops[first / block] <= heap.front()) continue;
      for (int64_t i = first; i < last; i++) {
        if ((int64_t)heap.size() < k) {
          heap.push_back(own[i]);
          std::push_heap(heap.begin(), heap.end(), std::greater<float>());
        } else if (own[i] > heap.front()) {
          std::pop_heap(heap.begin(), heap.end(), std::greater<float>());
          heap.back() = own[i];
          std::push_heap(heap.begin(), heap.end(), std::greater<float>());
        }
      }
    }
    const float limit = heap.front() - slack[q];
    int64_t count = 0;
    for (int64_t first = 0; first < rows; first += block) {
      if (tops[first / block] < limit) continue;
      for (int64_t i = first; i < std::min(first + block, rows); i++)
        if (own[i] >= limit && own[i] > -__builtin_inff()) {
          if (count < capacity) out[q * capacity + count] = i;
          count++;
        }
    }
    found[q] = count;
  });
} catch (...) {
  return 1;
}
}
