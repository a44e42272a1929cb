#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ace_gateway::fuzz::headers(bytes));
