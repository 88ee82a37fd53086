//! What a launcher's own cgroup holds it by is not shed by moving it.

use std::process::Command;

use crate::support::{Machine, attach_device_program, base, binary, offered, root_offered};

#[test]
fn a_launcher_that_would_leave_a_bpf_program_of_its_cgroup_is_refused() {
    if !offered() || !root_offered() {
        return;
    }
    let machine = Machine::new();
    // What a container runtime makes: a cgroup of the host's own, with a program for its devices.
    let container = base().join(format!("pinfold-test-{}-container", std::process::id()));
    let inside = container.join("init");
    std::fs::create_dir_all(&inside).unwrap();
    let launch = || {
        let mut sh = Command::new("sh");
        machine.point_here(&mut sh);
        sh.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&inside);
        sh.args([binary(), "run", "--", "echo", "launched"]).output().unwrap()
    };
    let free = launch();
    assert_eq!((free.status.code(), &free.stdout[..]), (Some(0), &b"launched\n"[..]), "{free:?}");
    attach_device_program(&container);
    let held = launch();
    let told = String::from_utf8_lossy(&held.stderr);
    assert_eq!((held.status.code(), &held.stdout[..]), (Some(125), &b""[..]), "{told}");
    assert!(told.contains("would free it from the BPF program (cgroup_device) of"), "{told}");
    std::fs::remove_dir(&inside).and_then(|()| std::fs::remove_dir(&container)).unwrap();
    machine.expect_nothing_left();
}
