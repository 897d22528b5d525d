"""Writes ``.tensors`` files with tensorizer's own serializer.

Run as ``python write_tensors.py TENSORIZER FOLDER``: the folder in which tensorizer is installed, and one for
the files. Packages that tensorizer imports for encryption and for storage over a network are replaced by
empty modules, since a local file in plain text does not use them.
"""

from __future__ import annotations

import sys
import types
import warnings

import torch


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(22)
    plain = torch.randn(300, 40, generator=generator)
    return {
        "plain": plain,
        "layers.0.weight": plain.bfloat16(),
        "half": plain[:3].half(),
        "transposed": plain[:5].t(),
        "integers": torch.arange(7),
        "flags": torch.tensor([True, False, True]),
        "number": torch.tensor(2.5, dtype=torch.float64),
        "nothing": torch.empty(0, 4),
        "eight bits": plain[:2].to(torch.float8_e4m3fn),
        "größe": plain[7].to(torch.complex64),
    }


def module() -> torch.nn.Module:
    torch.manual_seed(22)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def main(tensorizer: str, folder: str) -> None:
    warnings.simplefilter("ignore")
    for name in (
        "boto3",
        "botocore",
        "botocore.exceptions",
        "botocore.session",
        "libnacl",
        "psutil",
        "redis",
    ):
        sys.modules[name] = types.ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    sys.modules["boto3"].__version__ = ""
    sys.modules["redis"].Redis = object
    sys.modules["libnacl"].nacl = None  # tensorizer then finds that it cannot encrypt
    sys.path.insert(0, tensorizer)
    from tensorizer import TensorSerializer

    for name, write in {
        "state_dict": lambda serializer: serializer.write_state_dict(tensors()),
        "module": lambda serializer: serializer.write_module(module()),
        "nested": lambda serializer: serializer.write_state_dict({"a": [torch.ones(2), torch.zeros(3)]}),
    }.items():
        serializer = TensorSerializer(f"{folder}/{name}.tensors")
        write(serializer)
        serializer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
