"""Stream processing on Kafka, in Python."""
