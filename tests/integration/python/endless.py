"""An HVP that no machine computes to its end before a test has done with it.

    client.hvp(*endless.OPERANDS, **endless.OPTIONS)

2^37 pairs of query and key: an hour on two cores, and seconds on hundreds of fast ones. Few bytes
travel, as the operands repeat one number; the server accepts 10 MiB for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_QUERIES = np.broadcast_to(np.float32(0.5), (1, 1, 1 << 19, 1))
_KEYS = np.broadcast_to(np.float32(0.5), (1, 1, 1 << 18, 1))

# q, k, v, o_bar, q_dot
OPERANDS = (_QUERIES, _KEYS, _KEYS, _QUERIES, _QUERIES)
# All but q_bar_dot, of OUTPUT_BYTES, are skipped.
OPTIONS: dict[str, Any] = {
    "outputs": dict.fromkeys(("q_bar", "k_bar", "v_bar", "k_bar_dot", "v_bar_dot"), "skip")
}
OUTPUT_BYTES = _QUERIES.nbytes
