"""The replacement for ``torch.hash_tensor``, beside the original."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch

from integrity_triton.integrations.torch_hash import digest_tensor, hash_tensor
from support import device_of

blake3 = pytest.importorskip("blake3", reason="absent: blake3").blake3

_DIMS = [(), None, 0, 1, -1, (0,), (1, 2), [0, 2], (2, 0), (0, 1, 2), (-1, 0)]


@pytest.fixture
def tensor() -> torch.Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(22))


def _slices(array: np.ndarray, dim: object) -> np.ndarray:
    """The bytes of each slice, from the definition and with NumPy alone."""
    named = [dim] if isinstance(dim, int) else list(dim or range(array.ndim))
    reduced = {d % array.ndim for d in named}
    kept = [d for d in range(array.ndim) if d not in reduced]
    found = np.empty([array.shape[d] for d in kept], dtype=object)
    for index in np.ndindex(*found.shape):
        where = [slice(None)] * array.ndim
        for d, i in zip(kept, index, strict=True):
            where[d] = i
        found[index] = array[tuple(where)].tobytes()
    return found


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", _DIMS, ids=str)
def test_the_shape_is_that_of_torch(tensor: torch.Tensor, dim: object, keepdim: bool) -> None:
    original = torch.hash_tensor(tensor, dim, keepdim=keepdim)
    ours = hash_tensor(tensor, dim, keepdim=keepdim)
    assert (ours.shape, ours.dtype, ours.device) == (original.shape, original.dtype, original.device)
    assert not ours.requires_grad


@pytest.mark.parametrize("dim", [(), 1, (2, 0)], ids=str)
def test_values_are_the_first_bytes_of_digests(tensor: torch.Tensor, dim: object, backend: str) -> None:
    messages = _slices(tensor.numpy(), dim)
    expected = [int.from_bytes(blake3(message).digest()[:8], "little") for message in messages.flat]
    there = tensor.to(device_of(backend))
    assert hash_tensor(there, dim, backend=backend).flatten().tolist() == expected
    whole = digest_tensor(there, dim, algorithm="sha256", backend=backend)
    assert whole.shape == (*messages.shape, 32)
    rows = whole.reshape(-1, 32).cpu().numpy()
    assert [row.tobytes() for row in rows] == [hashlib.sha256(m).digest() for m in messages.flat]


def test_the_order_counts_where_it_does_not_in_torch() -> None:
    x = torch.arange(1000, dtype=torch.int32)
    swapped = x.clone()
    swapped[[3, 700]] = swapped[[700, 3]]
    changed_twice = x.clone()
    changed_twice[[5, 6]] ^= 1 << 20
    for other in (swapped, changed_twice, x.flip(0)):
        assert torch.hash_tensor(other) == torch.hash_tensor(x)
        assert hash_tensor(other) != hash_tensor(x)


def test_every_flipped_bit_is_noticed() -> None:
    x = torch.arange(16, dtype=torch.int16)
    seen = {hash_tensor(x).item()}
    for element, bit in itertools.product(range(16), range(15)):
        flipped = x.clone()
        flipped[element] ^= 1 << bit
        seen.add(hash_tensor(flipped).item())
    assert len(seen) == 1 + 16 * 15


def test_equal_values_of_other_dtypes_differ() -> None:
    x = torch.tensor([1.0, 2.0])
    assert torch.hash_tensor(x) == torch.hash_tensor(x.double())
    assert hash_tensor(x) != hash_tensor(x.double())


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.int64,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.complex64,
    ],
    ids=str,
)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.arange(6).reshape(2, 3).to(dtype)
    raw = x.view(torch.uint8).numpy()
    expected = [int.from_bytes(blake3(row.tobytes()).digest()[:8], "little") for row in raw]
    assert hash_tensor(x, 1).tolist() == expected


def test_tensors_that_are_not_contiguous(tensor: torch.Tensor) -> None:
    view = tensor.permute(2, 0, 1)[:, 1:]
    for dim in _DIMS:
        assert torch.equal(hash_tensor(view, dim), hash_tensor(view.contiguous(), dim))
    conjugated = torch.complex(tensor, tensor + 1).conj()
    assert torch.equal(hash_tensor(conjugated, 0), hash_tensor(conjugated.resolve_conj(), 0))
    assert not torch.equal(hash_tensor(conjugated, 0), hash_tensor(conjugated.conj(), 0))


def test_without_elements() -> None:
    nothing = int.from_bytes(blake3(b"").digest()[:8], "little")
    with pytest.raises(RuntimeError):
        torch.hash_tensor(torch.empty(0))
    assert hash_tensor(torch.empty(0)).tolist() == nothing
    assert hash_tensor(torch.empty(3, 0), 1).tolist() == [nothing] * 3
    assert hash_tensor(torch.empty(3, 0), 0).shape == torch.hash_tensor(torch.empty(3, 0), 0).shape == (0,)


def test_without_dimensions() -> None:
    x = torch.tensor(2.5)
    expected = int.from_bytes(blake3(x.numpy().tobytes()).digest()[:8], "little")
    for dim in [(), 0, -1]:
        assert hash_tensor(x, dim, keepdim=True).tolist() == expected
        assert torch.hash_tensor(x, dim).shape == hash_tensor(x, dim).shape == ()


def test_other_algorithms_and_keys(tensor: torch.Tensor) -> None:
    data, key = tensor.numpy().tobytes(), bytes(range(32))
    first = int.from_bytes(hashlib.sha3_256(data).digest()[:8], "little")
    assert hash_tensor(tensor, algorithm="sha3_256").tolist() == first
    first = int.from_bytes(hashlib.shake_128(data).digest(8), "little")
    assert hash_tensor(tensor, algorithm="shake_128").tolist() == first
    assert digest_tensor(tensor, key=key).numpy().tobytes() == blake3(data, key=key).digest()
    assert digest_tensor(tensor, length=50).numpy().tobytes() == blake3(data).digest(length=50)


def test_it_is_traced_as_one_graph(tensor: torch.Tensor) -> None:
    traced = torch.compile(lambda x: (hash_tensor(x, 1), hash_tensor(x)), backend="eager", fullgraph=True)
    rows, whole = traced(tensor)
    assert torch.equal(rows, hash_tensor(tensor, 1))
    assert torch.equal(whole, hash_tensor(tensor))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": 1}, ValueError, "mode must be 0"),
        ({"dim": 3}, IndexError, "no dimension 3; dim must be from -3 to 2"),
        ({"dim": (0, -3)}, RuntimeError, "dimension 0 is given twice"),
        ({"dim": "ab"}, TypeError, "dim must be an int"),
        ({"algorithm": "crc32"}, ValueError, "digests of 4 bytes"),
        ({"algorithm": "sha257"}, ValueError, "sha257"),
    ],
)
def test_errors(tensor: torch.Tensor, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hash_tensor(tensor, **options)


def test_what_is_no_tensor_with_bytes() -> None:
    with pytest.raises(TypeError, match="must be a torch tensor, not list"):
        hash_tensor([1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="meta tensor"):
        hash_tensor(torch.empty(2, 2, device="meta"))
    with pytest.raises(TypeError, match="no dense bytes"):
        hash_tensor(torch.eye(2).to_sparse())


@pytest.mark.parametrize("dim", [(), 0])
def test_tensors_without_dense_bytes(dim: int | tuple[int, ...]) -> None:
    for tensor in (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()):
        with pytest.raises(TypeError, match="no dense bytes"):
            hash_tensor(tensor, dim)
    with pytest.raises(ValueError, match="a meta tensor"):
        hash_tensor(torch.empty(3, 0, device="meta"), dim)
