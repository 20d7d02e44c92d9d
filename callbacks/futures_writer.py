"""Keep simulated futures: a store that goes on after an interruption, and a page to read."""

import logging
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from rlff_lightning.data.futures_store import QUARANTINE, FuturesStore, Quarantined
from rlff_lightning.data.identity import Identity, describe, identity_of
from rlff_lightning.errors import UserError
from rlff_lightning.modules.simulation import SimulationModule
from rlff_lightning.simulation.simulate import Simulated
from rlff_lightning.simulation.transcripts import write_futures

_log = logging.getLogger(__name__)


class FuturesWriter(Callback):
    """Write every batch of labelled replies to ``<default_root_dir>/futures``.

    A second run with the same settings does what is left of the contexts; a run with others is
    refused. Contexts that an agent gave up are listed in ``_quarantine.jsonl``, and left alone
    until ``SimulationModule.retry_quarantined``.

    Args:
        folder: Folder below the Trainer's ``default_root_dir``.
        num_shown: Contexts written as Markdown to ``<folder>.md``, from all over the store.
    """

    def __init__(self, folder: str = "futures", num_shown: int = 5) -> None:
        if num_shown < 0:
            raise UserError(f"FuturesWriter.num_shown must be at least 0, got {num_shown!r}")
        self.folder = folder
        self.num_shown = num_shown

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if not isinstance(pl_module, SimulationModule):
            raise UserError(
                f"FuturesWriter must watch a SimulationModule, got {type(pl_module).__name__}"
            )
        self.store = FuturesStore(Path(trainer.default_root_dir) / self.folder)
        done: tuple[set[int], set[int]] | str = ""
        if trainer.is_global_zero:
            try:
                done = self._open(trainer, pl_module)
            except UserError as error:
                done = str(error)
        done = trainer.strategy.broadcast(done)
        if isinstance(done, str):
            # In every process: one that waited for the others would wait for good.
            raise UserError(done)
        pl_module.leave_out(*done)
        # What is on disk need not be in memory too, whatever the Trainer was asked for.
        trainer.predict_loop.return_predictions = False

    def _open(self, trainer: Trainer, module: SimulationModule) -> tuple[set[int], set[int]]:
        """Give the contexts that are finished, and those that stay in quarantine."""
        self.store.open(_identity(trainer, module), module.num_contexts)
        given_up = [] if module.retry_quarantined else self.store.quarantined()
        return self.store.finished(), {entry.number for entry in given_up}

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
        results: dict[int, Simulated] = outputs
        self.store.write(
            trainer.global_rank,
            {number: result.replies for number, result in results.items() if not result.failure},
            [
                Quarantined(number=number, context_id=result.context.id, reason=result.failure)
                for number, result in results.items()
                if result.failure
            ],
        )

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("futures_writer")
        if trainer.is_global_zero:
            self._show()
            self._tell_quarantine()
            self.store.close()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero and hasattr(self, "store"):
            if self.store.is_open:
                self._tell_quarantine()
            self.store.unlock()

    def _tell_quarantine(self) -> None:
        given_up = self.store.quarantined()
        if given_up:
            _log.warning(
                "%s: %d contexts are in quarantine, the first one because of: %s; "
                "--retry-quarantined takes them up",
                *(self.store.folder / QUARANTINE, len(given_up), given_up[0].reason),
            )

    def _show(self) -> None:
        finished = sorted(self.store.finished())
        step = max(len(finished) // self.num_shown, 1) if self.num_shown else 1
        shown = finished[::step][: self.num_shown]
        if shown:
            title = f"Futures of {len(shown)} of {len(finished)} contexts"
            file = self.store.folder.with_suffix(".md")
            said_by = [
                f"{key}: {value}"
                for key, value in self.store.identity.items()
                if key == "judge" or key.startswith("prompts.")
            ]
            write_futures(self.store.read(shown), file, title, said_by)


def _identity(trainer: Trainer, module: SimulationModule) -> Identity:
    """The config's model where a config made the run, else what its objects tell of themselves."""
    agents = module.agents
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    saved = [callback for callback in callbacks if isinstance(callback, SaveConfigCallback)]
    if saved:
        config = yaml.safe_load(saved[0].parser.dump(saved[0].config, skip_unset=False))
        settings = dict(config["model"]["init_args"])
    else:
        settings = {name: describe(agent) for name, agent in agents.items()}
    if settings.get("contexts") is None:
        settings["contexts"] = describe(module.contexts)
    # As they are, not as they are named: what is left out takes its default from here.
    settings["candidates"] = describe(module.candidates)
    settings["futures"] = describe(module.futures)
    prints = {name: agent.fingerprint for name, agent in agents.items() if agent.fingerprint}
    return identity_of(
        {**settings, "seed": module.seed, "judge": module.cast.critic.name, "prompts": prints}
    )
