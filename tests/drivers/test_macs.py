"""What holds for every keyed algorithm on every backend: which keys and tags there are, what is refused, and
what is not kept."""

from __future__ import annotations

import gc
import logging
import traceback

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.drivers.base import Secrets
from support import (
    device_of,
    example,
    guard,
    hash_batch,
    new,
    on_device,
    oracle,
    pattern,
    required,
    rows_as_bytes,
    size_of,
)

KEYED = [record for record in algorithms.all_algorithms() if record.keyed != "no"]
LENGTHS = (0, 1, 16, 33, 70)


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    yield from guard(monkeypatch, request.getfixturevalue("backend"))


def parameters(record):
    """The fewest parameters with which an algorithm computes a MAC."""
    (key,) = (p for p in record.parameters if p.name == "key")
    return {"key": example(key), **required(record)}


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def differing(record, count):
    """For each parameter that may have a value per message, values that all differ."""
    values = parameters(record)
    names = [p.name for p in record.parameters if p.per_message and p.name in values]
    return {name: [flipped(values[name], 5 * i) for i in range(count)] for name in names}


def test_every_message_has_its_own_key(mac, backend):
    messages = [pattern(n) for n in LENGTHS]
    each = differing(mac, len(messages))
    expected = [
        oracle(mac, m, **{name: values[i] for name, values in each.items()}) for i, m in enumerate(messages)
    ]
    assert len(set(expected)) == len(messages)
    rows = {name: torch.tensor([list(v) for v in values], dtype=torch.uint8) for name, values in each.items()}
    on_the_device = {name: value.to(device_of(backend)) for name, value in rows.items()}
    for given in (each, rows, on_the_device):
        assert rows_as_bytes(hash_batch(messages, mac.name, backend=backend, **given)) == expected
    # Then the rows of one tensor, and a batch of one message.
    data = on_device(pattern(len(messages) * 20), backend).reshape(-1, 20)
    expected = [
        oracle(mac, pattern(len(messages) * 20)[20 * i : 20 * i + 20], **{n: v[i] for n, v in each.items()})
        for i in range(len(messages))
    ]
    assert rows_as_bytes(hash_batch(data, mac.name, backend=backend, **each)) == expected
    one = {name: values[2:3] for name, values in each.items()}
    assert rows_as_bytes(hash_batch(data[2:3], mac.name, backend=backend, **one)) == expected[2:3]


def test_keys_of_different_lengths(mac, backend):
    (key,) = (p for p in mac.parameters if p.name == "key")
    if key.sizes is None and key.min_size == key.max_size:
        pytest.skip("not applicable: keys of one length")
    sizes = key.sizes or [n for n in (1, 2, 31, 64, 200) if key.max_size is None or n <= key.max_size]
    messages = [pattern(10 * i) for i in range(len(sizes))]
    keys = [pattern(n + 3)[3:] for n in sizes]
    expected = [oracle(mac, m, key=k) for m, k in zip(messages, keys, strict=True)]
    assert rows_as_bytes(hash_batch(messages, mac.name, key=keys, backend=backend)) == expected
    assert [
        new(mac.name, m, key=k, backend=backend).digest() for m, k in zip(messages, keys, strict=True)
    ] == expected


