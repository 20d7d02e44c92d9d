"""Which runs may stand in one table, and what a reader must know of those that do."""

from collections.abc import Sequence
from itertools import combinations

from rlff_lightning.commands.study_cell import Cell
from rlff_lightning.commands.study_file import Study
from rlff_lightning.errors import UserError


def check_terms(cells: Sequence[Cell]) -> None:
    """Refuse figures that were measured differently.

    Raises:
        UserError: If judges or protocols differ.
    """
    first = cells[0]
    for cell in cells[1:]:
        for term, value in first.terms.items():
            if cell.terms[term] != value:
                raise UserError(
                    f"runs of a study must have one {term}, got {value or 'none'} in "
                    f"{_name(first)} and {cell.terms[term] or 'none'} in {_name(cell)}; "
                    "run one of them again"
                )


def mixed_notes(study: Study, cells: Sequence[Cell]) -> list[str]:
    """Tell of versions and configs that differ between runs though no arm asks for it."""
    made = [marker for cell in cells for marker in cell.markers.values() if marker]
    versions = sorted({str(marker.get("version")) for marker in made})
    notes = []
    if len(versions) > 1:
        notes.append(f"**Made by several versions of the package: {', '.join(versions)}.**")
    if stages := [name for stage in study.stages if _is_mixed(name := stage.name, study, cells)]:
        notes.append(
            f"**Under one seed arms that do not change {', '.join(stages)} have other configs or "
            "inputs of it: they were run at different times, or with different options.**"
        )
    return notes


def _is_mixed(stage: str, study: Study, cells: Sequence[Cell]) -> bool:
    changing = {
        arm.name for arm in study.arms if any(c.startswith(f"{stage}.") for c in arm.changes)
    }
    own = [cell for cell in cells if cell.arm not in changing and cell.markers.get(stage)]
    for one, other in combinations(own, 2):
        first, second = one.markers[stage], other.markers[stage]
        # Of stages that read different outputs fingerprints differ anyway.
        is_alike = one.seed == other.seed and first.get("reads") == second.get("reads")
        if is_alike and first.get("fingerprint") != second.get("fingerprint"):
            return True
    return False


def _name(cell: Cell) -> str:
    return f"{cell.arm}/seed-{cell.seed}"
