"""The demo: runs the whole system on this machine with a shop's history, and shows one click changing recommendations.

    .venv/services/bin/python -m local.demo [--check]

Everything shown goes through the real parts: Kafka, Flink, Triton, the store and the index. The system then stays up
until Ctrl-C, which ends every process; the data stays, so the next start needs no replay. With `--check` the demo
checks what it shows, stops, and exits with 0 or 1.
"""

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from local.demo_user import DemoUser, climbers, demo_users, moves
from local.layout import ROOT
from local.system import System, addresses, interrupt_on_sigterm, start, stop, system_of_this_machine, up
from nearline.adapters.kafka.admin import Topics
from nearline.cli.answers import get_answer, provenance
from nearline.cli.clicks import click_to_answer, list_items, new_event, replay_events
from nearline.cli.console import console, progress, styled
from nearline.errors import NearlineError, Unavailable
from nearline.events import Event
from nearline.items import Item
from nearline.replay import Recording, load_recording
from nearline.settings import Settings, load_settings
from nearline.topics import CLICKS, ITEMS, USER_SEQUENCES

RECORDING = ROOT / "data" / "online-retail"
_SHOWN = 10
_ASKED = 500  # items per answer, so that a newly shown item has an earlier rank
_CLIMBERS_WITHIN = 100
_MORE_CLICKS = 20
_CATCH_UP_S = 600.0
_AFTER_THE_HISTORY = ("canary",)  # measures clicks, which would be late while the history is being read


class DemoNotes:
    """What the demo has done in this data folder, so that a second start neither replays nor repeats a user."""

    def __init__(self, data: Path) -> None:
        self._file = data / "demo.json"
        self._notes: dict[str, int] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def __getitem__(self, name: str) -> int:
        return self._notes.get(name, 0)

    def add(self, name: str) -> None:
        """Count one more *name*, and write it to disk."""
        self._notes[name] = self[name] + 1
        self._file.write_text(json.dumps(self._notes) + "\n")


def fill(settings: Settings, recording: Recording) -> None:
    """Send the catalogue, wait for its vectors, replay the history, and wait until every part has read all of it.

    May be called again after an interruption: sending the same events twice changes nothing.
    """
    started = time.monotonic()
    console.print(recording.report)
    asyncio.run(list_items(settings, recording))
    space = settings.space
    _catch_up(settings, "making item vectors", [(f"item-tower.{space}", ITEMS)])
    asyncio.run(replay_events(settings, recording))
    groups = [("last_n", CLICKS), (f"user-tower.{space}", USER_SEQUENCES)]
    _catch_up(settings, "making histories and user vectors", groups)
    console.print(f"  {len(recording.items):,} items and {len(recording.events):,} events are in, {_since(started)}")


def _catch_up(settings: Settings, what: str, groups: list[tuple[str, str]]) -> None:
    """Show the consumer *groups*' progress to the end of their topics; ``Unavailable`` if they do not get there."""
    topics = Topics(settings.brokers)
    give_up = time.monotonic() + _CATCH_UP_S
    try:
        with progress() as bar:
            task = bar.add_task(what, total=None, rate="")
            while True:
                lags = [topics.group_lag(group, topic) for group, topic in groups]
                ends = [topics.end_offset(topic) for _, topic in groups]
                left = sum(end if lag is None else lag for lag, end in zip(lags, ends, strict=True))
                bar.update(task, total=sum(ends), completed=sum(ends) - left)
                if left == 0:
                    return
                if time.monotonic() > give_up:
                    raise Unavailable(f"{what}: {left:,} records are unread after {_CATCH_UP_S:.0f} s")
                time.sleep(0.25)
    finally:
        topics.close()


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"


def tell(settings: Settings, shown: DemoUser, items: Mapping[str, Item]) -> list[str]:
    """Show the user's answers before and after one click; return what did not change as promised, as sentences."""
    console.rule(f"user {shown.user_id}")
    taste = f"{shown.share:.0%} of {len(shown.bought)} items bought are {shown.taste}"
    last = ", ".join(items[item_id].title.lower() for item_id in shown.bought[-5:])
    console.print(f"{taste}; the last of them: {last}")
    before = get_answer(settings, shown.user_id, k=_ASKED)
    clicked = items[shown.clicked]
    console.print(styled("\none click on something else: ", (clicked.title, "bold"), f" ({clicked.category})"))
    event = new_event(shown.user_id, shown.clicked)
    delay_ms = asyncio.run(click_to_answer(settings, event))
    after = get_answer(settings, shown.user_id, k=_ASKED)
    console.print(_beside(before, after))
    console.print(provenance(after))
    console.print(styled((f"{delay_ms:.1f} ms", "bold"), " from sending the click to the first answer that used it"))
    return unmet(before, after, event)


