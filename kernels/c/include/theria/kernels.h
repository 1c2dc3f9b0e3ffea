#ifndef THERIA_KERNELS_H_
#define THERIA_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

/*
 * Exact attention and its first and second derivatives in the caller's own process: the C interface
 * of libtheria_kernels.so. It needs no server, no gRPC and no protobuf.
 *
 * The library computes four operations. Their formulas are in docs/operator_contract.md; the names
 * of the tensors are the same here, in the wire contract, in C++ and in Python.
 *
 *   forward  o, lse                                     of q, k, v
 *   vjp      q_bar, k_bar, v_bar, bias_bar              of q, k, v, o_bar, lse_bar
 *   jvp      o_dot, lse_dot                             of q, k, v, q_dot, k_dot, v_dot, bias_dot
 *   hvp      q_bar_dot, k_bar_dot, v_bar_dot,           of q, k, v, o_bar, lse_bar, q_dot, k_dot,
 *            bias_bar_dot and the outputs of vjp and jvp   v_dot, bias_dot, o_bar_dot, lse_bar_dot
 *
 * Shapes (row-major order of the axes; any non-negative strides):
 *
 *   q                       [batch, heads_q,  seq_q,  head_dim]
 *   k                       [batch, heads_kv, seq_kv, head_dim]     heads_kv divides heads_q
 *   v                       [batch, heads_kv, seq_kv, head_dim_v]
 *   o                       [batch, heads_q,  seq_q,  head_dim_v]
 *   lse                     [batch, heads_q,  seq_q]
 *   bias                    a floating-point mask, of its own broadcast shape and dtype
 *   x_dot, x_bar, x_bar_dot as x: tangent of x, cotangent of x, tangent of that cotangent
 *
 * head_dim and head_dim_v are at most 512. Extents may be 0; `data` of an empty tensor may be NULL.
 * All tensors of a call have the dtype of q, except those like lse, which are float64 for a float64
 * q and float32 otherwise, those like the bias, and the tensors of the options.
 *
 * Structs. Each struct begins with `struct_size`, which the caller sets to sizeof the struct. New
 * fields are appended, and zero always means what the library did before the field existed. A
 * library refuses a struct that is larger than its own and has a non-zero byte in the part it does
 * not know, with THERIA_UNIMPLEMENTED.
 *
 * Errors. A function that can fail returns a theria_code. The text of the last error of the calling
 * thread is theria_error_message(); for THERIA_INVALID_ARGUMENT theria_error_field() names the
 * field, such as "k.shape[3]" or "options.dropout.probability". When a call fails, the contents of
 * its outputs are unspecified. Exceptions never leave the library.
 *
 * Ownership. The library keeps no pointer of a call after the call returns, except the pointers to
 * tensor elements and workspace of a call enqueued on a CUDA stream: those must stay valid until
 * the stream has passed the call.
 *
 * Threads. Every function may be called from any number of threads at once, on the same context
 * too, except that theria_context_destroy must be the last call on its context. A context does not
 * survive fork(): create another one in the child.
 */

