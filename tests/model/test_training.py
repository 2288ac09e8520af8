"""Training end to end on small data whose answer is known."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch

from nearline.errors import Misconfigured
from nearline.features import ITEM_TOWER, TYPE_CODES, USER_TOWER, features_of
from nearline.items import Item
from training.data.examples import item_counts, together
from training.data.log import Log, make_log
from training.data.splits import Stage, TimeSplit, stage_of
from training.evaluation.evaluate import ALL, evaluate
from training.export import export_towers
from training.fit import Fitted, Watcher, World, fit
from training.recipe import FULL, PLAIN, SAMPLED, STREAMING, TRANSFORMER, Recipe
from training.saved import load_towers, save_towers
from training.task import Task
from training.train import compare_with
from training.vectors import item_vectors, tower_scorer, user_vectors

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
GROUPS, EACH = 6, 12
RECIPE = Recipe(epochs=12, batch_size=64, uniform_negatives=40, half_life_days=0, dropout=0.2, repeat_weight=1)
CATALOGUE = {f"{g}-{n}": Item(f"group{g} thing{n}") for g in range(GROUPS) for n in range(EACH)}
SPLIT = TimeSplit(START_MS + 5 * DAY_MS, START_MS + 6 * DAY_MS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def events_of(buys: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    """(user, item, day, type) as a frame."""
    rows = [
        {"user_id": u, "item_id": i, "type": t, "time_ms": START_MS + d * DAY_MS, "event_id": f"{n:06}"}
        for n, (u, i, d, t) in enumerate(buys)
    ]
    return pl.DataFrame(rows)


def shopping(*, learnable: bool) -> Log:
    """120 users who buy two things on each of seven days: of their own group, or, as noise, of any."""
    random = np.random.default_rng(5)
    buys = []
    for user in range(120):
        for day in range(7):
            groups = [user % GROUPS] * 2 if learnable else random.integers(0, GROUPS, 2)
            things = random.choice(EACH, 2, replace=False)
            buys += [(f"u{user}", f"{g}-{n}", day, "purchase") for g, n in zip(groups, things, strict=True)]
    return make_log(events_of(buys), list(CATALOGUE))


def task_of(log: Log, recipe: Recipe = RECIPE, items: dict[str, Item] = CATALOGUE) -> tuple[Task, Stage]:
    features = recipe.features()
    arrays = features.item_inputs(list(items.items()))
    stage = stage_of(log, SPLIT, "test")
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    contexts = torch.from_numpy(features.user_context(list(log.contexts)))
    examples = together(stage.fit, stage.fit_first)
    return Task(log, examples, stage.fitted, tensors, contexts, features), stage


def recall(log: Log, stage: Stage, task: Task, fitted: Fitted, *, k: int = 10) -> float:
    scorers = {"towers": tower_scorer(fitted.towers, task)}
    report = evaluate(scorers, log, stage.fitted, stage.judge, k=k, settings=(ALL,))["towers"]
    return report.settings[ALL].figures["recall"].mean


def popular_recall(log: Log, stage: Stage, *, k: int = 10) -> float:
    counts = item_counts(log, stage.fitted).astype(np.float32)
    scorers = {"popular": lambda asked: np.tile(counts, (len(asked), 1))}
    report = evaluate(scorers, log, stage.fitted, stage.judge, k=k, settings=(ALL,))["popular"]
    return report.settings[ALL].figures["recall"].mean


@pytest.fixture(scope="module")
def learnt() -> tuple[Log, Stage, Task, Fitted]:
    log = shopping(learnable=True)
    task, stage = task_of(log)
    return log, stage, task, fit(task, RECIPE, seed=1)


def test_learnable_data_scores(learnt: tuple[Log, Stage, Task, Fitted]) -> None:
    """Ten answers from a group of twelve hold 10/12 of what is bought; popularity finds one group in six."""
    log, stage, task, fitted = learnt
    assert recall(log, stage, task, fitted) > 0.7
    assert popular_recall(log, stage) < 0.3


@pytest.mark.parametrize(
    "settings",
    [
        {"user_tower": TRANSFORMER, "epochs": 20},
        {"softmax": FULL},
        {"softmax": SAMPLED, "correction": PLAIN, "uniform_negatives": 0},
        {"frequency": STREAMING},
        {"precision": "bf16"},
        {"separate_history": True},
    ],
    ids=lambda settings: ",".join(map(str, settings.values())),
)
def test_every_way_to_train_solves_what_can_be_learnt(
    learnt: tuple[Log, Stage, Task, Fitted], settings: dict[str, object]
) -> None:
    log, stage, _, _ = learnt
    recipe = replace(RECIPE, **settings)  # type: ignore[arg-type]
    task, _ = task_of(log, recipe)
    assert recall(log, stage, task, fit(task, recipe, seed=1)) > 0.6


def test_a_model_of_noise_scores_at_chance() -> None:
    """There is nothing to learn: 10 of 72 items are right by chance 10/72 of the time."""
    log = shopping(learnable=False)
    task, stage = task_of(log)
    assert recall(log, stage, task, fit(task, RECIPE, seed=1)) < 0.25


def test_a_checkerboard_is_solved() -> None:
    """Neither item nor day tells what comes next, only both: after an even item comes an odd one and back again."""
    items = {f"{colour}{n}": Item(f"{colour} thing") for colour in ("black", "white") for n in range(8)}
    random = np.random.default_rng(2)
    buys = []
    for user in range(150):
        for day in range(7):
            colour = ("black", "white")[(user + day) % 2]
            buys.append((f"u{user}", f"{colour}{random.integers(8)}", day, "purchase"))
    log = make_log(events_of(buys), list(items))
    recipe = replace(RECIPE, epochs=25, lose=0.0)  # whose newest event is lost learns the wrong colour
    task, stage = task_of(log, recipe, items=items)
    assert recall(log, stage, task, fit(task, recipe, seed=1), k=8) > 0.95  # always the other colour: all 8 of it


def test_targets_permuted_among_users_fall_to_most_populars_level() -> None:
    """Everybody buys his one thing every day, so a model learns to answer with the one event that it is shown.

    Were that the target, it would be found whoever got it.
    """
    everyone = [f"{g}-{n}" for g in range(GROUPS) for n in range(EACH)]
    buys = [(f"u{user:03}", everyone[user % len(everyone)], day, "purchase") for user in range(144) for day in range(7)]
    log = make_log(events_of(buys), list(CATALOGUE))
    recipe = replace(RECIPE, epochs=20, history_length=1)
    task, stage = task_of(log, recipe)
    fitted = fit(task, recipe, seed=1)
    assert recall(log, stage, task, fitted, k=1) > 0.9
    item = log.item.copy()
    item[stage.judge.start] = np.random.default_rng(0).permutation(item[stage.judge.start])
    permuted = replace(log, item=item)
    found = recall(permuted, stage, replace(task, log=permuted), fitted, k=1)
    assert found < popular_recall(permuted, stage, k=1) + 0.05


def test_a_signal_planted_only_after_the_cut_scores_at_chance() -> None:
    """From the cut on everybody buys one marked item; a model that finds it has read the future."""
    log = shopping(learnable=True)
    marked = log.item_ids.index("0-0")
    item = np.where(log.time_ms >= SPLIT.test_from_ms, marked, log.item).astype(log.item.dtype)
    planted = replace(log, item=item)
    task, stage = task_of(planted)
    fitted = fit(task, RECIPE, seed=1)
    scorer = tower_scorer(fitted.towers, task)
    others = stage.judge.take(planted.user[stage.judge.start] % GROUPS != 0)
    top = np.argsort(-scorer(others), axis=1)[:, :10]
    assert (top == marked).any(axis=1).mean() < 0.3


def test_the_log_after_the_cut_changes_nothing_of_the_training(learnt: tuple[Log, Stage, Task, Fitted]) -> None:
    """Bit for bit: what happens later can not have been used."""
    log, _, task, fitted = learnt
    random = np.random.default_rng(9)
    scrambled = log.item.copy()
    later = log.time_ms >= SPLIT.test_from_ms
    scrambled[later] = random.integers(0, len(log.item_ids), int(later.sum()))
    again, _ = task_of(replace(log, item=scrambled))
    np.testing.assert_array_equal(
        item_vectors(fit(again, RECIPE, seed=1).towers, task.items)[0], item_vectors(fitted.towers, task.items)[0]
    )


def test_one_click_moves_the_vector_towards_what_was_clicked(learnt: tuple[Log, Stage, Task, Fitted]) -> None:
    """A user of group 0 with a full day's history clicks one thing of group 3."""
    _, _, task, fitted = learnt
    items = item_vectors(fitted.towers, task.items)[0]
    rows = np.full((2, 50), -1, dtype=np.int32)
    rows[0, :8] = range(8)
    rows[1, :9] = [3 * EACH + 4, *range(8)]
    ages = np.zeros((2, 50), dtype=np.float32)
    ages[1, 1:9] = np.log1p(24)
    types = np.full((2, 50), 4, dtype=np.int32)
    context = np.zeros((2, 8), dtype=np.int32)
    batch = task.features.user_batch(items.astype(np.float16), rows, ages, types, context)
    with torch.no_grad():
        before, after = fitted.towers.user(*map(torch.from_numpy, batch.values())).numpy()
    clicked = items[3 * EACH : 4 * EACH].mean(0)
    assert before @ after < 0.99
    assert after @ clicked > before @ clicked


