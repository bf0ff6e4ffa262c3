"""Benchmarks of the layer and the README's tables; part of the checkout, not of the package."""
