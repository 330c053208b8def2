"""Runs `collegium train` in a fresh child for every line read: imports and opens the base once, so kills are cheap.

A line names the library. The child is announced before it begins and its end is told with its status.
"""

import os
import sys
from pathlib import Path

import torch

from collegium.cli.main import main
from collegium.models import load_base


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def train(library: Path) -> int:
    texts, base = sys.argv[1:3]  # what follows is handed to the command
    words = ["train", texts, "--library", str(library), "--base", base, "--out", f"{library}-out"]
    words += [] if "--joint" in sys.argv else ["--rank", "4"]
    words += ["--window", "64", "--batch", "8", "--steps", "60", "--evaluate-every", "10"]
    words += ["--device", "cpu", "--dtype", "float32", "--threads", "1", *sys.argv[3:]]
    return main(words)


if __name__ == "__main__":
    torch.set_num_threads(1)
    load_base(sys.argv[2])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # what the command prints is not for the parent
            os._exit(train(Path(line.strip())))
        tell(f"began {child}")
        tell(f"ended {os.waitpid(child, 0)[1]}")