def test_an_item_that_was_never_bought_lies_near_its_group(learnt: tuple[Log, Stage, Task, Fitted]) -> None:
    _, _, task, fitted = learnt
    items = item_vectors(fitted.towers, task.items)[0]
    fresh = task.features.item_inputs([("new", Item("group2 novelty"))])
    vector = item_vectors(fitted.towers, tuple(torch.from_numpy(array) for array in fresh.values()))[0]
    assert (vector @ items.T)[0].reshape(GROUPS, EACH).mean(1).argmax() == 2


def test_disliked_things_are_kept_away_from() -> None:
    """Half of the users dislike group 1 and then buy group 2; the others like group 1 and buy more of it."""
    random = np.random.default_rng(4)
    buys = []
    for user in range(160):
        hates = user % 2 == 0
        for day in range(7):
            first, second = (f"1-{random.integers(EACH)}" for _ in range(2))
            buys.append((f"u{user}", first, day, "dislike" if hates else "like"))
            buys.append((f"u{user}", f"2-{random.integers(EACH)}" if hates else second, day, "purchase"))
    log = make_log(events_of(buys), list(CATALOGUE), joint=False)
    task, stage = task_of(log)
    fitted = fit(task, replace(RECIPE, epochs=20), seed=1)
    judged = stage.judge_all  # also the moments at which a dislike comes next: it is no wish
    scores = tower_scorer(fitted.towers, task)(judged).reshape(len(judged), GROUPS, EACH).mean(2)
    disliked = np.array([TYPE_CODES["dislike"] in log.kind[s - 2 : s] for s in judged.start])
    assert 0.4 < disliked.mean() < 0.6
    assert (scores[disliked, 2] > scores[disliked, 1]).mean() > 0.9
    assert (scores[~disliked, 1] > scores[~disliked, 2]).mean() > 0.9


