"""Lowering: from a student to the variants that run on devices."""
