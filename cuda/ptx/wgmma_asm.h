// The text of wgmma instructions: lists of N / 2 accumulator operands, by doubling. For ptx/wgmma.h only.
#pragma once

// clang-format off

#define LACUNA_LIST_4 "%0,%1,%2,%3"
#define LACUNA_LIST_8 LACUNA_LIST_4 "," \
  "%4,%5,%6,%7"
#define LACUNA_LIST_16 LACUNA_LIST_8 "," \
  "%8,%9,%10,%11,%12,%13,%14,%15"
#define LACUNA_LIST_32 LACUNA_LIST_16 "," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LACUNA_LIST_48 LACUNA_LIST_32 "," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LACUNA_LIST_64 LACUNA_LIST_48 "," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LACUNA_LIST_96 LACUNA_LIST_64 "," \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define LACUNA_LIST_128 LACUNA_LIST_96 "," \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

#define LACUNA_BIND_4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define LACUNA_BIND_8(d, i) LACUNA_BIND_4(d, i), LACUNA_BIND_4(d, (i) + 4)
#define LACUNA_BIND_16(d, i) LACUNA_BIND_8(d, i), LACUNA_BIND_8(d, (i) + 8)
#define LACUNA_BIND_32(d, i) LACUNA_BIND_16(d, i), LACUNA_BIND_16(d, (i) + 16)
#define LACUNA_BIND_48(d, i) LACUNA_BIND_32(d, i), LACUNA_BIND_16(d, (i) + 32)
#define LACUNA_BIND_64(d, i) LACUNA_BIND_32(d, i), LACUNA_BIND_32(d, (i) + 32)
#define LACUNA_BIND_96(d, i) LACUNA_BIND_64(d, i), LACUNA_BIND_32(d, (i) + 64)
#define LACUNA_BIND_128(d, i) LACUNA_BIND_64(d, i), LACUNA_BIND_64(d, (i) + 64)

// Operands after the R = N / 2 accumulators: A descriptor (or four A registers), B descriptor, whether to accumulate,
// whether B is MN-major. %p0 .. are their numbers, spelled out by the callers below.
#define LACUNA_WGMMA_SS(N, R, TYPE, A, B, C, M)                                                     \
  asm volatile("{.reg .pred p; setp.ne.b32 p, %" #C ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE \
               " {" LACUNA_LIST_##R "}, %" #A ", %" #B ", p, 1, 1, 0, %" #M ";}"                   \
               : LACUNA_BIND_##R(d, 0)                                                              \
               : "l"(a), "l"(b), "r"(accumulate), "n"(kMnMajor))
#define LACUNA_WGMMA_RS(N, R, TYPE, A0, A1, A2, A3, B, C, M)                                        \
  asm volatile("{.reg .pred p; setp.ne.b32 p, %" #C ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE \
               " {" LACUNA_LIST_##R "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", p, 1, 1, %" #M ";}" \
               : LACUNA_BIND_##R(d, 0)                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kMnMajor))

// One N: both sources of A, both types.
#define LACUNA_WGMMA_N(N, R, P0, P1, P2, P3, P4, P5, P6)                                            \
  template <>                                                                                       \
  struct WgmmaText<N> {                                                                             \
    template <class T, int kMnMajor>                                                                \
    static __device__ __forceinline__ void ss(float (&d)[R], uint64_t a, uint64_t b, int accumulate) { \
      if constexpr (IsBFloat16<T>::kValue) {                                                        \
        LACUNA_WGMMA_SS(N, R, "bf16.bf16", P0, P1, P2, P3);                                         \
      } else {                                                                                      \
        LACUNA_WGMMA_SS(N, R, "f16.f16", P0, P1, P2, P3);                                           \
      }                                                                                             \
    }                                                                                               \
    template <class T, int kMnMajor>                                                                \
    static __device__ __forceinline__ void rs(float (&d)[R], const uint32_t (&a)[4], uint64_t b, int accumulate) { \
      if constexpr (IsBFloat16<T>::kValue) {                                                        \
        LACUNA_WGMMA_RS(N, R, "bf16.bf16", P0, P1, P2, P3, P4, P5, P6);                             \
      } else {                                                                                      \
        LACUNA_WGMMA_RS(N, R, "f16.f16", P0, P1, P2, P3, P4, P5, P6);                               \
      }                                                                                             \
    }                                                                                               \
  };

namespace LACUNA_NS {

template <int kN>
struct WgmmaText;

LACUNA_WGMMA_N(8, 4, 4, 5, 6, 7, 8, 9, 10)
LACUNA_WGMMA_N(16, 8, 8, 9, 10, 11, 12, 13, 14)
LACUNA_WGMMA_N(32, 16, 16, 17, 18, 19, 20, 21, 22)
LACUNA_WGMMA_N(64, 32, 32, 33, 34, 35, 36, 37, 38)
LACUNA_WGMMA_N(96, 48, 48, 49, 50, 51, 52, 53, 54)
LACUNA_WGMMA_N(128, 64, 64, 65, 66, 67, 68, 69, 70)
LACUNA_WGMMA_N(192, 96, 96, 97, 98, 99, 100, 101, 102)
LACUNA_WGMMA_N(256, 128, 128, 129, 130, 131, 132, 133, 134)

}  // namespace LACUNA_NS
// clang-format on
