"""Suites that every driver of a contract must pass; each driver's own test file names its harness."""

import pytest

pytest.register_assert_rewrite("tests.contract.harness", "tests.contract.transport_contract")
