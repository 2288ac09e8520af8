"""Type names that several modules define: what counts as one, and what the check says."""

import subprocess
import sys

from tools.type_names import ROOT, repeated, report, type_names

SOURCE = """
import numpy as np
from nearline.events import Event

LIMIT = 3
Vector = np.ndarray
_Kept: object = dict
first, Second = 1, 2
if True:
    Late = list
try:
    Quick = int
except ImportError:
    Slow = int


class Row:
    Inner = int


def build() -> None:
    Local = int
"""


def test_a_type_name_is_a_class_or_an_alias_at_the_top_of_a_module() -> None:
    assert type_names(SOURCE) == {"Vector", "_Kept", "Late", "Quick", "Slow", "Row"}


def test_only_names_that_several_modules_define_are_listed() -> None:
    sources = {"b": "class Row: ...", "a": "Row = tuple\nclass Only: ...", "c": "from a import Row, Only"}
    assert repeated(sources) == {"Row": ["a", "b"]}


def test_the_report_names_the_modules_and_what_to_do() -> None:
    found = {"Row": ["a", "b"]}
    assert report(found, limit=1).splitlines() == [
        "Row: a, b",
        "1 type names are defined in several modules; the limit is 1.",
    ]
    assert "at most 0 may be" in report(found, limit=0)
    assert "lower LIMIT from 2 to 1" in report(found, limit=2)


def test_the_source_keeps_within_the_limit() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.type_names"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
