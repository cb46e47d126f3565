"""What `GET /metrics` says: docs/metrics.md is made here."""

import typer

from syncworker.cli import frame, show
from syncworker.ops.metrics import METRICS, page

app = typer.Typer(help="What metrics there are.", no_args_is_help=True)


@app.callback()
def metrics() -> None:
    """What metrics there are; their values are at `GET /metrics` of the web process."""


@app.command("list")
def list_(as_json: frame.AsJson = False) -> None:
    """Every metric with its type, labels and meaning: docs/metrics.md, or JSON."""
    if not as_json:
        show.text(page())
        return
    show.value(
        {
            "metrics": [
                {
                    "about": about,
                    "name": one.name,
                    "type": one.type.value,
                    "labels": one.labels,
                    "series": one.series,
                    "means": one.means,
                }
                for about, those in METRICS.items()
                for one in those
            ]
        }
    )
