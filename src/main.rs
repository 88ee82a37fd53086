//! argv in, exit status out.

fn main() -> std::process::ExitCode {
    // What cargo builds for tests unwinds, whatever its profile says: here a panic ends a daemon as it does everywhere else.
    #[cfg(panic = "unwind")]
    {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            std::process::abort();
        }));
    }
    pinfold::cli::main()
}
