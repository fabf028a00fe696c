// The scan of one kind of neuron on the CPU: all time steps forward, and the adjoint backward.
//
// snnbench.models.scan_cpp fills in the statements of the neuron's step and its adjoint at the marked
// places (they come from snnbench.models.derivation) and compiles this file for one type of number;
// snnbench.models.scan_cpu calls forward, backward and outer from as many threads as it likes. Every element
// of every result is computed by one thread in one order: so the number of threads changes no bit.
//
// All sequences lie in memory sample by sample, (batch, time, unit): row = sample * n_steps + step, as events
// are numbered, too. So a sample is one stream from front to back. Rows of units are padded to whole vectors
// in everything made here; tensors of the caller are not.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef REAL real;
typedef int64_t i64;
constexpr int LANES = 64 / sizeof(real);

// Bytes of a register of this processor.
#if defined(__AVX512F__)
constexpr int NATIVE = 64;
#elif defined(__AVX__)
constexpr int NATIVE = 32;
#else
constexpr int NATIVE = 16;
#endif
typedef real native __attribute__((vector_size(NATIVE), aligned(sizeof(real)), may_alias));

// what statements call; exp in vectors, without the liberties of -ffast-math
extern "C" __attribute__((simd("notinbranch"))) float expf(float) noexcept;
extern "C" __attribute__((simd("notinbranch"))) double exp(double) noexcept;
#if REAL_IS_FLOAT
#define ABS fabsf
#define EXP expf
#else
#define ABS fabs
#define EXP exp
#endif

namespace {

constexpr int N_STATES = /*@n_states*/;
constexpr int MEMBRANE = /*@membrane*/;        // which part of the state
constexpr int N_PARAMETERS = /*@n_parameters*/;
constexpr int N_GRADIENTS = /*@n_gradients*/;  // constants whose gradient is wanted
constexpr bool SPIKES = /*@spikes*/;           // a readout never spikes

// Steps between asking for a row of memory and using it: each sample is a stream of its own, and there are
// more of them than a processor follows by itself.
constexpr i64 AHEAD = 6;
template <int FOR_WRITING>
inline void fetch(const real *row, i64 n) {
  for (i64 i = 0; i < n; i += LANES) __builtin_prefetch(row + i, FOR_WRITING);
}

// Numbers in one register or several. A vector type wider than a register would also compile, but GCC keeps
// such sums on the stack: ten times the time on a processor with AVX2.
template <int BYTES>
struct Wide {
  Wide<BYTES / 2> low, high;
  static Wide load(const real *p) {
    return {Wide<BYTES / 2>::load(p), Wide<BYTES / 2>::load(p + BYTES / 2 / sizeof(real))};
  }
  void store(real *p) const { low.store(p), high.store(p + BYTES / 2 / sizeof(real)); }
  void operator+=(const Wide &v) { low += v.low, high += v.high; }
  friend Wide operator*(real factor, const Wide &v) { return {factor * v.low, factor * v.high}; }
};
template <>
struct Wide<NATIVE> {
  native v;
  static Wide load(const real *p) { return {*reinterpret_cast<const native *>(p)}; }
  void store(real *p) const { *reinterpret_cast<native *>(p) = v; }
  void operator+=(const Wide &other) { v += other.v; }
  friend Wide operator*(real factor, const Wide &other) { return {factor * other.v}; }
};

typedef Wide<64> vec;
inline vec load(const real *p) { return vec::load(p); }
inline void store(real *p, const vec &v) { v.store(p); }

// Zeros, aligned to whole lines of cache: a vector that lies across two costs twice.
class Buffer {
 public:
  explicit Buffer(i64 n) : data_(static_cast<real *>(std::aligned_alloc(64, bytes(n))), std::free) {
    std::memset(data_.get(), 0, bytes(n));
  }
  real &operator[](i64 i) { return data_.get()[i]; }
  real *data() { return data_.get(); }
  void clear(i64 n) { std::memset(data_.get(), 0, n * sizeof(real)); }

