//! Many launches and ends, one after the other: what the daemon holds ends where it began.

use std::process::Stdio;

use crate::hosts::{descriptors, status_field};
use crate::support::{Machine, eventually, offered, pass_over, slowness};

/// Launches that come at the same time.
const CLIENTS: usize = 8;

/// What a daemon may have more of in memory, in KiB: 200 bytes for each launch would show. An allocator gives back
/// in its own time.
const KEPT_KIB: u64 = 2048;

/// What a daemon holds that has nothing to do: its helping threads have left, and with them what each kept for its next
/// allocation. Pages of its program, which the kernel reads in and drops as it likes, do not count.
#[derive(Debug)]
struct Held {
    resident_kib: u64,
    descriptors: usize,
}

fn held_at_rest(machine: &Machine) -> Held {
    let pid = machine.daemon_pid();
    let number = |field: &str| {
        let text = status_field(pid, field);
        text.split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{field}: {text}"))
    };
    eventually("its helping threads leave", || match number("Threads") {
        1 => Ok(()),
        threads => Err(format!("it has {threads}")),
    });
    Held { resident_kib: number("RssAnon"), descriptors: descriptors(pid).len() }
}

/// Launches so many servers that exit at once, each in a session of its own, one in three with an end that is asked for.
fn launch(machine: &Machine, count: usize) {
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for number in 0..count / CLIENTS {
                    let session = format!("{client}-{number}");
                    let mut run = machine.pinfold(&["run", "--session", &session, "--server", "soak", "--"]);
                    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                    let asked = number % 3 == 0;
                    run.args(if asked { &["sleep", "1000"][..] } else { &["true"] });
                    let child = run.spawn().unwrap();
                    if asked {
                        eventually("it is ended", || {
                            let ended = machine.ask(&["end", &session, "--now"]);
                            if String::from_utf8_lossy(&ended.stdout).contains("soak") {
                                Ok(())
                            } else {
                                Err(machine.log())
                            }
                        });
                    }
                    let output = child.wait_with_output().unwrap();
                    assert!(asked || output.status.success(), "{output:?}");
                }
            });
        }
    });
    machine.expect_nothing_left();
}

#[test]
fn after_ten_thousand_launches_and_ends_the_daemon_holds_what_it_held_before() {
    if !offered() {
        return;
    }
    if slowness() > 1 {
        return pass_over("this machine is emulated, and it is about numbers");
    }
    let machine = Machine::with_config("[launches]\nburst = 'infinity'\n");
    // What the first launches make it keep belongs to the daemon.
    launch(&machine, 2000);
    let before = held_at_rest(&machine);
    launch(&machine, 10_000);
    let after = held_at_rest(&machine);
    eprintln!("{before:?}, then {after:?}");
    assert!(after.resident_kib <= before.resident_kib + KEPT_KIB, "{before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors);
}