def test_the_country_alone_tells_newcomers_apart() -> None:
    """Each country buys from its own group, and the judged users have no history."""
    random = np.random.default_rng(8)
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"{user % 3}-{random.integers(EACH)}",
            "type": "purchase",
            "time_ms": START_MS + (day if user < 150 else 6) * DAY_MS,
            "event_id": f"{user}.{day}",
            "country": ("Norway", "Spain", "Japan")[user % 3],
        }
        for user in range(180)
        for day in range(6 if user < 150 else 1)
    ]
    log = make_log(pl.DataFrame(rows), list(CATALOGUE))
    recipe = replace(RECIPE, first_weight=1.0, epochs=25)
    task, stage = task_of(log, recipe)
    assert len(stage.newcomers) == 30
    scores = tower_scorer(fit(task, recipe, seed=1).towers, task)(stage.newcomers)
    best = scores.argmax(1) // EACH
    wanted = log.item[stage.newcomers.start] // EACH
    assert (best == wanted).mean() > 0.9


def test_the_same_seed_gives_the_same_towers(learnt: tuple[Log, Stage, Task, Fitted]) -> None:
    _, _, task, fitted = learnt
    again = fit(task, RECIPE, seed=1)
    np.testing.assert_array_equal(item_vectors(again.towers, task.items)[0], item_vectors(fitted.towers, task.items)[0])


