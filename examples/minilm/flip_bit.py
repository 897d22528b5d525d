"""Flip one bit in the middle of a tensor of a safetensors file, in place, and say which."""

from __future__ import annotations

import argparse
import json

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file")
parser.add_argument("tensor")
arguments = parser.parse_args()

with open(arguments.file, "r+b") as file:
    header_size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(header_size))
    begin, end = header[arguments.tensor]["data_offsets"]
    offset = 8 + header_size + (begin + end) // 2
    file.seek(offset)
    (byte,) = file.read(1)
    file.seek(offset)
    file.write(bytes([byte ^ 0x10]))
print(f"flipped one bit of {arguments.tensor}, at byte {offset} of {arguments.file}")
