"""``nearline recommend --all-users``: everybody's answers in one file, also after an interruption."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import polars as pl
import pytest
from typer.testing import CliRunner

from nearline.cli.app import app
from nearline.cli.batch import Parts, ask_all
from nearline.errors import BadInput, Misconfigured, Unavailable
from nearline_client import AsyncClient, RecommendOptions, Retries
from tests.support.served import Stage, Weather, staged

OPTIONS: RecommendOptions = {"k": 2}
USERS = [f"u/{n:02}" for n in range(25)]


class Retrieval:
    """Answers ``GET /recommend/{user}`` with items that are named after the user; counts who asks at a time."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        user_id = scope["path"].removeprefix("/recommend/")
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.002)
        self.under_way -= 1
        items = [{"item_id": f"{user_id}-{n}", "score": 1.0 - n, "source": "personal"} for n in range(2)]
        said = {
            "items": items,
            "reason": None,
            "degraded": False,
            "history_version": 7,
            "as_of_ms": 9,
            "request_id": "r",
        }
        status = 422 if user_id == "bad" else 200
        body = said if status == 200 else {"detail": [{"field": "filter", "came": "x", "problem": "no filter"}]}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


def ask(stage: Stage, file: Path, users: list[str], options: RecommendOptions = OPTIONS, per_part: int = 10) -> Parts:
    parts = Parts(file, options)
    client = AsyncClient(retrieval=stage.url, retries=Retries(attempts=2, first_s=0.001))
    asyncio.run(ask_all(client, parts, users, options, at_once=4, per_part=per_part))
    return parts


def test_everybodys_answers_are_one_file_and_few_requests_at_a_time(stage: Stage, tmp_path: Path) -> None:
    retrieval = Retrieval()
    weather = stage.app = Weather(retrieval, 503)
    file = tmp_path / "answers.parquet"
    assert ask(stage, file, USERS).join() == 25
    found = pl.read_parquet(file)
    assert found["user_id"].to_list() == USERS
    assert found["item_ids"].to_list()[3] == ["u/03-0", "u/03-1"]
    assert found["scores"].to_list()[3] == [1.0, 0.0]
    assert found["history_version"].to_list() == [7] * 25
    assert parse_qs(weather.asked[0]["query"]) == {"k": ["2"]}
    assert 1 < retrieval.most <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["answers.parquet"]


def test_an_interrupted_run_continues_with_the_missing_users(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "answers.parquet"
    weather = stage.app = Weather(Retrieval(), *[0] * 12, *[503] * 50)
    with pytest.raises(Unavailable, match="continues where it stopped"):
        ask(stage, file, USERS)
    assert not file.exists()
    weather.script, weather.asked = [], []
    assert ask(stage, file, USERS).join() == 25
    again = {request["path"].removeprefix("/recommend/") for request in weather.asked}
    assert again == {quote(user_id, safe="") for user_id in USERS[10:]}, "ten were in a part already"
    assert sorted(pl.read_parquet(file)["user_id"]) == USERS


def test_with_other_options_everybody_is_asked_again(stage: Stage, tmp_path: Path) -> None:
    stage.app = weather = Weather(Retrieval())
    ask(stage, tmp_path / "x", USERS[:10])
    ask(stage, tmp_path / "x", USERS[:10], {"k": 3})
    assert len(weather.asked) == 20


def test_a_refused_question_says_which_field(stage: Stage, tmp_path: Path) -> None:
    stage.app = Weather(Retrieval())
    with pytest.raises(BadInput, match="filter: no filter"):
        ask(stage, tmp_path / "x", ["u", "bad"])


def test_a_refused_key_stops_the_run(stage: Stage, tmp_path: Path) -> None:
    stage.app = Weather(Retrieval(), 401)
    with pytest.raises(Misconfigured, match="nearline keys ensure"):
        ask(stage, tmp_path / "x", ["u"])


def test_the_command_takes_users_from_a_file(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.app = weather = Weather(Retrieval())
    monkeypatch.setenv("NEARLINE_RETRIEVAL", stage.url)
    monkeypatch.setenv("NEARLINE_DATA", str(tmp_path / "data"))
    users, to = tmp_path / "users.txt", tmp_path / "to.parquet"
    users.write_text("u/2\n\n u/1 \nu/2\n")
    result = CliRunner().invoke(app, ["recommend", "--users", str(users), "--to", str(to), "--k", "2"])
    assert result.exit_code == 0, result.output
    assert "answers for 2 users" in result.output
    assert pl.read_parquet(to)["user_id"].to_list() == ["u/1", "u/2"]
    assert parse_qs(weather.asked[0]["query"]) == {"k": ["2"], "exclude_seen": ["all"]}


@pytest.mark.parametrize("words", [[], ["u", "--all-users", "--to", "x"], ["--all-users"]])
def test_it_is_for_one_user_or_for_all_with_a_file(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["recommend", *words]).exit_code == 2
