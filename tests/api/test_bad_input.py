"""Wrong messages, keys and outputs raise a specific exception that says what is allowed."""

from __future__ import annotations

import array

import numpy as np
import pytest
import torch

import integrity_triton as it


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("text", TypeError, "text must be encoded"),
        (None, TypeError, "bytes-like or a torch tensor, not NoneType"),
        (5, TypeError, "bytes-like or a torch tensor, not int"),
        ([1, 2], TypeError, "bytes-like or a torch tensor, not list"),
        (memoryview(b"abcdef")[::2], BufferError, "C-contiguous"),
        (memoryview(array.array("I", [1, 2, 3]))[::2], BufferError, "C-contiguous"),
        (np.asfortranarray(np.ones((2, 3))), BufferError, "C-contiguous"),
        (np.array([None]), TypeError, "not of Python objects"),
        (torch.eye(3).to_sparse(), TypeError, "layout torch.sparse_coo"),
        (torch.empty(3, device="meta"), ValueError, "meta tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_data_that_is_no_message(data, error, message, backend):
    for call in (
        lambda: it.sha256(data, backend=backend),
        lambda: it.sha256(backend=backend).update(data),
        lambda: it.hash_batch([b"fine", data], "sha256", backend=backend),
        lambda: it.hash_chunks(data, "sha256", chunk_size=4, backend=backend),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised_tensors():
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match="int_repr"):
        it.sha256(quantised)
    with pytest.raises(TypeError, match="int_repr"):
        it.hash_batch(quantised.reshape(2, 2), "sha256")


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(4)
    with pytest.raises(ValueError, match="fake tensor has no data"):
        it.sha256(fake)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_dense_bytes():
    for x in (
        torch.eye(4).to_sparse_csr(),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    ):
        with pytest.raises(TypeError, match="no dense bytes"):
            it.hash_batch([x], "sha256")


def test_wrapper_subclasses():
    from torch.testing._internal.two_tensor import TwoTensor

    with pytest.raises(TypeError, match="TwoTensor is a wrapper"):
        it.hash_batch([TwoTensor(torch.ones(2), torch.ones(2))], "sha256")


def test_a_hash_object_is_left_as_it_was_by_bad_data():
    hasher = it.sha256(b"abc")
    with pytest.raises(TypeError):
        hasher.update("def")
    assert hasher.digest() == it.sha256(b"abc").digest()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: it.sha256(b"", key=b"k"), ValueError, "sha256 takes no key"),
        (lambda: it.blake3(b"", key=b"k"), ValueError, "key must be 32 bytes long, not 1"),
        (lambda: it.blake3(b"", key="k" * 32), TypeError, "key must be bytes-like, not str"),
        (lambda: it.blake3(b"", derive_key_context=b"x"), TypeError, "must be str, not bytes"),
        (lambda: it.blake3(b"", key=bytes(32), derive_key_context="x"), ValueError, "exclude each other"),
        (lambda: it.sha256(b"", rounds=63), ValueError, r"no parameter 'rounds' \(allowed: none\)"),
        (lambda: it.blake3(b"", salt=b"x"), ValueError, r"'salt' \(allowed: key, derive_key_context\)"),
        (lambda: it.blake3(b"").digest(-1), ValueError, "must not be negative, got -1"),
        (lambda: it.blake3(b"").digest(1.5), TypeError, "length must be int"),
        (lambda: it.blake3(b"").digest(True), TypeError, "length must be int"),
        (lambda: it.blake3(b"").digest(1, seek=-1), ValueError, "seek must be between"),
        (lambda: it.blake3(b"").digest(2, seek=2**64 - 1), ValueError, "seek must be between"),
        (lambda: it.sha256(b"").digest(32), TypeError, "takes no length"),
        (lambda: it.sha256(b"").verify(bytes(32)), TypeError, "without a key"),
        (lambda: it.blake3(b"").verify(bytes(32)), TypeError, "without a key"),
        (lambda: it.blake3(b"", key=bytes(32)).verify("00" * 32), TypeError, "text must be encoded"),
        (lambda: it.hash_batch([b""], "sha256", length=31), ValueError, "fixed digest of 32 bytes, not 31"),
        (lambda: it.hash_batch([b""], "blake3", length=-1), ValueError, "must not be negative"),
        (lambda: it.hash_batch([b""], "sha256", key=b"k"), ValueError, "takes no key"),
        (lambda: it.hash_batch(b"abc", "sha256"), TypeError, "pass \\[message\\]"),
        (lambda: it.hash_batch("abc", "sha256"), TypeError, "pass \\[message\\]"),
        (lambda: it.hash_batch(5, "sha256"), TypeError, "2-D tensor or a sequence"),
        (lambda: it.hash_batch(torch.ones(3), "sha256"), ValueError, "has 1 dimensions"),
        (lambda: it.hash_batch(torch.ones(3, 3, 3), "sha256"), ValueError, "has 3 dimensions"),
        (lambda: it.hash_batch(torch.eye(3).to_sparse(), "sha256"), TypeError, "no dense bytes"),
        (lambda: it.hash_batch(torch.empty(2, 2, device="meta"), "sha256"), ValueError, "meta tensor"),
        (lambda: it.hash_chunks(b"abc", "sha256", chunk_size=0), ValueError, "must be positive, got 0"),
        (lambda: it.hash_chunks(b"abc", "sha256", chunk_size=-4), ValueError, "must be positive"),
        (lambda: it.hash_chunks(b"abc", "sha256", chunk_size=2.0), TypeError, "chunk_size must be int"),
        (lambda: it.hash_chunks(b"abc", "sha256", chunk_size=2**63), ValueError, "less than 2\\*\\*63"),
        (lambda: it.LtHash().add_tensor("a", b"abc", chunk_size=2**64), ValueError, "less than 2\\*\\*63"),
        (lambda: it.crc_combine("crc32", bytes(4), bytes(4), 1.5), TypeError, "second_length must be int"),
        (lambda: it.crc_combine("crc32", bytes(4), bytes(4), True), TypeError, "second_length must be int"),
    ],
)
def test_parameters(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.empty((2, 31), dtype=torch.uint8), ValueError, r"uint8 of shape \(2, 32\)"),
        (torch.empty((2, 32), dtype=torch.int8), ValueError, "not torch.int8"),
        (torch.empty((2, 32), dtype=torch.uint8, device="meta"), ValueError, "messages' device cpu"),
        (bytearray(64), TypeError, "must be a torch tensor"),
        (torch.empty(40, dtype=torch.uint8).as_strided((2, 32), (1, 1)), ValueError, "memory of its own"),
        (torch.empty(63, dtype=torch.uint8).as_strided((2, 32), (31, 1)), ValueError, "memory of its own"),
        (torch.empty((1, 32), dtype=torch.uint8).expand(2, 32), ValueError, "memory of its own"),
        (torch.empty((2, 1), dtype=torch.uint8).expand(2, 32), ValueError, "memory of its own"),
    ],
)
def test_outputs(out, error, message):
    with pytest.raises(error, match=message):
        it.hash_batch([b"a", b"b"], "sha256", out=out)


