// Copyright 2026 The tgdt contributors. Licensed under the Apache License, Version 2.0.
//
// Fused dot-max-sum over a ragged token store, and the int8 scan of stage one. Plain C interface, called by
// kernels/maxsim.py and gallery/scan.py through ctypes, which releases the interpreter lock.

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
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define UNROLL16 _Pragma("GCC unroll 16")

namespace {

enum Dtype { F32, F16, BF16, I16, I8 };
enum class Compute { f32, bf16, i16, i8 };
constexpr int MAX_VECTORS = 4096;

INLINE int64_t item_size(int dtype) { return dtype == F32 ? 4 : dtype == I8 ? 1 : 2; }
INLINE int64_t word_size(int dtype) { return dtype == I16 || dtype == I8 ? item_size(dtype) : 4; }

struct Packed {
  Compute compute;
  bool in_place;  // stored rows need no conversion
  bool tiles;     // packed for matrix tiles: a vector is 16 words, a vector of results too
  int64_t words, vectors, steps;
  int widest, paired;  // vectors worked on together at most; whether two make one vector of results
  float* units;
  float* scales;   // per lane of the results: scale of its word
  float* weights;  // per lane of the results: 1 for real words
  INLINE int group_width(int64_t first) const {
    const int64_t left = vectors - first, groups = (left + widest - 1) / widest, width = (left + groups - 1) / groups;
    return (int)(groups > 1 && paired ? width + width % 2 : width);
  }
  INLINE int64_t results() const { return paired && !tiles ? (vectors + 1) / 2 : vectors; }
};

struct Ahead {  // bytes that will be needed next, brought into the cache a step at a time
  const char* bytes;
  int64_t step;
};

struct Item {
  const char* rows;
  const float* scales;
  int64_t count;
};

struct Variant {
  int lanes, step, widest, paired;  // floats of a vector, bytes of a row read at once, see Packed
  Compute (*compute_for)(int dtype);
  void (*pack_words)(int dtype, const char* words, int64_t count, int64_t dim, const Packed& to, char* scratch);
  float (*score_item)(const Packed& q, int dtype, const Item& item, const Item& next, int64_t dim, bool sum_stored,
                      char* scratch, float* out, int64_t stride);
  float (*dot)(const float* a, const float* b, int64_t dim, const float* next);
  float (*block_max)(const float* values, int64_t count);
  void (*scan_one)(const char* codes, const float* scales, int64_t count, int64_t dim, const char* word,
                   float word_scale, float* out);  // may be null
  bool (*tiles_for)(int dtype, int64_t row_bytes);  // whether matrix tiles take it; may be null
  void (*release)();                                // what a thread does when it has scored; may be null
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
#define STEP 16
#define WIDEST 3
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
INLINE vf load(const float* p) { vf x; memcpy(&x, p, 16); return x; }
INLINE vf broadcast16(const char* p) { vf x; memcpy(&x, p, 16); return x; }
INLINE vf broadcast_step(const char* p) { return broadcast16(p); }
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
#undef STEP
#undef WIDEST
}  // namespace portable

#ifdef X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define LANES 8
#define STEP 16
#define WIDEST 3
#define HAVE_I16
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
INLINE vf broadcast16(const char* p) { return _mm256_broadcast_ps((const __m128*)p); }
INLINE vf broadcast_step(const char* p) { return broadcast16(p); }
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
#undef STEP
#undef WIDEST
#undef HAVE_I16
}  // namespace avx2
#pragma GCC pop_options

