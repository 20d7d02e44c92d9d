"""A metric that needs all its inputs at once, from every rank."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ColumnMetric(Metric):
    """Keeps named columns and gathers them over ranks, also from a rank that saw no data.

    Args:
        columns: Dtype of each column.
        **kwargs: See ``torchmetrics.Metric``.
    """

    def __init__(self, columns: dict[str, torch.dtype], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = columns
        for name in columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._open_columns()

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self._open_columns()

    def keep(self, **columns: Tensor) -> None:
        """Append rows.

        Args:
            **columns: ``(B,)`` each.
        """
        for name, values in columns.items():
            getattr(self, name).append(values.detach().to(self.columns[name]))

    def column(self, name: str) -> Tensor:
        """Give a column's rows, ``(N,)``; of all ranks when called from ``compute``."""
        return dim_zero_cat(getattr(self, name))

    def _open_columns(self) -> None:
        # A rank without rows would gather float32 into int64 columns, which comes out as garbage.
        for name, dtype in self.columns.items():
            getattr(self, name).append(torch.empty(0, dtype=dtype, device=self.device))
