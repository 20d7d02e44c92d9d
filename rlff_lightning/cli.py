"""The `rlff` command: picks the verb's module, and turns a user's mistake into one line."""

import difflib
import importlib
import os
import sys

from rlff_lightning import __version__
from rlff_lightning.commands.child import StageProcess
from rlff_lightning.commands.launch import record_failure
from rlff_lightning.commands.mistakes import mistake
from rlff_lightning.errors import StoppedRun, UserError

TRAINER_VERBS = {
    "fit": "train a module: warm start, reward model or policy",
    "validate": "run a module's validation loop",
    "test": "evaluate: goal completion by self-play, a reward model on held-out dialogues",
    "predict": "write predictions: simulated futures, scored replies",
}
OTHER_VERBS = {
    "pipeline": "run a folder of stage configs in order; finished stages are skipped",
    "report": "write a run as one HTML page that opens offline",
    "audit": "score saved critic answers under one or all judge rules",
    "export": "write a trained model for other programs: an adapter, or one merged model",
    "launch": "start one node's ranks of a run on several nodes",
    "plan": "estimate a stage's memory by part, and say which keys to turn",
    "chat": "talk to a policy in the terminal",
    "study": "run a grid of configs times seeds; one table with intervals and paired tests",
}


def _help() -> str:
    verbs = "\n".join(f"  {verb:9} {line}" for verb, line in (TRAINER_VERBS | OTHER_VERBS).items())
    return (
        "usage: rlff VERB [--config FILE] [--KEY VALUE ...]\n\n"
        f"Train language models for conversations that have a goal.\n\nverbs:\n{verbs}\n\n"
        "rlff VERB --help lists what a verb accepts; rlff --version prints the version.\n"
        "RLFF_DEBUG=1 adds the traceback to an error."
    )


def _run(argv: list[str]) -> int:
    verb = argv[0] if argv else "--help"
    if verb in {"-h", "--help", "help"}:
        sys.stdout.write(_help() + "\n")
        return 0
    if verb in {"-V", "--version"}:
        sys.stdout.write(f"rlff {__version__}\n")
        return 0
    if verb in TRAINER_VERBS:
        module, rest = "trainer_run", argv
    elif verb in OTHER_VERBS:
        module, rest = verb, argv[1:]
    else:
        verbs = [*TRAINER_VERBS, *OTHER_VERBS]
        close = difflib.get_close_matches(verb, verbs, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join(verbs)}"
        raise UserError(f"rlff has no verb {verb!r}; {hint}")
    # Light verbs start in milliseconds because nothing heavy is imported before this line.
    command = importlib.import_module(f"rlff_lightning.commands.{module}")
    status: int = command.main(rest)
    return status


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit status: 0, 2 for a user's mistake, 130 for Ctrl-C.

    It is 1 for a run that cannot go on, and 143 for one that SIGTERM ended.
    """
    argv = sys.argv[1:] if argv is None else argv
    while True:
        try:
            return _run(argv)
        except StageProcess as stage:
            argv = stage.argv
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            line = mistake(error)
            if "TORCHELASTIC_ERROR_FILE" in os.environ:
                record_failure(UserError(line) if line else error)
            is_told = line is not None or isinstance(error, StoppedRun)
            if not is_told or os.environ.get("RLFF_DEBUG") == "1":
                raise
            sys.stderr.write(f"rlff: error: {line or error}\n")
            return 2 if line else 1


if __name__ == "__main__":
    sys.exit(main())
