"""One algorithm at work on a backend: batches, streams and chains of tags."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..algorithms import Algorithm
from ..launching.host import Host
from ..launching.launch import Launch
from ..launching.launcher import Launcher, LaunchFunction
from ..launching.request import Request
from ..messages.layout import Messages, Rows
from ..messages.moving import capturing
from ..messages.per_message import PerMessage
from ..messages.stream import Stream
from . import make_driver
from .base import Driver
from .blake3_tree import Blake3TreeDriver
from .hmac import HmacDriver
from .iterated import IteratedDriver

if TYPE_CHECKING:
    import torch


class Run:
    """Makes the driver of an algorithm and has it do what is asked. The backend admits each launch first."""

    def __init__(
        self,
        launcher: Launcher,
        algorithm: Algorithm,
        launch: LaunchFunction | None = None,
        way: str | None = None,
    ) -> None:
        """``launch`` takes the place of admitting and launching: self-tests admit no kernel before they
        have run it. ``way`` is the only one of the driver's ``ways`` that is taken."""
        self.launcher = launcher
        self.algorithm = algorithm
        self._launch = launch
        self._way = way

    def _admitted(self, request: Request, launch: Launch, options: Mapping[str, int]) -> None:
        self.launcher.admit(request, launch, options)
        self.launcher.launch(launch, options)

    def driver(self, request: Request | None = None) -> Driver:
        """A driver whose kernels are admitted for ``request``, by default for a batch of any lengths.

        Raises TypeError if there is none for the algorithm.
        """
        request = request or Request(self.algorithm, "table")
        host = Host(self.launcher, self._launch or partial(self._admitted, request))
        driver = make_driver(host, self.algorithm)
        if self._way is not None:
            driver.way = self._way
        return driver

    def execute(self, parameters: Mapping[str, Any], messages: Messages, length: int) -> torch.Tensor:
        """See ``Backend.digest_batch``."""
        import torch

        home = messages.device
        if messages.count == 0 or length == 0:
            return torch.empty((messages.count, length), dtype=torch.uint8, device=home)
        device = self.launcher.device_for(home)
        if device != home and capturing(device):
            raise RuntimeError(
                f"messages on {home} cannot be hashed on {device} while a graph is being captured, because a "
                f"replay would not copy them again; copy them to {device} before"
            )
        local = messages.to(device)
        per_message = any(isinstance(v, PerMessage) for v in parameters.values())
        in_rows = isinstance(local, Rows) or local.count == 1
        driver = self.driver(Request(self.algorithm, "rows" if in_rows else "table", per_message, local))
        try:
            if driver.per_message or not per_message:
                digests = driver.enqueue(parameters, local, length)
            else:
                digests = _one_by_one(driver, parameters, local, length)
        finally:
            driver.secrets.wipe()
        return digests.to(home)

    def mac_chain(self, keys: PerMessage, first: torch.Tensor, rounds: int) -> torch.Tensor | None:
        """See ``Backend.mac_chain``; None if no kernel does it."""
        driver = self.driver(Request(self.algorithm, "chain", per_message=True))
        if rounds == 0 or not isinstance(driver, HmacDriver) or not isinstance(driver.hash, IteratedDriver):
            return None
        home = first.device
        try:
            return driver.chain(keys, first.to(self.launcher.device_for(home)), rounds).to(home)
        finally:
            driver.secrets.wipe()

    def chunk_values(self, data: torch.Tensor, first: int) -> torch.Tensor | None:
        """See ``Backend.chunk_values``; None if no kernel does it."""
        import torch

        driver = self.driver(Request(self.algorithm, "stream"))
        if not isinstance(driver, Blake3TreeDriver):
            return None
        local = data.to(self.launcher.device_for(data.device))
        key, flags = driver.mode({}, local.device)
        return driver.chunk_values(local, key, flags, first).view(torch.uint8).to(data.device)

    def parent_values(self, children: torch.Tensor, root: bool) -> torch.Tensor | None:
        """See ``Backend.parent_values``; None if no kernel does it."""
        import torch

        driver = self.driver(Request(self.algorithm, "stream"))
        if not isinstance(driver, Blake3TreeDriver):
            return None
        local = children.to(self.launcher.device_for(children.device)).view(torch.uint32)
        key, flags = driver.mode({}, local.device)
        if root:
            values = driver.root(local[0], local[1], key, flags)
        else:
            values = driver.parent_values(local, key, flags).view(torch.uint8)
        return values.to(children.device)

    def stream(self, parameters: Mapping[str, Any], device: torch.device | None = None) -> Stream:
        """See ``Backend.stream``."""
        driver = self.driver(Request(self.algorithm, "stream"))
        return driver.stream(parameters, self.launcher.device_for(device))


def _one_by_one(
    driver: Driver, parameters: Mapping[str, Any], messages: Messages, length: int
) -> torch.Tensor:
    """Digests of messages whose parameters differ, by a driver that takes one value for all messages."""
    import torch

    digests = []
    for i in range(messages.count):
        values = {k: v[i] if isinstance(v, PerMessage) else v for k, v in parameters.items()}
        digests.append(driver.enqueue(values, messages.only(i), length))
    return torch.cat(digests)
