"""Tags of tensors: the definition in docs/guide/mac_tensors.md is implemented again, and wrong input is
refused."""

from __future__ import annotations

import json

import pytest
import torch

import integrity_triton as it
from integrity_triton import algorithms
from integrity_triton.backends import registry
from oracles.blake3_plain import blake3
from oracles.poly1305_plain import poly1305
from support import device_of, guard, tensor_message

KEY, NONCE = bytes(range(32)), bytes(range(100, 116))


@pytest.fixture(autouse=True)
def guarded(request, monkeypatch):
    if "backend" not in request.fixturenames:
        yield
        return
    yield from guard(monkeypatch, request.getfixturevalue("backend"))


@pytest.fixture
def tensors(backend):
    for name in ("blake3", "poly1305"):
        reason = registry.get(backend).unsupported(algorithms.get(name))
        if reason is not None:
            pytest.skip(f"absent: {reason}")
    generator = torch.Generator().manual_seed(3)
    made = {
        "layers.0.weight": torch.randn(37, 11, generator=generator),
        "layers.0.bias": torch.randn(37, generator=generator).to(torch.bfloat16),
        "transposed": torch.randint(0, 200, (9, 7), generator=generator).to(torch.int16).t(),
        "one byte": torch.ones(1, dtype=torch.bool),
        "none": torch.empty((0, 3)),
        "whole": torch.arange(128, dtype=torch.uint8),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
    }
    return {name: tensor.to(device_of(backend)) for name, tensor in made.items()}


def definition(name, tensor, chunk_size):
    """The tag and the chunk tags of a tensor."""

    def f(data: bytes) -> bytes:
        return blake3(data, key=KEY).digest(16)

    def counted(data: bytes) -> bytes:
        return len(data).to_bytes(8, "little") + data

    shape = [tensor.dim(), *tensor.shape]
    identity = blake3(
        counted(name.encode())
        + counted(str(tensor.dtype).partition(".")[2].encode())
        + b"".join(n.to_bytes(8, "little") for n in shape)
    ).digest(32)
    data = tensor_message(tensor)
    r = f(b"ITmac1.r" + NONCE + bytes(40))
    tags = []
    for c, start in enumerate(range(0, len(data), chunk_size)):
        s = f(b"ITmac1.p" + NONCE + identity + c.to_bytes(8, "little"))
        tags.append(poly1305(data[start : start + chunk_size], key=r + s).digest())
    count = len(tags).to_bytes(8, "little")
    return f(b"ITmac1.t" + NONCE + identity + count + b"".join(tags)), tags


@pytest.mark.parametrize("chunk_size", [16, 128, 4 << 20])
def test_the_definition(tensors, backend, chunk_size):
    tags = it.mac_tensors(tensors, KEY, nonce=NONCE, chunk_size=chunk_size, backend=backend)
    assert tags.names == tuple(tensors)
    assert len(tags) == len(tensors)
    for name, tensor in tensors.items():
        tag, chunks = definition(name, tensor, chunk_size)
        assert tags[name] == tag, name
        found = tags.chunk_tags(name)
        assert found.device.type == device_of(backend).type
        assert [bytes(row.tolist()) for row in found] == chunks, name


def test_what_was_tagged_verifies(tensors, backend):
    tags = it.mac_tensors(tensors, KEY, chunk_size=64, backend=backend)
    tags.verify(tensors, KEY, backend=backend)
    tags.verify(dict(reversed(tensors.items())), KEY, backend=backend)
    tags.verify({"whole": tensors["whole"].clone()}, KEY, partial=True, backend=backend)
    with pytest.raises(it.TagMismatch, match="missing: ") as nothing:
        tags.verify({}, KEY, partial=True, backend=backend)
    assert {name for name, _ in nothing.value.mismatches} == set(tensors)
    again = it.mac_tensors(tensors, KEY, chunk_size=64, backend=backend)
    assert again.nonce != tags.nonce
    assert again["whole"] != tags["whole"]
    stored = it.TensorTags.from_json(tags.to_json())
    stored.verify(tensors, KEY, backend=backend)
    assert [stored[name] for name in tensors] == [tags[name] for name in tensors]


def test_a_flipped_bit_is_named(tensors, backend):
    tags = it.mac_tensors(tensors, KEY, chunk_size=64, backend=backend)
    for byte, bit, chunk in ((0, 0, 0), (63, 7, 0), (64, 3, 1), (127, 7, 1)):
        tensors["whole"][byte] ^= 1 << bit
        with pytest.raises(
            it.TagMismatch, match=f"'whole': chunk {chunk} of 2, from byte {64 * chunk} "
        ) as caught:
            tags.verify(tensors, KEY, backend=backend)
        assert caught.value.mismatches == (("whole", chunk),)
        assert isinstance(caught.value, it.IntegrityError)
        tensors["whole"][byte] ^= 1 << bit
    tensors["whole"][:] += 1
    tensors["one byte"].logical_not_()
    with pytest.raises(it.TagMismatch, match="'whole': 2 chunks of 2, the first from byte 0") as caught:
        tags.verify(tensors, KEY, backend=backend)
    assert caught.value.mismatches == (("one byte", 0), ("whole", 0), ("whole", 1))


