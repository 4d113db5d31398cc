"""What a fine-tuning tells on its way: a line of JSON for every so many steps."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """After so many steps: the mean loss of those since the last line, the last learning rate, images a second."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float


Watch = Callable[[Line], None]


class Log:
    """A file of lines; what comes after the step that a run goes on from is cut off, for it will come again."""

    def __init__(self, path: Path, start: int):
        self._path = path
        kept = path.read_text().splitlines() if start and path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in kept if _step(line) <= start))

    def __call__(self, line: Line) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut short when the process was killed
        return float("inf")