 private:
  static size_t bytes(i64 n) { return (n * sizeof(real) + 127) / 64 * 64; }
  std::unique_ptr<real, decltype(&std::free)> data_;
};

// ---- sparse rows --------------------------------------------------------------------------------

// out[0 .. K vectors) += sum over e of values[e] * table[list[e]], kept in registers meanwhile.
// Without values each counts once.
template <int K, bool VALUES, class Index>
inline void add_rows(real *out, const real *table, i64 stride, const Index *list,
                     const real *values, i64 n) {
  vec sum[K];
  for (int k = 0; k < K; ++k) sum[k] = load(out + k * LANES);
  for (i64 e = 0; e < n; ++e) {
    const real *row = table + i64(list[e]) * stride;
    for (int k = 0; k < K; ++k)
      sum[k] += VALUES ? values[e] * load(row + k * LANES) : load(row + k * LANES);
  }
  for (int k = 0; k < K; ++k) store(out + k * LANES, sum[k]);
}

template <bool VALUES, class Index>
inline void add_rows(int k, real *out, const real *table, i64 stride, const Index *list,
                     const real *values, i64 n) {
  switch (k) {
    case 8: return add_rows<8, VALUES>(out, table, stride, list, values, n);
    case 7: return add_rows<7, VALUES>(out, table, stride, list, values, n);
    case 6: return add_rows<6, VALUES>(out, table, stride, list, values, n);
    case 5: return add_rows<5, VALUES>(out, table, stride, list, values, n);
    case 4: return add_rows<4, VALUES>(out, table, stride, list, values, n);
    case 3: return add_rows<3, VALUES>(out, table, stride, list, values, n);
    case 2: return add_rows<2, VALUES>(out, table, stride, list, values, n);
    case 1: return add_rows<1, VALUES>(out, table, stride, list, values, n);
  }
}

constexpr int BLOCK = 8;  // vectors of a row that are summed at once: what the registers hold
inline int block_width(i64 left) { return left >= BLOCK * LANES ? BLOCK : int(left / LANES); }

// Places and values of what is not zero in row[0 .. n); returns how many. Lists have room for n + SPARE.
constexpr i64 SPARE = 64;
inline i64 find_nonzero(const real *row, i64 n, uint16_t *list, real *values) {
  i64 found = 0, i = 0;
#if defined(__AVX512F__) && REAL_IS_FLOAT
  // sixteen at once, without a branch that a processor could guess wrong; writes up to 16 places ahead
  const __m512i ascending = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (; i + LANES <= n; i += LANES) {
    const __m512 x = _mm512_loadu_ps(row + i);
    const __mmask16 set = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    const __m512i at = _mm512_add_epi32(ascending, _mm512_set1_epi32(int(i)));
    _mm512_storeu_ps(values + found, _mm512_maskz_compress_ps(set, x));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(list + found),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(set, at)));
    found += __builtin_popcount(set);
  }
#elif defined(__AVX2__) && REAL_IS_FLOAT
  for (; i + 8 <= n; i += 8) {
    uint32_t set = _mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_loadu_ps(row + i), _mm256_setzero_ps(), _CMP_NEQ_UQ));
    for (; set; set &= set - 1) {
      const i64 at = i + __builtin_ctz(set);
      list[found] = uint16_t(at);
      values[found++] = row[at];
    }
  }
#endif
  for (; i < n; ++i) {
    list[found] = uint16_t(i);
    values[found] = row[i];
    found += row[i] != 0;
  }
  return found;
}

inline i64 words(i64 n) { return (n + 63) / 64; }

// One bit for each of sent[0 .. n), set where it is not zero.
inline void to_bits(const real *sent, i64 n, uint64_t *bits) {
  for (; n > 0; ++bits, sent += 64, n -= 64) {
    uint64_t set = 0;
    i64 i = 0;
#if defined(__AVX512F__) && REAL_IS_FLOAT
    for (; i < 64 && i + LANES <= n; i += LANES)
      set |= uint64_t(_mm512_cmp_ps_mask(_mm512_loadu_ps(sent + i), _mm512_setzero_ps(),
                                         _CMP_NEQ_UQ)) << i;
#elif defined(__AVX2__) && REAL_IS_FLOAT
    for (; i < 64 && i + 8 <= n; i += 8)
      set |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(sent + i),
                                                       _mm256_setzero_ps(), _CMP_NEQ_UQ))) << i;