def test_what_a_tag_is_bound_to(tensors, backend):
    tags = it.mac_tensors(tensors, KEY, chunk_size=64, backend=backend)

    def refused(changed, says, key=KEY):
        with pytest.raises(it.TagMismatch, match=says) as caught:
            tags.verify(changed, key, backend=backend)
        assert caught.value.mismatches

    rest = {k: v for k, v in tensors.items() if k != "whole"}
    refused(rest, "missing: 'whole'")
    refused({**tensors, "more": tensors["whole"]}, "no tag for 'more'")
    refused(
        {**rest, "whole": tensors["whole"].view(torch.int8)}, r"is int8\[128\], and uint8\[128\] was tagged"
    )
    refused({**rest, "whole": tensors["whole"].view(2, 64)}, r"is uint8\[2, 64\], and")
    refused({**rest, "whole": tensors["whole"].roll(64)}, "'whole': 2 chunks of 2")
    refused(tensors, "the tags do not match", key=bytes(32))
    # The tags of two chunks are exchanged. Someone who can write to the place where tags are stored could do
    # this.
    document = json.loads(tags.to_json())
    for entry in document["tensors"]:
        if entry["name"] == "whole":
            entry["chunks"] = entry["chunks"][32:] + entry["chunks"][:32]
    with pytest.raises(it.TagMismatch, match="2 chunks of 2"):
        it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY, backend=backend)
    document = json.loads(tags.to_json())
    document["tensors"][0]["tag"] = "00" * 16
    with pytest.raises(it.TagMismatch, match=r"match: 'layers\.0\.weight'$"):
        it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY, backend=backend)
    document = json.loads(tags.to_json())
    for entry in document["tensors"]:
        if entry["name"] == "whole":
            entry["chunks"] = entry["chunks"][32:]
    with pytest.raises(it.TagMismatch, match="'whole'"):
        it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY, backend=backend)


def test_equal_tensors_have_different_tags(tensors, backend):
    twins = {"a": tensors["whole"], "b": tensors["whole"].clone(), "c": tensors["whole"].repeat(2)}
    tags = it.mac_tensors(twins, KEY, chunk_size=128, backend=backend)
    found = [bytes(row.tolist()) for name in twins for row in tags.chunk_tags(name)]
    assert len(set(found)) == 4


def test_thousands_of_tensors():
    many = {f"t{i}": torch.full((i % 70,), i % 251, dtype=torch.uint8) for i in range(3000)}
    tags = it.mac_tensors(many, KEY, nonce=NONCE, chunk_size=32)
    for name in ("t0", "t31", "t64", "t2999"):
        assert tags[name] == definition(name, many[name], 32)[0]
    many["t2000"][5] += 1
    with pytest.raises(it.TagMismatch, match=r"'t2000': chunk 0 of 2, from byte 0 on$"):
        tags.verify(many, KEY)


def test_nothing_to_tag():
    tags = it.mac_tensors({}, KEY)
    assert tags.names == ()
    tags.verify({}, KEY)
    assert it.TensorTags.from_json(tags.to_json()).names == ()


