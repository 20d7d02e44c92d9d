import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"types", "errors", "seeds"},
    {"functional"},
    {"metrics", "models", "dialogue"},
    {"engines"},
    {"agents"},
    {"simulation", "rollout", "data", "strategies"},
    {"modules"},
    {"cli", "commands", "report"},
]
ONLY_IN = {
    "vllm": ("engines/vllm",),
    "transformers": ("models/", "engines/transformers.py"),
    "peft": ("models/", "engines/transformers.py"),
    "bitsandbytes": ("models/", "engines/transformers.py"),
}


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names that a module's source imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(
                [*(parts if node.level else []), *([node.module] if node.module else [])]
            )
            yield from (f"{base}.{name.name}" for name in node.names)


def breaches(path: str, source: str) -> list[str]:
    """What a module of the package, named by its path inside it, imports against the rules."""
    package = ".".join(["rlff_lightning", *Path(path).parts[:-1]])
    room = Path(path).parts[0].removesuffix(".py")
    found = []
    for name in imported(source, package):
        top, _, rest = name.partition(".")
        if top == "callbacks":
            found.append(f"{path} imports {name}: the house does not know its callbacks")
        if top in ONLY_IN and not path.startswith(ONLY_IN[top]):
            found.append(f"{path} imports {name}: only {ONLY_IN[top]} may")
        other = rest.partition(".")[0]
        if top != "rlff_lightning" or other in {"", "__version__"} or {room, other} <= FLOORS[-1]:
            continue
        is_neighbour = room != other and floor_of(room) == floor_of(other) > 0
        if is_neighbour or floor_of(other) > floor_of(room):
            found.append(f"{path} imports {name}: imports point down")
    return found


def test_imports_point_down_and_heavy_libraries_stay_in_their_rooms() -> None:
    package = ROOT / "rlff_lightning"
    found = []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        if path != "__init__.py":
            found += breaches(path, file.read_text())
    assert not found, "\n".join(found)


def test_package_file_imports_nothing() -> None:
    assert list(imported((ROOT / "rlff_lightning" / "__init__.py").read_text(), "")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("functional/kl.py", "from rlff_lightning.agents.base import Critic"),
        ("functional/kl.py", "def f():\n    import rlff_lightning.modules.policy"),
        ("dialogue/read.py", "from rlff_lightning.models import loading"),
        ("dialogue/read.py", "from rlff_lightning import models"),
        ("dialogue/read.py", "from ..models import loading"),
        ("agents/base.py", "from vllm import LLM"),
        ("data/collate.py", "import transformers.models.qwen2"),
        ("modules/policy.py", "from callbacks.gap import Gap"),
        ("simulation/play.py", "from rlff_lightning.rollout.loader import ExperienceLoader"),
    ],
)
def test_an_import_against_the_rules_is_found(path: str, source: str) -> None:
    assert len(breaches(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("modules/policy.py", "from rlff_lightning.functional.kl import approx_kl"),
        ("engines/vllm.py", "def f():\n    from vllm import LLM"),
        ("agents/scripted/seeker.py", "from ..base import Seeker"),
        ("types.py", "from rlff_lightning.errors import UserError"),
        ("cli.py", "from rlff_lightning.commands import pipeline"),
    ],
)
def test_an_import_by_the_rules_is_not_found(path: str, source: str) -> None:
    assert breaches(path, source) == []


@pytest.mark.parametrize(
    "code",
    [
        "import rlff_lightning",
        "from rlff_lightning.cli import main; main(['--help'])",
        "from rlff_lightning.cli import main; main(['fitt'])",
        "import rlff_lightning.commands.pipeline, rlff_lightning.commands.audit",
    ],
)
def test_the_light_path_loads_neither_torch_nor_lightning(code: str) -> None:
    heavy = "{'torch', 'lightning', 'transformers', 'pandas', 'vllm'} & set(sys.modules)"
    command = f"import sys; {code}; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
