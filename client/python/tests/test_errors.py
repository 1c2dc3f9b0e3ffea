"""Each error is also what Python, PyTorch or JAX raises in that place."""

from __future__ import annotations

import pickle

import pytest

import theria
from theria._differentiation_errors import DerivativeOrderError, NoClientError

BUILT_IN: dict[type[theria.Error], tuple[type[Exception], ...]] = {
    theria.InvalidArgument: (ValueError,),
    theria.WrongType: (ValueError, TypeError),
    theria.Unimplemented: (NotImplementedError,),
    theria.FailedPrecondition: (),
    theria.TensorMissing: (LookupError,),
    theria.RegionMissing: (LookupError,),
    theria.ResourceExhausted: (),
    theria.DeadlineExceeded: (TimeoutError,),
    theria.Cancelled: (),
    theria.Unavailable: (ConnectionError,),
    theria.AccessDenied: (PermissionError,),
    theria.Internal: (),
    DerivativeOrderError: (NotImplementedError,),
    NoClientError: (),
}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_built_in_classes(kind: type[theria.Error]) -> None:
    for base in (RuntimeError, theria.Error, *BUILT_IN[kind]):
        with pytest.raises(base, match="what happened"):
            raise kind("what happened")
    again = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(again) is kind
    assert again.message == str(again) == "what happened"


def test_the_list_is_complete() -> None:
    def below(kind: type[theria.Error]) -> set[type[theria.Error]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {kind for kind in below(theria.Error) if kind.__module__.startswith("theria.")}
    assert ours - {theria.Error} == set(BUILT_IN)


def test_renaming_keeps_the_class_and_the_request() -> None:
    error = theria.WrongType(
        "k is off", violations=(theria.FieldViolation("k", "is off"),), request_id="17"
    )
    renamed = error.renamed(lambda text: text.replace("k", "key"))
    assert type(renamed) is theria.WrongType
    assert (renamed.message, renamed.field, renamed.request_id) == ("key is off", "key", "17")