def _beside(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    """The first items of both answers side by side, then the highest climbers, with the ranks that each moved."""
    table = Table("", "before the click", "after it", "category", "moved")
    new = after["items"]
    marks = moves(_ids(before), _ids(after))
    for rank, old in enumerate(before["items"][:_SHOWN]):
        if rank < len(new):
            table.add_row(str(rank + 1), old["title"], new[rank]["title"], new[rank]["category"], _shade(marks[rank]))
    table.add_section()
    for rank in climbers(marks[:_CLIMBERS_WITHIN]):
        table.add_row(str(rank + 1), "", new[rank]["title"], new[rank]["category"], _shade(marks[rank]))
    return table


def _ids(answer: Mapping[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def _shade(mark: str) -> Text:
    colour = "green" if mark == "new" or mark.startswith("+") else "dim"
    return styled((mark, colour))


def unmet(before: Mapping[str, Any], after: Mapping[str, Any], event: Event) -> list[str]:
    """What the click should have changed in the user's answer but did not."""
    scores = [{item["item_id"]: item["score"] for item in answer["items"]} for answer in (before, after)]
    return [
        sentence
        for sentence, met in (
            ("the answer before the click is empty", bool(before["items"])),
            ("the user's vector did not move: the answers are the same", scores[0] != scores[1]),
            ("the clicked item is still recommended", event.item_id not in scores[1]),
            ("the newest event of the answer is not the click", after["newest_event_id"] == event.event_id),
            ("the history version did not grow", after["history_version"] > before["history_version"]),
            ("the answers are degraded", not (before["degraded"] or after["degraded"])),
            ("the answer is not personal", any(item["source"] == "personal" for item in after["items"])),
        )
        if not met
    ]


def measure(settings: Settings, more: list[DemoUser]) -> None:
    """Measure one click of each of *more* users and print the delays."""
    delays = [asyncio.run(click_to_answer(settings, new_event(one.user_id, one.clicked))) for one in more]
    if delays:
        spread = f"median {statistics.median(delays):.1f} ms, slowest {max(delays):.1f} ms"
        console.print(f"{len(delays)} more clicks of as many users, one after the other: {spread}")


def run(system: System) -> tuple[DemoUser, list[str]]:
    """Fill the running system once and show the next user; return the user and what was not as promised."""
    settings = load_settings(system.settings)
    recording = load_recording(RECORDING)
    notes = DemoNotes(system.data)
    if not notes["filled"]:
        fill(settings, recording)
        notes.add("filled")
        start(system, _AFTER_THE_HISTORY, print)
    told = demo_users(((event.user_id, event.item_id) for event in recording.events), recording.items)
    first = notes["told"] * (1 + _MORE_CLICKS) % max(1, len(told) - _MORE_CLICKS)
    notes.add("told")
    problems = tell(settings, told[first], recording.items)
    measure(settings, told[first + 1 : first + 1 + _MORE_CLICKS])
    return told[first], problems


def invitation(shown: DemoUser) -> str:
    """The commands that a person can try now."""
    tries = {
        f"bin/nearline click {shown.user_id} {shown.bought[0]}": "one more click",
        f"bin/nearline recommend {shown.user_id}": "what that user sees now",
        "bin/nearline status": "every part, its lag and its freshness",
    }
    return "\n".join(f"  {command:<34} {what}" for command, what in tries.items())


def main() -> None:
    """Start, fill, show, and stay up until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="check what is shown, stop, and exit with 0 or 1")
    check = parser.parse_args().check
    interrupt_on_sigterm()
    try:
        sys.exit(demo(system_of_this_machine(), check=check))
    except NearlineError as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


def demo(system: System, *, check: bool) -> int:
    """Run the whole demo; a system that was already up stays up afterwards."""
    ours = not system.is_up()
    up(system, print, end_with_us=ours, held_back=() if DemoNotes(system.data)["filled"] else _AFTER_THE_HISTORY)
    try:
        shown, problems = run(system)
        for problem in problems:
            console.print(styled(("not as promised:", "red"), f" {problem}"))
        if check:
            console.print(styled(("not all as promised", "red") if problems else ("all as promised", "green")))
            return 1 if problems else 0
        console.rule("it stays up")
        console.print(f"{invitation(shown)}\n{addresses(system)}")
        console.print("\nCtrl-C ends " + ("every process; the data stays" if ours else "this; the system stays up"))
        console.print(styled("\nopen ", (system.page, "bold"), " and click something"))
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print()
    finally:
        if ours:
            stop(system, print)
    return 0


if __name__ == "__main__":
    main()