#endif
    for (; i < 64 && i < n; ++i) set |= uint64_t(sent[i] != 0) << i;
    *bits = set;
  }
}

// Places of set bits from `first` to `last` - 1, counted from `first`; returns how many.
// `list` has room for SPARE more.
inline i64 from_bits(const uint64_t *bits, i64 first, i64 last, uint16_t *list) {
  i64 found = 0;
#ifdef __AVX512VBMI2__
  alignas(64) uint8_t places[64];
  for (int i = 0; i < 64; ++i) places[i] = uint8_t(i);
  const __m512i ascending = _mm512_load_si512(places);
#endif
  for (i64 w = first / 64; w * 64 < last; ++w) {
    uint64_t set = bits[w];
    if (w * 64 < first) set &= ~uint64_t(0) << (first - w * 64);
    if (last - w * 64 < 64) set &= ~(~uint64_t(0) << (last - w * 64));
#ifdef __AVX512VBMI2__
    // a whole word without a branch that a processor could guess wrong; writes up to 64 places ahead
    const __m512i at = _mm512_maskz_compress_epi8(set, ascending);
    const __m512i base = _mm512_set1_epi16(int16_t(w * 64 - first));
    const int n = __builtin_popcountll(set);
    _mm512_storeu_si512(list + found, _mm512_add_epi16(
        base, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(at))));
    if (n > 32)
      _mm512_storeu_si512(list + found + 32, _mm512_add_epi16(
          base, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(at, 1))));
    found += n;
#else
    for (; set; set &= set - 1) list[found++] = uint16_t(w * 64 + __builtin_ctzll(set) - first);
#endif
  }
  return found;
}

// ---- a small dense product ----------------------------------------------------------------------

// Rows whose sums the registers hold.
#ifdef __AVX512F__
constexpr int ROWS_AT_ONCE = 8;
#else
constexpr int ROWS_AT_ONCE = 3;
#endif

// out[R rows][2 vectors] += sum over k of a[row][k] * panel[k]
template <int R>
inline void product_tile(real *out, i64 out_stride, const real *a, i64 a_stride, const real *panel,
                         i64 n) {
  vec sum[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sum[r][0] = load(out + r * out_stride);
    sum[r][1] = load(out + r * out_stride + LANES);
  }
  for (i64 k = 0; k < n; ++k) {
    const vec left = load(panel + k * 2 * LANES), right = load(panel + k * 2 * LANES + LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const real factor = a[r * a_stride + k];
      sum[r][0] += factor * left;
      sum[r][1] += factor * right;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    store(out + r * out_stride, sum[r][0]);
    store(out + r * out_stride + LANES, sum[r][1]);
  }
}

// out (rows, padded) += a (rows, n) times a matrix cut into panels of two vectors, (panel, n, 2 vectors).
// Every sum runs over k in order, whatever the number of rows.
void product(real *out, i64 padded, const real *a, i64 a_stride, i64 rows, const real *panels,
             i64 n) {
  constexpr int R = ROWS_AT_ONCE;
  for (i64 column = 0; column < padded; column += 2 * LANES, panels += n * 2 * LANES) {
    i64 r = 0;
    for (; r + R <= rows; r += R)
      product_tile<R>(out + r * padded + column, padded, a + r * a_stride, a_stride, panels, n);
    for (; r < rows; ++r)
      product_tile<1>(out + r * padded + column, padded, a + r * a_stride, a_stride, panels, n);
  }
}

}  // namespace

// ---- what Python calls --------------------------------------------------------------------------

// The fields of snnbench.models.scan_cpp.FORWARD, in its order.
struct Forward {
  i64 n_steps, n_batch, n_units, padded, n_inputs, n_outgoing, padded_outgoing, group;
  const i64 *indptr;         // events: row = sample * n_steps + step; null without
  const uint16_t *channels;
  const real *rows;          // (batch, time, input), or the drive itself where `weight` is null
  const real *weight;        // (input, padded)
  const real *recurrent;     // (unit that sends, padded), or null
  const real *outgoing;      // (unit that sends, padded_outgoing), or null
  const real *parameters;    // (parameter, padded)
  const real *state;         // (part, batch, unit): before the first step
  const real *gate;          // (batch, unit), or null
  uint64_t *bits;            // (batch, time, word): which units spike; null where nothing spikes
  real *spikes;              // (batch, time, unit): what they send; null where nobody asks
  real *counts;              // (batch, unit): the sum of this over time
  real *projected;           // (batch, time, n_outgoing): what the next layer receives
  real *final_state;         // as `state`: after the last step
  real *peaks;               // (batch, unit): the largest membrane over time; null where nobody asks
  real *peak_steps;          // (batch, unit): the step of the first such membrane
  real *kept[N_STATES + 1];  // (batch, time, unit) for what is kept of state and drive, else null
};

