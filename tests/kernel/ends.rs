//! Ends: whatever a server did to get away, nothing of it is left.

use crate::support::{Machine, lives, offered, processes};

#[test]
fn a_grandchild_that_left_the_session_of_its_terminal_ends_with_its_session() {
    if !offered() {
        return;
    }
    let machine = Machine::new();
    let mut server = machine.run(&["--session", "s"], "setsid sleep 1000 & echo $!; exec cat");
    let grandchild: i32 = server.line().parse().unwrap();
    let leaf = machine.leaf("s");
    assert_eq!(processes(&leaf).len(), 2, "server and grandchild are in the leaf");
    let output = machine.ask(&["end", "s"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!leaf.exists(), "the reply comes when the leaf is gone");
    assert!(!lives(grandchild));
    assert_eq!(server.exit_status(), 128 + 15);
    machine.expect_nothing_left();
}
