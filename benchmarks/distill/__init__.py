"""Figures of distillation and evaluation on real data, one module for each row of the table."""
