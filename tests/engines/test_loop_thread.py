import asyncio
import threading

from rlff_lightning.engines.loop_thread import LoopThread


def test_threads_that_wait_at_once_each_hear_of_their_own() -> None:
    loop = LoopThread("test")
    found: list[int] = []

    async def after(seconds: float, value: int) -> int:
        await asyncio.sleep(seconds)
        return value

    def ask(number: int) -> None:
        for turn in range(40):
            found.append(loop.run(after(0.0005 * (number + turn % 3), number)))

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(found) == [number for number in range(6) for _ in range(40)]
    loop.close()
