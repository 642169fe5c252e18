import math
from dataclasses import dataclass
from typing import Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppap_lib.errors import InputError
from ppap_lib.parameters import Parameters, param


@dataclass(frozen=True)
class Run(Parameters):
    steps: int = param(25, low=1, high=1000)
    scale: float = param(7.5, low=0)
    form: Literal["score", "mean"] = "score"
    betas: tuple[float, float] | None = param(None, low=0, high=1)
    seeds: tuple[int, ...] = (0,)
    limit: Optional[int] = None  # noqa: UP045  (both spellings must work)
    save: bool = param(False, recorded=False)


@dataclass(frozen=True)
class Ordered(Parameters):
    low: int = 0
    high: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.low >= self.high:
            raise InputError(f"low must be below high, not {self.low} and {self.high}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "unknown parameter 'step': did you mean 'steps'?"),
        ({"zzz": 3}, "unknown parameter 'zzz': there are steps, scale"),
        ({"steps": "3"}, "steps must be an int, not '3'"),
        ({"steps": 3.0}, "steps must be an int, not 3.0"),
        ({"steps": True}, "steps must be an int, not True"),
        ({"steps": 0}, r"steps must be in \[1, 1000\], not 0"),
        ({"steps": 1001}, r"steps must be in \[1, 1000\], not 1001"),
        ({"scale": -1e-9}, "scale must be at least 0"),
        ({"scale": math.nan}, "scale must be a finite float"),
        ({"scale": math.inf}, "scale must be a finite float"),
        ({"scale": "7.5"}, "scale must be a finite float, not '7.5'"),
        ({"scale": None}, "scale must be a finite float, not None"),
        ({"form": "scores"}, "form must be one of 'score', 'mean', not 'scores': did you mean 's"),
        ({"form": 1}, "form must be one of"),
        ({"betas": [0.1]}, r"betas must be a tuple of 2 \(a finite float, a finite float\) or N"),
        ({"betas": [0.1, "x"]}, "betas must be"),
        ({"betas": 0.1}, "betas must be"),
        ({"betas": [0.1, 2]}, r"betas\[1\] must be in \[0, 1\]"),
        ({"seeds": [1, 2.5]}, r"seeds\[1\] must be an int"),
        ({"seeds": "12"}, "seeds must be a tuple, each element an int"),
        ({"limit": "none"}, "limit must be an int or None"),
        ({"save": "true"}, r"save must be a bool \(true or false, unquoted\), not 'true'"),
        ({"save": 1}, "save must be a bool"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(values, message):
    with pytest.raises(InputError, match=message):
        Run.of(values)


def test_making_an_instance_directly_is_checked_too():
    with pytest.raises(InputError, match="steps"):
        Run(steps=0)


def test_ints_become_floats_and_lists_tuples_and_nothing_else_changes():
    run = Run.of({"scale": 3, "betas": [0, 1], "seeds": [4, 5]})
    assert type(run.scale) is float and run.betas == (0.0, 1.0) and run.seeds == (4, 5)
    assert all(type(beta) is float for beta in run.betas)
    assert Run.of({"scale": 3}).recorded() == Run.of({"scale": 3.0}).recorded()


def test_what_does_not_decide_the_result_is_not_recorded():
    assert Run(save=True).recorded() == Run(save=False).recorded()
    assert set(Run().recorded()) == {"steps", "scale", "form", "betas", "seeds", "limit"}


def test_a_field_without_default_must_be_given():
    @dataclass(frozen=True)
    class Required(Parameters):
        T: int = param(low=1)

    with pytest.raises(InputError, match="'T' is missing and has no default"):
        Required.of({})
    assert Required.of({"T": 5}).T == 5


def test_a_rule_across_fields():
    assert Ordered.of({"low": 0, "high": 2}).high == 2
    with pytest.raises(InputError, match="low must be below high"):
        Ordered.of({"low": 2})


def test_a_literal_distinguishes_true_from_one():
    @dataclass(frozen=True)
    class Choice(Parameters):
        n: Literal[1, 2] = 1

    with pytest.raises(InputError, match="n must be one of 1, 2, not True"):
        Choice(n=True)


def test_a_type_that_cannot_be_checked_is_the_authors_mistake():
    @dataclass(frozen=True)
    class Odd(Parameters):
        values: dict = None

    with pytest.raises(TypeError, match="values: a parameter cannot have the type"):
        Odd()


@given(
    st.fixed_dictionaries(
        {
            "steps": st.integers(-5, 1005),
            "scale": st.floats(-2, 2) | st.integers(-2, 2),
            "form": st.sampled_from(["score", "mean", "other"]),
        }
    )
)
def test_an_instance_exists_exactly_when_every_value_is_in_range(values):
    good = 1 <= values["steps"] <= 1000 and values["scale"] >= 0 and values["form"] != "other"
    try:
        run = Run.of(values)
    except InputError:
        assert not good
    else:
        assert good and run.recorded().items() >= values.items()
