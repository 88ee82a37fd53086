//! Memory that ran out, told with whose limit it was, also where systemd removed the leaf at once.

use crate::support::*;

const EATS: &str = "exec python3 -c 'bytearray(256 << 20); input()'";

#[test]
fn a_server_beyond_its_own_limit_is_told_although_its_scope_is_gone_at_once() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nmemory_max = '64M'\n[session]\nmemory_max = '300M'\n");
    for _ in 0..3 {
        let mut server = machine.up(&["--session", "s"], EATS);
        assert_eq!(server.exit_status(), 128 + 9);
        let told = server.stderr();
        assert!(told.contains("the server's own memory limit was reached"), "{told}; {}", machine.log());
    }
    machine.expect_nothing_left();
}

#[test]
fn a_session_beyond_its_limit_is_told_as_such() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\nmemory_max = '500M'\n[session]\nmemory_max = '80M'\n");
    let mut server = machine.up(&["--session", "s"], EATS);
    assert_eq!(server.exit_status(), 128 + 9);
    let told = server.stderr();
    assert!(told.contains("its session's memory limit was reached"), "{told}; {}", machine.log());
    machine.expect_nothing_left();
}

#[test]
fn all_sessions_beyond_the_machines_limit_are_told_as_such() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[machine]\nmemory_max = '80M'\n");
    let mut server = machine.up(&["--session", "s"], EATS);
    assert_eq!(server.exit_status(), 128 + 9);
    let told = server.stderr();
    assert!(told.contains("the memory limit of all sessions together was reached"), "{told}; {}", machine.log());
    machine.expect_nothing_left();
}
