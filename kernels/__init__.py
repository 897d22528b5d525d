"""Device code: Triton functions and kernels, one file a primitive family.

Importable from a user's own kernel::

    from integrity_triton.kernels.sha2 import SHA256_IV, sha256_compress

The modules import nothing but Triton and their siblings.
"""
