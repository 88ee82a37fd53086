//! Which generation of its session a launch belongs to, so that a late order about an earlier one never hits it.

use super::driver::Driver;
use crate::cgroup::Caller;
use crate::naming::SessionKey;
use crate::process;

impl Driver {
    /// The generation of a launch in this session, and whether it begins with it.
    ///
    /// Servers that end do not keep a generation: what is launched once the last of them has begun to end belongs to the
    /// next one. A launch from inside a leaf belongs to that of its own server, whatever has become of it.
    pub(super) fn generation(&mut self, key: &SessionKey, inside: Option<&Caller>) -> (u64, bool) {
        let servers = self.table.servers.values().filter(|server| server.key == *key);
        let joined = match inside {
            Some(place) => {
                servers.filter(|server| server.leaf_name == place.leaf).map(|server| server.generation).max()
            }
            None => servers.filter(|server| server.state.cause().is_none()).map(|server| server.generation).max(),
        };
        if let Some(generation) = joined {
            return (generation, false);
        }
        // Microseconds since boot: no daemon of this boot has given that number before, whatever it wrote down.
        let now = u64::try_from(process::since_boot().as_micros()).unwrap_or(u64::MAX);
        self.table.generation = now.max(self.table.generation + 1);
        (self.table.generation, true)
    }
}