#define AVX512_PRIMITIVES                                                                                        \
  typedef float vf __attribute__((vector_size(64)));                                                             \
  typedef int32_t vi __attribute__((vector_size(64)));                                                           \
  INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }                                                  \
  INLINE vf broadcast16(const char* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps((const float*)p)); }         \
  INLINE vf broadcast_step(const char* p) { return (vf)_mm512_broadcast_f64x4(_mm256_loadu_pd((const double*)p)); } \
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
  template <class Acc>                                                                                           \
  INLINE Acc sum_lanes(Acc a, Acc b) { /* lanes a0+a1 a2+a3 b0+b1 b2+b3 */                                       \
    return (Acc)_mm512_shuffle_f32x4((vf)a, (vf)b, 0x88) + (Acc)_mm512_shuffle_f32x4((vf)a, (vf)b, 0xdd);        \
  }                                                                                                              \
  inline void halves_to_floats(const uint16_t* from, int64_t n, float* to) {                                     \
    int64_t i = 0;                                                                                               \
    for (; i + 16 <= n; i += 16)                                                                                 \
      _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));                 \
    for (; i < n; i++) to[i] = half_to_float(from[i]);                                                           \
  }

#define LANES 16
#define STEP 32
#define WIDEST 6
#define PAIRED
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

#if __GNUC__ >= 11 && defined(__linux__)
#define HAVE_AMX
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,f16c,amx-tile,amx-bf16,amx-int8")
namespace amx {
AVX512_PRIMITIVES
#include "maxsim_amx.inc"
}  // namespace amx
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
  const bool bf16 = wide && __builtin_cpu_supports("avx512bf16");
