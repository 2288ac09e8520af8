"""Attribution: events are joined with exposures by request, item and user, counted once, with an interval."""

import math
from collections.abc import Sequence

import numpy as np
import orjson
import pytest

from nearline.attribution import Rate, SourceRates, attribute
from nearline.cli.report import Told, as_plain, said, shown_in, table_of
from nearline.errors import BadInput
from nearline.events import Event, encode_event
from nearline.exposures import Exposure, decode_exposure, encode_exposure
from nearline.log import Record
from nearline.user_commands import Command, Erase, Merge, Remove, encode_command

NOW_MS = 1_732_100_000_000


def exposure(
    request_id: str, items: Sequence[str], user_id: str = "u", source: str = "personal", **more: object
) -> Exposure:
    return Exposure(request_id, user_id, NOW_MS, 1, list(items), [source] * len(items), [0.5] * len(items), **more)  # type: ignore[arg-type]


def event(
    event_id: str, item_id: str, request_id: str | None = "r", kind: str = "click", user_id: str = "u", **more: object
) -> Event:
    return Event(event_id, user_id, item_id, kind, NOW_MS + 5, request_id=request_id, **more)  # type: ignore[arg-type]


def test_exposures_and_clicks_are_counted_by_source_and_scenario() -> None:
    shown = [
        Exposure("r1", "u", NOW_MS, 1, ["a", "b", "c"], ["pinned", "personal", "personal"], [1, 1, 1], "home"),
        exposure("r2", ["a", "d"], user_id="v", source="trending"),
    ]
    done = [
        event("e1", "b", "r1"),
        event("e2", "b", "r1", "purchase"),
        event("e3", "c", "r1", "skip"),
        event("e4", "d", "r2", user_id="v"),
    ]
    report = attribute(shown, done)
    assert report.lines == [
        SourceRates("", "trending", Rate(1, 2), Rate(0, 2)),
        SourceRates("home", "personal", Rate(1, 2), Rate(1, 2)),
        SourceRates("home", "pinned", Rate(0, 1), Rate(0, 1)),
    ]
    assert (report.exposures, report.events, report.with_request, report.met) == (2, 4, 4, 4)


def test_an_event_counts_only_for_the_answer_item_and_user_that_it_names() -> None:
    shown = [exposure("r", ["a"])]
    for stranger in (
        event("e", "b"),
        event("e", "a", "other"),
        event("e", "a", None),
        event("e", "a", user_id="v"),
        event("e", "a", synthetic=True),
    ):
        report = attribute(shown, [stranger])
        assert report.lines == [SourceRates("", "personal", Rate(0, 1), Rate(0, 1))]
        assert report.met == 0
    assert attribute([exposure("r", ["a"], user_id="")], [event("e", "a", user_id="v")]).lines[0].clicked == Rate(1, 1)


def test_records_that_come_again_change_nothing() -> None:
    shown, done = [exposure("r", ["a", "b"])], [event("e1", "a"), event("e2", "a")]
    assert attribute(shown * 3, done * 2) == attribute(shown, done)
    assert attribute(shown, done).lines[0].clicked == Rate(1, 2), "one item, however often it was clicked"


def test_pages_of_one_list_are_answers_of_their_own() -> None:
    report = attribute([exposure("r1", ["a"]), exposure("r1", ["b"], page=1)], [event("e", "b", "r1")])
    assert (report.exposures, report.lines[0].clicked) == (2, Rate(1, 2))


def test_a_report_without_exposures_is_empty() -> None:
    report = attribute([], [])
    assert (report.exposures, report.lines) == (0, [])
    assert attribute([], [event("e", "a")]).events == 1


@pytest.mark.parametrize(
    ("hits", "shown", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (1, 1000, 0.00018, 0.00565)],
)
def test_the_interval_is_wilsons(hits: int, shown: int, low: float, high: float) -> None:
    """Values from the formula as Brown, Cai and DasGupta (2001) print it."""
    assert Rate(hits, shown).interval == pytest.approx((low, high), abs=1e-5)