// The fields of snnbench.models.scan_cpp.BACKWARD, in its order.
struct Backward {
  i64 n_steps, n_batch, n_units, padded, n_outgoing, group;
  const real *recurrent;       // V in panels of two vectors: (panel, unit that receives, 2 vectors)
  const real *outgoing;        // likewise: (panel, outgoing, 2 vectors)
  const real *parameters;
  const real *gate;
  const real *kept[N_STATES + 1];
  const real *grad_spikes;     // (batch, time, unit), or null
  const real *grad_counts;     // (batch, unit), or null
  const real *grad_projected;  // (batch, time, n_outgoing), or null
  const real *grad_membranes;  // (batch, time, unit), or null
  const real *grad_final;      // (part, batch, unit), or null
  const real *grad_peaks;      // (batch, unit), or null
  const real *peak_steps;      // (batch, unit), where grad_peaks is not null
  real slope;
  real *grad_drive;            // (batch, time, unit)
  real *grad_state;            // (part, batch, unit)
  real *grad_parameters;       // (constant, batch, unit): per sample, to be summed
};

// The fields of snnbench.models.scan_cpp.OUTER, in its order. One of indptr, rows and bits is not null.
struct Outer {
  i64 n_steps, n_units, n_onward, n_inputs, tile, first_row, last_row;  // first_row to last_row - 1
  const i64 *indptr;
  const uint16_t *channels;
  const real *rows;            // (batch, time, input)
  const uint64_t *bits;        // (batch, time, word)
  const real *gate;            // (batch, input): values of set bits, 1 where null
  const real *grad;            // (batch, time, unit); null where nobody asks for `out`
  const real *grad_onward;     // (batch, time, n_onward); null where nobody asks for `out_onward`
  real *out;                   // (input, unit)
  real *out_onward;            // (input, n_onward)
};

// Steps that receive their input together: few enough that their drive stays in the nearer caches.
static i64 steps_of_tile(i64 group) { return group >= 128 ? 1 : 128 / group; }

