"""Writes the model card of a pair of towers: what it is, its evaluation and its cost, from the run itself."""

from collections.abc import Mapping
from typing import Any

SETTINGS = ("new", "all")
METRICS = (("recall", "recall"), ("ndcg", "NDCG"))


def card(facts: Mapping[str, Any], *, space: int) -> str:
    """The card as Markdown, from the facts in each tower's ``config.json``."""
    return "\n".join(
        [
            f"# Towers of space {space}",
            "",
            f"{facts['summary']}",
            "",
            "Written by `make train`; what the parts mean is in docs/model.md.",
            "",
            "## Data and split",
            "",
            *(f"- {line}" for line in facts["data"]["report"]),
            f"- digest of the data: `{facts['data']['digest']}`",
            f"- fitted on {facts['fitted_events']:,} events in {facts['examples']:,} examples; {facts['split']}",
            "",
            "## Figures",
            "",
            *_tables(facts["metrics"]),
            "## Training",
            "",
            f"- seed {facts['seed']}, last loss {facts['losses'][-1]:.4f}, temperature {facts['temperature']:.4f}",
            *(f"- {name.replace('_', ' ')}: {value:,}" for name, value in facts["cost"].items()),
            f"- machine: {facts['machine']}, {facts['threads']} threads",
            "",
            "| setting | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts["recipe"].items()),
            "",
            "## Limits",
            "",
            *(f"- {line}" for line in facts["limits"]),
            "",
        ]
    )


def _tables(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for stage, models in stages.items():
        first = next(iter(models.values()))
        settings = [name for name in SETTINGS if f"users_{name}" in first]
        users = ", ".join(f"{name} items: {first[f'users_{name}']:,} users" for name in settings)
        names = [
            (f"{label}@{first['k']} {name}", f"{key}@{first['k']}_{name}")
            for name in settings
            for key, label in METRICS
        ]
        lines += [f"**{stage}** ({users}; brackets: 95 % over users)", ""]
        lines += ["| model | " + " | ".join(label for label, _ in names) + " |", "|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {model} | " + " | ".join(_cell(report, key) for _, key in names) + " |"
            for model, report in models.items()
        ]
        lines.append("")
    return lines


def _cell(report: Mapping[str, Any], key: str) -> str:
    low, high = report["intervals"][key]
    return f"{report[key]:.4f} [{low:.4f}, {high:.4f}]"
