//! What whoever gets the command line wrong is told, by the built program.

use std::process::Command;

#[test]
fn a_usage_line_does_not_ask_for_what_the_environment_says() {
    for (words, status) in [(&["run"][..], 125), (&["end"], 2), (&["label"], 2), (&["adopt"], 2)] {
        let told = |socket: bool| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
            command.args(words).env_remove("PINFOLD_SOCKET");
            if socket {
                command.env("PINFOLD_SOCKET", "/run/pinfold/pinfold.sock");
            }
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let bare = told(false);
        assert!(bare.contains("Usage: pinfold") && !bare.contains("--socket"), "{bare}");
        assert_eq!(told(true), bare);
    }
}
