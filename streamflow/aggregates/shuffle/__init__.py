"""The shuffle: partials go from source partitions to the owner of their group key, which closes windows."""
