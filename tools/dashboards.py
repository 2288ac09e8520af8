"""Writes deploy/grafana/dashboards/*.json from tools/panels.py, with Grafana's own builders.

    .venv/services/bin/python -m tools.dashboards          # writes them (make docs)

The JSON is committed, since Grafana reads it; a test compares it with this tool's output.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef

from tools.panels import BOARDS, Board, Panel, PanelRow

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_WIDTH, _HEIGHT = 8, 8
_FIGURE_WIDTH, _FIGURE_HEIGHT = 3, 4  # eight per row
_TAG = "nearline"


def built(board: Board) -> str:
    """The content of the dashboard's file."""
    builder = dashboard.Dashboard(board.title).uid(board.uid).description(board.about).tags([_TAG])
    builder = builder.readonly().refresh("5s").time("now-15m", "now").timezone("browser").link(_others())
    for row in board.rows:
        builder = _with_row(builder, row)
    return json.dumps(builder.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _others() -> dashboard.DashboardLink:
    """A link to the other dashboards that keeps the time range."""
    link = dashboard.DashboardLink("Nearline").type(DashboardLinkType.DASHBOARDS).tags([_TAG])
    return link.as_dropdown(True).keep_time(True)


def _with_row(builder: dashboard.Dashboard, row: PanelRow) -> dashboard.Dashboard:
    builder = builder.with_row(dashboard.Row(row.title))
    for panel in row.panels:
        builder = builder.with_panel(_figure(panel) if panel.is_figure else _graph(panel))
    return builder


def _graph(panel: Panel) -> timeseries.Panel:
    shown = timeseries.Panel().title(panel.title).description(panel.about).datasource(SOURCE)
    shown = shown.unit(panel.unit).min(0).span(_WIDTH).height(_HEIGHT)
    for query in _targets(panel):
        shown = shown.with_target(query)
    return shown


def _figure(panel: Panel) -> stat.Panel:
    shown = stat.Panel().title(panel.title).description(panel.about).datasource(SOURCE)
    shown = shown.unit(panel.unit).span(_FIGURE_WIDTH).height(_FIGURE_HEIGHT)
    for query in _targets(panel):
        shown = shown.with_target(query)
    return shown


def _targets(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + place))
        for place, (expr, legend) in enumerate(panel.queries)
    ]


def write(folder: Path = FOLDER) -> None:
    """Write every dashboard and delete all others."""
    wanted = {f"{board.uid}.json": built(board) for board in BOARDS}
    for old in folder.glob("*.json"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
    print(f"wrote {len(BOARDS)} dashboards into {FOLDER.relative_to(FOLDER.parents[2])}")
