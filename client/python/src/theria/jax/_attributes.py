"""The options of a call as attributes of XLA's custom call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from theria._local_options import IMPLEMENTATIONS, PRECISIONS
from theria._options import ALIGNMENTS, CallOptions

__all__ = ["attributes"]


def _side(index: int) -> Callable[[CallOptions], int | None]:
    return lambda options: (options.get("window") or (None, None))[index]


# Field of theria_options -> its type in XLA, and its value in the options or None. An option is a
# row here and one of the same name in kernels/c/jax/attributes.cc.
_ATTRIBUTES: dict[str, tuple[type, Callable[[CallOptions], Any]]] = {
    "is_causal": (np.int64, lambda options: options.get("is_causal")),
    "precision": (np.int64, lambda o: PRECISIONS.index(o.get("precision", "strict"))),
    "implementation": (np.int64, lambda o: IMPLEMENTATIONS.index(o.get("implementation", "auto"))),
    "scale": (np.float64, lambda options: options.get("scale")),
    "window_left": (np.int64, _side(0)),
    "window_right": (np.int64, _side(1)),
    "dropout_probability": (np.float64, lambda options: options.get("dropout_p")),
    "dropout_offset": (np.int64, lambda options: options.get("dropout_offset")),
    "causal_alignment": (np.int64, lambda o: ALIGNMENTS[o.get("causal_alignment", "upper_left")]),
    "deterministic": (np.int64, lambda options: options.get("deterministic")),
    "softcap": (np.float64, lambda options: options.get("softcap")),
}


def attributes(options: CallOptions) -> dict[str, Any]:
    """Those of options that `validate` let pass; absent is theria_options' zero."""
    values = {name: (kind, read(options)) for name, (kind, read) in _ATTRIBUTES.items()}
    return {name: kind(value) for name, (kind, value) in values.items() if value is not None}
