// Element-wise parts of a transformer block, each in one pass over memory, and attention of one decode step.
//
// Compiled by models/kernels.py for the CPU at hand. Tensors are contiguous and fp32, or bf16 where T says so; sums are
// fp32. Rows are shared out to the threads that PyTorch uses; sums over rows go through CHUNKS fixed parts, so that no
// result depends on the number of threads. NaN passes through: no flag here assumes finite numbers.

#include <cmath>
#include <cstdint>
#include <cstring>

using Index = std::int64_t;

namespace {

constexpr Index HEAD = 64, PAIRS = HEAD / 2, CHUNKS = 32;
constexpr float EPSILON = 1e-24f;
constexpr float GELU_SCALE = 0.7978845608028654f, GELU_CUBE = 0.044715f;

struct BF16 {
    std::uint16_t bits;
};

inline float get(float x) { return x; }

inline float get(BF16 x) {
    std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void put(float &to, float x) { to = x; }

inline void put(BF16 &to, float x) {  // to nearest, ties to even
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    std::uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    to.bits = x == x ? std::uint16_t(rounded) : 0x7FC0;
}

inline float exponential(float x) {  // within 2 units in the last place (Cephes' polynomial)
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504088896341f);
    float f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    std::uint32_t bits = std::uint32_t(std::int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float gelu_sigmoid(float x) {  // tanh-GELU is x times this
    return 1.0f / (1.0f + exponential(-2.0f * GELU_SCALE * (x + GELU_CUBE * x * x * x)));
}

inline Index chunk_start(Index rows, Index chunk) { return rows * chunk / CHUNKS; }

// y = x / sqrt(mean x^2) * scale of rows of `width`; returns the factor of x.
template <class X, class Y>
inline float norm_row(const X *x, const float *scale, Y *y, Index width) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (Index i = 0; i < width; i++) squares += get(x[i]) * get(x[i]);
    float factor = 1.0f / std::sqrt(squares / width + EPSILON);
#pragma omp simd
    for (Index i = 0; i < width; i++) put(y[i], get(x[i]) * factor * scale[i]);
    return factor;
}

// Gradient of norm_row: dx, and what it adds to dscale.
template <class X, class DX>
inline void norm_row_backward(const float *dy, const X *x, const float *scale, float factor, DX *dx, float *dscale,
                              Index width) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (Index i = 0; i < width; i++) dot += dy[i] * scale[i] * get(x[i]);
    dot *= factor * factor / width;
#pragma omp simd
    for (Index i = 0; i < width; i++) {
        dscale[i] += dy[i] * get(x[i]) * factor;
        put(dx[i], factor * (dy[i] * scale[i] - get(x[i]) * dot));
    }
}

inline void rotate(const float *x, const float *rotary, float *y) {
#pragma omp simd
    for (Index i = 0; i < PAIRS; i++) {
        float a = x[2 * i], b = x[2 * i + 1], cosine = rotary[2 * i], sine = rotary[2 * i + 1];
        y[2 * i] = a * cosine - b * sine;
        y[2 * i + 1] = a * sine + b * cosine;
    }
}

template <class T>
inline void rotate_back(const T *x, const float *rotary, float *y) {
#pragma omp simd
    for (Index i = 0; i < PAIRS; i++) {
        float a = get(x[2 * i]), b = get(x[2 * i + 1]), cosine = rotary[2 * i], sine = rotary[2 * i + 1];
        y[2 * i] = a * cosine + b * sine;
        y[2 * i + 1] = b * cosine - a * sine;
    }
}

// qkv (B, T, 3, heads, 64) -> queries and keys normed and rotated, values as they are. Batch, head and position strides
// of each output, in elements. factors (B, T, 2, heads) of the norms, or null.
template <class T>
void heads(const T *qkv, const float *rotary, const float *scales, T *const *outputs, const Index *strides,
           float *factors, Index batch, Index tokens, Index count) {
#pragma omp parallel for
    for (Index row = 0; row < batch * tokens; row++) {
        Index b = row / tokens, t = row % tokens;
        for (Index part = 0; part < 3; part++) {
            const Index *stride = strides + 3 * part;
            for (Index head = 0; head < count; head++) {
                const T *x = qkv + ((row * 3 + part) * count + head) * HEAD;
                T *y = outputs[part] + b * stride[0] + head * stride[1] + t * stride[2];
                if (part == 2) {
                    std::memcpy(y, x, HEAD * sizeof(T));
                    continue;
                }
                float normed[HEAD], turned[HEAD];
                float factor = norm_row(x, scales + part * HEAD, normed, HEAD);
                rotate(normed, rotary + t * HEAD, turned);
                for (Index i = 0; i < HEAD; i++) put(y[i], turned[i]);
                if (factors) factors[(row * 2 + part) * count + head] = factor;
            }
        }
    }
}

// gradients of q, k, v (B, heads, T, 64) -> of qkv, and parts of dscales (CHUNKS, 2, 64), zero before.
template <class T>
void heads_backward(const T *const *gradients, const T *qkv, const float *rotary, const float *scales,
                    const float *factors, T *dqkv, float *dscales, Index batch, Index tokens, Index count) {
    Index rows = batch * tokens;
#pragma omp parallel for
    for (Index chunk = 0; chunk < CHUNKS; chunk++)
        for (Index row = chunk_start(rows, chunk); row < chunk_start(rows, chunk + 1); row++) {
            Index b = row / tokens, t = row % tokens;
            for (Index part = 0; part < 3; part++)
                for (Index head = 0; head < count; head++) {
                    Index place = ((row * 3 + part) * count + head) * HEAD;
                    const T *dy = gradients[part] + ((b * count + head) * tokens + t) * HEAD;
                    if (part == 2) {
                        std::memcpy(dqkv + place, dy, HEAD * sizeof(T));
                        continue;
                    }
                    float turned[HEAD];
                    rotate_back(dy, rotary + t * HEAD, turned);
                    norm_row_backward(turned, qkv + place, scales + part * HEAD,
                                      factors[(row * 2 + part) * count + head], dqkv + place,
                                      dscales + (chunk * 2 + part) * HEAD, HEAD);
                }
        }
}

// x (rows, gate and value of `hidden` each) -> gelu(value) * gate (rows, hidden).
template <class T>
void geglu(const T *x, T *y, Index rows, Index hidden) {
#pragma omp parallel for
    for (Index row = 0; row < rows; row++) {
        const T *gate = x + row * 2 * hidden, *value = gate + hidden;
#pragma omp simd
        for (Index i = 0; i < hidden; i++) {
            float v = get(value[i]);
            put(y[row * hidden + i], v * gelu_sigmoid(v) * get(gate[i]));
        }
    }
}

template <class T>
void geglu_backward(const T *dy, const T *x, T *dx, Index rows, Index hidden) {
#pragma omp parallel for
    for (Index row = 0; row < rows; row++) {
        const T *gate = x + row * 2 * hidden, *value = gate + hidden, *d = dy + row * hidden;
        T *dgate = dx + row * 2 * hidden, *dvalue = dgate + hidden;
#pragma omp simd
        for (Index i = 0; i < hidden; i++) {
            float v = get(value[i]), s = gelu_sigmoid(v), g = get(d[i]);
            float slope = s + v * s * (1 - s) * 2 * GELU_SCALE * (1 + 3 * GELU_CUBE * v * v);
            put(dgate[i], g * v * s);
            put(dvalue[i], g * get(gate[i]) * slope);
        }
    }
}

// Into the second cache: the first waits for fewer lines at once.
template <class T>
inline void fetch(const T *vector) {
    const char *bytes = reinterpret_cast<const char *>(vector);
    for (Index line = 0; line < Index(HEAD * sizeof(T)); line += 64) __builtin_prefetch(bytes + line, 0, 2);
}

// A head's channels while it is worked on: bf16 in two halves, as each word of two splits into, which takes fewer
// instructions than one by one.
typedef std::uint32_t __attribute__((may_alias)) Word;

inline float of_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline Index place(const float *, Index i) { return i; }
inline Index place(const BF16 *, Index i) { return i / 2 + i % 2 * PAIRS; }

inline float dot(const float *query, const float *key) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < HEAD; i++) sum += query[i] * key[i];
    return sum;
}