extern "C" void forward(const Forward *p, i64 first, i64 last) {
  const i64 T = p->n_steps, B = p->n_batch, N = p->n_units, NP = p->padded, G = p->group;
  const i64 tile = steps_of_tile(G), MP = p->padded_outgoing;
  Buffer drives(tile * G * NP), states(N_STATES * G * NP), counts(G * NP), ones(N), sent_row(N);
  Buffer onward(MP), peaks(p->peaks ? G * NP : 0), peak_steps(p->peaks ? G * NP : 0);
  std::fill(ones.data(), ones.data() + N, real(1));
  const i64 room = (N > p->n_inputs ? N : p->n_inputs) + SPARE;
  Buffer values(G * room);
  std::vector<uint16_t> lists(G * room);
  std::vector<i64> found(G);

  for (i64 b0 = first; b0 < last; b0 += G) {
    const i64 rows = b0 + G <= last ? G : last - b0;
    for (int s = 0; s < N_STATES; ++s)
      for (i64 g = 0; g < rows; ++g)
        std::memcpy(&states[(s * G + g) * NP], p->state + (s * B + b0 + g) * N, N * sizeof(real));

    counts.clear(G * NP);
    if (p->peaks) std::fill(peaks.data(), peaks.data() + G * NP, -INFINITY);

    for (i64 t0 = 0; t0 < T; t0 += tile) {
      const i64 steps = t0 + tile <= T ? tile : T - t0;

      // what comes from below
      if (!p->weight) {
        for (i64 t = 0; t < steps; ++t)
          for (i64 g = 0; g < rows; ++g)
            std::memcpy(&drives[(t * G + g) * NP], p->rows + ((b0 + g) * T + t0 + t) * N,
                        N * sizeof(real));
      } else {
        drives.clear(steps * G * NP);
        if (p->indptr) {
          // columns outermost: a block of the weights stays in cache while all rows pass
          for (i64 c = 0; c < NP; c += BLOCK * LANES)
            for (i64 g = 0; g < rows; ++g)
              for (i64 t = 0; t < steps; ++t) {
                const i64 *at = p->indptr + (b0 + g) * T + t0 + t;
                add_rows<false>(block_width(NP - c), &drives[(t * G + g) * NP + c], p->weight + c,
                                NP, p->channels + at[0], nullptr, at[1] - at[0]);
              }
        } else {
          for (i64 g = 0; g < rows; ++g)
            for (i64 t = 0; t < steps; ++t) {
              const i64 n = find_nonzero(p->rows + ((b0 + g) * T + t0 + t) * p->n_inputs,
                                         p->n_inputs, lists.data(), values.data());
              for (i64 c = 0; c < NP; c += BLOCK * LANES)
                add_rows<true>(block_width(NP - c), &drives[(t * G + g) * NP + c], p->weight + c,
                               NP, lists.data(), values.data(), n);
            }
        }
      }

      for (i64 t = 0; t < steps; ++t) {
        real *drive_t = &drives[t * G * NP];

        for (i64 g = 0; g < rows; ++g) {
          const i64 row = ((b0 + g) * T + t0 + t) * N;
          real *__restrict state = &states[g * NP];
          const i64 part = G * NP;
          for (int s = 0; s < N_STATES; ++s)
            if (p->kept[s]) {
              if (t0 + t + AHEAD < T) fetch<1>(p->kept[s] + row + AHEAD * N, N);
              std::memcpy(p->kept[s] + row, state + s * part, N * sizeof(real));
            }
          if (p->peaks) {
            const real *__restrict membrane = state + MEMBRANE * part;
            real *__restrict peak = &peaks[g * NP], *__restrict step = &peak_steps[g * NP];
            const real now = real(t0 + t);
            for (i64 i = 0; i < N; ++i) {
              const bool higher = !(membrane[i] <= peak[i]);  // nan is, so that it shows
              peak[i] = higher ? membrane[i] : peak[i];
              step[i] = higher ? now : step[i];
            }
          }
          if (SPIKES) {
            const real *__restrict parameters = p->parameters;
            const real *__restrict gate = p->gate ? p->gate + (b0 + g) * N : ones.data();
            real *__restrict sent = p->spikes ? p->spikes + row : sent_row.data();
            real *__restrict count = &counts[g * NP];
            for (i64 i = 0; i < N; ++i) {
              /*@load_parameters*/
              /*@load_state*/
              /*@distance*/
              const real sent_ = distance_ > real(0) ? gate[i] : real(0);
              sent[i] = sent_;
              count[i] += sent_;
            }
            to_bits(sent, N, p->bits + ((b0 + g) * T + t0 + t) * words(N));
            if (p->recurrent || p->outgoing)
              found[g] = find_nonzero(sent, N, &lists[g * room], &values[g * room]);
          }
        }

        // what the layer tells itself
        if (SPIKES && p->recurrent)
          for (i64 c = 0; c < NP; c += BLOCK * LANES)
            for (i64 g = 0; g < rows; ++g)
              add_rows<true>(block_width(NP - c), drive_t + g * NP + c, p->recurrent + c, NP,
                             &lists[g * room], &values[g * room], found[g]);

        // and what it tells the next one
        if (SPIKES && p->outgoing)
          for (i64 g = 0; g < rows; ++g) {
            onward.clear(MP);
            for (i64 c = 0; c < MP; c += BLOCK * LANES)
              add_rows<true>(block_width(MP - c), onward.data() + c, p->outgoing + c, MP,
                             &lists[g * room], &values[g * room], found[g]);
            std::memcpy(p->projected + ((b0 + g) * T + t0 + t) * p->n_outgoing, onward.data(),
                        p->n_outgoing * sizeof(real));
          }

        for (i64 g = 0; g < rows; ++g) {
          real *__restrict state = &states[g * NP];
          const i64 part = G * NP;
          const real *__restrict parameters = p->parameters;
          const real *__restrict drive = drive_t + g * NP;
          if (p->kept[N_STATES])
            std::memcpy(p->kept[N_STATES] + ((b0 + g) * T + t0 + t) * N, drive, N * sizeof(real));
#pragma GCC ivdep
          for (i64 i = 0; i < N; ++i) {
            /*@load_parameters*/
            /*@load_state*/
            /*@spike*/
            const real drive_ = drive[i];
            (void)drive_;
            /*@next_state*/
            /*@store_state*/
          }
        }
      }
    }
    for (int s = 0; s < N_STATES; ++s)
      for (i64 g = 0; g < rows; ++g)
        std::memcpy(p->final_state + (s * B + b0 + g) * N, &states[(s * G + g) * NP],
                    N * sizeof(real));
    for (i64 g = 0; p->peaks && g < rows; ++g) {
      std::memcpy(p->peaks + (b0 + g) * N, &peaks[g * NP], N * sizeof(real));
      std::memcpy(p->peak_steps + (b0 + g) * N, &peak_steps[g * NP], N * sizeof(real));
    }
    for (i64 g = 0; SPIKES && g < rows; ++g)
      std::memcpy(p->counts + (b0 + g) * N, &counts[g * NP], N * sizeof(real));
  }
}

