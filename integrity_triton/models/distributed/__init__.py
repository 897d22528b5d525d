"""One root of a model for every sharding, computed where the shards are.

``docs/distributed.md`` defines the digests and says what travels between ranks. The files, from the
definition to the calls of users: ``tree.py``, ``records.py``; ``layout.py``, ``placements.py``, ``spread.py``
(which part a rank holds, and all of them together); ``held.py``, ``description.py``, ``agreement.py`` (what
the ranks tell each other, and who does what); ``node_digests.py``, ``finish.py`` (the lower and the upper
part of the trees); ``member.py``, ``exchange.py``, ``root.py`` (one rank, the communication, and both
together); ``replicas.py``, ``watch.py`` (copies compared, once and during training); ``weight_sync.py`` and
``checkpoint.py`` (two uses of the digests of tensors and of parts). Importing this package does not import
torch.
"""

from __future__ import annotations

from .errors import DistributedError, RankTimeout, ReplicaMismatch
from .held import LocalShard
from .records import VERSION
from .replicas import Difference, ReplicaReport, check_replicas
from .root import DistributedDigests, root, root_of_files, tensor_digest
from .tree import LEAF_SIZE
from .watch import ReplicaWatch
from .weight_sync import Part, SyncMismatch, SyncReport, SyncStatement, WeightSync, fused, resolve

__all__ = [
    "LEAF_SIZE",
    "VERSION",
    "Difference",
    "DistributedDigests",
    "DistributedError",
    "LocalShard",
    "Part",
    "RankTimeout",
    "ReplicaMismatch",
    "ReplicaReport",
    "ReplicaWatch",
    "SyncMismatch",
    "SyncReport",
    "SyncStatement",
    "WeightSync",
    "check_replicas",
    "fused",
    "resolve",
    "root",
    "root_of_files",
    "tensor_digest",
]
