//! A program that is nothing but a launcher, for this crate's tests; `ace` has it as a hidden command.

fn main() -> std::process::ExitCode {
    ace_sandbox::launch::main()
}
