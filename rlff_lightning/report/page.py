"""The page: charts, tables and the reader's data in one file that asks for nothing from outside."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from rlff_lightning import __version__
from rlff_lightning.report import figures
from rlff_lightning.report.goal_tables import (
    goal_summary,
    goal_table,
    held_out_table,
    outcome_shares,
)
from rlff_lightning.report.items import read_items
from rlff_lightning.report.reply_tables import judged_tables, quality_tables
from rlff_lightning.report.reward_table import reward_table
from rlff_lightning.report.run_folder import RunFolder
from rlff_lightning.report.study_tables import (
    study_agreement_table,
    study_held_out_table,
    study_table,
)


def render(run: RunFolder, *, max_items: int) -> str:
    """Write a run's report as HTML.

    Everything that stages wrote is escaped, and no script but the page's own may run.

    Args:
        run: The run.
        max_items: Most items of one kind from one policy or stage that can be read.
    """
    environment = Environment(
        loader=PackageLoader("rlff_lightning.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Keys keep their order; what could end a script is written as \u003c by the filter itself.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    summary = goal_summary(run)
    items = read_items(run, max_items=max_items)
    first_curves, more_curves = figures.learning_curves(run)
    script = _own("report.js")
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("report.html").render(
        run=run,
        version=__version__,
        style=_own("report.css"),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
        studied=study_table(run),
        goal=goal_table(summary),
        held_out=study_held_out_table(run) or held_out_table(summary),
        agreement=study_agreement_table(run),
        by_turn=figures.success_by_turn(summary.get("policies") or {}),
        fare=figures.value_by_turn(summary.get("policies") or {}),
        outcomes=outcome_shares(summary),
        first_curves=first_curves,
        more_curves=more_curves,
        reward=reward_table(run),
        reliability=figures.reliability(run),
        by_length=figures.reward_by_length(items),
        quality=[*quality_tables(run), *judged_tables(run)],
        items=items,
        max_items=max_items,
    )


def _own(name: str) -> str:
    return (files("rlff_lightning.report") / "page" / name).read_text(encoding="utf-8")
