//! The bus dies and comes back.
//!
//! Tests are run in the order of their names, and this one is to be the last: before systemd 257 a user's manager does not
//! come back to the system bus, over which it has processes moved that stand outside its own cgroups.

use crate::manager::survived;
use crate::support::*;

#[test]
fn a_restarted_bus_is_found_again_and_what_it_tells_is_heard() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[session]\nmemory_max = '300M'\n[server]\nmemory_max = '100M'\n");
    let _one = machine.up(&["--session", "s"], "exec cat");
    systemctl(&["kill", "--signal=KILL", "dbus.service"]);
    eventually("the bus is back", || {
        let state = property("dbus.service", "ActiveState");
        if state == "active" {
            Ok(())
        } else {
            systemctl(&["start", "dbus.service"]);
            Err(state)
        }
    });
    eventually("the daemon is connected again", || {
        let log = machine.log();
        if log.contains("connected to the") { Ok(()) } else { Err(log) }
    });
    survived(&machine);
}