extern "C" void backward(const Backward *p, i64 first, i64 last) {
  const i64 T = p->n_steps, B = p->n_batch, N = p->n_units, NP = p->padded, G = p->group;
  const i64 part = G * NP;
  Buffer adjoints(N_STATES * part), back(part), received(part), constants((N_GRADIENTS + 1) * part);
  Buffer zeros(N), ones(N), on_membrane_row(N);
  std::fill(ones.data(), ones.data() + N, real(1));

  for (i64 b0 = first; b0 < last; b0 += G) {
    const i64 rows = b0 + G <= last ? G : last - b0;
    adjoints.clear(N_STATES * part);
    constants.clear(N_GRADIENTS * part);
    if (p->grad_final)
      for (int s = 0; s < N_STATES; ++s)
        for (i64 g = 0; g < rows; ++g)
          std::memcpy(&adjoints[s * part + g * NP], p->grad_final + (s * B + b0 + g) * N,
                      N * sizeof(real));

    for (i64 t = T - 1; t >= 0; --t) {
      for (i64 g = 0; g < rows; ++g) {
        const i64 row = ((b0 + g) * T + t) * N;
        const real *__restrict lam = &adjoints[g * NP];
        const real *__restrict parameters = p->parameters;
        real *__restrict grad_drive = p->grad_drive + row;
        if (t >= AHEAD) {
          fetch<1>(grad_drive - AHEAD * N, N);
          for (int s = 0; s <= N_STATES; ++s)
            if (p->kept[s]) fetch<0>(p->kept[s] + row - AHEAD * N, N);
        }
        real *__restrict to_senders = &back[g * NP];
        /*@kept_rows*/
#pragma GCC ivdep
        for (i64 i = 0; i < N; ++i) {
          /*@load_parameters*/
          /*@load_kept*/
          /*@load_adjoint*/
          /*@kept_spike*/
          /*@grad_drive*/
          grad_drive[i] = grad_drive_;
          to_senders[i] = grad_drive_;
        }
      }

      // from those that received the spikes
      if (SPIKES) {
        received.clear(rows * NP);
        if (p->recurrent)
          product(received.data(), NP, back.data(), NP, rows, p->recurrent, N);
        if (p->grad_projected)
          product(received.data(), NP, p->grad_projected + (b0 * T + t) * p->n_outgoing,
                  T * p->n_outgoing, rows, p->outgoing, p->n_outgoing);
      }

      for (i64 g = 0; g < rows; ++g) {
        const i64 row = ((b0 + g) * T + t) * N;
        real *__restrict lam = &adjoints[g * NP];
        real *__restrict sums = &constants[g * NP];
        const real *__restrict parameters = p->parameters;
        const real *__restrict within = &received[g * NP];
        const real *__restrict gate = p->gate ? p->gate + (b0 + g) * N : ones.data();
        const real *__restrict outside = p->grad_spikes ? p->grad_spikes + row : zeros.data();
        const real *__restrict on_count = p->grad_counts ? p->grad_counts + (b0 + g) * N : zeros.data();
        const real *__restrict on_membrane =
            p->grad_membranes ? p->grad_membranes + row : zeros.data();
        if (p->grad_peaks) {
          const real *__restrict step = p->peak_steps + (b0 + g) * N;
          const real *__restrict on_peak = p->grad_peaks + (b0 + g) * N;
          real *__restrict sum = on_membrane_row.data();
          for (i64 i = 0; i < N; ++i)
            sum[i] = on_membrane[i] + (step[i] == real(t) ? on_peak[i] : real(0));
          on_membrane = sum;
        }
        (void)sums, (void)within, (void)gate, (void)outside, (void)on_count;
        const real slope_ = p->slope;
        (void)slope_;
        /*@kept_rows*/
#pragma GCC ivdep
        for (i64 i = 0; i < N; ++i) {
          /*@load_parameters*/
          /*@load_kept*/
          /*@load_adjoint*/
          /*@kept_spike*/
          const real grad_spike_ = (outside[i] + on_count[i] + within[i]) * gate[i];
          const real grad_membrane_ = on_membrane[i];
          (void)grad_spike_, (void)grad_membrane_;
          /*@grad_distance*/
          /*@grad_state*/
          /*@store_adjoint*/
          /*@add_gradients*/
        }
      }
    }

    for (i64 g = 0; g < rows; ++g) {
      for (int s = 0; s < N_STATES; ++s)
        std::memcpy(p->grad_state + (s * B + b0 + g) * N, &adjoints[s * part + g * NP],
                    N * sizeof(real));
      for (int k = 0; k < N_GRADIENTS; ++k)
        std::memcpy(p->grad_parameters + (k * B + b0 + g) * N, &constants[k * part + g * NP],
                    N * sizeof(real));
    }
  }
}

