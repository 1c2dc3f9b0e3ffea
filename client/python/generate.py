"""Generates the messages of `theria.v1` from proto/ into src/theria/v1.

Run in a checkout (`python client/python/generate.py`) and by the build of the wheel. Messages and
their type stubs only: the transports name the RPCs themselves, so that no module but those needs
gRPC. A source distribution has no proto/ beside it and carries the generated files instead.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PROTO_ROOT = _HERE.parent.parent / "proto"
_SOURCE_ROOT = _HERE / "src"


def generate() -> list[Path]:
    """Writes *_pb2.py and *_pb2.pyi; returns what is there afterwards.

    Raises:
        RuntimeError: The compiler refused, or there is neither proto/ nor generated code.
    """
    target = _SOURCE_ROOT / "theria" / "v1"
    if _PROTO_ROOT.is_dir():
        from grpc_tools import protoc

        protos = sorted(str(path) for path in (_PROTO_ROOT / "theria" / "v1").glob("*.proto"))
        bundled = resources.files("grpc_tools") / "_proto"
        arguments = [
            "protoc",
            f"-I{_PROTO_ROOT}",
            f"-I{bundled}",
            f"--python_out={_SOURCE_ROOT}",
            f"--pyi_out={_SOURCE_ROOT}",
            *protos,
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {', '.join(protos)}")
    generated = sorted(target.glob("*_pb2.py*"))
    if not generated:
        raise RuntimeError(f"no proto/ at {_PROTO_ROOT} and no generated code in {target}")
    return generated


if __name__ == "__main__":
    for path in generate():
        print(path)
