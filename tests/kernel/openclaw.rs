//! OpenClaw 2026.9 launches through helper processes of real Node: gateway → broker → relay → anchor, in a terminal session
//! of its own → launcher, with a fourth descriptor beside its stdio.

use nix::sys::signal::Signal;

use crate::hosts::expect_gone;
use crate::ownership::session_of;
use crate::support::{Launched, Machine, eventually, lives, offered, pass_over, signal};

const GATEWAY: &str = r#"
process.title = "openclaw-gateway";
const { spawn } = require("child_process");
// Node lets go of a child's stdin when that exits, whoever else has it.
const stdin = process.env.BROKER === "leaves" ? "inherit" : "pipe";
spawn(process.execPath, [__dirname + "/process/spawn-broker/worker.js"], { stdio: [stdin, "inherit", "inherit"] });
process.stdin.on("end", () => process.exit()).resume();
"#;

/// `BROKER=leaves`: one that does not stay, so that what it started has another parent.
const BROKER: &str = r#"
const { spawn } = require("child_process");
const relay = __dirname + "/../supervisor/service-child-relay.js";
const env = { ...process.env, BROKER_PID: process.pid };
const child = spawn(process.execPath, [relay], { stdio: "inherit", detached: process.env.BROKER === "leaves", env });
child.on("spawn", () => process.env.BROKER === "leaves" && process.exit());
"#;

const RELAY: &str = r#"
const { spawn } = require("child_process");
const go = () => spawn(process.execPath, [__dirname + "/service-child-group-anchor.js"], { stdio: "inherit", detached: true });
const wait = () => (process.env.BROKER === "leaves" && process.ppid === Number(process.env.BROKER_PID) ? setTimeout(wait, 10) : go());
wait();
"#;

const ANCHOR: &str = r#"
const { spawn } = require("child_process");
const run = ["run", "--server", "fs", "--", "sh", "-c", "trap '' TERM; sleep 1000 & wait"];
const server = spawn(process.env.PINFOLD, run, { stdio: ["inherit", "ignore", "inherit", "pipe"] });
console.log(process.pid);
console.log(server.pid);
server.on("exit", () => process.exit());
"#;

/// A gateway with its helpers, the pid of the anchor, and that of the server. None where there is no Node.
fn gateway(machine: &Machine, broker: &str) -> Option<(Launched, i32, i32)> {
    if std::process::Command::new("node").arg("--version").output().is_err() {
        pass_over("it is about a host on Node");
        return None;
    }
    let dist = machine.path("openclaw/dist");
    for (file, script) in [
        ("gateway.js", GATEWAY),
        ("process/spawn-broker/worker.js", BROKER),
        ("process/supervisor/service-child-relay.js", RELAY),
        ("process/supervisor/service-child-group-anchor.js", ANCHOR),
    ] {
        std::fs::create_dir_all(dist.join(file).parent().unwrap()).unwrap();
        std::fs::write(dist.join(file), script).unwrap();
    }
    let mut command = std::process::Command::new("node");
    command.arg(dist.join("gateway.js"));
    machine.point_here(&mut command);
    command.env("BROKER", broker).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut gateway = Launched::spawn(command);
    let (anchor, server) = (gateway.number(), gateway.number());
    Some((gateway, anchor, server))
}

#[track_caller]
fn expect_cause(machine: &Machine, cause: &str) {
    eventually("the cause is told", || {
        let log = machine.log();
        if log.contains(&format!("cause=\"{cause}\"")) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_killed_gateway_of_real_node_takes_along_what_its_helpers_launched() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '300ms'\n");
    let Some((gateway, anchor, server)) = gateway(&machine, "stays") else { return };
    let session = session_of(&machine, server);
    assert_eq!((&session["host"], &session["owner_pid"]), (&"openclaw".into(), &gateway.pid().into()), "{session}");
    signal(gateway.pid(), Signal::SIGKILL);
    expect_gone(server);
    expect_cause(&machine, "owner_gone");
    expect_gone(anchor);
    machine.expect_nothing_left();
}

#[test]
fn a_helper_whose_gateway_is_out_of_sight_is_the_owner_itself() {
    if !offered() {
        return;
    }
    let machine = Machine::with_config("[server]\ngrace = '300ms'\n");
    let Some((gateway, anchor, server)) = gateway(&machine, "leaves") else { return };
    let session = session_of(&machine, server);
    assert_eq!((&session["host"], &session["owner_pid"]), (&serde_json::Value::Null, &anchor.into()), "{session}");
    assert!(lives(gateway.pid()));
    signal(anchor, Signal::SIGKILL);
    expect_gone(server);
    expect_cause(&machine, "owner_gone");
    machine.expect_nothing_left();
}
