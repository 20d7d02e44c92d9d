"""How many processes a Trainer's settings make."""

from collections.abc import Mapping
from typing import Any

from rlff_lightning.commands.plan_batch import at_least_one
from rlff_lightning.errors import UserError


def num_processes(trainer: Mapping[str, Any]) -> int:
    """Count the devices on all nodes.

    Args:
        trainer: Keys of the config.

    Raises:
        UserError: If only the machine that trains can tell, or the number is none.
    """
    nodes = trainer.get("num_nodes")
    return _per_node(trainer) * at_least_one("trainer.num_nodes", 1 if nodes is None else nodes)


def _per_node(trainer: Mapping[str, Any]) -> int:
    devices = trainer.get("devices", "auto")
    if isinstance(devices, str) and "," in devices:
        devices = [number for number in devices.split(",") if number.strip()]
    if isinstance(devices, list):
        return at_least_one("trainer.devices", len(devices))
    if str(devices) == "auto" and trainer.get("accelerator") == "cpu":
        return 1
    if str(devices) in ("auto", "-1"):
        raise UserError(
            f"trainer.devices: {devices} means what the machine that trains has; give their "
            "number, there or by --gpus"
        )
    return at_least_one(
        "trainer.devices", int(devices) if str(devices).strip().isdecimal() else devices
    )
