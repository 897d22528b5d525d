"""A load format of vLLM whose weights are verified before the model gets them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...models.loading import LoadError, Signed
from ...models.loading.expectations import read_expectations
from ...models.loading.load import load_plan
from ...models.loading.plan import Plan

if TYPE_CHECKING:
    import torch

LOAD_FORMAT = "integrity_triton"
"""The name of the load format, for vLLM's ``--load-format``."""

_OURS = frozenset({"against", "public_key", "backend"})
_THEIRS = frozenset({"enable_weights_track"})
_loader: Any = None


def register_load_format() -> None:
    """Register the load format ``integrity_triton`` with vLLM. A second call changes nothing.

    Raises ImportError if vLLM has no ``register_model_loader`` or no ``DefaultModelLoader``.
    """
    global _loader
    if _loader is not None:
        return
    from importlib import import_module

    try:
        package = import_module("vllm.model_executor.model_loader")
        register = package.register_model_loader
        base = package.DefaultModelLoader
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"vLLM's registry of load formats cannot be imported ({error}); the load format {LOAD_FORMAT} "
            "needs vLLM 0.33 or a later version that has it"
        ) from error
    _loader = register(LOAD_FORMAT)(_derived(base))


def verified_shards(
    folder: str | os.PathLike[str], files: Sequence[str], against: Any, backend: str | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and tensors of a model's folder, each after its bytes in memory were verified.

    ``files`` are the paths of the safetensors files that vLLM would load. Headers are compared with what
    ``against`` says before anything is read, so that no tensor and no file that it lists can be missing. Then
    one file after the other is read and verified whole, so that the host needs the memory of one file.

    Raises LoadError if the model differs from what is expected, or if vLLM would load other files than those
    that are in the folder; otherwise raises as ``load_verified`` does.
    """
    plan = Plan.read(folder)
    expectations = read_expectations(against)
    chosen = {os.path.realpath(file) for file in files}
    planned = {os.path.realpath(file.path) for file in plan.files}
    if chosen != planned:
        odd = min(chosen ^ planned)
        what = "would be loaded and cannot be verified" if odd in chosen else "would not be loaded"
        raise LoadError(
            f"{plan.path}: {odd} {what}; the load format {LOAD_FORMAT} takes a folder in which vLLM loads "
            "all safetensors files, those of its subfolders included",
            file=odd,
        )
    for expectation in expectations:
        expectation.expect(plan, False)
    for file in plan.files:
        tensors = load_plan(Plan(plan.path, plan.folder, (file,)), (), "cpu", False, backend, None)
        while tensors:
            name = next(iter(tensors))
            yield name, tensors.pop(name)


def _derived(base: Any) -> Any:
    class VerifiedModelLoader(base):  # type: ignore[misc]
        """vLLM's default loader, of which the weights' iterator alone is another.

        ``model_loader_extra_config`` has ``against``, the path of a manifest or of a list of SHA-256
        digests, or, with ``public_key``, of an OpenSSF Model Signing signature by that key; or a list of
        paths, all of which must hold.
        """

        def __init__(self, load_config: Any) -> None:
            given = load_config.model_loader_extra_config
            if not isinstance(given, dict):
                raise ValueError(
                    f"model_loader_extra_config must be a dict, not {type(given).__name__}, for the load "
                    f"format {LOAD_FORMAT}"
                )
            if unknown := sorted(given.keys() - _OURS - _THEIRS):
                raise ValueError(
                    f"model_loader_extra_config has {unknown[0]!r}; the load format {LOAD_FORMAT} takes "
                    f"{', '.join(sorted(_OURS | _THEIRS))}"
                )
            self._verified_against = _against(given)
            self._verified_backend = given.get("backend")
            # vLLM's loader knows neither the format nor our part of the configuration.
            rest = {key: value for key, value in given.items() if key in _THEIRS}
            super().__init__(
                dataclasses.replace(load_config, load_format="safetensors", model_loader_extra_config=rest)
            )

        def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, torch.Tensor]]:
            strategy = self.load_config.safetensors_load_strategy
            if strategy is not None:
                raise ValueError(
                    f"the load format {LOAD_FORMAT} has no safetensors_load_strategy {strategy!r}; it reads "
                    "each file into memory of its own"
                )
            if self._encoder_only_lm_prefixes is not None:
                raise ValueError(f"the load format {LOAD_FORMAT} loads whole models, not an encoder alone")
            folder, files, _, _ = self._prepare_weights(
                source.model_or_path,
                source.subfolder,
                source.revision,
                source.fall_back_to_pt,
                source.allow_patterns_overrides,
            )
            verified = verified_shards(folder, files, self._verified_against, self._verified_backend)
            return ((source.prefix + name, tensor) for name, tensor in verified)

    return VerifiedModelLoader


def _against(config: dict[str, Any]) -> list[Any]:
    given = config.get("against")
    paths = given if isinstance(given, list) else [given]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(
            f"the load format {LOAD_FORMAT} needs what to check against: give the path of a manifest, of a "
            "list of SHA-256 digests or of a signature, or a list of paths, as 'against' in "
            f"model_loader_extra_config, not {given!r}"
        )
    key = config.get("public_key")
    if key is None:
        return paths
    if not isinstance(key, str) or len(paths) != 1:
        raise ValueError("public_key must be the path of a PEM file, and needs one signature in 'against'")
    return [Signed(str(paths[0]), key)]
