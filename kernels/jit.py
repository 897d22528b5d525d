"""The decorator of kernels, the functions that a host launches."""

import triton
import triton.language as tl


def kernel(function):
    """``triton.jit`` without specialization on the parameters that are annotated as ``tl.int64``.

    Triton would otherwise compile a kernel again for each of these that is 1 or a multiple of 16. They are
    lengths, counts and strides, which differ from batch to batch.
    """
    integers = [name for name, annotation in function.__annotations__.items() if annotation is tl.int64]
    return triton.jit(function, do_not_specialize=integers)
