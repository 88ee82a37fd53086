//! argv in, exit status out.

fn main() -> std::process::ExitCode {
    pinfold::cli::main()
}
