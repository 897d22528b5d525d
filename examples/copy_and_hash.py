"""A user's own Triton kernel that copies a buffer and hashes it on the way, in one pass over memory.

Each 1 KiB chunk of the source is copied to the target and its SHA-256 digest stored beside it: the
bytes are read once, and what was hashed is exactly what was written. On a machine without a GPU:

    TRITON_INTERPRET=1 python examples/copy_and_hash.py
"""

from __future__ import annotations

import hashlib
import os
import sys

import torch
import triton
import triton.language as tl

from integrity_triton.kernels.bits import bswap32
from integrity_triton.kernels.sha2 import SHA256_IV, sha256_compress

CHUNK_BYTES = 1024


@triton.jit
def copy_and_hash(source_ptr, target_ptr, digest_ptr, chunks, CHUNK_WORDS: tl.constexpr, LANES: tl.constexpr):
    """Copy ``chunks`` chunks of CHUNK_WORDS uint32 words; digests are uint32 ``[chunks, 8]``."""
    chunk = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    mask = chunk < chunks
    zero = tl.full((LANES,), 0, tl.uint32)
    state = ()
    for i in tl.static_range(8):
        state = state + (zero + SHA256_IV[i],)
    for block in range(CHUNK_WORDS // 16):
        words = ()
        for i in tl.static_range(16):
            offset = chunk * CHUNK_WORDS + block * 16 + i
            word = tl.load(source_ptr + offset, mask=mask, other=0)
            tl.store(target_ptr + offset, word, mask=mask)
            words = words + (bswap32(word),)
        state = sha256_compress(state, words)
    # Every chunk is a whole number of blocks, so that padding is one block of constants.
    padding = (zero + 0x80000000,)
    for i in tl.static_range(14):
        padding = padding + (zero,)
    state = sha256_compress(state, padding + (zero + CHUNK_WORDS * 32,))
    for i in tl.static_range(8):
        tl.store(digest_ptr + chunk * 8 + i, bswap32(state[i]), mask=mask)


def main() -> None:
    if torch.cuda.is_available():
        device = "cuda"
    elif hasattr(torch, "xpu") and torch.xpu.is_available():
        device = "xpu"
    elif os.environ.get("TRITON_INTERPRET") == "1":
        device = "cpu"
    else:
        sys.exit("no GPU found; set TRITON_INTERPRET=1 to run on the CPU")
    chunks, lanes = (1 << 20, 128) if device != "cpu" else (5, 8)
    source = torch.randint(0, 256, (chunks, CHUNK_BYTES), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    digests = torch.empty((chunks, 32), dtype=torch.uint8, device=device)
    copy_and_hash[(triton.cdiv(chunks, lanes),)](
        source.view(torch.uint32),
        target.view(torch.uint32),
        digests.view(torch.uint32),
        chunks,
        CHUNK_WORDS=CHUNK_BYTES // 4,
        LANES=lanes,
    )
    assert torch.equal(source, target)
    for i in range(0, chunks, max(1, chunks // 100)):
        expected = hashlib.sha256(source[i].cpu().numpy().tobytes()).digest()
        assert digests[i].cpu().numpy().tobytes() == expected, f"chunk {i}"
    print(f"copied and hashed {chunks} chunks of {CHUNK_BYTES} bytes on {device}")


if __name__ == "__main__":
    main()
