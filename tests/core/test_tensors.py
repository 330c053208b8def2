"""Files of weights: what looks like a pickle is refused, what only starts like one is not."""

import pytest
import torch

from collegium.core.errors import CorruptExpert
from collegium.core.tensors import read_shapes, read_tensors, tensor_bytes


def with_header_of(length):
    """A safetensors file whose header has this many bytes: its first two bytes are then a pickle's."""
    for letters in range(1, 2000):
        content = tensor_bytes({"x" * letters: torch.ones(3)})
        if int.from_bytes(content[:8], "little") == length:
            return content
    raise AssertionError(f"no header of {length} bytes")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480])
def test_a_header_that_starts_like_a_pickle_is_read(length, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(with_header_of(length))
    (tensor,) = read_tensors(path).values()
    assert torch.equal(tensor, torch.ones(3))
    assert list(read_shapes(path).values()) == [(3,)]


@pytest.mark.parametrize(
    "start", [b"\x80\x02}q\x00.", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00.", b"PK\x03\x04" + bytes(20)]
)
def test_a_pickle_is_refused(start, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(start)
    with pytest.raises(CorruptExpert, match="holds a pickle"):
        read_tensors(path)
