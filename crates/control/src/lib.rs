#![forbid(unsafe_code)]
mod changes;
mod config;
mod plan;
mod records;
mod refusal;
mod rows;
mod state;
#[cfg(test)]
mod testing;
