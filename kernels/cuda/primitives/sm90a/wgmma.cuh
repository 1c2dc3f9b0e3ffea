#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_WGMMA_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_WGMMA_CUH_

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

// A warpgroup's asynchronous matrix products in float16 and bfloat16 with float32 sums
// (wgmma.mma_async m64nNk16). Warp w of the group holds rows 16 w and on of the accumulator, in the
// layout that mma_half.cuh describes: what works on a warp's 16 x N accumulators serves both.
//
// A tile in shared memory consists of panels of 64 columns: `rows` rows of 128 bytes, swizzled by
// 128 bytes as the copy engine writes them, at a 1024-byte boundary.

namespace theria::cuda::sm90a {

inline constexpr int kPanelColumns = 64;
inline constexpr int kPanelRowBytes = 128;

// Orders earlier writes of accumulators and fragments before the products that follow.
__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all groups but the `kPending` youngest. Until then their accumulators and fragments
// must not be touched.
template <int kPending>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of accumulators across this point.
template <int kBlocks>
__device__ __forceinline__ void PinAccumulators(float (&c)[1][kBlocks][4]) {
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[0][block][e])::"memory");
  }
}

// Descriptors of operands (PTX ISA, "Matrix descriptor"): swizzle of 128 bytes, 1024 bytes between
// groups of eight rows. Rows are the outer dimension of the operand...
__device__ __forceinline__ std::uint64_t RowsDescriptor(std::uint32_t address) {
  return std::uint64_t{1} << 62 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 16 |
         (address & 0x3FFFFu) >> 4;
}

// ... or the inner one, its columns going on in the next panel.
__device__ __forceinline__ std::uint64_t ColumnsDescriptor(std::uint32_t address, int panel_bytes) {
  return std::uint64_t{1} << 62 | std::uint64_t{1024 >> 4} << 32 |
         static_cast<std::uint64_t>(panel_bytes >> 4) << 16 | (address & 0x3FFFFu) >> 4;
}

// The descriptor of an operand `bytes` further on: one addition, since no address carries over into
// the other fields.
__device__ __forceinline__ std::uint64_t AdvanceDescriptor(std::uint64_t descriptor, int bytes) {
  const std::uint32_t low = static_cast<std::uint32_t>(descriptor) + (bytes >> 4);
  return (descriptor & 0xFFFFFFFF00000000u) | low;
}

// The products of one inner step of 16 and kColumns columns:
//   SetShared     c = a b^T; both operands by RowsDescriptor
//   AddShared     c += a b^T
//   SetColumns    c = a^T b; both operands by ColumnsDescriptor
//   AddColumns    c += a^T b
//   AddFragments  c += a b; `a` a fragment in registers, b by ColumnsDescriptor
template <int kColumns>
struct Wgmma;

#define THERIA_WGMMA_C8(k, i)                                                                     \
  k(c[i][0]), k(c[i][1]), k(c[i][2]), k(c[i][3]), k(c[i + 1][0]), k(c[i + 1][1]), k(c[i + 1][2]), \
      k(c[i + 1][3])
#define THERIA_WGMMA_C32(k) THERIA_WGMMA_C8(k, 0), THERIA_WGMMA_C8(k, 2)
#define THERIA_WGMMA_C64(k) THERIA_WGMMA_C32(k), THERIA_WGMMA_C8(k, 4), THERIA_WGMMA_C8(k, 6)
#define THERIA_WGMMA_C96(k) THERIA_WGMMA_C64(k), THERIA_WGMMA_C8(k, 8), THERIA_WGMMA_C8(k, 10)
#define THERIA_WGMMA_C128(k) THERIA_WGMMA_C96(k), THERIA_WGMMA_C8(k, 12), THERIA_WGMMA_C8(k, 14)
#define THERIA_WGMMA_C160(k) THERIA_WGMMA_C128(k), THERIA_WGMMA_C8(k, 16), THERIA_WGMMA_C8(k, 18)
#define THERIA_WGMMA_C176(k) THERIA_WGMMA_C160(k), THERIA_WGMMA_C8(k, 20)
#define THERIA_WGMMA_C192(k) THERIA_WGMMA_C176(k), THERIA_WGMMA_C8(k, 22)
#define THERIA_WGMMA_C256(k)                                                                    \
  THERIA_WGMMA_C192(k), THERIA_WGMMA_C8(k, 24), THERIA_WGMMA_C8(k, 26), THERIA_WGMMA_C8(k, 28), \
      THERIA_WGMMA_C8(k, 30)

