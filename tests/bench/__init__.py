"""The windowed count of streamflow beside what else could do it, on one Kafka in one run.

``python -m tests.bench`` runs it; README.md says how it measures.
"""
