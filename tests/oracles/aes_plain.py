"""AES (FIPS 197), CMAC (NIST SP 800-38B) and GMAC (SP 800-38D) in plain Python, written from the standards,
one byte at a time. They are the oracles if no library is installed, and are compared with a library if there
is one. GMAC can claim that it has absorbed any number of bytes."""

from __future__ import annotations


def times(a: int, b: int) -> int:
    """A product in the field of 256 elements (FIPS 197, section 4.2)."""
    total = 0
    while b:
        total ^= a * (b & 1)
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return total


def _sbox() -> list[int]:
    """Section 5.1.1: the inverse, followed by an affine map."""
    inverse = {0: 0}
    for a in range(1, 256):
        inverse[a] = next(b for b in range(1, 256) if times(a, b) == 1) if a not in inverse else inverse[a]
        inverse[inverse[a]] = a
    # The rows of the matrix are rotations of one row, so this is a carryless product with 0x1F, modulo x**8 +
    # 1.
    products = (b << 4 ^ b << 3 ^ b << 2 ^ b << 1 ^ b for _, b in sorted(inverse.items()))
    return [0x63 ^ p & 0xFF ^ p >> 8 for p in products]


SBOX = _sbox()
MIX = ((2, 3, 1, 1), (1, 2, 3, 1), (1, 1, 2, 3), (3, 1, 1, 2))
TIMES = {factor: [times(x, factor) for x in range(256)] for factor in (1, 2, 3)}


def _round_keys(key: bytes) -> list[bytes]:
    """Section 5.2."""
    count = len(key) // 4
    words = [key[4 * i : 4 * i + 4] for i in range(count)]
    constant = 1
    for i in range(count, 4 * (count + 7)):
        word = words[-1]
        if i % count == 0:
            word = bytes(SBOX[b] for b in word[1:] + word[:1])
            word = bytes([word[0] ^ constant]) + word[1:]
            constant = times(constant, 2)
        elif count == 8 and i % 8 == 4:
            word = bytes(SBOX[b] for b in word)
        words.append(_xor(word, words[-count]))
    return [b"".join(words[i : i + 4]) for i in range(0, len(words), 4)]


def _xor(x: bytes, y: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(x, y, strict=True))


class Aes:
    def __init__(self, key: bytes) -> None:
        self.keys = _round_keys(key)

    def encrypt(self, block: bytes) -> bytes:
        state = _xor(block, self.keys[0])
        for key in self.keys[1:]:
            # Byte i is in row i % 4, and is rotated by as many columns.
            state = bytes(SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16))
            if key is not self.keys[-1]:
                state = bytes(
                    TIMES[row[0]][c[0]] ^ TIMES[row[1]][c[1]] ^ TIMES[row[2]][c[2]] ^ TIMES[row[3]][c[3]]
                    for c in (state[i : i + 4] for i in range(0, 16, 4))
                    for row in MIX
                )
            state = _xor(state, key)
        return state


class _Mac:
    def __init__(self, key: bytes, digest_size: int, data: bytes) -> None:
        self.aes, self.digest_size, self.data = Aes(key), digest_size, bytes(data)

    def update(self, data: bytes) -> None:
        self.data += bytes(data)

    def digest(self) -> bytes:
        return self.tag()[: self.digest_size]

    def tag(self) -> bytes:
        raise NotImplementedError


def doubled(block: bytes) -> bytes:
    x = int.from_bytes(block, "big") << 1
    return (x ^ (1 << 128 | 0x87) * (x >> 128)).to_bytes(16, "big")


class _Cmac(_Mac):
    def tag(self) -> bytes:
        subkey = doubled(self.aes.encrypt(bytes(16)))
        data = self.data
        if not data or len(data) % 16:
            subkey = doubled(subkey)
            data += b"\x80" + bytes(-(len(data) + 1) % 16)
        state = bytes(16)
        for i in range(0, len(data), 16):
            block = data[i : i + 16]
            state = _xor(state, block if i + 16 < len(data) else _xor(block, subkey))
            state = self.aes.encrypt(state)
        return state


def product(x: int, y: int) -> int:
    """SP 800-38D, section 6.3, bit by bit."""
    z = 0
    for i in range(127, -1, -1):
        z ^= y * (x >> i & 1)
        y = y >> 1 ^ (0xE1 << 120) * (y & 1)
    return z


def ghash(h: int, data: bytes) -> int:
    y = 0
    for i in range(0, len(data), 16):
        y = product(y ^ int.from_bytes(data[i : i + 16], "big"), h)
    return y


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


class Gmac(_Mac):
    def __init__(self, key: bytes, iv: bytes, digest_size: int = 16, data: bytes = b"") -> None:
        super().__init__(key, digest_size, data)
        self.iv = iv

    def tag(self) -> bytes:
        return self.finish(0, self.data)

    def finish(self, absorbed: int, tail: bytes) -> bytes:
        """The tag if ``absorbed`` bytes before ``tail``, which are whole blocks, have left a state of
        zeros."""
        h = int.from_bytes(self.aes.encrypt(bytes(16)), "big")
        counter = self.iv + b"\0\0\0\1"
        if len(self.iv) != 12:
            lengths = (8 * len(self.iv)).to_bytes(16, "big")
            counter = ghash(h, padded(self.iv) + lengths).to_bytes(16, "big")
        lengths = (8 * (absorbed + len(tail)) % 2**64).to_bytes(8, "big") + bytes(8)
        mask = int.from_bytes(self.aes.encrypt(counter), "big")
        return (ghash(h, padded(tail) + lengths) ^ mask).to_bytes(16, "big")


def cmac_aes(data: bytes = b"", *, key: bytes, digest_size: int = 16) -> _Cmac:
    return _Cmac(key, digest_size, data)


def gmac_aes(data: bytes = b"", *, key: bytes, iv: bytes, digest_size: int = 16) -> Gmac:
    return Gmac(key, iv, digest_size, data)
