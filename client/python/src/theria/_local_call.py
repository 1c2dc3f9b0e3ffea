"""One call of a local client, from arrays to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from theria._call_frame import INPUT_SLOTS, OUTPUT_SLOTS, CallFrame
from theria._errors import ResourceExhausted
from theria._local_arrays import CudaPlace, HostPlace
from theria._local_context import LocalContext
from theria._local_options import IMPLEMENTATIONS
from theria._local_staging import StagedPlace
from theria._local_workspace import TorchWorkspace
from theria._results import Execution

__all__ = ["LocalCall"]

Place: TypeAlias = "HostPlace | CudaPlace | StagedPlace"


class LocalCall:
    """A call that is being made ready, in a frame of its own.

    Args:
        context: That computes.
        place: Where its tensors are.
        frame: For its structs.
    """

    def __init__(self, context: LocalContext, place: Place, frame: CallFrame):
        self._context = context
        self._place = place
        self._frame = frame
        self._inputs: dict[str, Any] = {}
        self._options = b""

    def describe(self, tensors: Mapping[str, Any], options: bytes) -> None:
        """Takes the inputs, by their names in the contract, and `packed_options`.

        Raises:
            InvalidArgument: One of them is nothing that the library can read.
        """
        frame, add_input = self._frame, self._place.add_input
        frame.clear()
        inputs = self._inputs
        for name, value in tensors.items():
            if value is not None:
                inputs[name] = add_input(frame, INPUT_SLOTS[name], value, name)
        self._options = options

    def make_outputs(self, operation: int, names: Sequence[str]) -> dict[str, Any]:
        """New arrays for the outputs of those names.

        Raises:
            InvalidArgument: The inputs do not fit each other, so that there is no layout.
            ResourceExhausted: There is no memory.
        """
        q, k, v = (self._inputs[name] for name in ("q", "k", "v"))
        shapes = {"q": q.shape, "k": k.shape, "v": v.shape}
        if any(len(shape) != 4 for shape in shapes.values()):
            self._validate(operation)
        place, frame = self._place, self._frame
        outputs: dict[str, Any] = {}
        try:
            rows = q.shape[:3]
            shapes["o"] = (*rows, v.shape[3])
            for name in names:
                slot = OUTPUT_SLOTS[name]
                if name[0] == "l":
                    outputs[name] = place.add_statistics(frame, slot, rows, q)
                else:
                    outputs[name] = place.add_output(frame, slot, shapes[name.split("_")[0]], q)
        except MemoryError as error:
            self._validate(operation)
            raise ResourceExhausted(f"there is no memory for {name}: {error}") from error
        except (IndexError, RuntimeError, ValueError):
            self._validate(operation)  # a shape that no array can have is an input's fault
            raise
        return outputs

    def run(
        self, operation: int, workspace: TorchWorkspace | None, timeout: float | None
    ) -> Execution:
        """Fills the arrays of `make_outputs`; in place on a GPU it only enqueues that.

        Raises:
            theria.Error: The library's.
        """
        self.launch(operation, workspace, timeout)
        if isinstance(self._place, StagedPlace):
            self._place.fetch()
        return self.execution()

    def launch(
        self, operation: int, workspace: TorchWorkspace | None, timeout: float | None
    ) -> None:
        """Computes on the CPU; enqueues on a GPU.

        Raises:
            theria.Error: The library's.
        """
        frame, context = self._frame, self._context
        frame.seal(self._options)
        if workspace is None:
            frame.set_launch(timeout=timeout or 0.0)
            code = context.library.run(
                context.address,
                operation,
                frame.inputs,
                frame.options,
                frame.outputs,
                frame.launch,
                frame.report,
            )
        else:
            code = workspace.run(context, operation, frame, self._key(operation))
        if code != 0:
            raise context.library.error(code)

    def execution(self) -> Execution:
        """What the last launch was; the time is NaN on a GPU, which was not waited for."""
        implementation, kernel, seconds, _ = self._frame.read_report()
        return Execution(
            request_id="",
            implementation=IMPLEMENTATIONS[implementation],
            kernel=kernel,
            device=self._context.device.id,
            queue_seconds=0.0,
            compute_seconds=seconds if seconds >= 0 else float("nan"),
        )

    def flops(self, operation: int) -> float:
        """Floating-point operations of the definition's products."""
        self._frame.seal(self._options)
        return self._context.library.flops(operation, self._frame.inputs, self._frame.options)

    def _validate(self, operation: int) -> None:
        self._frame.seal(self._options)
        self._context.library.validate(operation, self._frame.inputs, self._frame.options)

    def _key(self, operation: int) -> tuple[object, ...]:
        """What the size of a call's workspace depends on."""
        layouts = [(name, x.shape, x.stride()) for name, x in self._inputs.items()]
        return operation, self._options, self._inputs["q"].dtype, *layouts