class _Elsewhere(torch.Tensor):
    """A CPU tensor that claims to be on another device, since there may be no such device."""

    @property
    def device(self):
        return torch.device("xpu:3")

    def detach(self):
        return self

    def contiguous(self):
        return self

    def reshape(self, *shape):
        return self


def test_messages_on_different_devices():
    elsewhere = torch.zeros(4, dtype=torch.uint8).as_subclass(_Elsewhere)
    with pytest.raises(ValueError, match="message 0 is on cpu, message 1 on xpu:3"):
        it.hash_batch([b"here", elsewhere], "sha256")


def test_hash_objects_show_nothing_secret_and_do_not_pickle():
    import pickle

    hasher = it.blake3(b"data", key=b"secret key of 32 bytes length 00")
    assert "secret" not in repr(hasher)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(hasher)


def test_outputs_of_any_strides():
    expected = it.hash_batch([b"a", b"b"], "sha256")
    for out in (
        torch.zeros(2, 40, dtype=torch.uint8)[:, 4:36],
        torch.zeros(32, 2, dtype=torch.uint8).t(),
        torch.zeros(4, 64, dtype=torch.uint8)[::2, ::2],
        torch.zeros(1, 32, dtype=torch.uint8),
    ):
        messages = [b"a", b"b"][: len(out)]
        assert it.hash_batch(messages, "sha256", out=out) is out
        assert out.equal(expected[: len(out)])
    one = torch.zeros(1, 32, dtype=torch.uint8).expand(1, 32)
    assert it.hash_batch([b"a"], "sha256", out=one).equal(expected[:1])
    assert it.hash_batch([], "sha256", out=torch.zeros(0, 32, dtype=torch.uint8)).shape == (0, 32)
    assert it.hash_batch([b"a"], "blake3", length=0, out=torch.zeros(1, 0, dtype=torch.uint8)).shape == (1, 0)


def test_a_chunk_may_be_as_large_as_addresses_go():
    for backend in ("native", None):
        chunks = it.hash_chunks(b"abc", "sha256", chunk_size=2**63 - 1, backend=backend)
        assert bytes(chunks[0].tolist()) == it.sha256(b"abc").digest()