// Events of a row from input `first` on, or before input `last`: a row's channels ascend.
static inline const uint16_t *begin(const Outer *p, i64 row, i64 first) {
  const uint16_t *e = p->channels + p->indptr[row];
  return first == 0 ? e : std::lower_bound(e, p->channels + p->indptr[row + 1], first);
}
static inline const uint16_t *end(const Outer *p, i64 row, i64 last) {
  const uint16_t *stop = p->channels + p->indptr[row + 1];
  return last == p->n_inputs ? stop : std::lower_bound(p->channels + p->indptr[row], stop, last);
}

// A gradient of weights that grows tile by tile: sums[input] += value * grad[row].
class Sums {
 public:
  Sums(const real *grad, real *out, i64 n_units, i64 n_inputs, i64 tile)
      : grad_(grad), out_(out), n_(n_units), padded_((n_units + LANES - 1) / LANES * LANES),
        copied_(n_units != BLOCK * LANES),  // columns of wide rows would fight for lines of cache
        grads_(grad && copied_ ? tile * padded_ : 0), sums_(grad ? n_inputs * padded_ : 0) {}

  // Rows r0 to r0 + rows - 1: input m is not 0 in rows r0 + sorted[end[m - 1]] to r0 + sorted[end[m] - 1].
  // Without values each is 1.
  template <bool VALUES>
  void add(i64 r0, i64 rows, i64 n_inputs, const uint16_t *sorted, const real *values,
           const uint32_t *end) {
    if (!grad_) return;
    const real *grad = grad_ + r0 * n_;
    if (copied_) {
      for (i64 r = 0; r < rows; ++r)
        std::memcpy(&grads_[r * padded_], grad + r * n_, n_ * sizeof(real));
      grad = grads_.data();
    }
    for (i64 c = 0; c < padded_; c += BLOCK * LANES) {
      const int k = block_width(padded_ - c);
      for (i64 m = 0, e = 0; m < n_inputs; e = end[m++])
        if (end[m] > e)
          add_rows<VALUES>(k, &sums_[m * padded_ + c], grad + c, padded_, sorted + e,
                           VALUES ? values + e : nullptr, end[m] - e);
    }
  }

  // Write inputs `first` on.
  void write(i64 first, i64 n_inputs) {
    for (i64 m = 0; grad_ && m < n_inputs; ++m)
      std::memcpy(out_ + (first + m) * n_, &sums_[m * padded_], n_ * sizeof(real));
  }

