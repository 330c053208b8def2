"""Seeds derived by name, so that what is drawn does not depend on what was drawn before."""

import hashlib

import torch


def derive_seed(seed: int, *names: str) -> int:
    """Return a 63-bit seed for a named purpose.

    >>> derive_seed(0, "train", "law") == derive_seed(0, "train", "law")
    True
    """
    text = "\x1f".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *names: str) -> torch.Generator:
    """Return a CPU generator seeded for a named purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
