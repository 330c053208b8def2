"""Install the torch that constraints.txt pins, from the place that suits this machine; say which and how large.

Only the standard library: this runs in a bare virtual environment.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Choice:
    """What pip is told beside the version, and what the user is told."""

    arguments: tuple[str, ...]
    sentence: str


def pinned_version(constraints: str) -> str:
    """Return the version of torch that the constraints name."""
    found = re.search(r"^torch==([0-9][^\s;]*)", constraints, flags=re.MULTILINE)
    if found is None:
        raise SystemExit("error: constraints.txt must pin torch (torch==X.Y.Z).")
    return found.group(1)


def choose(*, find_links: str, system: str, nvidia_driver: bool) -> Choice:
    """Return where torch comes from: a configured wheel folder, PyTorch's CPU index, or the default build."""
    if find_links:
        size = sum(wheel.stat().st_size for wheel in sorted(Path(find_links).glob("torch-*.whl"))[:1])
        known = f", {size / 1e6:.0f} MB" if size else ""
        return Choice((), f"from pip's configured wheel folder {find_links}{known}")
    if system == "Darwin":
        return Choice((), "default build for macOS, about 90 MB")
    if nvidia_driver:
        return Choice((), "default build with CUDA (an NVIDIA driver was found), about 3 GB with its libraries")
    return Choice(
        ("--index-url", CPU_INDEX), "CPU build from PyTorch's own index (no NVIDIA driver found), about 200 MB"
    )


def configured_find_links(environment: Mapping[str, str]) -> str:
    """Return pip's first folder of local wheels, from the environment or its configuration; empty if none."""
    if environment.get("PIP_FIND_LINKS"):
        return environment["PIP_FIND_LINKS"].split()[0]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"\.find-links='([^'\s]+)", listed)
    return found.group(1) if found else ""


def has_nvidia_driver() -> bool:
    """Return whether this machine has an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def installed_version() -> str:
    """Return the installed torch's version without its build tag; empty if there is none."""
    try:
        return importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> int:
    """Install torch unless the pinned version is there; return pip's exit code."""
    version = pinned_version(CONSTRAINTS.read_text())
    if installed_version() == version:
        return 0
    choice = choose(
        find_links=configured_find_links(os.environ), system=platform.system(), nvidia_driver=has_nvidia_driver()
    )
    sys.stdout.write(f"Installing torch {version}: {choice.sentence}.\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    return subprocess.run([*command, *choice.arguments, f"torch=={version}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