def test_the_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for true in (0.01, 0.05, 0.3):
        rates = [Rate(int(hits), 400) for hits in random.binomial(400, true, 2_000)]
        held = np.mean([rate.interval[0] <= true <= rate.interval[1] for rate in rates])
        assert 0.92 <= held <= 0.98


def test_a_rate_of_zero_exposures_is_unknown() -> None:
    assert math.isnan(Rate(0, 0).share)
    assert Rate(0, 0).interval == (0.0, 1.0)


# The log


def click(event_id: str, item_id: str, at: int, user_id: str = "u") -> Record:
    return Record(
        "clicks", 0, at, NOW_MS + at, user_id.encode(), encode_event(event(event_id, item_id, user_id=user_id))
    )


def command(told: Command, at: int) -> Record:
    return Record("clicks", 0, at, NOW_MS + at, told.user_id.encode(), encode_command(told))


def shown_at(at: int, user_id: str = "u") -> Record:
    raw = encode_exposure(exposure("r", ["a"], user_id=user_id))
    return Record("exposures", 0, at, NOW_MS + at, user_id.encode(), raw)


def told_by(*records: Record) -> Told:
    told = Told()
    for record in records:
        told.take(record)
    return told


def test_an_erased_users_events_and_answers_are_forgotten() -> None:
    told = told_by(click("e1", "a", 10), command(Erase("c", "u", NOW_MS), 20), click("e2", "b", 30))
    assert [each.event_id for each in told.events(0)] == ["e2"]
    assert shown_in(shown_at(15), told, 0) == []
    assert len(shown_in(shown_at(25), told, 0)) == 1


def test_a_removed_event_counts_no_more() -> None:
    told = told_by(click("e1", "a", 10), click("e2", "b", 11), command(Remove("c", "u", "e1", NOW_MS), 20))
    assert [each.event_id for each in told.events(0)] == ["e2"]


def test_a_merged_session_is_its_user() -> None:
    told = told_by(click("e1", "a", 10, "s"), command(Merge("c", "s", "u", NOW_MS), 20), click("e1", "a", 21))
    (found,) = told.events(0)
    assert (found.event_id, found.user_id) == ("e1", "u")
    (shown,) = shown_in(shown_at(5, "s"), told, 0)
    assert attribute([shown], [found]).lines[0].clicked == Rate(1, 1)


def test_old_and_undecodable_records_are_left_out() -> None:
    told = told_by(click("e1", "a", 10), Record("clicks", 0, 11, NOW_MS, b"u", b"{"))
    assert list(told.events(NOW_MS + 6)) == []
    assert shown_in(shown_at(5), told, NOW_MS + 1) == []
    assert shown_in(Record("exposures", 0, 1, NOW_MS, b"u", b"[]"), told, 0) == []


def test_a_click_on_what_was_shown_counts_though_its_devices_clock_is_behind() -> None:
    """By their own times both clicks are from before the report's first day; an answer of that day is named by one."""
    told = told_by(click("e1", "a", 10), Record("clicks", 0, 11, NOW_MS, b"u", encode_event(event("e2", "a", "older"))))
    assert [each.event_id for each in told.events(NOW_MS + 6, {"r"})] == ["e1"]


def test_a_report_says_what_it_read() -> None:
    report = attribute([exposure("r", ["a", "b"])], [event("e", "a")])
    assert said(report) == "read 1 answers and 1 events; 1 events name an answer, 1 of them an item that it showed"
    plain = as_plain(report)
    (line,) = orjson.loads(orjson.dumps(plain))["lines"]
    assert (line["source"], line["scenario"], line["shown"], line["clicked"]["hits"]) == ("personal", None, 2, 1)
    assert table_of(report).row_count == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"v":2}',
        b'{"v":1,"request_id":"r"}',
        b'{"v":1,"request_id":"r","user_id":"u","time_ms":1,"space":1,"items":["a"],"sources":[],"scores":[1],"page":0}',
    ],
)
def test_an_undecodable_exposure_is_refused(raw: bytes) -> None:
    with pytest.raises(BadInput):
        decode_exposure(raw)
