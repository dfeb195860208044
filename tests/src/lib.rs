//! Integration tests, test bed and whole-system benchmarks.