def test_a_bit_anywhere_changes_the_tag(mac, backend):
    given, message = parameters(mac), pattern(37)
    tag = new(mac.name, message, backend=backend, **given).digest()

    def verify(message, tag, **changed):
        new(mac.name, message, backend=backend, **{**given, **changed}).verify(tag)

    verify(message, tag)
    verify(message, on_device(tag, backend))
    last = 8 * len(tag) - 1
    wrong = [flipped(tag, bit) for bit in (0, last // 2, last)]
    wrong += [tag[:-1], tag[1:], tag + b"\0", b"\0" + tag, tag + tag, b"", bytes(len(tag))]
    others = [flipped(message, 0), flipped(message, 8 * 37 - 1), message[:-1], message + b"\0", b""]
    if backend == "interpreter":  # a block takes up to a tenth of a second
        wrong, others = wrong[2:4], others[1:2]
    for other in wrong:
        with pytest.raises(it.IntegrityError, match="does not match"):
            verify(message, other)
    for other in others:
        with pytest.raises(it.IntegrityError, match="does not match"):
            verify(other, tag)
    for name, value in given.items():
        # Some bits of a Poly1305 key have no effect (RFC 8439, section 2.5). None of the flipped bits is one
        # of them.
        for bit in (0, 8 * len(value) - 8):
            with pytest.raises(it.IntegrityError, match="does not match"):
                verify(message, tag, **{name: flipped(value, bit)})


def test_shorter_tags(mac, backend):
    sized = [p for p in mac.parameters if p.name == "digest_size"]
    if not sized or mac.xof:
        pytest.skip("not applicable: tags of one size")
    (sizes,) = ((p.choices or (p.minimum, p.maximum)) for p in sized)
    message, given = pattern(50), parameters(mac)
    for size in [size for size in sizes if size <= 1000]:
        hasher = new(mac.name, message, digest_size=size, backend=backend, **given)
        assert hasher.digest_size == size
        tag = hasher.digest()
        assert tag == oracle(mac, message, digest_size=size, **given)
        assert len(tag) == size
        hasher.verify(tag)
        batch = hash_batch([message], mac.name, digest_size=size, backend=backend, **given)
        assert rows_as_bytes(batch) == [tag]
    least = min(sizes)
    if mac.keyed == "required":
        with pytest.raises(ValueError, match="digest_size must be"):
            new(mac.name, message, digest_size=least - 1, backend=backend, **given)


def test_device_memory_with_keys_is_overwritten(mac, backend, monkeypatch):
    if backend == "native":
        pytest.skip("not applicable: the keys of CPU libraries are theirs")
    held = []
    hold = Secrets.hold
    monkeypatch.setattr(Secrets, "hold", lambda self, memory: held.append(memory) or hold(self, memory))
    each = differing(mac, 3)
    hash_batch([pattern(n) for n in (0, 5, 70)], mac.name, backend=backend, **each)
    hash_batch([pattern(5)], mac.name, backend=backend, **parameters(mac))
    assert held
    assert not any(memory.any() for memory in held)
    held.clear()

    hasher = new(mac.name, pattern(200), backend=backend, **parameters(mac))
    tag, twin = hasher.digest(), hasher.copy()
    del hasher
    gc.collect()
    assert twin.digest() == tag, "a copy lost its key"
    assert held
    del twin
    gc.collect()
    assert not any(memory.any() for memory in held)


def test_an_interrupt_leaves_no_key_in_device_memory():
    class Interrupting:
        """Memory during whose overwriting the first interrupt comes."""

        device = torch.device("cpu")

        def is_contiguous(self):
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            return False

        def element_size(self):
            return 4

        def zero_(self):
            pass

    interrupted = []
    keys = torch.ones(2, 4)
    secrets = Secrets()
    secrets.hold(keys[0])
    secrets.hold(Interrupting())
    secrets.hold(keys[1])
    with pytest.raises(KeyboardInterrupt):
        secrets.__del__()
    assert interrupted
    assert not keys.any()


def test_no_key_is_told(mac, backend, caplog):
    """Objects, errors, logged messages and formatted tracebacks do not show the key."""
    given = parameters(mac)
    key = given["key"]
    told = []
    with caplog.at_level(logging.DEBUG):
        hasher = new(mac.name, b"message", backend=backend, **given)
        told += [repr(hasher._hasher), str(hasher._hasher), repr(it.algorithms.get(mac.name))]
        hasher.digest()
        for call in (
            lambda: hasher.verify(bytes(size_of(mac))),
            lambda: hasher.update("text"),
            lambda: it.new(mac.name, b"", **{**given, "key": key + bytes(1000)}, backend="no such backend"),
            lambda: it.new(mac.name, b"", **{**given, "key": key.hex()}),
            lambda: it.new(mac.name, b"", **{**given, "key": [key]}),
            lambda: it.new(mac.name, b"", no_such_parameter=1, **given),
            lambda: it.hash_batch([b"", b""], mac.name, **{**given, "key": [key]}),
            lambda: it.hash_batch([b"", b""], mac.name, **{**given, "key": [key, key.hex()]}),
            lambda: it.hash_batch([b"", b""], mac.name, length=-1, **given),
        ):
            with pytest.raises((ValueError, TypeError, it.IntegrityTritonError)) as caught:
                call()
            told.append("".join(traceback.format_exception_only(caught.type, caught.value)))
    told.append(caplog.text)
    spellings = (key.hex(), repr(key)[2:-1], str(list(key))[1:-1], repr(bytearray(key)))
    for text in told:
        assert not any(spelling[:20] in text for spelling in spellings), text


@pytest.mark.parametrize("record", KEYED, ids=lambda record: record.name)
def test_what_is_no_key(record):
    given = parameters(record)
    name = record.name
    if record.keyed == "required":
        with pytest.raises(ValueError, match="needs a key"):
            it.new(name, b"", **{k: v for k, v in given.items() if k != "key"})
        with pytest.raises(ValueError, match="key must be"):
            it.new(name, b"", **{**given, "key": b""})
    for wrong in ("text", 1, [given["key"]], torch.zeros(2, 16)):
        with pytest.raises(TypeError, match="key must be bytes-like"):
            it.new(name, b"", **{**given, "key": wrong})
    for wrong, error, says in (
        ([given["key"]], ValueError, "1 values for 2 messages"),
        ([given["key"], b""], ValueError, "key of message 1 must be"),
        (
            [given["key"], "text"],
            TypeError,
            "key of message 1 must be bytes-like, not str; text must be",
        ),
        ([given["key"], 5], TypeError, "key of message 1 must be bytes-like, not int"),
        (torch.zeros((3, 16), dtype=torch.uint8), ValueError, "3 values for 2 messages"),
    ):
        with pytest.raises(error, match=says):
            it.hash_batch(
                [b"a", b"b"], name, **{**given, "key": wrong}, length=None if record.digest_size else 32
            )
    assert it.hash_batch([], name, **{**given, "key": []}).shape[0] == 0


def test_one_value_parameters_are_refused_as_lists():
    with pytest.raises(TypeError, match="customization must be the same for all messages"):
        it.hash_batch([b"a"], "kmac_128", key=b"k", customization=[b"c"])


def test_hmac_is_there_for_every_hash():
    for record in algorithms.all_algorithms():
        name = f"hmac_{record.name}"
        plain = record.keyed != "required" and record.security is not algorithms.Security.CHECKSUM
        if plain and record.digest_size and not record.takes_tuples:
            derived = algorithms.get(name)
            assert derived is algorithms.get(f"HMAC-{record.name}")
            assert derived.security is not algorithms.Security.BROKEN
        else:
            assert name not in it.algorithms_available
    assert algorithms.get("hmac-sha512/256").name == "hmac_sha512_256"


def test_a_hash_from_elsewhere_gets_its_hmac(monkeypatch):
    import dataclasses

    for table in ("_records", "_names"):
        monkeypatch.setattr(algorithms, table, dict(getattr(algorithms, table)))
    algorithms.register(dataclasses.replace(algorithms.get("sha256"), name="sha256_theirs", aliases=()))
    tag = it.new("hmac_sha256_theirs", b"m", key=b"k").digest()
    assert tag == it.new("hmac_sha256", b"m", key=b"k").digest()
