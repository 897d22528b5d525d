"""A backend at work for one algorithm: batches, streams and chains of tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..launching.host import Request
from ..messages.layout import Messages, Rows, message
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from . import driver_class
from .base import Driver, DriverHost
from .hmac import HmacDriver
from .iterated import IteratedDriver

if TYPE_CHECKING:
    import torch


class Run(DriverHost):
    def driver(self, algorithm: Algorithm) -> Driver:
        """The driver of ``algorithm``: this host's, or one that its driver makes use of. Raises TypeError if
        there is none."""
        driver = driver_class(algorithm)(self, algorithm)
        if self.way is not None and self.way in driver.ways:
            driver.way = self.way
        return driver

    def execute(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        """See ``Backend.digest_batch``."""
        import torch

        home = messages.device
        if messages.count == 0 or length == 0:
            return torch.empty((messages.count, length), dtype=torch.uint8, device=home)
        local = self.localize(messages)
        own = any(isinstance(v, PerMessage) for v in parameters.values())
        in_rows = isinstance(local, Rows) or local.count == 1
        self.request = Request("rows" if in_rows else "table", own, local)
        driver = self.driver(self.algorithm)
        try:
            if driver.keys_per_message or not own:
                digests = driver.enqueue(parameters, local, length)
            else:
                digests = _one_by_one(driver, parameters, local, length)
        finally:
            driver.secrets.wipe()
        return digests.to(home)

    def mac_chain(self, keys: PerMessage, first: torch.Tensor, rounds: int) -> torch.Tensor | None:
        """See ``Backend.mac_chain``; None if no kernel does it."""
        driver = self.driver(self.algorithm)
        if rounds == 0 or not isinstance(driver, HmacDriver) or not isinstance(driver.hash, IteratedDriver):
            return None
        self.request = Request("chain", own=True)
        try:
            return driver.chain(keys, first.to(self.launcher.device_for(first.device)), rounds).to(
                first.device
            )
        finally:
            driver.secrets.wipe()

    def stream(self, parameters: Mapping[str, Any], device: torch.device | None = None) -> Stream:
        """See ``Backend.stream``."""
        self.request = Request("stream")
        return self.driver(self.algorithm).stream(parameters, self.launcher.device_for(device))


def _one_by_one(
    driver: Driver, parameters: Mapping[str, Any], messages: Messages, length: int
) -> torch.Tensor:
    """Digests of messages with parameters of their own, for a driver that cannot take these."""
    import torch

    digests = []
    for i in range(messages.count):
        own = {k: v[i] if isinstance(v, PerMessage) else v for k, v in parameters.items()}
        digests.append(driver.enqueue(own, message(messages, i), length))
    return torch.cat(digests)
