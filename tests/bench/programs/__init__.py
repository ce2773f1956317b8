"""The contestants: each is one program that counts the topic and reports through `tests.bench.meter`."""
