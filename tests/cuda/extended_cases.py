"""The device check's cases of the extended operator: each option alone, and drawn combinations."""

from __future__ import annotations

import itertools
import random

import torch
from device_kernels import Options
from hard_inputs import Shape, finite_mask

# What `extended_options` knows; "drawn" is followed by a number.
ALONE = (
    "softcap",
    "softcap_causal",
    "softcap_size30",
    "alibi",
    "alibi_batch",
    "lower_right",
    "lower_right_window",
    "kv_lengths",
    "documents",
    "documents_lower_right",
    "bias",
    "bias_keys",
    "bias_heads",
    "bias_half",
    "bias_softcap",
    "bias_mask_min",
    "bias_alone",
    "lse",
    "lse_only",
    "lse_dead",
    "deterministic",
)
# Without a batch, a query, a key, or columns.
EMPTY = [
    Shape(0, 2, 2, 5, 7, 64, 64),
    Shape(2, 2, 2, 0, 7, 64, 64),
    Shape(2, 2, 1, 5, 0, 64, 64),
    Shape(1, 2, 2, 5, 7, 0, 16),
    Shape(1, 2, 2, 5, 7, 16, 0),
]
SPOILED = ("nan_lengths", "nan_documents", "nan_bias")
DRAWN = 160


def _documents(pick: random.Random, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Offsets of one to seven documents, some of them without queries or keys."""
    count = pick.randint(1, 7)

    def offsets(end: int) -> torch.Tensor:
        cuts = sorted(pick.randint(0, end) for _ in range(count - 1))
        return torch.tensor([0, *cuts, end], dtype=torch.int32, device="cuda")

    return {"cu_seqlens_q": offsets(rows), "cu_seqlens_kv": offsets(columns)}


def _lengths(pick: random.Random, shape: Shape) -> torch.Tensor:
    lengths = [pick.choice([0, shape.seq_kv, pick.randint(0, shape.seq_kv)])]
    lengths += [pick.randint(1, shape.seq_kv) for _ in range(shape.batch - 1)]
    pick.shuffle(lengths)
    return torch.tensor(lengths, dtype=torch.int32, device="cuda")


def _slopes(shape: Shape, per_batch: bool) -> torch.Tensor:
    size = (shape.batch, shape.heads_q) if per_batch else (shape.heads_q,)
    return torch.rand(size, device="cuda") * 0.3 + 0.01


def _mask(pick: random.Random, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask or a bias that broadcasts over some dimensions."""
    full = (shape.batch, shape.heads_q, shape.seq_q, shape.seq_kv)
    size = [extent if pick.random() < 0.6 else 1 for extent in full]
    size = size[pick.choice([0, 0, 0, 2]) :]
    kind = pick.choice(["bool", "own", "float32", "float64"])
    if kind == "bool":
        return torch.rand(size, device="cuda") < 0.8
    kinds = {"own": dtype, "float32": torch.float32, "float64": torch.float64}
    mask = torch.randn(size, device="cuda", dtype=torch.float64).to(kinds[kind])
    if pick.random() < 0.3:
        mask = mask.masked_fill(torch.rand(size, device="cuda") < 0.1, -torch.inf)
    return mask


def _drawn(pick: random.Random, shape: Shape, dtype: torch.dtype) -> Options:
    options: dict[str, object] = {}
    if pick.random() < 0.5:
        options["is_causal"] = True
    if pick.random() < 0.4:
        options["causal_alignment"] = "lower_right"
    if pick.random() < 0.3:
        sides = (pick.randint(0, shape.seq_kv), pick.randint(0, 60))
        options["window"] = (sides[0], None if pick.random() < 0.3 else sides[1])
    if pick.random() < 0.4:
        options["softcap"] = pick.choice([0.7, 5.0, 30.0])
    if pick.random() < 0.4:
        options["alibi_slopes"] = _slopes(shape, pick.random() < 0.5)
    if pick.random() < 0.4:
        if shape.batch == 1:
            options |= _documents(pick, shape.seq_q, shape.seq_kv)
        else:
            options["kv_lengths"] = _lengths(pick, shape)
    if pick.random() < 0.5:
        options["mask"] = _mask(pick, shape, dtype)
    if pick.random() < 0.25:
        options |= {"dropout": 0.2, "seed": pick.randint(0, 99), "offset": pick.randint(0, 99)}
    if pick.random() < 0.2:
        options["scale"] = pick.choice([-0.2, 0.05, 0.3])
    if pick.random() < 0.2:
        options["deterministic"] = True
    return Options(**options)  # type: ignore[arg-type]


def extended_options(kind: str, shape: Shape, dtype: torch.dtype) -> Options:
    """The options of "extended_KIND"."""
    name = kind.removeprefix("extended_")
    pick = random.Random(name + str(shape))
    rows, columns = shape.seq_q, shape.seq_kv
    full = (shape.batch, shape.heads_q, rows, columns)
    if name.startswith("drawn"):
        return _drawn(pick, shape, dtype)
    if name.startswith("softcap"):
        return Options(softcap=8.0 if "size" in name else 1.5, is_causal=name.endswith("causal"))
    if name.startswith("alibi"):
        return Options(alibi_slopes=_slopes(shape, name.endswith("batch")))
    if name == "lower_right":
        return Options(is_causal=True, causal_alignment="lower_right")
    if name == "lower_right_window":
        return Options(window=(20, 9), causal_alignment="lower_right")
    if name in ("kv_lengths", "nan_lengths"):
        return Options(kv_lengths=_lengths(pick, shape))
    if name in ("documents", "documents_lower_right", "nan_documents"):
        alignment = "lower_right" if name.endswith("lower_right") else "upper_left"
        documents = _documents(pick, rows, columns)
        return Options(is_causal=True, causal_alignment=alignment, **documents)
    if name in ("bias", "bias_alone"):
        mask = torch.randn(full, device="cuda")
        return Options(mask=mask.masked_fill(torch.rand(full, device="cuda") < 0.1, -torch.inf))
    if name == "nan_bias":
        mask = torch.randn(full, device="cuda")
        mask[:, :, : rows // 3] = -torch.inf
        mask[..., columns - columns // 4 :] = -torch.inf
        return Options(mask=mask)
    if name == "bias_keys":
        return Options(mask=torch.randn((shape.batch, 1, 1, columns), device="cuda"))
    if name == "bias_heads":
        mask = torch.randn((shape.heads_q, rows, columns), device="cuda")
        return Options(mask=mask, is_causal=True)
    if name == "bias_half":
        return Options(mask=torch.randn((rows, columns), device="cuda").half())
    if name == "bias_softcap":
        mask = torch.randn((1, shape.heads_q, rows, columns), device="cuda")
        return Options(mask=mask, softcap=2.0, dropout=0.2, seed=3)
    if name == "bias_mask_min":
        return Options(mask=finite_mask(None, shape, dtype), softcap=5.0)
    if name == "lse_dead":  # rows without any key, whose lse of -inf has no useful cotangent
        mask = torch.rand(full, device="cuda") < 0.6
        mask[:, :, : rows // 3] = False
        return Options(mask=mask)
    if name == "deterministic":
        return Options(deterministic=True)
    return Options()  # lse


def extend_inputs(
    kind: str,
    operation: str,
    shape: Shape,
    inputs: dict[str, torch.Tensor | None],
    options: Options,
) -> None:
    """Adds the tensors that "extended_KIND" has beside those of every call, and drops some."""
    q = inputs["q"]
    assert q is not None
    name = kind.removeprefix("extended_")
    pick = random.Random(f"{name} {operation} {shape}")
    drawn = name.startswith("drawn")
    statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows = (shape.batch, shape.heads_q, shape.seq_q)

    def cotangent() -> torch.Tensor:
        drawn_cotangent = torch.randn(rows, device="cuda", dtype=statistics)
        if name == "lse_dead":
            drawn_cotangent[:, :, : shape.seq_q // 3] = torch.nan
        return drawn_cotangent

    if operation in ("vjp", "hvp") and (name.startswith("lse") or (drawn and pick.random() < 0.5)):
        inputs["lse_bar"] = cotangent()
        if operation == "hvp" and (not drawn or pick.random() < 0.7):
            inputs["lse_bar_dot"] = cotangent()
        if name == "lse_only" or (drawn and pick.random() < 0.2):
            del inputs["o_bar"]
    mask = options.mask
    if operation in ("jvp", "hvp"):
        if mask is not None and mask.is_floating_point() and (not drawn or pick.random() < 0.7):
            inputs["bias_dot"] = torch.randn(mask.shape, device="cuda").to(mask.dtype)
        for absent in ("q_dot", "k_dot", "v_dot", "o_bar_dot"):
            if drawn and absent in inputs and pick.random() < 0.15:
                del inputs[absent]


def spoil_unseen(inputs: dict[str, torch.Tensor | None], forbidden: torch.Tensor) -> None:
    """Writes NaN into the keys that no row sees, and into rows that see none."""
    unseen = {"k": forbidden.flatten(1, 2).all(1), "q": forbidden.all(-1)}
    for name, x in inputs.items():
        if x is None or x.dim() != 4:
            continue
        if name[0] in "kv":
            x.masked_fill_(unseen["k"][:, None, :, None], torch.nan)
        else:
            x.masked_fill_(unseen["q"][..., None], torch.nan)


def extended_cases(
    operations: tuple[str, ...], dtypes: tuple[str, ...], shapes: list[Shape]
) -> list[tuple[object, ...]]:
    """Arguments of the device check's `check`, without the library."""
    listed: list[tuple[object, ...]] = []
    single = [shapes[i] for i in (0, 2, 7, 10)]
    for index, kind in enumerate((*ALONE, *SPOILED)):
        needs_one = "documents" in kind
        chosen = [shape for shape in single if not needs_one or shape.batch == 1]
        for operation in operations:
            for at, dtype in enumerate(dtypes):
                shape = chosen[(index + at) % len(chosen)]
                name = f"extended_{kind}"
                listed.append((operation, dtype, shape, name, "bhsd"))
                if kind != "nan_documents":
                    short = chosen[(index + at + 1) % len(chosen)]
                    listed.append((operation, dtype, short, name, "bhsd", (), False, "unfused"))
                if operation != "forward" and kind in ("softcap", "documents", "lse", "bias"):
                    listed.append((operation, dtype, shape, name, "bshd", (), True))
    # Long sequences: many tiles, and the VJP in one pass.
    long = ("lower_right", "lower_right_window", "kv_lengths", "documents", "bias_keys", "lse")
    for operation, dtype, kind in itertools.product(operations, dtypes, long):
        for shape in (shapes[12], shapes[13]):
            listed.append((operation, dtype, shape, f"extended_{kind}", "bhsd"))
    for operation, dtype, shape in itertools.product(operations, dtypes, EMPTY):
        for implementation in ("auto", "unfused"):
            case = (operation, dtype, shape, "extended_empty")
            listed.append((*case, "bhsd", (), False, implementation))
    pick = random.Random("extended")
    for number in range(DRAWN):
        operation, dtype = operations[number % len(operations)], pick.choice(dtypes)
        case = (operation, dtype, pick.choice(shapes), f"extended_drawn{number}")
        layout = pick.choice(["bhsd", "bhsd", "bshd", "slice"])
        implementation = "unfused" if pick.random() < 0.25 else "auto"
        saved = operation != "forward" and pick.random() < 0.2
        listed.append((*case, layout, (), saved, implementation))
    return listed
