"""The other forms of block functions, which the tuning of some backends chooses, in the interpreter."""

from __future__ import annotations

import pytest

from integrity_triton import algorithms
from integrity_triton.algorithms import load_reference
from integrity_triton.backends import registry
from integrity_triton.backends.triton_backend import TritonBackend
from integrity_triton.launching import launch
from support import hash_batch, oracle, pattern, rows_as_bytes

RECORDS = {
    "sha256_block": ("sha256",),
    "sha512_block": ("sha512",),
    "sm3_block": ("sm3",),
    "keccak_block": ("sha3_256", "turboshake128"),
    "blake2b_block": ("blake2b", "blake2bp"),
    "blake2b_leaf_block": ("blake2bp",),
}


def chosen() -> set[tuple[str, str]]:
    """Each block function and form that some backend's tuning chooses."""
    return {
        (kernel, form)
        for kernels in launch._tuning().values()
        for kernel, options in kernels.items()
        for form in launch.BLOCK_FORMS
        if options.get(form)
    }


def test_the_tests_have_each_form_that_is_chosen():
    assert {block for block, _ in chosen()} == set(RECORDS)
    assert {form for _, form in chosen()} == set(launch.BLOCK_FORMS)


@pytest.mark.parametrize("tuning", ["cuda", "hip", "hip:wave32"])
def test_a_form_has_the_configuration_of_its_function(tuning):
    for block, form in chosen():
        options = launch.tuned(tuning, "m:hash_messages", f"m:{block}")
        options = {name: n for name, n in options.items() if name not in launch.BLOCK_FORMS}
        assert launch.tuned(tuning, "m:hash_messages", f"m:{block}_{form.lower()}") == options


@pytest.mark.slow
@pytest.mark.parametrize(("block", "form"), sorted(chosen()))
def test_forms_give_the_same_digests(block, form, self_tests_off, monkeypatch):
    kernels = registry.get("interpreter")
    assert isinstance(kernels, TritonBackend)
    options, start = type(kernels).options, type(kernels).launch
    launched = set()

    def options_with_the_form(asked):
        function = asked.constants.get("BLOCK", "").partition(":")[2]
        return options(kernels, asked) | ({form: 1} if function == block else {})

    def noted(asked, chosen_options):
        launched.add(asked.constants.get("BLOCK"))
        assert form not in chosen_options
        start(kernels, asked, chosen_options)

    monkeypatch.setattr(kernels, "options", options_with_the_form)
    monkeypatch.setattr(kernels, "launch", noted)
    for name in RECORDS[block]:
        record = algorithms.get(name)
        messages = [pattern(n) for n in (0, record.block_size - 1, record.block_size, record.block_size + 1)]
        digests = rows_as_bytes(hash_batch(messages, name, backend="interpreter"))
        assert digests == [oracle(record, message) for message in messages]
    other = {reference for reference in launched if reference.endswith(f":{block}_{form.lower()}")}
    assert len(other) == 1
    assert load_reference(other.pop()) is not None
