"""``nearline status --watch``: the live screen, and that it ends cleanly."""

import asyncio
import io

import pytest
from starlette.applications import Starlette

from nearline.adapters.http import status_routes
from nearline.cli.console import Terminal
from nearline.cli.watching import line_of, rows_of, screen_of, watching
from nearline.live import Delay, LiveFigures
from nearline.settings import Settings, load_settings
from tests.support.served import served

BUSY = LiveFigures(
    seconds=60.0,
    freshness=Delay(0.0213, 0.0821, 1_200),
    stages={"append": Delay(0.002, 0.004, 1_200), "vector": Delay(0.011, 0.05, 1_200)},
    clicks_per_s=20.5,
    answers_per_s=110.0,
    answers=Delay(0.0009, 0.0031, 6_600),
    fallback_share=0.125,
    lag={"last_n": 0, "user_tower": 1_204},
    recall={50: 0.957, 10: 0.993},
    recall_samples=180,
    delta_rows=12,
    index_items=3_659,
    cache_hit_rate=0.5,
    dead_letters={"bad_answer": 2},
    canary=Delay(0.02, 1.5, 60),
    canary_up=True,
    canary_clicks={"used": 59, "late": 1, "refused": 0},
    down=("item_tower",),
)


def test_every_figure_is_on_the_screen() -> None:
    shown = {what: (amount, rest) for what, amount, rest in rows_of(BUSY)}
    assert shown["click to servable"] == (
        "21.3 ms (p50), 82.1 ms (p99)",
        "1,200 real clicks; p50 of append 2.0 ms, vector 11.0 ms",
    )
    assert shown["canary: click to answer"] == ("20.0 ms (p50), 1.50 s (p99)", "59 used, 1 late")
    assert shown["lag"] == ("last_n 0, user_tower 1,204", "records")
    assert shown["live recall"] == ("@10 0.993, @50 0.957", "of 180 queries")
    assert shown["answers not wholly personal"][0] == "12.5%"
    assert shown["dead letters"][0] == "bad_answer 2"
    text = io.StringIO()
    Terminal(file=text, width=160).print(screen_of(BUSY))
    assert "no metrics of item_tower" in text.getvalue()


def test_unknown_figures_are_left_out_of_the_line() -> None:
    assert line_of(LiveFigures(0.0)) == "dead letters: none"
    assert "canary: click to answer: 20.0 ms (p50)" in line_of(BUSY)
    assert line_of(BUSY).endswith("no metrics: item_tower")


def _settings(url: str) -> Settings:
    parts = ("ingest", "last_n", "user_tower", "item_tower", "retrieval", "canary")
    return load_settings({"NEARLINE_METRICS_OF": ",".join(f"{part}={url}" for part in parts)})


@pytest.mark.anyio
async def test_without_a_terminal_there_is_a_line_for_each_look() -> None:
    text = io.StringIO()
    with served(Starlette(routes=status_routes(dict))) as url:
        await watching(_settings(url), Terminal(file=text, width=10_000), every_s=0.01, looks=3)
    assert len(text.getvalue().splitlines()) == 3
    assert "no metrics" not in text.getvalue()


@pytest.mark.anyio
async def test_it_goes_on_while_everything_is_down_and_ends_when_it_is_told_to() -> None:
    text = io.StringIO()
    console = Terminal(file=text, width=200, force_terminal=True)
    task = asyncio.create_task(watching(_settings("http://127.0.0.1:1"), console, every_s=0.01))
    while "no metrics of ingest" not in text.getvalue():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert text.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in text.getvalue()  # the cursor is shown again