#ifdef HAVE_AMX
  if (is("amx") && bf16 && __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") && amx::allowed())
    return {"amx", &amx::variant};
#endif
  if (is("avx512_bf16") && bf16) return {"avx512_bf16", &avx512_bf16::variant};
#endif
  if (is("avx512_vnni") && wide) return {"avx512_vnni", &avx512::variant};
  if (is("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return {"avx2", &avx2::variant};
#endif
  return {"portable", &portable::variant};
}

Chosen chosen = choose(nullptr);

int64_t compute_size(int dtype) {
  const Compute compute = chosen.variant->compute_for(dtype);
  return compute == Compute::f32 ? 4 : compute == Compute::i8 ? 1 : 2;
}

// Working memory of a thread, aligned to a cache line.
struct Scratch {
  std::vector<char> memory;

  char* rows(int dtype, int64_t dim) {  // 16 converted rows
    const size_t needed = 16 * (dim * compute_size(dtype) + 32) + 64;
    if (memory.size() < needed) memory.resize(needed);
    return (char*)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
  }
};

// The words of a query, packed for the chosen variant.
struct Query {
  std::vector<float> buffer;
  Packed packed{};

  void pack(int dtype, const char* words, const float* scales, int64_t count, int64_t dim, Scratch& scratch,
            bool tiles) {
    const Variant& variant = *chosen.variant;
    packed.tiles = tiles && variant.tiles_for && variant.tiles_for(dtype, dim * item_size(dtype));
    const int64_t lanes = packed.tiles ? 256 : variant.lanes, step = packed.tiles ? 64 : variant.step;
    const int64_t per_vector = 4 * lanes / step, size = compute_size(dtype);
    packed.compute = variant.compute_for(dtype);
    packed.in_place = item_size(dtype) == size;
    packed.words = count;
    packed.vectors = (count + per_vector - 1) / per_vector;
    packed.steps = (dim * size + step - 1) / step;
    packed.widest = variant.widest;
    packed.paired = variant.paired;
    const int64_t units = packed.vectors * packed.steps * lanes;
    const int64_t flat = packed.results() * variant.lanes, per_word = packed.tiles ? 1 : 4;
    buffer.resize(units + 2 * flat + 16);
    packed.units = (float*)(((uintptr_t)buffer.data() + 63) & ~(uintptr_t)63);
    packed.scales = packed.units + units;
    packed.weights = packed.scales + flat;
    for (int64_t i = 0; i < flat; i++) {
      int64_t word = i / per_word;
      packed.weights[i] = word < count;
      if (word >= packed.vectors * per_vector) word -= per_vector;  // the last vector paired with itself
      packed.scales[i] = scales ? scales[2 * (word < count ? word : 0)] : 1;
    }
    chosen.variant->pack_words(dtype, words, count, dim, packed, scratch.rows(dtype, dim));
  }
};

// Run work(item, scratch) for every item; 0, or 1 when memory or threads ran out.
int parallel(int64_t items, int threads, const std::function<void(int64_t, Scratch&)>& work) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  const auto loop = [&] {
    try {
      Scratch scratch;
      for (int64_t i; (i = next++) < items && !failed;) work(i, scratch);
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

struct Place {  // a pair, in the order in which it is worked on
  int32_t store;
  int32_t query;
  int64_t item;
  int64_t pair;
  bool operator<(const Place& other) const { return store != other.store ? store < other.store : item < other.item; }
};

struct Scored {
  float score;
  int64_t place;
  bool operator<(const Scored& other) const {  // better first
    return score != other.score ? score > other.score : place < other.place;
  }
};

// The k-th best value, -inf when there are fewer.
float kth_best(std::vector<float> values, int64_t k) {
  if ((int64_t)values.size() < k) return -__builtin_inff();
  std::nth_element(values.begin(), values.begin() + k - 1, values.end(), std::greater<float>());
  return values[k - 1];
}

// Keep the k best and all ties of the k-th, best first. They come in the order of their places, and so do ties: only what
// is better than the k-th is sorted.
void keep_best(std::vector<Scored>& all, int64_t k) {
  std::vector<float> values;
  for (const Scored& scored : all) values.push_back(scored.score);
  const float last = kth_best(std::move(values), k);
  all.erase(std::remove_if(all.begin(), all.end(), [&](const Scored& s) { return s.score < last; }), all.end());
  std::sort(all.begin(), std::stable_partition(all.begin(), all.end(), [&](const Scored& s) { return s.score > last; }));
}

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
  constexpr int64_t block_bytes = 1 << 20, block_pairs = 1 << 18;  // packed queries and their pairs at a time
  const int64_t row_bytes = dim * item_size(dtype);
  const int64_t mean_words = word_offsets[queries] / std::max<int64_t>(queries, 1) + 1;
  if (pair_offsets[queries] * dim * mean_words < 200000) threads = 1;
  const auto item_of = [&](const Place& place) {
    const Store& store = stores[place.store];
    const int64_t start = store.offsets[place.item];
    return Item{store.rows + start * row_bytes, store.scales ? store.scales + 2 * start : nullptr,
                store.offsets[place.item + 1] - start};
  };
  std::vector<Query> packed;
  std::vector<Place> places;
  for (int64_t first = 0, last; first < queries; first = last) {
    const auto fits = [&](int64_t end) {
      return (word_offsets[end] - word_offsets[first]) * dim * compute_size(dtype) <= block_bytes &&
             pair_offsets[end] - pair_offsets[first] <= block_pairs;
    };
    for (last = first + 1; last < queries && fits(last + 1);) last++;
    packed.resize(std::max<size_t>(packed.size(), last - first));
    places.clear();
    for (int64_t q = first; q < last; q++) {
      const int64_t count = word_offsets[q + 1] - word_offsets[q];
      if (count > MAX_VECTORS * (chosen.variant->lanes / 4)) return 2;
      for (int64_t p = pair_offsets[q]; p < pair_offsets[q + 1]; p++) {
        out[p] = 0;
        if (count) places.push_back({pair_stores[p], (int32_t)(q - first), pair_items[p], p});
      }
    }
    const auto pack = [&](int64_t i, Scratch& scratch) {
      const int64_t begin = word_offsets[first + i], count = word_offsets[first + i + 1] - begin;
      packed[i].pack(dtype, words + begin * dim * word_size(dtype), word_scales ? word_scales + 2 * begin : nullptr, count,
                     dim, scratch, true);
    };
    // Queries that share an item are scored one after another, while it is in the cache.
    if (!std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
    const int64_t pairs = (int64_t)places.size();
    const int64_t step = std::max<int64_t>(8, std::min<int64_t>(256, pairs / (4 * std::max(threads, 1)) + 1));
    const auto score = [&](int64_t i, Scratch& scratch) {
      const int64_t end = std::min((i + 1) * step, pairs);
      for (int64_t p = i * step; p < end; p++) {
        const Place& place = places[p];
        const bool more = p + 1 < end && place < places[p + 1];
        const Item item = item_of(place), next = more ? item_of(places[p + 1]) : Item{};
        if (item.count)
          out[place.pair] = chosen.variant->score_item(packed[place.query].packed, dtype, item, next, dim, sum_stored,
                                                       scratch.rows(dtype, dim), nullptr, 0);
      }
      if (chosen.variant->release) chosen.variant->release();
    };
    if (parallel(last - first, threads, pack) || parallel((pairs + step - 1) / step, threads, score)) return 1;
  }
  return 0;
} catch (...) {
  return 1;
}

// Dot products of float32 queries with the items' only rows; the sum of a pair does not depend on the other pairs.
int tgdt_dots(const Store* stores, int64_t dim, const float* words, int64_t queries, const int32_t* pair_stores,
              const int64_t* pair_items, const int64_t* pair_offsets, int threads, float* out) try {
  constexpr int64_t block = 1024;
  const int64_t pairs = pair_offsets[queries];
  if (pairs * dim < 1000000) threads = 1;
  const auto row = [&](int64_t p) { return (const float*)stores[pair_stores[p]].rows + pair_items[p] * dim; };
  return parallel((pairs + block - 1) / block, threads, [&](int64_t i, Scratch&) {
    const int64_t end = std::min((i + 1) * block, pairs);
    int64_t q = std::upper_bound(pair_offsets, pair_offsets + queries, i * block) - pair_offsets - 1;
    for (int64_t p = i * block; p < end; p++) {
      while (p >= pair_offsets[q + 1]) q++;
      out[p] = chosen.variant->dot(row(p), words + q * dim, dim, row(std::min(p + 2, end - 1)));
    }
  });
} catch (...) {
  return 1;
}

// For each query the places of its k best scores and of all ties of the k-th, best first, and how many they are.
int tgdt_top(const float* scores, const int64_t* offsets, int64_t queries, int64_t k, int64_t* places,
             int64_t* counts) try {
  std::vector<Scored> own;
  for (int64_t q = 0; q < queries; q++) {
    own.clear();
    for (int64_t p = offsets[q]; p < offsets[q + 1]; p++) own.push_back({scores[p], p});
    keep_best(own, k);
    counts[q] = (int64_t)own.size();
    for (const Scored& scored : own) *places++ = scored.place;
  }
  return 0;
} catch (...) {
  return 1;
}

// Approximate scores of `queries` int8 codes with `rows` int8 codes: out[query * stride + row].
int tgdt_scan(const char* codes, const float* scales, int64_t rows, int64_t dim, const char* words,
              const float* word_scales, int64_t queries, int64_t stride, int threads, float* out) try {
  constexpr int64_t block = 1024;
  if (rows * dim * queries < 2000000) threads = 1;
  if (chosen.variant->scan_one && queries < 4 && dim % 64 == 0) {
    return parallel((rows + block - 1) / block, threads, [&](int64_t i, Scratch&) {
      const int64_t first = i * block, count = std::min(block, rows - first);
      for (int64_t q = 0; q < queries; q++)
        chosen.variant->scan_one(codes + first * dim, scales + 2 * first, count, dim, words + q * dim,
                                 word_scales[2 * q], out + q * stride + first);
    });
  }
  Scratch own;
  Query shared;
  shared.pack(I8, words, word_scales, queries, dim, own, false);
  return parallel((rows + block - 1) / block, threads, [&](int64_t i, Scratch& scratch) {
    const int64_t first = i * block, count = std::min(block, rows - first);
    const Item item = {codes + first * dim, scales + 2 * first, count};
    chosen.variant->score_item(shared.packed, I8, item, Item{}, dim, false, scratch.rows(I8, dim), out + first,
                               stride);
  });
} catch (...) {
  return 1;
}

// The k best rows of each query by exact dot product, with all ties of the k-th, best first. `scores` (queries, rows) are
// at most `error` from exact; disallowed rows are set to -inf there. Writes at most `capacity` rows per query and always
// the number found. Store i holds the vectors of rows bases[i] to bases[i + 1].
int tgdt_best(const Store* stores, const int64_t* bases, int64_t store_count, int64_t dim, const float* words,
              int64_t queries, float* scores, const uint8_t* allowed, int64_t k, const float* error, int64_t capacity,
              int threads, int64_t* out_rows, float* out_scores, int64_t* found) try {
  const int64_t rows = bases[store_count];
  const int64_t block = std::max<int64_t>(8, std::min<int64_t>(64, rows / (3 * k) / 16 * 16));  // more blocks than k
  if (rows * queries < 100000) threads = 1;
  const auto vector_of = [&](const Scored& scored) {
    const int64_t number = std::upper_bound(bases, bases + store_count, scored.place) - bases - 1;
    return (const float*)stores[number].rows + (scored.place - bases[number]) * dim;
  };
  return parallel(queries, threads, [&](int64_t q, Scratch&) {
    float* own = scores + q * rows;
    if (allowed)
      for (int64_t i = 0; i < rows; i++) own[i] = allowed[i] ? own[i] : -__builtin_inff();
    const int64_t blocks = (rows + block - 1) / block;
    std::vector<float> tops(blocks);
    for (int64_t b = 0; b < blocks; b++)
      tops[b] = chosen.variant->block_max(own + b * block, std::min(block, rows - b * block));
    const float bound = kth_best(tops, k) - 2 * error[q];  // k blocks hold a score as high
    std::vector<Scored> near, exact;
    for (int64_t b = 0; b < blocks; b++) {
      if (tops[b] < bound) continue;
      for (int64_t i = b * block; i < std::min((b + 1) * block, rows); i++)
        if (own[i] >= bound && own[i] > -__builtin_inff()) near.push_back({own[i], i});
    }
    const auto score_exactly = [&](const std::vector<Scored>& chosen_rows) {
      for (auto scored = chosen_rows.begin(); scored != chosen_rows.end(); ++scored) {
        const float* ahead = vector_of(*(chosen_rows.end() - scored > 2 ? scored + 2 : scored));
        exact.push_back({chosen.variant->dot(vector_of(*scored), words + q * dim, dim, ahead), scored->place});
      }
    };
    // Exact scores of the nearest few tell how high a score must be, and so which of the others need looking at. All stay
    // in the order of their places, in which the vectors lie.
    std::vector<float> values;
    for (const Scored& scored : near) values.push_back(scored.score);
    const int64_t few = std::min<int64_t>((int64_t)near.size(), k + k / 4);
    const float nearest = few ? kth_best(std::move(values), few) : 0;
    std::vector<Scored> first, others;
    int64_t level = few;  // how many of those on the border belong to the few
    for (const Scored& scored : near) level -= scored.score > nearest;
    for (const Scored& scored : near)
      (scored.score > nearest || (scored.score == nearest && level-- > 0) ? first : others).push_back(scored);
    score_exactly(first);
    values.clear();
    for (const Scored& scored : exact) values.push_back(scored.score);
    const float limit = kth_best(std::move(values), k) - error[q];
    others.erase(std::remove_if(others.begin(), others.end(), [&](const Scored& s) { return s.score < limit; }),
                 others.end());
    score_exactly(others);
    std::inplace_merge(exact.begin(), exact.begin() + few, exact.end(),
                       [](const Scored& a, const Scored& b) { return a.place < b.place; });
    keep_best(exact, k);
    found[q] = (int64_t)exact.size();
    for (int64_t i = 0; i < std::min(found[q], capacity); i++) {
      out_rows[q * capacity + i] = exact[i].place;
      out_scores[q * capacity + i] = exact[i].score;
    }
  });
} catch (...) {
  return 1;
}
}
