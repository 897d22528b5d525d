"""Laws of MACs and of functions that are derived from them: HMAC, HKDF and PBKDF2 are made of the hash, CMAC
is a chain, GMAC and Poly1305 are polynomials over their fields, and the tags of tensors are made of
Poly1305."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

import integrity_triton as it
from inputs import any_bytes, near, random_bytes, randoms, values
from integrity_triton import algorithms
from oracles.aes_plain import Aes, doubled, ghash, padded, product
from oracles.blake3_plain import blake3
from oracles.poly1305_plain import P, clamp, value
from support import device_of, new, on_device, rows_as_bytes, size_of, tensor_message

# The number of bytes in a block of every hash with an HMAC, from the standards. For a sponge this is the rate
# (FIPS 202, section 7). BLAKE2bp and BLAKE2sp have 4 leaves with blocks of 128 bytes, and 8 leaves with
# blocks of 64.
BLOCKS = {
    **dict.fromkeys(["md5", "sha1", "ripemd160", "sm3", "sha224", "sha256", "blake2s", "blake3"], 64),
    **dict.fromkeys(["sha384", "sha512", "sha512_224", "sha512_256", "blake2b", "blake2xb"], 128),
    "blake2xs": 64,
    "blake2bp": 4 * 128,
    "blake2sp": 8 * 64,
    **{f"{name}_{bits}": 200 - bits // 4 for name in ("sha3", "keccak") for bits in (224, 256, 384, 512)},
    **{name.format(bits): 200 - bits // 4 for name in ("kt{}", "parallelhash_{}") for bits in (128, 256)},
    **{f"parallelhashxof_{bits}": 200 - bits // 4 for bits in (128, 256)},
}
# The number of bytes in a digest, from the standards, for one hash of each kind.
KDF_HASHES = {"sha256": 32, "sha512_224": 28, "md5": 16, "sha3_384": 48, "blake2b": 64, "blake3": 32}

short = any_bytes(200)


def xor(*strings: bytes) -> bytes:
    total = 0
    for s in strings:
        total ^= int.from_bytes(s, "big")
    return total.to_bytes(len(strings[0]), "big")


@pytest.fixture
def tags(backend):
    """The tags of several messages under one key, in one batch."""

    def of(name: str, *messages: bytes, **given) -> list[bytes]:
        views = [on_device(message, backend) for message in messages]
        return rows_as_bytes(it.hash_batch(views, name, backend=backend, **given))

    return of


def test_a_batch_with_a_key_a_message_is_streams_in_any_order(mac, backend, check, runs):
    runs(mac.name)
    per_message = {p.name: values(p).filter(len) for p in mac.parameters if p.per_message}
    sized = {} if mac.digest_size else {"length": size_of(mac)}

    @check(
        st.lists(st.tuples(short, st.fixed_dictionaries(per_message)), min_size=1, max_size=4),
        randoms(),
        share=3,
    )
    def _(items, rng):
        streams = []
        for message, given in items:
            cut = rng.randint(0, len(message))
            hasher = new(mac.name, message[:cut], backend=backend, **given)
            hasher.update(message[cut:])
            streams.append(hasher.digest())
        order = rng.sample(range(len(items)), len(items))
        each = {name: [items[i][1][name] for i in order] for name in per_message}
        batch = it.hash_batch([items[i][0] for i in order], mac.name, backend=backend, **each, **sized)
        assert rows_as_bytes(batch) == [streams[i] for i in order]


def test_the_block_sizes_are_of_every_hash_with_an_hmac():
    hmacs = {r.name for r in algorithms.all_algorithms() if r.construction.hmac_of is not None}
    assert hmacs == {f"hmac_{name}" for name in BLOCKS}


@pytest.mark.parametrize("name", BLOCKS)
def test_hmac_is_two_hashes(name, backend, check, runs):
    """RFC 2104, section 2, with a key of any length for each message. A shorter tag is the beginning of the
    whole tag."""
    runs(f"hmac_{name}", name, interpreted=name == "md5")
    size = BLOCKS[name]
    keys, messages, most = any_bytes(2 * size, 1), short, 5
    if backend == "interpreter":
        keys, messages, most = st.binary(min_size=1, max_size=20), st.binary(max_size=20), 1
    else:
        keys |= random_bytes(near(size))

    def hashed(messages: list[bytes]) -> list[bytes]:
        return rows_as_bytes(it.hash_batch(messages, name, backend=backend))

    @check(st.lists(st.tuples(keys, messages), min_size=1, max_size=most), st.floats(0, 1), share=3)
    def _(pairs, part):
        keys, messages = map(list, zip(*pairs, strict=True))
        digests = hashed(keys)
        used = [d if len(k) > size else k for k, d in zip(keys, digests, strict=True)]
        used = [k.ljust(size, b"\0") for k in used]
        inner = hashed([xor(k, b"\x36" * size) + m for k, m in zip(used, messages, strict=True)])
        expected = hashed([xor(k, b"\x5c" * size) + d for k, d in zip(used, inner, strict=True)])
        found = it.hash_batch(messages, f"hmac_{name}", key=keys, backend=backend)
        assert rows_as_bytes(found) == expected
        if backend != "interpreter":
            full = len(expected[0])
            least = max(10, -(-full // 2))
            n = least + round(part * (full - least))
            tag = it.new(f"hmac_{name}", messages[0], key=used[0], digest_size=n, backend=backend).digest()
            assert tag == expected[0][:n]


@pytest.fixture
def mac_of(backend):
    """HMACs of the backend, each message under its own key."""

    def of(name: str, keys: list[bytes], messages: list[bytes]) -> list[bytes]:
        return rows_as_bytes(it.hash_batch(messages, f"hmac_{name}", key=keys, backend=backend))

    return of


@pytest.mark.parametrize("name", KDF_HASHES)
def test_hkdf_is_a_chain_of_hmacs(name, backend, mac_of, check, runs):
    """RFC 5869, section 2. There is a salt for each material, or one for all; a missing salt consists of
    zeros."""
    runs(f"hmac_{name}")
    size = KDF_HASHES[name]
    items = st.lists(st.tuples(short, any_bytes(150, 1)), min_size=1, max_size=4)

    @check(items, st.none() | st.just(b"") | short, any_bytes(90), st.integers(1, 4 * size), share=2)
    def _(items, salt, info, length):
        materials, salts = map(list, zip(*items, strict=True))
        keys = mac_of(name, salts if salt is None else [salt or bytes(size)] * len(items), materials)
        blocks, expected = [b""] * len(items), [b""] * len(items)
        for i in range(1, -(-length // size) + 1):
            blocks = mac_of(name, keys, [block + info + bytes([i]) for block in blocks])
            expected = [e + block for e, block in zip(expected, blocks, strict=True)]
        given = {"length": length, "info": info, "salt": salts if salt is None else salt}
        found = it.hkdf_batch(materials, name, backend=backend, **given)
        assert rows_as_bytes(found) == [e[:length] for e in expected]


@pytest.mark.parametrize("name", KDF_HASHES)
def test_pbkdf2_is_a_sum_of_hmacs(name, backend, mac_of, check, runs):
    """RFC 8018, section 5.2. As the key of an HMAC, an empty password is the same as one zero byte."""
    runs(f"hmac_{name}")
    size = KDF_HASHES[name]
    passwords, salts = st.lists(short, min_size=1, max_size=3), st.none() | short
    lengths = st.integers(1, 3 * size)

    @check(passwords, salts, st.integers(1, 5), lengths, randoms(), share=2)
    def _(passwords, salt, iterations, length, rng):
        given = [rng.randbytes(rng.randrange(150)) if salt is None else salt for _ in passwords]
        keys = [password or b"\0" for password in passwords]
        expected = [b""] * len(passwords)
        for i in range(1, -(-length // size) + 1):
            u = [s + i.to_bytes(4, "big") for s in given]
            total = [bytes(size)] * len(passwords)
            for _ in range(iterations):
                u = mac_of(name, keys, u)
                total = [xor(t, each) for t, each in zip(total, u, strict=True)]
            expected = [e + t for e, t in zip(expected, total, strict=True)]
        found = it.pbkdf2_batch(
            passwords,
            name,
            salt=given if salt is None else salt,
            iterations=iterations,
            length=length,
            backend=backend,
        )
        assert rows_as_bytes(found) == [e[:length] for e in expected]


# An IV of twelve bytes is a part of the counter, and any other IV is hashed to a counter (SP 800-38D, section
# 7.1).
ivs = st.binary(min_size=12, max_size=12) | any_bytes(40, 1)
aes_keys = st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n))


def test_cmac_is_a_chain_of_aes(tags, check, runs):
    """SP 800-38B, section 6.2. The tag of one block is AES of the exclusive or of the block and a subkey. The
    tag of a longer message is the tag of its rest, into whose first block the chaining value of the blocks
    before is mixed. That value is itself a tag."""
    runs("cmac_aes")

    @check(aes_keys, random_bytes(st.sampled_from([16, 32, 48, 160])), random_bytes(near(16, 60, 100, by=9)))
    def _(key, first, rest):
        aes = Aes(key)
        k1 = doubled(aes.encrypt(bytes(16)))
        k2 = doubled(k1)
        if len(rest) < 16:
            block, subkey = rest + b"\x80" + bytes(15 - len(rest)), k2
        else:
            block, subkey = rest[:16], k1
        of_block, of_whole, state = tags(
            "cmac_aes",
            rest[:16],
            first + rest,
            first[:-16] + xor(first[-16:], k1),
            key=key,
        )
        assert of_block == aes.encrypt(xor(block, subkey))
        if len(rest) < 16:
            assert of_whole == aes.encrypt(xor(block, subkey, state))
        else:
            assert tags("cmac_aes", xor(rest[:16], state) + rest[16:], key=key) == [of_whole]
        assert tags("cmac_aes", rest, key=key, digest_size=9) == [tags("cmac_aes", rest, key=key)[0][:9]]


def test_gmac_is_affine(tags, backend, check, runs):
    """SP 800-38D, section 6.4. Under one key and IV, the sum of the tags of three equally long messages is
    the tag of their sum. The tags of two messages differ by GHASH of the difference of the messages. Another
    IV changes all tags by the same value."""
    runs("gmac_aes")

    @check(aes_keys, ivs, ivs, st.integers(0, 300), randoms())
    def _(key, iv, other, n, rng):
        a, b, c = (rng.randbytes(n) for _ in range(3))
        h = int.from_bytes(Aes(key).encrypt(bytes(16)), "big")
        of_a, of_b, of_c, of_abc = tags("gmac_aes", a, b, c, xor(a, b, c), key=key, iv=iv)
        assert xor(of_a, of_b, of_c) == of_abc
        difference = ghash(h, padded(xor(a, b)) + bytes(16))
        assert int.from_bytes(xor(of_a, of_b), "big") == difference
        moved_a, moved_b = tags("gmac_aes", a, b, key=key, iv=other)
        assert xor(of_a, moved_a) == xor(of_b, moved_b)
        assert tags("gmac_aes", a, key=key, iv=iv, digest_size=13) == [of_a[:13]]


def test_gmac_of_no_message_and_of_blocks_of_zeros(tags, check, runs):
    """The tag of an empty message is AES of the first counter. Blocks of zeros before a message change only
    the length that is hashed."""
    runs("gmac_aes")

    @check(aes_keys, ivs, short, st.integers(1, 9), share=2)
    def _(key, iv, message, blocks):
        aes = Aes(key)
        h = int.from_bytes(aes.encrypt(bytes(16)), "big")
        counter = iv + b"\0\0\0\1"
        if len(iv) != 12:
            counter = ghash(h, padded(iv) + (8 * len(iv)).to_bytes(16, "big")).to_bytes(16, "big")
        none, tag, with_zeros = tags("gmac_aes", b"", message, bytes(16 * blocks) + message, key=key, iv=iv)
        assert none == aes.encrypt(counter)
        lengths = 8 * len(message) ^ 8 * (len(message) + 16 * blocks)
        assert int.from_bytes(xor(tag, with_zeros), "big") == product(lengths << 64, h)


one_time_keys = st.binary(min_size=32, max_size=32)


def tag_of(number: int) -> bytes:
    return (number % 2**128).to_bytes(16, "little")


def long(backend: str) -> st.SearchStrategy[int]:
    """Lengths of messages, of which some are so long that they are cut into parts."""
    return st.integers(0, 100) if backend == "interpreter" else st.integers(0, 300) | st.integers(0, 40_000)


def test_poly1305_is_a_polynomial(tags, backend, check, runs):
    """RFC 8439, section 2.5.1. The blocks of the message are coefficients of a polynomial, it is evaluated at
    r, and s is added to the value. The bits of r that are cleared do not matter. If r is 0, the tag is s."""
    runs("poly1305", interpreted=True)

    @check(one_time_keys, st.lists(random_bytes(long(backend)), min_size=1, max_size=4))
    def _(key, messages):
        r, s = key[:16], key[16:]
        clamped = clamp(int.from_bytes(r, "little"))
        pad = int.from_bytes(s, "little")
        found = tags("poly1305", *messages, key=key)
        assert found == [tag_of(value(clamped, message) + pad) for message in messages]
        if backend == "interpreter":
            return
        assert tags("poly1305", *messages, key=clamped.to_bytes(16, "little") + s) == found
        assert tags("poly1305", *messages, key=bytes(16) + s) == [s] * len(messages)
        without = tags("poly1305", *messages, key=r + bytes(16))
        assert found == [tag_of(int.from_bytes(tag, "little") + pad) for tag in without]


def differ_as_they_must(a: bytes, b: bytes, tag_a: bytes, tag_b: bytes, r: int) -> bool:
    """Whether the tags of two equally long messages under the same r and s differ by the difference of the
    messages, taken as a polynomial in r. The values of the polynomials differ by it modulo p, and each value
    is from 0 to p - 1."""
    difference = sum(
        (int.from_bytes(a[i : i + 16], "little") - int.from_bytes(b[i : i + 16], "little"))
        * pow(r, -(-(len(a) - i) // 16), P)
        for i in range(0, len(a), 16)
    )
    found = int.from_bytes(tag_a, "little") - int.from_bytes(tag_b, "little")
    return found % 2**128 in {difference % P % 2**128, (difference % P - P) % 2**128}


def test_poly1305_of_messages_that_differ(tags, backend, check, runs):
    """The messages differ in one block or in all blocks. s cancels out in both differences."""
    runs("poly1305", interpreted=True)

    @check(one_time_keys, long(backend).filter(bool), st.binary(min_size=1, max_size=16), randoms())
    def _(key, n, change, rng):
        a, c = rng.randbytes(n), rng.randbytes(n)
        start = rng.randrange(0, n, 16)
        b = (a[:start] + change + a[start + len(change) :])[:n]
        of_a, of_b, of_c = tags("poly1305", a, b, c, key=key)
        r = clamp(int.from_bytes(key[:16], "little"))
        assert differ_as_they_must(a, b, of_a, of_b, r)
        assert differ_as_they_must(a, c, of_a, of_c, r)


def test_poly1305_aes_takes_its_pad_from_aes(tags, backend, check, runs):
    runs("poly1305_aes", "poly1305")

    @check(one_time_keys, st.binary(min_size=16, max_size=16), short)
    def _(key, nonce, message):
        pad = Aes(key[:16]).encrypt(nonce)
        found = tags("poly1305_aes", message, key=key, nonce=nonce)
        assert found == tags("poly1305", message, key=key[16:] + pad)


dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
shapes = st.lists(st.integers(0, 6), max_size=3)


def tensor(shape, dtype, rng, backend) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    made = torch.randint(0, 2 if dtype is torch.bool else 120, shape, generator=generator).to(dtype)
    dims = rng.sample(range(len(shape)), len(shape))
    return made.permute(dims).to(device_of(backend))


def test_tags_of_tensors_are_each_its_own(backend, check, runs):
    """The tag of a tensor depends neither on the other tensors, nor on their order, nor on how the tensor
    lies in memory. Under one nonce, the chunk tags of tensors with the same layout differ only by polynomials
    in r (docs/guide/mac_tensors.md)."""
    runs("poly1305", "blake3")
    key_and_nonce = st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
    models = st.dictionaries(st.text(max_size=8), st.tuples(shapes, dtypes), min_size=1, max_size=4)

    @check(models, key_and_nonce, st.sampled_from([16, 48, 256]), randoms())
    def _(model, key_and_nonce, chunk_size, rng):
        key, nonce = key_and_nonce

        def tagged(tensors):
            return it.mac_tensors(tensors, key, nonce=nonce, chunk_size=chunk_size, backend=backend)

        tensors = {name: tensor(shape, dtype, rng, backend) for name, (shape, dtype) in model.items()}
        tags = tagged(tensors)
        order = rng.sample(list(tensors), len(tensors))
        some = order[: rng.randint(1, len(order))]
        for others in (
            tagged({name: tensors[name] for name in order}),
            tagged({name: tensors[name].contiguous() for name in some}),
        ):
            for name in others.names:
                assert others[name] == tags[name]
                assert torch.equal(others.chunk_tags(name), tags.chunk_tags(name))
        tags.verify({name: tensors[name] for name in some}, key, partial=True, backend=backend)

        r = blake3(b"ITmac1.r" + nonce + bytes(40), key=key).digest(16)
        twins = {name: torch.zeros_like(x) for name, x in tensors.items()}
        of_twins = tagged(twins)
        for name, x in tensors.items():
            data = tensor_message(x)
            chunks = [data[i : i + chunk_size] for i in range(0, len(data), chunk_size)]
            rows = zip(
                rows_as_bytes(tags.chunk_tags(name)), rows_as_bytes(of_twins.chunk_tags(name)), strict=True
            )
            for chunk, (a, b) in zip(chunks, rows, strict=True):
                point = clamp(int.from_bytes(r, "little"))
                assert differ_as_they_must(chunk, bytes(len(chunk)), a, b, point)
            assert (tags[name] == of_twins[name]) == (not any(data))
