"""What every client is: the calls, whoever computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt
from typing_extensions import Self, Unpack

from theria._arrays import ArrayLike
from theria._operations import FORWARD, HVP, JVP, VJP, Operation
from theria._options import CallOptions, Operand
from theria._resident import ResidentTensor, Retain, TensorInfo
from theria._results import (
    BenchmarkResult,
    ForwardResult,
    HvpResult,
    JvpResult,
    ServerInfo,
    VjpResult,
)
from theria._shared_memory import SharedRegion

__all__ = ["Client"]

R = TypeVar("R", ForwardResult, VjpResult, JvpResult, HvpResult)


class Client(ABC):
    """Computes attention and its derivatives. Made by `connect` or `local`; a context manager.

    `connect` returns a client of a server, `local` one that computes in this process. Whatever
    takes a client takes either.

    Any number of threads may use one client at once; each call blocks its own thread. A client of a
    server belongs to the process that made it: gRPC does not survive a fork, so connect after
    forking; a call in a forked child raises RuntimeError, and pickling such a client TypeError.
    `copy.copy` and `copy.deepcopy` give the client itself.

    Tensors are numpy arrays of any strides, torch CPU tensors of any strides, `ResidentTensor`s, or
    whatever `numpy.asarray` takes; float64, float32, float16 or bfloat16 (`ml_dtypes`), all of one
    call alike. A local client also takes torch CUDA tensors. Shapes are [batch, heads, seq,
    head_dim]; heads of k and v may divide those of q (grouped queries). Outputs are new arrays;
    torch tensors on the device of `q` if `q` was one, detached from any graph (`theria.torch`
    records graphs). Inputs and outputs that exceed a server's message size go through its tensor
    store by themselves.

    All calls take the keyword options of `CallOptions`, and raise `theria.Error`:

    * InvalidArgument: shapes, dtypes or options do not fit; `.field` says which.
    * Unimplemented: valid, but the server has no kernel for it.
    * TensorMissing: a resident tensor is gone and its source with it.
    * ResourceExhausted: queue, memory or quota is full; `.retry_delay` says when to come back.
    * DeadlineExceeded, Cancelled, Unavailable, Internal.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Ends the connection. Calls under way, and later ones, raise Cancelled.

        Does nothing in a forked child, where the connection is the parent's, and to a local client.
        """

    def computes_on(self, device_type: str) -> bool:
        """Whether calls take torch tensors on devices of that type where they are.

        Args:
            device_type: As of `torch.device`: ``"cpu"``, ``"cuda"``.
        """
        return device_type == "cpu"

    def forward(
        self, q: Operand, k: Operand, v: Operand, **options: Unpack[CallOptions]
    ) -> ForwardResult:
        """Scaled dot-product attention: ``o = (P * Z) v``, P the softmax of ``scale q k^T + B``.

        Args:
            q: [batch, heads_q, seq_q, head_dim].
            k: [batch, heads_kv, seq_kv, head_dim].
            v: [batch, heads_kv, seq_kv, head_dim_v].
            **options: See `CallOptions`.

        Returns:
            `o`, and `lse`: the natural log of the sum of exponentials of each row's scores. A row
            whose mask forbids every key has o = 0 and lse = -inf.
        """
        return self._attention(FORWARD, {"q": q, "k": k, "v": v}, options)

    def vjp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        o_bar: Operand | None = None,
        *,
        lse_bar: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> VjpResult:
        """Vector-Jacobian product: the cotangents of q, k and v for those of o and lse.

        Args:
            q: As for `forward`.
            k: As for `forward`.
            v: As for `forward`.
            o_bar: [batch, heads_q, seq_q, head_dim_v]; None for zero, if `lse_bar` is given.
            lse_bar: The cotangent of lse, [batch, heads_q, seq_q]; None for zero.
            o: With `lse`, the results of `forward` on the same tensors and options, which may save
                computing them again. A hint: P is never rebuilt from an lse that has lost accuracy.
            lse: See `o`.
            **options: See `CallOptions`.

        Returns:
            `q_bar`, `k_bar`, `v_bar`; with ``outputs={"bias_bar": "inline"}`` also the cotangent of
            a floating-point `attn_mask`, in its own shape.
        """
        inputs = {"q": q, "k": k, "v": v, "o_bar": o_bar, "lse_bar": lse_bar, "o": o, "lse": lse}
        return self._attention(VJP, inputs, options)

    def jvp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        q_dot: Operand | None = None,
        k_dot: Operand | None = None,
        v_dot: Operand | None = None,
        *,
        bias_dot: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> JvpResult:
        """Jacobian-vector product: the tangents of o and lse for tangents of q, k, v and the bias.

        Args:
            q: As for `forward`.
            k: As for `forward`.
            v: As for `forward`.
            q_dot: Tangent, shaped as q; None for zero, whose products are then not computed.
            k_dot: As `q_dot`, for k.
            v_dot: As `q_dot`, for v.
            bias_dot: As `q_dot`, for a floating-point `attn_mask`; of its shape and dtype.
            o: As for `vjp`.
            lse: As for `vjp`.
            **options: See `CallOptions`.
        """
        inputs = {"q": q, "k": k, "v": v, "o": o, "lse": lse}
        tangents = {"q_dot": q_dot, "k_dot": k_dot, "v_dot": v_dot, "bias_dot": bias_dot}
        return self._attention(JVP, {**inputs, **tangents}, options)

    def hvp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        o_bar: Operand | None = None,
        q_dot: Operand | None = None,
        k_dot: Operand | None = None,
        v_dot: Operand | None = None,
        o_bar_dot: Operand | None = None,
        *,
        lse_bar: Operand | None = None,
        lse_bar_dot: Operand | None = None,
        bias_dot: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> HvpResult:
        """Hessian-vector product, forward over reverse: the JVP of the VJP.

        With `o_bar_dot` and `lse_bar_dot` None this is the Hessian of <o_bar, o> + <lse_bar, lse>
        times (q_dot, k_dot, v_dot, bias_dot).

        Args:
            q: As for `forward`.
            k: As for `forward`.
            v: As for `forward`.
            o_bar: As for `vjp`.
            q_dot: As for `jvp`.
            k_dot: As for `jvp`.
            v_dot: As for `jvp`.
            o_bar_dot: Tangent of `o_bar`; None for zero.
            lse_bar: As for `vjp`.
            lse_bar_dot: Tangent of `lse_bar`; None for zero.
            bias_dot: As for `jvp`.
            o: As for `vjp`.
            lse: As for `vjp`.
            **options: See `CallOptions`.

        Returns:
            The cotangents `q_bar`, `k_bar`, `v_bar` and their tangents `q_bar_dot`, `k_bar_dot`,
            `v_bar_dot`; `outputs={"q_bar": "skip"}` leaves out what is not wanted, and
            ``{"bias_bar_dot": "inline"}`` adds what is of a floating-point `attn_mask`.
        """
        inputs = {"q": q, "k": k, "v": v, "o_bar": o_bar, "lse_bar": lse_bar, "o": o, "lse": lse}
        tangents = {
            "q_dot": q_dot,
            "k_dot": k_dot,
            "v_dot": v_dot,
            "bias_dot": bias_dot,
            "o_bar_dot": o_bar_dot,
            "lse_bar_dot": lse_bar_dot,
        }
        return self._attention(HVP, {**inputs, **tangents}, options)

    @abstractmethod
    def _attention(
        self,
        operation: Operation[R],
        inputs: Mapping[str, Operand | None],
        options: CallOptions,
    ) -> R:
        """One of the four calls. `inputs` by their names in the contract; None is absent."""

    @abstractmethod
    def put(
        self,
        tensor: ArrayLike,
        *,
        ttl: float | None = None,
        pin: float | None = None,
        content_address: bool = False,
        retain: Retain = "strong",
        timeout: float | None = None,
    ) -> ResidentTensor:
        """Uploads a tensor, to be used wherever an array is.

        If the server loses it (restart, eviction, end of lease), calls of this client that need it
        upload it again once, provided that the source is still there and still holds the same
        elements. To another client, whose server or tenant may be another, it is missing then.

        Args:
            tensor: An array of up to 8 dimensions.
            ttl: Seconds of lease; None for the server's default.
            pin: Seconds for which it is neither evicted nor expires; None for not pinned.
            content_address: Whether to name the content by its SHA-256, so that content which the
                server already has is not transferred again.
            retain: What to keep for a later upload: ``"strong"`` keeps the array alive as long as
                the ResidentTensor, ``"weak"`` only refers to it, ``"none"`` forgets it.
            timeout: Seconds for the whole call.
        """

    @abstractmethod
    def get(
        self,
        tensor: ResidentTensor | str,
        *,
        region: SharedRegion | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Downloads a resident tensor, or what a handle names.

        Args:
            tensor: Which.
            region: Shared memory to make the array in.
            timeout: Seconds for the whole call.

        Returns:
            A new row-major array: of torch if the tensor was put as one (or came from a call whose
            `q` was one), else of numpy.
        """

    @abstractmethod
    def share(
        self, nbytes: int, *, ttl: float | None = None, timeout: float | None = None
    ) -> SharedRegion:
        """Memory that this process and the server both see, where the server offers it.

        Arrays in it, of `SharedRegion.empty`, are read by the server where they are; with the
        option `region`, results are written there. Until a call returns, leave alone what it
        reads. Each use begins the lease anew; should the server lose the region nevertheless (it
        was restarted, perhaps without shared memory), calls go by messages as if nothing were
        shared; `SharedRegion.is_shared` then tells.

        Args:
            nbytes: Size.
            ttl: Seconds of lease; None for the server's default.
            timeout: Seconds for the call.

        Raises:
            Unimplemented: The server shares no memory.
            Unavailable: It is not on this host, or its socket cannot be reached.
        """

    @abstractmethod
    def unshare(self, region: SharedRegion, *, timeout: float | None = None) -> None:
        """Ends the server's part in a region. Arrays in it stay; calls that use it finish.

        Raises:
            RegionMissing: The server has it no more, or shares no memory any more.
        """

    @abstractmethod
    def attach(self, handle: str, *, timeout: float | None = None) -> ResidentTensor:
        """A tensor that somebody else made resident, by its handle. Without a source."""

    @abstractmethod
    def stat(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        """Describes a resident tensor; does not count as a use."""

    @abstractmethod
    def renew(
        self,
        tensor: ResidentTensor | str,
        ttl: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        """Lets the lease end `ttl` seconds from now; None for the server's default."""

    @abstractmethod
    def pin(
        self,
        tensor: ResidentTensor | str,
        duration: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        """Protects from eviction and lease end for `duration` seconds; None for the default."""

    @abstractmethod
    def unpin(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        """Ends a pin; no error if there is none."""

    @abstractmethod
    def delete(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> None:
        """Deletes a resident tensor, for good. Calls that read it finish.

        Raises:
            TensorMissing: It is gone already, or another tenant's.
        """

    @abstractmethod
    def list(self, *, timeout: float | None = None) -> tuple[TensorInfo, ...]:
        """All resident tensors of this tenant, oldest first."""

    @abstractmethod
    def info(self, *, timeout: float | None = None) -> ServerInfo:
        """Version, devices, kernels and limits of the server."""

    @abstractmethod
    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """One health check, without retries.

        Args:
            service: Full name of a service; empty for the server as a whole.
            timeout: Seconds for the call.

        Returns:
            ``"serving"``, ``"not_serving"``, ``"service_unknown"`` or ``"unknown"``.
        """

    @abstractmethod
    def benchmark(
        self,
        operation: str,
        *,
        batch: int,
        heads_q: int,
        seq_q: int,
        head_dim: int,
        heads_kv: int = 0,
        seq_kv: int = 0,
        head_dim_v: int = 0,
        dtype: npt.DTypeLike = "float32",
        repetitions: int = 0,
        preset: str = "",
        **options: Unpack[CallOptions],
    ) -> BenchmarkResult:
        """Times a resident kernel on the server, on random data made there.

        Args:
            operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
            batch: Extent.
            heads_q: Extent.
            seq_q: Extent.
            head_dim: Extent.
            heads_kv: Extent; 0 for `heads_q`.
            seq_kv: Extent; 0 for `seq_q`.
            head_dim_v: Extent; 0 for `head_dim`.
            dtype: Of all tensors.
            repetitions: 0 for the server's default.
            preset: Label of the server's gauges.
            **options: See `CallOptions`; masks and outputs do not apply.
        """
