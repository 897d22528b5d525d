"""Device code: Triton functions and kernels, with one file for each family of primitives.

The functions can be imported and called from another kernel::

    from integrity_triton.kernels.sha2 import SHA256_IV, sha256_compress

The modules import only Triton and each other.
"""
