"""The kernels in Triton's interpreter, which executes them with NumPy on the CPU, for tests and debugging.

Triton switches to its interpreter through an environment variable, at import and for the whole process. This
backend interprets kernels in a process that also runs compiled ones: it takes each Python function out of its
``@triton.jit`` wrapper and gives it globals in which the device functions that it calls are interpreted too.
A kernel can therefore use Triton's builtins (``tl.load``, ``tl.where``, ...), but not those that are
``@triton.jit`` functions themselves (``tl.zeros``, ``tl.sum``, ``tl.cdiv``, ...).
"""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...algorithms import Algorithm, load_reference
from ...launching.launch import Launch
from ...launching.launcher import TrialSize
from ...messages.layout import Messages
from ..base import Probe
from ..triton_backend import TritonBackend
from .language import language_lock
from .quick_integers import quick_integers


class _DeviceFunction:
    """A device function in the form that the interpreter calls. It is rewritten at its first call."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function
        self._rewritten: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._rewritten is None:
            from triton.runtime.interpreter import FunctionRewriter

            self._rewritten = FunctionRewriter(self._function).rewrite_ast()
        return self._rewritten(*args, **kwargs)

    @property
    def fn(self) -> _DeviceFunction:
        """The attribute through which the interpreter calls the function of a reduction."""
        return self


class _Twins:
    """Copies of ``@triton.jit`` functions that can be interpreted, with copies of their modules' globals."""

    def __init__(self) -> None:
        self._globals: dict[int, dict[str, Any]] = {}
        self._device_functions: dict[int, _DeviceFunction] = {}
        self._kernels: dict[str, Any] = {}
        self._keep: list[Any] = []  # objects whose ids are keys above must not be freed

    def _plain(self, jitted: Any) -> types.FunctionType:
        from triton.language import constexpr

        original = jitted.fn
        namespace = self._globals.get(id(original.__globals__))
        if namespace is None:
            namespace = dict(original.__globals__)
            self._globals[id(original.__globals__)] = namespace
            self._keep.append(original)
            for name, value in original.__globals__.items():
                if _is_jitted(value):
                    namespace[name] = self.device_function(value)
                elif isinstance(value, constexpr):
                    # The interpreter takes plain values everywhere. An index into a wrapped table would
                    # take it as long as an operation on tiles.
                    namespace[name] = value.value
        twin = types.FunctionType(
            original.__code__, namespace, original.__name__, original.__defaults__, original.__closure__
        )
        twin.__annotations__ = original.__annotations__
        twin.__kwdefaults__ = original.__kwdefaults__
        twin.__module__ = original.__module__
        return twin

    def device_function(self, jitted: Any) -> _DeviceFunction:
        if id(jitted) not in self._device_functions:
            self._keep.append(jitted)
            self._device_functions[id(jitted)] = _DeviceFunction(self._plain(jitted))
        return self._device_functions[id(jitted)]

    def kernel(self, reference: str) -> Any:
        if reference not in self._kernels:
            from triton.runtime.interpreter import InterpretedFunction

            self._kernels[reference] = InterpretedFunction(self._plain(load_reference(reference)))
        return self._kernels[reference]


def _is_jitted(value: Any) -> bool:
    from triton.runtime.jit import JITFunction

    return isinstance(value, JITFunction)


@contextmanager
def _restored_language() -> Iterator[None]:
    """Undo on exit what the interpreter changes in ``triton.language``.

    Triton up to 3.5 leaves its interpreted builtins there, after which no kernel can be compiled.
    """
    import triton.language as tl

    places = [tl, tl.core, tl.math, tl.tensor, tl.core.dtype]
    for name in ("tensor_descriptor_base", "_experimental_tensor_descriptor_base"):
        if hasattr(tl.core, name):
            places.append(getattr(tl.core, name))
    saved = [(place, dict(vars(place))) for place in places]
    try:
        yield
    finally:
        for place, before in saved:
            for name, value in list(vars(place).items()):
                if name not in before:
                    delattr(place, name)
                elif before[name] is not value:
                    setattr(place, name, before[name])


@contextmanager
def _indexable_scalars() -> Iterator[None]:
    """Let a scalar be the bound of a ``range``. Triton before 3.7 converts a one-element array with
    ``int()``, which NumPy has refused since version 2.4."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, *args: Any) -> Any:
        result = patch(tensor, *args)
        tensor.__index__ = lambda self: int(self.handle.data.reshape(-1)[0])
        tensor.__bool__ = lambda self: bool(self.handle.data.reshape(-1).all())
        return result

    interpreter._patch_lang_tensor = patched
    try:
        yield
    finally:
        interpreter._patch_lang_tensor = patch


class InterpreterBackend(TritonBackend):
    name = "interpreter"
    for_tests = True
    summary = "the kernels in Triton's interpreter on the CPU: for tests, thousands of times slower"
    device_types = ("cpu",)
    torch_device_type = "cpu"
    # A block takes up to a tenth of a second. All lanes are in one program, and hardly cost anything.
    trial_size = TrialSize(messages=2, lanes=257, volume=300_000, blocks=16)

    def __init__(self) -> None:
        self._twins = _Twins()
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        try:
            import triton
            import triton.runtime.interpreter
        except ImportError as error:
            return Probe(False, f"Triton cannot be imported ({error}); pip install triton")
        from triton.runtime.jit import JITFunction

        from ...algorithms import load_reference as load

        if not isinstance(load("integrity_triton.kernels.bits:bswap32"), JITFunction):
            return Probe(False, "TRITON_INTERPRET is set; unset it, since this backend does not need it")
        return Probe(True, f"Triton {triton.__version__}", ("cpu",))

    def is_default(self, algorithm: Algorithm, device_type: str, *, messages: Messages | None) -> bool:
        return False

    def options(self, launch: Launch) -> dict[str, int]:
        # The interpreter's time grows with the number of programs, so one program takes all lanes if it can.
        options = super().options(launch)
        lanes = max(1, launch.lanes)
        return {**options, "BLOCK_MSGS": min(options["BLOCK_MSGS"], 1 << (lanes - 1).bit_length())}

    def configuration(self, launch: Launch, options: Mapping[str, int]) -> tuple[Any, ...]:
        # Nothing is compiled here, so a program's width, which depends on the number of lanes, does not
        # matter.
        given = (value for name, value in options.items() if name != "BLOCK_MSGS")
        return (launch.kernel, *launch.constants.values(), *given)

    def launch(self, launch: Launch, options: Mapping[str, int]) -> None:
        import numpy as np
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        def scalar(value: int) -> Any:
            # The interpreter chooses an integer's type by its value, but compiled kernels take 64 bits.
            return tl.tensor(TensorHandle(np.array([value], dtype=np.int64), tl.int64), tl.int64)

        constants = {**launch.constants, **options}
        with self._lock, language_lock, _restored_language(), _indexable_scalars(), quick_integers():
            kernel = self._twins.kernel(launch.kernel)
            arguments = {k: scalar(v) if isinstance(v, int) else v for k, v in launch.arguments.items()}
            for name, value in constants.items():
                if isinstance(value, str):
                    constants[name] = self._twins.device_function(load_reference(value))
            programs = -(-launch.lanes // options["BLOCK_MSGS"])
            with np.errstate(over="ignore"):  # hashes wrap
                kernel[(programs,)](**arguments, **constants)
