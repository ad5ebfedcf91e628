/* Checksums over what compilers make of integers, floating point, structures, recursion, long double and strings. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t sum = 0xcbf29ce484222325u;

static void mix(const void *data, size_t length) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < length; i++) sum = (sum ^ bytes[i]) * 0x100000001b3u;
}

static void integers(void) {
  uint64_t x = 88172645463325252u;
  for (int i = 0; i < 20000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    int64_t s = (int64_t)x;
    uint32_t w = (uint32_t)(x >> 32) | 1;
    unsigned __int128 wide = (unsigned __int128)x * (x ^ 0x9e3779b97f4a7c15u);
    uint64_t parts[] = {x / w, x % w, (uint64_t)(s / (int32_t)w), (uint64_t)(s % 1000003), (uint64_t)(wide >> 64), (uint64_t)wide,
                        (uint64_t)__builtin_popcountll(x), (uint64_t)__builtin_clzll(x | 1), (uint64_t)__builtin_ctzll(x | 1ull << 63),
                        __builtin_bswap64(x), (uint64_t)(wide / w), (uint64_t)((int16_t)x * (int8_t)(x >> 8))};
    mix(parts, sizeof parts);
  }
}

static void reals(void) {
  double a = 0.5;
  float b = 0.25f;
  for (int i = 1; i < 20000; i++) {
    a = fabs(a * 3.7 * (1 - a)) + 1e-9;
    b = b * 3.6f * (1 - b);
    double d[] = {sqrt(a), a / i, (double)(int64_t)(a * 1e12), floor(a * 100), fmod(a * 1e6, 3.25), (double)b, (double)(float)a};
    int32_t n[] = {(int32_t)(a * 1e6), (int32_t)lrint(a * 777), a < b, isnan(a / (a - a)), (int32_t)(uint8_t)(a * 200)};
    mix(d, sizeof d);
    mix(n, sizeof n);
  }
  for (int i = 0; i < 300; i++) {
    double x = i * 0.037 + 0.01, d[] = {sin(x), exp(x), log(x), pow(x, 1.7), atan2(x, 2), cbrt(x), tgamma(x)};
    mix(d, sizeof d);
  }
}

static void extended(void) {
  long double a = 1.0L;
  for (int i = 1; i < 4000; i++) {
    a = a * 1.000244140625L + 1.0L / i - sqrtl(a) / (i + 3);
    if (a > 1e6L) a /= 3e5L;
    unsigned char bytes[10];
    memcpy(bytes, &a, sizeof bytes);
    mix(bytes, sizeof bytes);
    int64_t whole = (int64_t)(a * 1e3L);
    mix(&whole, sizeof whole);
  }
  char text[200];
  snprintf(text, sizeof text, "%.30Lf %La %.17g %a", a, a, (double)a, (double)a);
  puts(text);
  mix(text, strlen(text));
  printf("%.20Lf %.20Lf %.20Lf\n", sinl(a), expl(1 / a), logl(a));
  printf("%.17g %.17g %.21Lg\n", strtod("1.00000000000000011102230246251565", 0), strtod("4.9e-324", 0), strtold("1e-4940", 0));
}

static int compare(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

static void memory(void) {
  enum { N = 20000 };
  int32_t *values = malloc(N * sizeof *values);
  char *text = calloc(N, 1), *copy = calloc(N + 64, 1);
  uint32_t x = 12345;
  for (int i = 0; i < N; i++) {
    x = x * 1664525 + 1013904223;
    values[i] = (int32_t)x >> (i & 15);
    text[i] = "abcdefgh"[x >> 29];
  }
  qsort(values, N, sizeof *values, compare);
  mix(values, N * sizeof *values);
  text[N - 1] = 0;
  uint64_t found = 0;
  for (const char *at = text; (at = strstr(at, "hga")); at++) found = found * 31 + (uint64_t)(at - text);
  for (int i = 0; i < 64; i++) {
    memmove(copy + i, text + i * 3, N / 2);
    found += strlen(copy + i) + (size_t)(memchr(copy + i, 'h', N / 2) ? (char *)memchr(copy + i, 'h', N / 2) - copy : 0);
    found = found * 17 + (uint64_t)(unsigned)strncmp(text + i, copy + i, 100);
  }
  mix(copy, N);
  mix(&found, sizeof found);
  free(values), free(text), free(copy);
}

struct piece {
  unsigned a : 3, b : 11, c : 18;
  double d;
  struct { int16_t x, y; } points[3];
};

static struct piece make(unsigned n) {
  return (struct piece){n, n * 5, n * 77, n / 3.0, {{(int16_t)n, 1}, {2, (int16_t)(n * 3)}, {4, 5}}};
}

static unsigned ackermann(unsigned m, unsigned n) {
  return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static jmp_buf place;

static void jumps(int depth) {
  if (depth == 0) longjmp(place, 42);
  jumps(depth - 1);
}

int main(void) {
  integers();
  printf("integers %016" PRIx64 "\n", sum);
  reals();
  printf("reals %016" PRIx64 "\n", sum);
  extended();
  printf("extended %016" PRIx64 "\n", sum);
  memory();
  printf("memory %016" PRIx64 "\n", sum);
  for (unsigned n = 0; n < 1000; n++) {
    struct piece p = make(n);
    unsigned fields[] = {p.a, p.b, p.c, (unsigned)p.d, (unsigned)p.points[1].y};
    mix(fields, sizeof fields);
  }
  int code = setjmp(place);
  if (!code) jumps(100);
  printf("others %016" PRIx64 " %u %d\n", sum, ackermann(2, 300), code);
}
