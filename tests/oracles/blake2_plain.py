"""BLAKE2 in plain Python, and from it BLAKE2bp, BLAKE2sp, BLAKE2Xb and BLAKE2Xs, which no library has. They
are written from RFC 7693, the BLAKE2 paper (2013), sections 2.8 and 2.10, and "BLAKE2X" (2016), section 2.
Each takes a whole message at a time."""

from __future__ import annotations

from math import isqrt

# One string for each round: the order in which it takes the words of the message.
SIGMA = (
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
)  # fmt: skip


class Word:
    """The differences between BLAKE2b and BLAKE2s."""

    def __init__(self, bits: int, rounds: int, rotations: tuple[int, ...]) -> None:
        self.bits, self.bytes = bits, bits // 8
        self.mask = (1 << bits) - 1
        # RFC 7693, section 3.2: the two halves of each mixing function of a round, in order. A half has the
        # words that it mixes, the word of the message, and the distances of its rotations.
        self.steps = [
            (*(4 * k + (i + i // 4 * k) % 4 for k in range(4)), int(SIGMA[r % 10][2 * i + j], 16), *turns)
            for r in range(rounds)
            for i in range(8)
            for j, turns in enumerate((rotations[:2], rotations[2:]))
        ]
        # The first bits of the fractional parts of the square roots of the first eight primes.
        self.iv = [isqrt(p << 2 * bits) & self.mask for p in (2, 3, 5, 7, 11, 13, 17, 19)]

    def split(self, data: bytes) -> list[int]:
        return [int.from_bytes(data[i : i + self.bytes], "little") for i in range(0, len(data), self.bytes)]

    def compress(self, h: list[int], block: bytes, count: int, last: bool, last_node: bool) -> list[int]:
        m = self.split(block)
        ends = [count & self.mask, count >> self.bits, last * self.mask, (last and last_node) * self.mask]
        v = h + self.iv[:4] + [a ^ b for a, b in zip(self.iv[4:], ends, strict=True)]
        mask = self.mask
        for a, b, c, d, i, right, other in self.steps:
            v[a] = x = (v[a] + v[b] + m[i]) & mask
            x ^= v[d]
            v[d] = x = (x >> right | x << self.bits - right) & mask
            v[c] = x = (v[c] + x) & mask
            x ^= v[b]
            v[b] = (x >> other | x << self.bits - other) & mask
        return [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]

    def parameter_block(self, key_length: int, **p) -> bytes:
        """The BLAKE2 paper, section 2.8. ``xof_length`` is the half of the node offset that BLAKE2X uses."""
        half = (self.bytes - 2) if self.bytes == 4 else self.bytes - 4
        fields = [
            (p["digest_size"], 1),
            (key_length, 1),
            (p.get("fanout", 1), 1),
            (p.get("depth", 1), 1),
            (p.get("leaf_size", 0), 4),
            (p.get("node_offset", 0), 4),
            (p.get("xof_length", 0), half),
            (p.get("node_depth", 0), 1),
            (p.get("inner_size", 0), 1),
        ]
        head = b"".join(n.to_bytes(size, "little") for n, size in fields).ljust(4 * self.bytes, b"\0")
        return head + b"".join(p.get(n, b"").ljust(2 * self.bytes, b"\0") for n in ("salt", "person"))

    def hash(
        self, data: bytes, key: bytes, key_length: int, last_node: bool = False, absorbed: int = 0, **p
    ) -> bytes:
        """The whole chaining value of a node. ``key_length`` is the length in the parameter block. The
        ``absorbed`` bytes that came before left the initial state unchanged."""
        h = [a ^ b for a, b in zip(self.iv, self.split(self.parameter_block(key_length, **p)), strict=True)]
        size = 16 * self.bytes
        data = (key.ljust(size, b"\0") if key else b"") + data
        for start in range(0, max(len(data), 1), size):
            end = min(start + size, len(data))
            last = end == len(data)
            h = self.compress(h, data[start:end].ljust(size, b"\0"), absorbed + end, last, last_node)
        return b"".join(x.to_bytes(self.bytes, "little") for x in h)

    def finish(self, absorbed: int, tail: bytes) -> bytes:
        """The digest of a message whose first ``absorbed`` bytes left the initial state unchanged, and whose
        remaining bytes are ``tail``. It is empty only if the message is empty."""
        return self.hash(tail, b"", 0, absorbed=absorbed, digest_size=8 * self.bytes)


B = Word(64, 12, (32, 24, 16, 63))
S = Word(32, 10, (16, 12, 8, 7))


class _Hash:
    word = B

    def __init__(self, data: bytes = b"", **parameters) -> None:
        self.data, self.key, self.parameters = bytes(data), parameters.pop("key", b""), parameters
        self.full = 8 * self.word.bytes


class blake2b(_Hash):
    def digest(self) -> bytes:
        p = {"digest_size": self.full, **self.parameters}
        return self.word.hash(self.data, self.key, len(self.key), **p)[: p["digest_size"]]


class blake2s(blake2b):
    word = S


class blake2bp(_Hash):
    leaves = 4

    def digest(self) -> bytes:
        size = self.parameters.get("digest_size", self.full)
        tree = {"digest_size": size, "fanout": self.leaves, "depth": 2, "inner_size": self.full}
        step = 16 * self.word.bytes
        blocks = [self.data[i : i + step] for i in range(0, len(self.data), step)]
        nodes = [
            self.word.hash(
                b"".join(blocks[i :: self.leaves]),
                self.key,
                len(self.key),
                last_node=i == self.leaves - 1,
                node_offset=i,
                **tree,
            )
            for i in range(self.leaves)
        ]
        root = self.word.hash(b"".join(nodes), b"", len(self.key), last_node=True, node_depth=1, **tree)
        return root[:size]


class blake2sp(blake2bp):
    word, leaves = S, 8


class blake2xb(_Hash):
    unknown = (1 << 32) - 1

    def digest(self, length: int | None = None, *, seek: int = 0) -> bytes:
        bound = self.parameters.get("digest_size")
        if length is None:
            length = self.full if bound is None else bound
        own = {name: self.parameters[name] for name in ("salt", "person") if name in self.parameters}
        own["xof_length"] = self.unknown if bound is None else bound
        root = self.word.hash(self.data, self.key, len(self.key), digest_size=self.full, **own)
        first, last = seek // self.full, -(-(seek + length) // self.full)
        out = b""
        for i in range(first, last):
            size = self.full if bound is None else min(self.full, bound - i * self.full)
            sizes = {"digest_size": size, "leaf_size": self.full, "inner_size": self.full}
            out += self.word.hash(root, b"", 0, fanout=0, depth=0, node_offset=i, **sizes, **own)
        return out[seek - first * self.full :][:length]


class blake2xs(blake2xb):
    word, unknown = S, (1 << 16) - 1