def test_no_key_is_told():
    tags = it.mac_tensors({"a": torch.ones(3)}, KEY)
    assert KEY.hex()[:20] not in repr(tags) + tags.to_json()
    with pytest.raises(ValueError, match="key must be 32 bytes long, not 33") as caught:
        it.mac_tensors({}, KEY + b"x")
    assert repr(KEY)[2:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: it.mac_tensors(torch.nn.ReLU(), KEY), TypeError, r"such as model\.state_dict\(\), not ReLU"),
        (lambda: it.mac_tensors({}, b"short"), ValueError, "key must be 32 bytes long, not 5"),
        (lambda: it.mac_tensors({}, "x" * 32), TypeError, "key must be bytes-like, not str"),
        (lambda: it.mac_tensors({}, None), TypeError, "key must be bytes-like, not NoneType"),
        (lambda: it.mac_tensors({}, KEY, nonce=b""), ValueError, "nonce must be 16 bytes long, not 0"),
        (lambda: it.mac_tensors({}, KEY, chunk_size=24), ValueError, "a multiple of 16"),
        (lambda: it.mac_tensors({}, KEY, chunk_size=0), ValueError, "a multiple of 16"),
        (lambda: it.mac_tensors({}, KEY, chunk_size=16.0), TypeError, "chunk_size must be int"),
        (lambda: it.mac_tensors({1: torch.ones(1)}, KEY), TypeError, "named by a str"),
        (lambda: it.mac_tensors({"a": b"bytes"}, KEY), TypeError, "'a' is a bytes, not a tensor"),
        (
            lambda: it.mac_tensors({"a": torch.ones(2).to_sparse()}, KEY),
            TypeError,
            "tensor 'a': .* no dense bytes",
        ),
        (
            lambda: it.mac_tensors({"a": torch.ones(2, device="meta")}, KEY),
            ValueError,
            "tensor 'a': a meta tensor",
        ),
        (lambda: it.TensorTags.from_json("{}"), ValueError, "these are not tags of tensors"),
        (lambda: it.TensorTags.from_json("nonsense"), ValueError, "these are not tags of tensors"),
        (lambda: it.TensorTags.from_json("[" * 100000), ValueError, "these are not tags of tensors"),
    ],
)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "another"),
        ("nonce", "00"),
        ("chunk_size", 7),
        ("chunk_size", "16"),
        ("tensors", [{}]),
        ("tensors", None),
        ("name", 1),
        ("shape", [-1]),
        ("shape", "3"),
        ("shape", [True]),
        ("tag", "00" * 15),
        ("tag", ""),
        ("tag", "00" * 32),
        ("tag", " " + "00" * 16),
        ("tag", "AB" * 16),
        ("tag", None),
        ("chunks", "zz"),
        ("chunks", "00" * 17),
        ("chunks", " ".join(["00"] * 16)),
        ("chunks", "00" * 16 + "\n"),
        ("chunks", "AB" * 16),
        ("nonce", "0 " * 16),
        ("nonce", "AB" * 16),
        ("shape", [1 << 63]),
        ("shape", [3.0]),
        ("dtype", 1),
        ("name", "\ud800"),
        ("tensors", {}),
        ("tensors", [[]]),
    ],
)
def test_stored_tags_that_are_none(field, value):
    document = json.loads(it.mac_tensors({"a": torch.ones(3)}, KEY).to_json())
    (document if field in document else document["tensors"][0])[field] = value
    with pytest.raises(ValueError, match="these are not tags of tensors"):
        it.TensorTags.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "key", ["nonce", "chunk_size", "format", "tensors", "tag", "chunks", "name", "shape"]
)
def test_stored_tags_with_a_key_twice(key):
    text = it.mac_tensors({"a": torch.ones(3)}, KEY).to_json()
    assert text.count(f'"{key}":') == 1
    twice = text.replace(f'"{key}":', f'"{key}": "other", "{key}":')
    with pytest.raises(ValueError, match=f"not tags of tensors: the key '{key}' occurs twice"):
        it.TensorTags.from_json(twice)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 30])
def test_another_number_of_chunk_tags(count):
    """If there are no tags, or one tag for several chunks, these must not be compared with each chunk."""
    tensors = {"a": torch.zeros(3, 16, dtype=torch.uint8), "b": torch.zeros(16, dtype=torch.uint8)}
    document = json.loads(it.mac_tensors(tensors, KEY, chunk_size=16).to_json())
    for entry, needed in zip(document["tensors"], (3, 1), strict=True):
        if count == needed:
            continue
        kept, entry["chunks"] = entry["chunks"], (entry["chunks"] * 30)[: 32 * count]
        with pytest.raises(it.TagMismatch, match=f"'{entry['name']}' has {needed} chunks") as caught:
            it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY)
        assert caught.value.mismatches == ((entry["name"], None),)
        entry["chunks"] = kept
    it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY)


def test_all_differing_tensors_are_named():
    tensors = {"a": torch.zeros(16), "b": torch.zeros(16), "empty": torch.zeros(0)}
    document = json.loads(it.mac_tensors(tensors, KEY).to_json())
    document["tensors"][2]["tag"] = "00" * 16
    tensors["b"][0] = 1
    with pytest.raises(it.TagMismatch, match="'b': chunk 0 of 1, from byte 0 on, 'empty'") as caught:
        it.TensorTags.from_json(json.dumps(document)).verify(tensors, KEY)
    assert caught.value.mismatches == (("b", 0), ("empty", None))


def test_stored_tags_with_a_field_more():
    document = json.loads(it.mac_tensors({"a": torch.ones(3)}, KEY).to_json())
    for where in (document, document["tensors"][0]):
        where["more"] = 1
        with pytest.raises(ValueError, match="not tags of tensors: unknown field 'more'"):
            it.TensorTags.from_json(json.dumps(document))
        del where["more"]


def test_names_that_are_not_text():
    with pytest.raises(ValueError, match=r"tensor name '\\ud800' has a lone surrogate"):
        it.mac_tensors({"\ud800": torch.zeros(1)}, KEY)


def test_refused_types_of_stored_tags():
    for text in (None, 3, {}):
        with pytest.raises(TypeError, match="str or bytes"):
            it.TensorTags.from_json(text)
