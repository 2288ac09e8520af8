"""Every rule and scenario of the log: the table that the topic ``rules`` is, kept while requests are served."""

import difflib
from collections.abc import Iterable

from nearline.errors import BadInput
from nearline.log import Record
from nearline.rules import SCENARIO_PREFIX, Rule, Scenario, decode
from nearline.telemetry import gauge
from services.retrieval.merchandising.effects import RuleSet, rule_set_of

_RULES = gauge("rules", "Merchandising rules that are known, whether their window is open or not")
_NEVER_MS = 1 << 62


class RuleTable:
    """Rules and scenarios by id; the rule set of a scenario is prepared once, and again when that changes."""

    def __init__(self, entries: Iterable[Rule | Scenario] = ()) -> None:
        self._rules: dict[str, Rule] = {}
        self._scenarios: dict[str, Scenario] = {}
        self._ready: dict[str | None, tuple[int, int, RuleSet]] = {}  # scenario -> from, until, rule set
        for entry in entries:
            self._put(entry)

    def __contains__(self, scenario: str) -> bool:
        """Whether there is a scenario of that name."""
        return scenario in self._scenarios

    def apply(self, record: Record) -> None:
        """Take in a record of ``rules``; a tombstone deletes.

        ``BadInput`` for one that is neither rule nor scenario; what stood under its key before is then gone, so that a
        reader of this build never goes on with what its owner has replaced.
        """
        self._ready.clear()
        if record.id.startswith(SCENARIO_PREFIX):
            self._scenarios.pop(record.id.removeprefix(SCENARIO_PREFIX), None)
        else:
            self._rules.pop(record.id, None)
        if record.value is not None:
            self._put(decode(record.id, record.value))
        _RULES.set(len(self._rules))

    def with_also(self, entries: Iterable[Rule | Scenario]) -> "RuleTable":
        """Another table that holds *entries* too, in the place of those with their ids; this one stays as it is."""
        return RuleTable([*self._rules.values(), *self._scenarios.values(), *entries])

    def rule_set(self, scenario: str | None, now_ms: int) -> RuleSet:
        """The rules that hold now in *scenario*, or in none; ``BadInput`` with near names if there is no such one."""
        ready = self._ready.get(scenario)
        if ready is None or not ready[0] <= now_ms < ready[1]:
            ready = self._ready[scenario] = self._make(scenario, now_ms)
        return ready[2]

    def _put(self, entry: Rule | Scenario) -> None:
        if isinstance(entry, Rule):
            self._rules[entry.rule_id] = entry
        else:
            self._scenarios[entry.name] = entry

    def _make(self, name: str | None, now_ms: int) -> tuple[int, int, RuleSet]:
        scenario = None if name is None else self._scenarios.get(name)
        if name is not None and scenario is None:
            raise self._unknown(name)
        meant = [rule for rule in self._rules.values() if _is_meant(rule, scenario)]
        edges = [edge for rule in meant for edge in (rule.from_ms, rule.until_ms) if edge is not None]
        since = max((edge for edge in edges if edge <= now_ms), default=0)
        until = min((edge for edge in edges if edge > now_ms), default=_NEVER_MS)
        holding = sorted((rule for rule in meant if rule.holds_at(now_ms)), key=lambda rule: rule.rule_id)
        return since, until, rule_set_of(holding, scenario)

    def _unknown(self, name: str) -> BadInput:
        near = difflib.get_close_matches(name, self._scenarios, n=3, cutoff=0.5)
        guess = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "`nearline rules list` shows those there are"
        )
        return BadInput("unknown_scenario", f"there is no scenario {name!r:.80}; {guess}", field="scenario")


def _is_meant(rule: Rule, scenario: Scenario | None) -> bool:
    """Whether *rule* is about answers in *scenario*: it is about all answers, its own ones, or is listed there."""
    if rule.scenario is None:
        return True
    return scenario is not None and (rule.scenario == scenario.name or rule.rule_id in scenario.rules)
