"""What every command that computes can be told."""

from dataclasses import dataclass

import torch

from collegium.core.errors import ConfigError
from collegium.core.machine import usable_cores

MOST_THREADS = 4096


@dataclass(frozen=True)
class Common:
    """Seed and machine.

    seed: whatever is drawn follows from it. device: auto, cpu, cuda or mps.
    dtype: auto (bfloat16 where this processor is fast at it), float32 or bfloat16. threads: 0 = all usable cores.
    expert_memory: megabytes for adapters, 0 = no limit.
    """

    seed: int = 0
    """Whatever is drawn follows from this number."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: str = "auto"
    """auto (bfloat16 where measured faster), float32 or bfloat16."""
    threads: int = 0
    """Processor threads; 0 takes all cores that this process may use, OMP_NUM_THREADS at most."""
    expert_memory: int = 0
    """Megabytes that adapters' weights may take in memory, the least recently used leave first; 0 = no limit."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number of threads that no machine has."""
        if self.expert_memory < 0:
            raise ConfigError(f"--expert-memory is a number of megabytes, 0 = no limit; got {self.expert_memory}.")
        if not 0 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"--threads is 0 (all cores) to {MOST_THREADS}, got {self.threads}.")

    def apply_threads(self) -> int:
        """Set torch's threads and return how many."""
        count = self.threads or usable_cores()
        torch.set_num_threads(count)
        return count
