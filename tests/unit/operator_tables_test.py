"""Checks that every tensor and every option of the operator has all of its parts.

Usage: operator_tables_test.py SOURCE_ROOT. Exit status 1 and one line for each missing part. The
names are those of kernels/api/attention.h: the rows of its three tables, and the fields of
AttentionOptions. Code that goes over the tables names none of them and is not looked at.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HEADER = "kernels/api/attention.h"
PROTO = "proto/theria/v1/attention.proto"
C_HEADER = "kernels/c/include/theria/kernels.h"


def block(text: str, start: str, end: str) -> str:
    """The text between two marks."""
    begin = text.index(start) + len(start)
    return text[begin : text.index(end, begin)]


def table(header: str, name: str) -> list[str]:
    """The names in the rows of a table."""
    return re.findall(r'\{"(\w+)"', block(header, f"{name}[] = {{", "\n};"))


def option_fields(header: str) -> list[str]:
    """The members of AttentionOptions."""
    names: list[str] = []
    for line in block(header, "struct AttentionOptions {", "\n};").splitlines():
        member = re.match(r"  [\w:<>]+ ([\w, ]+?)(?: = [^;]+)?;", line)
        if member:
            names += member.group(1).split(", ")
    return names


def message(proto: str, name: str) -> str:
    """The body of a message."""
    return block(proto, f"message {name} {{", "\n}")


def c_fields(header: str, struct: str) -> list[str]:
    """The tensors of a struct of the C interface, in order."""
    body = block(header, f"typedef struct {struct} {{", f"}} {struct};")
    names: list[str] = []
    for members in re.findall(r"const theria_tensor\s*([^;]+);", body):
        names += re.findall(r"\w+", members)
    return names


def main() -> int:
    """Prints what is missing."""
    root = Path(sys.argv[1])
    header, proto, c_header = ((root / path).read_text() for path in (HEADER, PROTO, C_HEADER))
    inputs = table(header, "kInputFields")
    outputs = table(header, "kOutputFields")
    tensors = table(header, "kOptionTensors")
    options = option_fields(header)
    missing: list[str] = []

    def check(holds: bool, text: str) -> None:
        if not holds:
            missing.append(text)

    def has_field(body: str, name: str) -> bool:
        return re.search(rf"\b{name} = \d+;", body) is not None

    check(len(inputs) > 10 and len(outputs) > 10 and len(options) > 10, "the tables were not found")
    requests = [message(proto, f"{name}Request") for name in ("Forward", "Vjp", "Jvp", "Hvp")]
    responses = [message(proto, f"{name}Response") for name in ("Forward", "Vjp", "Jvp", "Hvp")]
    for name in inputs:
        check(any(has_field(body, name) for body in requests), f"{PROTO}: no request has {name}")
    for name in outputs:
        check(any(has_field(body, name) for body in responses), f"{PROTO}: no response has {name}")
        check(has_field(message(proto, "OutputSpec"), name), f"{PROTO}: OutputSpec lacks {name}")
    for name in options:
        check(
            has_field(message(proto, "AttentionOptions"), name),
            f"{PROTO}: AttentionOptions lacks {name}",
        )
        check(
            name in tensors
            or f"options.{name}" in block(header, "void ForEachScalarOption", "\n}")
            or name in ("scale",),  # AttentionProblem holds it
            f"{HEADER}: neither kOptionTensors nor ForEachScalarOption has {name}",
        )
        check(
            re.search(rf"\b{name}\b", block(c_header, "typedef struct theria_options {", "\n}"))
            is not None
            or f"{name}_" in block(c_header, "typedef struct theria_options {", "\n}"),
            f"{C_HEADER}: theria_options lacks {name}",
        )
    # The C interface's tables are in the order of kernels/api/attention.h.
    c_tables = (root / "kernels/c/tensor_fields.h").read_text()
    for struct, c_table, names in (
        ("theria_inputs", "kInputTensors", inputs),
        ("theria_outputs", "kOutputTensors", outputs),
        ("theria_options", "kOptionTensors", tensors),
    ):
        check(sorted(c_fields(c_header, struct)) == sorted(names), f"{C_HEADER}: {struct} differs")
        rows = re.findall(rf"&{struct}::(\w+)", block(c_tables, f"{c_table}[] = {{", "};"))
        check(rows == names, f"kernels/c/tensor_fields.h: {c_table} is not {names}")
    contract = (root / "docs/operator_contract.md").read_text()
    conformance = "".join(path.read_text() for path in (root / "tests/conformance").glob("*.cc"))
    for name in (*inputs, *outputs, *tensors, *options):
        if name in ("precision", "implementation"):
            continue  # they say how, not what
        word = re.compile(rf"\b{name}\b", re.IGNORECASE)
        check(word.search(contract) is not None, f"operator_contract.md: no {name}")
        check(word.search(conformance) is not None, f"tests/conformance: no {name}")
    for line in missing:
        print(line)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
