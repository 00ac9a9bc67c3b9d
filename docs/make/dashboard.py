"""The dashboard for Grafana: rows of panels, each with its queries. Pure."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

#: Grafana's grid has 24 columns; three panels a row.
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_OF_ONE: Final = 'instance=~"$instance"'
_QUANTILE: Final = "histogram_quantile({}, sum by (le) (rate(imgstored_import_seconds_bucket{{{{}}}}[1h])))"


class Panel(NamedTuple):
    """A panel. `queries` are PromQL with the legend of each; `{}` in them becomes the chosen instances."""

    title: str
    unit: str  #: one of Grafana's
    queries: tuple[tuple[str, str], ...]
    stat: bool = False  #: the last value, and not a graph


PANELS: Final = (
    Panel("Up", "bool_on_off", (('up{job="imgstored", {}}', "{{instance}}"),), stat=True),
    Panel("Version", "none", (("imgstored_build_info{{}}", "{{instance}}: {{version}}"),), stat=True),
    Panel("Installed images", "none", (("sum by (instance, pool) (imgstored_images{{}})", "{{pool}}"),)),
    Panel(
        "Imports under way",
        "none",
        (("sum by (phase) (imgstored_imports_under_way{{}})", "{{phase}}"),),
    ),
    Panel(
        "Imports that ended, per hour",
        "none",
        (("sum by (outcome) (increase(imgstored_imports_total{{}}[1h]))", "{{outcome}}"),),
    ),
    Panel(
        "Failures, per hour, by error",
        "none",
        (("sum by (code) (increase(imgstored_import_failures_total{{}}[1h]))", "{{code}}"),),
    ),
    Panel(
        "Duration of imports",
        "s",
        (
            (_QUANTILE.format(0.5), "half"),
            (_QUANTILE.format(0.95), "95 %"),
        ),
    ),
    Panel(
        "Where the time of imports goes",
        "s",
        (("sum by (stage) (rate(imgstored_import_stage_seconds_sum{{}}[1h]))", "{{stage}}"),),
    ),
    Panel("What limits imports", "none", (("sum by (stage) (imgstored_imports_limited{{}})", "{{stage}}"),)),
    Panel(
        "Download",
        "binBps",
        (("sum by (instance) (imgstored_download_bytes_per_second{{}})", "{{instance}}"),),
    ),
    Panel(
        "Downloaded, by source",
        "binBps",
        (("sum by (source) (rate(imgstored_source_bytes_total{{}}[5m]))", "{{source}}"),),
    ),
    Panel(
        "Not downloaded",
        "none",
        (
            ("sum by (kind) (increase(imgstored_cache_hits_total{{}}[1h]))", "{{kind}}"),
            ("sum (increase(imgstored_resumed_bytes_total{{}}[1h])) / 2^20", "resumed MiB"),
        ),
    ),
    Panel(
        "Free space of pools",
        "percentunit",
        (
            (
                "imgstored_pool_available_bytes{{}} / imgstored_pool_size_bytes{{}}",
                "{{instance}} {{pool}}",
            ),
        ),
    ),
    Panel("Pools that answer", "bool_on_off", (("imgstored_pool_up{{}}", "{{instance}} {{pool}}"),)),
    Panel("Sources that answer", "bool_on_off", (("imgstored_source_up{{}}", "{{instance}} {{source}}"),)),
    Panel(
        "Requests, by method",
        "reqps",
        (("sum by (method) (rate(imgstored_rpc_request_seconds_count{{}}[5m]))", "{{method}}"),),
    ),
    Panel(
        "Time of simple requests",
        "s",
        (
            (
                "histogram_quantile(0.99, sum by (le) (rate(imgstored_rpc_request_seconds_bucket{method=~"
                '"list|get|jobs|status", {}}[5m])))',
                "99 %",
            ),
        ),
    ),
    Panel(
        "Memory, files and clients",
        "short",
        (
            ('process_resident_memory_bytes{job="imgstored", {}} / 2^20', "MiB {{instance}}"),
            ('process_open_fds{job="imgstored", {}}', "files {{instance}}"),
            ("imgstored_clients{{}}", "clients {{instance}}"),
        ),
    ),
)


def dashboard() -> str:
    """The JSON that Grafana imports; it asks for the Prometheus to read from."""
    document = {
        "title": "imgstored",
        "uid": "imgstored",
        "tags": ["imgstored"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "__inputs": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}
        ],
        "templating": {"list": [_instances()]},
        "panels": [_panel(place, panel) for place, panel in enumerate(PANELS)],
    }
    return json.dumps(document, indent=2) + "\n"


def queries() -> list[str]:
    """All queries, of every instance."""
    return [_chosen(query).replace("$instance", ".*") for panel in PANELS for query, _ in panel.queries]


def _chosen(query: str) -> str:
    return query.replace("{{}}", f"{{{_OF_ONE}}}").replace("{}", _OF_ONE)


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Host",
        "type": "query",
        "datasource": _source(),
        "query": {"query": "label_values(imgstored_build_info, instance)", "refId": "instance"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(place, _COLUMNS)
    kind = "stat" if panel.stat else "timeseries"
    options = {"textMode": "name" if panel.title == "Version" else "auto"} if panel.stat else {}
    return {
        "id": place + 1,
        "type": kind,
        "title": panel.title,
        "datasource": _source(),
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _source(),
                "expr": _chosen(query),
                "legendFormat": legend,
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