#define THERIA_WGMMA_STRUCT(columns)                                                               \
  template <>                                                                                      \
  struct Wgmma<columns> {                                                                          \
    template <typename Element>                                                                    \
    static __device__ __forceinline__ void SetShared(float (&c)[columns / 8][4], std::uint64_t a,  \
                                                     std::uint64_t b) {                            \
      if constexpr (std::is_same_v<Element, __half>) {                                             \
        THERIA_WGMMA_SHARED("f16", "=f", 0, "0");                                                  \
      } else {                                                                                     \
        THERIA_WGMMA_SHARED("bf16", "=f", 0, "0");                                                 \
      }                                                                                            \
    }                                                                                              \
    template <typename Element>                                                                    \
    static __device__ __forceinline__ void AddShared(float (&c)[columns / 8][4], std::uint64_t a,  \
                                                     std::uint64_t b) {                            \
      if constexpr (std::is_same_v<Element, __half>) {                                             \
        THERIA_WGMMA_SHARED("f16", "+f", 1, "0");                                                  \
      } else {                                                                                     \
        THERIA_WGMMA_SHARED("bf16", "+f", 1, "0");                                                 \
      }                                                                                            \
    }                                                                                              \
    template <typename Element>                                                                    \
    static __device__ __forceinline__ void SetColumns(float (&c)[columns / 8][4], std::uint64_t a, \
                                                      std::uint64_t b) {                           \
      if constexpr (std::is_same_v<Element, __half>) {                                             \
        THERIA_WGMMA_SHARED("f16", "=f", 0, "1");                                                  \
      } else {                                                                                     \
        THERIA_WGMMA_SHARED("bf16", "=f", 0, "1");                                                 \
      }                                                                                            \
    }                                                                                              \
    template <typename Element>                                                                    \
    static __device__ __forceinline__ void AddColumns(float (&c)[columns / 8][4], std::uint64_t a, \
                                                      std::uint64_t b) {                           \
      if constexpr (std::is_same_v<Element, __half>) {                                             \
        THERIA_WGMMA_SHARED("f16", "+f", 1, "1");                                                  \
      } else {                                                                                     \
        THERIA_WGMMA_SHARED("bf16", "+f", 1, "1");                                                 \
      }                                                                                            \
    }                                                                                              \
    template <typename Element>                                                                    \
    static __device__ __forceinline__ void AddFragments(float (&c)[columns / 8][4],                \
                                                        const std::uint32_t (&a)[4],               \
                                                        std::uint64_t b) {                         \
      if constexpr (std::is_same_v<Element, __half>) {                                             \
        THERIA_WGMMA_FRAGMENTS("f16");                                                             \
      } else {                                                                                     \
        THERIA_WGMMA_FRAGMENTS("bf16");                                                            \
      }                                                                                            \
    }                                                                                              \
  }

#define THERIA_WGMMA_LIST "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                       \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %16, %17, p, 1, 1, " transposed ", " transposed ";\n}"                         \
      : THERIA_WGMMA_C32(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                     \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%16, %17, %18, %19}, %20, p, 1, 1, 1;\n}"                                     \
      : THERIA_WGMMA_C32("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(32);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                       \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %32, %33, p, 1, 1, " transposed ", " transposed ";\n}"                         \
      : THERIA_WGMMA_C64(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                     \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                                     \
      : THERIA_WGMMA_C64("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(64);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                       \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %48, %49, p, 1, 1, " transposed ", " transposed ";\n}"                         \
      : THERIA_WGMMA_C96(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                     \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}"                                     \
      : THERIA_WGMMA_C96("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(96);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                        \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %64, %65, p, 1, 1, " transposed ", " transposed ";\n}"                          \
      : THERIA_WGMMA_C128(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                      \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                                      \
      : THERIA_WGMMA_C128("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(128);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                        \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %90, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n176k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %88, %89, p, 1, 1, " transposed ", " transposed ";\n}"                          \
      : THERIA_WGMMA_C176(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                      \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %93, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n176k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%88, %89, %90, %91}, %92, p, 1, 1, 1;\n}"                                      \
      : THERIA_WGMMA_C176("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(176);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                        \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"                                        \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %96, %97, p, 1, 1, " transposed ", " transposed ";\n}"                          \
      : THERIA_WGMMA_C192(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                      \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %101, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%96, %97, %98, %99}, %100, p, 1, 1, 1;\n}"                                     \
      : THERIA_WGMMA_C192("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(192);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#define THERIA_WGMMA_LIST                                                                        \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define THERIA_WGMMA_SHARED(type, constraint, scale_d, transposed)                        \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, %128, %129, p, 1, 1, " transposed ", " transposed ";\n}"                        \
      : THERIA_WGMMA_C256(constraint)                                                     \
      : "l"(a), "l"(b), "n"(scale_d))
#define THERIA_WGMMA_FRAGMENTS(type)                                                      \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" THERIA_WGMMA_LIST \
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}"                                 \
      : THERIA_WGMMA_C256("+f")                                                           \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
THERIA_WGMMA_STRUCT(256);
#undef THERIA_WGMMA_LIST
#undef THERIA_WGMMA_SHARED
#undef THERIA_WGMMA_FRAGMENTS

#undef THERIA_WGMMA_C8
#undef THERIA_WGMMA_C32
#undef THERIA_WGMMA_C64
#undef THERIA_WGMMA_C96
#undef THERIA_WGMMA_C128
#undef THERIA_WGMMA_C160
#undef THERIA_WGMMA_C176
#undef THERIA_WGMMA_C192
#undef THERIA_WGMMA_C256
#undef THERIA_WGMMA_STRUCT

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_WGMMA_CUH_
