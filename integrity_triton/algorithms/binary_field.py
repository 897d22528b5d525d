"""Computes with polynomials over GF(2) modulo a polynomial. A polynomial is an integer whose bit k is the
coefficient of x**k."""

from __future__ import annotations


def reflected(value: int, width: int) -> int:
    """Return ``value`` with the order of its ``width`` bits reversed."""
    return int(f"{value:0{width}b}"[::-1], 2)


class BinaryField:
    """Implements arithmetic modulo a polynomial of degree ``width`` with a constant term. The residues form a
    field only if that polynomial is irreducible, but x always has an inverse."""

    def __init__(self, width: int, polynomial: int) -> None:
        """``polynomial`` is given without its highest term."""
        self.width = width
        self.modulus = 1 << width | polynomial

    def multiply(self, a: int, b: int) -> int:
        product = 0
        while b:
            if b & 1:
                product ^= a
            a <<= 1
            if a >> self.width:
                a ^= self.modulus
            b >>= 1
        return product

    def x_to(self, exponent: int) -> int:
        """Return x**exponent. The exponent may be negative, since the inverse of x is (modulus + 1) / x."""
        return self.power(2 if exponent >= 0 else self.modulus >> 1, abs(exponent))

    def power(self, base: int, exponent: int) -> int:
        """Return base**exponent for an exponent that is not negative."""
        result = 1
        while exponent:
            if exponent & 1:
                result = self.multiply(result, base)
            base = self.multiply(base, base)
            exponent >>= 1
        return result
