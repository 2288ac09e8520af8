"""All rules and scenarios: the topic ``rules`` as a table in memory."""

import difflib
from collections.abc import Iterable

from nearline.errors import BadInput
from nearline.log import Record
from nearline.rules import SCENARIO_PREFIX, Rule, Scenario, decode
from nearline.telemetry import gauge
from services.retrieval.merchandising.effects import RuleSet, rule_set_of

_RULES = gauge("rules", "Merchandising rules, whether their window is open or not")
_NEVER_MS = 1 << 62


class RuleTable:
    """Rules and scenarios by id; rule sets are cached until a rule changes or a window begins or ends."""

    def __init__(self, entries: Iterable[Rule | Scenario] = ()) -> None:
        self._rules: dict[str, Rule] = {}
        self._scenarios: dict[str, Scenario] = {}
        self._ready: dict[str | None, tuple[int, int, RuleSet]] = {}  # scenario -> from, until, rule set
        for entry in entries:
            self._put(entry)

    def __contains__(self, scenario: str) -> bool:
        """Whether a scenario of that name exists."""
        return scenario in self._scenarios

    def apply(self, record: Record) -> None:
        """Apply a record of ``rules``; a tombstone deletes.

        ``BadInput`` if the record is neither a rule nor a scenario; the earlier entry with its key is then removed too,
        so that a build that cannot read the new entry does not continue with the old one.
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
        """A new table with *entries* added, where they replace those with the same ids; this one does not change."""
        return RuleTable([*self._rules.values(), *self._scenarios.values(), *entries])

    def rule_set(self, scenario: str | None, now_ms: int) -> RuleSet:
        """The active rules of *scenario*, or of no scenario; ``BadInput`` with similar names for an unknown one."""
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
    """Whether *rule* applies in *scenario*: it applies to all answers, names the scenario, or is listed by it."""
    if rule.scenario is None:
        return True
    return scenario is not None and (rule.scenario == scenario.name or rule.rule_id in scenario.rules)
