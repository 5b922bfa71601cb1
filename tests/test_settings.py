"""Settings: one place for meaning, range and option of every field."""

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from hessdiag.cli.app import app
from hessdiag.cli.options import as_flags
from hessdiag.errors import InputError
from hessdiag.settings import check, fields, option, settled


@dataclass(frozen=True)
class Sample:
    """Settings with a range of every kind."""

    count: Annotated[int, option("How many.", ge=1)] = 3
    share: Annotated[float | None, option("Of all.", gt=0, le=1)] = None
    kinds: Annotated[tuple[str, ...], option("Which.", choices=("a", "b"), flag="--kind")] = ("a",)
    note: str = ""

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "`count` is out of range"),
        ({"count": 10**9 + 1}, "at least 1 and at most 1,000,000,000"),
        ({"count": 10**400}, "`count`"),
        ({"share": 0.0}, "above 0 and at most 1"),
        ({"share": 1.5}, "`share`"),
        ({"share": float("nan")}, "`share`"),
        ({"kinds": ("a", "c")}, "unknown kind in `kinds`"),
        ({"counts": 1}, "unknown setting"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_field(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        settled(Sample, None, changes)
    assert words in str(caught.value)


def test_fields_given_win_over_settings():
    assert settled(Sample, Sample(count=5, share=0.5), {"share": 1.0}) == Sample(5, 1.0)
    assert settled(Sample, None, {}) == Sample()


def test_only_described_fields_are_options():
    assert [(field.name, field.flag) for field in fields(Sample)] == [
        ("count", "--count"),
        ("share", "--share"),
        ("kinds", "--kind"),
    ]


def test_messages_name_options_on_the_command_line():
    assert app.registered_commands
    assert as_flags("`top_k` and `parts`, not `nowhere`") == "--top-k and --part, not nowhere"
