"""Whole clusters in one thread and in virtual time, with every fault that the transport's contract allows."""
