//! What a session's units are made with.

use std::time::Duration;

use crate::limits::{Bytes, Limit, Limits};
use crate::naming::SessionKey;
use crate::systemd::{Properties, Value};

/// Between systemd's SIGTERM and its SIGKILL, when somebody stops a session's unit. While the daemon lives it ends the
/// servers by their own grace.
const STOP_MAX: Duration = Duration::from_secs(10);

pub(super) fn slice_properties(key: &SessionKey, limits: &Limits) -> Properties {
    slice_limits(limits)
        .with("Description", Value::Text(format!("Session {key} of an AI agent")))
        .with("CollectMode", Value::Text("inactive-or-failed".into()))
}

pub(super) fn scope_properties(slice: &str) -> Properties {
    Properties::default()
        .with("Description", Value::Text("MCP servers of an AI agent's session".into()))
        .with("Slice", Value::Text(slice.to_owned()))
        .with("Delegate", Value::Flag(true))
        // The slice's limits count; systemd would set its default for every unit here.
        .with("TasksMax", Value::Number(u64::MAX))
        // What becomes of a leaf whose memory ran out is ours to decide; its siblings live on.
        .with("OOMPolicy", Value::Text("continue".into()))
        .with("CollectMode", Value::Text("inactive-or-failed".into()))
        .with("TimeoutStopUSec", Value::Number(STOP_MAX.as_micros() as u64))
}

/// The limits of a level as properties of its slice, each with its accounting, without which there are no counters.
pub(super) fn slice_limits(limits: &Limits) -> Properties {
    let bytes = |limit: Limit<Bytes>| Value::Number(limit.at().map_or(u64::MAX, |Bytes(bytes)| bytes));
    let mut properties = Properties::default()
        .with("MemoryAccounting", Value::Flag(true))
        .with("TasksAccounting", Value::Flag(true))
        .with("CPUAccounting", Value::Flag(true));
    let mut set = |name: &str, value: Option<Value>| value.into_iter().for_each(|value| properties.set(name, value));
    set("MemoryMax", limits.memory_max.map(bytes));
    set("MemoryHigh", limits.memory_high.map(bytes));
    set("MemorySwapMax", limits.memory_swap_max.map(bytes));
    set("TasksMax", limits.pids_max.map(|max| Value::Number(max.at().map_or(u64::MAX, u64::from))));
    // Percent of one CPU as microseconds for each second.
    let quota = |percent: u32| u64::from(percent) * 10_000;
    set("CPUQuotaPerSecUSec", limits.cpu_max.map(|max| Value::Number(max.at().map_or(u64::MAX, quota))));
    set("CPUWeight", limits.cpu_weight.map(|weight| Value::Number(u32::from(weight).into())));
    if limits.io_weight.is_some() {
        set("IOAccounting", Some(Value::Flag(true)));
    }
    set("IOWeight", limits.io_weight.map(|weight| Value::Number(u32::from(weight).into())));
    properties
}
