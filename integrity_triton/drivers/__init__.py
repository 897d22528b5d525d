"""What the host does for each kind of construction: which kernels it launches, over which data, in which
order.

A driver is made for one algorithm and one backend. It asks a host for memory and launches, and does not know
where these are.
"""

from __future__ import annotations

from ..algorithms import (
    AesCmac,
    AesGmac,
    Algorithm,
    Blake2,
    Blake2Parallel,
    Blake2X,
    Blake3Tree,
    Crc,
    HighwayHash,
    Hmac,
    IteratedHash,
    KangarooTree,
    Kmac,
    Poly1305,
    Poly1305Aes,
    SipHash,
    Sponge,
    SpongeTree,
    XxHash,
    get,
)
from ..launching.host import Host
from .aes import CmacDriver, GmacDriver
from .base import Driver
from .blake2 import Blake2Driver, Blake2ParallelDriver, Blake2XDriver
from .blake3_tree import Blake3TreeDriver
from .crc import CrcDriver
from .highwayhash import HighwayHashDriver
from .hmac import HmacDriver
from .iterated import IteratedDriver
from .poly1305 import Poly1305Driver
from .poly1305_aes import Poly1305AesDriver
from .siphash import SipHashDriver
from .sponge import KmacDriver, SpongeDriver
from .sponge_tree import KangarooDriver, ParallelHashDriver
from .xxhash import XxHashDriver

__all__ = ["Driver", "HmacDriver", "IteratedDriver", "driver_class", "make_driver"]

_DRIVERS: dict[type, type[Driver]] = {
    IteratedHash: IteratedDriver,
    Sponge: SpongeDriver,
    Kmac: KmacDriver,
    Hmac: HmacDriver,
    SpongeTree: ParallelHashDriver,
    KangarooTree: KangarooDriver,
    Blake3Tree: Blake3TreeDriver,
    Blake2: Blake2Driver,
    Blake2Parallel: Blake2ParallelDriver,
    Blake2X: Blake2XDriver,
    Crc: CrcDriver,
    XxHash: XxHashDriver,
    SipHash: SipHashDriver,
    HighwayHash: HighwayHashDriver,
    AesCmac: CmacDriver,
    AesGmac: GmacDriver,
    Poly1305: Poly1305Driver,
    Poly1305Aes: Poly1305AesDriver,
}


def make_driver(host: Host, algorithm: Algorithm) -> Driver:
    """A driver of ``algorithm`` on ``host``. Raises TypeError if there is none."""
    hash_name = algorithm.construction.hmac_of
    if hash_name is not None:  # HMAC runs over any hash that has a driver.
        return HmacDriver(host, algorithm, make_driver(host, get(hash_name)))
    return driver_class(algorithm)(host, algorithm)


def driver_class(algorithm: Algorithm) -> type[Driver]:
    """The driver for an algorithm's construction. Raises TypeError if there is none."""
    for kind in type(algorithm.construction).__mro__:
        if kind in _DRIVERS:
            return _DRIVERS[kind]
    raise TypeError(f"no driver for {type(algorithm.construction).__name__}")
