"""One self-contained HTML page that shows what a build made."""

from collegium.recipes.report.charts import (
    bar_chart,
    cost_chart,
    expert_colours,
    heat_map,
    learning_curves,
    line_chart,
    share_map,
)
from collegium.recipes.report.page import ColouredText, Report, number_text, render

__all__ = [
    "ColouredText",
    "Report",
    "bar_chart",
    "cost_chart",
    "expert_colours",
    "heat_map",
    "learning_curves",
    "line_chart",
    "number_text",
    "render",
    "share_map",
]
