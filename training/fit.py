"""The training loop: trains towers epoch by epoch, with a checkpoint after each."""

import math
import os
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nearline.errors import Misconfigured
from training.cold_items import raise_cold_items
from training.data.examples import Batch, Packed, in_batches, make_batch, make_packed, make_windows, seen_pairs
from training.evaluation.evaluate import headline
from training.frequency import StreamingFrequency
from training.loss import (
    basket_loss,
    basket_weights,
    inclusion,
    is_unwanted,
    kind_weights,
    next_loss,
    or_uniform,
    recency,
)
from training.recipe import BF16, FULL, STREAMING, Recipe
from training.task import Task, new_towers, warm
from training.towers import TwoTowers
from training.vectors import tower_scorer

CHECKPOINT = "checkpoint.pt"
WATCHED_K = 10
MOST_WATCHED = 6_000  # users for judging an epoch


@dataclass(frozen=True)
class World:
    """This process's rank, the number of processes, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of a *batch* that all processes drew alike; every example is in one part."""
        return batch[self.rank :: self.size]


@dataclass(frozen=True)
class Fitted:
    """Trained towers, in evaluation mode, and what the training cost."""

    towers: TwoTowers
    losses: list[float]  # mean of each epoch
    temperature: float
    epochs: int
    examples: int
    seconds: float
    peak_mib: float
    watched: list[dict[str, float]] = field(default_factory=list)  # recall and NDCG of each epoch, if any was watched
    best_epoch: int = 0  # the epoch of these towers, counted from 1; 0: the last one, since nothing was watched
    cold_level: float = 0.0  # length of the vector added to cold items' own part (training/cold_items.py)

    def cost(self) -> dict[str, float]:
        """What the training cost, for the model card."""
        rate = self.examples * self.epochs / self.seconds if self.seconds else 0.0
        return {"seconds": round(self.seconds, 1), "examples_per_s": round(rate, 1), "peak_mib": round(self.peak_mib)}


