"""Public fakes and conformance suites; needs no pytest to import."""
