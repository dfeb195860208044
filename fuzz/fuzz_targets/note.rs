//! The target `note`; what it does is in `osmoda_fuzz_targets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (osmoda_fuzz_targets::target("note").body)(bytes));
