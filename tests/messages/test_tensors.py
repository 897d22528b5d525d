"""Unusual tensors: which have bytes, and which bytes; what a state dict consists of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import integrity_triton as it
from integrity_triton.messages.tensors import flattened, host_memory, tensor_bytes
from support import tensor_message


def in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return torch.arange(3.0) + 1


VALUES = torch.arange(24, dtype=torch.int16)
COMPLEX = torch.arange(6).to(torch.complex64) * 1j
USUAL = {
    "0-D": lambda: torch.arange(4.0)[3],
    "without elements": lambda: torch.zeros(0, 3),
    "complex": COMPLEX.clone,
    "conjugate": COMPLEX.conj,
    "negative": lambda: COMPLEX.conj().imag,
    "expanded": lambda: VALUES[:4].expand(3, 4),
    "expanded in both dimensions": lambda: VALUES[:1].expand(3, 4),
    "transposed": lambda: VALUES.view(4, 6).t(),
    "overlapping": lambda: VALUES.as_strided((5, 4), (2, 1), 3),
    "one element with a stride": lambda: VALUES[::2][3:4],
    "one column with a stride": lambda: VALUES.as_strided((3, 1), (4, 2), 1),
    "one row with a stride": lambda: VALUES.as_strided((1, 3), (5, 1), 1),
    "no elements with a stride": lambda: VALUES[::2][:0],
    "behind an offset": lambda: VALUES.view(4, 6)[1:, 2:4],
    "reversed": lambda: VALUES.flip(0),
    "channels last": lambda: torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "a parameter": lambda: nn.Parameter(torch.arange(3.0)),
    "a buffer": lambda: nn.Buffer(torch.arange(3.0)),
    "a plain subclass": lambda: torch.arange(3.0).as_subclass(type("Tagged", (torch.Tensor,), {})),
    "made in inference mode": in_inference_mode,
    "copied when it is written to": lambda: torch._lazy_clone(VALUES),
}


@pytest.mark.parametrize("kind", USUAL)
def test_bytes(kind):
    x = USUAL[kind]()
    assert bytes(host_memory(tensor_bytes(x))) == tensor_message(x)
    if x.dim() == 2:
        rows = [tensor_message(row) for row in x]
        assert [bytes(d.tolist()) for d in it.hash_batch(x, "sha256")] == [
            it.sha256(row).digest() for row in rows
        ]


def test_the_zeros_of_forward_differentiation():
    """They have no memory, and their elements are zeros."""
    octets = torch._efficientzerotensor((48,), dtype=torch.uint8)
    assert it.sha256(octets).digest() == it.sha256(bytes(48)).digest()
    zeros = torch._efficientzerotensor((3, 4))
    assert it.sha256(zeros).digest() == it.sha256(bytes(48)).digest()
    assert it.hash_batch(zeros, "sha256").equal(it.hash_batch([bytes(16)] * 3, "sha256"))
    plain = {"a": torch.zeros(3, 4), "b": torch.zeros(3, 4)}
    other = torch._efficientzerotensor((3, 4))
    assert it.models.Manifest.build({"a": zeros, "b": other}) == it.models.Manifest.build(plain)


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.functionalize])
def test_inside_a_transform(transform):
    def hashed(x: torch.Tensor) -> torch.Tensor:
        it.sha256(x)
        return x.sum()

    with pytest.raises(ValueError, match=r"no memory of its own, as inside torch\.func"):
        transform(hashed)(torch.ones(3))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_has_no_bytes():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.masked import masked_tensor
    from torch.testing._internal.logging_tensor import LoggingTensor

    with FakeTensorMode():
        fake = torch.ones(3)
    for x, error, says in (
        (fake, ValueError, "a fake tensor has no data"),
        (nn.Parameter(fake), ValueError, "a fake tensor has no data"),
        (nn.LazyLinear(3).weight, ValueError, "an UninitializedParameter has no data"),
        (nn.Parameter(torch.empty(3, device="meta")), ValueError, "a meta tensor has no data"),
        (masked_tensor(torch.ones(2), torch.tensor([True, False])), TypeError, "MaskedTensor is a wrapper"),
        (LoggingTensor(torch.ones(3)), TypeError, "LoggingTensor is a wrapper"),
        (torch.ones(3, 4).to_mkldnn(), TypeError, r"layout torch\._mkldnn has no dense bytes"),
        (torch.eye(3).to_sparse_bsr((1, 1)), TypeError, r"layout torch\.sparse_bsr"),
        (torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), TypeError, r"hash x\.int_repr\(\)"),
    ):
        for call in (it.sha256, lambda x: it.hash_batch([x], "sha256")):
            with pytest.raises(error, match=says):
                call(x)
        with pytest.raises(error, match=f"tensor 'a': {says}|tensor 'a': .*{says}"):
            it.models.Manifest.build({"a": x})
        with pytest.raises(error, match=f"tensor 'a': {says}|tensor 'a': .*{says}"):
            it.mac_tensors({"a": x}, bytes(32))


def test_a_default_device_is_for_the_tensors_of_the_caller():
    """Models are built under torch.device("meta"); what the package makes is on the device of the data."""
    x = torch.arange(3.0)

    def everything() -> list[bytes]:
        return [
            it.sha256(x).digest(),
            bytes(it.hash_batch([x, b"a"], "sha256").reshape(-1).tolist()),
            bytes(it.hash_batch([b"", b"a"], "blake3", key=[bytes(32)] * 2).reshape(-1).tolist()),
            bytes(it.hash_batch([b""], "sha256").reshape(-1).tolist()),
            bytes(it.hash_batch([b"", x], "sha256").reshape(-1).tolist()),
            bytes(it.hash_chunks(x, "blake3", chunk_size=4).reshape(-1).tolist()),
            it.hash_chunks(b"", "blake3", chunk_size=4).device.type.encode(),
            it.hash_batch([], "hmac_sha256", key=[]).device.type.encode(),
            it.mac_tensors({"a": x}, bytes(32), nonce=bytes(16))["a"],
            it.models.Manifest.build({"a": x}).root,
            it.LtHash().add(x).checksum(),
            bytes(it.hkdf_batch([b"a"], "sha256", length=4).reshape(-1).tolist()),
            bytes(it.pbkdf2_batch([b"a"], "sha256", salt=b"s", iterations=2).reshape(-1).tolist()),
        ]

    expected = everything()
    with torch.device("meta"):
        assert everything() == expected


def test_a_state_dict_of_anything():
    """What is no tensor and what has no name stays for the errors of those who use it."""
    state = {1: torch.ones(1), "a": 5, None: None}
    assert flattened(state) == state
    assert list(flattened({"b": 1, "a": 2})) == ["b", "a"]


def test_the_memory_of_a_tensor_outlives_it():
    array = host_memory(torch.arange(1000, dtype=torch.int64))
    assert array.view(np.int64).tolist() == list(range(1000))