class Watcher:
    """Receives the progress of a run; this one does nothing (see training/progress.py)."""

    def step(self, epoch: int, loss: float, temperature: float) -> None:
        """Called after each batch."""

    def epoch(self, epoch: int, loss: float, temperature: float) -> None:
        """Called after each epoch with its mean loss."""

    def judged(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Called with the towers' figures on the watched baskets after that epoch."""


def fit(
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    folder: Path | None = None,
    resume: bool = False,
    start: TwoTowers | None = None,
    world: World | None = None,
    watcher: Watcher | None = None,
) -> Fitted:
    """Train a pair of towers on *task*; the same arguments give the same pair, up to the order of sums.

    With *folder* a checkpoint is written there after each epoch; with *resume* the run continues from it and ends as if
    it had never stopped. With *start* the weights begin as those towers' (a warm start). If the recipe has patience and
    the task has baskets to watch, the result is the best epoch's towers. ``Misconfigured`` if the checkpoint has
    another recipe, seed or data.
    """
    run = _Run(task, recipe, seed=seed, start=start, world=world or World())
    checkpoint = None if folder is None else folder / CHECKPOINT
    if resume and checkpoint is not None and checkpoint.is_file():
        run.restore(torch.load(checkpoint, map_location=run.world.device, weights_only=True))
    watcher = watcher or Watcher()
    began = time.monotonic()
    while run.epoch < recipe.epochs and not run.out_of_patience():
        run.one_epoch(watcher)
        run.watch(watcher)
        if checkpoint is not None and run.world.rank == 0:
            _save(run.state(), checkpoint)
    return run.fitted(run.seconds_before + time.monotonic() - began)


class _Run:
    """The state of one fit: towers, optimizer, schedule, random numbers and progress."""

    def __init__(self, task: Task, recipe: Recipe, *, seed: int, start: TwoTowers | None, world: World) -> None:
        self.task, self.recipe, self.seed, self.world = task, recipe, seed, world
        towers = new_towers(task, recipe, seed=seed)
        if start is not None:
            warm(towers, start, task.items)
        self.towers = towers.to(world.device)
        self.items = tuple(part.to(world.device) for part in task.items)
        self.contexts = task.contexts.to(world.device)
        counts = task.counts()
        self.known = np.flatnonzero(counts)  # items without events are no negatives: they are new, not unwanted
        self.counts = torch.from_numpy(counts)
        self.frequency = StreamingFrequency() if recipe.frequency == STREAMING else None
        if world.size > 1 and (recipe.packed or recipe.patience):
            raise Misconfigured(
                "packed sequences and patience are for one process: leave torchrun out, or set packed=false, patience=0"
            )
        self.batch_size = min(recipe.batch_size, len(task.examples))
        self.steps = len(task.examples) // self.batch_size
        self.optimizer = _optimizer(self.towers, recipe)
        total = recipe.epochs * self.steps + 1
        # A tenth of the steps to warm up, and two of them at least: with one the schedule divides by zero.
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=total, pct_start=max(0.1, min(1.0, 2 / total))
        )
        # All processes share the order of examples, but not the random numbers within an example.
        self.order = np.random.default_rng(seed)
        self.random = np.random.default_rng([seed, world.rank])
        if world.size > 1:
            torch.manual_seed(seed + 1000 * world.rank)
        self.newest_ms = int(np.asarray(task.log.time_ms)[task.examples.start].max())
        self.kind_weights = kind_weights(recipe.type_weights, negative_weight=recipe.negative_weight)
        self.model: nn.Module = self.towers
        if world.size > 1:
            self.model = nn.parallel.DistributedDataParallel(self.towers, find_unused_parameters=True)
        self.epoch = 0
        self.losses: list[float] = []
        self.watched: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.seconds_before = 0.0
        self._began = time.monotonic()

    def one_epoch(self, watcher: Watcher) -> None:
        """Train on every example once, in random order, in full batches; the remainder is left for the next epoch."""
        self.towers.train()
        losses = []
        for batch in self._batches():
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.recipe.precision == BF16):
                loss = self.loss(batch)
            if not math.isfinite(loss.item()):
                raise Misconfigured(
                    f"the loss became {loss.item()} in epoch {self.epoch + 1}: try a lower learning_rate "
                    f"({self.recipe.learning_rate} now) or a higher temperature ({self.recipe.temperature} now)"
                )
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
            watcher.step(self.epoch, losses[-1], self.temperature)
        self.losses.append(float(np.mean(losses)))
        self.epoch += 1
        watcher.epoch(self.epoch, self.losses[-1], self.temperature)

    @property
    def temperature(self) -> float:
        return float(self.towers.log_temperature.detach().exp())

    def watch(self, watcher: Watcher) -> None:
        """Judge the towers after an epoch, and keep them if they are the best so far."""
        asked = self.task.watched
        if not self.recipe.patience or asked is None:
            return
        drawn = np.random.default_rng(0).permutation(len(asked))[:MOST_WATCHED]
        judged = asked.take(np.sort(drawn))
        towers = self.towers.cpu()
        self.watched.append(headline(tower_scorer(towers, self.task), self.task.log, judged, WATCHED_K))
        self.towers.to(self.world.device)
        watcher.judged(self.epoch, self.watched[-1])
        if self._best_epoch() == self.epoch:
            self.best = {name: value.detach().cpu().clone() for name, value in self.towers.state_dict().items()}

    def _best_epoch(self) -> int:
        ndcg = [figures[f"ndcg@{WATCHED_K}"] for figures in self.watched]
        return int(np.argmax(ndcg)) + 1 if ndcg else 0

    def out_of_patience(self) -> bool:
        """Whether there were too many epochs without a better one."""
        return bool(self.watched) and self.epoch - self._best_epoch() >= self.recipe.patience

    def _batches(self) -> Iterator[Batch | Packed]:
        if self.recipe.packed:
            windows = make_windows(self.task.examples, length=self.recipe.history_length, random=self.order)
            for batch in in_batches(windows, self.steps, self.order):
                if len(batch):
                    yield make_packed(self.task.log, self.task.examples, batch)
            return
        order = self.order.permutation(len(self.task.examples))
        for step in range(self.steps):
            chosen = self.world.share(order[step * self.batch_size : (step + 1) * self.batch_size])
            yield make_batch(
                self.task.log,
                self.task.examples.take(chosen),
                length=self.recipe.history_length,
                random=self.random,
                shorten=self.recipe.shorten,
                lose=self.recipe.lose,
            )

    def loss(self, batch: Batch | Packed) -> Tensor:
        """The loss of one batch: encode every item that it touches once, then the users from those vectors."""
        candidates, log_inclusion = self._candidates(batch)
        touched = np.union1d(candidates, batch.items[batch.items >= 0])
        place = np.searchsorted(touched, np.maximum(batch.items, 0)).clip(max=len(touched) - 1)
        rows = self._at(touched)
        context = self.contexts[self._at(batch.context)]
        asked = (self._at(batch.asked),) if isinstance(batch, Packed) else ()
        users, vectors, temperature = self.model(
            tuple(part[rows] for part in self.items),
            self._at(place),
            self._at(batch.ages),
            self._at(batch.types),
            context,
            *asked,
        )
        row, kind = torch.from_numpy(batch.target_row), torch.from_numpy(batch.target_kind)
        fresh = recency(
            torch.from_numpy(batch.time_ms), newest_ms=self.newest_ms, half_life_days=self.recipe.half_life_days
        )
        fresh = torch.where(torch.from_numpy(batch.shown), fresh, fresh * self.recipe.first_weight)
        weight = basket_weights(
            row,
            torch.from_numpy(batch.target_new),
            kind,
            fresh,
            self.kind_weights,
            repeat_weight=self.recipe.repeat_weight,
        )
        unwanted = is_unwanted(kind)
        scored = vectors[self._at(np.searchsorted(touched, candidates))]
        target = self._at(np.searchsorted(candidates, batch.target_item))
        how: dict[str, Any] = {
            "log_inclusion": log_inclusion,
            "correction": self.recipe.correction,
            "seen": None if self.recipe.seen_rivals else self._seen(batch, candidates),
            "smoothing": self.recipe.label_smoothing,
        }
        if isinstance(batch, Packed) and len(row) == len(users) and not bool(unwanted.any()):
            return next_loss(users, scored, target, weight.to(users.device), temperature, **how)
        return basket_loss(
            users,
            scored,
            row.to(users.device),
            target,
            weight.to(users.device),
            temperature,
            unwanted=unwanted.to(users.device) if bool(unwanted.any()) else None,
            **how,
        )

    def _seen(self, batch: Batch | Packed, candidates: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Rows and columns of items that each example's user had before: never answered, so no rivals."""
        row, item = seen_pairs(self.task.log, batch.chosen)
        column = np.searchsorted(candidates, item).clip(max=len(candidates) - 1)
        there = candidates[column] == item
        return self._at(row[there]), self._at(column[there])

    def _candidates(self, batch: Batch | Packed) -> tuple[NDArray[np.int64], Tensor | None]:
        """The items that are scored, in order, and the logarithm of each one's inclusion."""
        items, uniform = len(self.known), self.recipe.uniform_negatives
        if self.recipe.softmax == FULL:
            return self.known, None
        candidates = np.union1d(batch.target_item, self.known[self.random.integers(0, items, uniform)])
        if self.frequency is None:
            chance = inclusion(self.counts, draws=len(batch.target_item), items=items, uniform=uniform)
            chance = chance[torch.from_numpy(candidates)]
        else:
            self.frequency.seen(batch.target_item)
            own = torch.from_numpy(self.frequency.inclusion(candidates))
            chance = or_uniform(own, items=items, uniform=uniform)
        return candidates, chance.log().to(self.world.device)

    def _at(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.world.device)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end like an uninterrupted one."""
        return {
            **self._identity(),
            "epoch": self.epoch,
            "losses": list(self.losses),
            "watched": [dict(figures) for figures in self.watched],
            "best": self.best,
            "seconds": self.seconds_before + time.monotonic() - self._began,
            "towers": self.towers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "torch_random": torch.get_rng_state(),
            "order": _random_state(self.order),
            "random": _random_state(self.random),
            "frequency": None
            if self.frequency is None
            else {name: torch.as_tensor(value) for name, value in self.frequency.state().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from *state*; ``Misconfigured`` if it is of another run."""
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise Misconfigured(
                    f"the checkpoint is of another run: its {name} is {state[name]!r:.300}, "
                    f"this run's is {mine!r:.300}; leave --resume out to begin anew"
                )
        self.towers.load_state_dict(state["towers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["torch_random"].cpu())
        self.order.bit_generator.state = _as_random_state(state["order"])
        self.random.bit_generator.state = _as_random_state(state["random"])
        if self.frequency is not None:
            self.frequency.restore({name: value.numpy() for name, value in state["frequency"].items()})
        self.epoch, self.losses = int(state["epoch"]), list(state["losses"])
        self.watched, self.best = [dict(figures) for figures in state["watched"]], dict(state["best"])
        self.seconds_before = float(state["seconds"])
        self._began = time.monotonic()

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_plain(),
            "seed": self.seed,
            "data": self.task.data_digest,
            "features": self.task.features.digest,
            "processes": self.world.size,
        }

    def fitted(self, seconds: float) -> Fitted:
        """The result of the run."""
        if self.best:
            self.towers.load_state_dict(self.best)
        towers = self.towers.cpu().eval()
        return Fitted(
            towers=towers,
            losses=self.losses,
            temperature=self.temperature,
            epochs=self.epoch,
            examples=self.steps * self.batch_size,
            seconds=seconds,
            peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            watched=self.watched,
            best_epoch=self._best_epoch(),
            cold_level=raise_cold_items(towers, self.task, self.recipe.cold_parity),
        )


def _optimizer(towers: TwoTowers, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; parameters with one number per type, place or dimension do not decay: rare ones would vanish."""
    learnt = [parameter for parameter in towers.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _random_state(random: np.random.Generator) -> dict[str, Any]:
    """The generator's state with its large integers as texts, which a checkpoint can hold."""
    state = dict(random.bit_generator.state)
    return state | {"state": {name: str(value) for name, value in state["state"].items()}}


def _as_random_state(state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(state) | {"state": {name: int(value) for name, value in state["state"].items()}}


def _save(state: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    torch.save(dict(state), new)
    os.replace(new, path)
