"""Generate the Grafana dashboards in `dashboards/` from the panels in `panels.yml`.

python deploy/grafana/make_dashboards.py            write the files
python deploy/grafana/make_dashboards.py --check    exit 1 if a file is stale
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, DataSourceRef, VariableHide

HERE = Path(__file__).parent
_PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
_SHARES = (0.5, 0.95, 0.99)
_HALF_WIDTH = 12

Spec = dict[str, Any]


def queries_of(panel: Spec) -> dict[str, str]:
    """Return a panel's queries by legend."""
    if "percentiles" not in panel:
        return dict(panel["queries"])
    asked = panel["percentiles"]
    by, where = asked["by"], asked.get("where", "")
    buckets = f"sum by (le, {by}) (rate({asked['of']}_bucket{where}[$__rate_interval]))"
    return {f"{{{{{by}}}}} p{share * 100:g}": f"histogram_quantile({share}, {buckets})" for share in _SHARES}


def _number() -> stat.Panel:
    built = stat.Panel().graph_mode(BigValueGraphMode.AREA).height(5)
    return built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def _chart(panel: Spec) -> timeseries.Panel:
    built = timeseries.Panel().min(0).fill_opacity(12).height(8)
    if panel.get("stacked"):
        built.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return built


def _panel(panel: Spec) -> stat.Panel | timeseries.Panel:
    built = _number() if panel.get("number") else _chart(panel)
    built.title(panel["title"]).description(panel["description"]).unit(panel["unit"])
    built.span(panel.get("span", _HALF_WIDTH)).datasource(_PROMETHEUS)
    for place, (legend, expression) in enumerate(queries_of(panel).items()):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + place))
        built.with_target(query)
    return built


def _page(name: str, spec: Spec, titles: dict[str, str]) -> dashboard.Dashboard:
    page = dashboard.Dashboard(spec["title"]).uid(f"kurir-{name}").description(spec["description"]).tags(["kurir"])
    page.refresh("10s").time("now-1h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    for other, title in titles.items():
        if other != name:
            link = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(f"/d/kurir-{other}")
            page.link(link.keep_time(True))
    if name == "channel":
        page.with_variable(_channel_choice())
    for row in spec["rows"]:
        page.with_row(dashboard.Row(row["title"]))
        for panel in row["panels"]:
            page.with_panel(_panel(panel))
    return page


def _channel_choice() -> dashboard.QueryVariable:
    choice = dashboard.QueryVariable("channel").label("Channel").hide(VariableHide.DONT_HIDE)
    return choice.datasource(_PROMETHEUS).query("label_values(kurir_queue_active, channel)")


def pages() -> dict[Path, str]:
    """Return each dashboard's JSON by file."""
    specs: dict[str, Spec] = yaml.safe_load((HERE / "panels.yml").read_text(encoding="utf-8"))
    titles = {name: spec["title"] for name, spec in specs.items()}
    return {
        HERE / "dashboards" / f"{name}.json": JSONEncoder(sort_keys=True, indent=2).encode(
            _page(name, spec, titles).build()
        )
        + "\n"
        for name, spec in specs.items()
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with --check compare them; return the exit code."""
    stale = {path: text for path, text in pages().items() if not _is_written(path, text)}
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path.name} is stale: run deploy/grafana/make_dashboards.py\n")
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


def _is_written(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
