"""One worker's process: services, Faust's signals and sensors, pages, requests that go to a key's owner."""