@pytest.mark.parametrize("settings", [{}, {"frequency": STREAMING}], ids=["counts", "streaming"])
def test_a_run_that_was_killed_and_resumed_ends_as_if_it_had_not_been(
    learnt: tuple[Log, Stage, Task, Fitted], settings: dict[str, object], tmp_path: Path
) -> None:
    """Interrupted in the middle of its fourth epoch: the third's checkpoint is where it goes on."""
    _, _, task, _ = learnt
    recipe = replace(RECIPE, epochs=6, **settings)  # type: ignore[arg-type]
    whole = fit(task, recipe, seed=1)

    class Killed(Exception):
        pass

    class Killer(Watcher):
        def step(self, epoch: int, loss: float, temperature: float) -> None:
            if epoch == 3:
                raise Killed

    with pytest.raises(Killed):
        fit(task, recipe, seed=1, folder=tmp_path, watcher=Killer())
    torch.manual_seed(99)
    resumed = fit(task, recipe, seed=1, folder=tmp_path, resume=True)
    assert resumed.losses == whole.losses
    for name, parameter in whole.towers.state_dict().items():
        torch.testing.assert_close(resumed.towers.state_dict()[name], parameter, rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(learnt: tuple[Log, Stage, Task, Fitted], tmp_path: Path) -> None:
    _, _, task, _ = learnt
    recipe = replace(RECIPE, epochs=1)
    fit(task, recipe, seed=1, folder=tmp_path)
    with pytest.raises(Misconfigured, match=r"its seed is 1, this run's is 2"):
        fit(task, recipe, seed=2, folder=tmp_path, resume=True)


def test_a_warm_start_begins_where_the_other_ended(learnt: tuple[Log, Stage, Task, Fitted], tmp_path: Path) -> None:
    """New items are in the catalogue by then; they begin as their text stands, the others as they were."""
    log, _, _, fitted = learnt
    items = {**CATALOGUE, "new": Item("group2 novelty")}
    again = make_log(
        pl.concat([_as_frame(log), events_of([("u2", "new", 5, "purchase")]).with_columns(event_id=pl.lit("z"))]),
        list(items),
    )
    recipe = replace(RECIPE, epochs=1, learning_rate=1e-9)
    task, stage = task_of(again, recipe, items=items)
    save_towers(fitted.towers, RECIPE, task.features, tmp_path, newest_ms=7)
    start = load_towers(tmp_path)
    assert (start.newest_ms, start.recipe) == (7, RECIPE)
    warm = fit(task, recipe, seed=1, start=start.towers)
    old, new = item_vectors(start.towers, task.items)[0], item_vectors(warm.towers, task.items)[0]
    np.testing.assert_allclose(new, old, atol=1e-4)
    assert "new" in items
    with pytest.raises(Misconfigured, match="can not start from those"):
        fit(task, replace(recipe, user_tower=TRANSFORMER), seed=1, start=start.towers)
    assert len(stage.judge)


def _as_frame(log: Log) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"u{user:03}" for user in log.user],
            "item_id": [log.item_ids[item] for item in log.item],
            "type": ["purchase"] * len(log),
            "time_ms": log.time_ms,
            "event_id": [f"{n:06}" for n in range(len(log))],
        }
    )


def test_a_log_without_examples_is_refused_with_the_reason() -> None:
    log = make_log(events_of([("ann", "0-0", 6, "purchase")]), list(CATALOGUE))
    with pytest.raises(Misconfigured, match="no example to train on"):
        task_of(log)


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 19, 20])
def test_a_run_of_any_number_of_steps_has_a_schedule(epochs: int) -> None:
    """One basket is one step: the shortest runs that there can be."""
    log = make_log(events_of([("ann", "0-0", 0, "view"), ("ann", "0-1", 6, "view")]), list(CATALOGUE))
    task, _ = task_of(log)
    assert len(task.examples) == 1
    assert len(fit(task, replace(RECIPE, epochs=epochs), seed=1).losses) == epochs


def test_one_user_one_item_and_identical_items_still_train() -> None:
    """They can learn nothing, but nothing breaks: unit vectors come out."""
    items = {"a": Item("lamp"), "b": Item("lamp")}
    log = make_log(events_of([("ann", "a", day, "purchase") for day in range(7)]), list(items))
    task, stage = task_of(log, items=items)
    fitted = fit(task, replace(RECIPE, epochs=2), seed=1)
    vectors = item_vectors(fitted.towers, task.items)[1].astype(np.float16)
    users = user_vectors(fitted.towers, task, vectors, stage.judge)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, atol=1e-3)