#ifdef __cplusplus
extern "C" {
#endif

/* The interface's version. It changes only if an existing meaning does. */
#define THERIA_KERNELS_ABI 1

/* Numbered as gRPC's status codes. */
typedef enum theria_code {
  THERIA_OK = 0,
  THERIA_CANCELLED = 1,
  THERIA_INVALID_ARGUMENT = 3,   /* shapes, strides, dtypes or options do not fit the contract */
  THERIA_DEADLINE_EXCEEDED = 4,  /* theria_launch.timeout_seconds passed */
  THERIA_RESOURCE_EXHAUSTED = 8, /* memory ran out */
  THERIA_UNIMPLEMENTED = 12,     /* valid, but this context has no kernel for it */
  THERIA_INTERNAL = 13,          /* a fault of the device or of the library */
  THERIA_UNAVAILABLE = 14        /* no such device, or the library was built without CUDA */
} theria_code;

/* Text and field of the last error of this thread; empty strings if there was none. Valid until the
 * thread's next call into the library. */
const char* theria_error_message(void);
const char* theria_error_field(void);

/* The value of THERIA_KERNELS_ABI that the library was built with. */
int32_t theria_abi(void);
/* The release, such as "0.1.0". */
const char* theria_version(void);
/* CUDA devices that this process can see; 0 without a driver or in a build without CUDA. */
int32_t theria_cuda_device_count(void);

/* ---- Contexts: one device each. ---- */

typedef struct theria_context theria_context;

typedef enum theria_device_type { THERIA_CPU = 0, THERIA_CUDA = 1 } theria_device_type;

typedef struct theria_context_options {
  uint32_t struct_size;
  int32_t device_type;    /* theria_device_type */
  int32_t device_ordinal; /* which CUDA device; 0 for the CPU */
  int32_t threads;        /* CPU threads that compute at once, callers included; 0: one per core */
  const char* tuning_table; /* file of preferred CUDA kernels; NULL: the built-in table */
} theria_context_options;

/* Creates a context. `options` may be NULL: the CPU, a thread per core. A CUDA context uses the
 * device's primary context, as PyTorch and JAX do, so device pointers are interchangeable.
 * Errors: UNAVAILABLE, INVALID_ARGUMENT, INTERNAL. */
theria_code theria_context_create(const theria_context_options* options, theria_context** context);

/* Waits for nothing: work that is still enqueued on a CUDA stream must have finished. NULL is
 * allowed. */
void theria_context_destroy(theria_context* context);

/* What a context computes on. Strings live as long as the context. */
typedef struct theria_device_info {
  uint32_t struct_size;
  int32_t device_type;
  uint64_t memory_bytes;
  const char* id;           /* "cpu", "cuda:0" */
  const char* name;         /* as the vendor names it */
  const char* architecture; /* "AVX3", "sm_90" */
} theria_device_info;

theria_code theria_context_device(theria_context* context, theria_device_info* info);

/* ---- Tensors and options. ---- */

typedef enum theria_operation {
  THERIA_FORWARD = 0,
  THERIA_VJP = 1,
  THERIA_JVP = 2,
  THERIA_HVP = 3
} theria_operation;

typedef enum theria_dtype {
  THERIA_FLOAT64 = 0,
  THERIA_FLOAT32 = 1,
  THERIA_FLOAT16 = 2,  /* IEEE 754 binary16 */
  THERIA_BFLOAT16 = 3, /* upper half of an IEEE 754 binary32 */
  THERIA_BOOL = 4,     /* one byte; zero is false */
  THERIA_INT32 = 5     /* lengths and offsets among the options */
} theria_dtype;

typedef enum theria_implementation {
  THERIA_AUTO = 0,     /* the context's choice: fused where there is a kernel */
  THERIA_FUSED = 1,    /* CUDA; stores nothing of size seq_q x seq_kv */
  THERIA_UNFUSED = 2,  /* CUDA; stores the probabilities */
  THERIA_REFERENCE = 3 /* CPU; float64 arithmetic for every dtype, rounded once */
} theria_implementation;

/* Where the diagonal i' of causal, window and ALiBi lies. */
typedef enum theria_causal_alignment {
  THERIA_UPPER_LEFT = 0, /* i' = i */
  THERIA_LOWER_RIGHT = 1 /* i' = i + seq_kv - seq_q: the last query meets the last key */
} theria_causal_alignment;

typedef enum theria_precision {
  THERIA_STRICT = 0, /* float32 products and sums for float32 inputs */
  THERIA_FAST = 1    /* TF32 products are allowed */
} theria_precision;

/* A strided view. Elements are little-endian. On a CUDA context `data` is device memory of the
 * context's device, on the CPU host memory of any alignment. Strides count elements and are not
 * negative; inputs may repeat a dimension with stride 0. */
typedef struct theria_tensor {
  uint32_t struct_size;
  int32_t dtype; /* theria_dtype */
  int32_t rank;  /* at most 4 */
  int32_t reserved;
  void* data; /* the element of index 0; never written for an input */
  int64_t shape[4];
  int64_t strides[4];
} theria_tensor;

/* NULL is an absent tensor. q, k and v are required; vjp and hvp require o_bar or lse_bar. An
 * absent tangent or cotangent is zero, and its products are not computed. bias_dot requires a
 * floating-point mask. o and lse (both or neither) are
 * the outputs of forward on the same q, k, v and options. They are a hint that may save vjp, jvp or
 * hvp some work. A tensor that the operation does not read must be absent. */
typedef struct theria_inputs {
  uint32_t struct_size;
  uint32_t reserved;
  const theria_tensor *q, *k, *v;
  const theria_tensor *o, *lse;
  const theria_tensor* o_bar;
  const theria_tensor *q_dot, *k_dot, *v_dot;
  const theria_tensor* o_bar_dot;
  const theria_tensor *lse_bar, *lse_bar_dot;
  const theria_tensor* bias_dot;
} theria_inputs;

/* Where to write. NULL is an output that is not wanted; its work is saved where that is possible.
 * Outputs have the shapes and dtypes that theria_output_layout gives, any strides but 0, and
 * overlap neither each other nor an input. */
typedef struct theria_outputs {
  uint32_t struct_size;
  uint32_t reserved;
  const theria_tensor *o, *lse;                           /* every operation */
  const theria_tensor *o_dot, *lse_dot;                   /* jvp, hvp */
  const theria_tensor *q_bar, *k_bar, *v_bar;             /* vjp, hvp */
  const theria_tensor *q_bar_dot, *k_bar_dot, *v_bar_dot; /* hvp */
  /* Derivatives with respect to a floating-point mask, summed over the dimensions that it
   * broadcasts over. */
  const theria_tensor* bias_bar;     /* vjp, hvp */
  const theria_tensor* bias_bar_dot; /* hvp */
} theria_outputs;

/* All zero is plain attention with scale 1 / sqrt(head_dim). */
typedef struct theria_options {
  uint32_t struct_size;
  int32_t is_causal;      /* key j takes part in row i only if j <= i' */
  int32_t precision;      /* theria_precision */
  int32_t implementation; /* theria_implementation */
  int32_t has_scale;
  int32_t has_window_left;
  int32_t has_window_right;
  int32_t reserved;
  double scale;        /* factor of the scores */
  int64_t window_left; /* key j takes part in row i only if i' - left <= j <= i' + right */
  int64_t window_right;
  double dropout_probability; /* in [0, 1) */
  uint64_t dropout_seed;      /* the draw is a function of seed, offset, batch, head, i and j */
  uint64_t dropout_offset;
  /* Broadcasts to [batch, heads_q, seq_q, seq_kv], aligned at the last dimension. Bool: true takes
   * part. Floating point: added to the scaled scores. NULL: none. Fields of errors: options.mask.
   */
  const theria_tensor* mask;
  int32_t causal_alignment; /* theria_causal_alignment */
  int32_t deterministic;    /* results are bitwise the same from run to run */
  double softcap;           /* c: the scaled scores U become c tanh(U / c); 0: none */
  /* [heads_q] or [batch, heads_q], floating point: adds -slope * |i' - j| to the score. */
  const theria_tensor* alibi_slopes;
  /* int32 [batch], each in [0, seq_kv]: key j takes part only if j < kv_lengths[batch]. */
  const theria_tensor* kv_lengths;
  /* int32 [documents + 1], both or neither, for a batch of 1: from 0 to seq_q (seq_kv), not
   * decreasing. Rows of document d see keys of document d only; causal, window, alignment and ALiBi
   * count within it. Not together with kv_lengths. The contents of these two and of kv_lengths are
   * the caller's promise: wrong ones give wrong values, never an access out of bounds. */
  const theria_tensor *cu_seqlens_q, *cu_seqlens_kv;
} theria_options;

/* Validates a call without looking at an element. `options` may be NULL: all zero.
 * Errors: INVALID_ARGUMENT. */
theria_code theria_validate(theria_operation operation, const theria_inputs* inputs,
                            const theria_options* options);

/* Sets dtype, rank, shape and row-major strides of the output of that name ("q_bar_dot"); leaves
 * `data` alone. Errors: INVALID_ARGUMENT. */
theria_code theria_output_layout(theria_operation operation, const theria_inputs* inputs,
                                 const theria_options* options, const char* output,
                                 theria_tensor* layout);

/* Floating-point operations of the products in the operation's definition, two per multiply-add;
 * half of them if causal. Errors: INVALID_ARGUMENT. */
theria_code theria_flops(theria_operation operation, const theria_inputs* inputs,
                         const theria_options* options, double* flops);

/* ---- Calls. ---- */

/* How one call runs. All zero is: on the CPU until it is done; on CUDA enqueued on the legacy
 * default stream, with workspace from the library's pool.
 *
 * A CUDA call enqueues its kernels on `stream` and returns; it never synchronises. It leaves the
 * thread's current device as it was. It may be captured into a CUDA graph, if the same kind of call
 * has run once before on that stream: the first call loads kernels and, for the unfused
 * implementation, creates a cuBLAS handle for the stream. */
typedef struct theria_launch {
  uint32_t struct_size;
  uint32_t reserved;
  void* stream; /* cudaStream_t of the context's device; NULL: the legacy default stream */

  /* CUDA workspace, O(rows of q) for the fused kernels. It comes from `workspace` first: device
   * memory of `workspace_bytes`, 256-byte aligned, that the call may overwrite until the stream has
   * passed it. theria_report.workspace_bytes says how much a call of these sizes needs. What does
   * not fit there comes from `allocate`, or from the library's stream-ordered pool if that is NULL.
   *
   * `allocate` returns 256-byte aligned device memory usable by later work on `stream`, or NULL if
   * there is none; `deallocate` gives it back, for reuse by later work on `stream`. Both are called
   * before the call returns, by its thread, with the context's device current. They must not
   * synchronise, and must not throw. */
  void* workspace;
  size_t workspace_bytes;
  void* (*allocate)(void* user, size_t size_bytes, void* stream);
  void (*deallocate)(void* user, void* data, size_t size_bytes, void* stream);
  void* user;

  /* CPU: seconds after which the call gives up with DEADLINE_EXCEEDED; 0: never. */
  double timeout_seconds;
} theria_launch;

/* What a call did. */
typedef struct theria_report {
  uint32_t struct_size;
  int32_t implementation; /* theria_implementation, never THERIA_AUTO */
  double compute_seconds; /* CPU: wall time. CUDA: -1, since the call does not wait */
  size_t workspace_bytes; /* CUDA: workspace that the call used */
  char kernel[256];       /* the kernels' names, joined by '+'; cut if longer */
} theria_report;

/* Computes the outputs that are present. `options`, `launch` and `report` may be NULL.
 * Errors: INVALID_ARGUMENT, UNIMPLEMENTED, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, INTERNAL. */
theria_code theria_run(theria_context* context, theria_operation operation,
                       const theria_inputs* inputs, const theria_options* options,
                       const theria_outputs* outputs, const theria_launch* launch,
                       theria_report* report);

/* Waits until `stream` of the context's device has done all that is enqueued on it. Does nothing on
 * the CPU. Errors: INTERNAL. */
theria_code theria_synchronize(theria_context* context, void* stream);

/* ---- Memory of a context's device, for callers that have no allocator of their own. ---- */

/* Uninitialised and 64-byte aligned; usable at once on every stream. Free it with
 * theria_memory_free, which waits for work that uses it only if the caller has synchronised.
 * Errors: RESOURCE_EXHAUSTED. */
theria_code theria_memory_allocate(theria_context* context, size_t size_bytes, void** data);
void theria_memory_free(theria_context* context, void* data);

/* Blocking copies between host memory and the context's device. Errors: INTERNAL. */
theria_code theria_memory_write(theria_context* context, void* device, const void* host,
                                size_t size_bytes);
theria_code theria_memory_read(theria_context* context, void* host, const void* device,
                               size_t size_bytes);

/* ---- What a context supports. ---- */

/* Problems that one kind of kernel covers; the head dimensions are head_dim and head_dim_v. */
typedef struct theria_kernel_support {
  uint32_t struct_size;
  int32_t operation;
  int32_t implementation;
  int32_t dtype;
  int64_t min_head_dim, max_head_dim, head_dim_multiple;
} theria_kernel_support;

/* Fills in entry `index`, counted from 0. Errors: INVALID_ARGUMENT with field "index" past the
 * last. */
theria_code theria_context_kernel(theria_context* context, int32_t index,
                                  theria_kernel_support* support);

/* The compiled CUDA kernels, by the names that a tuning table uses: lines "group name", those of a
 * group in order of preference. Empty without CUDA. Lives as long as the library. */
const char* theria_cuda_kernel_names(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* THERIA_KERNELS_H_ */
