"""One line that says how a simulation is getting on, and a summary at its end."""

import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from rlff_lightning.agents.counts import Counts
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.tally import Tally, read_tally, write_tally

_LOGS = [logging.getLogger(name) for name in ("rlff_lightning", "callbacks")]

_REFRESH_S = 1.0
"""Least time between two looks at the counts."""


class SimulationProgress(ProgressBar):
    """Show contexts, turns, tokens, retries, unparsed answers and the time left, of all processes.

    Args:
        every_s: Seconds between two lines where the output is no terminal; a terminal's line is
            renewed every second.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        super().__init__()
        if every_s <= 0:
            raise UserError(f"SimulationProgress.every_s must be above 0, got {every_s!r}")
        self.every_s = every_s
        self._is_enabled = True
        self._begun = self._looked = self._shown = 0.0
        self._has_begun = False
        self._is_line_open = False
        self._news = _AboveLine()

    @override
    def disable(self) -> None:
        self._is_enabled = False

    @override
    def enable(self) -> None:
        self._is_enabled = True

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _simulation(pl_module)
        self._begun = self._looked = self._shown = time.monotonic()
        if trainer.is_global_zero:
            shutil.rmtree(_folder(trainer), ignore_errors=True)
        self._has_begun = True
        trainer.strategy.barrier("simulation_progress")
        module.seeker.on_turn = lambda: self._look(trainer, module)
        if trainer.is_global_zero and self._is_enabled and sys.stderr.isatty():
            for log in _LOGS:
                log.addHandler(self._news)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._look(trainer, _simulation(pl_module))

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _simulation(pl_module)
        module.seeker.on_turn = None
        write_tally(module.count_used(), _file(trainer))
        trainer.strategy.barrier("simulation_tallies")
        if trainer.is_global_zero:
            tally = _of_all(trainer)
            shutil.rmtree(_folder(trainer))
            wall_s = time.monotonic() - self._begun
            if self._is_enabled:
                self._leave_line()
                sys.stdout.write(summary(tally, module.earlier, module.num_contexts, wall_s))

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero:
            # Before, the folder may be that of another run, which made the store refuse this one.
            if self._has_begun:
                shutil.rmtree(_folder(trainer), ignore_errors=True)
            # Of an interrupt Lightning has told already, on a line of its own.
            self._is_line_open &= not isinstance(exception, KeyboardInterrupt)
            self._leave_line()

    def _leave_line(self) -> None:
        """End the terminal's line, so that what is told next does not stand behind it."""
        for log in _LOGS:
            log.removeHandler(self._news)
        if sys.stderr.isatty() and self._is_line_open:
            sys.stderr.write("\n")
        self._is_line_open = False

    def _look(self, trainer: Trainer, module: SimulationModule) -> None:
        now = time.monotonic()
        if now - self._looked < _REFRESH_S:
            return
        self._looked = now
        write_tally(module.count_used(), _file(trainer))
        is_terminal = sys.stderr.isatty()
        if not (trainer.is_global_zero and self._is_enabled):
            return
        if is_terminal or now - self._shown >= self.every_s:
            self._shown = now
            text = line(_of_all(trainer), module.earlier, module.num_contexts, now - self._begun)
            columns = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\x1b[K{fitted(text, columns)}" if is_terminal else f"{text}\n")
            sys.stderr.flush()
            self._is_line_open = is_terminal


class _AboveLine(logging.Handler):
    """Tells the package's news where the line that is renewed was; the line comes again below."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"\r\x1b[K{self.format(record)}\n")


def line(tally: Tally, earlier: Tally, num_contexts: int, wall_s: float) -> str:
    """Say in one line how far a simulation is.

    Args:
        tally: What this run has done.
        earlier: What earlier runs were done with and this one leaves alone.
        num_contexts: Contexts in all.
        wall_s: Seconds since this run began.
    """
    used, seconds = tally.used, max(wall_s, 1e-9)
    done = earlier.contexts + tally.contexts
    quarantined = earlier.quarantined + tally.quarantined
    left = (num_contexts - done) * seconds / tally.contexts if tally.contexts else None
    tokens = ", ".join(
        f"{role} {_short(own.prompt_tokens)} in {_short(own.completion_tokens)} out"
        for role, own in tally.counts.items()
        if own.requests or own.completion_tokens
    )
    parts = [
        f"contexts {done}/{num_contexts}",
        f"{quarantined} quarantined" if quarantined else "",
        f"{_rate(tally.turns / seconds)} turns/s",
        f"{_rate(used.completion_tokens / seconds)} tokens/s" if used.completion_tokens else "",
        tokens,
        f"{used.retries} retries" if used.requests else "",
        f"{tally.unparsed_share:.1%} unparsed" if used.answers else "",
        f"{_span(left)} left" if left is not None else "",
    ]
    return " | ".join(part for part in parts if part)


def fitted(text: str, columns: int) -> str:
    """Shorten a line to a terminal's width, for one that is wrapped cannot be renewed.

    Args:
        text: Parts between `` | ``; the longest go first, the first and the last one stay longest.
        columns: Width of the terminal.
    """
    first, *others = text.split(" | ")
    while others and len(" | ".join([first, *others])) >= columns:
        others.remove(max(others[:-1] or others, key=len))
    return " | ".join([first, *others])[: max(columns - 1, 0)]


def summary(tally: Tally, earlier: Tally, num_contexts: int, wall_s: float) -> str:
    """Say what a finished simulation has done and used up; arguments as of ``line``."""
    lines = [
        f"futures: {earlier.contexts + tally.contexts} of {num_contexts} contexts"
        f"{_before(earlier.contexts, 'done')}; {tally.replies} replies labelled, "
        f"{earlier.quarantined + tally.quarantined} contexts quarantined"
        f"{_before(earlier.quarantined, 'given up')}",
        f"  {tally.turns} turns in {_span(wall_s)}, {tally.turns / max(wall_s, 1e-9):.1f} turns/s",
    ]
    for role, own in tally.counts.items():
        if own.requests or own.completion_tokens:
            repaired = f"{own.cut} cut, {own.dropped} shortened, {own.empty} empty"
            lines.append(
                f"  {role}: {own.requests} requests, {own.prompt_tokens} tokens read, "
                f"{own.completion_tokens} written; {own.retries} retries{_causes(own)}; {repaired}"
            )
    if tally.used.answers:
        lines.append(
            f"  {tally.used.unparsed} of {tally.used.answers} critic answers unparsed "
            f"({tally.unparsed_share:.1%})"
        )
    return "\n".join(lines) + "\n"


def _causes(own: Counts) -> str:
    named = {
        "after no answer in time": own.timeouts,
        "after a lost connection": own.lost_connections,
        "after a rate limit": own.rate_limits,
        "after a server's error": own.server_errors,
        "after a bad answer": own.bad_answers,
    }
    told = ", ".join(f"{count} {cause}" for cause, count in named.items() if count)
    return f" ({told})" if told else ""


def _before(count: int, what: str) -> str:
    return f", {count} of them {what} before" if count else ""


def _simulation(module: LightningModule) -> SimulationModule:
    if not isinstance(module, SimulationModule):
        raise UserError(
            f"SimulationProgress must watch a SimulationModule, got {type(module).__name__}"
        )
    return module


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / ".progress"


def _file(trainer: Trainer) -> Path:
    return _folder(trainer) / f"{trainer.global_rank:03d}.json"


def _of_all(trainer: Trainer) -> Tally:
    return sum((read_tally(file) for file in sorted(_folder(trainer).glob("*.json"))), Tally())


def _short(number: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def _rate(number: float) -> str:
    """Keep what a slow server's rate consists of."""
    return f"{number:.2g}" if number < 10 else _short(number)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