inline float dot(const float *query, const BF16 *key) {
    const Word *words = reinterpret_cast<const Word *>(key);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < PAIRS; i++)
        sum += query[i] * of_bits(words[i] << 16) + query[PAIRS + i] * of_bits(words[i] & 0xFFFF0000u);
    return sum;
}

inline void add(float weight, const float *value, float *total) {
#pragma omp simd
    for (Index i = 0; i < HEAD; i++) total[i] += weight * value[i];
}

inline void add(float weight, const BF16 *value, float *total) {
    const Word *words = reinterpret_cast<const Word *>(value);
#pragma omp simd
    for (Index i = 0; i < PAIRS; i++) {
        total[i] += weight * of_bits(words[i] << 16);
        total[PAIRS + i] += weight * of_bits(words[i] & 0xFFFF0000u);
    }
}

// One query (rows, heads, 64) each over keys and values (rows, heads, length, 64), the first `seen` of them.
template <class T>
void decode_attention(const T *q, const T *keys, const T *values, T *out, Index heads_of_all, Index length,
                      Index seen) {
#pragma omp parallel for
    for (Index head = 0; head < heads_of_all; head++) {
        const T *key = keys + head * length * HEAD, *value = values + head * length * HEAD;
        float query[HEAD], weights[seen], sum = 0, largest = -INFINITY, total[HEAD] = {0};
        for (Index i = 0; i < HEAD; i++) query[place(key, i)] = get(q[head * HEAD + i]) * 0.125f;
        for (Index t = 0; t < seen; t++) {
            fetch(value + t * HEAD);
            weights[t] = dot(query, key + t * HEAD);
            largest = weights[t] > largest ? weights[t] : largest;
        }
#pragma omp simd reduction(+ : sum)
        for (Index t = 0; t < seen; t++) sum += weights[t] = exponential(weights[t] - largest);
        for (Index t = 0; t < seen; t++) {
            fetch(key + (length + t) * HEAD);
            add(weights[t], value + t * HEAD, total);
        }
        for (Index i = 0; i < HEAD; i++) put(out[head * HEAD + i], total[place(key, i)] / sum);
    }
}