 private:
  const real *grad_;
  real *out_;
  i64 n_, padded_;
  bool copied_;
  Buffer grads_, sums_;
};

// out[input] = sum over rows of the input's value there * grad[row], for inputs first to last - 1; and the
// same of grad_onward.
//
// A tile of rows that fits the nearest caches is taken at a time, and its events are sorted by input: then a
// row of `out` is fetched and stored once per tile and input, and not once per event.
enum class Source { EVENTS, ROWS, BITS };

template <Source SOURCE>
static void outer_product(const Outer *p, i64 first, i64 last) {
  const i64 M = last - first, tile = p->tile;
  Sums sums(p->grad, p->out, p->n_units, M, tile);
  Sums onward(p->grad_onward, p->out_onward, p->n_onward, M, tile);
  constexpr bool EVENTS = SOURCE == Source::EVENTS;
  const bool valued = SOURCE == Source::ROWS || p->gate;
  std::vector<real> values, sorted_values;
  std::vector<uint16_t> inputs, sorted;
  std::vector<uint32_t> place(M + 1), found(tile);
  std::vector<const uint16_t *> of_row(tile);

  for (i64 r0 = p->first_row; r0 < p->last_row; r0 += tile) {
    const i64 rows = r0 + tile <= p->last_row ? tile : p->last_row - r0;
    const size_t most = EVENTS ? p->indptr[r0 + rows] - p->indptr[r0] : rows * M + SPARE;
    if (sorted.size() < most) {
      sorted.resize(most);
      if (!EVENTS) inputs.resize(most);
      if (valued) values.resize(most), sorted_values.resize(most);
    }

    // count, then place
    std::fill(place.begin(), place.end(), 0);
    i64 n = 0;
    for (i64 r = 0; r < rows; ++r) {
      if (EVENTS) {
        const uint16_t *e = begin(p, r0 + r, first), *stop = end(p, r0 + r, last);
        of_row[r] = e, found[r] = uint32_t(stop - e);
        n += found[r];
        for (; e < stop; ++e) ++place[*e - first + 1];
      } else {
        if (SOURCE == Source::ROWS) {
          const real *row = p->rows + (r0 + r) * p->n_inputs + first;
          found[r] = uint32_t(find_nonzero(row, M, &inputs[n], &values[n]));
        } else {
          const uint64_t *row = p->bits + (r0 + r) * words(p->n_inputs);
          found[r] = uint32_t(from_bits(row, first, last, &inputs[n]));
          if (p->gate) {
            const real *gate = p->gate + (r0 + r) / p->n_steps * p->n_inputs + first;
            for (i64 e = n; e < n + found[r]; ++e) values[e] = gate[inputs[e]];
          }
        }
        for (i64 stop = n + found[r]; n < stop; ++n) ++place[inputs[n] + 1];
      }
    }
    if (n == 0) continue;
    for (i64 m = 0; m < M; ++m) place[m + 1] += place[m];
    for (i64 r = 0, e = 0; r < rows; ++r) {
      if (EVENTS) {
        for (const uint16_t *c = of_row[r], *stop = c + found[r]; c < stop; ++c)
          sorted[place[*c - first]++] = uint16_t(r);
      } else {
        for (const i64 stop = e + found[r]; e < stop; ++e) {
          const uint32_t to = place[inputs[e]]++;
          sorted[to] = uint16_t(r);
          if (valued) sorted_values[to] = values[e];
        }
      }
    }

    // now place[m] is where the events of m end
    for (Sums *s : {&sums, &onward}) {
      if (valued)
        s->add<true>(r0, rows, M, sorted.data(), sorted_values.data(), place.data());
      else
        s->add<false>(r0, rows, M, sorted.data(), nullptr, place.data());
    }
  }
  sums.write(first, M);
  onward.write(first, M);
}

extern "C" void outer(const Outer *p, i64 first, i64 last) {
  if (p->indptr)
    outer_product<Source::EVENTS>(p, first, last);
  else if (p->rows)
    outer_product<Source::ROWS>(p, first, last);
  else
    outer_product<Source::BITS>(p, first, last);
}
