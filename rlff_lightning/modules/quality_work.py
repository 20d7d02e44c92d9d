"""Work on held-out contexts batch by batch: shown as it goes on, kept, and done once."""

from collections.abc import Callable, Sequence

from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from rlff_lightning.modules.unfinished import Row, UnfinishedRows


class ContextWork:
    """Does each part of the work for every context of this process.

    Args:
        store: Keeps finished batches.
        places: This process's contexts, by their place among all.
        batch_size: Contexts at once.
        rank: Of this process.
        is_shown: Show a bar for each part.
    """

    def __init__(
        self,
        store: UnfinishedRows,
        places: Sequence[int],
        batch_size: int,
        *,
        rank: int = 0,
        is_shown: bool = False,
    ) -> None:
        self._store = store
        self._places = places
        self._batch_size = batch_size
        self._rank = rank
        self._is_shown = is_shown
        self._done = store.read()

    def run(
        self,
        part: str,
        do: Callable[[Sequence[int]], Sequence[Row]],
        is_answered: Callable[[int, Row], bool],
    ) -> list[Row]:
        """Do one part, and leave out what was finished before.

        Args:
            part: Its name, which the bar shows too.
            do: Gives a row for each of several contexts, by their index in this process.
            is_answered: Tells by index and row what need not be done again when the run goes on.

        Returns:
            A row per context, in order.
        """
        found = {
            index: self._done[part, place]
            for index, place in enumerate(self._places)
            if (part, place) in self._done
        }
        left = [index for index in range(len(self._places)) if index not in found]
        with Tqdm(
            total=len(self._places),
            initial=len(found),
            desc=part,
            unit=" contexts",
            # Over the Trainer's own bar, which has ended.
            position=0,
            dynamic_ncols=True,
            disable=not self._is_shown,
        ) as bar:
            for start in range(0, len(left), self._batch_size):
                batch = left[start : start + self._batch_size]
                rows = do(batch)
                done = dict(zip(batch, rows, strict=True))
                kept = {self._places[i]: row for i, row in done.items() if is_answered(i, row)}
                self._store.append(part, list(kept), list(kept.values()), self._rank)
                found.update(done)
                bar.update(len(batch))
        return [found[index] for index in range(len(self._places))]
