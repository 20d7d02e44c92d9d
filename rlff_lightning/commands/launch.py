"""`rlff launch`: this node's ranks of a run on several nodes, and who is to blame if it ends."""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rlff_lightning.commands.mistakes import one_line
from rlff_lightning.errors import UserError

if TYPE_CHECKING:
    from rlff_lightning.commands.node_link import Failure, NodeLink

_DESCRIPTION = """\
Start one node's ranks of a Trainer verb by torchrun's agent: the same line on every node, each with
its own --node-rank. Everything after -- is the verb with its options; trainer.num_nodes and
trainer.devices are set from the launch, after all configs.

If a rank or a whole node dies, every node's ranks are ended and the last line names the rank, its
node and the cause. Nothing is restarted: with --ckpt_path last the same lines go on.
"""
_VERBS = ("fit", "validate", "test", "predict")
_END_S = 10
"""Time that ranks have to end after SIGTERM."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"rlff launch: {message}")


def main(argv: Sequence[str]) -> int:
    """Run the command; `argv` follows `rlff launch`.

    Returns:
        0, 2 if a rank ended by a user's mistake, else 1.

    Raises:
        UserError: If an argument cannot be used.
    """
    words = list(argv)
    options = _parser().parse_args(words[: words.index("--")] if "--" in words else words)
    command = words[words.index("--") + 1 :] if "--" in words else []
    _check(options, command)
    from rlff_lightning.commands.node_link import NodeLink

    link = NodeLink(
        options.head,
        options.port + 1,
        node=options.node_rank,
        nodes=options.nodes,
        silence_s=options.silence,
        patience_s=options.patience,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    failure = _run(options, command, link)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    root = link.end(failure)
    if root is None:
        return 0
    rest = "every node's ranks were ended, and with --ckpt_path last the same lines go on"
    line = root.cause if root.is_mistake else f"{root.cause}; {rest}"
    sys.stderr.write(f"rlff launch: {root.who} died: {line}\n")
    return 2 if root.is_mistake else 1


def _run(options: argparse.Namespace, command: Sequence[str], link: "NodeLink") -> "Failure | None":
    """Run the ranks of this node to their end; tell who died first, if any did."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from rlff_lightning.commands.node_link import Failure, first

    here = f"node {options.node_rank} of {options.nodes} ({socket.gethostname()})"
    if options.ranks > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=options.nodes,
        max_nodes=options.nodes,
        nproc_per_node=options.ranks,
        run_id="rlff",
        rdzv_backend="static",
        rdzv_endpoint=f"{options.head}:{options.port}",
        rdzv_configs={"rank": options.node_rank, "timeout": options.patience},
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=_END_S,
    )
    sizes = [f"--trainer.num_nodes={options.nodes}", f"--trainer.devices={options.ranks}"]
    entry = ("-m", "rlff_lightning.cli", *command, *sizes)
    try:
        link.start()
        try:
            elastic_launch(config, sys.executable)(*entry)
        finally:
            link.quiet()
    except ChildFailedError as error:
        return first(
            Failure(
                who=f"rank {rank} on {here}",
                cause=cause_of(failed),
                is_mistake=failed.exitcode == 2,
                time=failed.timestamp,
            )
            for rank, failed in error.failures.items()
        )
    except (DistError, RendezvousError) as error:
        return Failure(
            who=here,
            cause=f"no meeting of the nodes at {options.head}:{options.port} within "
            f"--patience {options.patience} s: {one_line(str(error))[:200]}; is --port free, and "
            "has every node started?",
            is_mistake=True,
            time=time.time(),
        )
    except SignalException as stopped:
        if link.failures():
            return None
        name = signal.Signals(stopped.sigval).name
        return Failure(
            who=here, cause=f"it was stopped by {name}", is_mistake=False, time=time.time()
        )
    return None


def cause_of(failed: Any) -> str:
    """Say in one line what ended a rank."""
    if failed.exitcode < 0:
        return f"killed by {signal.Signals(-failed.exitcode).name}"
    if failed.exitcode == 128 + signal.SIGTERM:
        return "ended by SIGTERM"
    message = failed.message
    if isinstance(message, dict):
        return one_line(str(message["message"]))
    return f"exit status {failed.exitcode}, its own words are above"


def _stop(number: int, _: Any) -> NoReturn:
    from torch.distributed.elastic.multiprocessing import SignalException

    raise SignalException(f"got signal {number}", sigval=signal.Signals(number))


def _check(options: argparse.Namespace, command: Sequence[str]) -> None:
    if not command or command[0] not in _VERBS:
        found = command[0] if command else "nothing"
        raise UserError(
            f"rlff launch: -- must be followed by one of {', '.join(_VERBS)}, got {found}"
        )
    for name in ("nodes", "ranks"):
        if getattr(options, name) < 1:
            raise UserError(
                f"rlff launch: --{name} must be at least 1, got {getattr(options, name)}"
            )
    if not 1 <= options.port < 65535:
        raise UserError(
            "rlff launch: --port must be within [1, 65534], for the one above it is taken too, "
            f"got {options.port}"
        )
    for name in ("patience", "silence"):
        if not getattr(options, name) > 0:
            raise UserError(
                f"rlff launch: --{name} must be above 0 s, got {getattr(options, name)}"
            )
    if not 0 <= options.node_rank < options.nodes:
        raise UserError(
            f"rlff launch: --node-rank must be within [0, {options.nodes - 1}], "
            f"got {options.node_rank}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rlff launch",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="rlff launch --nodes N --node-rank K --head HOST [options] -- VERB [options]",
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the run")
    parser.add_argument("--node-rank", type=int, default=0, help="this node, from 0")
    parser.add_argument("--head", default="127.0.0.1", help="address of node 0")
    parser.add_argument("--ranks", type=int, default=8, help="processes per node (default 8)")
    parser.add_argument(
        "--port", type=int, default=29500, help="on node 0, with the one above it (default 29500)"
    )
    parser.add_argument(
        "--patience", type=int, default=900, help="seconds to wait for the other nodes to start"
    )
    parser.add_argument(
        "--silence",
        type=float,
        default=30.0,
        help="seconds without a sign of life after which a node counts as lost (default 30)",
    )
    return parser


def record_failure(error: BaseException) -> None:
    """Tell the agent that started this rank what ended it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file or not Path(file).parent.is_dir():
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)
