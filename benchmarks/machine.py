"""The rates of a device, waiting for it, and the parser of benchmarks' flags."""

import argparse
import platform
import time

import torch
from torch import Tensor

from src.models.family import PRECISIONS


def matrix_rate(device: torch.device, precision: str, size: int = 8192) -> float:
    """Return the operations a second of a large matrix product, the best of ten."""
    left, right = (torch.randn(size, size, device=device).to(PRECISIONS[precision]) for _ in range(2))
    seconds = []
    for _ in range(10):
        wait_for(device)
        started = time.perf_counter()
        left @ right
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def copy_rate(source: Tensor, target: Tensor) -> float:
    """Return the bytes a second of copying one tensor into another, the best of five."""
    seconds = []
    for _ in range(5):
        wait_for(target.device)
        started = time.perf_counter()
        target.copy_(source)
        wait_for(target.device)
        seconds.append(time.perf_counter() - started)
    return source.numel() * source.element_size() / min(seconds)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def facts_of(device: torch.device) -> dict[str, str]:
    """Return the names and versions of the device and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "CUDA": str(torch.version.cuda), "Python": platform.python_version()}


def parser_of(documentation: str) -> argparse.ArgumentParser:
    """Return a parser of a benchmark's flags, with its documentation as help."""
    return argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
