#![no_main]
//! Under libFuzzer: see the function of this name in `weft_fuzz::TARGETS`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::run("h2_fields", data));