// y = x / keep where the 16-bit hash of key and place is not below `least`, else 0; see models/dropout.py.
template <class T>
void dropout(const T *x, const std::uint32_t *keys, T *y, Index rows, Index width, int least, float keep) {
#pragma omp parallel for
    for (Index row = 0; row < rows; row++)
#pragma omp simd
        for (Index i = 0; i < width; i++) {
            std::uint32_t hash = keys[row] ^ (std::uint32_t(i / 2) * 0x1E3779B1u);
            hash = (hash ^ (hash >> 16)) * 0x7FEB352Du;
            hash = (hash ^ (hash >> 15)) * 0x046CA68Bu;
            hash ^= hash >> 16;
            int drawn = std::int16_t(hash >> (i % 2 * 16));
            put(y[row * width + i], drawn >= least ? get(x[row * width + i]) / keep : 0.0f);
        }
}

}  // namespace

extern "C" {

void rms_norm(const float *x, const float *scale, float *y, float *factors, Index rows, Index width) {
#pragma omp parallel for
    for (Index row = 0; row < rows; row++) {
        float factor = norm_row(x + row * width, scale, y + row * width, width);
        if (factors) factors[row] = factor;
    }
}

void rms_norm_backward(const float *dy, const float *x, const float *scale, const float *factors, float *dx,
                       float *dscale, Index rows, Index width) {  // dscale (CHUNKS, width), zero before
#pragma omp parallel for
    for (Index chunk = 0; chunk < CHUNKS; chunk++)
        for (Index row = chunk_start(rows, chunk); row < chunk_start(rows, chunk + 1); row++)
            norm_row_backward(dy + row * width, x + row * width, scale, factors[row], dx + row * width,
                              dscale + chunk * width, width);
}

#define FOR_TYPE(T, NAME)                                                                                            \
    void heads_##NAME(const T *qkv, const float *rotary, const float *scales, T *q, T *k, T *v,                     \
                      const Index *strides, float *factors, Index batch, Index tokens, Index count) {               \
        T *outputs[] = {q, k, v};                                                                                    \
        heads(qkv, rotary, scales, outputs, strides, factors, batch, tokens, count);                                 \
    }                                                                                                                \
    void heads_backward_##NAME(const T *dq, const T *dk, const T *dv, const T *qkv, const float *rotary,             \
                               const float *scales, const float *factors, T *dqkv, float *dscales, Index batch,      \
                               Index tokens, Index count) {                                                          \
        const T *gradients[] = {dq, dk, dv};                                                                         \
        heads_backward(gradients, qkv, rotary, scales, factors, dqkv, dscales, batch, tokens, count);                \
    }                                                                                                                \
    void geglu_##NAME(const T *x, T *y, Index rows, Index hidden) { geglu(x, y, rows, hidden); }                     \
    void geglu_backward_##NAME(const T *dy, const T *x, T *dx, Index rows, Index hidden) {                           \
        geglu_backward(dy, x, dx, rows, hidden);                                                                     \
    }                                                                                                                \
    void decode_attention_##NAME(const T *q, const T *keys, const T *values, T *out, Index heads_of_all,             \
                                 Index length, Index seen) {                                                         \
        decode_attention(q, keys, values, out, heads_of_all, length, seen);                                          \
    }                                                                                                                \
    void dropout_##NAME(const T *x, const std::uint32_t *keys, T *y, Index rows, Index width, int least,             \
                        float keep) {                                                                                \
        dropout(x, keys, y, rows, width, least, keep);                                                               \
    }

FOR_TYPE(float, fp32)
FOR_TYPE(BF16, bf16)
}
