"""Aggregate functions: pure folds whose states merge in any order. `base` has their contract."""
