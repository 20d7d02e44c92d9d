"""Write a run's report and time how long real headless Chromium takes to open it.

    python benchmarks/report.py runs/demo [--repeats 9] [--screenshots DIR]

Needs the extra `browser` and Chromium. Every repeat opens the file in a new browser context with
nothing cached; the time is from the start of the navigation to the end of the load event, after
which the list and the first conversation are there, as is checked. Medians are printed.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from rlff_lightning.report.page import render
from rlff_lightning.report.run_folder import find_run

_SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Print sizes and times as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--max-items", type=int, default=100)
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of each width")
    options = parser.parse_args()
    clock = time.perf_counter()
    page = render(find_run(options.run), max_items=options.max_items)
    figures: dict[str, Any] = {"render_s": round(time.perf_counter() - clock, 3)}
    file = options.run / "report.html"
    file.write_text(page, encoding="utf-8")
    figures["megabytes"] = round(len(page.encode()) / 1e6, 3)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chrome"),
            args=["--no-sandbox"],
        )
        figures["chromium"] = chromium.version
        for name, size in _SIZES.items():
            times = [_open(chromium, file, size, None) for _ in range(options.repeats)]
            figures[f"{name}_load_ms"] = round(statistics.median(times), 1)
            figures[f"{name}_load_ms_most"] = round(max(times), 1)
            if options.screenshots:
                options.screenshots.mkdir(parents=True, exist_ok=True)
                _open(chromium, file, size, options.screenshots / f"{name}.png")
        chromium.close()
    print(json.dumps(figures, indent=1))


def _open(browser: Browser, file: Path, size: Any, picture: Path | None) -> float:
    context = browser.new_context(viewport=size)
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(file.absolute().as_uri(), wait_until="load")
    loaded = float(page.evaluate(_LOADED))
    if page.locator("#list li").count() == 0 or trouble:
        raise RuntimeError(f"{file}: the list is empty or the console has errors: {trouble}")
    if picture:
        page.screenshot(path=picture, full_page=True)
    context.close()
    return loaded


if __name__ == "__main__":
    main()
