//! What a unit is called elsewhere: its cgroup and its object on the bus.

/// Below it are the objects of all units.
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// The first name on the way down that is no slice's: what is below a unit is that unit's own, whatever it is called. A name
/// that would be a file's of a controller is written with `_` before it (systemd's cg_escape).
pub(super) fn unit_below<'a>(manager: &str, cgroup: &'a str) -> Option<&'a str> {
    let below = cgroup.strip_prefix(manager)?.strip_prefix('/')?;
    let name = below.split('/').find(|name| !name.ends_with(".slice"))?;
    let is_unit = name.ends_with(".service") || name.ends_with(".scope");
    is_unit.then(|| name.strip_prefix('_').unwrap_or(name))
}

/// The path of a unit's object, in which all but letters and digits is written as `_2e` (sd_bus_path_encode(3)). The manager
/// loads a unit that is asked for by it, tells the defaults where there is nothing of it, and forgets it again; asking for
/// the path first would be one more call.
pub(super) fn unit_path(name: &str) -> String {
    let mut path = format!("{UNITS}{}", if name.is_empty() { "_" } else { "" });
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'0'..=b'9' if index > 0 => path.push(byte.into()),
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            _ => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process_is_told_by_its_cgroup() {
        const USER: &str = "/user.slice/user-1000.slice/user@1000.service";
        for (manager, cgroup, unit) in [
            ("", "/system.slice/host.service", Some("host.service")),
            ("", "/system.slice/host.service/a/b.service", Some("host.service")),
            ("", "/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("", "/user.slice/user-1000.slice/user@1000.service/app.slice/host.service", Some("user@1000.service")),
            ("", "/_memory.service", Some("memory.service")),
            ("", "/machine.slice/machine-a.slice", None),
            ("", "/a/host.service", None),
            ("", "/", None),
            (
                USER,
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-host@1.service",
                Some("app-host@1.service"),
            ),
            (USER, "/user.slice/user-1000.slice/user@1000.service", None),
            (USER, "/user.slice/user-1000.slice/user@1000.service2/host.service", None),
            (USER, "/user.slice/user-1000.slice/session-3.scope", None),
        ] {
            assert_eq!(unit_below(manager, cgroup), unit, "{manager} {cgroup}");
        }
    }

    #[test]
    fn the_path_of_a_units_object_follows_from_its_name() {
        for (name, label) in [
            ("host.service", "host_2eservice"),
            ("user@1000.service", "user_401000_2eservice"),
            ("-.slice", "_2d_2eslice"),
            ("a\\x2db.scope", "a_5cx2db_2escope"),
            ("0_9.scope", "_30_5f9_2escope"),
            ("", "_"),
        ] {
            assert_eq!(unit_path(name), format!("/org/freedesktop/systemd1/unit/{label}"));
        }
    }
}
