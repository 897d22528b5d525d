"""Polynomials over GF(2) modulo another, as integers whose bit k is the coefficient of x**k."""

from __future__ import annotations


def reflected(value: int, width: int) -> int:
    """``value`` with its ``width`` bits in reverse order."""
    return int(f"{value:0{width}b}"[::-1], 2)


class BinaryField:
    """Arithmetic modulo a polynomial of degree ``width`` with a constant term; not a field unless it is
    irreducible, but x has an inverse."""

    def __init__(self, width: int, polynomial: int) -> None:
        """``polynomial`` is without its highest term."""
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
        """x**exponent, which may be negative: the inverse of x is (modulus + 1) / x."""
        base, result = (2, 1) if exponent >= 0 else (self.modulus >> 1, 1)
        exponent = abs(exponent)
        while exponent:
            if exponent & 1:
                result = self.multiply(result, base)
            base = self.multiply(base, base)
            exponent >>= 1
        return result