def test_exported_towers_stand_beside_what_they_are(learnt: tuple[Log, Stage, Task, Fitted], tmp_path: Path) -> None:
    _, _, task, fitted = learnt
    test = {"two towers": {"recall@20_new": 0.5}}
    facts = {"seed": 1, "dataset": "shop", "metrics": {"test": test}}
    export_towers(fitted.towers, task.features, task.items, tmp_path, space=4, facts=facts)
    for tower in (ITEM_TOWER, USER_TOWER):
        folder = tmp_path / tower / "4"
        config = json.loads((folder / "config.json").read_text())
        assert config["space"] == 4
        assert features_of(config["features"]) == task.features
        assert config["features_digest"] == task.features.digest
        assert config["parity"]["least_cosine"] >= 0.9999
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx", "parity.npz"]
        told = (tmp_path / tower / "config.pbtxt").read_text()
        assert told.count('key: "features.4"') == 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        with np.load(folder / "parity.npz") as asked:
            inputs = {each.name: asked[f"in.{each.name}"] for each in session.get_inputs()}
            for each, answer in zip(session.get_outputs(), session.run(None, inputs), strict=True):
                np.testing.assert_allclose(answer, asked[f"out.{each.name}"], atol=1e-3)
    for found, verdict in ((0.505, "the same"), (0.6, "better"), (0.4, "worse")):
        now = {"dataset": "shop", "metrics": {"test": {"two towers": {"recall@20_new": found}}}}
        assert f": {verdict} (" in compare_with(tmp_path, now, space=4)
    assert "nothing to compare" in compare_with(tmp_path / "no", facts, space=4)
    assert "no towers of another" in compare_with(tmp_path, {**facts, "dataset": "another"}, space=4)


def test_versions_of_one_repository_share_their_tensors(
    learnt: tuple[Log, Stage, Task, Fitted], tmp_path: Path
) -> None:
    """Triton has one list of tensors for all versions of a model, so towers of another history length are refused."""
    log, _, task, fitted = learnt
    for space in (1, 2):
        export_towers(fitted.towers, task.features, task.items, tmp_path, space=space, facts={})
    text = (tmp_path / USER_TOWER / "config.pbtxt").read_text()
    assert 'key: "features.1"' in text
    assert 'key: "features.2"' in text
    recipe = replace(RECIPE, history_length=20, epochs=1)
    other, _ = task_of(log, recipe)
    short = fit(other, recipe, seed=1)
    with pytest.raises(Misconfigured, match="another repository"):
        export_towers(short.towers, other.features, other.items, tmp_path, space=3, facts={})


def test_the_processes_of_a_run_share_each_batch_without_rest_or_overlap() -> None:
    batch = np.random.default_rng(0).permutation(10)
    parts = [World(rank, 3).share(batch) for rank in range(3)]
    assert sorted(np.concatenate(parts)) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """torchrun with gloo on two CPU processes: a whole tiny `make train`, from a folder to exported towers."""
    folder = tmp_path / "shop"
    folder.mkdir()
    log = shopping(learnable=True)
    _as_frame(log).write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"item_id": list(CATALOGUE), "title": [item.title for item in CATALOGUE.values()]}).write_parquet(
        folder / "items.parquet"
    )
    (folder / "dataset.toml").write_text(
        '[interactions]\ntime = "time_ms"\ntime_unit = "ms"\n[split]\nkind = "time"\n'
        "validate_from = 2023-11-19\ntest_from = 2023-11-20\n"
        "[recipe]\nepochs = 4\nbatch_size = 64\nuniform_negatives = 40\nhalf_life_days = 0\n"
    )
    out = tmp_path / "out"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "training.train", "--data", str(folder), "--out", str(out), "--threads", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text())
    towers = summary["metrics"]["test"]["two towers"]
    assert towers["recall@20_all"] > summary["metrics"]["test"]["most popular"]["recall@20_all"] + 0.2
    assert (out / "model_repository" / USER_TOWER / "1" / "model.onnx").is_file()
