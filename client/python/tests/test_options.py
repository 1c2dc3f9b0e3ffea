"""Every field of the wire has its row in each table: one that lacks a part fails here."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

import theria
from theria import aio
from theria._kernels_library import kernels_library
from theria._lengths import as_int32, check_lengths
from theria._local_options import packed_options
from theria._operations import OPERATIONS, output_layout
from theria._options import (
    OPTION_TENSORS,
    PLAIN_KEYWORDS,
    PLAIN_OPTIONS,
    CallOptions,
    encode_options,
    option_tensors,
)
from theria.v1 import attention_pb2

FIELDS = set(attention_pb2.AttentionOptions.DESCRIPTOR.fields_by_name)
# Of a call, not of the operator.
CALL_OPTIONS = {"outputs", "region", "resident_ttl", "timeout"}
# One value for each keyword of a plain option that is not the default.
VALUES: dict[str, Any] = {
    "scale": 0.3,
    "is_causal": True,
    "window": (2, None),
    "dropout_p": 0.5,
    "dropout_seed": 3,
    "dropout_offset": 4,
    "precision": "fast",
    "implementation": "fused",
    "softcap": 2.0,
    "causal_alignment": "lower_right",
    "deterministic": True,
}


def test_every_field_of_the_wire_is_an_option() -> None:
    assert {option.name for option in PLAIN_OPTIONS} | set(OPTION_TENSORS.values()) == FIELDS
    keywords = {*PLAIN_KEYWORDS, *OPTION_TENSORS, *CALL_OPTIONS}
    assert keywords == set(CallOptions.__annotations__)
    assert CallOptions.__doc__ is not None
    for keyword in keywords:
        assert f"{keyword}: " in CallOptions.__doc__
    assert set(VALUES) == set(PLAIN_KEYWORDS)


@pytest.mark.parametrize("option", PLAIN_OPTIONS, ids=lambda option: option.name)
def test_every_plain_option_reaches_the_message_and_the_library(option: Any) -> None:
    given: Any = {keyword: VALUES[keyword] for keyword in option.keywords}
    message, plain = attention_pb2.AttentionOptions(), attention_pb2.AttentionOptions()
    encode_options(given, message)
    encode_options({}, plain)
    assert getattr(message, option.name) != getattr(plain, option.name)
    assert packed_options(given) != packed_options({})


@pytest.mark.parametrize("keyword", OPTION_TENSORS)
def test_every_tensor_among_the_options_has_a_path(keyword: str) -> None:
    given: Any = {keyword: np.zeros(2, np.int32)}
    (path,) = option_tensors(given)
    assert path == f"options.{OPTION_TENSORS[keyword]}"
    assert path in kernels_library().binding.INPUTS


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_every_tensor_of_the_wire_is_an_argument_or_a_result(operation: Any) -> None:
    inputs = set(operation.method.request.DESCRIPTOR.fields_by_name) - {"options", "outputs"}
    for client in (theria.Client, aio.Client):
        parameters = inspect.signature(getattr(client, operation.name)).parameters
        assert set(parameters) - {"self", "options"} == inputs
    assert inputs <= set(kernels_library().binding.INPUTS)
    outputs = set(operation.method.response.DESCRIPTOR.fields_by_name) - {"execution"}
    assert set(operation.outputs) == outputs <= set(kernels_library().binding.OUTPUTS)
    fields = {field.name for field in dataclasses.fields(operation.result)}
    assert fields == {*outputs, "execution"}
    assert outputs <= set(attention_pb2.OutputSpec.DESCRIPTOR.fields_by_name)


def test_what_is_of_the_bias_is_skipped_unless_asked_for() -> None:
    for operation in OPERATIONS.values():
        for name, mode in operation.outputs.items():
            assert mode == "skip" or not name.startswith("bias")


def test_the_cotangent_of_the_bias_has_its_layout() -> None:
    layouts = {name: ((1, 2, 3, 4), np.dtype(np.float32)) for name in "qkv"}
    with pytest.raises(theria.InvalidArgument, match="only a floating-point") as caught:
        output_layout("bias_bar", layouts)
    assert caught.value.field == "outputs.bias_bar"
    layouts["bias"] = ((2, 1, 3), np.dtype(np.float64))
    assert output_layout("bias_bar_dot", layouts) == layouts["bias"]


@pytest.mark.parametrize("value", [[0, 3], (0, 3), np.array([0, 3]), np.array([0, 3], np.uint8)])
def test_integers_become_int32(value: Any) -> None:
    array = as_int32(value, "options.kv_lengths")
    assert array.dtype == np.int32
    assert array.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("name", "values", "field"),
    [
        ("kv_lengths", [0, 7], None),
        ("kv_lengths", [0, 8], "options.kv_lengths[1]"),
        ("kv_lengths", [-1], "options.kv_lengths[0]"),
        ("cu_seqlens_q", [0, 2, 2, 5], None),
        ("cu_seqlens_q", [1, 5], "options.cu_seqlens_q[0]"),
        ("cu_seqlens_q", [0, 3, 2, 5], "options.cu_seqlens_q[2]"),
        ("cu_seqlens_kv", [0, 5], "options.cu_seqlens_kv[1]"),
    ],
)
def test_lengths_are_checked(name: str, values: list[int], field: str | None) -> None:
    tensors = {f"options.{name}": np.array(values, np.int32)}
    if field is None:
        check_lengths(tensors, 5, 7)
        return
    with pytest.raises(theria.InvalidArgument) as caught:
        check_lengths(tensors, 5, 7)
    assert caught.value.field == field
