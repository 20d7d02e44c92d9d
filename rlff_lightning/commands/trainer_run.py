"""`rlff fit | validate | test | predict`: LightningCLI over any module, with or without data."""

import argparse
import logging
import signal
import sys
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from rlff_lightning.commands.config_record import ConfigRecord
from rlff_lightning.commands.parse_errors import explain
from rlff_lightning.errors import UserError
from rlff_lightning.strategies.checkpoint_files import CheckpointFiles

_VERBS = ("fit", "validate", "test", "predict")
_CHATTER = (
    "Tip: ",
    "available: False",
    "does not have many workers",
    "Seed set to",
    "You have overridden",
    # Figures are reduced over ranks before they are logged.
    "It is recommended to use `self.log",
    "LeafSpec",
    # Not CSVLogger's "... directory ... exists and is not empty": it deletes what was logged.
    "Checkpoint directory ",
    "The dirpath has changed",
    # bitsandbytes computes the same without that package.
    "Failed to load CPU gemm_4bit_forward",
)
_CHATTERERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "bitsandbytes.backends.cpu.ops",
)


_SHORT = {"--retry-quarantined": "--model.retry_quarantined=true"}
"""Words for a key that is set for one run, not for good."""


class RunCLI(LightningCLI):
    """Parses one Trainer verb, builds what the config names and runs it."""

    def __init__(self, argv: list[str]) -> None:
        argv = [_SHORT.get(word, word) for word in argv]
        self._configs = _config_files(argv)
        # Without abbreviations: `--trainer.max_step` would be taken for `--trainer.max_steps`.
        raising: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            # Data is typed but optional: a module may bring its own loaders.
            None,
            subclass_mode_model=True,
            save_config_callback=ConfigRecord,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**raising, **{verb: dict(raising) for verb in _VERBS}},
            args=argv,
        )

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("prog", "rlff")
        return super().init_parser(**kwargs)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            verb_parser = self._subcommand_parsers[args[0]]
            options = [action.dest for action in verb_parser._actions]
            line = explain(str(error), options=options, configs=self._configs)
            raise UserError(line) from error

    @override
    def _parse_ckpt_path(self) -> None:
        # The config alone says what runs: a checkpoint brings weights and state, not arguments.
        return

    @override
    def instantiate_classes(self) -> None:
        path = self._get(self.config, "ckpt_path")
        is_named = path in {None, "last", "best", "hpc"} or str(path).startswith("registry")
        if not is_named and not Path(path).exists():
            raise UserError(f"ckpt_path: {path} is missing; accepted are a checkpoint or last")
        if not is_named and Path(path).is_file() and not zipfile.is_zipfile(path):
            raise UserError(f"ckpt_path: {path} is damaged or no checkpoint of PyTorch's format")
        super().instantiate_classes()

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer", default={})
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        # The default bar, rich's, stays silent where the output is no terminal.
        if (
            not sys.stdout.isatty()
            and not has_bar
            and config.get("enable_progress_bar") is not False
        ):
            kwargs["callbacks"] = [*callbacks, TQDMProgressBar()]
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, CheckpointFiles()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:
            # Of a flag's value: an unknown accelerator or strategy, say.
            raise UserError(f"trainer: {error}") from error
        if self._get(self.config, "ckpt_path") == "last":
            _write_again_in_place(trainer)
        return trainer


def _write_again_in_place(trainer: Trainer) -> None:
    """Let checkpoints replace those of the same name instead of standing beside them as ``-v1``.

    A run that was killed between a checkpoint and the ``last`` after it takes the same steps again.
    """
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback._enable_version_counter = False


class _Resolver(RunCLI):
    """Parses as a run would, and stops there."""

    @override
    def _set_seed(self) -> None:
        return

    @override
    def instantiate_classes(self) -> None:
        self.subcommand = None


def resolve(argv: list[str]) -> dict[str, Any]:
    """Parse a command line as the run would: nested files read, overrides and defaults applied.

    Args:
        argv: Verb and options, e.g. `["fit", "--config", "x.yaml"]`.

    Returns:
        The verb's whole configuration as plain values.

    Raises:
        UserError: If the run would refuse the command line.
    """
    _hush()
    cli = _Resolver(argv)
    resolved: dict[str, Any] = yaml.safe_load(cli.parser.dump(cli.config, skip_unset=False))[
        argv[0]
    ]
    resolved.pop("config", None)
    return resolved


def _config_files(argv: list[str]) -> list[Path]:
    values = [b for a, b in pairwise(argv) if a in {"-c", "--config"}]
    values += [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    return [Path(value) for value in values if Path(value).is_file()]


def _hush() -> None:
    """Drop the lines of libraries that tell a user nothing about the run."""
    for phrase in _CHATTER:
        warnings.filterwarnings("ignore", message=f".*{phrase}")
    for name in _CHATTERERS:
        logging.getLogger(name).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(phrase in record.getMessage() for phrase in _CHATTER)


def main(argv: list[str]) -> int:
    """Run a Trainer verb; `argv` begins with it."""
    _hush()
    try:
        RunCLI(argv)
    except SIGTERMException:
        # An exit without a status would be a success, and an unfinished stage a finished one.
        return 128 + signal.SIGTERM
    except SystemExit as stop:
        # Lightning answers Ctrl-C with `exit(1)` from inside the handler of the interrupt.
        if isinstance(stop.__context__, KeyboardInterrupt):
            return 130
        raise
    return 0
